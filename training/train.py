"""One training stage from start to end: check the data, train, close the account, write the checkpoint."""

from __future__ import annotations

import json
import time
from typing import Any

import pyarrow as pa
from transformers import PreTrainedModel

from curation.files import remove, write_json
from curation.steps import UNITS, Build, StepOutput, write_folder
from training.causal_lm import Causal, check_end_of_turn, empty_by_source
from training.config import TrainConfig
from training.data import Data, open_data
from training.dpo import DPO, load_reference
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

FORMAT = 1
STEP_COLUMNS = ("step", "tokens", "count", "loss", "learning_rate", "gradient_norm")  # metrics follow
BY_SOURCE = pa.schema(
    [("step", pa.int64()), ("source", pa.string()), ("count", pa.int64()), ("loss_sum", pa.float64())]
)


def train_stage(
    build: Build,
    data: StepOutput,
    tokenizer: StepOutput,
    parent: StepOutput | None,
    config: TrainConfig,
    reference: StepOutput | None,
) -> None:
    """The work of `training.station.train`. `reference` is the step with the reference's log-probabilities."""
    vocabulary = tokenizer.folder / "tokenizer"
    specials = find_specials(vocabulary)
    mix = open_data(data)
    plan = make_plan(mix, config)
    if config.method == "causal":
        check_end_of_turn(mix, specials)
        for source, count in empty_by_source(mix).items():
            build.alarm(f"{count} documents of '{source}' have no token in the loss")
    progress = build.folder / UNITS / "checkpoints"  # stays until the record of the step is written
    with fixed_arithmetic(config.threads, config.seed):
        model = _make_model(mix, specials, parent, config).to(device())
        method = _make_method(mix, reference, config)
        watch = _Watch(build, len(plan.steps) - 1)
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


def _make_model(mix: Data, specials: Specials, parent: StepOutput | None, config: TrainConfig) -> PreTrainedModel:
    if parent is None:
        model = new_causal(config.model, mix.head["vocab_size"], specials)
    elif config.method == "reward":
        model = reward_from_causal(parent.folder / "model", specials.pad)
    else:
        model = load_causal(parent.folder / "model", settings=config)
    longest = model.config.max_position_embeddings
    if config.sequence_length > longest:
        raise ValueError(
            f"sequence_length {config.sequence_length} is beyond the model's {longest} positions; "
            "set model.max_position, or for a model with a parent yarn_factor, or rope_theta with max_position"
        )
    return model


def _make_method(mix: Data, logps: StepOutput | None, config: TrainConfig) -> Method:
    if config.method == "reward":
        return Reward(mix, config.centring)
    if config.method == "dpo":
        settings = (config.beta, config.dpo_loss, config.label_smoothing, config.sft_weight)
        return DPO(mix, load_reference(logps, mix), *settings)
    return Causal(mix, config.z_loss)


class _Watch:
    """Tells whoever watches, and writes `log.jsonl`, the one file with times in it."""

    def __init__(self, build: Build, steps: int):
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
