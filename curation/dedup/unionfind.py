"""From verified pairs to decisions: which documents are kept, and which belong together."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit


def keep_representatives(
    documents: int, later: np.ndarray, earlier: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(twin, similarity) of each document: (int64[n], -1 where it is kept; float64[n], NaN where it is kept).

    Documents are numbered in the order in which they are preferred. Each is dropped if, and only if, it is a
    verified duplicate of one that is *kept*; its twin is the kept one that is most similar, among equals the most
    preferred. So whatever is removed has a kept twin above the threshold, also where duplicates form a chain, and
    the result depends on the set of pairs alone. Pairs are later[i] > earlier[i], sorted by later, then earlier.
    """
    twin, best = np.full(documents, -1, np.int64), np.full(documents, np.nan)
    _keep_representatives(later, earlier, similarity, twin, best)
    return twin, best


@njit(nogil=True, cache=True)
def _keep_representatives(later, earlier, similarity, twin, best):
    for at in range(len(later)):
        document, other = later[at], earlier[at]
        if twin[other] < 0 and not similarity[at] <= best[document]:  # best is NaN at first
            twin[document] = np.int64(other)
            best[document] = similarity[at]


def components(documents: int, later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """For each document the first document of its connected component. Shape (n,), uint32."""
    parent = np.arange(documents, dtype=np.uint32)
    _unite(parent, later, earlier)
    return parent


@njit(nogil=True, cache=True)
def _root(parent, document):
    while parent[document] != document:
        parent[document] = parent[parent[document]]  # path halving
        document = parent[document]
    return document


@njit(nogil=True, cache=True)
def _unite(parent, later, earlier):
    for at in range(len(later)):
        a, b = _root(parent, later[at]), _root(parent, earlier[at])
        if a < b:
            parent[b] = a
        elif b < a:
            parent[a] = b
    for document in range(len(parent)):
        parent[document] = _root(parent, np.uint64(document))
