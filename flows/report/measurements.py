"""Histograms of the measurements, with the thresholds of the profile that decided over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.report import human, svg
from flows.report.reading import by_source
from flows.run import Run

SHARE_BINS = 400  # fine bins over [0, 1]; the chart joins them
OCTAVE_BINS = 16  # fine bins per doubling, from 2^-10 to 2^40
LOW_OCTAVE, HIGH_OCTAVE = -10, 40
SHARE_EDGES = np.linspace(0, 1, SHARE_BINS + 1)
OCTAVE_EDGES = 2.0 ** np.linspace(LOW_OCTAVE, HIGH_OCTAVE, (HIGH_OCTAVE - LOW_OCTAVE) * OCTAVE_BINS + 1)
SHOWN_BINS = 48
AT_ONCE = 1 << 21  # values of a shard in memory
SHARES = ("share", "ratio", "score")  # columns so called lie in [0, 1] but for rare outliers


@dataclass
class Histogram:
    """Counts over fixed fine bins, so that shards add up in any order. Zeros are counted apart: they tower."""

    share: bool
    zeros: int = 0
    missing: int = 0
    above: int = 0  # beyond the last bin
    total: int = 0
    fine: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.fine = np.zeros(len(self.edges) - 1, np.int64)

    @property
    def edges(self) -> np.ndarray:
        return SHARE_EDGES if self.share else OCTAVE_EDGES

    def add(self, values: np.ndarray) -> None:
        """Count float64 values; NaN is missing. A bin holds its lower edge, the last one its upper edge too."""
        ordered = np.sort(values)  # NaN last
        known = len(values) - int(np.count_nonzero(np.isnan(values)))
        ordered = ordered[:known]
        zeros, within = np.searchsorted(ordered, (0, self.edges[-1]), "right")
        below = np.searchsorted(ordered, self.edges)
        below[-1] = within
        self.total += len(values)
        self.missing += len(values) - known
        self.zeros += int(zeros)
        self.above += known - int(within)
        self.fine += np.diff(np.maximum(below, zeros))


@dataclass(frozen=True)
class Threshold:
    """One rule of a profile over a numeric measurement."""

    rule: str
    below: float | None
    above: float | None
    where: str = ""  # the documents that it is for, if not all: then it colours no bin of them all
    elsewhere: tuple[str, ...] = ()  # what overrides say for others

    def fails(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros(len(values), bool)
        if self.below is not None:
            out |= values < self.below
        if self.above is not None:
            out |= values > self.above
        return out


def measurements(run: Run) -> dict[str, Any] | None:
    """A group a profile: for each measurement the histogram, thresholds and who fails. None if none measured."""
    measured = by_source(run, "measure/")
    if not measured:
        return None
    groups: dict[str, dict[str, Any]] = {}
    for source, output in measured.items():
        rules = run.step(f"rules/{source}")
        profile = rules.record["config"] if rules else {}
        name = f"{profile.get('name', 'no profile')} {profile.get('version', '')}".strip()
        group = groups.setdefault(name, {"name": name, "profile": profile, "sources": [], "counts": {}})
        group["sources"].append((source, output))
        group["counts"][source] = rules.counts if rules else {}
    return {"groups": [_group(group) for group in groups.values()]}


def thresholds(profile: dict[str, Any]) -> dict[str, list[Threshold]]:
    """The rules of a profile by the measurement they look at, in profile order."""
    found: dict[str, list[Threshold]] = {}
    for rule in profile.get("rules", []):
        below, above = rule.get("drop_below"), rule.get("drop_above")
        if below is not None or above is not None:
            limit = Threshold(rule["name"], below, above, _fitting(rule.get("where")), _elsewhere(rule, profile))
            found.setdefault(rule["measurement"], []).append(limit)
    return found


def _fitting(where: dict[str, list[str]] | None) -> str:
    """{"language": ["de", "nl"]} -> "language de, nl"."""
    return " and ".join(f"{human.label(name)} {', '.join(values)}" for name, values in (where or {}).items())


def _elsewhere(rule: dict[str, Any], profile: dict[str, Any]) -> tuple[str, ...]:
    """What each override makes of a rule, in words: "language de, nl: above 12"."""
    said = []
    for override in profile.get("overrides", []):
        change = override["rules"].get(rule["name"])
        if change is not None:
            below, above = (change.get("drop_below"), change.get("drop_above")) if change else (None, None)
            limit = f"below {human.number(below)}" if below is not None else f"above {human.number(above)}"
            said.append(f"{_fitting(override['where'])}: {limit if change else 'off'}")
    return tuple(said)


def _group(group: dict[str, Any]) -> dict[str, Any]:
    limits = thresholds(group["profile"])
    histograms: dict[str, Histogram] = {}
    for _, output in group["sources"]:
        for path in output.shards():
            _add_shard(path, histograms)
    cards = [
        _card(name, histograms[name], limits.get(name, []), group["counts"])
        for name in [*(name for name in limits if name in histograms), *(n for n in histograms if n not in limits)]
    ]
    return {
        "name": group["name"],
        "sources": [source for source, _ in group["sources"]],
        "ruled": [card for card in cards if card["rules"]],
        "others": [card for card in cards if not card["rules"]],
        "keep_in": [rule for rule in group["profile"].get("rules", []) if rule.get("keep_in") is not None],
    }


def _add_shard(path: Path, histograms: dict[str, Histogram]) -> None:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [one.name for one in schema if pa.types.is_integer(one.type) or pa.types.is_floating(one.type)]
        at_once = max(1, AT_ONCE // max(1, file.metadata.num_rows))
        for first in range(0, len(names), at_once):  # a call for each column costs more than what it reads
            table = file.read(columns=names[first : first + at_once], use_threads=False)
            for name in names[first : first + at_once]:
                values = pc.cast(table[name], pa.float64(), safe=False)
                histograms.setdefault(name, Histogram(name.endswith(SHARES))).add(values.to_numpy())  # null: NaN


def _card(
    name: str, histogram: Histogram, limits: list[Threshold], counts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """`counts` are those of each source's `rules` step: failing, failing_alone and dropped, by rule."""
    rules = []
    for limit in limits:
        by_source = [
            {
                "source": source,
                **{key: of[key].get(limit.rule, 0) for key in ("failing", "failing_alone", "dropped")},
            }
            for source, of in counts.items()
        ]
        sums = {key: sum(row[key] for row in by_source) for key in ("failing", "failing_alone", "dropped")}
        rules.append(
            {
                "name": limit.rule,
                "below": limit.below,
                "above": limit.above,
                "where": limit.where,
                "elsewhere": limit.elsewhere,
                "by_source": by_source,
                **sums,
            }
        )
    return {
        "name": name,
        "chart": svg.histogram(shown_bins(histogram, limits), f"histogram of {name}"),
        "total": histogram.total,
        "zeros": histogram.zeros,
        "missing": histogram.missing,
        "above": histogram.above,
        "rules": rules,
    }


