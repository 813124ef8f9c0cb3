"""The Unicode tables against Python's own string methods, for every code point."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from curation.measure import unicode
from curation.measure.unicode import DIGIT, FLAGS, LETTER, LOWER, MARK, NUMBER, PUNCTUATION, SOLO, SPACE, UPPER

CHARACTERS = [chr(code) for code in range(unicode.CODE_POINTS)]


def flagged(flag: int) -> np.ndarray:
    return (FLAGS & flag) != 0


@pytest.mark.parametrize(
    ("flag", "test"),
    [
        (LETTER, str.isalpha),
        (DIGIT, str.isdecimal),
        (SPACE, str.isspace),
        (UPPER, str.isupper),
        (NUMBER, lambda character: unicodedata.category(character).startswith("N")),
        (PUNCTUATION, lambda character: unicodedata.category(character).startswith("P")),
        (MARK, lambda character: unicodedata.category(character).startswith("M")),
    ],
)
def test_a_flag_is_what_python_says_of_every_character(flag, test):
    expected = np.fromiter(map(test, CHARACTERS), bool, unicode.CODE_POINTS)
    assert np.array_equal(flagged(flag), expected)


def test_lowercase_is_python_s_except_where_that_has_several_characters():
    differing = [character for character in CHARACTERS if chr(LOWER[ord(character)]) != character.lower()]
    assert differing == ["\u0130"]
    assert LOWER[0x130] == ord("i")


def test_scripts_without_spaces_are_solo_letters():
    assert flagged(SOLO)[[ord(character) for character in "日本ひ龍ไကក"]].all()
    assert not flagged(SOLO)[[ord(character) for character in "aéжאकア한٣_。"]].any()
    assert not (flagged(SOLO) & ~flagged(LETTER)).any()
    assert np.flatnonzero(flagged(SOLO)).min() >= 0x800  # three bytes: the word kernel sizes its scratch by it


def test_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        FLAGS[0] = 1
