"""From repeated runs to the spans that are cut: joined, bridged, and drawn back to where a reader would cut.

The bridge is that of Olmo 3 (its interval merge): along a document's spans, forward and then backward, a span
joins the ones before it as long as the bytes of the spans are at least a share of the bytes from the first one's
beginning to the last one's end; what either direction gives is cut.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from curation.compiled import njit
from curation.edits import cuts_character

Snap = Literal["none", "word", "line"]
SNAPS = {"none": 0, "word": 1, "line": 2}
WORD_REACH = 64  # bytes: in scripts without spaces, and in data, no word bound may be near
SPAN = np.dtype([("document", "<u4"), ("start", "<u4"), ("end", "<u4")])


def whole_runs(runs: np.ndarray) -> np.ndarray:
    """Runs that go on from each other, in the document and its twin alike, made one: RUN[k], sorted by document.

    `runs` in any order. They come in pieces: each search finds the windows of one class of anchors.
    """
    shift = runs["twin_start"].astype(np.int64) - runs["start"]
    runs = runs[np.lexsort((runs["end"], runs["start"], shift, runs["twin"], runs["document"]))]
    runs = runs[: _whole(runs)]
    return runs[np.lexsort((runs["twin_start"], runs["twin"], runs["end"], runs["start"], runs["document"]))]


def join(runs: np.ndarray) -> np.ndarray:
    """The union of runs as spans that neither overlap nor touch: SPAN[k], sorted.

    `runs`: an array with the fields document, start and end, sorted by document and start.
    """
    spans = np.empty(len(runs), SPAN)
    return spans[: _join(runs, spans)]


def bridge(spans: np.ndarray, share: float) -> np.ndarray:
    """Spans with the gaps closed that leave at least `share` of a span to those given. SPAN, sorted, as `join`."""
    both = np.empty(2 * len(spans), SPAN)
    forward = _bridge(spans, share, both)
    turned = np.empty(len(spans), SPAN)
    backward = _bridge_backward(spans, share, turned)
    both = np.concatenate([both[:forward], turned[:backward]])
    return join(both[np.lexsort((both["start"], both["document"]))])


def snap(spans: np.ndarray, data: np.ndarray, offsets: np.ndarray, to: Snap) -> np.ndarray:
    """Spans drawn back to bounds of characters, words or lines; those that hold none are left out.

    Document d's text is data[offsets[d]:offsets[d + 1]]. A span only ever becomes shorter. "word": to white space
    (ASCII) or the text's end within WORD_REACH bytes, else to a character; "line": to whole lines with their ends.
    """
    out = np.empty(len(spans), SPAN)
    return out[: _snap(spans, data, offsets, SNAPS[to], out)]


def lengths_by(spans: np.ndarray, documents: int) -> np.ndarray:
    """The bytes of the spans of each document, int64 (documents,)."""
    sizes = spans["end"].astype(np.int64) - spans["start"]
    return np.bincount(spans["document"], sizes, documents).astype(np.int64)


@njit(nogil=True, cache=True)
def _whole(runs):
    """Join in place; returns how many are left."""
    count = 0
    for at in range(len(runs)):
        run = runs[at]
        if count:
            last = runs[count - 1]
            before = np.int64(last["twin_start"]) - np.int64(last["start"])
            if (
                last["document"] == run["document"]
                and last["twin"] == run["twin"]
                and before == np.int64(run["twin_start"]) - np.int64(run["start"])
                and run["start"] <= last["end"]
            ):
                last["end"] = max(last["end"], run["end"])
                continue
        runs[count] = run
        count += 1
    return count


@njit(nogil=True, cache=True)
def _join(runs, out):
    count = 0
    for run in runs:
        if count:
            last = out[count - 1]
            if last["document"] == run["document"] and run["start"] <= last["end"]:
                last["end"] = max(last["end"], run["end"])
                continue
        new = out[count]
        new["document"], new["start"], new["end"] = run["document"], run["start"], run["end"]
        count += 1
    return count


@njit(nogil=True, cache=True)
def _bridge(spans, share, out):
    count, covered = 0, 0
    for span in spans:
        size = np.int64(span["end"]) - span["start"]
        if count:
            last = out[count - 1]
            whole = np.int64(span["end"]) - last["start"]
            if last["document"] == span["document"] and covered + size >= share * whole:
                last["end"] = span["end"]
                covered += size
                continue
        new = out[count]
        new["document"], new["start"], new["end"] = span["document"], span["start"], span["end"]
        count, covered = count + 1, size
    return count


@njit(nogil=True, cache=True)
def _bridge_backward(spans, share, out):
    count, covered = 0, 0
    for at in range(len(spans) - 1, -1, -1):
        span = spans[at]
        size = np.int64(span["end"]) - span["start"]
        if count:
            last = out[count - 1]
            whole = np.int64(last["end"]) - span["start"]
            if last["document"] == span["document"] and covered + size >= share * whole:
                last["start"] = span["start"]
                covered += size
                continue
        new = out[count]
        new["document"], new["start"], new["end"] = span["document"], span["start"], span["end"]
        count, covered = count + 1, size
    return count


@njit(nogil=True)
def _white(byte):
    return byte == 0x20 or (byte >= 0x09 and byte <= 0x0D)


@njit(nogil=True)
def _word_bound(data, begin, at, end):
    return at in (begin, end) or _white(data[at - 1]) or _white(data[at])


@njit(nogil=True, cache=True)
def _snap(spans, data, offsets, to, out):
    count = 0
    for span in spans:
        begin, end = offsets[span["document"]], offsets[span["document"] + 1]
        start, stop = begin + span["start"], begin + span["end"]
        while start < stop and cuts_character(data, begin, start, end):
            start += 1
        while start < stop and cuts_character(data, begin, stop, end):
            stop -= 1
        if to == 1:
            near, far = start, stop
            while near < min(stop, start + WORD_REACH) and not _word_bound(data, begin, near, end):
                near += 1
            while far > max(near, stop - WORD_REACH) and not _word_bound(data, begin, far, end):
                far -= 1
            start = near if _word_bound(data, begin, near, end) else start
            stop = far if _word_bound(data, begin, far, end) else stop
        elif to == 2:
            while start < stop and start > begin and data[start - 1] != 0x0A:
                start += 1
            while start < stop and stop < end and data[stop - 1] != 0x0A:
                stop -= 1
        if start < stop:
            new = out[count]
            new["document"], new["start"], new["end"] = span["document"], start - begin, stop - begin
            count += 1
    return count
