"""From a search for repeated text to spans: what substring and line deduplication share.

1. texts    of each shard: its living documents' text, one after another in one file, and what the search takes of
            it (anchors, segments), sorted by key
2. runs     of each partition of the keys: what is repeated there
3. spans    of each shard: what would be cut, and how much of each document
4. cuts     of each shard: edits, the twin of each run, the ledger

A document that would lose too much is dropped as a whole. Then the first copy of what it holds is the next one,
in a document that stays: 2 and 3 are done again with that known, until they drop the same documents as before.
The result is that of taking the documents one by one in the order of preference, each compared with those before
it that were kept; since the fate of a document hangs on earlier ones alone, a round settles at least one more.

Memory: about 130 bytes a document; a worker holds a batch of text and what the search takes of one shard, or a
partition of 2^20 entries with its table, or the runs of one shard. The file of texts is read where it lies; the
operating system may drop its pages at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.dedup.bands import read_partition
from curation.dedup.documents import SCRATCH, Decisions, Documents, Shard, partitions_of
from curation.dedup.spans import Snap, bridge, join, lengths_by, snap, whole_runs
from curation.dedup.texts import Texts, entries_file, write_texts
from curation.dedup.windows import RUN
from curation.edits import EDITS, edits_path
from curation.files import map_array, read_parquet, write_array, write_parquet
from curation.steps import Build

PARTITION = 1 << 20  # entries that a worker sorts at once

# Where each repeated run lies, and the earlier place of the same bytes: `repeats/<source>/<shard>.parquet`.
REPEATS = pa.schema(
    [
        ("row", pa.uint32()),
        ("start", pa.int64()),  # bytes of the document's text, before anything is cut
        ("end", pa.int64()),
        ("twin", pa.string()),  # id of the document that has it earlier, or keeps it
        ("twin_source", pa.string()),
        ("twin_start", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Search:
    """What a station looks for. `take` and `find` call kernels; the entries' first fields are key and document.

    `take(source, data, offsets, numbers)`: the entries of a batch of texts. `find(entries, texts, starts,
    dropped)`: the runs among the entries of some keys; see `windows.repeated_windows`.
    """

    rule: str
    take: Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    find: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    max_removed: float
    bridge: float = 1.0
    snap: Snap = "none"


def settle(build: Build, documents: Documents, order: np.ndarray, search: Search, stage: str) -> Decisions:
    """Find the cuts and the documents to drop; write edits and repeats. Counts runs, spans, bytes and rounds."""
    number = np.empty(len(order), np.uint32)
    number[order] = np.arange(len(order), dtype=np.uint32)
    starts = np.concatenate([[0], np.cumsum(documents.columns["bytes"].astype(np.int64))])
    texts = Texts(build.folder / SCRATCH / "texts", starts, order, number)
    entries = write_texts(build, documents, texts, search.take)
    partitions = partitions_of(entries, PARTITION)
    sizes = np.diff(starts)
    drop, rounds = np.zeros(len(order), bool), 0
    while True:
        removed = _round(build, documents, texts, search, drop, rounds, partitions)
        rounds += 1
        now = removed > search.max_removed * sizes
        if np.array_equal(now, drop):
            break
        drop = now
    units = {f"cuts {shard.key}": (shard, documents, search, drop, rounds - 1) for shard in documents.shards}
    results = build.map(_write_cuts, units, "threads").values()
    twin = np.full(len(order), -1, np.int64)
    for shard in documents.shards:
        part = documents.of_shard(shard)
        twin[part] = np.where(drop[part], np.load(_file(build.folder, "twins", rounds - 1, shard)), -1)
    build.counts["rounds"] = rounds
    for name in ("runs", "bytes_repeated", "spans", "trimmed", "bytes_cut"):
        build.counts[name] = sum(result[name] for result in results)
    build.counts["bytes_in"] = int(sizes.sum())
    build.counts["bytes_dropped"] = int(sizes[drop].sum())
    share = np.where(drop, removed / np.maximum(sizes, 1), np.nan)
    return Decisions(stage, f"{search.rule}_share", search.max_removed, twin, share)


def count_bytes(build: Build, documents: Documents, alarm_share: float) -> None:
    """Of each source the bytes in and cut; the alarm for one that loses too much of its text."""
    for source, counts in build.counts["by_source"].items():
        shards = [shard for shard in documents.shards if shard.source == source]
        counts |= {"bytes_in": 0, "bytes_cut": 0, "trimmed": 0}
        for shard in shards:
            counts["bytes_in"] += int(documents.columns["bytes"][documents.of_shard(shard)].sum())
            table = read_parquet(edits_path(build.folder, source, shard.name), columns=["row", "start", "end"])
            counts["bytes_cut"] += int((table["end"].to_numpy() - table["start"].to_numpy()).sum())
            counts["trimmed"] += len(table["row"].unique())
        if counts["bytes_cut"] > alarm_share * counts["bytes_in"]:
            build.alarm(
                f"source '{source}' loses {counts['bytes_cut']:,} of {counts['bytes_in']:,} bytes "
                f"({counts['bytes_cut'] / counts['bytes_in']:.1%}) to {build.name}, more than alarm_share = "
                f"{alarm_share:.1%}; look at its edits"
            )


def _file(folder: Path, kind: str, done: int, shard: Shard) -> Path:
    return folder / SCRATCH / kind / str(done) / f"{shard.key}.npy"


def _runs_file(folder: Path, done: int, partition: int) -> Path:
    return folder / SCRATCH / "runs" / str(done) / f"{partition:06d}.npy"


def _round(
    build: Build,
    documents: Documents,
    texts: Texts,
    search: Search,
    drop: np.ndarray,
    done: int,
    partitions: int,
) -> np.ndarray:
    """Phases 2 and 3; returns the bytes that each document would lose, int64 (n,)."""
    files = [entries_file(build.folder, shard) for shard in documents.shards]
    units = {
        f"runs {done} {at} of {partitions}": (files, at, partitions, texts, search, drop, done)
        for at in range(partitions)
    }
    build.map(_write_runs, units, "threads")
    runs = [_runs_file(build.folder, done, at) for at in range(partitions)]
    units = {
        f"spans {done} {shard.key}": (shard, documents, texts, search, runs, done) for shard in documents.shards
    }
    build.map(_write_spans, units, "threads")
    removed = [np.load(_file(build.folder, "removed", done, shard)) for shard in documents.shards]
    return np.concatenate([np.zeros(0, np.int64), *removed])


def _write_runs(
    folder: Path,
    key: str,
    files: list[Path],
    at: int,
    partitions: int,
    texts: Texts,
    search: Search,
    drop: np.ndarray,
    done: int,
) -> dict[str, int]:
    entries = read_partition(files, at, partitions)
    runs = np.zeros(0, RUN)
    if len(entries):
        runs = search.find(entries, texts.read(), texts.starts[:-1][texts.order], drop[texts.order])
        for name in ("document", "twin"):
            runs[name] = texts.order[runs[name]]
    write_array(_runs_file(folder, done, at), runs[np.lexsort((runs["start"], runs["document"]))])
    return {"runs": len(runs)}


def _write_spans(
    folder: Path,
    key: str,
    shard: Shard,
    documents: Documents,
    texts: Texts,
    search: Search,
    files: list[Path],
    done: int,
) -> dict[str, int]:
    part = documents.of_shard(shard)
    slices = [np.zeros(0, RUN)]
    for file in files:
        runs = map_array(file)
        first = bisect_left(runs["document"], part.start)
        slices.append(np.array(runs[first : bisect_left(runs["document"], part.stop, first)]))
    runs = np.concatenate(slices)
    runs["document"] -= part.start
    runs = whole_runs(runs)
    joined = join(runs)
    bounds = texts.starts[part.start : part.stop + 1]
    spans = snap(bridge(joined, search.bridge), texts.read(), bounds, search.snap)
    write_array(_file(folder, "repeats", done, shard), runs)
    write_array(_file(folder, "spans", done, shard), spans)
    write_array(_file(folder, "removed", done, shard), lengths_by(spans, len(bounds) - 1))
    write_array(_file(folder, "twins", done, shard), _main_twins(runs, len(bounds) - 1))
    return {"spans": len(spans)}


def _main_twins(runs: np.ndarray, documents: int) -> np.ndarray:
    """The position of the document that holds most of each one's repeated bytes; -1 if nothing is. int64 (n,)."""
    pairs = runs["document"].astype(np.uint64) << np.uint64(32) | runs["twin"].astype(np.uint64)
    pair, place = np.unique(pairs, return_inverse=True)
    weight = np.bincount(place, (runs["end"] - runs["start"]).astype(np.float64), len(pair))
    of, twin = (pair >> np.uint64(32)).astype(np.int64), (pair & np.uint64(0xFFFFFFFF)).astype(np.int64)
    out = np.full(documents, -1, np.int64)
    lightest_first = np.lexsort((-twin, weight, of))
    out[of[lightest_first]] = twin[lightest_first]  # of several entries of one document the last one stays
    return out


