"""From verified pairs to decisions: which documents are kept, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from curation.compiled import njit

ALONE = np.uint32(0xFFFFFFFF)


def keep_representatives(
    dropped: np.ndarray, first: int, last: int, later: np.ndarray, earlier: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(twin, similarity) of documents `first` to `last`: (uint32, itself where it is kept; float64, NaN where
    kept).

    Documents are numbered in the order in which they are preferred. Each is dropped if, and only if, it is a
    verified duplicate of one that is *kept*; its twin is the kept one that is most similar, among equals the most
    preferred. So whatever is removed has a kept twin above the threshold, also where duplicates form a chain, and
    the result depends on the set of pairs alone. Pairs are later[i] > earlier[i], sorted by later, then earlier,
    and are all those whose later one is in the range. `dropped`, bool, tells what became of all documents before
    `first`, and is set for those of the range.
    """
    twin, best = np.arange(first, last, dtype=np.uint32), np.full(last - first, np.nan)
    _keep_representatives(dropped, first, later, earlier, similarity, twin, best)
    return twin, best


@njit(nogil=True, cache=True)
def _keep_representatives(dropped, first, later, earlier, similarity, twin, best):
    for at in range(len(later)):
        document, other = np.int64(later[at]), np.int64(earlier[at])
        if not dropped[other] and not similarity[at] <= best[document - first]:  # best is NaN at first
            twin[document - first] = other
            best[document - first] = similarity[at]
            dropped[document] = True


def components(documents: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each document the first document of its connected component. Shape (n,), uint32.

    `pairs`: of any number of pairs at a time the one documents and the others.
    """
    parent = np.arange(documents, dtype=np.uint32)
    for one, other in pairs:
        _unite(parent, one, other)
    _flatten(parent)
    return parent


def by_component(first: np.ndarray) -> tuple[np.ndarray, int]:
    """The members of the components of several documents, uint32: those of the largest first, among equals of the
    one whose first document is preferred, each rising; and the size of the largest. `first` is as `components`
    gives it; besides it 8 bytes a document are held, and 4 for each member of the largest."""
    begins = np.zeros(len(first), np.uint32)
    largest = int(_sizes(first, begins))
    times = np.zeros(largest + 2, np.uint32)
    members = np.empty(int(_begins(first, begins, times)), np.uint32)
    _place(first, begins, members)
    return members, largest


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


@njit(nogil=True, cache=True)
def _flatten(parent):
    for document in range(len(parent)):
        parent[document] = _root(parent, np.uint64(document))


@njit(nogil=True, cache=True)
def _sizes(first, sizes):
    """sizes[f] <- how many documents have `f` as their first; returns the most."""
    largest = np.uint32(0)
    for document in range(len(first)):
        sizes[first[document]] += np.uint32(1)
        largest = max(largest, sizes[first[document]])
    return largest


@njit(nogil=True, cache=True)
def _begins(first, sizes, times):
    """The sizes of components replaced by where each begins, the largest first; returns where the last one ends.
    `times` is for working: what is of one document begins nowhere, and counts for nothing."""
    for document in range(len(first)):
        if sizes[document] > 1:
            times[sizes[document]] += sizes[document]
    end = 0
    for size in range(len(times) - 1, 1, -1):
        times[size], end = end, end + times[size]
    for document in range(len(first)):
        size = sizes[document]
        if size > 1:
            sizes[document] = times[size]
            times[size] += size
        elif size == 1:
            sizes[document] = ALONE
    return end


@njit(nogil=True, cache=True)
def _place(first, begins, members):
    for document in range(len(first)):
        component = first[document]
        if begins[component] != ALONE:
            members[begins[component]] = document
            begins[component] += np.uint32(1)
