"""datatrove's four filters: our measuring and deciding against datatrove itself, megabytes a second on one core.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.filters --peer .peers/datatrove/bin/python

Both run on the same documents, in one run, pinned to one core, in processor time; ours on one thread and on two
by turns, with arithmetic in registers as the limit of what two cores give here; and a plain pass over the bytes
as the limit of one. `make parity` builds the peer's environment.
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
from numba import njit

from curation.measure.characters import character_counts
from curation.measure.datatrove import GROUP
from curation.measure.utf8 import text_buffers
from curation.rules.profile import apply, load_profile
from tests.parity.datatrove.compare import PEER
from tests.parity.datatrove.texts import real_texts

RUNS = 5
SPINS = 300_000_000
PROFILE = load_profile("datatrove-0.10")


def judge(texts: pa.LargeStringArray) -> np.ndarray:
    """Measure and decide; the verdicts."""
    chars = character_counts(*text_buffers(texts))["chars"]
    return apply(PROFILE, pa.table({**GROUP.measure(None, texts), "chars": chars}))[0]


@njit(nogil=True)
def spin(rounds: int) -> np.uint64:
    """Multiplications that wait for each other and touch no memory."""
    state = np.uint64(1)
    for number in range(rounds):
        state = state * np.uint64(6364136223846793005) + np.uint64(number)
    return state


def speed_up(work: Callable[[object], object], halves: list) -> float:
    """Times that two threads are as fast as one over both halves: of each the best of some runs, by turns."""
    seconds = {False: [], True: []}
    with ThreadPoolExecutor(2) as two:
        for turn in range(4 * RUNS):
            start = time.perf_counter()
            list((two.map if turn % 2 else map)(work, halves))
            seconds[bool(turn % 2)].append(time.perf_counter() - start)
    return min(seconds[False]) / min(seconds[True])


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

    spin(1)
    ratio, limit = speed_up(judge, halves), speed_up(spin, [SPINS, SPINS])
    os.sched_setaffinity(0, {max(cores)})
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    run = subprocess.run([options.peer, str(PEER)], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    theirs = size / options.repeat / json.loads(run.stdout.splitlines()[-1])["seconds"]
    ours = size / best(lambda: judge(array), time.process_time)
    plain = size / best(lambda: data[offsets[0] : offsets[-1]].max(), time.process_time)
    print(f"documents: {len(texts)}, {size / options.repeat:.1f} MB")
    print(f"ours: {ours:.1f} MB/s; datatrove: {theirs:.2f} MB/s; times: {ours / theirs:.0f}")
    print(f"two threads: {ratio:.2f} times one; two threads of arithmetic: {limit:.2f}")
    print(f"a plain pass (the largest byte): {plain:.0f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
