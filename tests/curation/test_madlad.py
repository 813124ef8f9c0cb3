"""MADLAD's sentence rules against the same rules as regular expressions."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from curation.measure.cursed import ENDINGS, PATTERNS, STRINGS
from curation.measure.madlad import COUNTS, GROUP, lower_mask
from curation.measure.unicode import FLAGS, UPPER
from tests.curation.test_measure import unicode_words

CURSED = [
    re.compile(pattern)
    for pattern in (*map(re.escape, STRINGS), *(one.replace("$", r"\Z") for one in ENDINGS), *PATTERNS)
]


def reference(text: str) -> dict[str, float | None]:
    sentences = [piece for piece in re.split(r"[.!?]+\s+", text) if piece.strip()]
    flagged = {"madlad_sentences": len(sentences)}
    words = [unicode_words(sentence) for sentence in sentences]
    rule_2 = [len(one) >= 12 and sum(word[0].isupper() for word in one) > len(one) / 2 for one in words]
    rule_5 = [any(pattern.search(sentence) for pattern in CURSED) for sentence in sentences]
    technical = [sum(c in "0123456789{}+/()>" for c in sentence) > len(sentence) / 5 for sentence in sentences]
    flagged["madlad_list_case"] = sum(rule_2)
    flagged["madlad_odd_length"] = sum(not 20 <= len(sentence) <= 500 for sentence in sentences)
    flagged["madlad_technical"] = sum(technical)
    flagged["madlad_cursed"] = sum(rule_5)
    either = sum(a or b for a, b in zip(rule_2, rule_5, strict=True))
    flagged["madlad_flagged_share"] = either / len(sentences) if sentences else None
    return flagged


def measured(text: str) -> dict[str, float | None]:
    texts = pa.array(["", text, "x. "], pa.large_string())
    columns = GROUP.measure(pa.table({"text": texts}), texts)
    return {name: column[1].as_py() for name, column in columns.items()}


PIECES = (
    ".", "! ", "? ", "...", " ", "\n", "\u00a0", " nr.", "|", " кг. ", " г.", "г.", " Vol.1", " Ep.2", "Vol",
    " sex ", "orem ipsum ", "mp3", "\ufffd", "abc", " abc", " abcd", " é東x", " a", " é",
    ", ab, cd, ef, gh,", ", ab,, cd,", " ..,",    "Title ", "lower ", "1+2", "黄色电影",
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join))
@example(" abc" * 9)
@example(" abc" * 8 + " ab")
@example(" abc" * 8 + " ab\n")
@example("x" + " abcd" * 9)
@example(" abc" * 4 + "\n" + " abc" * 8)
@example(" a" * 9)
@example(" a" * 4 + "  a" + " a" * 8)
@example(" a" * 8 + " ")
@example("Title " * 7 + "lower " * 5)
@example("Title " * 6 + "lower " * 6)
@example("first! , ab, cd,, ef, gh,")
@example("a last sentence nr.")
@example("a last sentence | \n")
@example("с весом 3 кг. ")
def test_the_counts_are_those_of_the_rules(text):
    assert measured(text) == reference(text)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 3),
    st.sampled_from([" abc", " abcd", " é東x", " a", " . .", " ..,", "Title "]),
    st.integers(7, 13),
)
def test_long_runs(before, piece, times):
    assert measured("x" * before + piece * times) == reference("x" * before + piece * times)


@pytest.mark.parametrize("string", STRINGS)
def test_each_string_is_found(string):
    assert measured(f"nothing here. well x{string}y and more. nothing there.")["madlad_cursed"] == 1
    assert measured(f"nothing here. well x{string[:-1]}")["madlad_cursed"] == 0


def test_no_character_that_is_taken_for_lowercase_is_uppercase():
    points = [point for point in range(0x80, 0x110000) if not 0xD800 <= point < 0xE000]
    encoded = np.frombuffer("".join(chr(point).ljust(64, "\0") for point in points).encode("utf-8"), np.uint8)
    starts = np.cumsum([0] + [len(chr(point).encode()) + 63 for point in points[:-1]])
    found = np.zeros(len(points), np.bool_)
    _taken_for_lowercase(encoded, starts, found)
    assert not (FLAGS[points][found] & UPPER).any()
    assert found.sum() > 40_000


@njit
def _taken_for_lowercase(data, starts, out):
    for number in range(len(starts)):
        out[number] = lower_mask(data, starts[number]) & np.uint64(1) != 0


def test_the_columns_are_those_of_the_group():
    assert list(GROUP.columns) == [*COUNTS, "madlad_flagged_share"] == list(measured("a"))
