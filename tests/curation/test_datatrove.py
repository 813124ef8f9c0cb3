"""datatrove's four filters: verdicts and reasons that datatrove 0.10.1 gave for hand-made documents."""

from __future__ import annotations

import random
import re
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.edits import apply_edits
from curation.measure.c4_edit import c4_spans
from curation.measure.columns import text_columns
from curation.measure.datatrove import GROUP
from curation.rules.profile import Profile, apply, load_profile

PROFILE = load_profile("datatrove-0.10")
PIECES = re.split(
    r"\s+",
    """the be don't cannot Mr. U.S. 10a.m. 5km :) '' it's [1] { } " ... … • - a,b a.B http://a.bc/d x@y.zz
naïve Москва. 你好。 日本 lorem ipsum JavaScript use cookies # 😀 °C. and/or = <b> \x00 \x85""",
)
GAPS = [" ", "\n", "\n\n", "\r\n", "  ", "\u2028", ". "]
ASCII_PIECES = [*filter(str.isascii, PIECES), *GAPS[:5], " "]
ASCII_PIECES += re.split(
    r"\s+",
    r"""the The a B USA I'm goin' e.g. 8) o_O w/o C++ US$ A$ 10 3.14 8.8.8.8 ab.cd/e f@g.hi :81 .. ... -- ---
's 'S n't kg % ( ) [ ] < > = + - * ^ ~ / \ | @ # & ' " ` , ; : ! ? . _ $""",
)
TEXT = st.text(max_size=300) | st.lists(st.sampled_from(PIECES + GAPS), max_size=80).map(" ".join)


def only(name: str) -> Profile:
    """The rules of one filter."""
    return PROFILE.model_copy(update={"rules": tuple(rule for rule in PROFILE.rules if name in rule.source)})


def measured(texts: list[str]) -> pa.Table:
    array = pa.array(texts, pa.large_string())
    return pa.table({**GROUP.measure(None, array), "chars": text_columns(array)["chars"]})


def reason(text: str, name: str) -> str | None:
    return apply(only(name), measured([text]))[1][0].as_py()


def edited(text: str) -> str:
    array = pa.array([text], pa.large_string())
    return apply_edits(array, c4_spans(array))[0].as_py()


TEN_LINES = ["the quick words to read ..."] * 4 + ["the quick words to read of it all"] * 6
GOOD = "One is here. Two is here. Three is here. Four is here. Five is here."
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
LONG = "a line of words that is rather long and goes on "


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        # the ten documents of the reference
        ("the be" + " alpha" * 48, "GopherQuality", None),
        ("the be" + " alpha" * 47 + " .", "GopherQuality", "gopher_short_doc"),
        ("The Be" + " alpha" * 48, "GopherQuality", "gopher_enough_stop_words"),
        ("\n".join(["* the be alpha beta gamma"] * 20), "GopherQuality", None),
        ("\n".join(["- the be alpha beta gamma"] * 20), "GopherQuality", "gopher_too_many_bullets"),
        ("\n".join(TEN_LINES), "GopherQuality", "gopher_too_many_end_ellipsis"),
        ("\n".join(TEN_LINES + [""] * 4 + ["end"]), "GopherQuality", None),
        ("\nthe only line\n", "GopherRepetition", "dup_line_frac"),
        (GOOD, "C4Quality", None),
        (GOOD.rsplit(" ", 3)[0], "C4Quality", "too_few_sentences"),
        ("\n".join([LONG] * 8 + [LONG + "."]), "FineWebQuality", "line_punct_ratio"),
        # more of it
        ("", "GopherRepetition", "empty"),
        (" \n ", "GopherRepetition", "dup_line_frac"),
        (" \t", "GopherRepetition", None),
        ("hello world", "GopherRepetition", "top_2_gram"),
        ("hello", "GopherRepetition", None),
        ("dont " * 25, "GopherQuality", "gopher_below_avg_threshold"),
        ("word " * 12 + "the be 1 " * 14, "GopherQuality", "gopher_below_avg_threshold"),
        ("”  5 10°C. 。.\n" * 4, "C4Quality", "too_few_sentences"),
        ("the be 12.5 " * 6 + "… " * 13 + "word " * 60, "GopherQuality", "gopher_too_many_ellipsis"),
        (GOOD + "\nA line with lorem Ipsum.", "C4Quality", "lorem_ipsum"),
        (GOOD + "\nA line with lorem ipsum", "C4Quality", None),
        (GOOD + "\nA line with { a bracket.", "C4Quality", "curly_bracket"),
        (GOOD + "\nA line with a {.", "C4Quality", "curly_bracket"),
        (GOOD + "\nA javascript line with { a bracket.", "C4Quality", None),
        (GOOD + "\nThe { is first.\nLorem ipsum is second.", "C4Quality", "curly_bracket"),
        (GOOD + "\nLorem ipsum is first.\nThe { is second.", "C4Quality", "lorem_ipsum"),
        (" \n\t\n", "FineWebQuality", "fineweb_empty"),
        ("x" * 29 + ".", "FineWebQuality", "short_line_ratio"),
        ("x" * 30 + ".", "FineWebQuality", None),
        ("\n".join(["x" * 40 + "."] * 2), "FineWebQuality", "char_dup_ratio"),
        ("\n\n\n".join([f"{'x' * 40}{k}." for k in range(2)]), "FineWebQuality", "list_ratio"),
    ],
)
def test_reasons_are_datatrove_s(text, name, expected):
    assert reason(text, name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is a fact. [1]", ""),
        ("This is a fact.[1]", "This is a fact."),
        ("{ a.\nThis is a good line.", "This is a good line."),
        (
            "[1] First of all.\r\n  Then this [edit] here. \n\nno end\nLast of all!\nmenu",
            "First of all.\nThen this  here.\nLast of all!",
        ),
        ("menu\nNothing stays", ""),
        ('One two three...\nWe use cookies here.\nIt ends "so"', 'It ends "so"'),
        ("a b c. \n", "a b c."),
    ],
)
def test_c4_leaves_the_lines_that_datatrove_leaves(text, expected):
    assert edited(text) == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXT, max_size=6), st.integers(0, 6))
