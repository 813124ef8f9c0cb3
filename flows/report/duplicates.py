"""The largest duplicate clusters, and what differs between a dropped document and the twin kept for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from curation.steps import StepOutput
from flows.report import human
from flows.report.differences import differences
from flows.report.reading import READABLE, Place, documents, final_pools, readable
from flows.run import Run

CLUSTERS_SHOWN = 8
MEMBERS_SHOWN = 30  # listed of one cluster
COMPARED = 2  # dropped members compared with their twins: the least alike, and one from the middle

Row = dict[str, Any]  # id, source, shard, row, kept, similarity, twin


def duplicates(run: Run) -> list[dict[str, Any]]:
    """A view for each deduplication step: how many documents it dropped, and its largest clusters."""
    views = []
    near, same = run.step("dedup-fuzzy"), run.step("dedup-exact")
    if near is not None:
        views.append(_near(run, near))
    if same is not None and _parts(same):
        views.append(_exact(run, same))
    return views


def _near(run: Run, output: StepOutput) -> dict[str, Any]:
    """The clusters as the step wrote them: connected documents, of which more than one may have been kept."""
    path = output.folder / "clusters.parquet"
    table = pl.scan_parquet(path)
    sizes = table.group_by("cluster").agg(size=pl.len(), dropped=(~pl.col("kept")).sum()).collect()
    largest = sizes.sort(["size", "cluster"], descending=[True, False])["cluster"].head(CLUSTERS_SHOWN)
    rows = table.filter(pl.col("cluster").is_in(largest.to_list())).collect().to_dicts()
    groups = [[row for row in rows if row["cluster"] == cluster] for cluster in largest]
    return {
        "title": "Near-duplicates",
        "clusters": len(sizes),
        "dropped": int(sizes["dropped"].sum()),
        "largest": _described(run, groups, compare=True),
    }


def _exact(run: Run, output: StepOutput) -> dict[str, Any]:
    """Clusters from the ledger: the documents dropped for one twin, and the twin."""
    ledger = _ledger(output)
    sizes = ledger.filter(~pl.col("keep")).group_by("twin").len().collect()
    largest = sizes.sort(["len", "twin"], descending=[True, False])["twin"].head(CLUSTERS_SHOWN).to_list()
    among = pl.col("twin").is_in(largest) | (pl.col("keep") & pl.col("id").is_in(largest))
    found = ledger.filter(among).collect().to_dicts()
    rows = [
        {
            **row,
            "kept": row["keep"],
            "similarity": row["value"],
            "source": place[-2],
            "shard": place[-1].split(".parq")[0],
        }
        for row in found
        for place in [row["path"].split("/")]
    ]
    groups = [[row for row in rows if (row["id"] if row["kept"] else row["twin"]) == twin] for twin in largest]
    return {
        "title": "Exact duplicates",
        "clusters": len(sizes),
        "dropped": int(sizes["len"].sum()),
        "largest": _described(run, groups, compare=False),
    }


def _ledger(output: StepOutput) -> pl.LazyFrame:
    return pl.scan_parquet(_parts(output), include_file_paths="path", hive_partitioning=False, glob=False)


def _parts(output: StepOutput) -> list[Path]:
    """The ledger's files; none where no source gave a document."""
    return sorted((output.folder / "ledger").glob("*/*.parquet"))


def _described(run: Run, groups: list[list[Row]], *, compare: bool) -> list[dict[str, Any]]:
    ordered = [_ordered(rows) for rows in groups if rows]
    wanted = {_place(row) for rows in ordered for row in rows[:MEMBERS_SHOWN]}
    pairs = {id(rows): _compared(rows) if compare else [] for rows in ordered}
    wanted |= {_place(row) for compared in pairs.values() for pair in compared for row in pair}
    found = documents(final_pools(run), wanted, [*READABLE, "origin", "created"])
    return [_cluster(rows, pairs[id(rows)], found) for rows in ordered]


def _ordered(rows: list[Row]) -> list[Row]:
    """The kept ones first, then by falling similarity."""
    return sorted(
        rows,
        key=lambda row: (
            not row["kept"],
            -(row["similarity"] or 0),
            row["id"],
            row["source"],
            row["shard"],
            row["row"],
        ),
    )


def _place(row: Row) -> Place:
    return Place(row["source"], row["shard"], row["row"])


def _compared(rows: list[Row]) -> list[tuple[Row, Row]]:
    """(kept twin, dropped) for the dropped members that are the least alike, and half way."""
    kept = {row["id"]: row for row in reversed(rows) if row["kept"]}
    dropped = [row for row in rows if not row["kept"] and row["twin"] in kept]
    chosen = dropped if len(dropped) <= COMPARED else [dropped[-1], dropped[len(dropped) // 2]]
    return [(kept[row["twin"]], row) for row in chosen]


def _cluster(rows: list[Row], pairs: list[tuple[Row, Row]], found: dict[Place, dict[str, Any]]) -> dict[str, Any]:
    def described(row: Row) -> dict[str, Any]:
        document = found.get(_place(row), {})
        return {**row, "origin": document.get("origin") or "", "created": document.get("created") or ""}

    def text(row: Row) -> str:
        return readable(found[_place(row)]) if _place(row) in found else ""

    return {
        "size": len(rows),
        "kept": described(rows[0]),
        "members": [described(row) for row in rows[:MEMBERS_SHOWN]],
        "more": max(len(rows) - MEMBERS_SHOWN, 0),
        "excerpt": human.excerpt(text(rows[0])),
        "comparisons": [
            {"kept": described(twin), "member": described(row), "pieces": differences(text(twin), text(row))}
            for twin, row in pairs
        ],
    }