def shown_bins(histogram: Histogram, limits: list[Threshold]) -> svg.Bins:
    """Join fine bins to about SHOWN_BINS over the occupied range, thresholds within it."""
    edges = histogram.edges
    marks = sorted({value for limit in limits for value in (limit.below, limit.above) if value is not None})
    occupied = np.flatnonzero(histogram.fine)
    places = [*occupied[[0, -1]]] if len(occupied) else []
    drawn = [mark for mark in marks if mark >= edges[0]]  # a threshold at 0 asks for no more room on a log axis
    places += [int(np.clip(np.searchsorted(edges, mark) - 1, 0, len(edges) - 2)) for mark in drawn]
    first, last = (min(places), max(places)) if places else (0, len(edges) - 2)
    first = 0 if histogram.share else max(first - 2, 0)
    last = min(last + 2, len(edges) - 2)
    width = -(-(last - first + 1) // SHOWN_BINS)
    starts = list(range(first, last + 1, width))
    counts = np.add.reduceat(histogram.fine[: last + 1], starts).tolist()
    shown = [float(edges[start]) for start in starts] + [float(edges[min(starts[-1] + width, len(edges) - 1)])]
    middles = np.array([(low + high) / 2 for low, high in pairwise(shown)])
    gone = np.zeros(len(middles), bool)
    for limit in limits:
        gone |= limit.fails(middles) & (limit.where == "")
    return svg.Bins(shown, counts, gone.tolist(), marks, not histogram.share)
