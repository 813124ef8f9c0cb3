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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.dedup.candidates import Shared, candidate_pairs, kept_pairs
from curation.dedup.documents import SCRATCH, Shard
from curation.dedup.ranking import Numbered, numbers_file
from curation.dedup.settings import Dedup
from curation.dedup.unionfind import keep_representatives
from curation.dedup.verify import Sets, Verified
from curation.files import atomic, map_array, write_array
from curation.steps import Build

ROUNDS_COST = 4


@dataclass(frozen=True)
class Known:
    """What is known before of documents, by number: new ones, those that have met each other, verified pairs."""

    fresh: np.ndarray  # bool (n,)
    settled: np.ndarray  # bool (n,): any two that share a bucket have been compared; none of them is fresh
    pairs: np.ndarray  # VERIFIED, later << 32 | earlier, sorted


@dataclass(frozen=True)
class Decided:
    """What becomes of each number, in files: the number of its twin, its own where it is kept, and the similarity
    to it, NaN where it is kept."""

    folder: Path

    @property
    def twin(self) -> np.ndarray:
        """uint32 (n,), mapped."""
        return map_array(_decided_file(self.folder, "twin"))

    @property
    def similarity(self) -> np.ndarray:
        """float64 (n,), mapped."""
        return map_array(_decided_file(self.folder, "similarity"))


def decide(
    build: Build,
    shards: Sequence[Shard],
    shared: Shared,
    numbered: Numbered,
    config: Dedup,
    known: Known | None = None,
) -> tuple[Decided, Verified]:
    """Phases 6 to 9: the verified pairs of numbered documents, the `known` ones included, and who is kept by them.

    Sets the counts pairs_compared, pairs_verified, pairs_left_out (of the first round), rounds and
    kept_pairs_left_out. Memory: some flags a document, and the pairs of a range of them at a time.
    """
    total = len(numbered)
    sets, verified = Sets(shards, numbered, config.verification), Verified(total)
    window, round_ = config.max_bucket, 0
    settled, met = np.zeros(total, bool), np.ones(total, bool)
    flags = None
    if known is not None:
        settled, met, flags = known.settled, known.fresh | known.settled, _flags_file(build.folder, 0)
        write_array(flags, np.stack([known.fresh, known.settled]))
        path = _decided_file(build.folder, "known")
        write_array(path, known.pairs)
        verified.add([0, total], [path])
    numbers = [numbers_file(build.folder, shard) for shard in shards]
    proposal = candidate_pairs(build, shared, numbers, flags, config.max_bucket)
    budget = ROUNDS_COST * config.max_bucket * proposal.entries
    build.counts["pairs_left_out"] = proposal.left_out
    while True:
        sets.verify(build, proposal.runs, round_, config, verified)
        kept, pairs = _decide(build.folder, verified)
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
        write_array(_flags_file(build.folder, round_), np.stack([kept, settled]))
        proposal, met = kept_pairs(build, proposal, round_, _flags_file(build.folder, round_), window), kept
    build.counts |= {"pairs_verified": pairs, "rounds": round_ + 1, "kept_pairs_left_out": left_out}
    return Decided(build.folder), verified


def columns(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(later, earlier, similarity) of VERIFIED pairs, as views: no copy."""
    halves = pairs.view([("earlier", "<u4"), ("later", "<u4"), ("similarity", "<f8")])
    return halves["later"], halves["earlier"], halves["similarity"]


def _decide(folder: Path, verified: Verified) -> tuple[np.ndarray, int]:
    """Write what the pairs decide; returns who is kept, bool (n,), and how many pairs there are."""
    dropped, pairs = np.zeros(verified.documents, bool), 0
    with (
        atomic(_decided_file(folder, "twin")) as twin_path,
        atomic(_decided_file(folder, "similarity")) as similarity_path,
        open(twin_path, "wb") as twins,
        open(similarity_path, "wb") as similarities,
    ):
        for file, kind in ((twins, "<u4"), (similarities, "<f8")):
            header = {"descr": kind, "fortran_order": False, "shape": (verified.documents,)}
            np.lib.format.write_array_header_1_0(file, header)
        for first, last, some in verified.ranges():
            twin, similarity = keep_representatives(dropped, first, last, *columns(some))
            twins.write(twin)
            similarities.write(similarity)
            pairs += len(some)
    return ~dropped, pairs


def _decided_file(folder: Path, name: str) -> Path:
    return folder / SCRATCH / "decided" / f"{name}.npy"


def _flags_file(folder: Path, round_: int) -> Path:
    return folder / SCRATCH / "flags" / f"{round_:03d}.npy"
