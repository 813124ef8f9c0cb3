"""Counting tokens by kernels of our own: the split, the merges and what is refused, against `tokenizers`."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from curation.measure.kernel import kernel
from curation.tokenizer import counter as module
from curation.tokenizer.bpe import train_bpe
from curation.tokenizer.config import SPLITS, Tokenizer
from curation.tokenizer.counter import Counter
from curation.tokenizer.proof import RANGES
from curation.tokenizer.splits import STYLES, character_kinds, word_end

PARTS = st.one_of(
    st.text(max_size=12),
    st.text("0123456789٠١²Ⅷ", max_size=8),
    st.text(" \n\r\t\x0b\x85\u00a0\u2028\u3000", max_size=8),
    st.sampled_from(
        ["'s", "'LL", "'ſ", "’s", "'", "'rE", "'v", "word", "Wörter", " é", "日本語", "e\u0301", "İ", "<|end|>"]
    ),
    st.builds(str.__mul__, st.sampled_from(["a", " ", "1", "ab", "\n", "日", "-", "é"]), st.integers(20, 130)),
)  # fmt: skip
TEXTS = st.lists(PARTS, max_size=8).map("".join)
CORPUS = [
    "the cat sat on the mat, wasn't it? 12345 " * 20,
    "Здравствуй, мир! ",
    "日本語のテキスト。",
    "aaaa    \n\n" * 9,
]


@kernel
def _ends(data, end, kinds, style, ends):
    count, at = 0, 0
    while at < end:
        at = word_end(data, at, end, kinds, style)
        ends[count] = at
        count += 1
    return count


def words(text: str, style: str, after: str) -> list[int]:
    """Where the words of a text end, in bytes, with another text behind it in memory."""
    data, end = np.frombuffer((text + after).encode() or b" ", np.uint8), len(text.encode())
    ends = np.zeros(len(data), np.int64)
    return ends[: _ends(data, end, character_kinds(), STYLES[style], ends)].tolist()


def words_by_library(text: str, split) -> list[int]:
    ends = np.cumsum([len(text[start:end].encode()) for _, (start, end) in split.pre_tokenize_str(text)])
    return ends.astype(int).tolist()


@pytest.mark.parametrize("style", STYLES)
def test_a_split_is_that_of_tokenizers(style):
    splits = [pre_tokenizers.Split(Regex(SPLITS[style]), "isolated")]
    if style == "gpt2":
        splits.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))

    @settings(deadline=None, max_examples=300)
    @given(text=TEXTS, after=st.sampled_from(["", "abc" * 30, " x1" * 30]))
    def check(text, after):
        for split in splits:
            assert words(text, style, after) == words_by_library(text, split)

    check()


@pytest.mark.parametrize("style", STYLES)
def test_a_split_knows_every_character(style):
    """Of each range that `prove` looks at too, between letters, digits, blanks and signs."""
    split = pre_tokenizers.Split(Regex(SPLITS[style]), "isolated")
    for first, end in RANGES:
        points = [point for point in range(first, end) if not 0xD800 <= point < 0xE000]
        text = "".join(f"a{chr(point)}b1{chr(point)} {chr(point)}.{chr(point)}\n" for point in points)
        assert words(text, style, "") == words_by_library(text, split)


def as_json(made: tokenizers.Tokenizer) -> dict:
    return json.loads(made.to_str())


def count(counter: Counter, texts: list[str]) -> list[int]:
    return counter.count(pa.array(texts, pa.large_string())).tolist()


def count_by_library(made: tokenizers.Tokenizer, texts: list[str]) -> list[int]:
    made.encode_special_tokens = True
    return [len(one.ids) for one in made.encode_batch_fast(texts, add_special_tokens=False)]


def made_of(merges: list[tuple[str, str]], split: str, **model) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(left + right for left, right in merges)])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **model))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLITS[split]), "isolated"), level])
    return made


@st.composite
def merge_lists(draw):
    """Merges of few letters, not as training orders them: one token in several ways, parts after their wholes."""
    tokens, merges = list("abĠé"), []
    for _ in range(draw(st.integers(0, 25))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if pair not in merges and len(pair[0] + pair[1]) < 24:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    return draw(st.permutations(merges))


@settings(deadline=None, max_examples=150)
@given(
    merges=merge_lists(),
    texts=st.lists(st.text("ab é", max_size=90), max_size=6),
    long=st.text("ab", min_size=1, max_size=4),
    times=st.integers(1, 700),
)
def test_any_merges_give_the_count_of_tokenizers(merges, texts, long, times):
    made = made_of(merges, "cl100k")
    texts = [*texts, long * times, *texts]
    assert count(Counter(as_json(made)), texts) == count_by_library(made, texts)


@pytest.fixture(scope="module")
def trained() -> tokenizers.Tokenizer:
    return train_bpe(iter([CORPUS]), Tokenizer(vocab_size=600))


def test_a_trained_tokenizer_counts_any_text(trained):
    counter = Counter(as_json(trained))

    @settings(deadline=None, max_examples=200)
    @given(texts=st.lists(TEXTS, max_size=6))
    def check(texts):
        assert count(counter, texts) == count_by_library(trained, texts)

    check()
    assert count(counter, []) == []
    array = pa.array(["no", "a word", "", "the mat"], pa.large_string())
    assert counter.count(array[1:]).tolist() == count_by_library(trained, ["a word", "", "the mat"])


def test_a_word_without_end_is_counted_in_good_time(trained):
    texts = ["x", "abca" * 60_000 + " y", "日本語" * 30_000, "the " + "a" * 70_000, "1" * 1000]
    counter = Counter(as_json(trained))
    assert count(counter, texts) == count_by_library(trained, texts)
    assert count(counter, ["aaaa" * (1 << 20)])[0] > 0  # minutes, were a merge to take time as the word is long


def test_the_check_can_fail(monkeypatch):
    """Planted: the ranks of two merges exchanged; a split that lets numbers be whole."""
    made = made_of([("a", "b"), ("b", "c"), ("a", "bc"), ("1", "1"), ("11", "11")], "cl100k")
    texts, right = ["abc", "1111"], as_json(made)
    assert count(Counter(right), texts) == count_by_library(made, texts) == [2, 3]
    merges = right["model"]["merges"]
    merges[:2] = merges[1::-1]
    monkeypatch.setitem(module.STYLES, "cl100k", STYLES["gpt2"])
    assert count(Counter(right), texts) == [1, 1]


def test_a_full_table_of_words_forgets_and_stays_right(trained):
    """More words than there are slots, twice over."""
    counter = Counter(as_json(trained))
    numbers = np.random.default_rng(1).integers(0, 26**4, 100_000)
    letters = "abcdefghijklmnopqrstuvwxyz"
    made = "".join(
        f" {letters[n % 26]}{letters[n // 26 % 26]}{letters[n // 676 % 26]}{letters[n // 17576]}" for n in numbers
    )
    assert count(counter, [made, made]) == count_by_library(trained, [made]) * 2


REFUSED = {
    "normalizer": lambda made: setattr(made, "normalizer", normalizers.NFC()),
    "looked for in texts": lambda made: made.add_tokens([AddedToken("<image>", normalized=False)]),
    "another pattern": lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Whitespace()),
    "dropout": lambda made: setattr(made, "model", models.BPE(dropout=0.1)),
    "byte_fallback": lambda made: setattr(made, "model", models.BPE(byte_fallback=True)),
    "end_of_word_suffix": lambda made: setattr(made, "model", models.BPE(end_of_word_suffix="</w>")),
    "lacks a byte": lambda made: setattr(made, "model", models.BPE()),
    "WordLevel": lambda made: setattr(made, "model", models.WordLevel({"a": 0}, "a")),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_kernels_do_not_know_is_refused(reason):
    made = made_of([("a", "b")], "cl100k")
    Counter(as_json(made))
    REFUSED[reason](made)
    with pytest.raises(ValueError, match=reason):
        Counter(as_json(made))


def test_merges_may_be_ignored_where_that_changes_nothing():
    """As Llama 3 does: a word that is a token stays whole. It matters for tokens that merging does not give."""
    merges = [("a", "b"), ("ab", "c"), ("b", "c")]
    made = made_of(merges, "cl100k", ignore_merges=True)
    texts = ["abc ab bc abcbc"]
    assert count(Counter(as_json(made)), texts) == count_by_library(made, texts)
    wrong = as_json(made_of([*merges, ("c", "b")], "cl100k", ignore_merges=True))
    del wrong["model"]["merges"][-1]
    with pytest.raises(ValueError, match=r"ignores merges .*'cb'"):
        Counter(wrong)
