"""Training a BPE by kernels of our own: the file is, byte for byte, that of the trainer of `tokenizers`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.tokenizer import bpe
from curation.tokenizer.bpe import train_bpe, train_by_library
from curation.tokenizer.config import BYTES, SPLITS, Tokenizer

# Few letters: counts that are equal, tokens that two ways of merging give, pairs that overlap.
TEXTS = st.lists(
    st.lists(st.text("aab'st \né日1", max_size=40) | st.text(max_size=12), max_size=12), min_size=1, max_size=3
)
LEAST = BYTES + len(bpe.SPECIAL_TOKENS)
SPECIAL = [(), ("aa", "ab"), ("b",), ("日",), ("Ġa",)]  # spelled as a merge, a byte, no byte, a blank and a letter


def both(batches: list[list[str]], config: Tokenizer) -> tuple[str, str]:
    special = [bpe._special(token) for token in (*bpe.SPECIAL_TOKENS, *config.special_tokens)]
    return train_bpe(iter(batches), config).to_str(), train_by_library(iter(batches), config, special).to_str()


@given(
    TEXTS,
    st.sampled_from(sorted(SPLITS)),
    st.integers(280, 400),
    st.sampled_from([0, 2, 5]),
    st.sampled_from(SPECIAL),
)
@settings(max_examples=150, deadline=None)
def test_any_text_gives_the_file_of_the_library(batches, split, size, least, special):
    own, expected = both(
        batches, Tokenizer(vocab_size=size, split=split, min_frequency=least, special_tokens=special)
    )
    assert own == expected


def words(seed: int, count: int) -> list[list[str]]:
    """Texts of words of uneven lengths and letters: more different ones than tables begin with."""
    draw = random.Random(seed)
    spelled = [
        "".join(draw.choices("etaoinshrdluЖ日", range(14, 0, -1), k=draw.randint(1, 14))) for _ in range(count)
    ]
    return [[" ".join(draw.choices(spelled, k=130)) for _ in range(count // 100)] for _ in range(2)]


def test_more_words_pairs_and_bytes_than_there_is_room_for_at_first():
    batches = words(1, 90_000)
    own, expected = both(batches, Tokenizer(vocab_size=9_000))
    assert own == expected


def test_the_comparison_can_fail(monkeypatch):
    """The twin: one word counted once too often shows."""
    batches, config = [["ab cd"]], Tokenizer(vocab_size=LEAST + 1)

    def wrong(texts, split, true=bpe.count_words):
        found, counts = true(texts, split)
        counts[-1] += 1
        return found, counts

    own, expected = both(batches, config)
    assert own == expected
    monkeypatch.setattr(bpe, "count_words", wrong)
    assert train_bpe(iter(batches), config).to_str() != expected


def test_another_split_is_left_to_the_library():
    config = Tokenizer(vocab_size=300, split=r"\w+|\W")
    own, expected = both([["one two, two three"] * 3], config)
    assert own == expected


def test_more_text_than_counts_have_bits_for_is_refused(monkeypatch):
    from curation.tokenizer import training

    monkeypatch.setattr(training, "MOST_BYTES", 8)
    with pytest.raises(ValueError, match="less than 8 bytes"):
        train_bpe(iter([["nine bytes"]]), Tokenizer(vocab_size=300))
