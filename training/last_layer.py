"""The last layer computed only where it is read.

A loss reads the last hidden states at some positions alone: those that predict an answer's tokens, or the last one
of a sequence. Up to the last layer all positions count, since later ones attend to them; in it, whatever works
position by position (queries, the attention's output matrix, the feed-forward block) is needed nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

WORTH = 0.9  # share of the positions up to which leaving out the others pays


@contextlib.contextmanager
def only_at(model: PreTrainedModel, places: torch.Tensor, tokens: int) -> Iterator[None]:
    """Inside, the last hidden states of a forward pass over `tokens` positions are right at `places` alone, (n,).

    Elsewhere they lack what was left out, and nothing may read them. Gradients of what is read at `places`, where
    one may stand twice, are those of the whole pass. A model is left as it is on a GPU, which would have to be
    waited for, and where its last layer is compiled. No backward pass may compute that layer again: it would find
    it whole (see `model.trade_memory`).
    """
    hooks = []
    if len(places) <= WORTH * tokens and not places.is_cuda:
        places = places.unique()
        for module in by_position(model):
            hooks.append(module.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, places], *inputs[1:])))
            hooks.append(module.register_forward_hook(lambda _, __, output: _spread(output, places, tokens)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def by_position(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The modules of the last layer that map each position by itself, and whose output no other position reads."""
    layers = getattr(model.base_model, "layers", None)
    if not layers:
        return []
    attention = getattr(layers[-1], "self_attn", None)
    found = [getattr(attention, name, None) for name in ("q_proj", "o_proj")] + [getattr(layers[-1], "mlp", None)]
    modules = [module for module in found if isinstance(module, torch.nn.Module)]
    return [] if any(module._compiled_call_impl for module in modules) else modules


def _spread(output: Any, places: torch.Tensor, tokens: int) -> Any:
    """(1, n, width) at its places among zeros: (1, tokens, width). What follows in a tuple, such as the scores of
    a router, is read by no loss here."""
    if isinstance(output, tuple):
        return _spread(output[0], places, tokens), *output[1:]
    return output.new_zeros(1, tokens, output.shape[-1]).index_copy(1, places, output)
