"""What kernels that find spans share: a table that grows, and the Arrow array of SPANS made of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.edits import SPANS

# The columns of the int64 table that a kernel fills: bytes from the start of the document, then the numbers of
# the replacement and the rule.
START, END, REPLACEMENT, RULE = range(4)
WIDTH = 4


@njit(nogil=True)
def add_span(table, known, start, end, replacement, rule):
    """Write span number `known`; returns the table, a larger one if this was full."""
    if known == len(table):
        larger = np.empty((max(64, 2 * known), WIDTH), np.int64)
        larger[:known] = table
        table = larger
    table[known, 0] = start
    table[known, 1] = end
    table[known, 2] = replacement
    table[known, 3] = rule
    return table


def span_array(
    counts: np.ndarray, table: np.ndarray, replacements: Sequence[str], rules: Sequence[str]
) -> pa.ListArray:
    """The spans of documents, shape (n,): `counts` (n,) of them in the table (spans, WIDTH) each."""
    names = [pa.array(values, pa.string()) for values in (replacements, rules)]
    values = pa.StructArray.from_arrays(
        [
            pa.array(table[:, START]),
            pa.array(table[:, END]),
            names[0].take(pa.array(table[:, REPLACEMENT])),
            names[1].take(pa.array(table[:, RULE])),
        ],
        fields=list(SPANS.value_type),
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values).cast(SPANS)
