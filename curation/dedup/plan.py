"""What deduplication will need and find, before it runs: memory and disk of each phase, the detection curve.

Hash-partitioned files on disk hold what is as large as the data. In memory are, of all documents, a byte each, and
of *candidates* (documents that share a key or a band with another) their columns. How many these are is known when
the keys have been joined: before that the plan takes CANDIDATES of all, and then `require_memory` compares what
they really need with the setting, before they are decided on. The Python process comes on top.

Two amounts depend on the data and are not in it: 16 bytes a verified pair (three times that while pairs are
merged), and on disk the candidate pairs (8 bytes) and shingle sets (8 bytes a distinct shingle of a candidate).

Across machines, signatures, bands, joins, buckets and comparisons are independent partitions. Only the decision
sees all candidates: DECISION bytes each and 16 a pair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curation.config import ConfigError
from curation.dedup.bands import ENTRY, PAIRS_AT_ONCE, SHARED
from curation.dedup.candidates import PARTITION, SIGNATURES_AT_ONCE
from curation.dedup.settings import Dedup
from curation.dedup.verify import LOADED, RANGE, VERIFIED

CANDIDATES = 0.5  # of all documents, until they are known
PROCESS_BYTES = 350 << 20  # Python, numba and Arrow before the first document
PLACE = 8  # bytes a candidate: its position among all documents
KEYS = 200  # bytes a document of a shard: its ids as text, its halves, its entry
COLUMNS = 42  # bytes a document: source, shard, row, bytes, created, id (see documents.COLUMNS)
EXACT = 16 + 76  # a key; groups, and the columns of those that are not alone once more: at most, if none is alone
SORTING = 50  # while the keep policy sorts: its columns, the order, comparisons of neighbours
NUMBERING = 8 + 4 + 4  # order, number, what is new and what has met
VERIFYING = 16 + 5 + 16  # where a set lies; pairs of a document; who is kept so far
DECISION = 8 + 8 + 4 + 8 + 8 + 8  # twins and similarities by number and by position, component and its size
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
    columns = candidates * (COLUMNS + (8 if config.keep.score else 0))
    held = columns + candidates * (NUMBERING + PLACE)
    of_shard = min(documents, -(-documents * SHARD_BYTES // max(1, text)))
    signed = min(of_shard, SIGNATURES_AT_ONCE) * scheme.permutations * np.dtype(scheme.dtype).itemsize
    entries = of_shard * scheme.bands * ENTRY.itemsize
    partition = PARTITION * (3 * SHARED.itemsize + 4 * 8) + 3 * 8 * PAIRS_AT_ONCE
    band_files = documents * scheme.bands * ENTRY.itemsize
    index = documents * 100 + text if config.index else 0
    phases = [
        Phase("keys", documents, max(of_shard * KEYS, partition), documents * ENTRY.itemsize),
        Phase("exact", columns + candidates * (PLACE + EXACT + SORTING), 0, candidates * 60),
        Phase("bands", 0, 2 * signed + 4 * entries, band_files),
        Phase("share", documents, partition, candidates * scheme.bands * SHARED.itemsize),
        Phase("order", columns + candidates * (PLACE + SORTING), 0, candidates * COLUMNS),
        Phase("buckets", held, partition, 0),
        Phase("verify", held + candidates * VERIFYING, RANGE * (VERIFIED.itemsize + 7 * 8) + LOADED, 0),
        Phase("decide", held + candidates * DECISION, 0, 0),
    ]
    if config.index:
        phases.append(Phase("index", held + candidates * (DECISION + 16), 0, band_files + index))
    return DedupPlan(phases, {at: float(scheme.detection(at)) for at in SIMILARITIES}, workers)


def require_memory(config: Dedup, candidates: int, stage: str) -> None:
    """Raise ConfigError if deciding on so many candidates needs more than `config.memory`."""
    if config.memory is None:
        return
    after = {"exact": ("exact",), "fuzzy": ("order", "buckets", "verify", "decide", "index")}[stage]
    phases = [phase for phase in dedup_plan(candidates, 0, config, 1, candidates).phases if phase.name in after]
    needed = PROCESS_BYTES + max(phase.memory for phase in phases)
    if needed > config.memory:
        raise ConfigError(
            f"{candidates} documents share a {'key' if stage == 'exact' else 'band'} with another: to decide on "
            f"them needs about {needed >> 20} MiB, {config.memory >> 20} MiB are allowed; allow more memory, or "
            "deduplicate in parts with an index"
        )
