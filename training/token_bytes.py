"""How many bytes of text each token stands for, so that a loss in nats can be told in bits per byte."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from curation.files import read_json

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # and a byte that belongs to no piece


def token_bytes(tokenizer: Path) -> np.ndarray:
    """Bytes of each token by id, int64 (largest id + 1,). A special token has none, nor has an id without a token.

    tokenizer: the folder. In a byte-level vocabulary every character of a token stands for one byte.
    """
    path = tokenizer / "tokenizer.json"
    tokens = Tokenizer.from_file(str(path))
    vocabulary = tokens.get_vocab(with_added_tokens=True)
    added = tokens.get_added_tokens_decoder()
    byte_level = "ByteLevel" in str(read_json(path)["decoder"])
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, position in vocabulary.items():
        if position in added:
            sizes[position] = 0 if added[position].special else len(token.encode())
        elif byte_level:
            sizes[position] = len(token)
        else:
            sizes[position] = 1 if BYTE.fullmatch(token) else len(token.replace(SPACE, " ").encode())
    return sizes
