"""Line edits against the filters they stand for, written as regular expressions one after the other."""

from __future__ import annotations

import re
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.edits import apply_edits
from curation.measure.line_edits import LINE_RULES, line_spans, newline_spans
from curation.measure.unicode import FLAGS
from curation.measure.unicode_words import count_words
from curation.measure.utf8 import text_buffers
from tests.curation.test_measure import unicode_words

COUNTER = re.compile(
    r"^\W*\d(?:,|\.|\d)*[kmb]?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes"
    r"|downloads|views|followers)\W*$",
)
PHRASES = (
    (re.compile(r"\s?(?:items in cart)\s?"), " "),
    (re.compile(r"\s?(?:Read more\.\.\.)$"), ""),
    (re.compile(r"^(?:Sign-in)\s?"), ""),
)


def as_in_rust(character: str) -> str:
    """A stand-in of the kind that a character has for the \\W of Rust's regex: marks are of words, "²" is not."""
    category = unicodedata.category(character)
    return "¤" if category in ("Nl", "No") else "_" if category[0] == "M" else character


def drops(line: str) -> bool:
    if not line:
        return False
    upper, digits = sum(map(str.isupper, line)), sum(unicodedata.category(c) == "Nd" for c in line)
    counter = COUNTER.search("".join(map(as_in_rust, line.lower())))
    return upper > len(line) / 2 or digits == len(line) or bool(counter) or len(unicode_words(line)) < 2


def reference(text: str) -> str:
    """The filters of the configuration in turn, each on what the one before it gave."""
    lines = [line for line in text.split("\n") if not drops(line)]
    for pattern, replacement in PHRASES:
        cut = [
            pattern.sub(replacement, line) if line and len(unicode_words(line)) <= 10 else line for line in lines
        ]
        lines = [new for old, new in zip(lines, cut, strict=True) if not old or new.strip()]
    return "\n".join(lines)


def edited(text: str, find=line_spans) -> str:
    texts = pa.array(["", text, "x"], pa.large_string())
    spans = find(texts)
    spans.validate(full=True)
    return apply_edits(texts, spans)[1].as_py()


PIECES = (
    "items in cart", "Read more...", "Read more", "Sign-in", "SIGN-IN", " ", "  ", "\n", "\n\n", "\n\n\n",
    "\u00a0", "1,234", "12", "3.5k", "K", "likes", "Views", "followers!", "—", "word", "two words", "ÀÉ", "é",
    "東京", "...", "a b c d e f g h", "_", "7 likes", "²", "\x1c", "٣",
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=16).map("".join))
@example("Sign-in items in cart Read more...")
@example("Sign-in Read more...")
@example("x items in cart Read more...")
@example("items in cart items in cart y")
@example("one two three four five six seven eight items in cart")  # 11 words
@example("keep this\nDROP")
@example("DROP\nDROP\n\nkeep this\nDROP\n")
@example("DROP\nGONE")
@example("7 likes²")
def test_the_edited_text_is_that_of_the_filters(text):
    text = text.replace("\r", " ")
    assert edited(text) == reference(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["\n", "\n\n", "\r\n", "a", "é"]), max_size=20).map("".join))
def test_newlines_are_collapsed_to_two(text):
    assert edited(text, newline_spans) == re.sub(r"\n{3,}", "\n\n", text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES[:7] + PIECES[8:9] + PIECES[11:]), max_size=8).map(" ".join))
def test_carriage_returns_belong_to_line_ends(text):
    """What happens to lines does not depend on how they end; lines that stay keep their ends."""
    unix = "keep this\n" + text + "\nkeep that"
    assert edited(unix.replace("\n", "\r\n")) == edited(unix).replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("HELLO World", "uppercase_line"),
        ("12345", "numeric_line"),
        ("» 1,204 Likes «", "counter_line"),
        ("12.5k   followers", "counter_line"),
        ("Contact", "short_line"),
        ("   ", "short_line"),
        ("0 items in cart", "items_in_cart"),
        ("and so on Read more...", "read_more"),
        ("Sign-in to vote", "sign_in"),
        ("ΕΛΛΑΔΑ χώρα", "uppercase_line"),
    ],
)
def test_each_rule_names_itself(line, rule):
    assert [
        span["rule"] for span in line_spans(pa.array([f"keep this\n{line}"], pa.large_string()))[0].as_py()
    ] == [rule]
    assert rule in LINE_RULES


@pytest.mark.parametrize(
    "line", ["12 34", "12 likes and shares", "likes 12", "Hello THERE, all", "12 like", "a read more..."]
)
def test_lines_that_stay(line):
    assert edited(line) == line


@settings(deadline=None, max_examples=300)
@given(
    st.text(st.sampled_from("ab1.,'’·_ \u0301東あア\n-²") | st.characters(exclude_categories=["Cs"]), max_size=30)
)
def test_words_one_by_one_are_those_of_the_definition(text):
    data, offsets = text_buffers(pa.array([text], pa.large_string()))
    out = pa.array([0], pa.int64()).to_numpy().copy()
    count_words(data, offsets, FLAGS, out)
    assert out[0] == len(unicode_words(text))
