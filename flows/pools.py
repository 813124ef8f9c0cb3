"""The measured pools of a run, for the commands that decide over stored measurements: `decide` and `whatif`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.config import ConfigError
from curation.measure.groups import GROUPS
from curation.rules.profile import Profile
from curation.rules.short_circuit import require_whole
from curation.steps import StepOutput
from flows.report.reading import by_source
from flows.run import Run

ALL = "all"
BYTES_PER_TOKEN = 4  # of text that has not been counted: English under tokenizers of 100,000 entries


class UnknownPoolError(Exception):
    """The run has no measured pool of that name."""


@dataclass(frozen=True)
class MeasuredPool:
    """A source's documents, their measurements and, where they have been counted, their tokens."""

    source: str
    documents: StepOutput | None  # None where its files are gone: nothing but texts to show is lost
    measured: StepOutput
    tokens: StepOutput | None

    @property
    def rows(self) -> int:
        return sum(pq.read_metadata(path).num_rows for path in self.measured.shards())

    def shards(self, columns: Iterable[str]) -> Iterator[tuple[str, pa.Table, np.ndarray]]:
        """Of each shard its name, the columns of its measurements, and the tokens of its documents (int64)."""
        wanted = list(dict.fromkeys([*columns, "bytes"]))
        for path in self.measured.shards():
            table = pq.read_table(path, columns=wanted)
            yield path.stem, table, self._tokens(path, table)

    def _tokens(self, path: Path, table: pa.Table) -> np.ndarray:
        if self.tokens is None:
            return -(-table["bytes"].to_numpy().astype(np.int64) // BYTES_PER_TOKEN)
        counted = pq.read_table(self.tokens.folder / "shards" / path.name, columns=["tokens"])
        return counted["tokens"].to_numpy().astype(np.int64)


def measured_pools(run: Run, names: Iterable[str]) -> list[MeasuredPool]:
    """The pools of these sources in the order of the pipeline file; of all measured ones for "all".

    Raises UnknownPoolError that names what there is.
    """
    measured = by_source(run, "measure/")
    names = list(dict.fromkeys(names))
    wanted = set(measured) if ALL in names else set(names)
    if unknown := sorted(wanted - set(measured)):
        near = difflib.get_close_matches(unknown[0], measured, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        there = f"it has {', '.join(measured)}, or '{ALL}'" if measured else "it has measured nothing yet"
        raise UnknownPoolError(f"run {run.name} has no measured pool '{unknown[0]}'; {there}{hint}")
    documents = {**run.steps("synthesise/"), **run.steps("ingest/")}
    tokens = run.steps("tokens/")
    return [
        MeasuredPool(source, documents.get(source), output, tokens.get(source))
        for source, output in measured.items()
        if source in wanted
    ]


def require_measurements(profile: Profile, pools: Iterable[MeasuredPool]) -> None:
    """Raise ConfigError that says how to get what a rule needs and a pool was measured without.

    That is a measurement of a group that was not taken, one of documents that a short circuit dropped, or one of
    text that other edits were made to.
    """
    pools = list(pools)
    fit = [pool.source for pool in pools if _edits(pool) == list(profile.edits)]
    for pool in pools:
        require_whole(profile, pool.measured)
        edits = _edits(pool)
        language_of = pool.measured.record["config"].get("language_of", "edited")
        if edits and language_of != profile.language_of and list(profile.edits) == edits:
            raise ConfigError(
                f"profile '{profile.name}' looks at the language of the {profile.language_of} text, but pool "
                f"'{pool.source}' was measured with that of the {language_of} text. "
                "Name the profile in the pipeline file and run it --until curate"
            )
        if list(profile.edits) != edits:
            raise ConfigError(
                f"profile '{profile.name}' edits text by {', '.join(profile.edits) or 'nothing'}, but pool "
                f"'{pool.source}' was measured with {', '.join(edits) or 'no edits'}, which changes gzip ratio, "
                "language and more. Name the profile in the pipeline file and run it --until curate"
                + (f"; or ask for the pools that fit alone: {', '.join(fit)}" if fit else "")
            )
        for path in pool.measured.shards()[:1]:
            present = pq.read_schema(path).names
            for name in profile.measurements:
                if name not in present:
                    raise ConfigError(_without(profile, pool.source, name, present))


def _edits(pool: MeasuredPool) -> list[str]:
    return pool.measured.record["config"].get("edits", [])


def _without(profile: Profile, source: str, name: str, present: list[str]) -> str:
    rules = [rule.name for rule in profile.rules if rule.measurement == name or name in rule.where] or [
        "overrides"
    ]
    said = f"profile '{profile.name}' ({rules[0]}): pool '{source}' has no measurement '{name}'"
    for group in GROUPS.values():
        if name in group.columns:
            return (
                f"{said}: measured without the group '{group.name}'. Name that in `measure: {{groups: [...]}}` "
                "of the pipeline file, or leave `groups` out to take all, and run that --until curate"
            )
    near = difflib.get_close_matches(name, present, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(present)}"
    return f"{said}; {hint}"
