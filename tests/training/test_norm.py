"""The kernels for RMSNorm against its definition in float64, and which modules they take."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from training import norm
from training.model import Specials, new_causal
from training.norm import RMSNorm, fuse_norms

from .conftest import TINY, VOCABULARY

EPSILON = 1e-3


def passes(function, hidden, weight, gradient) -> list[np.ndarray]:
    """Output and gradients, float64."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    output = function(hidden, weight)
    output.backward(gradient)
    return [one.detach().double().numpy() for one in (output, hidden.grad, weight.grad)]


def definition(hidden, weight):
    return weight * hidden / torch.sqrt(hidden.square().mean(-1, keepdim=True) + EPSILON)


def agree(shape: tuple[int, ...], seed: int, apart: bool = False) -> bool:
    """Whether the kernels give what the definition does; `apart`: for rows that do not lie side by side."""
    draw = torch.Generator().manual_seed(seed)
    hidden, gradient = torch.randn((2, *shape), generator=draw).double()
    weight = torch.rand(shape[-1], generator=draw).double() + 0.5
    single = [one.float() for one in (hidden, weight, gradient)]
    if apart:
        single[0], single[2] = (one.transpose(0, 1).contiguous().transpose(0, 1) for one in (single[0], single[2]))
    ours = passes(lambda x, w: RMSNorm.apply(x, w, EPSILON), *single)
    theirs = passes(definition, hidden, weight, gradient)
    rows = max(1, hidden.numel() // shape[-1])
    return all(np.allclose(a, b, rtol=1e-4, atol=3e-6 * rows**0.5) for a, b in zip(ours, theirs, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=3), st.integers(0, 1 << 30), st.booleans())
def test_output_and_gradients_are_those_of_the_definition(shape, seed, apart):
    assert agree(tuple(shape), seed, apart and len(shape) > 1)


def test_a_gradient_that_forgets_the_length_is_seen(monkeypatch):
    def forgetful(hidden, weight, scale, gradient, hidden_grad, weight_grad):
        hidden_grad[:] = scale[:, None] * gradient * weight
        weight_grad[:] = (gradient * hidden * scale[:, None]).sum(0)

    assert agree((9, 33), 1)
    monkeypatch.setattr(norm, "_backward", forgetful)
    assert not agree((9, 33), 1)


def test_a_sum_over_many_rows_loses_little():
    assert agree((20_000, 3), 5)


def test_what_is_no_number_stays_none():
    hidden = torch.randn(3, 40)
    hidden[1, 7] = torch.nan
    output = RMSNorm.apply(hidden, torch.ones(40), EPSILON)
    assert output[1].isnan().all()
    assert output[[0, 2]].isfinite().all()


def test_only_norms_that_compute_the_same_are_taken():
    model = torch.nn.ModuleList(
        [LlamaRMSNorm(8), GemmaRMSNorm(8), torch.nn.LayerNorm(8), LlamaRMSNorm(8).double()]
    )
    kinds = [type(one) for one in fuse_norms(model)]
    assert kinds[1:3] == [GemmaRMSNorm, torch.nn.LayerNorm]
    assert kinds[0] is not LlamaRMSNorm
    assert issubclass(kinds[0], LlamaRMSNorm)
    wide = torch.randn(2, 8).double()
    assert torch.equal(model[3](wide), LlamaRMSNorm(8).double()(wide))  # not of the kernels' type: torch's own


def test_a_model_has_the_kernels_and_frozen_norms_get_no_gradient():
    model = new_causal(TINY, VOCABULARY, Specials(0, 1, 2))
    norms = [one for one in model.modules() if hasattr(one, "variance_epsilon")]
    assert len(norms) == 2 * TINY.layers + 1
    assert all(type(one) is not LlamaRMSNorm for one in norms)
    norms[0].weight.requires_grad_(False)
    hidden = torch.randn(4, TINY.hidden_size, requires_grad=True)
    norms[0](hidden).sum().backward()
    assert norms[0].weight.grad is None
    assert hidden.grad is not None


def test_no_rows():
    output, hidden, weight = passes(
        lambda x, w: RMSNorm.apply(x, w, EPSILON), *map(torch.ones, ((0, 4), 4, (0, 4)))
    )
    assert output.shape == hidden.shape == (0, 4)
    assert not weight.any()
