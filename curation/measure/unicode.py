"""Unicode tables for compiled kernels: what kind of character a code point is, and its lowercase.

Built once a process from the standard library's `unicodedata`, so a kernel and plain Python agree by
construction. Pass the tables to a kernel as arguments: as globals numba would freeze them into its code.
"""

from __future__ import annotations

import unicodedata

import numpy as np

CODE_POINTS = 0x110000

LETTER = 1  # general category L*: `str.isalpha`
DIGIT = 2  # general category Nd: `str.isdecimal`
NUMBER = 4  # general category N*: digits, letter numbers and other numbers
SPACE = 8  # `str.isspace`
PUNCTUATION = 16  # general category P*
UPPER = 32  # `str.isupper`
MARK = 64  # general category M*: combining marks
SOLO = 128  # a letter of a script written without spaces: each is a word of its own, as in UAX #29

# Scripts whose letters UAX #29 does not join into words: ideographs (also those with other names), kana other
# than Katakana, and the South-East Asian scripts that need a dictionary. First words of the character names.
_SOLO_NAMES = ("CJK ", "HIRAGANA ", "TANGUT ", "NUSHU ", "KHITAN ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
_SOLO_NAMES += ("NEW TAI LUE ", "TAI LE ", "TAI THAM ", "TAI VIET ", "AHOM ")

# Nothing outside these planes carries a flag or a lowercase: 0 to 3 hold characters, 14 tags and variation marks.
_ASSIGNED = (range(0x40000), range(0xE0000, 0xE1000))


def flags_of(character: str) -> int:
    """The flag bits of one character."""
    category = unicodedata.category(character)
    flags = 0
    if category[0] == "L":
        flags |= LETTER
        if character.isupper():
            flags |= UPPER
        elif category == "Lo" and unicodedata.name(character, "").startswith(_SOLO_NAMES):
            flags |= SOLO
    elif category[0] == "N":
        flags |= NUMBER | (DIGIT if category == "Nd" else 0) | (UPPER if character.isupper() else 0)
    elif category[0] == "P":
        flags |= PUNCTUATION
    elif category[0] == "M":
        flags |= MARK
    elif character.isupper():
        flags |= UPPER  # circled and squared Latin capitals are symbols
    if character.isspace():
        flags |= SPACE
    return flags


def lower_of(character: str) -> int:
    """The simple lowercase of one character, as a code point.

    Where the full lowercase has several characters (U+0130 alone) this is its first, which is the simple mapping.
    """
    return ord(character.lower()[0])


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """`flags_of` and `lower_of` of all code points. Most are unassigned, or letters without case (Lo)."""
    flags = np.zeros(CODE_POINTS, np.uint8)
    lower = np.arange(CODE_POINTS, dtype=np.int32)
    for plane in _ASSIGNED:
        characters = list(map(chr, plane))
        for point, character, category in zip(
            plane, characters, map(unicodedata.category, characters), strict=True
        ):
            if category == "Lo":
                solo = unicodedata.name(character, "").startswith(_SOLO_NAMES)
                flags[point] = LETTER | SOLO if solo else LETTER
            elif category != "Cn":
                flags[point], lower[point] = flags_of(character), lower_of(character)
    flags.flags.writeable = lower.flags.writeable = False
    return flags, lower


FLAGS, LOWER = _tables()  # uint8 and int32, shape (0x110000,)