def _write_cuts(
    folder: Path, key: str, shard: Shard, documents: Documents, search: Search, drop: np.ndarray, done: int
) -> dict[str, int]:
    part = documents.of_shard(shard)
    rows, dropped = documents.columns["row"][part], drop[part]
    runs, spans = (np.load(_file(folder, kind, done, shard)) for kind in ("repeats", "spans"))
    repeated = int(lengths_by(join(runs), len(rows)).sum())
    twins, places = np.unique(runs["twin"], return_inverse=True)
    sources = [documents.names[place] for place in documents.columns["source"][twins]]
    repeats = {
        "row": pa.array(rows[runs["document"]]),
        "start": pa.array(runs["start"].astype(np.int64)),
        "end": pa.array(runs["end"].astype(np.int64)),
        "twin": pa.array(documents.ids(twins), pa.string()).take(pa.array(places)),
        "twin_source": pa.array(sources, pa.string()).take(pa.array(places)),
        "twin_start": pa.array(runs["twin_start"].astype(np.int64)),
    }
    write_parquet(folder / "repeats" / shard.source / f"{shard.name}.parquet", pa.table(repeats, schema=REPEATS))
    spans = spans[~dropped[spans["document"]]]
    edits = {
        "row": pa.array(rows[spans["document"]]),
        "start": pa.array(spans["start"].astype(np.int64)),
        "end": pa.array(spans["end"].astype(np.int64)),
        "replacement": pa.array([""] * len(spans), pa.string()),
        "rule": pa.array([search.rule] * len(spans), pa.string()),
    }
    write_parquet(edits_path(folder, shard.source, shard.name), pa.table(edits, schema=EDITS))
    return {
        "runs": len(runs),
        "bytes_repeated": repeated,
        "spans": len(spans),
        "trimmed": len(np.unique(spans["document"])),
        "bytes_cut": int(lengths_by(spans, len(rows)).sum()),
    }
