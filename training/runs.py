"""Tokens as text, apart where the loss mask changes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer


def last_turn(in_loss: np.ndarray) -> int:
    """Where the last turn in the loss begins, given the mask of a document.

    A turn is a run of tokens in the loss: the token that opens the next one is not. 0 where nothing is in it.
    """
    places = np.flatnonzero(in_loss)
    if not len(places):
        return 0
    gaps = np.flatnonzero(np.diff(places) > 1)
    return int(places[gaps[-1] + 1] if len(gaps) else places[0])


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
