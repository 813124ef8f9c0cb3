"""Templates of promptsource: what upstream rendered comes out, and nothing in a file is executed."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from jinja2 import BaseLoader, Environment

from curation.config import ConfigError
from curation.derive.draws import Draws
from curation.derive.promptsource import RenderError, Templates

DATA = Path(os.environ.get("MIXWRIGHT_DATA", ""))
FOLDER = DATA / "instructions/promptsource"
P3 = DATA / "instructions/t0-p3-sample.jsonl.zst"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason="MIXWRIGHT_DATA does not name the real data")
DRAWS = Draws("0" * 32, "test")

FILE = """
dataset: reviews
templates:
  b5: !Template
    answer_choices: bad ||| good
    id: b5
    jinja: '{{text}} Good or bad? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: true
      original_task: true
    name: choices
    reference: ''
  a1: !Template
    answer_choices: null
    id: a1
    jinja: "{% if label == 1 %}Praise it.{% else %}Pan it.{% endif %} ||| {{ text }}"
    metadata: !TemplateMetadata
      choices_in_prompt: null
      original_task: false
    name: inverted
    reference: ''
"""


def templates(tmp_path, text: str = FILE) -> dict:
    path = tmp_path / "templates.yaml"
    path.write_text(text, encoding="utf-8")
    return {template.name: template for template in Templates(path).all}


def of_jinja(tmp_path, jinja: str, choices: str | None = None):
    entry = {"jinja": jinja, "answer_choices": choices, "name": "one"}
    return templates(tmp_path, yaml.safe_dump({"templates": {"x": entry}}))["one"]


def test_a_file_is_read(tmp_path):
    found = templates(tmp_path)
    assert list(found) == ["choices", "inverted"]
    assert [(one.inverted, one.shows_choices, one.has_choices) for one in found.values()] == [
        (False, True, True),
        (True, False, False),
    ]
    rendered = found["choices"].render({"text": " fine ||| film ", "label": 1}, DRAWS)
    assert (rendered.input, rendered.target) == ("fine ||| film  Good or bad?", "good")
    assert rendered.choices == ["bad", "good"]
    assert found["inverted"].render({"text": "dull", "label": 0}, DRAWS).input == "Pan it."


def test_a_template_that_gives_no_target_gives_nothing(tmp_path):
    template = of_jinja(tmp_path, "{% if label %}ask ||| yes{% endif %}")
    assert template.render({"label": 0}, DRAWS) is None
    assert template.render({"label": 1}, DRAWS).target == "yes"


def test_choices_are_drawn_by_document(tmp_path):
    template = of_jinja(tmp_path, "ask ||| {{ answers | choice }}")
    said = [template.render({"answers": list("abcd")}, Draws(f"{n:032x}", "choice")).target for n in range(40)]
    again = [template.render({"answers": list("abcd")}, Draws(f"{n:032x}", "choice")).target for n in range(40)]
    assert said == again
    assert set(said) == set("abcd")


@pytest.mark.parametrize(
    "jinja",
    [
        "{{ text.__class__ }}",
        "{{ text.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ text | attr('__class__') }}",
        "{{ text.format(text) }}",
        "{{ '%s' % text }}",
        "{{ text.encode() }}",
        "{{ items.append(1) }}",
        "{{ items.pop() }}",
        "{{ table.update(a=1) }}",
        "{{ self.__init__ }}",
        "{{ zip.__self__ }}",
        "{{ loop.__init__ }}",
        "{% for i in items %}{{ loop.nextitem }}{{ loop.__class__ }}{% endfor %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum() }}",
        "{{ text * 1000000000 }}",
        "{{ items * 1000000000 }}",
        "{{ 9 ** 99999999 }}",
        "{{ range(100000000) | list }}",
        "{% for i in range(9999) %}{{ text }}{{ text }}{% endfor %}",
        "{{ text.ljust(1000000000) }}",
        "{{ text | center(1000000000) }}",
        "{{ missing }}",
    ],
)
def test_tricks_are_errors(tmp_path, jinja):
    """Each is refused when the file is read or when the template is filled, and nothing is changed."""
    items = [1]
    example = {"text": "t" * 100, "items": items, "table": {}}

    def fill():
        return of_jinja(tmp_path, jinja + " ||| x").render(example, DRAWS)

    with pytest.raises((RenderError, ConfigError), match="template"):
        fill()
    assert items == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templates: {a: !!python/object/apply:os.system ['touch /tmp/x']}", "could not determine a constructor"),
        ("templates: {a: !Other {jinja: x}}", "could not determine a constructor for the tag '!Other'"),
        ("templates: 5", "expected `templates`, a mapping"),
        ("templates: {}", "no template in it"),
        ("templates: {a: {jinja: 5}}", "template 'a': expected jinja"),
        ("templates: {a: {jinja: '{% if x %}'}}", "template 'a', line 1 of the template: Unexpected end"),
        ("templates: {a: [", "not a file of templates"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        templates(tmp_path, text)
    assert "templates.yaml" in str(caught.value)


@needs_data
def test_every_published_template_is_read():
    found = [template for path in sorted(FOLDER.rglob("*.yaml")) for template in Templates(path).all]
    assert len(found) == 220
    assert sum(template.inverted for template in found) == 52
    assert sum(template.shows_choices for template in found) == 102


# What upstream rendered: the T0 sample holds P3's own prompts under these templates. Examples are recovered from
# prompts by regular expressions, without Jinja, and rendered under every template of their data set.


def _cosmos(prompt: str, completion: str) -> dict | None:
    match = re.fullmatch(
        r"(.*)\nAccording to the above context, choose the best option to answer the following question\.\n"
        r"Question: (.*)\nOptions:\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)",
        prompt,
        re.DOTALL,
    )
    if match is None:
        return None
    names = ("context", "question", "answer0", "answer1", "answer2", "answer3")
    return dict(zip(names, match.groups(), strict=True)) | {"label": "ABCD".index(completion)}


def _common(prompt: str, completion: str) -> dict | None:
    match = re.fullmatch(
        r"Given the list of concepts: (.*); \nGenerate a sentence with all the concepts :", prompt
    )
    return {"concepts": match[1].split(", "), "target": completion} if match else None


def _adversarial(prompt: str, completion: str) -> dict | None:
    match = re.fullmatch(r'Question: "(.*)"\n\nContext: "(.*)"\n\nAnswer:', prompt, re.DOTALL)
    if match is None:
        return None
    answers = {"text": [completion]}
    return {"question": match[1], "context": match[2], "answers": answers, "metadata": {"split": "train"}}


# Data set, the template that examples are recovered from, templates that choose at random (another generator's
# choice is another text).
RECOVERED = [
    ("cosmos_qa", "context_description_question_answer_id", _cosmos, set()),
    ("adversarial_qa/dbert", "question_context_answer", _adversarial, set()),
    (
        "common_gen",
        "Given concepts type 1",
        _common,
        {"choice in concept centric sentence generation", "random task template prompt", "topic to sentence"},
    ),
]


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@pytest.fixture(scope="module")
def upstream() -> dict[str, set[tuple[str, str]]]:
    """(prompt, completion) of each template."""
    found = defaultdict(set)
    with pa.CompressedInputStream(pa.OSFile(str(P3)), "zstd") as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):
            row = json.loads(line)
            completion = row["completion"].removesuffix("<|endoftext|>").strip()
            found[_key(row["template"])].add((row["prompt"].strip(), completion))
    return found


@needs_data
@pytest.mark.parametrize(("dataset", "name", "recover", "by_chance"), RECOVERED, ids=[one[0] for one in RECOVERED])
def test_what_upstream_rendered_comes_out(upstream, dataset, name, recover, by_chance):
    rows = upstream[_key(f"{dataset}_{name}")]
    examples = [example for row in sorted(rows) if (example := recover(*row)) is not None]
    assert len(examples) > 190
    compared = 0
    for template in Templates(FOLDER / dataset / "templates.yaml").all:
        published = upstream.get(_key(f"{dataset}_{template.name}"))
        if published is None or template.name in by_chance:
            continue
        ours = [template.render(example, DRAWS) for example in examples]
        same = {(one.input, one.target) for one in ours if one} & published
        assert len(same) >= 0.98 * len(published), template.name
        compared += 1
    assert compared >= 5


def plain_rendering(entry: dict, example: dict) -> list[str]:
    """Promptsource's own procedure with plain Jinja, without a sandbox: an implementation beside ours."""
    environment = Environment(loader=BaseLoader())
    environment.globals.update(zip=zip)
    environment.filters["choice"] = lambda items: items[0]
    environment.filters["most_frequent"] = lambda items: [max(items, key=items.count)]
    guarded = {
        key: value.replace("|||", "#bar#") if isinstance(value, str) else value for key, value in example.items()
    }

    def parts(jinja: str, **more) -> list[str]:
        rendered = environment.from_string(jinja).render(**guarded, **more)
        return [part.replace("#bar#", "|||").strip() for part in rendered.split("|||")]

    choices = parts(entry["answer_choices"]) if entry.get("answer_choices") else None
    return parts(entry["jinja"], answer_choices=choices)


@needs_data
def test_rotten_tomatoes_is_rendered_as_by_plain_jinja():
    path = FOLDER / "rotten_tomatoes/templates.yaml"
    plain = path.read_text(encoding="utf-8").replace("!TemplateMetadata", "").replace("!Template", "")
    entries = {entry["name"].strip(): entry for entry in yaml.safe_load(plain)["templates"].values()}
    with gzip.open(DATA / "instructions/rotten_tomatoes.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    rows = [*random.Random(1).sample(rows, 200), {"text": "a ||| b {{ text }} {% raw %}", "label": 1}]
    found = Templates(path).all
    assert len(found) == len(entries) == 10
    for template in found:
        for row in rows:
            ours = template.render(row, DRAWS)
            assert [ours.input, ours.target] == plain_rendering(entries[template.name], row)
