"""What a batch adds to an index: parts with texts and bands of its new texts, the state of all, verified pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.candidates import bands_file
from curation.dedup.documents import SCRATCH, Shard
from curation.dedup.incremental import Joined, moved
from curation.dedup.index import STATE, Version, commit
from curation.dedup.settings import Dedup, index_config
from curation.files import atomic
from curation.schema import DOCUMENT
from curation.steps import Build

TEXT_ROWS = 256  # of a row group of texts: what is decoded to read one of them


def extend(
    build: Build,
    joined: Joined,
    base: Version | None,
    batch: str,
    config: Dedup,
    order: np.ndarray,
    verified: np.ndarray,
    twin: np.ndarray,
    similarity: np.ndarray,
) -> Version:
    """Extend the index `config.index` by what `joined` has new; returns its new version.

    `order`: the texts most preferred first; `verified`: VERIFIED pairs of places in that order; `twin` and
    `similarity`: what was decided, by text. Call while holding the index's lock.
    """
    shards = [shard for shard in joined.texts.shards if shard.source and _size(joined, shard)]
    names = {shard: f"{batch[:16]}-{shard.place:06d}" for shard in shards}
    files = _texts(build, joined, shards)
    parts = {
        names[shard]: (_size(joined, shard), [bands_file(build.folder, shard), files[shard]]) for shard in shards
    }
    names = {shard: shard.name for shard in joined.texts.shards if not shard.source} | names
    state = _state(joined, names, twin, similarity)
    pairs = moved(verified, _index_numbers(joined)[order])
    return commit(config.index, base, batch, index_config(config), parts, state, pairs)


def _size(joined: Joined, shard: Shard) -> int:
    part = joined.texts.of_shard(shard)
    return part.stop - part.start


def _texts(build: Build, joined: Joined, shards: Iterable[Shard]) -> dict[Shard, Path]:
    """Of each shard the file of its new texts."""
    paths = {shard: build.folder / SCRATCH / "texts" / f"{shard.key}.parquet" for shard in shards}
    units = {
        f"texts {shard.key}": (shard, joined.texts.columns["row"][joined.texts.of_shard(shard)], path)
        for shard, path in paths.items()
    }
    build.map(_write_texts, units, "threads")
    return paths


def _write_texts(folder: Path, key: str, shard: Shard, rows: np.ndarray, path: Path) -> dict[str, int]:
    schema = pa.schema([DOCUMENT.field(name) for name in ("text", "messages", "chosen", "rejected")])
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for texts in shard.texts(rows):
            columns = [texts, *(pa.nulls(len(texts), field.type) for field in list(schema)[1:])]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=TEXT_ROWS)
    return {"documents": len(rows)}


def _state(
    joined: Joined, names: dict[Shard, str], twin: np.ndarray, similarity: np.ndarray
) -> Iterator[tuple[str, pa.Table]]:
    """The state of each part of the index after the batch: (its name, STATE). `names`: of the shards, in order."""
    everything = joined.everything
    number = _index_numbers(joined)
    for shard, name in names.items():
        part = joined.texts.of_shard(shard)
        leader, own_twin = joined.leader[part], twin[part]
        sources = everything.columns["source"][leader]
        columns = {
            column: everything.columns[column][leader]
            for column in ("high", "low", "bytes", "created", "value_high", "value_low")
        }
        columns |= {
            "source": pa.array([everything.names[one] for one in sources], pa.string()),
            "origin": pa.array(everything.origins(leader), pa.string()),
            "score": everything.columns.get("score", np.full(len(everything), np.nan))[leader],
            "twin": np.where(own_twin < 0, -1, number[np.maximum(own_twin, 0)]),
            "similarity": similarity[part],
        }
        yield name, pa.table({column: columns[column] for column in STATE.names})


def _index_numbers(joined: Joined) -> np.ndarray:
    """Of each text its number in the index after the batch: old ones keep theirs, new ones follow. int64."""
    new, old = joined.new, len(joined.leader) - joined.new
    return np.concatenate([np.arange(old, old + new), np.arange(old)])
