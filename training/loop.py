"""The training loop, one for every method."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from training.batch import Batch, batch_of_units
from training.checkpoint import average, averaged_steps, latest, restore, save, snapshot
from training.config import TrainConfig
from training.data import Data
from training.last_layer import by_position
from training.model import device
from training.optimiser import Share, learning_rate, make_optimiser, shares
from training.outcome import Method, Outcome
from training.parallel import Costs, Crew, split, twin
from training.plan import Plan
from training.ranks import Ranks
from training.sharding import Pass, share_out
from training.size import sharing_threads
from training.tied import join_gradients
from training.token_bytes import token_bytes
from training.trace import Trace, count_tokens

Watch = Callable[[dict, list[dict], float], None]


class NonFiniteLossError(Exception):
    """The loss or the gradient of a step is not a number. The model is as it was before that step."""


@dataclass(frozen=True)
class Run:
    """What the steps of a run share."""

    model: PreTrainedModel
    crew: Crew[Pass]  # the model with the method; several where the threads share micro-batches
    costs: Costs
    shares: list[Share]  # of the parameters, one for each member
    data: Data
    plan: Plan
    config: TrainConfig
    ranks: Ranks
    token_bytes: np.ndarray | None  # of each token; None where a loss is not one of tokens

    @property
    def sharded(self) -> bool:
        return self.config.sharding != "none"


@dataclass(frozen=True)
class Seen:
    """A micro-batch that has been through both passes. Its numbers may still be on their way."""

    units: np.ndarray
    batch: Batch
    outcome: Outcome


@dataclass
class Sums:
    """What a step adds up over its micro-batches, and over the ranks."""

    sources: int
    loss: float = 0.0
    count: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    by_source: np.ndarray = field(init=False)  # float64 (3, sources): loss, terms, bytes of their tokens
    account: np.ndarray = field(init=False)  # float64 (parts, sources): tokens, see `count_tokens`

    def __post_init__(self):
        self.by_source, self.account = np.zeros((3, self.sources)), np.zeros((4, self.sources))

    def add(self, run: Run, seen: Seen, loss: float, each: np.ndarray, metrics: np.ndarray) -> None:
        """What a micro-batch gave, brought back from the device: metrics float64 (names, count), by name."""
        outcome, batch = seen.outcome, seen.batch
        self.loss += loss
        self.count += outcome.loss.count
        self.by_source[0] += np.bincount(outcome.source, each, self.sources)
        self.by_source[1] += np.bincount(outcome.source, minlength=self.sources)
        if run.token_bytes is not None:
            sizes = run.token_bytes[batch.target_ids]
            self.by_source[2] += np.bincount(outcome.source, sizes, self.sources)
        self.account += count_tokens(run.data, run.plan, seen.units, batch)
        for name, values in zip(outcome.metrics, metrics, strict=True):
            self.metrics[name] = self.metrics.get(name, 0.0) + float(values.sum())

    def over(self, ranks: Ranks) -> Sums:
        """The sums over all ranks. A rank that had no micro-batch learns the metrics' names from the first."""
        names = ranks.agree(sorted(self.metrics))
        own = [self.loss, float(self.count), *(self.metrics.get(name, 0.0) for name in names)]
        flat = ranks.sum(np.concatenate([own, self.by_source.ravel(), self.account.ravel()]))
        total = Sums(self.sources, float(flat[0]), int(flat[1]))
        total.metrics = dict(zip(names, flat[2:].tolist(), strict=False))
        total.by_source, total.account = np.split(flat[len(own) :].reshape(-1, self.sources), [3])
        return total


