"""The catalog: a row for each document that every stage kept, with all that planning and mixing look at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.classify.examples import metadata_value
from curation.derive.config import Derived, Tasks
from curation.files import atomic, read_parquet
from curation.ingest import Source
from curation.keys import key_of, keyed_hash, split_ids
from curation.ledger import alive
from curation.preference.facts import FACTS, IN_CATALOG
from curation.schema import CATALOG, LENGTH_BUCKETS, require_same_ids
from curation.steps import Build, Context, StepOutput, step
from curation.synthesis.config import Synthesis

VIGINTILES = 20
PAIR_COLUMNS = ("prompt", "prompt_tokens", "chosen_tokens", "rejected_tokens")  # of FACTS, what mixing looks at


def catalog(
    ctx: Context,
    source: Source | Synthesis | Derived,
    pool: StepOutput,
    measured: StepOutput,
    ledgers: list[StepOutput],
    tokens: StepOutput,
    classes: StepOutput | None,
    seed: int,
) -> StepOutput:
    """The step `catalog/<source>`: `catalog.parquet` of schema CATALOG, in the order of shards and rows.

    Joins by row, a shard at a time, each file's ids checked against the pool's. Documents that share a prompt
    (group_hash) are held out together. `classes` is the step `classify/<source>`, whose columns `quality` and
    `topic_label` are taken, or None. Columns only: no text is read.
    """
    inputs = {"pool": pool.content, "measured": measured.content, "tokens": tokens.content}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}
    if classes is not None:
        inputs["classes"] = classes.content
    config = {"source": source.name, "kind": source.kind, "holdout": source.holdout, "seed": seed}
    config["topic"] = _topic_key(source)
    if isinstance(source, Tasks):
        config["held_out"] = sorted(source.held_out)
    if source.kind == "pairs":
        config["facts"] = list(PAIR_COLUMNS)

    def work(build: Build) -> None:
        def rows(path: Path) -> pa.Table:
            return _shard(path, source, measured, ledgers, tokens, classes, seed)

        paths = pool.shards()
        ranks = _vigintiles_by_topic(map(rows, paths)) if _are_scored(classes) else None
        counts = dict.fromkeys(("documents_out", "tokens", "holdout_documents", "holdout_tokens"), 0)
        with (
            atomic(build.folder / "catalog.parquet") as temporary,
            pq.ParquetWriter(temporary, _schema(source), compression="zstd") as writer,
        ):
            for path in paths:
                table = rows(path)
                table = _with_vigintiles(table, ranks, counts["documents_out"])
                writer.write_table(table, row_group_size=1 << 16)
                held = table["holdout"].to_numpy(zero_copy_only=False)
                weights = table["tokens"].to_numpy().astype(np.int64)
                sizes = len(table), int(weights.sum()), int(held.sum()), int(weights[held].sum())
                counts = {key: counts[key] + size for key, size in zip(counts, sizes, strict=True)}
        build.counts = {"documents_in": sum(pq.read_metadata(path).num_rows for path in paths), **counts}

    return step(ctx, f"catalog/{source.name}", 4, config, inputs, work)


def vigintiles(quality: np.ndarray, ids: pa.ChunkedArray | pa.Array, tokens: np.ndarray) -> np.ndarray:
    """The twentieth of all tokens, 1 (worst) to 20 (best), that the middle of each document falls in. uint8 (n,).

    Documents are ranked by quality, then by id, then as they come. Weighted by tokens (all above 0), so that each
    vigintile holds a twentieth of the tokens to within one document. Exact integers up to 2**57 tokens.
    """
    return _vigintiles(quality, *split_ids(ids), tokens)


def _vigintiles(quality: np.ndarray, high: np.ndarray, low: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    order = np.lexsort((low, high, quality))
    weights = tokens[order].astype(np.uint64)
    end = np.cumsum(weights, dtype=np.uint64)
    out = np.empty(len(order), np.uint8)
    if len(order):
        out[order] = (2 * end - weights) * np.uint64(VIGINTILES // 2) // end[-1] + np.uint64(1)
    return out


def length_buckets(tokens: np.ndarray) -> pa.Array:
    """The name of each document's length bucket, from its tokens. Shape (n,)."""
    bounds = np.array([1 << (10 + n) for n in range(len(LENGTH_BUCKETS) - 1)], np.int64)
    numbers = np.searchsorted(bounds, tokens.astype(np.int64), side="right")
    return pa.array(LENGTH_BUCKETS, pa.string()).take(pa.array(numbers))


def held_out(group_hashes: pa.ChunkedArray | pa.Array, share: float, seed: int) -> np.ndarray:
    """Which documents are held out: those whose group's keyed hash is among the lowest `share`. bool (n,)."""
    if share >= 1:
        return np.ones(len(group_hashes), bool)
    return keyed_hash(group_hashes, key_of(seed, "holdout")) < np.uint64(int(share * 2**64))


