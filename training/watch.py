"""Who is told of each step: the log `log.jsonl`, and the progress line of whoever watches."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from curation.steps import Build
from training.plan import Plan

SMOOTHING = 0.1  # weight of the newest step in the rate that the time left is reckoned with


class Log:
    """Writes a line a step, with the time that it took."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, row: dict[str, Any], by_source: list[dict[str, Any]], seconds: float) -> None:
        line = {**row, "by_source": by_source, "seconds": round(seconds, 4), "time": round(time.time(), 3)}
        with open(self.path, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


class Bar:
    """The progress line: loss, tokens a second, time left."""

    def __init__(self, build: Build, plan: Plan):
        self.progress, self.name = build.context.progress, build.name
        self.left = np.append(
            np.add.reduceat(plan.tokens[: plan.steps[-1]], plan.steps[:-1])[::-1].cumsum()[::-1], 0
        )
        self.rate = 0.0
        self.progress.begin(self.name, len(plan.steps) - 1)

    def __call__(self, row: dict[str, Any], by_source: list[dict[str, Any]], seconds: float) -> None:
        rate = row["tokens"] / max(seconds, 1e-9)
        if not self.rate:
            self.rate = rate
            if row["step"] > 1:  # steps that an earlier, interrupted run has done
                self.progress.advance(self.name, row["step"] - 1)
        self.rate += SMOOTHING * (rate - self.rate)
        left = int(self.left[row["step"]]) / self.rate
        note = f"loss {row['loss']:.3f} · {self.rate / 1000:.1f}k tok/s · {duration(left)} left"
        self.progress.advance(self.name, note=note)


def duration(seconds: float) -> str:
    """ "42 s", "7 min", "3 h 20 min", "2 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