def test_a_document_depends_on_no_other(texts, cut):
    whole = measured(texts)
    parts = pa.concat_tables([measured(texts[:cut]), measured(texts[cut:])])
    assert whole.equals(parts.combine_chunks().cast(whole.schema))


@settings(deadline=None, max_examples=60)
@given(TEXT)
def test_the_edit_of_an_edited_text_is_that_of_the_plain_rule(text):
    """A reading of C4's rules for lines in plain Python, on text without citations."""
    text = text.replace("[", "")
    kept = []
    for line in (line.strip() for line in text.splitlines()):
        lower = line.lower().replace("\u212a", "")
        ends = line.endswith((".", "?", "!", '"', "'")) and not line.endswith("...")
        if ends and len(line.split()) >= 3 and "lorem ipsum" in lower:
            kept.append(line)  # drops the document, not the line
        elif ends and len(line.split()) >= 3 and "javascript" not in lower:
            phrase = any(phrase in lower for phrase in POLICIES)
            kept += [line] if "{" in line or not phrase else []
    assert edited(text) == "\n".join(kept)


def test_long_and_odd_documents_are_measured():
    texts = [
        "",
        "\x00",
        "a",
        "'" * 5000,
        "a@" * 5000,
        "a.b" * 5000,
        ":)" * 5000,
        "°C.x" * 3000,
        "中" * 5000,
        "\n" * 9000,
    ]
    texts += ["x " * 100_000, "y" * 300_000, "\u2028" * 1000, "(" * 4000 + ")" * 4000]
    assert measured(texts).num_rows == len(texts)


def ngram_chars(words: list[str]) -> list[int]:
    """datatrove's rules for top and duplicate n-grams in plain Python."""
    found = []
    for n in range(2, 11):
        windows = [words[k : k + n] for k in range(len(words) - n + 1)]
        if n <= 4:
            counts = Counter(map(" ".join, windows))
            top, times = counts.most_common(1)[0] if counts else ("", 0)
            found.append(len(top) * times)
            continue
        seen, chars, at = set(), 0, 0
        while at < len(windows):
            joined = "".join(windows[at])
            chars += len(joined) * (joined in seen)
            at += n if joined in seen else 1
            seen.add(joined)
        found.append(chars)
    return found


def counted_ngrams(text: str) -> list[int]:
    row = measured([text])
    kinds = [f"{'top' if n <= 4 else 'dup'}_{n}gram" for n in range(2, 11)]
    return [round(row[f"gopher_{kind}_char_share"][0].as_py() * len(text)) for kind in kinds]


# Words that no rule of the tokenizer splits; some of them put together are others.
PLAIN = ["ab", "abc", "b", "bc", "c", "cabc", "house", "houses", "quickly", "extraordinarily", "ü", "日本"]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(PLAIN), min_size=1, max_size=120), st.integers(1, 12), st.integers(0, 3))
def test_ngrams_are_those_of_the_plain_rule(words, size, times):
    words = words + words[:size] * times
    assert counted_ngrams(" ".join(words)) == ngram_chars(words)


def test_ngrams_of_long_and_of_repetitive_documents():
    draw = random.Random(3)
    common = [f"{a}{b}" for a in ("wor", "tha", "lin") for b in ("d", "t", "es", "er")]
    rare = ["".join(draw.choices("abcdefgh", k=9)) for _ in range(5000)]
    for words in (
        draw.choices(common, k=20_000),  # counters are full
        draw.choices(common[:2], k=3000),
        ["word"] * 700,
        rare,  # nothing is repeated
        [*rare, *rare[:40], *rare[2000:2011]],
        draw.choices(common, weights=[2**k for k in range(12)], k=900) + rare[:300],
    ):
        assert counted_ngrams(" ".join(words)) == ngram_chars(words)


@settings(deadline=None, max_examples=300)
@given(
    st.text([chr(code) for code in range(128)], max_size=100)
    | st.lists(st.sampled_from(ASCII_PIECES), max_size=40).map(lambda pieces: "".join(pieces)[:100])
)
def test_the_short_way_finds_the_tokens_of_the_long_way(text):
    """The short way keeps off the last 128 bytes of a buffer."""
    assert measured([text]).equals(measured([text, "a" * 128]).slice(0, 1))


def test_ngrams_apart_in_a_few_late_bytes_are_apart():
    """The last bytes of the words of eight that are hashed reach the upper bits alone of a product."""
    ngrams = [f", lo : 0x{low:02x} , hi : 0x{high:02x}" for low in range(0, 256, 5) for high in range(0, 256, 5)]
    words = " ".join(ngrams).split()
    assert counted_ngrams(" ".join(words)) == ngram_chars(words)


def test_what_drops_a_line_is_found_wherever_it_stands():
    """At each place of the blocks of bytes that are looked at, in a text with others behind it."""
    lines = {"says JavaScript so.": 0, "says JavaScrapt so.": 1, "has it so.[12]": 1, "has it so.(12)": 0}
    texts = [f"{'a' * before} {line}" for line in lines for before in range(1, 140)]
    found = measured([*texts, "the end. " * 20])["c4_lines"].to_pylist()[:-1]
    assert found == [kept for kept in lines.values() for _ in range(1, 140)]
