"""What deduplication will need and find, before it runs: memory and disk of each phase, the detection curve.

Hash-partitioned files on disk hold what is as large as the data. Exact deduplication holds a shard or a partition
a worker, and nothing else. Fuzzy deduplication holds, on the machine that decides, DECIDING bytes of each
*candidate* (a document that shares a band with another) and the verified pairs of one range of documents. How many
candidates there are is known when the bands have been joined: before that the plan takes CANDIDATES of all, and
then `require_memory` compares what they really need with the setting, before they are decided on. The Python
process comes on top.

With an index all documents' columns are in memory, too.

Two amounts depend on the data and are not in it: on disk the candidate pairs (8 bytes, verified ones 16 more) and
shingle sets (8 bytes a distinct shingle of a candidate, and 24 a set); with an index, 16 bytes of memory a
verified pair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curation.config import ConfigError
from curation.dedup.bands import ENTRY, PAIRS_AT_ONCE, SHARED
from curation.dedup.candidates import PARTITION, SIGNATURES_AT_ONCE
from curation.dedup.ranking import RANKED
from curation.dedup.settings import Dedup
from curation.dedup.verify import LOADED, RANGE, VERIFIED

CANDIDATES = 0.5  # of all documents, until they are known
PROCESS_BYTES = 350 << 20  # Python, numba and Arrow before the first document
DECIDING = 16  # bytes a candidate: its component's first, that one's size, members in order (4 each), and flags
FLAGS = 6  # while pairs are found: kept, dropped, settled, met; in a pair, with a set
RANGE_BYTES = 3 * RANGE * VERIFIED.itemsize  # the pairs of a range of documents, and as they are merged
KEYS = 200  # bytes a document of a shard: its ids as text, its halves, its entry
TABLE = 110  # bytes on disk a candidate: what the policy looks at, origin; its number, and who a number is
RANKING = 120  # bytes a document of what a worker puts in order: its keys, their order, id and number
COLUMNS = 42  # bytes a document in memory, with an index: see documents.COLUMNS
SORTING = 50  # while the keep policy sorts: its columns, the order, comparisons of neighbours
JOINING = 16 + 76 + 60  # a key; groups, and the columns of those that are not alone; what becomes of each
SHARD_BYTES = 256 << 20  # of text, about
SIMILARITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


class Phase(NamedTuple):
    """Bytes that a phase needs: of all documents, of each worker, on disk."""

    name: str
    memory: int
    a_worker: int
    disk: int


class DedupPlan(NamedTuple):
    """What a run over so many documents needs, phase by phase, and which similarities it finds."""

    phases: list[Phase]
    detection: dict[float, float]  # Jaccard similarity -> probability that the pair is compared
    workers: int

    @property
    def memory(self) -> int:
        """The most that any phase holds, without the Python process. Bytes."""
        return max(phase.memory + self.workers * phase.a_worker for phase in self.phases)

    @property
    def disk(self) -> int:
        """What lies on disk before the step tidies up, without pairs and sets. Bytes."""
        return sum(phase.disk for phase in self.phases)

    def rows(self) -> list[dict[str, str | int]]:
        """The phases as rows of a table."""
        return [phase._asdict() for phase in self.phases]


def dedup_plan(
    documents: int, text: int, config: Dedup, workers: int = 1, candidates: int | None = None
) -> DedupPlan:
    """The plan of exact and fuzzy deduplication of so many documents with so many bytes of text.

    With an index, `documents` and `text` are those of the index and the batch together, and all are gathered.
    """
    scheme = config.scheme
    if candidates is None:
        candidates = documents if config.index else int(documents * CANDIDATES)
    held = documents * (COLUMNS + (8 if config.keep.score else 0) + JOINING + SORTING) if config.index else 0
    of_shard = min(documents, -(-documents * SHARD_BYTES // max(1, text)))
    signed = min(of_shard, SIGNATURES_AT_ONCE) * scheme.permutations * np.dtype(scheme.dtype).itemsize
    entries = of_shard * scheme.bands * ENTRY.itemsize
    partition = PARTITION * (3 * SHARED.itemsize + 4 * 8) + 3 * 8 * PAIRS_AT_ONCE
    ranking = min(max(candidates, of_shard), RANKED) * RANKING
    verifying = RANGE * (VERIFIED.itemsize + 7 * 8) + LOADED
    band_files = documents * scheme.bands * ENTRY.itemsize
    phases = [
        Phase("keys", 0, max(of_shard * KEYS, partition), documents * ENTRY.itemsize),
        Phase("exact", 0, ranking, candidates * TABLE),
        Phase("bands", held, 2 * signed + 4 * entries, band_files),
        Phase("share", held, partition, candidates * scheme.bands * SHARED.itemsize),
        Phase("rank", held, ranking, candidates * TABLE),
        Phase("buckets", held + candidates * FLAGS, partition, 0),
        Phase("verify", held + candidates * FLAGS + 5 * 8 * PAIRS_AT_ONCE, verifying, 0),
        Phase("decide", held + candidates * DECIDING + RANGE_BYTES, 0, candidates * 12),
    ]
    if config.index:
        phases.append(Phase("index", held + candidates * 16, 0, band_files + documents * 100 + text))
    return DedupPlan(phases, {at: float(scheme.detection(at)) for at in SIMILARITIES}, workers)


def require_memory(config: Dedup, candidates: int) -> None:
    """Raise ConfigError if deciding on so many candidates needs more than `config.memory`."""
    if config.memory is None:
        return
    phases = dedup_plan(candidates, 0, config, 1, candidates).phases
    needed = PROCESS_BYTES + max(phase.memory for phase in phases)
    if needed > config.memory:
        raise ConfigError(
            f"{candidates} documents share a band with another: to decide on them needs about {needed >> 20} MiB, "
            f"{config.memory >> 20} MiB are allowed; allow more memory, or deduplicate in parts with an index"
        )
