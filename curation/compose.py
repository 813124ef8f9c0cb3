"""Two edits in a row as one: the spans of the second put onto the text that the first was made on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.compiled import njit
from curation.edits import SPANS, span_values
from curation.measure.utf8 import text_buffers


def compose(first: pa.ListArray, second: pa.ListArray) -> pa.ListArray:
    """The spans (SPANS) that do at once what `first` and then `second` do: shape (n,), as the two given.

    `apply_edits(apply_edits(texts, first), second)` equals `apply_edits(texts, compose(first, second))`. Where a
    span of the second cuts into what one of the first has put in, or reaches over it, the two become one span
    under the rule of the second. Both must be sorted and without overlap, as `apply_edits` asks for.
    """
    (one, one_counts), (two, two_counts) = span_values(first), span_values(second)
    if not len(two):
        return first
    if not len(one):
        return second
    firsts = [np.concatenate([[0], np.cumsum(counts)]) for counts in (one_counts, two_counts)]
    room = len(one) + len(two)
    put = [_replacements(flat) for flat in (one, two)]
    starts, ends, rules = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    new_offsets, counts = np.zeros(room + 1, np.int64), np.zeros(len(one_counts), np.int64)
    new_data = np.empty(len(put[0][0]) + len(put[1][0]), np.uint8)
    spans = _compose(
        firsts[0], _bound(one, "start"), _bound(one, "end"), *put[0],
        firsts[1], _bound(two, "start"), _bound(two, "end"), *put[1],
        starts, ends, rules, new_data, new_offsets, counts,
    )  # fmt: skip
    replacement = pa.LargeStringArray.from_buffers(
        spans, pa.py_buffer(new_offsets[: spans + 1].copy()), pa.py_buffer(new_data[: new_offsets[spans]].copy())
    )
    names = pa.concat_arrays([one.field("rule"), two.field("rule")])
    values = pa.StructArray.from_arrays(
        [
            pa.array(starts[:spans]),
            pa.array(ends[:spans]),
            replacement.cast(pa.string()),
            names.take(pa.array(rules[:spans])),
        ],
        fields=list(SPANS.value_type),
    )
    bounds = np.concatenate([[0], np.cumsum(counts)])
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values).cast(SPANS)


def _bound(spans: pa.StructArray, name: str) -> np.ndarray:
    return spans.field(name).to_numpy()


def _replacements(spans: pa.StructArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of the replacements and their offsets; the bytes are those from the first offset on."""
    data, offsets = text_buffers(pc.fill_null(spans.field("replacement"), "").cast(pa.large_string()))
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


@njit(nogil=True)
def _put(data, start, end, out, place):
    out[place : place + end - start] = data[start:end]
    return place + end - start


@njit(nogil=True, cache=True)
def _compose(
    a_first, a_start, a_end, a_data, a_put,
    b_first, b_start, b_end, b_data, b_put,
    starts, ends, rules, data, put, counts,
):  # fmt: skip
    """Merge the spans of each document. Places are those of the text between the two edits; `shift` more in the
    original. Returns how many spans there are; a rule is the number of the span that it comes from, b after a."""
    spans, place = 0, 0
    for row in range(len(a_first) - 1):
        a, a_stop, b, b_stop = a_first[row], a_first[row + 1], b_first[row], b_first[row + 1]
        shift, before = 0, spans
        while a < a_stop or b < b_stop:
            # The replacement of `a` lies at `at` to `to`.
            at = a_start[a] - shift if a < a_stop else 0
            to = at + a_put[a + 1] - a_put[a] if a < a_stop else 0
            if a < a_stop and (b == b_stop or to <= b_start[b]):
                starts[spans], ends[spans], rules[spans] = a_start[a], a_end[a], a
                place = _put(a_data, a_put[a], a_put[a + 1], data, place)
                shift += a_end[a] - a_start[a] - (to - at)
                a += 1
            elif a == a_stop or b_end[b] <= at:
                starts[spans], ends[spans] = b_start[b] + shift, b_end[b] + shift
                rules[spans] = len(a_start) + b
                place = _put(b_data, b_put[b], b_put[b + 1], data, place)
                b += 1
            else:
                here = min(at, b_start[b])
                starts[spans], rules[spans] = here + shift, len(a_start) + b
                while True:
                    inside = a < a_stop and a_start[a] - shift <= here
                    if inside:  # what stands of the replacement up to the next span of the second
                        at = a_start[a] - shift
                        to = at + a_put[a + 1] - a_put[a]
                        until = min(to, b_start[b]) if b < b_stop else to
                        if until > here:
                            place = _put(a_data, a_put[a] + here - at, a_put[a] + until - at, data, place)
                            here = until
                        if here == to:
                            shift += a_end[a] - a_start[a] - (to - at)
                            a += 1
                            break
                    place = _put(b_data, b_put[b], b_put[b + 1], data, place)
                    here = b_end[b]
                    b += 1
                    while a < a_stop and a_start[a] - shift < here:  # replacements that are gone with it
                        size = a_put[a + 1] - a_put[a]
                        if a_start[a] - shift + size > here:
                            break
                        shift += a_end[a] - a_start[a] - size
                        a += 1
                    if a == a_stop or a_start[a] - shift >= here:
                        break
                ends[spans] = here + shift
            spans += 1
            put[spans] = place
        counts[row] = spans - before
    return spans
