"""Equality: the last layer at what the loss reads alone, and at all positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import last_layer
from training.batch import pair_batch
from training.causal_lm import Causal
from training.model import device

from .test_batch import gradients, judged, methods, model, same, with_head  # noqa: F401


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


def test_a_place_that_is_read_twice_counts_twice(model, judged, monkeypatch):  # noqa: F811
    """The last token of a shared prompt predicts the first of both answers. The bug: to take it as two places."""
    batch = pair_batch(judged, np.arange(judged.rows), 256, device())
    assert len(batch.selected) > len(batch.selected.unique())
    method = methods(judged)["dpo"]
    right = gradients(model, method, [batch])
    monkeypatch.setattr(torch.Tensor, "unique", lambda places: places)
    assert not same(gradients(model, method, [batch]), right)
