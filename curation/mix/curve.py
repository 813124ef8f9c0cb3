"""The quality-aware upsampling curve of Olmo 3 (report A.2.4; dolma3 `mixes/mixing_utils.py`).

Over the pool's tokens ordered by quality, x in [0, 1], the rate is 0 below the cut a, and above it
C (x-a)^p e^(lambda (x-a)). C makes the integral equal to target / pool; the mean over the best bucket stays at or
below the cap M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POWERS = (0.0, *np.linspace(0.01, 2.0, 20).tolist())  # 0 is the flat step, the last resort before infeasible
MAX_LAMBDA = 2.0
ROUNDING = 1e-9  # of a mean that is exactly at the cap
EDGE_SLACK = 0.01  # buckets end at whole documents: an edge this little above the cut still counts as at it


class CurveError(ValueError):
    """The target is more than the curve can give under its cap."""


@dataclass(frozen=True)
class Curve:
    """A solved curve. `rates` is the mean rate of each bucket, worst bucket first."""

    cut: float
    power: float
    rate: float  # lambda
    scale: float  # C
    rates: np.ndarray


def solve_curve(
    bucket_tokens: Sequence[int], target: int, cut: float, cap: float, max_lambda: float = MAX_LAMBDA
) -> Curve:
    """The steepest curve that gives `target` tokens: the largest feasible power, then the largest lambda.

    `bucket_tokens`: pool tokens of each bucket, worst first. The cut snaps to the bucket edge at or below it.
    Raises CurveError if even the flat step above the cut exceeds the cap.
    """
    edges = _edges(bucket_tokens)
    start = snap_cut(edges, cut)
    ratio = target / sum(bucket_tokens)
    for power in reversed(POWERS):
        if _top_mean(edges, start, power, 0.0, ratio) <= cap * (1 + ROUNDING):
            rate = _largest_lambda(edges, start, power, ratio, cap, max_lambda)
            return _curve(edges, start, power, rate, ratio)
    raise CurveError(f"{target} tokens of {sum(bucket_tokens)}, cut at {cut}, need a rate above {cap}")


def above_cut(bucket_tokens: Sequence[int], cut: float) -> list[bool]:
    """Which buckets, worst first, the curve takes from."""
    if not sum(bucket_tokens):
        return [False] * len(bucket_tokens)
    edges = _edges(bucket_tokens)
    return [bool(edge >= snap_cut(edges, cut)) for edge in edges[:-1]]


def _edges(bucket_tokens: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(bucket_tokens) / sum(bucket_tokens)])


def snap_cut(edges: np.ndarray, cut: float) -> float:
    """The largest bucket edge at or just above the cut, the end of the pool excepted."""
    inner = edges[edges < 1.0]
    return float(inner[inner <= cut + EDGE_SLACK].max())


def _integral(upto: np.ndarray, power: float, rate: float) -> np.ndarray:
    """The integral of y^power e^(rate y) from 0 to each of `upto` (0 to 1), by its power series."""
    total, term = np.zeros_like(upto), np.ones_like(upto)
    for k in range(60):
        total += term / (power + 1 + k)
        term = term * rate * upto / (k + 1)
    return total * upto ** (power + 1)


def _curve(edges: np.ndarray, start: float, power: float, rate: float, ratio: float) -> Curve:
    areas = np.diff(_integral(np.maximum(edges - start, 0.0), power, rate))
    scale = ratio / areas.sum()
    widths = np.diff(edges)
    rates = np.divide(scale * areas, widths, out=np.zeros_like(widths), where=widths > 0)
    return Curve(start, power, rate, float(scale), rates)


def _top_mean(edges: np.ndarray, start: float, power: float, rate: float, ratio: float) -> float:
    return float(_curve(edges, start, power, rate, ratio).rates.max())


def _largest_lambda(
    edges: np.ndarray, start: float, power: float, ratio: float, cap: float, largest: float
) -> float:
    """The largest lambda in [0, largest] under the cap; 0 is known to be."""
    if _top_mean(edges, start, power, largest, ratio) <= cap:
        return largest
    low, high = 0.0, largest
    for _ in range(50):
        middle = (low + high) / 2
        if _top_mean(edges, start, power, middle, ratio) <= cap:
            low = middle
        else:
            high = middle
    return low
