"""A plan beside the figures that someone published of the same mix: what agrees, and every difference."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from curation.config import UNITS, ConfigError
from curation.mix.plan import Plan

COLUMNS = ("tokens", "share", "documents", "repeats")
TOTAL = "total"


@dataclass(frozen=True)
class Figure:
    """A number as it was printed: `value`, with `half` a unit of its last digit."""

    text: str
    value: float
    half: float


@dataclass(frozen=True)
class Comparison:
    """A figure of the table beside the plan's."""

    source: str
    bucket: str
    column: str  # tokens, share, documents, repeats (tokens of the mix over those of the pool)
    published: Figure
    planned: float

    @property
    def agrees(self) -> bool:
        """The plan's number, rounded as the other is, is the other."""
        return abs(self.planned - self.published.value) <= self.published.half * (1 + 1e-9)

    @property
    def difference(self) -> float:
        """Of the plan, as a share of the published figure."""
        return self.planned / self.published.value - 1 if self.published.value else float("inf")

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "bucket": self.bucket,
            "column": self.column,
            "published": self.published.text,
            "planned": self.planned,
            "difference": self.difference,
            "agrees": self.agrees,
        }


def figure(text: str) -> Figure:
    """ "4.51T", "76.1%", "3.15B" with the precision they were printed in. Raises ValueError."""
    match = re.fullmatch(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([KMBT%]?)\s*", text)
    if match is None:
        raise ValueError(f"expected a figure such as 4.51T or 76.1%, found {text!r}")
    unit = Decimal("0.01") if match[3] == "%" else Decimal(UNITS[match[3]])
    number = Decimal(f"{match[1]}.{match[2] or 0}") * unit
    half = unit / 2 / 10 ** len(match[2] or "")
    return Figure(text.strip(), float(number), float(half))


def compare(planned: Plan, path: Path) -> list[Comparison]:
    """A plan beside a CSV of published figures: columns source, bucket, tokens, share, documents and counts.

    A row stands for the account lines of its source, of those in the given bucket where there is one; the source
    `total` for all. `counts` says what its documents are: occurrences, fragments or documents. An empty cell was
    not published. The repeat factor that tokens imply is compared, too. Raises ConfigError.
    """
    return [one for row in _rows(path) for one in _compare(planned, row, path)]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = (line for line in file if not line.startswith("#"))
            yield from ({key: value or "" for key, value in row.items()} for row in csv.DictReader(lines))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _compare(planned: Plan, row: dict[str, str], path: Path) -> Iterator[Comparison]:
    source, bucket = row.get("source", ""), row.get("bucket", "")
    own = [
        line
        for line in planned.account
        if source in (TOTAL, line["source"])
        and (not bucket or bucket in (line["bucket"], *_parts(line["bucket"])))
    ]
    if not own:
        raise ConfigError(f"{path}: the plan has no source '{source}' {bucket}".rstrip())
    counts = row.get("counts") or "occurrences"
    tokens = sum(line["tokens"] for line in own)
    pool = sum(line["pool_tokens"] for line in own if line["pool_tokens"])
    found = {
        "tokens": tokens,
        "share": sum(line["share"] for line in own),
        "repeats": tokens / pool if pool else 0.0,
    }
    try:
        found["documents"] = sum(line[counts] for line in own)
        for column in COLUMNS:
            if column == "repeats" and row.get("tokens") and source != TOTAL and pool:
                of_tokens = figure(row["tokens"])
                value, half = of_tokens.value / pool, of_tokens.half / pool
                yield Comparison(source, bucket, column, Figure(f"{value:.3g}x", value, half), found[column])
            elif row.get(column):
                yield Comparison(source, bucket, column, figure(row[column]), found[column])
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path}: row of '{source}': {error}") from None


def _parts(bucket: str) -> list[str]:
    """What a bucket "law/q20" is part of: "law"."""
    parts = bucket.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]
