"""Checkpoints within a stage: a model folder and the trainer's state, without pickle, complete or absent.

A folder `step-00000050` holds `model/` (what `from_pretrained` loads), `optimiser.safetensors` and `trainer.json`;
where adapters are trained, `adapter.safetensors` stands for the model. It is written under a temporary name,
fsynced and renamed; the one before it goes only afterwards. So a killed run always finds its latest complete one.
The random generator is seeded anew at each step, from the step's number: it has no state to keep.

`snapshots/` holds the weights of the steps that the stage's result is the mean of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from curation.files import atomic, file_hash, read_json, remove, write_json
from curation.steps import write_folder
from training.model import save_model
from training.ranks import Ranks
from training.state import assign, optimiser_state, put_optimiser_state, put_trained, trained
from training.trace import Trace

STATE = "trainer.json"
OPTIMISER = "optimiser.safetensors"
MODEL, ADAPTER = "model/model.safetensors", "adapter.safetensors"


def save(
    progress: Path,
    trace: Trace,
    model: PreTrainedModel,
    optimiser: torch.optim.Optimizer,
    tokenizer: Path,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> None:
    """Write the checkpoint of `trace.step` and remove the ones before it.

    Every rank must call it, so that what is shared out can be put together; the first one writes.
    """
    weights, state = trained(model), optimiser_state(model, optimiser)
    if not ranks.first:
        return

    def fill(folder: Path) -> None:
        if _adapted(model):
            save_file(weights, folder / ADAPTER)
        else:
            save_model(model, tokenizer, folder / "model", weights, published=False)
        save_file(state, folder / OPTIMISER)
        names = (ADAPTER if _adapted(model) else MODEL, OPTIMISER)
        write_json(folder / STATE, {"trace": asdict(trace), "files": {n: file_hash(folder / n) for n in names}})

    before = _complete(progress)
    write_folder(progress / f"step-{trace.step:08d}", fill)
    for folder in before:
        remove(folder)


def latest(progress: Path) -> Path | None:
    """The checkpoint with the most steps, None if there is none."""
    return max(_complete(progress), default=None)


def restore(folder: Path, model: PreTrainedModel, optimiser: torch.optim.Optimizer, manifest_hash: str) -> Trace:
    """Bring model and optimiser to where the checkpoint was written.

    Raises ValueError, naming the file, if its bytes are not those that were written, or if it was trained on
    another manifest than `manifest_hash`.
    """
    state = read_json(folder / STATE)
    if state["trace"]["manifest_hash"] != manifest_hash:
        raise ValueError(
            f"{folder}: trained on manifest {state['trace']['manifest_hash']}, not on {manifest_hash}"
        )
    for name, expected in state["files"].items():
        found = file_hash(folder / name)
        if found != expected:
            raise ValueError(
                f"{folder / name}: expected hash {expected}, found {found}; remove {folder} and rerun"
            )
    put_trained(model, load_file(folder / (ADAPTER if _adapted(model) else MODEL)))
    put_optimiser_state(model, optimiser, load_file(folder / OPTIMISER))
    return Trace(**state["trace"])


def snapshot(progress: Path, step: int, model: PreTrainedModel, ranks: Ranks = Ranks()) -> None:  # noqa: B008
    """Keep the weights of a step until the end of the stage. Every rank must call it."""
    weights = trained(model)
    if ranks.first:
        with atomic(_snapshot(progress, step)) as temporary:
            save_file(weights, temporary)


@torch.no_grad()
def average(progress: Path, steps: Sequence[int], model: PreTrainedModel) -> None:
    """Give the model the mean of the snapshots of some steps, each weight added up in float64."""
    files = [safe_open(_snapshot(progress, step), "pt") for step in steps]
    for name, parameter in model.named_parameters():
        total = sum(file.get_tensor(name).double() for file in files)
        assign(parameter, (total / len(files)).to(parameter.dtype))


def averaged_steps(steps: int, last: int, every: int | None) -> list[int]:
    """The steps whose weights a run of so many steps averages, the last one among them; [] for no average.

    Raises ValueError where the run is too short.
    """
    if last == 1 or every is None:
        return []
    chosen = [steps - every * back for back in reversed(range(last))]
    if chosen[0] < 1:
        raise ValueError(
            f"average_last {last} with average_every {every} wants more than the {steps} steps there are"
        )
    return chosen


def _snapshot(progress: Path, step: int) -> Path:
    return progress / "snapshots" / f"step-{step:08d}.safetensors"


def _complete(progress: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first. A temporary name does not match."""
    return sorted(folder for folder in progress.glob("step-*") if (folder / STATE).is_file())


def _adapted(model: torch.nn.Module) -> bool:
    return not all(parameter.requires_grad for parameter in model.parameters())
