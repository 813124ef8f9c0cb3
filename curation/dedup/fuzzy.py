"""Fuzzy deduplication: documents that share a MinHash band, verified by true Jaccard, one of each kept.

The phases, each a set of units that a killed run does not do again:

1. gather   the living documents of each shard, as integers; they are numbered in the order in which the keep
            policy prefers them, so that of any two the lower number is the one to keep
2. bands    the band keys of each shard, sorted, on disk
3. buckets  a partition of the key space: the pairs of documents that share a bucket
4. sets     of each shard the shingle sets of the documents that are in a pair (the only time text is read)
5. verify   a range of documents: the true Jaccard similarity of each of its pairs
6. decide   see `unionfind.keep_representatives`; ledger and clusters are written

Memory: about 120 bytes a document; a worker holds the signatures of one shard, a partition of 2^21 band entries
with 2^22 pairs, or a range of 2^20 pairs. The pairs that pass verification are held at once, 24 bytes each.
Shingle sets are read from disk as they are needed; the operating system may drop them at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from curation.dedup.candidates import candidate_pairs
from curation.dedup.documents import (
    Decisions,
    Documents,
    count,
    discard,
    gather,
    list_shards,
    write_decisions,
)
from curation.dedup.keep import preference
from curation.dedup.settings import Dedup
from curation.dedup.unionfind import components, keep_representatives
from curation.dedup.verify import verified_pairs
from curation.steps import Build, Context, StepOutput, step

VERSION = 2


def dedup_fuzzy(
    ctx: Context,
    pools: Mapping[str, StepOutput],
    measured: Mapping[str, StepOutput],
    ledgers: Iterable[StepOutput],
    config: Dedup,
) -> StepOutput:
    """Drop each document that is a verified near-duplicate of a preferred, kept one, in any source.

    Looks at the documents that no ledger has dropped. Writes `ledger/<source>/<shard>.parquet` (stage "fuzzy",
    rule "near_duplicate", value = Jaccard similarity to the kept twin, twin = its id) and `clusters.parquet`, the
    connected components of verified pairs, largest first: cluster, id, source, shard, row, kept, similarity (to
    the kept twin, null where kept), twin.

    A document without a signature is always kept. Whatever is dropped is verified to be similar to a document
    that is kept; of each pair that LSH proposes and verification confirms, at least one is dropped, unless
    `max_bucket` left the pair out (the count `pairs_left_out`). Raises ValueError where pools, measurements and
    scheme do not match.
    """
    ledgers = list(ledgers)
    shards = list_shards(pools, measured)
    outputs = [*pools.values(), *measured.values(), *ledgers]
    scheme = config.scheme.model_dump(mode="json")
    for output in measured.values():
        found = output.record["config"]["minhash"]
        if found != scheme:
            raise ValueError(
                f"step '{output.name}' made signatures by {found}, expected {scheme}: give measuring and fuzzy "
                "deduplication the same scheme"
            )

    def work(build: Build) -> None:
        documents = gather(build, pools, shards, ledgers)
        order = preference(config.keep, documents.names, documents.columns, documents.origins)
        number = np.empty(len(order), np.uint32)
        number[order] = np.arange(len(order), dtype=np.uint32)

        runs = candidate_pairs(build, documents, number, config)
        verified = verified_pairs(build, documents, order, number, runs, config)
        later, earlier = verified["pair"] >> np.uint64(32), verified["pair"] & np.uint64(0xFFFFFFFF)
        kept_twin, kept_similarity = keep_representatives(len(order), later, earlier, verified["similarity"])
        cluster = components(len(order), later, earlier)

        twin = np.full(len(order), -1, np.int64)
        twin[order] = np.where(kept_twin < 0, -1, order[kept_twin])
        decisions = Decisions("fuzzy", "near_duplicate", config.threshold, twin, kept_similarity[number])
        write_decisions(build, documents, decisions)
        _write_clusters(build, documents, decisions, order, cluster)
        count(build, documents, decisions, config.alarm_share)
        discard(build)

    return step(ctx, "dedup-fuzzy", VERSION, config, {output.name: output.content for output in outputs}, work)


def _write_clusters(
    build: Build, documents: Documents, decisions: Decisions, order: np.ndarray, cluster: np.ndarray
) -> None:
    """Write the components of two documents and more, largest first, and count them."""
    sizes = np.bincount(cluster, minlength=len(cluster))
    members = np.flatnonzero(sizes[cluster] > 1)
    members = members[np.lexsort((members, cluster[members], -sizes[cluster[members]]))]
    roots = cluster[members]
    first = np.ones(len(members), bool)
    first[1:] = roots[1:] != roots[:-1]
    positions = order[members]
    shards = [documents.shards[place] for place in documents.columns["shard"][positions]]
    twin = decisions.twin[positions]
    twins = np.full(len(twin), None, object)
    twins[twin >= 0] = documents.ids(twin[twin >= 0])
    columns = {
        "cluster": pa.array(np.cumsum(first) - 1, pa.uint32()),
        "id": pa.array(documents.ids(positions), pa.string()),
        "source": pa.array([shard.source for shard in shards], pa.string()),
        "shard": pa.array([shard.name for shard in shards], pa.string()),
        "row": pa.array(documents.columns["row"][positions], pa.uint32()),
        "kept": pa.array(twin < 0, pa.bool_()),
        "similarity": pa.array(decisions.similarity[positions], pa.float64(), from_pandas=True),
        "twin": pa.array(twins, pa.string()),
    }
    build.write_table("clusters.parquet", pa.table(columns))
    build.counts |= {"clusters": int(first.sum()), "largest_cluster": int(sizes.max(initial=0))}
