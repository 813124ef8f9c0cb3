"""The measuring kernels against a second implementation in plain Python, written from the definitions alone."""

from __future__ import annotations

import re
import sysconfig
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.measure import repetition
from curation.measure.columns import COUNTS, RATIOS, text_columns
from curation.measure.unicode import FLAGS, MARK
from curation.measure.utf8 import decode, text_buffers
from curation.measure.words import STOP_WORDS

SOLO_SCRIPTS = "CJK|HIRAGANA|TANGUT|NUSHU|KHITAN|THAI|LAO|KHMER|MYANMAR|NEW TAI LUE|TAI LE|TAI THAM|TAI VIET|AHOM"


# The second implementation: regular expressions over a string of character classes, Counters, and joined tuples.


def class_of(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Lo" and re.match(rf"({SOLO_SCRIPTS}) ", unicodedata.name(character, "")):
        return "S"
    if category in ("Nd", "Nl", "No"):
        return "D" if category == "Nd" else "N"
    if category[0] in "LM":
        return category[0]
    return {"_": "U", "'": "Q", "’": "Q", ".": "P", ",": "C", "·": "O"}.get(character, "x")


WORD = re.compile(r"SM*|[LDNU](?:[LDNUM]|(?<=L)[QPO](?=L)|(?<=D)[QPC](?=D))*")


def unicode_words(text: str) -> list[str]:
    classes = "".join(map(class_of, text))
    spans = [match.span() for match in WORD.finditer(classes)]
    return [text[start:end] for start, end in spans if re.search("[LDNS]", classes[start:end])]


def share(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def duplicate_shares(pieces: list[str], chars: int) -> tuple[float | None, float | None]:
    counts = Counter(pieces)
    copies = [piece for piece in pieces if counts[piece] > 1]
    return share(len(copies), len(pieces)), share(sum(map(len, copies)), chars)


def ngram_share(words: list[str], n: int) -> float | None:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(grams)
    wanted = {gram for gram, count in counts.items() if count > 1}
    if n <= 4 and wanted:  # Counter keeps the order of first occurrence, and max takes the first of equals
        wanted = {max((g for g in counts if g in wanted), key=lambda gram: (counts[gram], len("".join(gram))))}
    covered = {i + j for i, gram in enumerate(grams) if gram in wanted for j in range(n)}
    return share(sum(len(words[i]) for i in covered), len("".join(words)))


def reference(text: str) -> dict[str, float | None]:
    spaced, words = text.split(), unicode_words(text)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    filled = [line for line in lines if line]
    paragraphs = [piece.strip("\n") for piece in re.split(r"\n{2,}", "\n".join(lines)) if piece.strip("\n")]
    symbols = sum(text.count(symbol) for symbol in ("#", "...", ". . .", "…"))
    line_shares = duplicate_shares(filled, sum(map(len, filled)))
    paragraph_shares = duplicate_shares(paragraphs, sum(map(len, paragraphs)))
    return {
        "bytes": len(text.encode()),
        "chars": len(text),
        "words": len(words),
        "whitespace_words": len(spaced),
        "lines": len(lines),
        "stop_words": sum(word.lower() in STOP_WORDS for word in spaced),
        "max_line_length": max(map(len, lines)),
        "mean_word_length": share(sum(map(len, spaced)), len(spaced)),
        "symbol_word_ratio": share(symbols, len(text.replace(". . .", "...").split())),
        "alpha_word_share": share(sum(any(c.isalpha() for c in word) for word in spaced), len(spaced)),
        "mean_line_length": share(sum(map(len, lines)), len(lines)),
        "bullet_line_share": share(sum(line.startswith(("●", "•", "*", "-")) for line in lines), len(lines)),
        "ellipsis_line_share": share(sum(line.endswith(("...", ". . .", "…")) for line in filled), len(filled)),
        "dup_line_share": line_shares[0],
        "dup_line_char_share": line_shares[1],
        "dup_paragraph_share": paragraph_shares[0],
        "dup_paragraph_char_share": paragraph_shares[1],
        **{f"top_{n}gram_char_share": ngram_share(words, n) for n in (2, 3, 4)},
        **{f"dup_{n}gram_char_share": ngram_share(words, n) for n in range(5, 11)},
        "unique_word_share": share(len(set(words)), len(words)),
        "alnum_char_share": share(sum(unicodedata.category(c)[0] in "LN" for c in text), len(text)),
        "digit_char_share": share(sum(c.isdecimal() for c in text), len(text)),
        "uppercase_char_share": share(sum(c.isupper() for c in text), len(text)),
        "letter_char_share": share(sum(c.isalpha() for c in text), len(text)),
        "whitespace_char_share": share(sum(c.isspace() for c in text), len(text)),
        "punctuation_char_share": share(sum(unicodedata.category(c)[0] == "P" for c in text), len(text)),
    }


def measured(texts: list[str]) -> list[dict[str, float | None]]:
    columns = text_columns(pa.array(texts, pa.large_string()))
    return pa.table(columns).to_pylist()


def assert_equal(texts: list[str]) -> None:
    for text, row in zip(texts, measured(texts), strict=True):
        expected = reference(text)
        wrong = {name: (row[name], expected[name]) for name in expected if row[name] != expected[name]}
        assert set(row) == set(expected)
        assert not wrong, f"measured, expected: {wrong} in {text[:500]!r}"


PIECES = ["the", "The", "of", "a", "b", "don't", "3.14", "1,000", "e.g", "\u0130", "日本", "ไทย", "é", "e\u0301"]
PIECES += [" ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\u2028", "\x00", "\x1c", "#", "...", ". . .", "…", "x_y"]
PIECES += ["- ", "• ", "●", "* ", "’", "'", "·", ",", "_", ".", "½", "Ⅷ", "٣", "𝔘", "😀", "\u0301"]
PIECES += [". . . . .", "same line\n"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)), max_size=4))
@example(["", "a", "\x00", "\n", "\r\n", "日", "...", ". . .", "_", "\u0301", "a\r\r\n\r\nb\n\n\n", "\na\n\nb\n"])
@example(["in th", "e end of", " a", "n", "d"])
@example(["\x00THE", "\x00\x00be the\x00"])
@example(["a b " * 20, "the be to of " * 9 + "x", "ab ab ab ab cd cd cd cd", "- a\n- a\n* b\n\n- a\n- a"])
def test_every_measurement_is_that_of_the_second_implementation(texts):
    assert_equal(texts)


