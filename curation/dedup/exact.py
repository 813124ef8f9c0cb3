"""Exact deduplication: of the documents of one content hash, across all sources, one is kept.

Hashes are joined in partitions on disk; what the keep policy looks at is gathered of documents that are not alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from curation.dedup.bands import sorted_entries
from curation.dedup.candidates import Bands, consecutive, share
from curation.dedup.documents import (
    SCRATCH,
    Decisions,
    Documents,
    Shard,
    discard,
    exact_values,
    gather,
    list_shards,
    living_rows,
    write_array,
    write_decisions,
)
from curation.dedup.keep import preference
from curation.dedup.plan import require_memory
from curation.dedup.settings import Dedup, Exact, Keep
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
    document's own id where a source holds a record twice. Memory: see `plan`, and the origins of those that are
    equal in all else. Raises ValueError where pools and measurements do not match.
    """
    outputs = [*pools.values(), *measured.values(), *rules.values()]
    literals = config.model_dump(mode="json", include={"exact", "keep", "alarm_share"})

    def work(build: Build) -> None:
        shards = list_shards(pools, measured)
        build.scratch(SCRATCH)
        ledgers = list(rules.values())
        shared = share(build, write_keys(build, shards, ledgers, config.exact))
        only = shared.by_file()
        documents = gather(build, pools, shards, ledgers, config.keep, config.exact, only)
        require_memory(config, len(documents), "exact")
        twin = exact_twins(documents, config.keep)
        similarity = np.where(twin < 0, np.nan, 1.0)
        rule = "duplicate" if config.exact.measured else "same_" + config.exact.by
        decisions = Decisions("exact", rule, 1.0, twin, similarity)
        write_decisions(build, documents, ledgers, decisions, config.alarm_share)
        discard(build)

    return step(ctx, "dedup-exact", VERSION, literals, {output.name: output.content for output in outputs}, work)


def write_keys(build: Build, shards: list[Shard], ledgers: list[StepOutput], exact: Exact) -> list[Bands]:
    """Of each shard the lower halves of what is compared, sorted: equal documents have equal ones."""
    paths = [keys_file(build.folder, shard) for shard in shards]
    units = {f"keys {shard.key}": (shard, ledgers, exact, path) for shard, path in zip(shards, paths, strict=True)}
    results = build.map(_write_keys, units, "threads").values()
    return consecutive(paths, [result["documents"] for result in results])


def keys_file(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "keys" / f"{shard.key}.npy"


def _write_keys(
    folder: Path, key: str, shard: Shard, ledgers: list[StepOutput], exact: Exact, path: Path
) -> dict[str, int]:
    rows = living_rows(shard, ledgers)
    _, low = exact_values(shard, rows, exact)
    write_array(path, sorted_entries(low, np.arange(len(rows), dtype=np.uint32)))
    return {"documents": len(rows)}


def exact_twins(documents: Documents, keep: Keep) -> np.ndarray:
    """For each document the position of the kept one of its value, -1 if that is itself. int64 (n,)."""
    high, low = documents.columns["value_high"], documents.columns["value_low"]
    order = np.lexsort((low, high))
    first = np.ones(len(order), bool)
    first[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    group_of_sorted = np.cumsum(first) - 1
    several = np.bincount(group_of_sorted)[group_of_sorted] > 1
    members, group = order[several], group_of_sorted[several]

    columns = {
        name: column[members] for name, column in documents.columns.items() if not name.startswith("value_")
    }
    best_first = preference(keep, documents.names, columns, lambda some: documents.origins(members[some]))
    best_first = best_first[np.argsort(group[best_first], kind="stable")]
    leads = np.ones(len(best_first), bool)
    leads[1:] = group[best_first[1:]] != group[best_first[:-1]]
    leader = members[best_first][leads][np.cumsum(leads) - 1] if len(best_first) else members
    twin = np.full(len(documents), -1, np.int64)
    twin[members[best_first]] = np.where(leads, -1, leader)
    return twin
