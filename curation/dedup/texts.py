"""The living documents' texts in one file, where kernels can look at any, and what a search takes of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.dedup.documents import SCRATCH, Documents, Shard
from curation.files import sync, write_array
from curation.measure.utf8 import text_buffers
from curation.shards import batches
from curation.steps import Build

# (source, data, offsets, numbers of the documents) -> entries of a batch of texts: fields key, document, ...
Take = Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Texts:
    """All texts in one file, by source, shard and row; that of position p is bytes starts[p]:starts[p + 1].

    `order`: the positions, most preferred first; `number`: of each position its place in that order.
    """

    path: Path
    starts: np.ndarray
    order: np.ndarray
    number: np.ndarray

    def read(self) -> np.ndarray:
        """The bytes, uint8, of which only what is looked at is read from disk."""
        if not self.starts[-1]:
            return np.zeros(0, np.uint8)
        return np.asarray(np.memmap(self.path, np.uint8, "r", shape=(int(self.starts[-1]),)))


def write_texts(build: Build, documents: Documents, texts: Texts, take: Take) -> int:
    """Write the file, and of each shard what `take` takes of its texts, sorted by key; returns how many entries.

    Raises ValueError for a text whose bytes are not as many as `documents` says.
    """
    texts.path.parent.mkdir(parents=True, exist_ok=True)
    with open(texts.path, "ab") as file:  # shards write into their places, whichever comes first
        file.truncate(int(texts.starts[-1]))
    units = {f"texts {shard.key}": (shard, documents, texts, take) for shard in documents.shards}
    return sum(result["entries"] for result in build.map(_write_text, units, "threads").values())


def entries_file(folder: Path, shard: Shard) -> Path:
    return folder / SCRATCH / "entries" / f"{shard.key}.npy"


def _write_text(
    folder: Path, key: str, shard: Shard, documents: Documents, texts: Texts, take: Take
) -> dict[str, int]:
    part = documents.of_shard(shard)
    rows, numbers, place = documents.columns["row"][part], texts.number[part], int(texts.starts[part.start])
    found, done = [take(shard.source, np.zeros(0, np.uint8), np.zeros(1, np.int64), numbers[:0])], 0
    with open(texts.path, "r+b") as file:
        for _, table in batches(shard.pool, ["text"], rows.astype(np.int64)):
            data, offsets = text_buffers(table["text"].combine_chunks())
            found.append(take(shard.source, data, offsets, numbers[done : done + len(table)]))
            done += len(table)
            os.pwrite(file.fileno(), memoryview(data)[offsets[0] : offsets[-1]], place)
            place += int(offsets[-1] - offsets[0])
            expected = int(texts.starts[part.start + done])
            if place != expected:
                raise ValueError(
                    f"{shard.pool}: the texts up to row {rows[done - 1]} end at byte {place}, but measured were "
                    f"{expected}; remove the folder of step 'measure/{shard.source}' and rerun"
                )
    sync(texts.path)
    entries = np.concatenate(found)
    write_array(entries_file(folder, shard), entries[np.argsort(entries["key"], kind="stable")])
    return {"entries": len(entries)}
