"""The catalog: a row for each document that every stage kept, with all that planning and mixing look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.classify.examples import metadata_value
from curation.derive.config import Derived, Tasks
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

    Joins by row, each file's ids checked against the pool's. Documents that share a prompt (group_hash) are held
    out together. `classes` is the step `classify/<source>`, whose columns `quality` and `topic_label` are taken,
    or None. Columns only: no text is read.
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
        shards = [_shard(path, source, measured, ledgers, tokens, classes, seed) for path in pool.shards()]
        table = pa.concat_tables(shards) if shards else _schema(source).empty_table()
        place = table.schema.get_field_index("vigintile")
        table = table.set_column(place, CATALOG.field("vigintile"), _vigintile_column(table))
        build.write_table("catalog.parquet", table)
        held = table["holdout"].to_numpy(zero_copy_only=False)
        weights = table["tokens"].to_numpy().astype(np.int64)
        build.counts = {
            "documents_in": sum(pq.read_metadata(path).num_rows for path in pool.shards()),
            "documents_out": len(table),
            "tokens": int(weights.sum()),
            "holdout_documents": int(held.sum()),
            "holdout_tokens": int(weights[held].sum()),
        }

    return step(ctx, f"catalog/{source.name}", 3, config, inputs, work)


def vigintiles(quality: np.ndarray, ids: pa.ChunkedArray | pa.Array, tokens: np.ndarray) -> np.ndarray:
    """The twentieth of all tokens, 1 (worst) to 20 (best), that the middle of each document falls in. uint8 (n,).

    Documents are ranked by quality, then by id, then as they come. Weighted by tokens (all above 0), so that each
    vigintile holds a twentieth of the tokens to within one document. Exact integers up to 2**57 tokens.
    """
    high, low = split_ids(ids)
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
    ids = pq.read_table(path, columns=["id"])["id"]

    def beside(output: StepOutput, columns: list[str]) -> pa.Table:
        other = output.folder / "shards" / path.name
        table = pq.read_table(other, columns=["id", *columns])
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
        metadata = pq.read_table(path, columns=["metadata"])["metadata"].to_pylist()
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


def _vigintile_column(table: pa.Table) -> pa.Array:
    """Vigintiles by topic; the documents without one are a topic of their own."""
    scored = table["quality"].is_valid().to_numpy()
    column = np.zeros(len(table), np.uint8)
    topics = table["topic"].combine_chunks().dictionary_encode()
    numbers = topics.indices.fill_null(len(topics.dictionary)).to_numpy()
    for number in range(len(topics.dictionary) + 1):
        wanted = scored & (numbers == number)
        chosen = table.filter(pa.array(wanted))
        column[wanted] = vigintiles(chosen["quality"].to_numpy(), chosen["id"], chosen["tokens"].to_numpy())
    return pa.array(column, mask=~scored)
