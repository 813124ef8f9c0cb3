"""What every process of a stage does: make the model, train it, write it. Started by `training.launch` or called.

As a program (`torchrun ... -m training.work JOB.json`) it is one rank of several.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from curation.files import read_json, remove, write_json
from curation.steps import load, write_folder
from training.causal_lm import Causal
from training.config import TrainConfig
from training.data import Data, DataError, open_data
from training.dpo import DPO, load_reference
from training.loop import NonFiniteLossError, Watch, fit
from training.lora import add_adapters, merged, write_adapters
from training.model import (
    compile_blocks,
    device,
    find_specials,
    fixed_arithmetic,
    load_causal,
    new_causal,
    reward_from_causal,
    save_model,
    trade_memory,
    without_dropout,
)
from training.outcome import Method
from training.plan import Plan, make_plan
from training.precision import in_bfloat16
from training.probe import ModelError, probe
from training.ranks import Ranks, joined
from training.reward import Reward
from training.state import trained
from training.trace import Trace

FAILED = "failed.json"
TRAINED = "trained.json"
ADAPTER = "adapter"
KNOWN = {kind.__name__: kind for kind in (NonFiniteLossError, DataError, ModelError, ValueError)}


@dataclass(frozen=True)
class Job:
    """A stage as its processes need it: settings, and the folders to read and to write."""

    config: TrainConfig
    data: Path  # of the step
    tokenizer: Path
    parent: Path | None  # the model's folder
    reference: Path | None  # of the step
    progress: Path  # for checkpoints, and what the processes tell
    model: Path  # written at the end
    log: Path

    def write(self, path: Path) -> None:
        folders = {name: value and str(value) for name, value in vars(self).items() if name != "config"}
        write_json(path, {"config": self.config.model_dump(mode="json"), **folders})

    @classmethod
    def read(cls, path: Path) -> Job:
        content = read_json(path)
        config = TrainConfig.model_validate(content.pop("config"))
        return cls(config, **{name: value and Path(value) for name, value in content.items()})


@dataclass(frozen=True)
class Trained:
    """What a stage says of its model once that is written."""

    trace: Trace
    parameters: int
    learned: int  # those that were trained
    vocabulary: int

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Trained:
        content = read_json(path)
        return cls(Trace(**content.pop("trace")), **content)


def train_model(
    job: Job,
    mix: Data,
    plan: Plan,
    watches: Sequence[Watch],
    ranks: Ranks = Ranks(),  # noqa: B008
) -> Trained:
    """Train the model of a stage and write its folder. The first rank writes; all return the same."""
    config = job.config
    with fixed_arithmetic(config.threads, config.seed):
        model = _make_model(job, mix)
        adapters = None if config.lora is None else add_adapters(model, config.lora)
        if config.gradient_checkpointing:
            trade_memory(model)
        if config.compile:
            compile_blocks(model)

        def watch(*told: Any) -> None:
            for one in watches:
                one(*told)

        checkpoints = job.progress / "checkpoints"
        method = _make_method(job, mix)
        trace = fit(model, method, mix, plan, config, checkpoints, job.tokenizer, watch, ranks)
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if adapters is not None:
        if ranks.first:
            remove(job.model.parent / ADAPTER)
            write_folder(job.model.parent / ADAPTER, lambda folder: write_adapters(adapters, folder))
        model = merged(adapters)
    weights = trained(model) if config.sharding != "none" else None
    if ranks.first:
        remove(job.model)
        write_folder(job.model, lambda folder: save_model(model, job.tokenizer, folder, weights))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Trained(trace, parameters, learned, model.config.vocab_size)


def _make_model(job: Job, mix: Data) -> PreTrainedModel:
    config, specials = job.config, find_specials(job.tokenizer)
    if job.parent is None:
        model = new_causal(config.model, mix.head["vocab_size"], specials)
    elif config.method == "reward":
        model = reward_from_causal(job.parent, specials.pad)
    else:
        model = load_causal(job.parent, settings=config)
    longest = getattr(model.config, "max_position_embeddings", config.sequence_length)
    if config.sequence_length > longest:
        raise ValueError(
            f"sequence_length {config.sequence_length} is beyond the model's {longest} positions; "
            "set model.max_position, or for a model with a parent yarn_factor, or rope_theta with max_position"
        )
    model = model.to(device())
    if config.precision == "bfloat16":
        model = in_bfloat16(model)
    probe(model, getattr(torch, config.precision))
    return model if config.method == "causal" else without_dropout(model)


def _make_method(job: Job, mix: Data) -> Method:
    config = job.config
    if config.method == "reward":
        return Reward(mix, config.centring)
    if config.method == "dpo":
        settings = (config.beta, config.dpo_loss, config.label_smoothing, config.sft_weight)
        return DPO(mix, load_reference(load(job.reference), mix), *settings)
    return Causal(mix, config.z_loss)


def main() -> None:
    """One rank of a job. Its launcher reads what it leaves in the job's folder."""
    from training.watch import Log

    job = Job.read(Path(sys.argv[1]))
    _end_with(Path(sys.argv[2]))
    try:
        mix = open_data(load(job.data), verify=False)  # the launcher has verified it
        plan = make_plan(mix, job.config)
        with joined() as ranks:
            trained = train_model(job, mix, plan, [Log(job.log)] if ranks.first else [], ranks)
            if ranks.first:
                trained.write(job.progress / TRAINED)
            ranks.wait()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # all is written; threads of gloo's have been seen to abort a process that ends in order
    except tuple(KNOWN.values()) as error:
        kind = next(name for name in KNOWN if isinstance(error, KNOWN[name]))
        write_json(job.progress / FAILED, {"kind": kind, "message": str(error)})
        os._exit(1)  # the other ranks wait in a sum: no orderly end is possible


def _end_with(lock: Path) -> None:
    """End this process when its launcher ends, however that happens: the system then frees the launcher's lock."""

    def wait() -> None:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
