"""What the report and `why` read from a run's steps: stages of decision, documents at a place, manifests.

Everything is read shard by shard and column by column; a document's text only once its place is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import read_json, read_parquet
from curation.ledger import ledger_path
from curation.steps import StepOutput
from flows.run import Run

STAGE_LABELS = {
    "rules": "rules",
    "exact": "exact duplicates",
    "fuzzy": "near-duplicates",
    "lines": "repeated lines",
    "substring": "repeated substrings",
    "decontaminate": "contamination",
}
EDIT_STATIONS = ("edit", "trim-lines", "trim")  # in the order of the line; each writes pools anew
SERIES = 10  # colours of series in the style sheet: s0 ... s9
FETCH_BYTES = 4 << 20  # about, of a shard held at once while documents are looked up
READABLE = ["text", "messages", "chosen", "rejected"]  # the columns that `readable` makes a text of


class Place(NamedTuple):
    """Where a document lies: its source, its shard's name without suffix, its row of the shard."""

    source: str
    shard: str
    row: int


@dataclass(frozen=True)
class Stage:
    """One stage of decision: its name in the ledgers and, by source, the step that holds its ledger."""

    name: str
    ledgers: dict[str, StepOutput]

    @property
    def label(self) -> str:
        return STAGE_LABELS.get(self.name, self.name)

    def read(self, source: str, shard: str, columns: list[str] | None = None) -> pa.Table | None:
        """The ledger of a shard, None if the stage did not look at it."""
        output = self.ledgers.get(source)
        path = ledger_path(output.folder, source, shard) if output else None
        return read_parquet(path, columns) if path and path.exists() else None


def stages(run: Run) -> list[Stage]:
    """The stages of decision in the order of the run. "rules/web" and "rules/code" are steps of one stage."""
    found: dict[str, dict[str, StepOutput]] = {}
    for output in ordered_steps(run).values():
        paths = sorted((output.folder / "ledger").glob("*/*.parquet"))
        name = _stage_name(paths)
        if name is not None:
            found.setdefault(name, {}).update({path.parent.name: output for path in paths})
    return [Stage(name, ledgers) for name, ledgers in found.items()]


def _stage_name(ledgers: list[Path]) -> str | None:
    """The stage that a step's ledgers are of; None if none of them has a row."""
    for path in ledgers:
        table = read_parquet(path, ["stage"])
        if len(table):
            return table["stage"][0].as_py()
    return None


def sources(run: Run) -> dict[str, StepOutput]:
    """The pool of each source."""
    return by_source(run, "ingest/")


def final_pools(run: Run) -> dict[str, StepOutput]:
    """The pool of each source after all edits of its text: the one that mixes take."""
    pools = sources(run)
    for station in EDIT_STATIONS:
        pools |= by_source(run, f"{station}/")
    return pools


def by_source(run: Run, prefix: str) -> dict[str, StepOutput]:
    """The steps "<prefix><source>" by source, in the order of the pipeline file, whatever order they ended in."""
    place = {source["name"]: number for number, source in enumerate(run.data["config"].get("sources", []))}
    steps = run.steps(prefix)
    return {name: steps[name] for name in sorted(steps, key=lambda name: (place.get(name, len(place)), name))}


def source_classes(run: Run) -> dict[str, str]:
    """The colour class of each source, the same in every chart of a report."""
    return {source: f"s{place % SERIES}" for place, source in enumerate(sources(run))}


def ordered_steps(run: Run) -> dict[str, StepOutput]:
    """All steps: stations in the order of the run, the sources of a station in that of the pipeline file."""
    steps = run.steps()
    stations = dict.fromkeys(name.partition("/")[0] for name in steps)
    of_pools = sources(run).keys()
    out = {}
    for station in stations:
        names = [name for name in steps if name.partition("/")[0] == station]
        known = [f"{station}/{source}" for source in of_pools if f"{station}/{source}" in steps]
        out |= {name: steps[name] for name in [*known, *(name for name in names if name not in known)]}
    return out


def dropped_at(ledgers: list[pa.Table | None], rows: int) -> np.ndarray:
    """The index of the first stage that dropped each row of a shard, -1 for those alive. Shape (rows,), int8.

    `ledgers`: what each stage in turn says of the shard.
    """
    out = np.full(rows, -1, np.int8)
    for index, table in enumerate(ledgers):
        if table is not None:
            gone = table["row"].to_numpy()[~table["keep"].to_numpy(zero_copy_only=False)]
            out[gone[out[gone] < 0]] = index
    return out


