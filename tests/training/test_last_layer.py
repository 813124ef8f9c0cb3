"""Equality: what the loss does not read left out, and computed: positions of the last layer, ends of sequences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training import last_layer
from training import model as models
from training.batch import make_batch, pair_batch, without_unread
from training.causal_lm import Causal
from training.config import Lora
from training.lora import add_adapters
from training.model import device, hidden_states

from .test_batch import gradients, judged, methods, model, same, with_head  # noqa: F401
from .test_probe import GOOD, build

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.mark.parametrize("name", ["causal", "dpo", "reward"])
def test_positions_that_no_loss_reads_change_nothing(model, judged, name, monkeypatch):  # noqa: F811
    method = Causal(judged) if name == "causal" else methods(judged)[name]
    model = with_head(model, name)
    batch = pair_batch(judged, np.arange(judged.rows), 256, device())
    monkeypatch.setattr(models, "without_unread", lambda batch, places: (batch, places))
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


@pytest.mark.parametrize("name", ["causal", "dpo", "reward"])
def test_what_follows_the_last_position_that_is_read_changes_nothing(model, judged, name, monkeypatch):  # noqa: F811
    """The bug: to take one more token of each sequence for unread."""
    method = Causal(judged) if name == "causal" else methods(judged)[name]
    model = with_head(model, name)
    batch = pair_batch(judged, np.arange(judged.rows), 256, device())
    tokens = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, given: tokens.append(given["input_ids"].numel()), with_kwargs=True
    )
    found = gradients(model, method, [batch])
    monkeypatch.setattr(models, "without_unread", lambda batch, places: (batch, places))
    expected = gradients(model, method, [batch])
    assert (tokens[0] < tokens[1]) == (name != "reward")  # a reward is read at the last token
    assert same(found, expected)
    if name == "reward":
        return

    def one_more(batch, places):
        cut, places = without_unread(batch, places)
        other = cut.tokens.clone()
        other[0, np.cumsum(cut.pieces) - 1] = 0
        return replace(cut, tokens=other), places

    monkeypatch.setattr(models, "without_unread", one_more)
    assert not same(gradients(model, method, [batch]), expected)


def test_a_prompt_that_the_other_side_goes_on_from_is_kept(judged):  # noqa: F811
    """Also where nothing of its own side is read; and of a document that nothing is read of, one token."""
    batch = pair_batch(judged, np.arange(judged.rows), 256, device())
    half, first = judged.rows, sum(batch.pieces[: judged.rows])
    places = torch.arange(first, batch.tokens.numel())  # of the rejected sides alone
    cut, moved = without_unread(batch, places)
    assert cut.pieces[:half] == [max(1, shared) for shared in batch.shared[half:]]
    assert cut.pieces[half:] == batch.pieces[half:]
    assert torch.equal(cut.tokens[0, moved], batch.tokens[0, places])
    assert torch.equal(cut.positions[0, moved], batch.positions[0, places])
    nothing = np.zeros(3, np.int64)
    rows = np.arange(3)
    text = make_batch(judged, rows, judged.start[rows], judged.length[rows], nothing, device())
    cut, moved = without_unread(text, torch.tensor([text.pieces[0] + 3]))
    assert (cut.lengths, moved.tolist()) == ([1, 4, 1], [4])


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
