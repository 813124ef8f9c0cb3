"""The station `decontaminate`: which documents hold items of the evaluation sets, shown with their text."""

from __future__ import annotations

import copy
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.chat import DOCUMENT_COLUMNS
from curation.decontaminate.benchmarks import Benchmark, Item, files_hash, raw_files, read_items
from curation.decontaminate.detect import DeconScanner, Match
from curation.decontaminate.index import (
    DeconIndex,
    ShareIndex,
    decon_index,
    load_index,
    memory,
    save_index,
    share_index,
)
from curation.decontaminate.settings import Decon, Decontaminate, NgramShare
from curation.decontaminate.share import ShareScanner
from curation.dedup.documents import Shard, list_shards
from curation.dedup.minhash import string_buffers
from curation.dedup.shingles import TABLES, hash_words
from curation.files import read_json, read_parquet, remove, write_json, write_parquet
from curation.ledger import alive, write_ledger
from curation.measure.render import rendered_text
from curation.schema import require_same_ids
from curation.shards import batches
from curation.steps import UNITS, Build, Context, StepOutput, step

VERSION = 2
STAGE = "decontaminate"
FOUND = "found"  # the matches of each shard: removed at the end
INDEX = "decontaminate-index"
EXCERPT = 600  # characters of a document and of an item that a match shows
ITEM = [field.name for field in fields(Item)]
PROBLEMS_SHOWN = 3  # of a benchmark, in the alarm

MATCHES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("shard", pa.string()),
        ("row", pa.uint32()),
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("method", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("question", pa.float64()),  # the score of each part; null where the item has none
        ("answer", pa.float64()),
        ("passage", pa.float64()),
        ("start", pa.int64()),  # characters of the document's rendered text
        ("end", pa.int64()),
        ("text", pa.large_string()),  # that text, EXCERPT characters at most
        ("item_text", pa.large_string()),  # the item's passage and question, as far
        ("item_answer", pa.large_string()),
    ]
)


@dataclass(frozen=True)
class Search:
    """One method ready to run: its index, the items that the index counts, its settings."""

    method: str
    index: DeconIndex | ShareIndex
    items: list[Item]
    settings: Decon | NgramShare

    def scanner(self) -> DeconScanner | ShareScanner:
        kind = DeconScanner if self.method == "decon" else ShareScanner
        return kind(self.index, self.settings)

    def save(self, folder: Path) -> None:
        save_index(folder / f"{self.method}.npz", self.index)
        write_json(folder / f"{self.method}.json", [[getattr(item, name) for name in ITEM] for item in self.items])


@functools.lru_cache(maxsize=4)
def load_search(folder: Path, method: str, settings: Decon | NgramShare) -> Search:
    """The search that was saved, kept for the next shard: of a step's folder there is only one content."""
    index = load_index(folder / f"{method}.npz", DeconIndex if method == "decon" else ShareIndex)
    items = [Item(*values) for values in read_json(folder / f"{method}.json")]
    return Search(method, index, items, settings)


def index_benchmarks(ctx: Context, kinds: Mapping[str, str], config: Decontaminate) -> StepOutput:
    """The step `decontaminate-index`: the evaluation sets as each method in use searches for them.

    `kinds`: of each source, which decides the method. Needs no document: it can be made beside what comes before.
    Counts: by_benchmark: items, unreadable, for each method compared and ignored (by reason); index_bytes,
    index_ngrams.

    Raises ConfigError for a benchmark without files, ValueError for one of which no record can be read.
    """
    files = {benchmark.name: raw_files(ctx, benchmark) for benchmark in config.benchmarks}
    methods = {source: config.method_for(source, kinds[source]) for source in sorted(kinds)}
    inputs = {f"benchmark/{name}": files_hash(found) for name, found in files.items()}

    def work(build: Build) -> None:
        items: list[Item] = []
        build.counts["by_benchmark"] = report = {}
        for benchmark in config.benchmarks:
            found, problems = read_items(benchmark, files[benchmark.name])
            report[benchmark.name] = {"items": len(found), "unreadable": len(problems)}
            items += found
            _complain(build, benchmark, found, problems)
        for search in _searches(config, methods, items, build):
            search.save(build.folder)
        build.write_json("counts.json", build.counts)  # which an item that changes no index may change

    return step(ctx, INDEX, 1, _searched(config, methods), inputs, work)