def library_sources() -> list[str]:
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [path.read_text("utf-8", "replace") for path in paths if path.stat().st_size < 60_000]


def test_real_text_is_measured_as_the_second_implementation_does():
    sources = library_sources()
    assert len(sources) > 50
    assert_equal(sources[::2])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chars", "naïve"),  # bytes would be one more
        ("words", "can't stop"),
        ("dup_line_share", "a\na\nb"),  # later copies alone would give a third
        ("top_2gram_char_share", "a a a a b"),  # overlapping windows counted twice would give more
        ("ellipsis_line_share", "wait...\n\n\nno"),  # blank lines must not dilute it
        ("paragraphs", "x\r\n\r\nx\r\n\r\ny"),
    ],
)
def test_the_comparison_can_fail(name, text, monkeypatch):
    """The planted twins: each text is one where a likely mistake gives another number than the kernels'."""
    mistakes = {
        "chars": lambda text: {"chars": len(text.encode())},
        "words": lambda text: {"words": len(re.findall(r"[^\W_]+", text))},
        "dup_line_share": lambda text: {"dup_line_share": 1 / 3},
        "top_2gram_char_share": lambda text: {"top_2gram_char_share": 3 * 2 / 5},
        "ellipsis_line_share": lambda text: {"ellipsis_line_share": 1 / 4},
        "paragraphs": lambda text: {"dup_paragraph_share": None},
    }
    correct = reference(text)
    assert_equal([text])
    monkeypatch.setitem(globals(), "reference", lambda text: {**correct, **mistakes[name](text)})
    with pytest.raises(AssertionError, match="measured, expected"):
        assert_equal([text])