def _shard(
    path: Path,
    source: Source | Synthesis | Derived,
    measured: StepOutput,
    ledgers: list[StepOutput],
    tokens: StepOutput,
    classes: StepOutput | None,
    seed: int,
) -> pa.Table:
    """The catalog rows of one shard; vigintiles are filled in later."""
    ids = read_parquet(path, ["id"])["id"]

    def beside(output: StepOutput, columns: list[str]) -> pa.Table:
        other = output.folder / "shards" / path.name
        table = read_parquet(other, ["id", *columns])
        require_same_ids(ids, table["id"], str(other))
        return table

    measures = beside(measured, ["group_hash", "bytes", "language", "gzip_ratio"])
    counts = beside(tokens, ["tokens", "tokens_plain"])
    n = len(ids)
    found = set(pq.read_schema(classes.folder / "shards" / path.name).names) if classes else set()
    score = beside(classes, ["quality"])["quality"] if "quality" in found else pa.nulls(n, pa.float32())
    key = _topic_key(source)
    if "topic_label" in found:
        topic = beside(classes, ["topic_label"])["topic_label"]
    elif key:
        metadata = read_parquet(path, ["metadata"])["metadata"].to_pylist()
        topic = pa.array([metadata_value(one, key) for one in metadata], pa.string())
    else:
        topic = pa.nulls(n, pa.string())
    table = pa.table(
        {
            "id": ids,
            "source": pa.repeat(pa.scalar(source.name), n),
            "kind": pa.repeat(pa.scalar(source.kind), n),
            "shard": pa.repeat(pa.scalar(path.stem), n),
            "row": pa.array(np.arange(n, dtype=np.uint32)),
            "tokens": counts["tokens"],
            "tokens_plain": counts["tokens_plain"],
            "bytes": measures["bytes"].cast(pa.uint64()),
            "language": measures["language"].cast(pa.string()),
            "quality": score,
            "vigintile": pa.nulls(n, pa.uint8()),
            "length_bucket": length_buckets(counts["tokens"].to_numpy()),
            "holdout": held_out(measures["group_hash"], source.holdout, seed) | _held_topics(source, topic),
            "gzip_ratio": measures["gzip_ratio"],
            "topic": topic,
        },
        schema=CATALOG,
    )
    if source.kind == "pairs":
        facts = beside(tokens, list(PAIR_COLUMNS))
        for name in PAIR_COLUMNS:
            table = table.append_column(f"{IN_CATALOG}{name}", facts[name])
    return table.filter(pa.array(alive(ledgers, source.name, path.stem, n)))


def _schema(source: Source | Synthesis | Derived) -> pa.Schema:
    """CATALOG, and of pairs PAIR_COLUMNS."""
    facts = [FACTS.field(name).with_name(f"{IN_CATALOG}{name}") for name in PAIR_COLUMNS]
    return pa.schema([*CATALOG, *(facts if source.kind == "pairs" else [])])


def _topic_key(source: Source | Synthesis | Derived) -> str | None:
    """Where a source's documents say their own topic: of tasks it is the cluster. What a model makes says none."""
    if isinstance(source, Tasks):
        return "metadata.cluster"
    return source.topic if isinstance(source, Source) else None


def _held_topics(source: Source | Synthesis | Derived, topic: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Which documents are of a cluster of tasks that is held out as a whole. bool (n,)."""
    held = source.held_out if isinstance(source, Tasks) else ()
    found = pc.is_in(topic, pa.array(held, pa.string())).to_numpy(zero_copy_only=False)
    return found & bool(held)


def _are_scored(classes: StepOutput | None) -> bool:
    shards = sorted((classes.folder / "shards").glob("*.parquet")) if classes else []
    return any("quality" in pq.read_schema(path).names for path in shards)


def _vigintiles_by_topic(tables: Iterable[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """The vigintiles of all rows, by topic, and which rows have none. Of each row it holds what ranks it alone.

    The documents without a topic are a topic of their own.
    """
    kept, topics = [], {}
    for table in tables:
        named = table["topic"].combine_chunks().dictionary_encode()
        codes = np.array([topics.setdefault(name, len(topics)) for name in [*named.dictionary.to_pylist(), None]])
        numbers = codes[named.indices.fill_null(len(named.dictionary)).to_numpy()]
        quality = table["quality"].to_numpy(zero_copy_only=False).astype(np.float32)
        scored = table["quality"].is_valid().to_numpy()
        kept.append((quality, scored, *split_ids(table["id"]), table["tokens"].to_numpy(), numbers))
    if not kept:
        return np.zeros(0, np.uint8), np.zeros(0, bool)
    quality, scored, high, low, tokens, numbers = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    kept.clear()
    column = np.zeros(len(quality), np.uint8)
    for number in range(len(topics)):
        own = np.flatnonzero(scored & (numbers == number))
        column[own] = _vigintiles(quality[own], high[own], low[own], tokens[own])
    return column, ~scored


def _with_vigintiles(table: pa.Table, ranks: tuple[np.ndarray, np.ndarray] | None, start: int) -> pa.Table:
    if ranks is None:
        return table
    own = slice(start, start + len(table))
    place = table.schema.get_field_index("vigintile")
    return table.set_column(place, CATALOG.field("vigintile"), pa.array(ranks[0][own], mask=ranks[1][own]))
