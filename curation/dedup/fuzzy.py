"""Fuzzy deduplication: documents that share a MinHash band, verified by true Jaccard, one of each kept.

The phases, each a set of units that a killed run does not do again:

1. bands    the band keys of each shard's living documents, sorted, on disk
2. share    a partition of the key space: the keys that several documents have. These are the candidates
3. gather   the candidates of each shard, as integers; they are numbered in the order in which the keep policy
            prefers them, so that of any two the lower number is the one to keep
4. buckets  a partition of the key space: the pairs of candidates that share a bucket
5. sets     of each shard the shingle sets of the documents that are in a pair (the only time text is read)
6. verify   a range of documents: the true Jaccard similarity of each of its pairs; phases 4 to 6 are repeated for
            what is kept of large buckets, see `similar`
7. decide   see `unionfind.keep_representatives`; ledger and clusters are written

With an index (`Dedup.index`) the documents that it holds take part, too, and it is extended: see `incremental`;
then all documents are gathered, first of all. Memory: see `plan`. Shingle sets are read from disk as they are
needed, so many at once as `verify.LOADED` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from curation.dedup.candidates import share, write_bands
from curation.dedup.documents import (
    SCRATCH,
    Decisions,
    Documents,
    discard,
    gather,
    list_shards,
    write_decisions,
)
from curation.dedup.extension import extend
from curation.dedup.incremental import Joined, held_bands, join, living_decisions, reversals
from curation.dedup.index import Version, locked, newest, read_version, require_config, require_sound
from curation.dedup.keep import preference
from curation.dedup.plan import require_memory
from curation.dedup.settings import Dedup, Exact, index_config
from curation.dedup.similar import columns, nothing_known, similar_pairs
from curation.dedup.unionfind import components, keep_representatives
from curation.files import json_hash
from curation.steps import Build, Context, StepOutput, StrictError, step, withdraw

VERSION = 3


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
    that is kept; of each pair that LSH proposes and verification confirms, at least one is dropped, also in
    buckets larger than `max_bucket`, unless the count `kept_pairs_left_out` says otherwise.

    With `config.index` the documents of that index take part: a living document can be dropped for one of them
    (rule "duplicate" for the same text), `clusters.parquet` lists living ones alone, `reversals.parquet` tells
    what changes for old ones, and the index is extended. The step's inputs name the version that it extends, so
    that the same run done again is reused, and the index stays as it is. Raises ValueError where pools,
    measurements and scheme do not match, ConfigError where the index does not fit, StrictError before it is
    extended.
    """
    ledgers = list(ledgers)
    outputs = [*pools.values(), *measured.values(), *ledgers]
    scheme = config.scheme.model_dump(mode="json")
    for output in measured.values():
        found = output.record["config"]["minhash"]
        if found != scheme:
            raise ValueError(
                f"step '{output.name}' made signatures by {found}, expected {scheme}: give measuring and fuzzy "
                "deduplication the same scheme"
            )
    inputs = {output.name: output.content for output in outputs}
    if config.index is None:
        return step(
            ctx,
            "dedup-fuzzy",
            VERSION,
            config,
            inputs,
            lambda build: _work(build, pools, measured, ledgers, config),
        )

    batch = json_hash({"version": VERSION, "config": config.model_dump(mode="json"), "inputs": inputs})
    with locked(config.index):
        base = _base(config, batch)

        def work(build: Build) -> None:
            if base:
                require_sound(base)
            _work(build, pools, measured, ledgers, config, base, batch)

        inputs["index"] = base.name if base else "empty"
        output = step(ctx, "dedup-fuzzy", VERSION, config, inputs, work)
        head = newest(config.index)
        if ctx.build and (head is None or head.record["batch"] != batch):  # it was lost, or put back to before
            ctx.outputs.pop()
            withdraw(output)
            output = step(ctx, "dedup-fuzzy", VERSION, config, inputs, work)
        return output


def _base(config: Dedup, batch: str) -> Version | None:
    """The version that the batch extends: the newest, or its parent where the newest is this batch's own."""
    head = newest(config.index)
    if head is None:
        return None
    require_config(head, index_config(config))
    if head.record["batch"] == batch:
        return read_version(config.index, head.record["parent"]) if head.record["parent"] else None
    return head


