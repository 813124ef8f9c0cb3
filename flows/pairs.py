"""The statistics of preference data in a run: of its sources of pairs, or of one of its mixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curation.files import read_parquet
from curation.mix.manifest import load_manifest
from curation.preference.statistics import Statistics, statistics
from curation.steps import StepOutput
from flows.pools import UnknownPoolError
from flows.report import human
from flows.report.reading import by_source, manifests
from flows.run import Run

# Heading, key, how a value is shown.
COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("comparisons", "comparisons", lambda n: f"{n:,}"),
    ("prompts", "prompts", lambda n: f"{n:,}"),
    ("turns a dialogue", "turns", "{:.1f}".format),
    ("tokens an example", "tokens_example", "{:.1f}".format),
    ("tokens a prompt", "tokens_prompt", "{:.1f}".format),
    ("tokens a response", "tokens_response", "{:.1f}".format),
    ("chosen is longer", "chosen_longer", human.percent),
    ("tokens apart", "length_difference", "{:.1f}".format),
)


def pairs_of(run: Run, name: str | None = None) -> list[Statistics]:
    """The table's lines: of one mix or source of the run, or of all its sources of pairs as curation left them.

    Raises UnknownPoolError for a name that the run does not have, ValueError for one that holds no pairs.
    """
    catalogs, mixes = by_source(run, "catalog/"), run.steps("mix/")
    if name is not None and name not in mixes and name not in catalogs:
        known = ", ".join([*mixes, *catalogs]) or "none"
        raise UnknownPoolError(f"the run has no mix and no source '{name}'; it has {known}")
    if name in mixes:
        lines = _of_mix(run, mixes[name])
    else:
        lines = _of_sources(run, list(catalogs.values()) if name is None else [catalogs[name]])
    if name is not None and not lines:
        raise ValueError(f"'{name}' holds no pairs")
    return lines


def pairs_tables(run: Run) -> list[dict[str, Any]]:
    """For the report: the sources of pairs as curation left them, then each preference mix; none without pairs."""
    views = [{"name": "sources", "lines": _of_sources(run, list(by_source(run, "catalog/").values()))}]
    for name, (output, head) in manifests(run).items():
        if head["kind"] == "preference":
            views.append({"name": f"mix {name}", "lines": _of_mix(run, output)})
    return [view for view in views if view["lines"]]


def _of_mix(run: Run, output: StepOutput) -> list[Statistics]:
    return _lines(run, load_manifest(output.folder).rows().select(["source", "shard", "row", "copies"]))


def _of_sources(run: Run, catalogs: list[StepOutput]) -> list[Statistics]:
    tables = [_alive(output.folder / "catalog.parquet") for output in catalogs]
    return _lines(run, pa.concat_tables(tables)) if tables else []


def _lines(run: Run, rows: pa.Table) -> list[Statistics]:
    lines = statistics(by_source(run, "tokens/"), rows)
    return lines if len(lines) > 2 else lines[:1]


def _alive(path: Path) -> pa.Table:
    """The documents of a catalog of pairs, each once; none of one of another kind."""
    table = read_parquet(path, ["source", "kind", "shard", "row"])
    table = table.filter(pc.equal(table["kind"], "pairs"))
    return table.drop_columns("kind").append_column("copies", pa.repeat(pa.scalar(1, pa.uint16()), len(table)))


def print_pairs(lines: list[Statistics], console: Console) -> None:
    """Print the table, laid out like that of the Llama 2 report."""
    table = Table(box=None, header_style="dim")
    table.add_column("source")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for line in lines:
        style = "bold" if line["source"] == "total" else ""
        table.add_row(Text(line["source"]), *(shown(line[key]) for _, key, shown in COLUMNS), style=style)
    console.print(table)
