"""Attention for packed rows: each document is a slice of its own, so nothing can leak between documents.

A micro-batch is one row without padding, several documents laid end to end. The function is registered with
transformers under the name PACKED; the model is called with `document_lengths`, which transformers hands through
to every attention layer. No mask exists that a version or a kernel could ignore: queries of one document never
meet keys of another.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED = "mixwright_packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    document_lengths: list[int] | None = None,
    **ignored,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of a row.

    query: (1, heads, tokens, width); key and value: (1, key heads, tokens, width), key heads dividing heads.
    `document_lengths` sum to tokens. Returns (1, tokens, heads, width) and no weights.
    Raises ValueError where the lengths do not describe the row: better no training than a leak.
    """
    tokens = query.shape[2]
    if (
        document_lengths is None
        or sum(document_lengths) != tokens
        or query.shape[0] != 1
        or attention_mask is not None
    ):
        raise ValueError(
            f"packed attention wants one row, no mask, and document_lengths that sum to its {tokens} tokens; "
            f"found {query.shape[0]} rows, mask {attention_mask is not None}, lengths {document_lengths}"
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # split, not slicing: the backward pass of a split is one concatenation for all documents.
    pieces = zip(*(tensor.split(document_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    results = []
    for one_query, one_key, one_value in pieces:
        window = _window_mask(one_query, sliding_window)
        results.append(
            scaled_dot_product_attention(
                one_query,
                one_key,
                one_value,
                attn_mask=window,
                is_causal=window is None,
                scale=scaling,
                dropout_p=dropout,
            )
        )
    return torch.cat(results, dim=2).transpose(1, 2).contiguous(), None


def _window_mask(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """The banded causal mask of a sliding window, (tokens, tokens) bool; None where it reaches the start."""
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=query.device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < sliding_window)


# Without an entry of its own in transformers' mask interface, the model builds no mask for this name.
AttentionInterface.register(PACKED, packed_attention)
