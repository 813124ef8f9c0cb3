"""What is in a mix: its account, and its first documents as the model will see them, the loss mask in colour."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from curation.files import read_json
from curation.materialise import FACTS, MASK, PAIR, TOKENS, write_shard
from curation.mix.manifest import Manifest, load_manifest
from curation.mix.reasons import pool_steps
from curation.steps import StepOutput, find
from flows.report import human
from flows.report.mixes import joined
from flows.report.reading import Place, documents, final_pools, readable
from flows.run import Run
from training.runs import decoded_runs, last_turn

TOKENS_SHOWN = 240
EXCERPT = 900

# {"name", "kind", "hash", ..., "account": [lines], "documents": [...]}: plain data, `json.dumps` takes it.
Shown = dict[str, Any]


def show(
    folder: Path, run: Run | None = None, n: int = 3, source: str | None = None, workspace: Path | None = None
) -> Shown:
    """The head, the account and the first `n` documents of a manifest, in the order of training.

    A document is shown as the decoded tokens of the run's `data/<mix>`, in runs that are in the loss or masked.
    Where the mix is not materialised, its tokens are made for this of the pools and tokenizer in the workspace
    (the run's, unless given). Where those are gone, a document is an excerpt of its text; without a run, its row.
    Where every stage of the run that trains on the mix has `loss_on: last`, so has what is shown (`loss_on`).
    `source` shows the documents of one source. Raises curation.mix.manifest.ManifestError where there is no
    manifest, ValueError for a source that the mix does not hold, curation.materialise.TokenCountError.
    """
    manifest = load_manifest(Path(folder))
    held = sorted({line["source"] for line in manifest.head["account"]})
    if source is not None and source not in held:
        raise ValueError(f"{folder}: the mix holds no source '{source}'; it holds {', '.join(held)}")
    rows = first_rows(manifest, n, source)
    data = materialised(run, manifest) if run else None
    last = run is not None and _last_turns_alone(run, manifest)
    workspace = run.workspace if run else workspace
    if data is not None and run is not None:
        shown = _decoded(data, _tokenizer(run), rows, last)
    elif workspace is not None and (rendered := _rendered(workspace, manifest, rows, last)) is not None:
        shown = rendered
    else:
        shown = _texts(run, rows) if run else rows
    head = manifest.head
    keys = ("name", "kind", "hash", "recipe_hash", "seed", "tokenizer_hash", "parents", "totals", "account")
    return {
        **{key: head[key] for key in keys},
        "folder": str(folder),
        "loss_on": "last" if last else "all",
        "documents": shown,
    }


def first_rows(manifest: Manifest, n: int, source: str | None = None) -> list[dict[str, Any]]:
    """The n rows that come first in the global order, with their place `at` in the manifest. Parts are scanned,
    not loaded.
    """
    parts = [manifest.folder / name for name in sorted(manifest.head["parts"])]
    rows = pl.scan_parquet(parts, row_index_name="at", hive_partitioning=False)
    if source is not None:
        rows = rows.filter(pl.col("source") == source)
    return rows.sort("order", "source", "id", "shard", "row").head(n).collect().to_dicts()


def materialised(run: Run, manifest: Manifest) -> StepOutput | None:
    """The `data/<mix>` step of the run that was made from this very manifest."""
    for output in run.steps("data/").values():
        if read_json(output.folder / "data.json")["manifest_hash"] == manifest.hash:
            return output
    return None


def _last_turns_alone(run: Run, manifest: Manifest) -> bool:
    """Whether all stages of the run that train on this mix have the last turn alone in the loss."""
    stages = run.data.get("config", {}).get("train", {}).values()
    settings = [stage["config"] for stage in stages if stage["mix"] == manifest.head["name"]]
    return bool(settings) and all(config.get("loss_on") == "last" for config in settings)


def _tokenizer(run: Run):
    output = run.step("tokenizer")
    if output is None:
        raise ValueError(
            f"{run.folder}: the run's tokenizer is no longer in the workspace; run the pipeline again"
        )
    return _words(output)


def _words(tokenizer: StepOutput):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer.folder / "tokenizer" / "tokenizer.json"))


def _decoded(data: StepOutput, tokenizer, rows: list[dict[str, Any]], last: bool) -> list[dict[str, Any]]:
    about = read_json(data.folder / "data.json")
    index = pq.read_table(data.folder / "index.parquet")
    tokens = np.memmap(data.folder / "tokens.bin", np.dtype(about["dtype"]).newbyteorder("<"), "r")
    mask = np.memmap(data.folder / "mask.bin", np.uint8, "r")
    # The index is in the order of the manifest's rows.
    lines = [index.slice(row["at"], 1).to_pylist()[0] for row in rows]
    return [_viewed(tokenizer, row, line, tokens, mask, last) for row, line in zip(rows, lines, strict=True)]


def _viewed(
    tokenizer: Any, row: dict[str, Any], line: dict[str, Any], tokens: np.ndarray, mask: np.ndarray, last: bool
) -> dict[str, Any]:
    """A row with its tokens decoded. `line`: where they are, as in the index of token data."""
    views = {"text": (line["start"], line["length"])}
    if line.get("rejected_length"):
        views = {"chosen": views["text"], "rejected": (line["rejected_start"], line["rejected_length"])}
    margin = {} if line.get("margin") is None else {"margin": line["margin"]}
    runs = {
        name: _runs(tokenizer, tokens[start : start + length], mask[start : start + length], last)
        for name, (start, length) in views.items()
    }
    return {**row, **margin, "views": runs}


def _rendered(
    workspace: Path, manifest: Manifest, rows: list[dict[str, Any]], last: bool
) -> list[dict[str, Any]] | None:
    """Documents as their token data will be, made for this in a folder of its own. None where the tokenizer or a
    pool that the manifest was made of is not in the workspace."""
    tokenizer = find(workspace, "tokenizer", str(manifest.head["tokenizer_hash"]))
    pools = {source: _pool(workspace, manifest, source) for source in {row["source"] for row in rows}}
    if tokenizer is None or None in pools.values():
        return None
    ends = np.cumsum([row["tokens"] for row in rows], dtype=np.int64)
    placed = [{**row, "place": n, "start": int(ends[n]) - row["tokens"]} for n, row in enumerate(rows)]
    placed.sort(key=lambda row: (_place(row), row["transform"]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / FACTS).mkdir()
        for name, size in ((TOKENS, 4), (MASK, 1)):
            (folder / name).write_bytes(bytes(size * int(ends[-1] if rows else 0)))
        facts: dict[int, dict[str, Any]] = {}
        for (source, shard), own in itertools.groupby(placed, key=lambda row: (row["source"], row["shard"])):
            path, part = pools[source].folder / "shards" / f"{shard}.parquet", pa.Table.from_pylist(list(own))
            write_shard(folder, "shown", str(path), str(tokenizer.folder), "uint32", part)
            facts |= {fact["place"]: fact for fact in pq.read_table(folder / FACTS / "shown.parquet").to_pylist()}
        tokens, mask = np.fromfile(folder / TOKENS, "<u4"), np.fromfile(folder / MASK, np.uint8)
    words = _words(tokenizer)
    lines = [_index_line(row, facts[row["place"]]) for row in sorted(placed, key=lambda row: row["place"])]
    return [_viewed(words, row, line, tokens, mask, last) for row, line in zip(rows, lines, strict=True)]


def _pool(workspace: Path, manifest: Manifest, source: str) -> StepOutput | None:
    found = (find(workspace, name, manifest.head["pools"][source]) for name in pool_steps(source))
    return next((output for output in found if output is not None), None)


def _index_line(row: dict[str, Any], fact: dict[str, Any]) -> dict[str, Any]:
    """What the index of token data would say of a row."""
    length = fact["first"] if row["transform"].partition(" ")[0] == PAIR else row["tokens"]
    rejected = {"rejected_start": row["start"] + length, "rejected_length": row["tokens"] - length}
    return {"start": row["start"], "length": length, "margin": fact["margin"], **rejected}


def _runs(tokenizer, tokens: np.ndarray, mask: np.ndarray, last: bool) -> dict[str, Any]:
    """The decoded text in runs of equal mask: {"tokens", "in_loss", "runs": [{"in_loss", "text"}], "cut"}."""
    if last:
        mask = np.where(np.arange(len(mask)) < last_turn(mask), 0, mask)
    runs = decoded_runs(tokenizer, tokens[:TOKENS_SHOWN], mask[:TOKENS_SHOWN].astype(bool))
    return {"tokens": len(tokens), "in_loss": int(mask.sum()), "runs": runs, "cut": len(tokens) > TOKENS_SHOWN}


def _texts(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = documents(final_pools(run), [_place(row) for row in rows])
    shown = []
    for row in rows:
        document = found.get(_place(row), {})
        text = human.excerpt(readable(document), EXCERPT) if document else None
        shown.append({**row, "origin": document.get("origin"), "excerpt": text})
    return shown


def _place(row: dict[str, Any]) -> Place:
    return Place(row["source"], row["shard"], row["row"])


def print_show(shown: Shown, console: Console) -> None:
    """Print a manifest for a person: the account, then the documents; what is in the loss stands out."""
    totals = shown["totals"]
    console.print(Text.assemble((shown["name"], "bold"), f"  {shown['kind']}  manifest {shown['hash'][:12]}"))
    console.print(
        f"{human.count(totals['tokens'])} tokens, {human.count(totals['unique_documents'])} unique documents, "
        f"{human.count(totals['occurrences'])} occurrences, {human.count(totals['fragments'])} fragments"
    )
    console.print(account_table(shown["account"]))
    if shown["loss_on"] == "last":
        console.print("in the loss: the last turn alone, as its stages of the run say (loss_on)", style="dim")
    for document in shown["documents"]:
        _print_document(document, console)


def account_table(account: list[dict[str, Any]]) -> Table:
    """The account of a mix by source, laid out like the tables of the Olmo 3 report."""
    table = Table(box=None, header_style="dim")
    table.add_column("source")
    table.add_column("type")
    for name in (
        "pool tokens",
        "pool docs",
        "mix tokens",
        "unique docs",
        "occurrences",
        "share",
        "repeats",
        "error",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in account:
        groups.setdefault((line["source"], line["type"] or ""), []).append(line)
    for (source, label), lines in groups.items():
        table.add_row(Text(source), Text(label), *_cells(joined(lines)))
    table.add_row(Text("total", "bold"), "", *_cells(joined(account)), style="bold")
    return table


def _cells(line: dict[str, Any]) -> list[str]:
    repeats = human.NOTHING if line["repeats"] is None else f"{line['repeats']:.2f}"
    numbers = [
        human.count(line[key]) for key in ("pool_tokens", "pool_documents", "tokens", "documents", "occurrences")
    ]
    return [*numbers, human.percent(line["share"]), repeats, human.count(line["error_tokens"])]


def _print_document(document: dict[str, Any], console: Console) -> None:
    title = f"\n{document['id']}  {document['source']}  {document['bucket']}"
    facts = f"  {document['tokens']:,} tokens, {document['copies']} cop{'y' if document['copies'] == 1 else 'ies'}"
    facts += f", margin {document['margin']:.3g}" if "margin" in document else ""
    console.print(Text.assemble((title, "bold"), facts, f", {document['transform']}"))
    for name, view in document.get("views", {}).items():
        body = Text()
        for run in view["runs"]:
            body.append(human.clean(run["text"]), "green" if run["in_loss"] else "dim")
        body.append(" …" if view["cut"] else "")
        console.print(
            Padding(
                Text(f"{name}: {view['in_loss']:,} of {view['tokens']:,} tokens in the loss", "italic"),
                (0, 2),
                expand=False,
            )
        )
        console.print(Padding(body, (0, 4), expand=False))
    if document.get("excerpt"):
        console.print(Padding(Text(document["excerpt"]), (0, 4), expand=False))
