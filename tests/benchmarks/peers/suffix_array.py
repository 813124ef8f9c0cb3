"""Repeats by a suffix array: the definition of substring deduplication, by code that is not ours (libdivsufsort).

    .peers/suffix-array/bin/python tests/benchmarks/peers/suffix_array.py TEXTS.npz LENGTH MASK.npy

TEXTS.npz holds `data` (uint8, all documents one after another) and `offsets`. Writes which bytes are repeated,
bool, and prints the seconds of processor time as JSON: sorting, common prefixes, grouping.
"""

import json
import sys
import time

import numpy as np
from pydivsufsort import divsufsort, kasai


def repeated(data: np.ndarray, offsets: np.ndarray, length: int) -> tuple[np.ndarray, dict[str, float]]:
    """Suffixes that share `length` bytes are neighbours: a window repeats if the first of its group is earlier."""
    clock = [time.process_time()]
    order = divsufsort(data)
    clock.append(time.process_time())
    common = kasai(data, order)
    clock.append(time.process_time())
    group = np.concatenate([[0], np.cumsum(common[: len(order) - 1] < length)])
    end = np.repeat(offsets[1:], np.diff(offsets))
    places = order.astype(np.int64)
    whole = places + length <= end[places]  # windows do not go on into the next document
    places, group = places[whole], group[whole]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    first = np.repeat(np.minimum.reduceat(places, starts), np.diff(starts, append=len(places)))
    later = places[(places != first) & ((end[places] != end[first]) | (places >= first + length))]
    depth = np.zeros(len(data) + 1, np.int32)
    np.add.at(depth, later, 1)
    np.add.at(depth, later + length, -1)
    clock.append(time.process_time())
    names = ("suffix array", "common prefixes", "groups")
    return np.cumsum(depth[:-1]) > 0, dict(zip(names, np.diff(clock).tolist(), strict=True))


if __name__ == "__main__":
    texts = np.load(sys.argv[1])
    mask, seconds = repeated(texts["data"], texts["offsets"], int(sys.argv[2]))
    np.save(sys.argv[3], mask)
    print(json.dumps(seconds))
