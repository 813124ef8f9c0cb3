"""`mixwright dedup` in the terminal: the plan, the summary with the largest clusters, and two records compared."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from curation import remote
from curation.config import ConfigError
from curation.dedup.documents import Shard
from curation.dedup.explain import Explanation, explain
from curation.dedup.forecast import Forecast
from curation.dedup.inputs import find_inputs
from curation.dedup.tool import Deduplicated, Request, dedup_files, fit_workers, plan
from curation.executor import LocalExecutor
from curation.steps import Context
from flows.report import human
from flows.report.differences import differences
from flows.terminal import Terminal

CLUSTERS_SHOWN = 5
SHINGLES_SHOWN = 12
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEPT, BLOCKS = 64 << 20, 32 << 20  # bytes of free memory that malloc keeps; of the blocks that it takes from there
STYLES = {"same": "dim", "ins": "green", "del": "red", "gap": "dim"}


def scheme(given: str) -> str | dict[str, Any]:
    """A preset's name, "14x8" as bands and rows, or a mapping as in a pipeline file."""
    if match := re.fullmatch(r"(\d+)x(\d+)", given):
        return {"bands": int(match[1]), "rows": int(match[2])}
    if not given.lstrip().startswith("{"):
        return given
    try:
        return yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise ConfigError(f"--scheme {given}: no mapping: {error}") from None


def exact(by: str | None, alike: str | None) -> dict[str, Any]:
    """What exact duplicates share: a field instead of the text, and how it is made alike."""
    return ({"by": by} if by else {}) | {name: True for name in (alike or "").split(",") if name}


def request(**options: Any) -> Request:
    """The options of the command as a request. Raises ConfigError that says which is wrong."""
    try:
        return Request(**options)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise ConfigError("\n".join(problems)) from None


def planned(wanted: Request, workers: int | None) -> Forecast:
    return plan(wanted, workers or os.cpu_count() or 1)


def compared(wanted: Request, names: tuple[str, str]) -> Explanation:
    """Two records of the inputs, compared."""
    files = [path for paths in find_inputs(wanted.inputs).values() for path in paths]
    return explain(files, wanted.fields, wanted.limits, wanted.dedup, names)


def deduplicate(
    wanted: Request, folder: Path, workers: int | None, strict: bool, console: Console
) -> Deduplicated:
    """Run with progress bars on `console`."""
    _keep_freed_memory()
    fitting = fit_workers(wanted, workers or os.cpu_count() or 1)
    with LocalExecutor(fitting) as executor, Terminal(console) as terminal:
        context = Context((folder / "work").resolve(), executor, strict, progress=terminal)
        return dedup_files(context, wanted, folder)