def fit(
    model: PreTrainedModel,
    method: Method,
    data: Data,
    plan: Plan,
    config: TrainConfig,
    progress: Path,
    tokenizer: Path,
    watch: Watch,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> Trace:
    """Train `model` in place through every step of the plan; go on from the latest checkpoint in `progress`.

    On a CPU torch's threads share each micro-batch (see `training.parallel`), but for models that
    `size.sharing_threads` leaves out and those with dropout.
    `watch` is called after each step with its row of losses, the rows by source, and the seconds it took.
    Raises NonFiniteLossError before the optimiser step that would spoil the model.
    """
    trace = Trace(data.head["manifest_hash"], data.sources)
    steps = len(plan.steps) - 1
    averaged = averaged_steps(steps, config.average_last, config.average_every)
    passes = Pass(model, method)
    if config.sharding != "none":
        share_out(passes)
    else:
        join_gradients(model)
    sizes = token_bytes(tokenizer) if config.method == "causal" else None
    optimiser = make_optimiser(model, config)
    found = latest(progress)
    if found is not None:
        trace = restore(found, model, optimiser, trace.manifest_hash)
    model.train()
    with Crew(_members(passes, data, plan, config)) as crew:
        parts = shares(optimiser, [member.model for member in crew.members])
        run = Run(model, crew, _costs(model), parts, data, plan, config, ranks, sizes)
        while trace.step < steps:
            began = time.perf_counter()
            torch.manual_seed(_seed(config.seed, trace.step, ranks.rank))
            row, by_source = _one_step(run, trace, learning_rate(config, trace.step, steps))
            trace.steps.append(row)
            trace.by_source += by_source
            trace.step += 1
            watch(row, by_source, time.perf_counter() - began)
            if trace.step in averaged:
                snapshot(progress, trace.step, model, ranks)
            if trace.step % config.checkpoint_every == 0 and trace.step < steps:
                save(progress, trace, model, optimiser, tokenizer, ranks)
    if averaged:
        ranks.wait()
        average(progress, averaged, model)
    model.eval()
    return trace


def _members(passes: Pass, data: Data, plan: Plan, config: TrainConfig) -> list[Pass]:
    """The model with the method, for each thread that takes a part of a micro-batch: one where that does not pay,
    or where the model draws random numbers, which threads would draw in any order."""
    learned = sum(parameter.numel() for parameter in passes.parameters() if parameter.requires_grad)
    members = sharing_threads(learned, config) if device().type == "cpu" else 1
    if members == 1 or _draws(passes, batch_of_units(data, plan, np.zeros(1, np.int64), device())):
        return [passes]
    return [passes, *(Pass(twin(passes.model), passes.method) for _ in range(members - 1))]


@torch.no_grad()
def _draws(passes: Pass, batch: Batch) -> bool:
    before = torch.get_rng_state()
    passes(batch)
    return not torch.equal(before, torch.get_rng_state())


def _costs(model: PreTrainedModel) -> Costs:
    """By the numbers of parameters that a token meets, and by attention at half the rate of products."""
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    embedded = {id(module.weight) for module in (output, model.get_input_embeddings()) if module is not None}
    layers = sum(one.numel() for one in model.parameters() if id(one) not in embedded)
    rare = sum(one.numel() for module in by_position(model) for one in module.parameters())
    always = max(1, layers - rare)
    # Forward and backward passes have 6 operations a parameter, and 14 a query, key and number of the hidden size.
    pair = 2 * 14 / 6 * config.num_hidden_layers * config.hidden_size / always
    return Costs(0.0 if output is None else (output.weight.numel() + rare) / always, pair)


def _seed(seed: int, step: int, rank: int) -> int:
    """Of torch's generator, for a step on a rank: what is drawn depends on nothing that came before."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def _one_step(run: Run, trace: Trace, rate: float) -> tuple[dict, list[dict]]:
    """One optimiser step: sums over all micro-batches of all ranks, one division (which clips as well), update.

    Returns the step's row and its rows by source.
    """
    seen = []
    for units, counts in _share(run, trace.step):
        parts = split(run.plan, units, len(run.crew.members), run.costs)
        found = list(run.crew.each(functools.partial(_both_passes, run, counts), parts))
        seen += found if counts else []
    _of_shares(run, Share.gather)
    sums = _add_up(run, trace, seen).over(run.ranks)
    if not run.sharded:  # else the backward pass has added them
        run.ranks.sum_gradients([one for one in run.model.parameters() if one.requires_grad])
    norm = float(torch.cat(_of_shares(run, Share.norm)).norm()) / sums.count
    _require_finite(norm, trace, run.data, None)
    divisor = sums.count * max(1.0, (norm + 1e-6) / run.config.clip)  # as torch.nn.utils.clip_grad_norm_ does
    _of_shares(run, lambda share: share.update(rate, divisor))
    tokens = trace.add(sums.account)
    return _rows(run, trace.step + 1, sums, tokens, rate, norm)


def _of_shares(run: Run, work: Callable[[Share], Any]) -> list[Any]:
    return list(run.crew.each(lambda _, share: work(share), run.shares))


def _both_passes(run: Run, counts: bool, passes: Pass, units: np.ndarray) -> Seen:
    batch = batch_of_units(run.data, run.plan, units, device())
    loss, outcome = passes(batch)
    (loss if counts else loss * 0).backward()
    return Seen(units, batch, replace(outcome, loss=outcome.loss._replace(sum=loss.detach())))


def _share(run: Run, step: int) -> list[tuple[np.ndarray, bool]]:
    """This rank's micro-batches of a step, each with whether it counts."""
    batches = run.plan.micro_batches(step, run.config.micro_batch_tokens)
    return run.ranks.rounds(batches) if run.sharded else [(units, True) for units in run.ranks.share(batches)]


def _rows(run: Run, step: int, sums: Sums, tokens: int, rate: float, norm: float) -> tuple[dict, list[dict]]:
    row = {
        "step": step,
        "tokens": tokens,
        "count": sums.count,
        "loss": sums.loss / sums.count,
        "learning_rate": rate,
        "gradient_norm": norm,
        **{name: value / sums.count for name, value in sorted(sums.metrics.items())},
    }
    loss, count, size = sums.by_source
    by_source = [
        {
            "step": step,
            "source": run.data.sources[source],
            "count": int(count[source]),
            "loss_sum": float(loss[source]),
            "bytes": int(size[source]),
        }
        for source in np.flatnonzero(count)
    ]
    return row, by_source


def _add_up(run: Run, trace: Trace, seen: list[Seen]) -> Sums:
    """The sums over a step's micro-batches. Their numbers are brought from the device at once: a GPU that is asked
    after each of them stands idle until it is told of the next.

    Raises NonFiniteLossError, with the documents of the first micro-batch whose loss is not a number.
    """
    sums = Sums(len(run.data.sources))
    tensors = [
        value.double().reshape(-1)
        for one in seen
        for value in (one.outcome.loss.sum, one.outcome.loss.each, *one.outcome.metrics.values())
    ]
    values = torch.cat(tensors).cpu().numpy() if tensors else np.zeros(0)
    place = 0
    for one in seen:
        rows, count = 1 + len(one.outcome.metrics), one.outcome.loss.count
        loss, each = float(values[place]), values[place + 1 : place + 1 + rows * count].reshape(rows, count)
        place += 1 + rows * count
        _require_finite(loss, trace, run.data, one.batch)
        sums.add(run, one, loss, each[0], each[1:])
    return sums


def _require_finite(value: float, trace: Trace, data: Data, batch: Batch | None) -> None:
    if not math.isfinite(value):
        where = f" in documents {data.names(np.unique(batch.rows))}" if batch is not None else ""
        what = "loss" if batch is not None else "gradient norm"
        raise NonFiniteLossError(
            f"step {trace.step + 1}: the {what} is {value}{where}; nothing was updated. "
            f"Lower the learning rate, or look at what it saw: mixwright replay STAGE {trace.step + 1}"
        )
