"""The data of spaCy's blank English tokenizer, as tables for the kernel in `curation.measure.spacy_tokens`.

`spacy_english.json` says where it comes from: spaCy 3.8 and datatrove 0.10.1, whose default for English is this
tokenizer with a sentencizer. What the file does not hold (letters, digits, white space) is asked of Python.
"""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from curation.measure.hashing import table_size
from curation.measure.unicode import CODE_POINTS, DIGIT, FLAGS, LETTER, NUMBER, PUNCTUATION, SPACE
from curation.measure.words import STOP_WORDS

# Bits of a character's class: those of the tokenizer's patterns,
PREFIX = 1  # split off in front
SUFFIX = 2  # split off behind
INFIX = 4  # split off inside: symbols and the ellipsis
INFIX_MAYBE = 8  # INFIX, or split off inside between certain neighbours
ALPHA = 16
LOWER = 32
UPPER = 64
QUOTE = 128
BEFORE_STOP = 256  # a full stop behind it is split off
UNIT_END = 512  # the last character of what is split off behind a digit
HOST = 1024  # may stand in the name of a host
# and those of what is counted.
BLANK = 1 << 11  # `str.isspace`
LINE_BREAK = 1 << 12  # where `str.splitlines` splits
IS_LETTER = 1 << 13  # `str.isalpha`
IS_DIGIT = 1 << 14  # `\d`
IS_WORD = 1 << 15  # `\w`
IS_PUNCTUATION = 1 << 16  # general category P*
NOT_SYMBOL = 1 << 17  # not in datatrove's PUNCTUATION_SET
SENTENCE_END = 1 << 18  # of spaCy's sentencizer
TERMINAL = 1 << 19  # in datatrove's TERMINAL_PUNCTUATION

LINE_BREAKS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
BETWEEN = ".+-*^,–—~:<>=/"  # the INFIX_MAYBE ones that are not INFIX

# Kinds of a byte: what a chunk of text begins with decides how it is split.
BYTE_LETTER, BYTE_DIGIT, BYTE_OTHER, BYTE_MARK, BYTE_BLANK, BYTE_HIGH = range(6)
MARKS = ".,:;!?"  # behind a plain word each is a token of its own, but for some full stops

HASH_START = 0x9E3779B97F4A7C15
HASH_MULTIPLIER = 0xFF51AFD7ED558CCD
MASK = (1 << 64) - 1
BLOOM_BITS = 1 << 16
NO_STRING = -1

# Strings the tokenizer looks up: `keys` and `numbers` are an open-addressing table from a string's hash to its
# number, `bloom` a bit by hash that says whether it is worth looking, and `special` the same for special cases. Of
# a string there are: where its tokens end if it is a special case (in bytes, `rule_ends[rule_from[i] :
# rule_from[i + 1]]`), and the same for a phrase: a special case as it would be split without its rule; whether it
# is split off behind a digit; whether it is a token of a phrase. Stop words have a table of their own without
# collisions: hashes and bits by place. `pairs` and `pair_bloom` are the set of the two tokens that a phrase begins
# with, by `pair_hash`.
Strings = namedtuple(
    "Strings",
    "bloom special keys numbers rule_from rule_ends phrase_from phrase_ends unit piece "
    "stop_keys stop_bits pair_bloom pairs",
)
Tables = namedtuple("Tables", "classes bytes strings")


def string_hash(text: bytes) -> int:
    """What `spacy_strings.hash_bytes` gives for these bytes."""
    hashed = len(text) * HASH_START & MASK
    for at in range(0, len(text), 8):
        product = (hashed ^ int.from_bytes(text[at : at + 8], "little")) * HASH_MULTIPLIER
        hashed = product & MASK
        hashed ^= product >> 64 if at + 8 < len(text) else hashed >> 32
    return hashed


def pair_hash(first: int, second: int) -> int:
    """What `spacy_strings.combined` gives for these hashes."""
    product = (first ^ HASH_START) * (second ^ HASH_MULTIPLIER)
    return (product >> 64 ^ product) & MASK


@cache
def english() -> Tables:
    """The tables, read once a process."""
    data = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return Tables(_classes(data), _bytes(), _strings(data))