def column(output: StepOutput | None, shard: str, name: str) -> np.ndarray | None:
    """A numeric column of a per-source step's shard; None if there is no such step, shard or column."""
    if output is None:
        return None
    path = output.folder / "shards" / f"{shard}.parquet"
    if not path.exists():
        return None
    table = read_parquet(path, [name])  # leaves out a column that is not there
    return table[name].to_numpy() if table.num_columns else None


def documents(
    pools: dict[str, StepOutput], places: Iterable[Place], columns: list[str] | None = None
) -> dict[Place, dict[str, Any]]:
    """The documents at `places`, as mappings of the DOCUMENT columns, or of some. Each shard is streamed once."""
    wanted: dict[tuple[str, str], list[int]] = {}
    for place in sorted(set(places)):
        wanted.setdefault((place.source, place.shard), []).append(place.row)
    found = {}
    for (source, shard), rows in wanted.items():
        path = pools[source].folder / "shards" / f"{shard}.parquet" if source in pools else None
        if path is not None and path.exists():
            for row, document in rows_at(path, rows, columns):
                found[Place(source, shard, row)] = document
    return found


def rows_at(path: Path, rows: list[int], columns: list[str] | None = None) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file at rising positions `rows`; row groups that hold none of them are not read."""
    out: list[tuple[int, dict[str, Any]]] = []
    with pq.ParquetFile(path) as file:
        end = 0
        for group in range(file.num_row_groups):
            held = file.metadata.row_group(group)
            start, end = end, end + held.num_rows
            inside = [row for row in rows if start <= row < end]
            if inside:
                at_once = max(1, FETCH_BYTES * held.num_rows // max(1, held.total_byte_size))
                batches = file.iter_batches(at_once, [group], columns, use_threads=False)
                out += _rows_of(batches, start, inside)
    return out


def _rows_of(batches: Iterable[pa.RecordBatch], start: int, rows: list[int]) -> list[tuple[int, dict[str, Any]]]:
    out, pending = [], list(rows)
    for batch in batches:
        end = start + len(batch)
        while pending and pending[0] < end:
            row = pending.pop(0)
            out.append((row, batch.slice(row - start, 1).to_pylist()[0]))
        if not pending:
            break
        start = end
    return out


def readable(document: dict[str, Any]) -> str:
    """A document as a person reads it: its text, or its messages with their roles."""
    if document.get("text") is not None:
        return document["text"]
    parts = [_turns(document.get("messages"))]
    parts += [f"[{name}]\n{_turns(document[name])}" for name in ("chosen", "rejected") if document.get(name)]
    return "\n\n".join(part for part in parts if part)


def _turns(messages: list[dict[str, Any]] | None) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages or [])


def row_of(output: StepOutput | None, shard: str, row: int, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """One row of a per-source step's shard, {} if there is no such step or shard."""
    path = output.folder / "shards" / f"{shard}.parquet" if output else None
    if path is None or not path.exists():
        return {}
    columns = [name for name in pq.read_schema(path).names if name not in leave_out]
    found = rows_at(path, [row], columns)
    return found[0][1] if found else {}


def manifests(run: Run) -> dict[str, tuple[StepOutput, dict[str, Any]]]:
    """Each mix of the run: its step and its `mix.json`."""
    return {
        name: (output, read_json(output.folder / "mix.json"))
        for name, output in run.steps("mix/").items()
        if (output.folder / "mix.json").exists()
    }


def manifest_parts(folder: Path) -> list[Path]:
    """The Parquet parts of a manifest folder, in order."""
    return sorted(Path(folder).glob("part-*.parquet"))


def read_optional(output: StepOutput | None, relative: str) -> Any:
    """A JSON file of a step, None if there is no such step or file."""
    path = output.folder / relative if output else None
    return read_json(path) if path and path.exists() else None


def table_optional(
    output: StepOutput | None, relative: str, columns: list[str] | None = None, filters: list | None = None
) -> pa.Table | None:
    """A Parquet file of a step, or the rows of it that `filters` choose; None if there is no such step or file."""
    path = output.folder / relative if output else None
    if path is None or not path.exists():
        return None
    if filters is None:
        return read_parquet(path, columns)
    return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
