"""All verified near-duplicates among documents, also in buckets too large to compare each with each.

A document is dropped if, and only if, it is similar to a preferred one that is *kept*
(`unionfind.keep_representatives`). To know who is kept it is enough to have compared the kept documents with each
other, wherever two of them share a bucket:

1. In a bucket of up to `max_bucket` + 1 documents each is compared with each. In a larger one each is compared
   with the `max_bucket` most preferred.
2. Of what is kept by these pairs, those that share a large bucket are compared in the same way, as often as it
   takes: until all kept ones have met, or those that have not are left out by `max_bucket` alone; then the bound
   is doubled. A large bucket of near-identical pages shrinks to a few in the first round; one of pages that are
   not similar costs the most, so the rounds make at most ROUNDS_COST times `max_bucket` pairs an entry of a band.

Where this ends with no pair left out, the kept documents are those that comparing every pair of every bucket
gives. `kept_pairs_left_out` counts what is left otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curation.dedup.candidates import Shared, candidate_pairs, kept_pairs
from curation.dedup.documents import Documents
from curation.dedup.settings import Dedup
from curation.dedup.unionfind import keep_representatives
from curation.dedup.verify import VERIFIED, Sets, verified_pairs
from curation.steps import Build

ROUNDS_COST = 4
EARLIER = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Known:
    """What is known before of documents, by position: new ones, those that have met each other, verified pairs."""

    fresh: np.ndarray  # bool (n,)
    settled: np.ndarray  # bool (n,): any two that share a bucket have been compared; none of them is fresh
    pairs: np.ndarray  # VERIFIED, the higher position << 32 | the lower


def nothing_known(documents: int) -> Known:
    """All documents are new."""
    return Known(np.ones(documents, bool), np.zeros(documents, bool), np.zeros(0, VERIFIED))


def similar_pairs(
    build: Build, documents: Documents, shared: Shared, number: np.ndarray, known: Known, config: Dedup
) -> np.ndarray:
    """The verified pairs of documents by number (later << 32 | earlier), VERIFIED, sorted; `known` ones included.

    Sets the counts pairs_compared, pairs_verified, pairs_left_out (of the first round), rounds and
    kept_pairs_left_out.
    """
    fresh, settled = np.empty(len(number), bool), np.empty(len(number), bool)
    fresh[number], settled[number] = known.fresh, known.settled
    sets = Sets(documents, number, config.verification)
    window, round_ = config.max_bucket, 0
    # Documents are those of the places, or, with an index, all.
    of_place = number if len(number) == len(shared.places) else number[shared.places]
    proposal = candidate_pairs(build, shared, of_place, fresh, settled, config)
    budget = ROUNDS_COST * config.max_bucket * proposal.entries
    build.counts["pairs_left_out"] = proposal.left_out
    met = fresh | settled
    pairs = _renumbered(known.pairs, number)
    while True:
        pairs = _merged(pairs, verified_pairs(build, sets, proposal.runs, round_, config))
        kept = keep_representatives(len(number), *columns(pairs))[0] < 0
        if not proposal.left_out:
            settled = met
        if not (kept & ~settled).any() or not proposal.large:
            left_out = 0
            break
        budget -= proposal.made if round_ else 0
        if round_ and proposal.left_out:
            window *= 2
        if round_ and budget < 2 * proposal.made:
            left_out = proposal.left_out
            break
        round_ += 1
        proposal, met = kept_pairs(build, proposal, round_, kept, settled, window), kept
    build.counts |= {"pairs_verified": len(pairs), "rounds": round_ + 1, "kept_pairs_left_out": left_out}
    return pairs


def columns(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(later, earlier, similarity) of VERIFIED pairs, as views: no copy."""
    halves = pairs.view([("earlier", "<u4"), ("later", "<u4"), ("similarity", "<f8")])
    return halves["later"], halves["earlier"], halves["similarity"]


def _renumbered(pairs: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Pairs of positions as pairs of numbers."""
    out = np.empty(len(pairs), VERIFIED)
    one, other = number[pairs["pair"] >> np.uint64(32)], number[pairs["pair"] & EARLIER]
    out["pair"] = np.maximum(one, other).astype(np.uint64) << np.uint64(32) | np.minimum(one, other)
    out["similarity"] = pairs["similarity"]
    return out


def _merged(pairs: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The pairs of both, sorted, each once."""
    if not len(pairs):
        return more
    both = np.concatenate([pairs, more])
    _, first = np.unique(both["pair"], return_index=True)
    return both[first]