def decontaminate(
    ctx: Context,
    pools: Mapping[str, StepOutput],
    measured: Mapping[str, StepOutput],
    ledgers: Iterable[StepOutput],
    config: Decontaminate,
) -> StepOutput:
    """Drop or mark each document that holds an item of an evaluation set, by the index of `index_benchmarks`.

    Looks at the documents that no ledger has dropped, with all their text (pairs: prompt and both responses).
    Writes `ledger/<source>/<shard>.parquet` (stage "decontaminate", rule = the benchmark, value = the score of the
    match that exceeds its threshold most; action "mark" keeps the document) and `matches.parquet` (MATCHES, by
    source, shard, row, benchmark and item). Counts: documents_in, documents_out, by_source; those of the index,
    and of each benchmark items_hit and documents_hit.

    Raises what `index_benchmarks` raises.
    """
    ledgers = list(ledgers)
    kinds = {source: pools[source].record["config"].get("kind", "text") for source in sorted(pools)}
    index = index_benchmarks(ctx, kinds, config)
    methods = {source: config.method_for(source, kind) for source, kind in kinds.items()}
    outputs = [*pools.values(), *measured.values(), *ledgers, index]
    inputs = {output.name: output.content for output in outputs}

    def work(build: Build) -> None:
        build.scratch(FOUND)
        shards = list_shards(pools, measured)
        units = {
            shard.key: (shard, ledgers, index.folder, method, getattr(config, method), config.action)
            for shard in shards
            if (method := methods[shard.source]) != "none"
        }
        results = build.map(scan_shard, units, "either")
        tables = [read_parquet(build.folder / FOUND / f"{key}.parquet") for key in sorted(units)]
        matches = pa.concat_tables(tables) if tables else MATCHES.empty_table()
        order = [(name, "ascending") for name in ("source", "shard", "row", "benchmark", "item")]
        matches = matches.sort_by(order)
        build.write_table("matches.parquet", matches)
        build.counts |= copy.deepcopy(index.counts)
        _count(build, shards, results, matches)
        remove(build.folder / UNITS)  # before what it speaks of, so that a killed run can go on
        remove(build.folder / FOUND)

    literals = {**_searched(config, methods), "methods": methods, "action": config.action}
    return step(ctx, STAGE, VERSION, literals, inputs, work)


def scan_shard(
    folder: Path,
    key: str,
    shard: Shard,
    ledgers: list[StepOutput],
    index: Path,
    method: str,
    settings: Decon | NgramShare,
    action: str,
) -> dict[str, int]:
    """Look at the living documents of a shard; write its ledger and its matches."""
    search = load_search(index, method, settings)
    ids = read_parquet(shard.pool, ["id"])["id"].combine_chunks()
    require_same_ids(pa.chunked_array([ids]), read_parquet(shard.measured, ["id"])["id"], str(shard.measured))
    rows = np.flatnonzero(alive(ledgers, shard.source, shard.name, len(ids)))
    scanner = search.scanner()
    found: list[dict[str, Any]] = []
    best: dict[int, tuple[float, str, float, float]] = {}
    for numbers, table in batches(shard.pool, DOCUMENT_COLUMNS, rows):
        texts = rendered_text(table)
        for match in scanner.scan(texts):
            row, item = int(numbers[match.row]), search.items[match.item]
            found.append(_described(match, item, texts) | {"id": ids[row].as_py(), "row": row})
            candidate = (match.score - match.threshold, item.benchmark, match.score, match.threshold)
            if row not in best or candidate[0] > best[row][0]:
                best[row] = candidate
    for one in found:
        one |= {"source": shard.source, "shard": shard.name, "method": search.method}
    write_parquet(folder / FOUND / f"{key}.parquet", pa.Table.from_pylist(found, schema=MATCHES))
    hits = [best.get(row) for row in rows.tolist()]
    hit = np.array([one is not None for one in hits], bool)
    write_ledger(
        folder,
        shard.source,
        shard.name,
        stage=STAGE,
        ids=ids.take(pa.array(rows)),
        rows=rows,
        keep=~hit | (action == "mark"),
        rule=pa.array([one and one[1] for one in hits], pa.string()),
        value=np.array([one[2] if one else np.nan for one in hits], np.float64),
        threshold=np.array([one[3] if one else np.nan for one in hits], np.float64),
    )
    return {"documents": len(rows), "hit": int(hit.sum()), "dropped": int(hit.sum()) if action == "drop" else 0}


