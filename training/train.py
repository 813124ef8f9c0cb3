"""One training stage from start to end: check the data, train, close the account, write the checkpoint."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedModel

from curation.files import read_json, remove, write_json
from curation.steps import Build, Context, StepOutput, step, write_folder
from training.causal_lm import Causal, check_end_of_turn, empty_by_source
from training.config import TrainConfig
from training.data import Data, open_data
from training.dpo import DPO, load_reference, reference_step
from training.loop import fit
from training.model import (
    Specials,
    device,
    find_specials,
    fixed_arithmetic,
    load_causal,
    new_causal,
    reward_from_causal,
    save_model,
)
from training.outcome import Method
from training.plan import make_plan
from training.reward import Reward
from training.trace import Trace, token_account

VERSION = 1
FORMAT = 1
STEP_COLUMNS = ("step", "tokens", "count", "loss", "learning_rate", "gradient_norm")  # metrics follow
BY_SOURCE = pa.schema(
    [("step", pa.int64()), ("source", pa.string()), ("count", pa.int64()), ("loss_sum", pa.float64())]
)


def train_step(
    ctx: Context,
    stage: str,
    data: StepOutput,
    tokenizer: StepOutput,
    parent: StepOutput | None,
    config: TrainConfig,
    reference: StepOutput | None,
) -> StepOutput:
    """See `training.station.train`. Raises ValueError for settings that do not fit each other."""
    _check_parent(stage, tokenizer, parent, config, reference)
    logps = reference_step(ctx, stage, data, reference or parent, config) if config.method == "dpo" else None
    inputs = {"data": data.content, "tokenizer": tokenizer.content}
    inputs |= {
        role: output.content for role, output in (("parent", parent), ("reference", logps)) if output is not None
    }
    literals = config.model_dump(mode="json", exclude={"checkpoint_every"})

    def work(build: Build) -> None:
        vocabulary = tokenizer.folder / "tokenizer"
        specials = find_specials(vocabulary)
        mix = open_data(data)
        plan = make_plan(mix, config)
        if config.method == "causal":
            check_end_of_turn(mix, specials)
            for source, count in empty_by_source(mix).items():
                build.alarm(f"{count} documents of '{source}' have no token in the loss")
        progress = build.scratch("progress")
        with fixed_arithmetic(config.threads, config.seed):
            model = _make_model(mix, specials, parent, config).to(device())
            method = _make_method(mix, logps, config)
            watch = _Watch(build, len(plan.steps) - 1, progress)
            trace = fit(model, method, mix, plan, config, progress, vocabulary, watch)
        account = token_account(mix, plan, trace, config.epochs)
        remove(build.folder / "model")
        write_folder(build.folder / "model", lambda folder: save_model(model, vocabulary, folder))
        origin = {"data": data.content, "tokenizer": tokenizer.content}
        origin["parent"] = None if parent is None else {"name": parent.name, "content": parent.content}
        write_json(build.folder / "checkpoint.json", _head(mix, trace, account, model, config) | origin)
        build.write_table("losses.parquet", _losses(trace))
        build.write_table("losses_by_source.parquet", pa.Table.from_pylist(trace.by_source, schema=BY_SOURCE))
        build.counts = _counts(trace, account)
        remove(progress)

    return step(ctx, f"train/{stage}", VERSION, literals, inputs, work)


def _check_parent(
    stage: str,
    tokenizer: StepOutput,
    parent: StepOutput | None,
    config: TrainConfig,
    reference: StepOutput | None,
) -> None:
    if parent is None and (config.method != "causal" or config.model is None):
        raise ValueError(f"train/{stage}: without a parent checkpoint, method causal and a model are required")
    if parent is not None and config.model is not None:
        raise ValueError(f"train/{stage}: the model's shape comes from the parent {parent.name}; leave model out")
    if parent is None and config.yarn_factor is not None:
        raise ValueError(f"train/{stage}: yarn_factor stretches a parent's positions; give max_position instead")
    if reference is not None and config.method != "dpo":
        raise ValueError(
            f"train/{stage}: a reference is of method dpo only; this stage's method is {config.method}"
        )
    for checkpoint in (parent, reference):
        if checkpoint is None:
            continue
        head = read_json(checkpoint.folder / "checkpoint.json")
        if head["method"] == "reward":
            raise ValueError(f"train/{stage}: {checkpoint.name} is a reward model; start from a causal checkpoint")
        if head["tokenizer"] != tokenizer.content:
            raise ValueError(
                f"train/{stage}: {checkpoint.name} was trained with tokenizer {head['tokenizer'][:16]}, "
                f"given is {tokenizer.content[:16]}"
            )


def _make_model(mix: Data, specials: Specials, parent: StepOutput | None, config: TrainConfig) -> PreTrainedModel:
    if parent is None:
        model = new_causal(config.model, mix.head["vocab_size"], specials)
    elif config.method == "reward":
        model = reward_from_causal(parent.folder / "model", specials.pad)
    else:
        model = load_causal(parent.folder / "model", yarn_factor=config.yarn_factor)
    longest = model.config.max_position_embeddings
    if config.sequence_length > longest:
        raise ValueError(
            f"sequence_length {config.sequence_length} is beyond the model's {longest} positions; "
            "set model.max_position, or yarn_factor for a model with a parent"
        )
    return model


def _make_method(mix: Data, logps: StepOutput | None, config: TrainConfig) -> Method:
    if config.method == "reward":
        return Reward(mix, config.centring)
    if config.method == "dpo":
        return DPO(mix, load_reference(logps, mix), config.beta, config.dpo_loss, config.label_smoothing)
    return Causal(mix, config.z_loss)


class _Watch:
    """Tells whoever watches, and writes `log.jsonl`, the one file with times in it."""

    def __init__(self, build: Build, steps: int, progress: Path):
        self.build, self.log = build, build.scratch("log.jsonl")
        build.context.progress.begin(build.name, steps)
        self.seen = False

    def __call__(self, row: dict, seconds: float) -> None:
        if not self.seen and row["step"] > 1:  # steps that an earlier, interrupted run has done
            self.build.context.progress.advance(self.build.name, row["step"] - 1)
        self.seen = True
        rate = row["tokens"] / max(seconds, 1e-9)
        note = f"loss {row['loss']:.3f} · {rate / 1000:.1f}k tok/s"
        self.build.context.progress.advance(self.build.name, note=note)
        line = {**row, "seconds": round(seconds, 4), "time": round(time.time(), 3)}
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def _losses(trace: Trace) -> pa.Table:
    """A row a step. Columns in an order of their own: rows of a resumed run come from JSON."""
    metrics = sorted(name for name in trace.steps[0] if name not in STEP_COLUMNS)
    return pa.table({name: [row[name] for row in trace.steps] for name in (*STEP_COLUMNS, *metrics)})


def _head(
    mix: Data, trace: Trace, account: dict[str, dict[str, int]], model: PreTrainedModel, config: TrainConfig
) -> dict[str, Any]:
    """What checkpoint.json says of the run; where it came from is added to it."""
    return {
        "format": FORMAT,
        "method": config.method,
        "kind": mix.head["kind"],
        "manifest_hash": mix.head["manifest_hash"],
        "device": device().type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": model.config.vocab_size,
        "sequence_length": config.sequence_length,
        "steps": trace.step,
        "account": account,
        "totals": _totals(account),
    }


def _totals(account: dict[str, dict[str, int]]) -> dict[str, int]:
    names = sorted({name for line in account.values() for name in line})
    return {name: sum(line[name] for line in account.values()) for name in names}


def _counts(trace: Trace, account: dict[str, dict[str, int]]) -> dict[str, Any]:
    totals = _totals(account)
    return {
        "documents_in": totals["documents"],
        "documents_out": totals["documents"],
        "steps": trace.step,
        **{name: totals[name] for name in ("tokens", "delivered", "in_loss", "masked", "truncated", "left")},
        "by_source": account,
    }