def test_a_broken_kernel_is_found(monkeypatch):
    """The other planted twin: a marks table without combining marks splits words that have them."""
    flags = np.where(FLAGS & MARK, 0, FLAGS).astype(np.uint8)
    flags.flags.writeable = False
    monkeypatch.setattr(repetition, "FLAGS", flags)
    with pytest.raises(AssertionError, match="measured, expected"):
        assert_equal(["cafe\u0301s"])


def test_known_values():
    [row] = measured(["The cat sat.\n- the cat sat...\n- The end\n\nThe cat sat.\n"])
    assert row["stop_words"] == 3 + 1
    assert row["lines"] == 6
    assert row["bullet_line_share"] == 2 / 6
    assert row["ellipsis_line_share"] == 1 / 4
    assert row["dup_line_share"] == 2 / 4
    assert row["top_2gram_char_share"] == 6 * 3 / (9 * 3 + 6 + 0)
    assert measured([""])[0]["mean_word_length"] is None
    assert measured(["!!!"])[0]["unique_word_share"] is None


def test_a_slice_of_an_array_is_measured_as_itself():
    texts = pa.array(["skip me", "one two", "", "日本 語", "last"], pa.large_string())
    whole = pa.table(text_columns(texts))
    assert pa.table(text_columns(texts.slice(1, 3))).equals(whole.slice(1, 3))
    assert pa.table(text_columns(texts.slice(5))).num_rows == 0
    with pytest.raises(TypeError, match="large_string"):
        text_columns(pa.array(["x"], pa.string()))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=5), st.binary(max_size=8))
def test_invalid_utf8_is_read_within_its_bounds(documents, beyond):
    """What follows a document in the buffer, and what the buffer ends with, changes none of its numbers."""
    ends = np.cumsum([0, *map(len, documents)]).astype(np.int64)

    def columns(data: bytes) -> pa.Table:
        array = pa.LargeStringArray.from_buffers(len(documents), pa.py_buffer(ends), pa.py_buffer(data))
        return pa.table(text_columns(array))

    alone = columns(b"".join(documents))
    assert columns(b"".join(documents) + beyond).equals(alone)
    for place, document in enumerate(documents):
        data, start = np.frombuffer(document + b"\xbf\xbf\xbf", np.uint8), 0
        while start < len(document):
            code, following = decode(data, start, len(document))
            assert 0 <= code < 0x110000
            assert start < following <= len(document)
            start = following
        single = pa.LargeStringArray.from_buffers(
            1, pa.py_buffer(np.array([0, len(document)], np.int64)), pa.py_buffer(document + b"\xbf\xbf")
        )
        assert pa.table(text_columns(single)).equals(alone.slice(place, 1))


@settings(deadline=None)
@given(st.text())
def test_decoding_is_python_s(text):
    data, (at, end) = text_buffers(pa.array([text], pa.large_string()))
    found = []
    while at < end:
        code, at = decode(data, at, end)
        found.append(chr(code))
    assert "".join(found) == text


@pytest.mark.parametrize(
    ("unit", "times"), [("x", 50_000_000), ("ab ", 4_000_000), ("\n", 5_000_000), ("a\n", 4_000_000)]
)
def test_a_very_long_document_is_measured(unit, times):
    """Nothing is quadratic: with a quadratic step this would not end."""
    [row] = measured([unit * times])
    assert row["chars"] == row["bytes"] == len(unit) * times
    assert row["lines"] == unit.count("\n") * times + 1
    if unit == "ab ":
        assert row["words"] == row["whitespace_words"] == times
        assert row["dup_10gram_char_share"] == row["top_2gram_char_share"] == 1.0


def test_the_cost_of_repetition_is_linear_in_distinct_words_too():
    text = " ".join(f"w{number}" for number in range(1_000_000))
    [row] = measured([f"{text} {text}"])
    assert row["unique_word_share"] == 0.5
    assert row["dup_10gram_char_share"] == 1.0


def test_every_column_has_a_definition_in_the_second_implementation():
    assert set(reference("x")) == {"bytes", *COUNTS, *RATIOS}
