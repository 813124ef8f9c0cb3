"""How good a classifier is on examples that it has not seen: precision, recall, F1, AUC, confusion, mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from curation.classify.examples import Example
from curation.classify.models import Model

EXCERPT = 300  # characters of a mistaken document in the report
RESAMPLES = 300
MISTAKES = 10  # of each kind in the report


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties one half. NaN for one class.

    By ranks (Mann and Whitney 1947): (sum of the positives' mean ranks - p(p + 1)/2) / (p n).
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return float("nan")
    return float((mean_rank[inverse][positive].sum() - p * (p + 1) / 2) / (p * n))


def intervals(scores: np.ndarray, positive: np.ndarray) -> dict[str, list[float]]:
    """95 % of each figure: percentiles of RESAMPLES bootstrap samples of the examples, the same every time."""
    generator, found = np.random.default_rng(0), {"precision": [], "recall": [], "auc": []}
    for _ in range(RESAMPLES if len(scores) else 0):
        drawn = generator.integers(0, len(scores), len(scores))
        said, truth = scores[drawn] >= 0.5, positive[drawn]
        hits = (said & truth).sum()
        found["precision"].append(hits / said.sum() if said.any() else np.nan)
        found["recall"].append(hits / truth.sum() if truth.any() else np.nan)
        found["auc"].append(auc(scores[drawn], truth))
    bounds = {name: [one for one in values if not np.isnan(one)] for name, values in found.items()}
    return {
        name: [float(one) for one in np.percentile(some, [2.5, 97.5])] for name, some in bounds.items() if some
    }


def evaluate(model: Model, examples: list[Example], positive: str | None) -> dict[str, Any]:
    """The figures of a model on examples: of each class, and for a `positive` label those of its score at 0.5."""
    texts = pa.array([one.text for one in examples], pa.large_string())
    asked = model.labels.index(positive) if positive else -1
    found, best, wanted = model.predict(texts, asked)
    said = [model.labels[place] if place >= 0 else "" for place in found]
    truth = [one.label for one in examples]
    scores = (wanted if positive else best).astype(np.float64)
    figures = {"holdout": len(examples), **_by_class(truth, said), "by_source": _by_source(examples, scores)}
    if positive:
        for name, one in figures["by_source"].items():
            one |= _of_source(name, examples, scores, positive)
        return figures | _binary(examples, scores, positive)
    wrong = [place for place in range(len(examples)) if said[place] != truth[place]]
    wrong.sort(key=lambda place: (-scores[place], examples[place].id))
    mistakes = [_mistake(examples[place], scores[place]) | {"said": said[place]} for place in wrong[:MISTAKES]]
    return figures | {"worst_mistakes": mistakes}


def _of_source(name: str, examples: list[Example], scores: np.ndarray, positive: str) -> dict[str, Any]:
    """The figures of one source of a class ("positive/papers") against the whole other class."""
    label = name.partition("/")[0]
    rows = [n for n, one in enumerate(examples) if one.label != label or f"{label}/{one.source}" == name]
    found = _binary([examples[n] for n in rows], scores[rows], positive)
    return {key: found[key] for key in ("precision", "recall", "auc", "intervals")}


def _binary(examples: list[Example], scores: np.ndarray, positive: str) -> dict[str, Any]:
    truth = np.array([one.label == positive for one in examples], bool)
    said = scores >= 0.5
    hits, false_alarms, misses = int((said & truth).sum()), int((said & ~truth).sum()), int((~said & truth).sum())
    order = sorted(range(len(examples)), key=lambda n: (-abs(scores[n] - truth[n]), examples[n].id))
    wrong = [n for n in order if said[n] != truth[n]]
    area = auc(scores, truth)
    return {
        "positive": positive,
        "true_positives": hits,
        "false_positives": false_alarms,
        "false_negatives": misses,
        "true_negatives": len(examples) - hits - false_alarms - misses,
        **_rates(hits, false_alarms, misses),
        "auc": None if np.isnan(area) else area,
        "intervals": intervals(scores, truth),
        "worst_false_positives": [_mistake(examples[n], scores[n]) for n in wrong if not truth[n]][:MISTAKES],
        "worst_false_negatives": [_mistake(examples[n], scores[n]) for n in wrong if truth[n]][:MISTAKES],
    }


def _rates(hits: int, false_alarms: int, misses: int) -> dict[str, float | None]:
    """Precision, recall and F1; None where nothing was found or there was nothing to find."""
    return {
        "precision": hits / (hits + false_alarms) if hits + false_alarms else None,
        "recall": hits / (hits + misses) if hits + misses else None,
        "f1": 2 * hits / (2 * hits + false_alarms + misses) if hits + false_alarms + misses else None,
    }


def _by_class(truth: list[str], said: list[str]) -> dict[str, Any]:
    """Rates of each class by the likeliest label, `confusion` as true class -> said -> examples, accuracy."""
    confusion: dict[str, dict[str, int]] = {label: {} for label in sorted(set(truth))}
    for is_, says in sorted(zip(truth, said, strict=True)):
        confusion[is_][says] = confusion[is_].get(says, 0) + 1
    classes = {}
    for label in sorted(set(truth)):
        hits, support = confusion[label].get(label, 0), sum(confusion[label].values())
        claimed = sum(row.get(label, 0) for row in confusion.values())
        classes[label] = {**_rates(hits, claimed - hits, support - hits), "holdout": support}
    right = sum(row.get(label, 0) for label, row in confusion.items())
    scored = [one["f1"] or 0.0 for one in classes.values()]
    return {
        "classes": classes,
        "confusion": confusion,
        "accuracy": right / len(truth) if truth else None,
        "macro_f1": sum(scored) / len(scored) if scored else None,
    }


def _by_source(examples: list[Example], scores: np.ndarray) -> dict[str, dict]:
    places: dict[str, list[int]] = {}
    for place, one in enumerate(examples):
        places.setdefault(f"{one.label}/{one.source}", []).append(place)
    return {name: {"holdout": len(at), "mean": float(scores[at].mean())} for name, at in sorted(places.items())}


def _mistake(example: Example, value: float) -> dict:
    return example._asdict() | {"score": float(value), "text": example.text[:EXCERPT]}
