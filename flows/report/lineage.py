"""The lineage: raw files, pools, mixes and checkpoints with their hashes, and whether the hashes agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from curation.steps import StepOutput
from flows.report import human
from flows.report.reading import (
    final_pools,
    manifests,
    ordered_steps,
    read_optional,
    sources,
    table_optional,
)
from flows.report.svg import Drawing
from flows.run import Run

ROW, GAP, BOX = 46, 12, 212  # a node's height, the space below it, its width
COLUMN = 292  # from one column's left edge to the next
RAW_FILES_SHOWN = 25


@dataclass(frozen=True)
class Node:
    """A box of the diagram: what it is called, what it says below, the full hash."""

    name: str
    css: str
    note: str
    hash: str


def lineage(run: Run) -> dict[str, Any] | None:
    """The view: the diagram, the links that do not agree, every step with its inputs, the raw files."""
    steps = ordered_steps(run)
    if not steps:
        return None
    read, pools, mixes, trained = sources(run), final_pools(run), manifests(run), checkpoints(run)
    return {
        "diagram": _diagram(read, pools, mixes, trained),
        "disagreements": _disagreements(pools, mixes, trained),
        "steps": _step_table(steps),
        "raw": _raw_files(read),
        "mixes": [(name, head["hash"], head.get("parents", {})) for name, (_, head) in mixes.items()],
        "checkpoints": trained,
    }


def checkpoints(run: Run) -> list[dict[str, Any]]:
    """Each trained stage: its content hash, the mix and the stage that it was trained from.

    Both are found by content: the step's inputs name the data and the parent checkpoint by hash.
    """
    trained = run.steps("train/")
    data = {output.content: name for name, output in run.steps("data/").items()}
    parents = {output.content: name for name, output in trained.items()}
    found = []
    for stage, output in trained.items():
        inputs = output.record["inputs"]
        record = read_optional(output, "checkpoint.json") or {}
        found.append(
            {
                "stage": stage,
                "content": output.content,
                "mix": data.get(inputs["data"]),
                "parent": parents.get(inputs.get("parent")),
                "manifest_hash": record.get("manifest_hash"),
            }
        )
    return found


def ancestors(trained: list[dict[str, Any]], stage: str) -> list[str]:
    """The stages that a stage's weights went through, nearest first."""
    parent_of = {entry["stage"]: entry["parent"] for entry in trained}
    chain, current = [], parent_of.get(stage)
    while current is not None and current not in chain:
        chain.append(current)
        current = parent_of.get(current)
    return chain


def _disagreements(pools: dict[str, StepOutput], mixes, trained: list[dict[str, Any]]) -> list[str]:
    """Links whose two ends name different hashes. An empty list is what a run should have."""
    wrong = []
    for name, (_, head) in mixes.items():
        for source, content in head.get("pools", {}).items():
            if source in pools and pools[source].content != content:
                wrong.append(f"mix {name} was made from another pool of {source}: {content}")
        for parent, digest in head.get("parents", {}).items():
            if parent in mixes and mixes[parent][1]["hash"] != digest:
                wrong.append(f"mix {name} was made from another mix {parent}: {digest}")
    for entry in trained:
        mix = mixes.get(entry["mix"])
        if mix and entry["manifest_hash"] and entry["manifest_hash"] != mix[1]["hash"]:
            wrong.append(f"checkpoint {entry['stage']} names another manifest: {entry['manifest_hash']}")
    return wrong


def _diagram(read: dict[str, StepOutput], pools, mixes, trained: list[dict[str, Any]]) -> Markup:
    columns = [
        ("Raw files", [_raw_node(name, pool) for name, pool in _of_files(read).items()]),
        ("Pools", [_pool_node(name, pool) for name, pool in pools.items()]),
        ("Mixes", [Node(name, "n-mix", _mix_note(head), head["hash"]) for name, (_, head) in mixes.items()]),
        ("Checkpoints", [Node(entry["stage"], "n-train", "", entry["content"]) for entry in trained]),
    ]
    columns = [(title, nodes) for title, nodes in columns if nodes]
    tallest = max((len(nodes) for _, nodes in columns), default=1)
    width = COLUMN * (len(columns) - 1) + BOX + 48
    drawing = Drawing(width, 34 + tallest * (ROW + GAP), "lineage from raw files to checkpoints", "chart lineage")
    places: dict[tuple[str, str], tuple[float, float]] = {}
    for number, (title, nodes) in enumerate(columns):
        x = number * COLUMN + 2
        first = 30 + (tallest - len(nodes)) * (ROW + GAP) / 2
        drawing.text(x, 14, title, "t dim")
        for place, node in enumerate(nodes):
            places[title, node.name] = (x, first + place * (ROW + GAP))
    _links(drawing, places, read, mixes, trained)
    for title, nodes in columns:
        for node in nodes:
            _box(drawing, *places[title, node.name], node)
    return drawing.markup()


