"""What only a GPU can show: its kernels give what the CPU gives, documents do not leak, a killed run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curation.steps import Context
from training import head, loop
from training.attention import has_kernel, packed_attention, told
from training.batch import pair_batch
from training.config import ModelConfig, TrainConfig
from training.data import open_data
from training.model import Specials, compile_blocks, hidden_states, new_causal
from training.precision import in_bfloat16
from training.probe import probe
from training.station import train

from .conftest import TINY
from .test_train import columns, later

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
GPU = torch.device("cuda")
OLMO = ModelConfig(architecture="olmo3", hidden_size=64, layers=4, heads=4, max_position=256, sliding_window=6)
GROUPED = ModelConfig(hidden_size=64, layers=2, heads=4, kv_heads=2, max_position=256)


def model_of(shape: ModelConfig, compiled: bool = False):
    torch.manual_seed(0)
    model = in_bfloat16(new_causal(shape, 266, Specials(256, 262, 257)).to(GPU))
    assert has_kernel(model)
    if compiled:
        compile_blocks(model)
    return model


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_kernel_is_attention_by_document(window, key_heads):
    """Against slices in float32: output and gradients, with and without prefixes, to bfloat16's rounding."""
    model = model_of(GROUPED)
    for lengths, prefixes in (([5, 70, 1], [0, 0, 0]), ([20, 30, 4, 9], [0, 0, 11, 30])):
        tokens = sum(lengths)
        exact = [torch.randn(1, heads, tokens, 16, device=GPU).bfloat16() for heads in (4, key_heads, key_heads)]
        weight = torch.randn(1, tokens, 4, 16, device=GPU)
        results = []
        for kind, arguments in (
            (torch.bfloat16, told(model, lengths, prefixes, GPU)),
            (torch.float32, {"document_lengths": lengths, "document_prefixes": prefixes}),
        ):
            given = [tensor.to(kind).requires_grad_() for tensor in exact]
            output = packed_attention(None, *given, None, sliding_window=window, **arguments)[0]
            results.append([output, *torch.autograd.grad((output * weight).sum(), given)])
        for ours, theirs in zip(*results, strict=True):
            assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", [GROUPED, OLMO])
def test_no_document_sees_another(shape, compiled):
    probe(model_of(shape, compiled))


@torch.no_grad()
def test_neither_side_of_a_pair_sees_the_other(context, pairs):
    model, data = model_of(OLMO), open_data(pairs)
    batch = pair_batch(data, np.arange(6), 256, GPU)
    assert any(batch.shared)
    before = hidden_states(model, batch).split(batch.pieces)
    last = batch.tokens.clone()
    last[0, batch.pieces[0] - 1] += 1  # of the first chosen side, beyond what is shared
    after = hidden_states(model, replace(batch, tokens=last)).split(batch.pieces)
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [False] + [True] * 11


@pytest.mark.parametrize("fused", [False, True])
def test_rounded_products_of_the_output_matrix(fused):
    """Losses and gradients against float64: far below bfloat16's own rounding of logits."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(700, 64, device=GPU), torch.randn(1024, 64, device=GPU) / 8
    targets = torch.randint(0, 1024, (700,), device=GPU)
    found = []
    for kind, products in (
        (torch.float32, head.Products(torch.bfloat16, fused)),
        (torch.float64, head.Products()),
    ):
        given = hidden.to(kind).requires_grad_(), weight.to(kind).requires_grad_()
        total, nll = head.cross_entropy(*given, targets, 1e-3, products)
        logps = head.token_logps(*given, targets, products)
        found.append([nll, logps, *torch.autograd.grad(total, given), *torch.autograd.grad(logps.sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() < 0.005 * theirs.norm()


def runs(context: Context, monkeypatch, config: TrainConfig, data, tokenizer, parent=None) -> list:
    """The losses and gradient norms of a stage on the GPU and on the CPU."""
    found = []
    for place in ("gpu", "cpu"):
        with monkeypatch.context() as patch:
            if place == "cpu":
                patch.setattr(torch.cuda, "is_available", lambda: False)
            output = train(Context(context.workspace / place), config.method, data, tokenizer, parent, config)
            table = columns(output, "losses")
            found.append(np.array([table["loss"], table["gradient_norm"]]))
    return found


@pytest.mark.parametrize("shape", [TINY, OLMO])
def test_losses_in_float32_are_those_of_the_cpu(context, texts, tokenizer, tiny, shape, monkeypatch):
    config = tiny.model_copy(update={"model": shape, "epochs": 3})
    gpu, cpu = runs(context, monkeypatch, config, texts, tokenizer)
    assert gpu.shape[1] >= 20
    np.testing.assert_allclose(gpu, cpu, rtol=1e-4)


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_pairs_in_float32_are_those_of_the_cpu(context, texts, pairs, tokenizer, tiny, method, monkeypatch):
    parent = train(context, "pretrain", texts, tokenizer, None, tiny)
    gpu, cpu = runs(context, monkeypatch, later(tiny, method=method), pairs, tokenizer, parent)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_losses_in_bfloat16_are_near(context, texts, tokenizer, tiny, compiled):
    losses = []
    for changes in ({}, {"precision": "bfloat16", "compile": compiled, "gradient_checkpointing": compiled}):
        config = tiny.model_copy(update={"model": OLMO, "epochs": 2, **changes})
        losses.append(columns(train(context, "pretrain", texts, tokenizer, None, config), "losses")["loss"])
    np.testing.assert_allclose(*losses, rtol=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_goes_on_ends_in_the_same_bits(tmp_path: Path, texts, tokenizer, tiny, precision, monkeypatch):
    config = tiny.model_copy(update={"precision": precision, "checkpoint_every": 3})
    whole = train(Context(tmp_path / "whole"), "pretrain", texts, tokenizer, None, config)
    save = loop.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(Context(tmp_path / "stopped"), "pretrain", texts, tokenizer, None, config)
    again = train(Context(tmp_path / "stopped"), "pretrain", texts, tokenizer, None, config)
    assert again.content == whole.content
