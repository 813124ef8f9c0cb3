"""One training stage from start to end: check the data, train, close the account, write the checkpoint."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from curation.files import write_bytes, write_json
from curation.steps import UNITS, Build, StepOutput
from training.card import model_card
from training.causal_lm import check_end_of_turn, empty_by_source
from training.config import TrainConfig
from training.data import Data, open_data
from training.launch import launch
from training.model import device, find_specials
from training.plan import make_plan
from training.trace import Trace, token_account
from training.trackers import TRACKERS
from training.watch import Bar, Log
from training.work import Job, Trained, train_model

FORMAT = 1
STEP_COLUMNS = ("step", "tokens", "count", "loss", "learning_rate", "gradient_norm")  # metrics follow
BY_SOURCE = pa.schema(
    [
        ("step", pa.int64()),
        ("source", pa.string()),
        ("count", pa.int64()),
        ("loss_sum", pa.float64()),
        ("bytes", pa.int64()),
    ]
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
    mix = open_data(data)
    plan = make_plan(mix, config)
    if config.method == "causal":
        check_end_of_turn(mix, find_specials(tokenizer.folder / "tokenizer"))
        for source, count in empty_by_source(mix).items():
            build.alarm(f"{count} documents of '{source}' have no token in the loss")
    log = build.scratch("log.jsonl")
    progress = build.folder / UNITS  # stays until the record of the step is written
    job = Job(
        config=config,
        data=data.folder,
        tokenizer=tokenizer.folder / "tokenizer",
        parent=None if parent is None else parent.folder / "model",
        reference=None if reference is None else reference.folder,
        progress=progress,
        model=build.folder / "model",
        log=log,
    )
    trackers = [
        TRACKERS[name](build.scratch(name), build.name, config.model_dump(mode="json")) for name in config.track
    ]
    watches = [Bar(build, plan), *trackers]
    try:
        if config.processes == 1:
            trained = train_model(job, mix, plan, [Log(log), *watches])
        else:
            trained = launch(job, watches, build.scratch("processes.log"))
    finally:
        for tracker in trackers:
            tracker.close()
    trace = trained.trace
    account = token_account(mix, plan, trace, config.epochs)
    origin = {"data": data.content, "tokenizer": tokenizer.content}
    origin["parent"] = None if parent is None else {"name": parent.name, "content": parent.content}
    head = _head(mix, trained, account, config) | origin
    write_json(build.folder / "checkpoint.json", head)
    write_bytes(build.folder / "model" / "README.md", model_card(build.name, head, trace, config).encode())
    build.write_table("losses.parquet", _losses(trace))
    build.write_table("losses_by_source.parquet", pa.Table.from_pylist(trace.by_source, schema=BY_SOURCE))
    build.counts = _counts(trace, account)


def _losses(trace: Trace) -> pa.Table:
    """A row a step. Columns in an order of their own: rows of a resumed run come from JSON."""
    metrics = sorted(name for name in trace.steps[0] if name not in STEP_COLUMNS)
    return pa.table({name: [row[name] for row in trace.steps] for name in (*STEP_COLUMNS, *metrics)})


def _head(mix: Data, trained: Trained, account: dict[str, dict[str, int]], config: TrainConfig) -> dict[str, Any]:
    """What checkpoint.json says of the run; where it came from is added to it."""
    return {
        "format": FORMAT,
        "method": config.method,
        "kind": mix.head["kind"],
        "manifest_hash": mix.head["manifest_hash"],
        "device": device().type,
        "parameters": trained.parameters,
        "trained_parameters": trained.learned,
        "vocabulary": trained.vocabulary,
        "sequence_length": config.sequence_length,
        "steps": trained.trace.step,
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
