"""Substring deduplication: megabytes a second on one core, and the same answer as a suffix array.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.substring [--megabytes 24] [--length 500] [--peer PYTHON]

The documents are real (see `kernels.corpora`); one in ten gets a passage of another one, so that there are planted
repeats beside the natural ones. One core; processor time, best of three runs after compilation. Beside it stand a
plain pass (a rolling hash of each window, nothing looked up), the whole station (text read from Parquet, spans and
edited pool written), and with `--peer`, the Python of the environment .peers/suffix-array (make benchmark-peers),
libdivsufsort with Kasai's common prefixes: its answer must be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit

from curation.dedup.anchors import BASE, byte_hash, find_anchors, power
from curation.dedup.segments import find_segments
from curation.dedup.settings import Dedup
from curation.dedup.substring import dedup_substring
from curation.dedup.trimming import Substring
from curation.dedup.windows import repeated_windows
from curation.edits import edit_pool
from curation.measure.station import Measure, measure
from curation.measure.utf8 import text_buffers
from curation.schema import DOCUMENT, document_id
from curation.steps import Context, step
from tests.benchmarks.kernels import corpora, megabytes, speed

PEER = Path(__file__).parent / "peers" / "suffix_array.py"
_BASE = np.uint64(BASE)


def planted(texts: list[str], seed: int = 1) -> list[str]:
    """One document in ten with a passage of 600 to 5,000 characters of another put into its middle."""
    generator = random.Random(seed)
    out = []
    for text in texts:
        if generator.random() < 0.1:
            other = generator.choice(texts)
            start = generator.randrange(max(1, len(other) - 600))
            passage = other[start : start + generator.randint(600, 5000)]
            middle = generator.randrange(len(text) + 1)
            text = text[:middle] + passage + text[middle:]
        out.append(text)
    return out


@njit(nogil=True, cache=True)
def plain_pass(data, offsets, length):
    """The hash of each window of each text, rolled; nothing is kept but their sum."""
    leaving, total = power(length), np.uint64(0)
    for row in range(len(offsets) - 1):
        rolled = np.uint64(0)
        for at in range(offsets[row], offsets[row + 1]):
            rolled = rolled * _BASE + byte_hash(data[at])
            if at - offsets[row] >= length:
                rolled -= byte_hash(data[at - length]) * leaving
            total ^= rolled
    return total


def runs_of(data: np.ndarray, offsets: np.ndarray, length: int) -> np.ndarray:
    """Anchors, sorted, and the repeats among them: all that a worker computes."""
    count = len(offsets) - 1
    entries = find_anchors(data, offsets, np.arange(count, dtype=np.uint32), length)
    entries = entries[np.lexsort((entries["place"], entries["document"], entries["key"]))]
    return repeated_windows(entries, data, offsets, np.zeros(count, bool), length)


def covered(runs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    depth = np.zeros(int(offsets[-1]) + 1, np.int32)
    np.add.at(depth, offsets[runs["document"]] + runs["start"], 1)
    np.add.at(depth, offsets[runs["document"]] + runs["end"], -1)
    return np.cumsum(depth[:-1]) > 0


def station(texts: list[str], length: int) -> tuple[float, dict[str, int]]:
    """Seconds of processor time of the station and of the edited pool, one worker; and the counts."""
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder))

        def work(build):
            rows = [{"id": document_id("web", text.encode()), "source": "web", "text": text} for text in texts]
            build.write_table("shards/web-0.parquet", pa.Table.from_pylist(rows, schema=DOCUMENT))

        pool = step(context, "ingest/web", 1, {}, {}, work)
        quick = Measure(minhash=None, language=None, gzip_prefix_bytes=0, groups=())
        measured = {"web": measure(context, pool, quick)}
        config = Dedup(substring=Substring(min_bytes=length), alarm_share=1)
        start = time.process_time()
        found = dedup_substring(context, {"web": pool}, measured, [], config)
        edit_pool(context, "trim/web", pool, found)
        return time.process_time() - start, found.counts


def peer(python: str, data: np.ndarray, offsets: np.ndarray, length: int) -> tuple[dict[str, float], np.ndarray]:
    """The seconds of the suffix array's parts, and the bytes that it finds repeated."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "texts.npz", data=data, offsets=offsets)
        command = [python, str(PEER), f"{folder}/texts.npz", str(length), f"{folder}/mask.npy"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout), np.load(Path(folder) / "mask.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--length", type=int, default=500)
    parser.add_argument("--peer", help="the Python of the environment that has pydivsufsort")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    limit, length = int(given.megabytes * 1e6 / 2), given.length
    kinds = corpora(limit)
    texts = list(dict.fromkeys(planted([text for kind in ("prose", "code") for text in kinds[kind]])))
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    size, numbers = megabytes(texts), np.arange(len(texts), dtype=np.uint32)
    runs, warm = runs_of(data, offsets, length), {"paragraphs": False, "words": False, "min_bytes": 20}
    plain_pass(data, offsets, length)
    find_segments(data, offsets, numbers, 0, **warm)
    station(texts[:50], length)

    figures = {
        "plain pass": speed(lambda: plain_pass(data, offsets, length), size),
        "anchors": speed(lambda: find_anchors(data, offsets, numbers, length), size),
        "search": speed(lambda: runs_of(data, offsets, length), size),
        "hashes of lines": speed(lambda: find_segments(data, offsets, numbers, 0, **warm), size),
    }
    seconds, counts = min((station(texts, length) for _ in range(3)), key=lambda result: result[0])
    figures["station and edited pool"] = size / seconds
    mask = covered(runs, offsets)
    print(f"{size:.1f} MB, {len(texts):,} documents, repeats of {length} bytes: {mask.mean():.2%} of the bytes")
    print(f"cut {counts['bytes_cut']:,} bytes in {counts['spans']:,} spans, {counts['trimmed']:,} documents")
    for name, value in figures.items():
        print(f"{name:28} {value:8.1f} MB/s a core")
    if given.peer:
        parts, expected = peer(given.peer, data, offsets, length)
        total = sum(parts.values())
        shown = ", ".join(f"{name} {value:.1f} s" for name, value in parts.items())
        print(f"{'suffix array (pydivsufsort)':28} {size / total:8.1f} MB/s a core ({shown})")
        print(f"search to suffix array: {figures['search'] / (size / total):.1f} times as fast")
        if not np.array_equal(mask, expected):
            sys.exit(f"{int((mask != expected).sum())} bytes differ from the suffix array's")
        print("the same bytes, every one of them")


if __name__ == "__main__":
    main()