def _searched(config: Decontaminate, methods: dict[str, str]) -> dict[str, Any]:
    """What decides an index: no path, and only the settings in use."""
    used = sorted({method for method in methods.values() if method != "none"})
    return {
        "benchmarks": [
            benchmark.model_dump(mode="json", exclude={"root", "include"}) for benchmark in config.benchmarks
        ],
        **{method: getattr(config, method).model_dump(mode="json") for method in used},
    }


def _complain(build: Build, benchmark: Benchmark, items: list[Item], problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:PROBLEMS_SHOWN])
        if not items:
            raise ValueError(f"benchmark '{benchmark.name}': none of {len(problems)} records can be read: {shown}")
        build.alarm(f"benchmark '{benchmark.name}': {len(problems)} records cannot be read: {shown}")


def _searches(config: Decontaminate, methods: dict[str, str], items: list[Item], build: Build) -> Iterator[Search]:
    """An index for each method in use, and how many items of each benchmark they compare."""
    build.counts |= {"index_bytes": 0, "index_ngrams": 0}
    kinds = {"decon": decon_index, "ngram_share": share_index}
    used = [method for method in kinds if method in methods.values()]
    made = build.context.executor.each(lambda method: kinds[method](items, getattr(config, method)), used)
    for method, (index, kept, left_out) in zip(used, made, strict=True):
        settings = getattr(config, method)
        build.counts["index_bytes"] += memory(index)
        build.counts["index_ngrams"] += len(index.table.starts) - 1
        for name, counts in build.counts["by_benchmark"].items():
            ignored = dict(sorted(left_out.get(name, Counter()).items()))
            counts[method] = {"compared": counts["items"] - sum(ignored.values()), "ignored": ignored}
            if not counts[method]["compared"]:
                build.alarm(f"benchmark '{name}': no item can be compared by method {method}: {ignored}")
        yield Search(method, index, kept, settings)


def _described(match: Match, item: Item, texts: pa.LargeStringArray) -> dict[str, Any]:
    """A row of MATCHES, but for the document's place."""
    start, end, text = _excerpt(texts.slice(match.row, 1), match.start, match.end)
    parts = ("score", "threshold", "question", "answer", "passage")
    return {part: getattr(match, part) for part in parts} | {
        "benchmark": item.benchmark,
        "item": item.name,
        "start": start,
        "end": end,
        "text": text,
        "item_text": item.prompt[:EXCERPT],
        "item_answer": item.answer[:EXCERPT] or None,
    }


def _excerpt(text: pa.LargeStringArray, first: int, end: int) -> tuple[int, int, str]:
    """Where words[first:end] of a text begin and end, in characters, and the beginning of what is there."""
    data, offsets = string_buffers(text)
    low, high = int(offsets[0]), int(offsets[1])
    # A kernel whose output is full says where in the text the next word begins. Signs may stand before that: those
    # that follow the last word without a space belong to it.
    _, start = hash_words(data, low, high, TABLES, np.empty(first, np.uint64), 0)
    _, stop = hash_words(data, start, high, TABLES, np.empty(end - first, np.uint64), 0)
    found = re.sub(r"\s\W*\Z", "", data[start:stop].tobytes().decode())
    position = len(data[low:start].tobytes().decode())
    return position, position + len(found), found[:EXCERPT]


def _count(build: Build, shards: list[Shard], results: dict[str, dict[str, int]], matches: pa.Table) -> None:
    """Set documents_in, documents_out, documents_hit, by_source; and for each benchmark what was hit."""
    by_source: dict[str, Counter] = {}
    for shard in shards:
        if shard.key in results:
            by_source.setdefault(shard.source, Counter()).update(results[shard.key])
    build.counts["by_source"] = {
        source: {
            "documents_in": counts["documents"],
            "documents_out": counts["documents"] - counts["dropped"],
            "documents_hit": counts["hit"],
        }
        for source, counts in by_source.items()
    }
    for name in ("documents_in", "documents_out", "documents_hit"):
        build.counts[name] = sum(counts[name] for counts in build.counts["by_source"].values())
    hits = matches.select(["benchmark", "item", "source", "shard", "row"]).to_pylist()
    for name, counts in build.counts["by_benchmark"].items():
        own = [hit for hit in hits if hit["benchmark"] == name]
        counts["items_hit"] = len({hit["item"] for hit in own})
        counts["documents_hit"] = len({(hit["source"], hit["shard"], hit["row"]) for hit in own})
