"""Equality: the last layer at what the loss reads alone, and at all positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training import last_layer
from training.batch import pair_batch
from training.causal_lm import Causal
from training.config import Lora
from training.lora import add_adapters
from training.model import device, hidden_states

from .test_batch import gradients, judged, methods, model, same, with_head  # noqa: F401
from .test_probe import GOOD, build


@pytest.mark.parametrize("name", ["causal", "dpo", "reward"])
def test_positions_that_no_loss_reads_change_nothing(model, judged, name, monkeypatch):  # noqa: F811
    method = Causal(judged) if name == "causal" else methods(judged)[name]
    model = with_head(model, name)
    batch = pair_batch(judged, np.arange(judged.rows), 256, device())
    computed = []
    mlp = model.base_model.layers[-1].mlp
    mlp.down_proj.register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].shape[1]))
    found = gradients(model, method, [batch])
    monkeypatch.setattr(last_layer, "WORTH", 0)
    expected = gradients(model, method, [batch])
    assert computed[0] < computed[1] == batch.tokens.numel()
    assert same(found, expected)
    assert not mlp._forward_hooks
    assert not mlp._forward_pre_hooks


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("count", [12, 0])  # a micro-batch may have nothing in the loss
def test_other_architectures(judged, name, adapted, count):  # noqa: F811
    """Queries from a matrix of three, feed-forward blocks of experts, no layers to be found; and with adapters."""
    model = build(GOOD[name]).eval()  # noqa: F811
    if adapted:
        add_adapters(model, Lora(rank=2))
        for parameter in model.parameters():  # adapters begin as nothing
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    batch = pair_batch(judged, np.arange(2), 256, device())
    batch = replace(batch, tokens=batch.tokens % 64)
    places, results = batch.selected[:count], []
    for states in (lambda: hidden_states(model, batch, places), lambda: hidden_states(model, batch)[places]):
        model.zero_grad()
        found = states()
        (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        results.append([found.detach(), *(gradients if count else [])])
    assert len(results[0]) == len(results[1])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_a_place_that_is_read_twice_counts_twice(model, judged, monkeypatch):  # noqa: F811
    """The last token of a shared prompt predicts the first of both answers. The bug: to take it as two places."""
    batch = pair_batch(judged, np.arange(judged.rows), 256, device())
    assert len(batch.selected) > len(batch.selected.unique())
    method = methods(judged)["dpo"]
    right = gradients(model, method, [batch])
    monkeypatch.setattr(torch.Tensor, "unique", lambda places: places)
    assert not same(gradients(model, method, [batch]), right)
