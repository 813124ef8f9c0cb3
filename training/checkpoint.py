"""Checkpoints within a stage: a model folder and the trainer's state, without pickle, complete or absent.

A folder `step-00000050` holds `model/` (what `from_pretrained` loads), `optimiser.safetensors`,
`random.safetensors` and `trainer.json`. It is written under a temporary name, fsynced and renamed; the one before
it goes only afterwards. So a killed run always finds its latest complete one.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, load_model, save_file
from transformers import PreTrainedModel

from curation.files import file_hash, read_json, remove, write_json
from curation.steps import write_folder
from training.model import save_model
from training.trace import Trace

STATE = "trainer.json"


def save(
    progress: Path, trace: Trace, model: PreTrainedModel, optimiser: torch.optim.Optimizer, tokenizer: Path
) -> None:
    """Write the checkpoint of `trace.step` and remove the ones before it."""

    def fill(folder: Path) -> None:
        save_model(model, tokenizer, folder / "model")
        save_file(_optimiser_tensors(model, optimiser), folder / "optimiser.safetensors")
        save_file({"cpu": torch.get_rng_state()}, folder / "random.safetensors")
        hashes = {name: file_hash(folder / name) for name in ("model/model.safetensors", *_STATE_FILES)}
        write_json(folder / STATE, {"trace": asdict(trace), "files": hashes})

    before = _complete(progress)
    write_folder(progress / f"step-{trace.step:08d}", fill)
    for folder in before:
        remove(folder)


def latest(progress: Path) -> Path | None:
    """The checkpoint with the most steps, None if there is none."""
    return max(_complete(progress), default=None)


def restore(folder: Path, model: PreTrainedModel, optimiser: torch.optim.Optimizer, manifest_hash: str) -> Trace:
    """Bring model, optimiser and generator to where the checkpoint was written.

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
    load_model(model, folder / "model" / "model.safetensors")
    tensors = load_file(folder / "optimiser.safetensors")
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"{name}/{key}" in tensors:
                value = tensors[f"{name}/{key}"]
                optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    torch.set_rng_state(load_file(folder / "random.safetensors")["cpu"])
    return Trace(**state["trace"])


_STATE_FILES = ("optimiser.safetensors", "random.safetensors")


def _complete(progress: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first. A temporary name does not match."""
    return sorted(folder for folder in progress.glob("step-*") if (folder / STATE).is_file())


def _optimiser_tensors(model: PreTrainedModel, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name: `<parameter>/exp_avg` and so on."""
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