def _classes(data: dict) -> np.ndarray:
    """The class bits of every code point: uint32, shape (0x110000,)."""
    classes = np.zeros(CODE_POINTS, np.uint32)

    def add(bit: int, characters: str) -> None:
        classes[np.array([ord(character) for character in set(characters)], np.int64)] |= np.uint32(bit)

    for name, bit in {
        "prefix": PREFIX,
        "suffix": SUFFIX,
        "infix": INFIX | INFIX_MAYBE,
        "alpha": ALPHA,
        "lower": LOWER,
        "upper": UPPER,
        "quote": QUOTE,
        "before_full_stop": BEFORE_STOP,
    }.items():
        for first, last in zip(data[name][::2], data[name][1::2], strict=True):
            classes[first : last + 1] |= np.uint32(bit)
    add(INFIX_MAYBE, BETWEEN)
    add(UNIT_END, "".join(piece[-1] for piece in data["after_digit"]))
    add(LINE_BREAK, LINE_BREAKS)
    add(SENTENCE_END, data["sentence_ends"])
    add(TERMINAL, data["terminal"])
    for flag, bit in {SPACE: BLANK, LETTER: IS_LETTER, DIGIT: IS_DIGIT, PUNCTUATION: IS_PUNCTUATION}.items():
        classes[FLAGS & flag != 0] |= np.uint32(bit)
    classes[FLAGS & (LETTER | NUMBER) != 0] |= np.uint32(IS_WORD)
    add(IS_WORD, "_")
    classes |= np.uint32(NOT_SYMBOL)
    classes[np.array([ord(character) for character in data["punctuation"]])] &= np.uint32(MASK >> 32 & ~NOT_SYMBOL)
    classes[0xA1:0x10000] |= np.uint32(HOST)
    add(HOST, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    classes.flags.writeable = False
    return classes


def _bytes() -> np.ndarray:
    kinds = np.full(256, BYTE_OTHER, np.uint8)
    kinds[0x80:] = BYTE_HIGH
    for code in range(0x80):
        character = chr(code)
        if character.isspace():
            kinds[code] = BYTE_BLANK
        elif character.isalpha():
            kinds[code] = BYTE_LETTER
        elif character.isdigit():
            kinds[code] = BYTE_DIGIT
        elif character in MARKS:
            kinds[code] = BYTE_MARK
    kinds.flags.writeable = False
    return kinds


def _strings(data: dict) -> Strings:
    pieces = {token for phrase in data["phrases"].values() for token in phrase}
    texts = sorted({*data["special"], *data["phrases"], *data["after_digit"], *pieces})
    hashes = {text: string_hash(text.encode()) for text in {*texts, *STOP_WORDS}}
    keys, numbers = _table([hashes[text] for text in texts])
    pairs = {
        pair_hash(hashes[phrase[0]], hashes[phrase[1]]) for phrase in data["phrases"].values() if len(phrase) > 1
    }
    return Strings(
        _bloom([hashes[text] for text in texts]),
        _bloom([hashes[text] for text in data["special"]]),
        keys,
        numbers,
        *_ends([data["special"].get(text, []) for text in texts]),
        *_ends([data["phrases"].get(text, []) for text in texts]),
        np.array([text in data["after_digit"] for text in texts], np.bool_),
        np.array([text in pieces for text in texts], np.bool_),
        *_stop_words([hashes[word] for word in STOP_WORDS]),
        _bloom(pairs),
        _table(sorted(pairs))[0],
    )


def _bloom(hashes: Iterable[int]) -> np.ndarray:
    bits = np.zeros(BLOOM_BITS // 64, np.uint64)
    for hashed in hashes:
        bit = hashed & (BLOOM_BITS - 1)
        bits[bit >> 6] |= np.uint64(1 << (bit & 63))
    return bits


def _table(hashes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """An open-addressing table of hashes, 0 where free, and the number of each."""
    size = int(table_size(2 * len(hashes)))
    keys, numbers = np.zeros(size, np.uint64), np.full(size, NO_STRING, np.int32)
    for number, hashed in enumerate(hashes):
        place = hashed >> 20 & (size - 1)
        while numbers[place] != NO_STRING:
            place = (place + 1) & (size - 1)
        keys[place], numbers[place] = hashed, number
    return keys, numbers


def _stop_words(hashes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and bits of stop words, each at its place in the smallest table where no two share one."""
    size = 8
    while len({hashed >> 20 & (size - 1) for hashed in hashes}) < len(hashes):
        size *= 2
    keys, bits = np.zeros(size, np.uint64), np.zeros(size, np.uint8)
    for number, hashed in enumerate(hashes):
        keys[hashed >> 20 & (size - 1)], bits[hashed >> 20 & (size - 1)] = hashed, 1 << number
    return keys, bits


def _ends(token_lists: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Where each list begins among the ends, and the ends (in bytes) of its tokens within the string."""
    starts = np.cumsum([0, *map(len, token_lists)]).astype(np.int32)
    ends = [np.cumsum([len(token.encode()) for token in tokens]) for tokens in token_lists if tokens]
    return starts, np.concatenate(ends).astype(np.int32)