def _work(
    build: Build,
    pools: Mapping[str, StepOutput],
    measured: Mapping[str, StepOutput],
    ledgers: list[StepOutput],
    config: Dedup,
    base: Version | None = None,
    batch: str | None = None,
) -> None:
    build.scratch(SCRATCH)
    shards = list_shards(pools, measured)
    joined = None
    if batch:
        living = gather(build, pools, shards, ledgers, config.keep, Exact())
        joined = join(living, base, config.keep)
        documents, known = joined.texts, joined.known
        rows = [documents.columns["row"][documents.of_shard(shard)] for shard in shards]
        bands = write_bands(build, shards, rows, ledgers, config.scheme) + held_bands(joined, base)
        shared = share(build, bands)
    else:
        shared = share(build, write_bands(build, shards, None, ledgers, config.scheme))
        living = documents = gather(build, pools, shards, ledgers, config.keep, None, shared.by_file())
        known = nothing_known(len(documents))
    require_memory(config, len(documents), "fuzzy")
    order = preference(config.keep, documents.names, documents.columns, documents.origins)
    number = np.empty(len(order), np.uint32)
    number[order] = np.arange(len(order), dtype=np.uint32)
    verified = similar_pairs(build, documents, shared, number, known, config)
    later, earlier, similarity = columns(verified)
    kept_twin, kept_similarity = keep_representatives(len(order), later, earlier, similarity)
    cluster = components(len(order), later, earlier)
    twin = np.full(len(order), -1, np.int64)
    twin[order] = np.where(kept_twin < 0, -1, order[kept_twin])
    similarity = kept_similarity[number]

    if joined:
        decisions = living_decisions(joined, twin, similarity, config.threshold)
    else:
        decisions = Decisions("fuzzy", "near_duplicate", config.threshold, twin, similarity)
    write_decisions(build, living, ledgers, decisions, config.alarm_share)
    _write_clusters(build, living, decisions, order, cluster, joined)
    if joined:
        _extend(build, joined, base, batch, config, order, verified, twin, similarity)
    discard(build)


def _extend(
    build: Build,
    joined: Joined,
    base: Version | None,
    batch: str,
    config: Dedup,
    order: np.ndarray,
    verified: np.ndarray,
    twin: np.ndarray,
    similarity: np.ndarray,
) -> None:
    """Write what changes for documents of the index, and extend it."""
    if build.context.strict and build.alarms:
        raise StrictError(f"{build.name}: " + "; ".join(build.alarms) + f"; {config.index} was not extended")
    changes = reversals(joined, twin, similarity)
    build.write_table("reversals.parquet", changes)
    version = extend(build, joined, base, batch, config, order, verified, twin, similarity)
    for change in ("superseded", "reinstated"):
        build.counts[change] = changes["change"].to_pylist().count(change)
    build.counts |= {"new_texts": joined.new, "index_texts": version.documents, "index_version": version.name}


def _write_clusters(
    build: Build,
    documents: Documents,
    decisions: Decisions,
    order: np.ndarray,
    cluster: np.ndarray,
    joined: Joined | None,
) -> None:
    """Write the living members of the components of two documents and more, largest first, and count these."""
    sizes = np.bincount(cluster, minlength=len(cluster))
    members = np.flatnonzero(sizes[cluster] > 1)
    members = members[np.lexsort((members, cluster[members], -sizes[cluster[members]]))]
    positions = order[members]
    if joined:
        positions = joined.leader[positions]
        members, positions = members[positions < len(documents)], positions[positions < len(documents)]
    roots = cluster[members]
    first = np.ones(len(members), bool)
    first[1:] = roots[1:] != roots[:-1]
    shards = [documents.shards[place] for place in documents.columns["shard"][positions]]
    twin = decisions.twin[positions]
    twins = np.full(len(twin), None, object)
    twins[twin >= 0] = (decisions.twins or documents).ids(twin[twin >= 0])
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
