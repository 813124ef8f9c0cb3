"""datatrove's four filters: our measuring and deciding against datatrove itself, megabytes a second on one core.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.filters --peer .peers/datatrove/bin/python

Both run on the same documents, in one run, pinned to one core, in processor time; then ours on two threads, and a
plain pass over the bytes as the limit. `make parity` builds the peer's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from curation.measure.characters import character_counts
from curation.measure.datatrove import GROUP
from curation.measure.utf8 import text_buffers
from curation.rules.profile import apply, load_profile
from tests.parity.datatrove.compare import PEER
from tests.parity.datatrove.texts import real_texts

RUNS = 5
PROFILE = load_profile("datatrove-0.10")


def judge(texts: pa.LargeStringArray) -> np.ndarray:
    """Measure and decide; the verdicts."""
    chars = character_counts(*text_buffers(texts))["chars"]
    return apply(PROFILE, pa.table({**GROUP.measure(None, texts), "chars": chars}))[0]


def best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the best of some runs."""
    seconds = []
    for _ in range(RUNS):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".peers/datatrove/bin/python", help="Python of the peer's environment")
    parser.add_argument("--each", type=int, default=40, help="documents of each file of MIXWRIGHT_DATA")
    parser.add_argument("--repeat", type=int, default=4, help="times that ours sees the documents in a run")
    options = parser.parse_args()
    texts = real_texts(options.each)
    if not texts:
        print("MIXWRIGHT_DATA names no documents", file=sys.stderr)
        return 1
    array = pa.array(texts * options.repeat, pa.large_string())
    halves = [array[: len(array) // 2], array[len(array) // 2 :]]
    data, offsets = text_buffers(array)
    size = (offsets[-1] - offsets[0]) / 1e6
    cores = os.sched_getaffinity(0)
    judge(array)

    with ThreadPoolExecutor(2) as two:
        together = best(lambda: list(two.map(judge, halves)), time.perf_counter)
    alone = best(lambda: [judge(half) for half in halves], time.perf_counter)
    os.sched_setaffinity(0, {max(cores)})
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    run = subprocess.run([options.peer, str(PEER)], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    theirs = size / options.repeat / json.loads(run.stdout.splitlines()[-1])["seconds"]
    ours = size / best(lambda: judge(array), time.process_time)
    plain = size / best(lambda: data[offsets[0] : offsets[-1]].max(), time.process_time)
    print(f"documents: {len(texts)}, {size / options.repeat:.1f} MB")
    print(f"ours: {ours:.1f} MB/s; datatrove: {theirs:.2f} MB/s; times: {ours / theirs:.0f}")
    print(f"two threads: {alone / together:.2f} times one")
    print(f"a plain pass (the largest byte): {plain:.0f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
