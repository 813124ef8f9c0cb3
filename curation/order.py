"""What comes when: the global order of a mix, its copies included, and its cuts into parts or steps."""

from __future__ import annotations

import numpy as np

from curation.keys import occurrence_key


def occurrences(
    order: np.ndarray, copies: np.ndarray, epochs: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every time a row is fed: (row, epoch, key), unsorted. `order` (uint64) and `copies` are the manifest's.

    Each epoch goes on counting copies, so that it has an order of its own.
    """
    times = copies * epochs
    row = np.repeat(np.arange(len(order)), times)
    copy = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
    return row, copy // copies[row], occurrence_key(order[row], copy)


def in_order(order: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The row of each occurrence in the global order of one epoch, int64."""
    row, _, key = occurrences(order, copies)
    return row[np.lexsort((row, key))]


def boundaries(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Cuts of things in order: each group takes things while they fit the budget, at least one."""
    ends = np.cumsum(sizes)
    cuts = [0]
    while cuts[-1] < len(sizes):
        taken = ends[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, taken + budget, "right"))))
    return np.array(cuts, np.int64)
