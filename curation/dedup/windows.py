"""Repeated windows: which windows of `length` bytes are at an earlier place too, compared byte by byte.

Places are ordered by document number, then by byte; documents are numbered in the order in which they are
preferred. A window *repeats* if the first window of the same bytes lies in an earlier document, or ends at or
before its beginning in its own. Windows that overlap their only earlier copies do not repeat: of a run of one
byte the first `length` stay, not a single one.

Windows with anchors of one key form a class; equal windows are in one class, at one distance from the anchor. The
first window of its bytes enters a hash table, the others find it there, and are compared with it. So the cost is
linear in the windows of classes, whatever the number of copies.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.dedup.anchors import _BASE, byte_hash, power
from curation.key_kernels import mix64

# The bytes start:end of a document are those from twin_start on of the twin. Documents are numbers.
RUN = np.dtype([("document", "<u4"), ("start", "<u4"), ("end", "<u4"), ("twin", "<u4"), ("twin_start", "<u4")])
AT_ONCE = 1 << 21  # windows in the table at once, about: 20 bytes and, at half full, 2 slots of 4 bytes each


def repeated_windows(
    anchors: np.ndarray,
    data: np.ndarray,
    starts: np.ndarray,
    dropped: np.ndarray,
    length: int,
    at_once: int = AT_ONCE,
) -> np.ndarray:
    """The repeating windows of classes of anchors, neighbours joined: RUN[k], in no order.

    `anchors` ANCHOR[a], sorted by key, document and place; `data` uint8: the texts of all documents, that of
    document d from `starts[d]` on. The windows of a document that is `dropped`, bool (documents,), may repeat, but
    none of another document is a repeat of them. A class of more than `at_once` windows is done in several passes,
    each of some distances from the anchor.
    """
    return _repeats(anchors, data, starts, dropped, length, at_once, np.empty(1024, RUN))


@njit(nogil=True)
def _same(data, one, other, length):
    """Whether two strings of `length` bytes are equal."""
    at = 0
    while at + 32 <= length:
        different = np.uint8(0)
        for step in range(at, at + 32):
            different |= data[one + step] ^ data[other + step]
        if different:
            return False
        at += 32
    while at < length:
        if data[one + at] != data[other + at]:
            return False
        at += 1
    return True


@njit(nogil=True)
def _windows(anchors, at, stop, low, high):
    """How many windows of anchors[at:stop] begin `low` to `high` - 1 bytes before their anchor."""
    count = 0
    for number in range(at, stop):
        nearest = np.int64(anchors[number]["place"]) - anchors[number]["first"] - anchors[number]["count"] + 1
        count += max(0, min(high, nearest + anchors[number]["count"]) - max(low, nearest))
    return count


@njit(nogil=True, cache=True)
def _repeats(anchors, data, starts, dropped, length, at_once, out):
    leaving = power(length)
    slots = np.empty(4, np.int32)
    hashes, owners, places = np.empty(2, np.uint64), np.empty(2, np.uint32), np.empty(2, np.uint32)
    found = at = 0
    while at < len(anchors):
        stop = at + 1
        while stop < len(anchors) and anchors[stop]["key"] == anchors[at]["key"]:
            stop += 1
        if stop - at > 1:
            passes = 1 + _windows(anchors, at, stop, 0, length) // at_once
            step = max(1, length // passes)
            for low in range(0, length, step):
                windows = _windows(anchors, at, stop, low, low + step)
                size = 4
                while size < 2 * windows:
                    size *= 2
                if size > len(slots):
                    slots = np.empty(size, np.int32)
                    hashes, owners = np.empty(size // 2, np.uint64), np.empty(size // 2, np.uint32)
                    places = np.empty(size // 2, np.uint32)
                slots[:size] = -1
                out, found = _class_repeats(
                    anchors, at, stop, low, low + step, data, starts, dropped, length, leaving,
                    slots, size, hashes, owners, places, out, found,
                )  # fmt: skip
        at = stop
    return out[:found]


@njit(nogil=True)
def _class_repeats(
    anchors, at, stop, low, high, data, starts, dropped, length, leaving,
    slots, size, hashes, owners, places, out, found,
):  # fmt: skip
    """Add the repeats of one class, of the windows that begin `low` to `high` - 1 bytes before their anchor."""
    known = 0
    rolled, latest, latest_place = np.uint64(0), np.int64(-1), np.int64(-1)
    twin, twin_place = np.int64(-1), np.int64(-1)  # of the latest window, if it is known to be equal to another
    for number in range(at, stop):
        document, base = np.int64(anchors[number]["document"]), starts[anchors[number]["document"]]
        anchor, first = np.int64(anchors[number]["place"]), np.int64(anchors[number]["first"])
        after = first + anchors[number]["count"]
        for place in range(max(first, anchor - high + 1), min(after, anchor - low + 1)):
            begin = base + place
            next_to_latest = document == latest and place == latest_place + 1
            if next_to_latest:
                entering = byte_hash(data[begin + length - 1])
                rolled = rolled * _BASE + (entering - byte_hash(data[begin - 1]) * leaving)
            else:
                rolled = np.uint64(0)
                for step in range(length):
                    rolled = rolled * _BASE + byte_hash(data[begin + step])
                twin = -1
            latest, latest_place = document, place
            slot = mix64(rolled) & np.uint64(size - 1)
            equal = False
            while slots[slot] >= 0:
                entry = slots[slot]
                if hashes[entry] == rolled:
                    other = starts[owners[entry]] + places[entry]
                    if twin == owners[entry] and twin_place + 1 == places[entry]:
                        equal = data[begin + length - 1] == data[other + length - 1]  # all others are known to be
                    else:
                        equal = _same(data, begin, other, length)
                    if equal:
                        break
                slot = (slot + np.uint64(1)) & np.uint64(size - 1)
            if not equal:
                slots[slot], hashes[known] = known, rolled
                owners[known], places[known] = document, place
                known, twin = known + 1, -1
                continue
            if dropped[owners[slots[slot]]] and owners[slots[slot]] != document:
                owners[slots[slot]], places[slots[slot]], twin = document, place, -1
                continue
            twin, twin_place = np.int64(owners[slots[slot]]), np.int64(places[slots[slot]])
            if twin == document and twin_place + length > place:
                continue
            last = out[found - 1] if found else out[0]
            if (
                found
                and next_to_latest
                and last["document"] == document
                and last["end"] == place + length - 1
                and last["twin"] == twin
                and last["twin_start"] + (place - last["start"]) == twin_place
            ):
                last["end"] = place + length
                continue
            if found == len(out):
                larger = np.empty(2 * len(out), out.dtype)
                larger[:found] = out
                out = larger
            run = out[found]
            run["document"], run["start"], run["end"] = document, place, place + length
            run["twin"], run["twin_start"] = twin, twin_place
            found += 1
    return out, found
