"""Attention for packed rows: each document is a slice of its own, so nothing can leak between documents.

A micro-batch is one row without padding, several documents laid end to end. The function is registered with
transformers under the name PACKED; the model is called with `document_lengths`, which transformers hands through
to every attention layer. No mask exists that a version or a kernel could ignore: queries of one document never
meet keys of another, but for the branch of a pair, whose prompt is the other side's (see `training.batch`).
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
    document_prefixes: list[int] | None = None,
    **ignored,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of a row.

    query: (1, heads, tokens, width); key and value: (1, key heads, tokens, width), key heads dividing heads.
    `document_lengths` sum to tokens. Document i of n goes on from the first `document_prefixes[i]` tokens of
    document i - n / 2, which stand in the row once; 0 for a document of its own. Returns (1, tokens, heads, width)
    and no weights. Raises ValueError where the lengths do not describe the row: better no training than a leak.
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
    prefixes = document_prefixes or [0] * len(document_lengths)
    _require_prefixes(document_lengths, prefixes)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # split, not slicing: the backward pass of a split is one concatenation for all documents.
    queries, keys, values = (tensor.split(document_lengths, dim=2) for tensor in (query, key, value))
    results = []
    for place, prefix in enumerate(prefixes):
        lender, own = place - len(prefixes) // 2, (keys[place], values[place])
        lent = (keys[lender][:, :, :prefix], values[lender][:, :, :prefix])
        one_key, one_value = (torch.cat(both, dim=2) for both in zip(lent, own, strict=True)) if prefix else own
        mask = _mask(queries[place], prefix, sliding_window)
        results.append(
            scaled_dot_product_attention(
                queries[place],
                one_key,
                one_value,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                dropout_p=dropout,
            )
        )
    return torch.cat(results, dim=2).transpose(1, 2).contiguous(), None


def _require_prefixes(lengths: list[int], prefixes: list[int]) -> None:
    half = len(lengths) // 2
    if len(prefixes) != len(lengths) or any(
        prefix and (place < half or len(lengths) % 2 or prefix > lengths[place - half])
        for place, prefix in enumerate(prefixes)
    ):
        raise ValueError(
            f"document_prefixes {prefixes} do not fit document_lengths {lengths}: those of the first half are 0, "
            "those of the second half lie within the documents of the first"
        )


def _mask(query: torch.Tensor, prefix: int, sliding_window: int | None) -> torch.Tensor | None:
    """Which keys a query sees, (tokens, prefix + tokens) bool; None where that is plainly causal.

    A sliding window is a band below the diagonal; one that reaches the start is no window.
    """
    length = query.shape[2]
    windowed = sliding_window is not None and prefix + length > sliding_window
    if not prefix and not windowed:
        return None
    place = torch.arange(prefix + length, device=query.device)
    distance = place[prefix:, None] - place[None, :]
    return (distance >= 0) & (distance < sliding_window) if windowed else distance >= 0


# Without an entry of its own in transformers' mask interface, the model builds no mask for this name.
AttentionInterface.register(PACKED, packed_attention)
