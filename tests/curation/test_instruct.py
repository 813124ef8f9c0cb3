"""Examples as instructions: templates, exemplars, options, inverted ones; caps and clusters."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from curation.catalog import catalog
from curation.config import ConfigError
from curation.derive.config import Tasks
from curation.derive.instruct import instruct
from curation.tokens import count_tokens

TEMPLATES = """
templates:
  shown: {jinja: "{{question}} Yes or no? ||| {{answer}}", answer_choices: yes ||| no,
          metadata: {choices_in_prompt: true, original_task: true}}
  open: {jinja: "{{question}} So? ||| {{answer}}", answer_choices: "yes ||| no", metadata: {original_task: true}}
  bare: {jinja: "Say: {{question}} ||| {{answer}}", answer_choices: "yes ||| no", metadata: {original_task: true}}
  turned: {jinja: "What is {{answer}}? ||| {{question}}", metadata: {original_task: false}}
"""


def examples(task: str, count: int) -> list:
    return [[("user", f"{task} claim {n}."), ("assistant", "yes" if n % 2 else "no")] for n in range(count)]


class Made:
    """A derived source, its documents and the account of its tasks."""

    def __init__(
        self, stations, sizes: dict[str, int], holdouts: dict | None = None, text: str = TEMPLATES, **more
    ):
        for name, size in sizes.items():
            if name not in stations.pools:
                stations.pool(name, examples(name, size), shards=2)
        folder = stations.ctx.workspace
        (folder / "tasks.yaml").write_text(text.replace("yes ||| no,", '"yes ||| no",'), encoding="utf-8")
        tasks = [{"source": n, "task": n, "cluster": f"c-{n}", "templates": "tasks.yaml"} for n in sizes]
        config = {"name": "tasks", "how": "templates", "from": list(sizes), "tasks": tasks, **more}
        self.config = Tasks.model_validate(config)
        self.output = instruct(
            stations.ctx,
            self.config,
            stations.pools,
            stations.measured,
            [],
            holdouts=holdouts or dict.fromkeys(sizes, 0.0),
            seed=1,
            folder=folder,
        )
        self.rows = [row for path in self.output.shards() for row in pq.read_table(path).to_pylist()]
        self.about = [json.loads(row["metadata"]) for row in self.rows]
        self.mixture = {
            row["task"]: row for row in pq.read_table(self.output.folder / "mixture.parquet").to_pylist()
        }

    def said(self) -> list[tuple[str, str]]:
        return [tuple(turn["content"] for turn in row["messages"]) for row in self.rows]


def test_an_example_is_asked_once_under_a_template_that_is_drawn(stations):
    made = Made(stations, {"a": 200})
    assert len(made.rows) == 200
    assert len({about["parent"] for about in made.about}) == 200
    templates = Counter(about["template"] for about in made.about)
    assert set(templates) == {"shown", "open", "bare", "turned"}
    assert all(30 <= count <= 75 for count in templates.values())
    parents = {}
    for path in stations.pools["a"].shards():
        parents |= {row["id"]: row["messages"] for row in pq.read_table(path).to_pylist()}
    for about, said in zip(made.about, made.said(), strict=True):
        question, answer = (turn["content"] for turn in parents[about["parent"]])
        wanted = {
            "shown": (f"{question} Yes or no?", answer),
            "open": (f"{question} So?", answer),
            "bare": (f"Say: {question}", answer),
            "turned": (f"What is {answer}?", question),
        }
        assert said == wanted[about["template"]]


def test_every_template_asks_every_example(stations):
    made = Made(stations, {"a": 30}, each="all")
    assert Counter((about["template"]) for about in made.about) == dict.fromkeys(
        ("shown", "open", "bare", "turned"), 30
    )


def test_a_cap_is_that_of_flan(stations):
    sizes = {"a": 90, "b": 40, "c": 7}
    made = Made(stations, sizes, cap=40)
    assert Counter(about["task"] for about in made.about) == {"a": 40, "b": 40, "c": 7}
    for name, size in sizes.items():
        row = made.mixture[name]
        assert (row["examples"], row["used"], row["documents"]) == (size, min(size, 40), min(size, 40))
        assert row["share"] == pytest.approx(min(size, 40) / (40 + 40 + 7))
    assert made.output.counts["skipped_by_reason"] == {"over the cap": 50}
    # A larger cap keeps what a smaller one took.
    more = Made(stations, sizes, cap=60)
    assert {about["parent"] for about in made.about} < {about["parent"] for about in more.about}


def test_a_cap_on_every_template_is_that_of_t0(stations):
    made = Made(stations, {"a": 90, "b": 40}, cap=60, each="all")
    counts = Counter((about["task"], about["template"]) for about in made.about)
    names = ("shown", "open", "bare", "turned")
    assert counts == {**{("a", name): 60 // 4 for name in names}, **{("b", name): 40 for name in names}}


def test_exemplars_are_solved_examples_of_the_task(stations):
    made = Made(stations, {"a": 120, "b": 60}, exemplars={"rate": "50%", "most": 3}, inverted=0)
    counts = Counter(len(about["exemplars"]) for about in made.about)
    assert 60 <= counts[0] <= 120
    assert set(counts) == {0, 1, 2, 3}
    for about, (asked, _) in zip(made.about, made.said(), strict=True):
        parts = asked.split("\n\n")
        assert len(parts) == len(about["exemplars"]) + 1
        assert about["parent"] not in about["exemplars"]
        assert len(set(parts)) == len(parts)
        for part in parts[:-1]:
            question, answer = part.rsplit("\n", 1)
            assert about["task"] in question.split()[0:2]
            number = int("".join(filter(str.isdigit, question)))
            assert answer == ("yes" if number % 2 else "no")


def test_exemplars_stay_within_their_room(stations):
    made = Made(stations, {"a": 60}, exemplars={"rate": 1, "most": 8, "characters": 60}, inverted=0)
    lengths = [len(asked) for asked, _ in made.said()]
    assert max(lengths) <= 60 + 40 + 8
    assert all(len(about["exemplars"]) <= 3 for about in made.about)


@pytest.mark.parametrize("share", [0, 1])
def test_options_are_shown_or_not(stations, share):
    made = Made(stations, {"a": 80}, options=share, inverted=0)
    for about, (asked, _) in zip(made.about, made.said(), strict=True):
        assert about["options"] == bool(share)
        if about["template"] != "shown":
            assert asked.endswith("\nOptions:\n- yes\n- no") == bool(share)
        else:
            assert share


@pytest.mark.parametrize(("share", "low", "high"), [(0, 0, 0), (0.3, 40, 80), (1, 200, 200)])
def test_so_many_are_inverted(stations, share, low, high):
    made = Made(stations, {"a": 200}, inverted=share)
    assert low <= sum(about["inverted"] for about in made.about) <= high


def test_a_cluster_is_held_out_whole(stations, tokenizer):
    made = Made(stations, {"a": 40, "b": 30}, held_out=["c-b"])
    assert made.mixture["b"]["held_out"]
    assert made.mixture["a"]["share"] == 1.0
    stations.pools["tasks"] = made.output
    from curation.measure.station import measure

    measured = measure(stations.ctx, made.output)
    tokens = count_tokens(stations.ctx, made.output, tokenizer)
    output = catalog(stations.ctx, made.config, made.output, measured, [], tokens, None, 7)
    rows = pq.read_table(output.folder / "catalog.parquet").to_pylist()
    assert Counter((row["topic"], row["holdout"]) for row in rows) == {("c-a", False): 40, ("c-b", True): 30}
    with pytest.raises(ValueError, match="held_out: no task is of cluster 'c-x'; there are c-a"):
        Made(stations, {"a": 40}, held_out=["c-x"])


def test_held_out_examples_are_neither_asked_nor_shown(stations):
    made = Made(stations, {"a": 90}, holdouts={"a": 0.5}, exemplars={"rate": 1})
    from curation.catalog import held_out

    held = set()
    for path in stations.measured["a"].shards():
        table = pq.read_table(path)
        out = held_out(table["group_hash"], 0.5, 1)
        held |= {one for one, is_out in zip(table["id"].to_pylist(), out, strict=True) if is_out}
    used = {about["parent"] for about in made.about} | {one for about in made.about for one in about["exemplars"]}
    assert len(held) > 20
    assert not held & used


def test_what_a_template_cannot_fill_is_quarantined(stations):
    broken = TEMPLATES + '  broken: {jinja: "{{ nothing }} ||| {{answer}}", metadata: {original_task: true}}\n'
    made = Made(stations, {"a": 100}, text=broken)
    counts = made.output.counts
    assert 5 < counts["quarantined"] < 40
    assert counts["records_read"] == 100 == counts["documents_out"] + counts["quarantined"]
    trouble = pq.read_table(made.output.folder / "quarantine.parquet").to_pylist()
    assert "template 'broken': UndefinedError: 'nothing' is undefined" in trouble[0]["error"]
    assert trouble[0]["origin"].startswith("a#")


def test_two_workers_give_the_same_bytes(make_stations):
    contents = set()
    for name, workers in (("one", 1), ("two", 2)):
        made = Made(make_stations(name, workers), {"a": 50, "b": 20}, cap=30, exemplars={}, options=0.5)
        contents.add(made.output.content)
    assert len(contents) == 1


def test_wrong_settings_are_named(stations):
    task = {"source": "a", "task": "a", "cluster": "c", "templates": "nowhere.yaml"}
    config = {"name": "t", "how": "templates", "from": ["b"], "tasks": [task]}
    with pytest.raises(ValueError, match="'from' and the sources of its tasks differ"):
        Tasks.model_validate(config)
    with pytest.raises(ValueError, match="with `each: all` every template is used"):
        Made(stations, {"a": 4}, each="all", inverted=0.5)
    made = Tasks.model_validate(config | {"from": ["a"]})
    with pytest.raises(ConfigError, match="cannot be read"):
        instruct(stations.ctx, made, {}, {}, [], holdouts={"a": 0}, seed=1, folder=stations.ctx.workspace)
