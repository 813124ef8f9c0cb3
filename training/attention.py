"""Attention for packed rows: each document by itself, so nothing can leak between documents.

A micro-batch is one row without padding, several documents laid end to end. The function is registered with
transformers under the name PACKED; the model is called with the documents' lengths (`told`), which transformers
hands through to every attention layer. No mask exists that a version or a kernel could ignore: queries of one
document never meet keys of another, but for the branch of a pair, whose prompt is the other side's (see
`training.batch`). On a GPU with bfloat16 products torch's variable-length kernel takes all documents at once;
elsewhere each document is a slice of its own.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from training.batch import on_device
from training.head import Products

try:  # from torch 2.10 on, with sliding windows from 2.11 on
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

PACKED = "mixwright_packed"
WIDEST = 256  # of a head, that the kernel takes
OPTIONS = frozenset(inspect.signature(varlen_attn).parameters if varlen_attn is not None else ())


def told(model: PreTrainedModel, lengths: list[int], prefixes: list[int], device: torch.device) -> dict[str, Any]:
    """What a model is called with, so that its attention knows the documents of a row.

    `lengths` and `prefixes` are as in `packed_attention`. For the kernel the names are those that transformers has
    for flash attention: where sequences begin, int32 (documents + 1,), of queries and of keys, and the longest of
    each; and, where there are prefixes, the place in the row of every key, int64.
    """
    if not has_kernel(model):
        return {"document_lengths": lengths, "document_prefixes": prefixes}
    _require_prefixes(lengths, prefixes)
    pieces, shared = np.array(lengths), np.array(prefixes)
    begins = np.append(0, np.cumsum(pieces)).astype(np.int32)
    queries = on_device(begins, device)
    arguments = {
        "cu_seq_lens_q": queries,
        "cu_seq_lens_k": queries,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
    if shared.any():
        keys = pieces + shared
        key_begins = np.append(0, np.cumsum(keys)).astype(np.int32)
        place = np.arange(key_begins[-1]) - np.repeat(key_begins[:-1], keys)  # in its document
        lender = np.roll(begins[:-1], len(pieces) // 2)  # where document i - n / 2 begins
        own = place >= np.repeat(shared, keys)
        begin = np.where(own, np.repeat(begins[:-1] - shared, keys), np.repeat(lender, keys))
        arguments |= {
            "cu_seq_lens_k": on_device(key_begins, device),
            "max_length_k": int(keys.max()),
            "key_places": on_device(begin + place, device),
        }
    return arguments


def has_kernel(model: PreTrainedModel) -> bool:
    """Whether the rows of this model go through the variable-length kernel."""
    rounded = getattr(model, "products", Products()).rounded
    if model.device.type != "cuda" or rounded != torch.bfloat16 or "window_size" not in OPTIONS:
        return False
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // getattr(config, "num_attention_heads", 1)
    dropout = getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_pdrop", 0.0)
    return width % 8 == 0 and width <= WIDEST and not dropout


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
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int = 0,
    max_length_k: int = 0,
    key_places: torch.Tensor | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **ignored,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of a row.

    query: (1, heads, tokens, width); key and value: (1, key heads, tokens, width), key heads dividing heads.
    `document_lengths` sum to tokens. Document i of n goes on from the first `document_prefixes[i]` tokens of
    document i - n / 2, which stand in the row once; 0 for a document of its own. Returns (1, tokens, heads, width)
    and no weights. What follows is the same for the kernel (see `told`).
    Raises ValueError where the lengths do not describe the row: better no training than a leak; and for capped
    scores or sinks, which torch's attention does not have.
    """
    tokens = query.shape[2]
    if softcap is not None or s_aux is not None:
        raise ValueError("packed attention has neither capped scores (softcap) nor attention sinks (s_aux)")
    if cu_seq_lens_q is not None and query.shape[0] == 1 and attention_mask is None and not dropout:
        sequences = cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k
        return _by_kernel(query, key, value, sequences, key_places, scaling, sliding_window), None
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
    # split, not slicing: the backward pass of a split is one concatenation for all documents. By tokens first, as
    # they lie in memory on both sides of attention.
    queries, keys, values = (
        [piece.transpose(1, 2) for piece in tensor.transpose(1, 2).split(document_lengths, dim=1)]
        for tensor in (query, key, value)
    )
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
    return torch.cat([result.transpose(1, 2) for result in results], dim=1), None


def _by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sequences: tuple[torch.Tensor, torch.Tensor, int, int],
    key_places: torch.Tensor | None,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """Shapes as in `packed_attention`. The kernel lays the queries of a sequence against the end of its keys: so a
    branch, whose keys begin with what it shares, is as causal as any document."""
    # Rotations may have made queries and keys float32, which autocast would round in torch's own attention.
    query, key, value = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
    if key_places is not None:
        key, value = key.index_select(0, key_places), value.index_select(0, key_places)
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}
    if sliding_window is not None and sequences[3] > sliding_window:
        options["window_size"] = (sliding_window - 1, 0)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in OPTIONS:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return varlen_attn(query, key, value, *sequences, **options)[None]


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
