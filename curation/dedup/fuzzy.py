"""Fuzzy deduplication: documents that share a MinHash band, verified by true Jaccard, one of each kept.

The phases, each a set of units that a killed run does not do again:

1. bands    the band keys of each shard's living documents, sorted, on disk
2. share    a partition of the key space: the keys that several documents have. These are the candidates
3. gather   the candidates of each shard, with what the keep policy looks at
4. rank     a range of the policy's order: candidates are numbered in the order in which they are preferred, so
that
            of any two the lower number is the one to keep
5. number   the numbers of each shard's candidates
6. buckets  a partition of the key space: the pairs of candidates that share a bucket
7. sets     of each shard the shingle sets of the documents that are in a pair (the only time text is read)
8. verify   a range of documents: the true Jaccard similarity of each of its pairs; phases 6 to 9 are repeated for
            what is kept of large buckets, see `similar`
9. decide   see `unionfind.keep_representatives`; clusters and, shard by shard, the ledger are written

Each unit reads and writes files, on whatever machine. Only `decide` sees all documents: numbers and flags, 16
bytes a candidate, while the pairs pass by; what is told of a document is looked up where it is written. See
`plan`.

With an index (`Dedup.index`) the documents that it holds take part, too, and it is extended: see `incremental`;
then all documents are gathered in memory, first of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.candidates import share, write_bands
from curation.dedup.documents import (
    SCRATCH,
    Dropped,
    Shard,
    discard,
    gather,
    list_shards,
    write_decisions,
    write_ledgers,
)
from curation.dedup.extension import extend
from curation.dedup.incremental import held_bands, join, known_of, living_decisions, look_up, reversals
from curation.dedup.index import Version, locked, newest, read_version, require_config, require_sound
from curation.dedup.keep import preference
from curation.dedup.plan import require_memory
from curation.dedup.ranking import Numbered, gather_candidates, number_in_memory, rank
from curation.dedup.settings import Dedup, Exact, index_config
from curation.dedup.similar import Decided, columns, decide
from curation.dedup.unionfind import by_component, components
from curation.dedup.verify import Verified
from curation.files import atomic, json_hash
from curation.keys import join_ids
from curation.steps import Build, Context, StepOutput, StrictError, step, withdraw

VERSION = 3
ROWS = 1 << 16  # of clusters.parquet that are written at once


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
    if batch:
        _work_with_index(build, pools, shards, ledgers, config, base, batch)
    else:
        shared = share(build, *write_bands(build, shards, None, ledgers, config.scheme))
        sizes = gather_candidates(build, shards, shared, config.keep)
        require_memory(config, sum(sizes))
        numbered = rank(build, shards, sizes)
        decided, verified = decide(build, shards, shared, numbered, config)
        dropped = {shard: partial(_dropped, shard, numbered, decided, config.threshold) for shard in shards}
        write_ledgers(build, sorted(pools), dropped, ledgers, "fuzzy", config.alarm_share)
        _write_clusters(build, shards, numbered.who, decided, verified)
    discard(build)


def _dropped(shard: Shard, numbered: Numbered, decided: Decided, threshold: float) -> Dropped:
    _, rows, numbers = numbered.of_shard(shard)
    twin = decided.twin[numbers]
    gone = np.flatnonzero(twin != numbers)
    twins = numbered.who(twin[gone])
    similarity = decided.similarity[numbers[gone]]
    return Dropped(rows[gone], twins["high"], twins["low"], similarity, "near_duplicate", threshold)


def _work_with_index(
    build: Build,
    pools: Mapping[str, StepOutput],
    shards: list[Shard],
    ledgers: list[StepOutput],
    config: Dedup,
    base: Version | None,
    batch: str,
) -> None:
    living = gather(build, pools, shards, ledgers, config.keep, Exact())
    joined = join(living, base, config.keep)
    texts = joined.texts
    require_memory(config, len(texts))
    rows = [texts.columns["row"][texts.of_shard(shard)] for shard in shards]
    bands = zip(write_bands(build, shards, rows, ledgers, config.scheme), held_bands(joined, base), strict=True)
    shared = share(build, *(new + old for new, old in bands))
    order = preference(config.keep, texts.names, texts.columns, texts.origins)
    numbered = number_in_memory(build.folder, texts, order)
    known = known_of(joined, base, order)
    decided, verified = decide(build, texts.shards, shared, numbered, config, known)

    twin, similarity = np.full(len(order), -1, np.int64), np.empty(len(order))
    gone = decided.twin != np.arange(len(order))
    twin[order[gone]], similarity[order] = order[decided.twin[gone]], decided.similarity
    write_decisions(
        build, living, ledgers, living_decisions(joined, twin, similarity, config.threshold), config.alarm_share
    )
    _write_clusters(build, shards, partial(look_up, joined, order), decided, verified)
    if build.context.strict and build.alarms:
        raise StrictError(f"{build.name}: " + "; ".join(build.alarms) + f"; {config.index} was not extended")
    changes = reversals(joined, twin, similarity)
    build.write_table("reversals.parquet", changes)
    pairs = np.concatenate([some for _, _, some in verified.ranges()])
    version = extend(build, joined, base, batch, config, order, pairs, twin, similarity)
    for change in ("superseded", "reinstated"):
        build.counts[change] = changes["change"].to_pylist().count(change)
    build.counts |= {"new_texts": joined.new, "index_texts": version.documents, "index_version": version.name}


CLUSTERS = pa.schema(
    [
        ("cluster", pa.uint32()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("shard", pa.string()),
        ("row", pa.uint32()),
        ("kept", pa.bool_()),
        ("similarity", pa.float64()),
        ("twin", pa.string()),
    ]
)


def _write_clusters(
    build: Build,
    shards: Sequence[Shard],
    who: Callable[[np.ndarray], np.ndarray],
    decided: Decided,
    verified: Verified,
) -> None:
    """Write the living members of the components of two documents and more, largest first, and count these.

    `who(numbers)`: WHO of each; a shard beyond `shards` is no living document's.
    """
    halves = (columns(pairs) for _, _, pairs in verified.ranges())
    first = components(verified.documents, ((later, earlier) for later, earlier, _ in halves))
    members, largest = by_component(first)
    found, before = 0, -1
    with (
        atomic(build.folder / "clusters.parquet") as path,
        pq.ParquetWriter(path, CLUSTERS, compression="zstd") as file,
    ):
        for start in range(0, len(members), ROWS):
            numbers = members[start : start + ROWS]
            own = who(numbers)
            living = own["shard"] < len(shards)
            own, numbers = own[living], numbers[living]
            if not len(numbers):
                continue
            roots = first[numbers].astype(np.int64)
            cluster = found - 1 + np.cumsum(np.diff(roots, prepend=before) != 0)
            found, before = int(cluster[-1]) + 1, int(roots[-1])
            places = own["shard"].tolist()
            twin = decided.twin[numbers]
            kept = twin == numbers
            twins = who(twin)
            columns_ = {
                "cluster": pa.array(cluster, pa.uint32()),
                "id": join_ids(own["high"], own["low"]),
                "source": pa.array([shards[place].source for place in places], pa.string()),
                "shard": pa.array([shards[place].name for place in places], pa.string()),
                "row": own["row"],
                "kept": kept,
                "similarity": pa.array(decided.similarity[numbers], pa.float64(), from_pandas=True),
                "twin": pa.array(np.where(kept, None, join_ids(twins["high"], twins["low"])), pa.string()),
            }
            file.write_table(pa.table(columns_, schema=CLUSTERS))
    build.counts |= {"clusters": found, "largest_cluster": largest}
