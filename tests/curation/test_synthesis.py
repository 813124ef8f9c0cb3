"""Settings, templates and the parsing of responses, without any model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.config import ConfigError, load_config
from curation.read.record import BadRecordError
from curation.synthesis.config import Synthesis
from curation.synthesis.parse import parse_response
from curation.synthesis.template import RenderError, Template, load_template

ENDPOINT = {"kind": "endpoint", "url": "http://localhost/v1/completions", "model": "m"}


def config_of(**changes) -> Synthesis:
    base = {"name": "made", "from": ["web"], "template": "{{ text }}", "generator": ENDPOINT}
    return Synthesis(**{**base, **changes})


def chat_config(**parse) -> Synthesis:
    return config_of(kind="chat", parse=parse)


def turns(document) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in document.messages]


def test_a_text_is_the_whole_response():
    assert parse_response(config_of(), "p", "\n a text \n").text == "a text"
    whole = parse_response(chat_config(how="whole"), "the prompt", " an answer")
    assert turns(whole) == [("user", "the prompt"), ("assistant", "an answer")]


def test_turns_by_separator_and_by_pattern():
    by_separator = chat_config(how="turns", separator="###")
    assert turns(parse_response(by_separator, "", "Who? ### Me. ### Why? ### So.")) == [
        ("user", "Who?"),
        ("assistant", "Me."),
        ("user", "Why?"),
        ("assistant", "So."),
    ]
    by_pattern = chat_config(how="turns", pattern=r"(?m)^(?:Q|A):")
    assert turns(parse_response(by_pattern, "", "Q: Who?\nA: Me.\n")) == [("user", "Who?"), ("assistant", "Me.")]


def test_cards_a_line():
    config = chat_config(how="cards", question="front", answer="back")
    response = '```json\n{"front": "1+1?", "back": "2"}\n\n{"front": "2+2?", "back": " 4 "}\n```\n'
    parsed = turns(parse_response(config, "", response))
    assert parsed == [("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"), ("assistant", "4")]


@pytest.mark.parametrize(
    ("parse", "response", "message"),
    [
        ({"how": "whole"}, " \n", "empty"),
        ({"how": "turns", "separator": "#"}, "a # b # c", "3 turns"),
        ({"how": "turns", "separator": "#"}, "a # # c # d", "turn 2 of 4 is empty"),
        ({"how": "turns", "separator": "#"}, "all one", "1 turns"),
        ({"how": "cards"}, '{"question": "a", "answer": "b"}\n{"question": "c", "ans', "line 2 is no card"),
        ({"how": "cards"}, '{"question": "a", "answer": 3}', "'answer' is a number"),
        ({"how": "cards"}, '["a", "b"]', "line 1 is no card"),
        ({"how": "cards"}, '{"question": "a", "answer": " "}', "empty"),
        ({"how": "cards"}, "```\n```", "no cards"),
        ({"how": "cards"}, "[" * 100_000, "line 1 is no card"),
        ({"how": "cards"}, "__import__('os').system('true')", "line 1 is no card"),
    ],
)
def test_what_cannot_be_parsed_says_why(parse, response, message):
    with pytest.raises(BadRecordError, match=message):
        parse_response(chat_config(**parse), "p", response)


@given(
    st.text(),
    st.sampled_from([{"how": "cards"}, {"how": "turns", "separator": "#"}, {"how": "turns", "pattern": "[QA]:"}]),
)
def test_any_response_gives_whole_pairs_of_turns_or_an_error(response, parse):
    try:
        messages = turns(parse_response(chat_config(**parse), "p", response))
    except BadRecordError:
        return
    assert [role for role, _ in messages] == ["user", "assistant"] * (len(messages) // 2)
    assert all(content.strip() for _, content in messages)


def test_a_template_knows_its_variables():
    template = Template(
        "{{ id }}/{{ source }}/{{ metadata.title }}: {{ text }}{% for n in range(2) %}!{% endfor %}", "t"
    )
    assert template.render("T", "i", "s", {"title": "Ä"}) == "i/s/Ä: T!!"


def test_template_errors_name_file_line_and_variable(tmp_path):
    path = tmp_path / "cards.j2"
    path.write_text("Fine {{ text }}\n{{ texxt }}", encoding="utf-8")
    config = config_of(template=None, template_file="cards.j2")
    with pytest.raises(ConfigError, match=r"cards\.j2: no variable 'texxt'"):
        load_template(config, tmp_path)
    path.write_text("one\n{% if text %}\nthree", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cards\.j2, line \d"):
        load_template(config, tmp_path)
    with pytest.raises(ConfigError, match=r"template_file .*missing\.j2"):
        load_template(config_of(template=None, template_file="missing.j2"), tmp_path)
    with pytest.raises(RenderError, match=r"^t: UndefinedError: .*'title'"):
        Template("{{ metadata.title }}", "t").render("T", "i", "s", {})


@pytest.mark.parametrize(
    "text",
    [
        "{{ text.__class__.__mro__ }}",
        "{{ metadata.update({'a': 1}) }}",
        "{{ ''.__init__.__globals__ }}",
        "{{ range(10**9) | list }}",
    ],
)
def test_a_template_stays_in_its_sandbox(text):
    with pytest.raises(RenderError):
        Template(text, "t").render("T", "i", "s", {})


def test_a_document_is_no_template():
    assert Template("{{ text }}", "t").render("{{ id }}{% raise %}", "i", "s", {}) == "{{ id }}{% raise %}"


@pytest.mark.parametrize("text", ["{{ lipsum() }}", "{{ [1, 2] | random }}"])
def test_a_template_has_no_chance_in_it(text):
    with pytest.raises(ConfigError, match=r"lipsum|random"):
        Template(text, "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template_file": "x"}, "one of template and template_file"),
        ({"template": None}, "one of template and template_file"),
        ({"parse": {"how": "cards"}}, "gives chat, but kind is text"),
        ({"parse": {"how": "turns"}}, "one of separator and pattern"),
        ({"kind": "chat", "parse": {"how": "turns", "pattern": "("}}, "no regular expression"),
        ({"cut": {"tokens": 5}}, "needs a local model"),
        ({"from": ["web", "web"]}, "twice"),
        ({"from": []}, "at least 1"),
        ({"filter": {"words": {}}}, "min, max or keep_in"),
        ({"generator": {"kind": "oracle"}}, "oracle"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(**changes)


def test_a_pipeline_file_reads_it(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: cards\nkind: chat\nfrom: [web]\ndocuments: 2K\n"
        "filter: {language: {keep_in: [en]}, words: {min: 50, max: 500}}\n"
        "template: |\n  Make cards of {{ text }}\ncut: {characters: 4K}\nparse: {how: cards}\n"
        "generator: {kind: transformers, model: folder}\nsampling: {temperature: 0.7}\n",
        encoding="utf-8",
    )
    config = load_config(path, Synthesis)
    assert (config.parents, config.documents, config.cut.characters) == (("web",), 2000, 4000)
    assert [rule.measurement for rule in config.profile_of_filter().rules] == ["language", "words", "words"]
