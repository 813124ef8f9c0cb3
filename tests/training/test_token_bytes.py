"""Bytes of tokens add up to the bytes of the text."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.data import open_data
from training.token_bytes import token_bytes

from .conftest import BYTES, VOCABULARY

TEXT = ["the quick brown fox", "Füße, naïve café", "日本語 text and 😀 more", "  indented\n\tlines"] * 3


def saved(tokenizer: Tokenizer, folder) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))


def test_of_a_byte_level_vocabulary(tmp_path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    saved(tokenizer, tmp_path)
    sizes = token_bytes(tmp_path)
    for text in TEXT:
        assert sizes[tokenizer.encode(text).ids].sum() == len(text.encode())
    assert sizes[tokenizer.token_to_id("<end>")] == 0
    assert sizes.max() > 2


def test_of_pieces_that_fall_back_on_bytes(tmp_path):
    pieces = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    pieces |= {piece: 257 + n for n, piece in enumerate(["▁", "é", "▁ca", "c", "a", "f", "▁c"])}
    tokenizer = Tokenizer(models.BPE(pieces, [("▁", "c"), ("▁c", "a")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    saved(tokenizer, tmp_path)
    text = "a café 日"
    encoded = tokenizer.encode(text)
    assert "▁ca" in encoded.tokens
    assert "<0xE6>" in encoded.tokens
    assert token_bytes(tmp_path)[encoded.ids].sum() == len(text.encode())


def test_of_the_data_that_is_trained_on(texts, tokenizer):
    sizes = token_bytes(tokenizer.folder / "tokenizer")
    assert len(sizes) == VOCABULARY
    assert sizes.sum() == BYTES
    data = open_data(texts)
    ends = data.start + data.length
    counted = [sizes[data.tokens[start:end]].sum() for start, end in zip(data.start, ends, strict=True)]
    assert np.array_equal(counted, data.bytes)
