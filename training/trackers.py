"""Curves for TensorBoard and Weights & Biases, beside the log that every stage writes. Both are extras.

Weights & Biases writes to the stage's folder and sends nothing, unless WANDB_MODE says otherwise; `wandb sync`
uploads such a folder afterwards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

NATS_PER_BIT = math.log(2)


class Tracker(Protocol):
    """Takes what the loop tells of each step."""

    def __call__(self, row: dict[str, Any], by_source: list[dict[str, Any]], seconds: float) -> None: ...

    def close(self) -> None: ...


def scalars(row: dict[str, Any], by_source: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """The curves of a step by name: the row's, tokens a second, the loss and bits per byte of each source."""
    values = {name: float(value) for name, value in row.items() if name not in ("step", "time")}
    values["tokens_per_second"] = row["tokens"] / max(seconds, 1e-9)
    for line in by_source:
        values[f"loss/{line['source']}"] = line["loss_sum"] / line["count"]
        if line["bytes"]:
            values[f"bits_per_byte/{line['source']}"] = line["loss_sum"] / NATS_PER_BIT / line["bytes"]
    return values


class TensorBoard:
    """Event files in a folder, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self.writer = SummaryWriter(str(folder))

    def __call__(self, row: dict[str, Any], by_source: list[dict[str, Any]], seconds: float) -> None:
        for name, value in scalars(row, by_source, seconds).items():
            self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases. WANDB_PROJECT names its project."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mixwright"),
            name=name,
            dir=folder,
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=settings,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def __call__(self, row: dict[str, Any], by_source: list[dict[str, Any]], seconds: float) -> None:
        self.run.log(scalars(row, by_source, seconds), step=row["step"])

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, str, dict[str, Any]], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


def _missing(package: str) -> ValueError:
    return ValueError(f"track: {package} is not installed: pip install 'mixwright[{package}]'")
