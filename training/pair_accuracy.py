"""How well rewards tell the better answer of held-out pairs: by source, by length, by margin, and how surely."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedModel

from curation.steps import StepOutput
from training.batch import pair_batch
from training.config import EvaluateConfig
from training.data import Data
from training.dpo import pair_logps
from training.model import device, load_causal
from training.plan import pair_bins
from training.reward import scores

ALIKE = 0.1  # answers whose token counts differ by at most this share of the longer one are alike in length
LEVELS = 10  # of confidence, with as many pairs each


def pair_accuracy(
    model: PreTrainedModel, method: str, data: Data, reference: StepOutput | None, config: EvaluateConfig
) -> dict[str, Any]:
    """How often the chosen answer of a held-out pair has the higher reward, with a 95 % interval.

    The reward is the model's score, or of DPO beta times the log-ratio to the reference. A tie is an error.
    Sequences are cut to `pair_tokens`. Returns {pair_tokens, all, by_source, by_length, by_margin, calibration,
    calibration_error}: lines, or lines by name, and what `calibration` gives. Each line is {pairs, truncated,
    correct, ties, accuracy, accuracy_low, accuracy_high, margin (mean)}.
    """
    rows = choose(data, np.ones(data.rows, np.int64), config.pairs)
    if method == "reward":
        chosen, rejected = _pair_scores(model, data, rows, config)
    else:
        base = load_causal(reference.folder / "model").to(device()).eval()
        limits = config.pair_tokens, config.micro_batch_tokens
        policy, before = pair_logps(model, data, rows, *limits), pair_logps(base, data, rows, *limits)
        chosen, rejected = (config.beta * (new - old) for new, old in zip(policy, before, strict=True))
    margin = chosen.astype(np.float64) - rejected
    cut = np.maximum(data.length[rows], data.rejected_length[rows]) > config.pair_tokens
    chance = np.random.default_rng(config.seed)

    def line(which: np.ndarray) -> dict[str, Any]:
        values = margin[which]
        low, high = bootstrap_interval(values > 0, config.bootstrap, chance)
        return {
            "pairs": len(values),
            "truncated": int(cut[which].sum()),
            "correct": int((values > 0).sum()),
            "ties": int((values == 0).sum()),
            "accuracy": float((values > 0).mean()) if len(values) else None,
            "accuracy_low": low,
            "accuracy_high": high,
            "margin": float(values.mean()) if len(values) else None,
        }

    groups = {
        "by_source": {name: data.source[rows] == position for position, name in enumerate(data.sources)},
        "by_length": by_length(data, rows),
        "by_margin": by_margin(data.margin[rows]),
    }
    lines = {"all": line(np.ones(len(rows), bool))}
    lines |= {
        kind: {name: line(which) for name, which in members.items()} for kind, members in groups.items() if members
    }
    levels, error = calibration(margin)
    return {"pair_tokens": config.pair_tokens, **lines, "calibration": levels, "calibration_error": error}


def by_length(data: Data, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Which pairs have the longer answer chosen, or rejected; a reward that only counts tokens shows here."""
    chosen, rejected = data.length[rows] - data.prompt[rows], data.rejected_length[rows] - data.prompt[rows]
    alike = np.abs(chosen - rejected) <= ALIKE * np.maximum(chosen, rejected)
    return {
        "chosen longer": (chosen > rejected) & ~alike,
        "alike": alike,
        "rejected longer": (chosen < rejected) & ~alike,
    }


def by_margin(margins: np.ndarray) -> dict[str, np.ndarray]:
    """Pairs by how much better their labels say that the chosen answer is: each value, or thirds of many values.

    Empty where the data has no margins.
    """
    values = np.unique(margins)
    if len(values) < 2:
        return {}
    if len(values) <= 6:
        return {f"{value:g}": margins == value for value in values}
    edges = np.quantile(margins, [0, 1 / 3, 2 / 3, 1])
    thirds = np.clip(np.searchsorted(edges, margins, "right") - 1, 0, 2)
    return {f"{edges[n]:.3g} to {edges[n + 1]:.3g}": thirds == n for n in range(3)}


def calibration(margin: np.ndarray) -> tuple[list[dict[str, float]], float | None]:
    """Confidence against accuracy, and the expected calibration error.

    Bradley-Terry gives the preferred answer the probability sigmoid(|margin|): the confidence. Pairs in order
    of it are cut into LEVELS of equal size, {confidence (mean), accuracy, pairs}; a tie counts half. The error is
    the mean of |confidence - accuracy| over the levels, weighed by their pairs (Naeini et al. 2015).
    """
    if not len(margin):
        return [], None
    confidence = 1 / (1 + np.exp(-np.abs(margin)))
    right = np.where(margin == 0, 0.5, margin > 0)
    order = np.argsort(confidence, kind="stable")
    levels = [
        {"confidence": float(confidence[part].mean()), "accuracy": float(right[part].mean()), "pairs": len(part)}
        for part in np.array_split(order, min(LEVELS, len(order)))
    ]
    gaps = sum(level["pairs"] * abs(level["confidence"] - level["accuracy"]) for level in levels)
    return levels, gaps / len(margin)


def bootstrap_interval(
    correct: np.ndarray, resamples: int, chance: np.random.Generator
) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 percentiles of the mean under resampling with replacement. correct: bool (n,)."""
    if not len(correct):
        return None, None
    # Resampling n of n outcomes that are right or wrong is drawing from a binomial of the observed share.
    means = chance.binomial(len(correct), correct.mean(), resamples) / len(correct)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def choose(data: Data, cost: np.ndarray, budget: int) -> np.ndarray:
    """Rows of each source in the manifest's order, while their cost fits the budget, at least one. int64."""
    chosen = []
    for position in range(len(data.sources)):
        rows = np.flatnonzero(data.source == position)
        rows = rows[np.lexsort((rows, data.order[rows]))]
        chosen.append(rows[: max(1, int(np.searchsorted(np.cumsum(cost[rows]), budget, "right")))])
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


def _pair_scores(
    model: PreTrainedModel, data: Data, rows: np.ndarray, config: EvaluateConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The reward model's scores of both sides, float32 (rows,) each."""
    chosen, rejected = np.zeros((2, len(rows)), np.float32)
    for members in pair_bins(data, rows, config.pair_tokens, config.micro_batch_tokens):
        found = scores(model, pair_batch(data, rows[members], config.pair_tokens, device())).cpu().numpy()
        chosen[members], rejected[members] = np.split(found, 2)
    return chosen, rejected
