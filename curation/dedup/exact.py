"""Exact deduplication: of the documents of one content hash, across all sources, one is kept.

1. keys     the hashes of each shard's living documents, sorted, on disk
2. share    a partition of the hashes: those that several documents have
3. gather   the documents of each shard that share one, with what the keep policy looks at
4. decide   a range of the hashes: of each the document that is kept
5. ledger   of each shard

No machine sees more than a shard or a partition.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from curation.dedup.bands import sorted_entries
from curation.dedup.candidates import share
from curation.dedup.documents import (
    SCRATCH,
    Dropped,
    Shard,
    discard,
    exact_values,
    list_shards,
    living_rows,
    write_ledgers,
)
from curation.dedup.ranking import RANKED, WHO, Slices, gather_candidates
from curation.dedup.settings import Dedup, Exact
from curation.files import map_array, write_array
from curation.steps import Build, Context, StepOutput, step

VERSION = 3


def dedup_exact(
    ctx: Context,
    pools: Mapping[str, StepOutput],
    measured: Mapping[str, StepOutput],
    rules: Mapping[str, StepOutput],
    config: Dedup,
) -> StepOutput:
    """Drop each document whose text, or what `config.exact` says, a preferred one has, in any source.

    What is compared are hashes of 128 bits. Looks at the documents that `rules` kept. Writes
    `ledger/<source>/<shard>.parquet`, stage "exact", rule "duplicate" (of texts made alike "same_text", of a
    field "same_<field>"), value 1.0 (the Jaccard similarity), twin = the id of the kept document, which is the
    document's own id where a source holds a record twice. Raises ValueError where pools and measurements do not
    match.
    """
    outputs = [*pools.values(), *measured.values(), *rules.values()]
    literals = config.model_dump(mode="json", include={"exact", "keep", "alarm_share"})

    def work(build: Build) -> None:
        shards = list_shards(pools, measured)
        build.scratch(SCRATCH)
        ledgers = list(rules.values())
        shared = share(build, *write_keys(build, shards, ledgers, config.exact))
        sizes = gather_candidates(build, shards, shared, config.keep, config.exact)
        ranges = max(1, -(-sum(sizes) // RANKED))
        cuts = [None, *((at << 64) // ranges for at in range(1, ranges)), None]
        bounds = pairwise(None if cut is None else (cut,) for cut in cuts)
        units = {f"decide {at} of {ranges}": (shards, *bound, at) for at, bound in enumerate(bounds)}
        build.map(_decide, units, "either")
        rule = "duplicate" if config.exact.measured else "same_" + config.exact.by
        dropped = {shard: partial(_dropped, shard, build.folder, ranges, rule) for shard in shards}
        write_ledgers(build, sorted(pools), dropped, ledgers, "exact", config.alarm_share)
        discard(build)

    return step(ctx, "dedup-exact", VERSION, literals, {output.name: output.content for output in outputs}, work)


def write_keys(
    build: Build, shards: list[Shard], ledgers: list[StepOutput], exact: Exact
) -> tuple[list[Path], list[int]]:
    """Of each shard the lower halves of what is compared, sorted: equal documents have equal ones. Returns the
    files and how many documents each has room for."""
    paths = [keys_file(build.folder, shard) for shard in shards]
    units = {f"keys {shard.key}": (shard, ledgers, exact, path) for shard, path in zip(shards, paths, strict=True)}
    results = build.map(_write_keys, units, "either").values()
    return paths, [result["documents"] for result in results]


def keys_file(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "keys" / f"{shard.key}.npy"


def _write_keys(
    folder: Path, key: str, shard: Shard, ledgers: list[StepOutput], exact: Exact, path: Path
) -> dict[str, int]:
    rows = living_rows(shard, ledgers)
    _, low = exact_values(shard, rows, exact)
    write_array(path, sorted_entries(low, rows.astype(np.uint32)))
    return {"documents": int(rows[-1]) + 1 if len(rows) else 0}


def _decide(
    folder: Path, key: str, shards: list[Shard], low: tuple | None, high: tuple | None, at: int
) -> dict[str, int]:
    """Of a range of values the documents that are dropped: WHO, with the halves of the id of the one that is
    kept."""
    slices = Slices(folder, shards, low, high)
    order = slices.ordered()
    values = [column[order] for column in slices.keys[:2]]
    leads = np.ones(len(order), bool)
    leads[1:] = np.any([column[1:] != column[:-1] for column in values], axis=0) if len(order) else False
    leader = order[leads][np.cumsum(leads) - 1]
    gone, leader = order[~leads], leader[~leads]
    found = np.empty(len(gone), WHO)
    found["shard"], found["row"] = slices.shard[gone], slices.rows[gone]
    for name, halves in zip(("high", "low"), slices.keys[-2:], strict=False):  # without shards there are no keys
        found[name] = halves[leader]
    write_array(twins_file(folder, at), found[np.lexsort((found["row"], found["shard"]))])
    return {"dropped": len(gone)}


def twins_file(folder: Path, at: int) -> Path:
    return folder / SCRATCH / "twins" / f"{at:06d}.npy"


def _dropped(shard: Shard, folder: Path, ranges: int, rule: str) -> Dropped:
    parts = [np.zeros(0, WHO)]
    for at in range(ranges):
        twins = map_array(twins_file(folder, at))
        start = bisect_left(twins["shard"], shard.place)
        parts.append(twins[start : bisect_left(twins["shard"], shard.place + 1, start)])
    own = np.concatenate(parts)
    own = own[np.argsort(own["row"])]
    return Dropped(own["row"], own["high"], own["low"], np.ones(len(own)), rule, 1.0)
