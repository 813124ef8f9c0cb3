"""The training loop, one for every method."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from training.batch import Batch, batch_of_units
from training.checkpoint import latest, restore, save
from training.config import TrainConfig
from training.data import Data
from training.model import device
from training.optimiser import learning_rate, make_optimiser
from training.outcome import Method
from training.plan import Plan
from training.trace import Trace


class NonFiniteLossError(Exception):
    """The loss or the gradient of a step is not a number. The model is as it was before that step."""


def fit(
    model: PreTrainedModel,
    method: Method,
    data: Data,
    plan: Plan,
    config: TrainConfig,
    progress: Path,
    tokenizer: Path,
    watch: Callable[[dict, float], None],
) -> Trace:
    """Train `model` in place through every step of the plan; go on from the latest checkpoint in `progress`.

    `watch` is called after each step with its row of losses and the seconds it took.
    Raises NonFiniteLossError before the optimiser step that would spoil the model.
    """
    trace, optimiser = Trace(data.head["manifest_hash"], data.sources), make_optimiser(model, config)
    found = latest(progress)
    if found is not None:
        trace = restore(found, model, optimiser, trace.manifest_hash)
    model.train()
    steps = len(plan.steps) - 1
    while trace.step < steps:
        began = time.perf_counter()
        rate = learning_rate(config, trace.step, steps)
        row = _one_step(model, method, optimiser, data, plan, config, trace, rate)
        trace.step += 1
        watch(row, time.perf_counter() - began)
        if trace.step % config.checkpoint_every == 0 and trace.step < steps:
            save(progress, trace, model, optimiser, tokenizer)
    model.eval()
    return trace


def _one_step(
    model: PreTrainedModel,
    method: Method,
    optimiser: torch.optim.Optimizer,
    data: Data,
    plan: Plan,
    config: TrainConfig,
    trace: Trace,
    rate: float,
) -> dict:
    """One optimiser step: sums over all micro-batches, one division, clip, update. Returns the step's row."""
    total, count, tokens, metrics = 0.0, 0, 0, {}
    source_sum, source_count = np.zeros(len(data.sources)), np.zeros(len(data.sources), np.int64)
    for units in plan.micro_batches(trace.step, config.micro_batch_tokens):
        batch = batch_of_units(data, plan, units, device())
        outcome = method.outcome(model, batch)
        _require_finite(outcome.loss.sum, trace, data, batch)
        outcome.loss.sum.backward()
        each = outcome.loss.each.double().cpu().numpy()
        total += float(outcome.loss.sum.detach().double())
        count += outcome.loss.count
        source_sum += np.bincount(outcome.source, each, len(data.sources))
        source_count += np.bincount(outcome.source, minlength=len(data.sources))
        for name, values in outcome.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + float(values.double().sum())
        tokens += trace.add(data, plan, units, batch)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(count)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    _require_finite(norm, trace, data, None)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    row = {
        "step": trace.step + 1,
        "tokens": tokens,
        "count": count,
        "loss": total / count,
        "learning_rate": rate,
        "gradient_norm": float(norm),
        **{name: value / count for name, value in sorted(metrics.items())},
    }
    trace.steps.append(row)
    trace.by_source += [
        {
            "step": trace.step + 1,
            "source": data.sources[s],
            "count": int(source_count[s]),
            "loss_sum": source_sum[s],
        }
        for s in np.flatnonzero(source_count)
    ]
    return row


def _require_finite(value: torch.Tensor, trace: Trace, data: Data, batch: Batch | None) -> None:
    value = value.detach()
    if not bool(torch.isfinite(value)):
        where = f" in documents {data.names(np.unique(batch.rows))}" if batch is not None else ""
        what = "loss" if batch is not None else "gradient norm"
        raise NonFiniteLossError(
            f"step {trace.step + 1}: the {what} is {float(value)}{where}; nothing was updated. "
            "Lower the learning rate, or look at the documents with: mixwright why ID"
        )
