"""The profile `fineweb`: its filters one after another and its replacement of addresses, as datatrove 0.10.1."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.edits import apply_edits
from curation.measure.c4_edit import c4_spans_any_end
from curation.measure.columns import text_columns
from curation.measure.datatrove import GROUP
from curation.measure.datatrove_pii import EMAILS, IPS
from curation.measure.editors import EDITORS
from curation.rules.profile import apply, load_profile

PROFILE = load_profile("fineweb")
RULES = tuple(rule for rule in PROFILE.rules if "as datatrove" in rule.source)  # neither URLs nor languages
LEFT = ("lines", "terminal_line_share", "short_line_share", "dup_line_char_share", "newline_ratio")
OF_TEXT = ("fineweb_lines", *(f"fineweb_{name}" for name in LEFT[1:]))

LONG = "a line that goes on for more than thirty characters and then {}"
SHORT = ["Oak", "Elm", "Ash", "Yew", "Fir", "Pine", "Birch", "Maple", "Cedar", "Holly", "Rowan", "Willow", "Hazel"]
SHORT += ["Alder"]
LINES = [LONG.format(word) for word in ("the end", "be done", "to rest", "of it all", "and more", "that much")]
SAID = "Here is one thing. There is the other. It has to be so. They have that. We go with it."


def measured(texts: list[str]) -> pa.Table:
    array = pa.array(texts, pa.large_string())
    return pa.table({**GROUP.measure(None, array), "chars": text_columns(array)["chars"]})


def reason(text: str) -> str | None:
    return apply(PROFILE.model_copy(update={"rules": RULES}), measured([text]))[1][0].as_py()


def edited(text: str, name: str) -> str:
    array = pa.array([text], pa.large_string())
    return apply_edits(array, EDITORS[name](array))[0].as_py()


BASE = """Last winter the old mill by the river was sold to a family from the north, and nobody knew them.
They came with two carts, a grey horse and more books than anyone in our village had ever seen together.
My mother baked bread for their first evening; I was sent to carry it across the frozen meadow.
A tall woman opened, laughed at my red nose, and asked whether children here had learned to read.
Some of us had. That answer seemed to please her, so next Sunday she let everyone choose one volume.
Spring turned the wheel again, flour dust hung over every page, yet no story was ever lost."""


def prose(lines: list[str]) -> str:
    """Text that every filter keeps, with lines behind it."""
    return "\n".join([BASE, *lines])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (LINES[:2], None),  # lines need no terminal punctuation here
        (["the be {"] * 1, "curly_bracket"),
        (["lorem ipsum dolor"], "lorem_ipsum"),
        (["use cookies here {"], "curly_bracket"),  # the bracket is tested before the policy
        (["my javascript {"], None),  # javascript before the bracket
        (["a {"], None),  # too few words before the bracket
        ([f"{word} is short." for word in SHORT], "short_line_ratio"),
        ([f"{word} short." for word in SHORT], None),  # lines of two words are gone before they are counted
        (["a line that is found here twice"] * 2, "char_dup_ratio"),
        (["Readmoreofit Commentsonit"] * 2, None),  # a repeated line, but not of those that C4 leaves
    ],
)
def test_each_filter_looks_at_what_the_one_before_it_leaves(lines, expected):
    assert reason(prose(lines)) == expected


def test_a_short_document_is_told_by_repetition_first_as_in_fineweb_s_order():
    assert reason("hello world") == "top_2_gram"
    assert reason("") == "empty"


def test_few_lines_that_end_well_are_found_after_c4():
    ends = [f"{line} {number}" for number, line in enumerate(LINES * 9)]
    text = "\n".join([*ends, SAID])
    share = measured([text])["fineweb_left_terminal_line_share"][0].as_py()
    assert share == pytest.approx(1 / 55)
    assert measured([text])["c4_lines"][0].as_py() == 1
    assert measured([text])["c4_any_end_lines"][0].as_py() == 55


PIECES = [*SAID.split(), "[1]", "[edit]", "[", "]", "the", "no", "é", "日本", "javascript", "end", "x" * 40]
GAPS = [" "] * 6 + ["\n", "\n", "\n\n", "\r\n", "\x85", "  ", "\t"]
TEXT = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(GAPS)), max_size=60)


@settings(deadline=None, max_examples=150)
@given(TEXT)
def test_what_is_measured_of_the_text_left_is_what_is_measured_of_that_text(pieces):
    """One pass over the tokens of the whole text, against a second pass over the edited text."""
    texts = pa.array(["".join(piece + gap for piece, gap in pieces)], pa.large_string())
    once, again = measured(texts.to_pylist()), measured(apply_edits(texts, c4_spans_any_end(texts)).to_pylist())
    for left, whole in zip((f"fineweb_left_{name}" for name in LEFT), OF_TEXT, strict=True):
        assert once[left][0].as_py() == pytest.approx(again[whole][0].as_py()), left


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One of these. [1]\nand the second [edit] \u2003\n", "One of these. \nand the second"),
        (
            "[1] [2] [3]\nThe first line\n[4] [5] [6]\nthe last line\n[7] [8] [9]",
            "The first line\n  \nthe last line",
        ),
        ("[1] [2] [3]\n[4] [5] [6]", ""),
        ("nothing\n[1] [2] [3]\nnothing", ""),
        ("the last [1] line [2]\ngoes", "the last  line"),
    ],
)
def test_blanks_that_citations_leave_around_the_text_go(text, expected):
    assert edited(text, "c4_lines_any_end") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mail a.b@c.de, then x@y.org, then z@z.com!", f"Mail {EMAILS[0]}, then {EMAILS[1]}, then {EMAILS[0]}!"),
        ("at 8.8.8.8 and 9.9.9.9", f"at {IPS[0]} and {IPS[1]}"),
        (
            "private 10.0.0.1, 127.0.0.1, 192.168.1.1 and 01.2.3.4",
            "private 10.0.0.1, 127.0.0.1, 192.168.1.1 and 01.2.3.4",
        ),
        ("1.2.3.299", f"{IPS[0]}9"),  # no bounds are asked for
        ("a..b@c.de .c@d.ee e.@f.gg h@i", f"a..{EMAILS[0]} .{EMAILS[1]} e.@f.gg h@i"),
        ("éa@b.cd é!a@b.cd", f"éa@b.cd é{EMAILS[0]}"),  # a word boundary by Unicode
        ("a@[8.8.8.8] b@[1.2.3.x:]", f"{EMAILS[0]} {EMAILS[1]}"),
        ("a@1.2.3.4", EMAILS[0]),
        ("@b.cd a@b-.cd a@-b.cd a@b.c-", f"@b.cd a@b-.cd a@-b.cd {EMAILS[0]}-"),
    ],
)
def test_addresses_are_replaced_as_datatrove_replaces_them(text, expected):
    assert edited(text, "datatrove_pii") == expected


LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
EMAIL = re.compile(rf"\b{LOCAL}(?:\.{LOCAL})*@(?:{LABEL}\.)+{LABEL}")


@settings(deadline=None, max_examples=300)
@given(st.text("a1.@-+_é! ", max_size=30))
def test_email_addresses_are_those_of_the_pattern(text):
    numbers = iter(range(100))
    assert edited(text, "datatrove_pii") == EMAIL.sub(lambda _: EMAILS[next(numbers) % 2], text)


def test_long_runs_take_time_that_grows_with_the_text_alone():
    for text in (
        "a-" * 500_000 + "@x",
        "a@" * 500_000,
        "1." * 500_000,
        "@a." * 300_000,
        "a." * 400_000 + ".@b.cd",
    ):
        assert len(edited(text, "datatrove_pii")) > 0


def test_a_profile_that_drops_what_has_no_language():
    table = pa.table({**{name: measured([SAID])[name] for name in GROUP.columns}, "chars": [len(SAID)]})
    for language, score, kept in (("en", 0.66, False), ("en", 0.65, True), ("de", 0.9, True), (None, None, True)):
        row = table.append_column("language", pa.array([language], pa.string()))
        row = row.append_column("language_score", pa.array([score], pa.float64()))
        rules = tuple(rule for rule in PROFILE.rules if "LanguageFilter" in rule.source)
        dropped = not apply(PROFILE.model_copy(update={"rules": rules}), row)[0][0]
        assert dropped == kept
