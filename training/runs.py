"""Tokens as text, apart where the loss mask changes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer


def decoded_runs(words: Tokenizer, tokens: np.ndarray, in_loss: np.ndarray) -> list[dict[str, Any]]:
    """The text of some tokens in runs of equal mask: [{in_loss, text}]. Special tokens are shown."""
    bounds = [0, *(np.flatnonzero(in_loss[1:] != in_loss[:-1]) + 1).tolist(), len(tokens)]
    return [
        {
            "in_loss": bool(in_loss[start]),
            "text": words.decode(tokens[start:end].tolist(), skip_special_tokens=False),
        }
        for start, end in pairwise(bounds)
        if end > start
    ]