def _links(drawing: Drawing, places, read, mixes, trained) -> None:
    def link(start: tuple[str, str], end: tuple[str, str], css: str, title: str) -> None:
        if start in places and end in places:
            (x1, y1), (x2, y2) = places[start], places[end]
            if x1 == x2:  # within a column: a bow on the right side
                _bow(drawing, x1 + BOX, y1 + ROW / 2, y2 + ROW / 2, css, title)
            else:
                drawing.curve(x1 + BOX, y1 + ROW / 2, x2, y2 + ROW / 2, css, title)

    for name in _of_files(read):
        link(("Raw files", name), ("Pools", name), "link", f"{name}: raw files to pool")
    for name, pool in read.items():
        for role in pool.record["inputs"]:
            if role.startswith("pool/"):
                parent = role.removeprefix("pool/")
                link(("Pools", parent), ("Pools", name), "link parent", f"{name} is made by a model from {parent}")
    for mix, (_, head) in mixes.items():
        tokens: dict[str, int] = {}
        for line in head["account"]:
            tokens[line["source"]] = tokens.get(line["source"], 0) + line["tokens"]
        for source, amount in sorted(tokens.items()):
            if amount:
                link(("Pools", source), ("Mixes", mix), "link", f"{source} to {mix}: {human.count(amount)} tokens")
        for parent in head.get("parents", {}):
            link(("Mixes", parent), ("Mixes", mix), "link parent", f"{mix} takes rows of {parent}")
    for entry in trained:
        if entry["mix"]:
            link(
                ("Mixes", entry["mix"]),
                ("Checkpoints", entry["stage"]),
                "link",
                f"{entry['stage']} on {entry['mix']}",
            )
        if entry["parent"]:
            title = f"{entry['stage']} starts from {entry['parent']}"
            link(("Checkpoints", entry["parent"]), ("Checkpoints", entry["stage"]), "link parent", title)


def _bow(drawing: Drawing, x: float, y1: float, y2: float, css: str, title: str) -> None:
    reach = min(14 + abs(y2 - y1) * 0.12, 40)
    points = [(x + reach * 4 * t * (1 - t), y1 + (y2 - y1) * t) for t in (i / 16 for i in range(17))]
    drawing.path(points, css)
    drawing.dot(*points[-1], "link-end", title, 2.5)


def _box(drawing: Drawing, x: float, y: float, node: Node) -> None:
    drawing.rect(x, y, BOX, ROW, f"node {node.css}", f"{node.name} {node.hash}", 7)
    drawing.text(x + 11, y + 19, node.name if len(node.name) <= 22 else node.name[:21] + "…", "t strong")
    note = f"{human.short_hash(node.hash)}{'  ' + node.note if node.note else ''}"
    drawing.text(x + 11, y + 35, note, "t tiny mono")


def _of_files(pools: dict[str, StepOutput]) -> dict[str, StepOutput]:
    """The pools that were read from raw files; the others were made by a model."""
    return {name: pool for name, pool in pools.items() if "files" in pool.record["inputs"]}


def _raw_node(name: str, pool: StepOutput) -> Node:
    counts = pool.counts
    files = counts.get("files")
    note = f"{files:,} file{'s' if files != 1 else ''}" if isinstance(files, int) else ""
    if counts.get("bytes_in"):
        note = f"{note}  {human.size(counts['bytes_in'])}".strip()
    return Node(name, "n-raw", note, pool.record["inputs"]["files"])


def _pool_node(name: str, pool: StepOutput) -> Node:
    edited = ", edited" if pool.counts.get("edited") else ""
    return Node(name, "n-pool", f"{human.count(pool.counts.get('documents_out'))} docs{edited}", pool.content)


def _mix_note(head: dict[str, Any]) -> str:
    return f"{human.count(head['totals']['tokens'])} tok"


def _step_table(steps: dict[str, StepOutput]) -> list[dict[str, Any]]:
    """Every step, its hashes, and its inputs by the name of the step that made them where it is in the run."""
    made_by = {output.content: name for name, output in steps.items()}
    return [
        {
            "name": name,
            "fingerprint": output.record["fingerprint"],
            "content": output.content,
            "version": output.record["version"],
            "files": len(output.record["files"]),
            "bytes": output.record["bytes"],
            "inputs": [
                (role, made_by.get(value), value)
                for role, value in sorted(output.record["inputs"].items())
                if isinstance(value, str)
            ],
        }
        for name, output in steps.items()
    ]


def _file_hashes(pool: StepOutput) -> dict[str, str]:
    """SHA-256 of each raw file of a pool by its name; empty if the pool has no list of them."""
    listed = table_optional(pool, "files.parquet")
    if listed is None:
        return {}
    return dict(zip(listed["file"].to_pylist(), listed["sha256"].to_pylist(), strict=True))


def _raw_files(pools: dict[str, StepOutput]) -> list[dict[str, Any]]:
    """Of each source the raw files that gave the most documents with their hashes, and the hash over all files."""
    found = []
    for name, pool in _of_files(pools).items():
        files = (
            pl.scan_parquet(pool.shards(), hive_partitioning=False)
            .group_by(file=pl.col("origin").str.replace(r"#[^#]*$", ""))
            .agg(documents=pl.len())
            .sort(["documents", "file"], descending=[True, False])
            .collect(engine="streaming")
            if pool.shards()
            else pl.DataFrame({"file": [], "documents": []})
        )
        hashes = _file_hashes(pool)
        rows = [{**row, "hash": hashes.get(row["file"], "")} for row in files.head(RAW_FILES_SHOWN).to_dicts()]
        listing = pool.record["inputs"]["files"]
        found.append(
            {"source": name, "hash": listing, "with_documents": len(files), "rows": rows, "counts": pool.counts}
        )
    return found
