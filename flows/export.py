"""A trained model taken out of the workspace: its folder, its card with the held-out figures."""

from __future__ import annotations

import shutil
from pathlib import Path

from curation import remote
from curation.files import read_json, remove
from curation.steps import verify_files, write_folder
from flows.run import Run, RunNotFoundError
from training.card import held_out

CARD = "README.md"
LAST = "config.json"  # without which no model can be loaded: on a store it comes last


def export_model(run: Run, stage: str, folder: Path) -> Path:
    """Copy the model of a stage to a new folder, its bytes verified, the figures of its evaluation in its card.

    Adapters that were trained go along as `adapter/`. A mirror of `curation.remote` is published. Raises
    RunNotFoundError for a stage that the run does not have, ValueError for a folder that is there already, or a
    model that is not as it was written.
    """
    output = run.step(f"train/{stage}")
    if output is None:
        trained = ", ".join(run.steps("train/")) or "none"
        raise RunNotFoundError(f"{run.name}: no trained stage '{stage}'; it has {trained}")
    store = remote.of_results(folder)
    if store is not None:
        store.require_empty(LAST)
        remove(folder)  # of an export that was not sent to its end
    if folder.exists():
        raise ValueError(f"{folder}: is there already; name a new folder")
    if wrong := verify_files(output):
        raise ValueError(f"train/{stage}: changed since it was made; remove {output.folder} and rerun. {wrong[0]}")
    evaluation = run.step(f"evaluate/{stage}")

    def fill(temporary: Path) -> None:
        shutil.copytree(output.folder / "model", temporary, dirs_exist_ok=True)
        if (output.folder / "adapter").is_dir():
            shutil.copytree(output.folder / "adapter", temporary / "adapter")
        if evaluation is not None:
            with open(temporary / CARD, "a", encoding="utf-8") as card:
                card.write("\n" + held_out(read_json(evaluation.folder / "evaluation.json")))

    write_folder(folder, fill)
    if store is not None:
        store.publish_results(folder, LAST)
    return folder