def _keep_freed_memory() -> None:
    """Let glibc's malloc use again what is freed. Blocks of some megabytes of a file come and go; to give each
    back to the operating system, and have the next one cleared by it, takes a tenth of the time."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        malloc = ctypes.CDLL(None).mallopt
        malloc(M_TRIM_THRESHOLD, KEPT)
        malloc(M_MMAP_THRESHOLD, BLOCKS)


def plan_json(planned: Forecast) -> dict[str, Any]:
    detection = {str(at): round(share, 4) for at, share in planned.detection.items()}
    return {**planned.__dict__, "detection": detection}


def print_plan(planned: Forecast, console: Console) -> None:
    """What a run will need and find."""
    grid = _grid()
    files = sum(planned.files.values())
    grid.add_row("input", f"{files:,} files, {human.size(planned.raw)}, {len(planned.files)} sources")
    grid.add_row("documents", f"about {human.count(planned.documents)}, {human.size(planned.text)} of text")
    grid.add_row("memory", f"about {human.size(planned.memory)} with {planned.workers} workers")
    grid.add_row("disk", f"about {human.size(planned.disk)} below the output folder")
    console.print(grid)
    curve = Table("Jaccard similarity", *(f"{at}" for at in planned.detection), box=None)
    curve.add_row("is compared", *(human.percent(share) for share in planned.detection.values()))
    console.print(curve)


def summary_json(done: Deduplicated) -> dict[str, Any]:
    return {"out": remote.shown(done.out), "unchanged": done.reused, "alarms": done.alarms, **done.counts}


def print_summary(done: Deduplicated, console: Console) -> None:
    """Counts by source, the largest clusters with what differs in them, alarms, and where the tables are."""
    counts = done.counts
    stages = [name for name in ("exact", "fuzzy") if name in counts]
    table = Table("source", "documents", *stages, "kept", "", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, own in [*counts["by_source"].items(), ("all", counts)]:
        share = own["documents_out"] / own["documents_in"] if own["documents_in"] else 1.0
        cells = [own["documents_in"], *(own[stage] for stage in stages), own["documents_out"]]
        table.add_row(Text(name), *(f"{cell:,}" for cell in cells), human.percent(share))
    console.print(table)
    for cluster in largest_clusters(done):
        _print_cluster(cluster, console)
    if counts.get("reversals"):
        console.print(f"{counts['reversals']:,} records of the index change sides: reversals.parquet")
    for alarm in done.alarms:
        console.print(Text(f"! {alarm}", style="yellow"))
    console.print(Text(f"kept.parquet, removed.parquet, clusters.parquet: {remote.shown(done.out)}"))


def largest_clusters(done: Deduplicated, most: int = CLUSTERS_SHOWN) -> list[dict[str, Any]]:
    """The largest clusters with a near-duplicate in them: size, kept, the removed record that is least alike,
    and the words in which the two differ."""
    removed = pq.read_table(done.out / "removed.parquet")
    if not len(removed):
        return []
    groups = removed.group_by("twin").aggregate([("id", "count"), ("similarity", "min")])
    near = groups.filter(pc.less(groups["similarity_min"], 1.0))
    near = near.sort_by([("id_count", "descending"), ("twin", "ascending")]).slice(0, most)
    return [
        _cluster(removed.filter(pc.equal(removed["twin"], twin)), done.shards) for twin in near["twin"].to_pylist()
    ]


def _cluster(members: pa.Table, shards: list[Shard]) -> dict[str, Any]:
    least = members.sort_by([("similarity", "ascending"), ("id", "ascending")]).slice(0, 1).to_pylist()[0]
    gone = _text(shards, least["shard"], least["row"])
    held = least["twin_shard"] is None  # of a record that an index held before the text is not at hand
    kept = gone if held else _text(shards, least["twin_shard"], least["twin_row"])
    return {
        "size": len(members) + 1,
        "kept": {"source": least["twin_source"], "origin": least["twin_origin"]},
        "removed": {"source": least["source"], "origin": least["origin"], "similarity": least["similarity"]},
        "differences": differences(kept, gone),
    }


def _text(shards: list[Shard], shard: int, row: int) -> str:
    return next(shards[shard].texts(np.array([row])))[0].as_py()


def _print_cluster(cluster: dict[str, Any], console: Console) -> None:
    kept, removed = cluster["kept"], cluster["removed"]
    console.print(
        Text.assemble(
            (f"\ncluster of {cluster['size']:,}  ", "bold"),
            (f"kept {human.clean(kept['origin'])}", "red"),
            "  least alike, removed ",
            (f"{human.clean(removed['origin'])}", "green"),
            f"  Jaccard {removed['similarity']:.3f}",
        )
    )
    text = Text()
    for piece in cluster["differences"]:
        text.append(" ⋯ " if piece.kind == "gap" else piece.text, STYLES[piece.kind])
    console.print(Padding(text, (0, 2), expand=False))


def explanation_json(found: Explanation) -> dict[str, Any]:
    sides = {
        name: {"origin": side.origin, "id": side.id, "shingles": side.shingles}
        for name, side in (("first", found.first), ("second", found.second))
    }
    rest = {name: value for name, value in found.__dict__.items() if name not in sides}
    return sides | rest


def print_explanation(found: Explanation, console: Console) -> None:
    """Two records side by side: similarities, bands, shingles, and the words in which they differ."""
    grid = _grid()
    for name, side in (("first", found.first), ("second", found.second)):
        grid.add_row(name, Text(f"{human.clean(side.origin)}  {side.id}, {side.shingles:,} shingles"))
    grid.add_row(
        "true Jaccard", f"{found.jaccard:.4f} (decides); of the signature's shingles {found.jaccard_signed:.4f}"
    )
    estimate = "no signature" if found.estimated is None else f"{found.estimated:.4f}"
    grid.add_row("estimated", estimate)
    bands = f"{len(found.bands)}: {', '.join(map(str, found.bands))}" if found.bands else "none"
    grid.add_row("shared bands", f"{bands}; such a pair shares one with probability {found.detection:.4f}")
    grid.add_row("verdict", Text(found.verdict, "green" if found.duplicates else "yellow"))
    console.print(grid)
    for title, own in (
        ("shared", found.shared),
        ("only first", found.only_first),
        ("only second", found.only_second),
    ):
        shown = " · ".join(human.clean(shingle) for shingle in own[:SHINGLES_SHOWN])
        more = f" … {len(own) - SHINGLES_SHOWN:,} more" if len(own) > SHINGLES_SHOWN else ""
        console.print(Text.assemble((f"{title} {len(own):,}: ", "bold"), (shown + more, "dim")))
    text = Text()
    for piece in differences(found.first.text, found.second.text):
        text.append(" ⋯ " if piece.kind == "gap" else piece.text, STYLES[piece.kind])
    console.print(Padding(text, (1, 2), expand=False))


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    return grid
