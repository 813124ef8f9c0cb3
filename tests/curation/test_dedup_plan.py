"""The plan of deduplication against what the phases really hold."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from curation.config import ConfigError
from curation.dedup.bands import ENTRY
from curation.dedup.documents import Documents
from curation.dedup.exact import exact_twins
from curation.dedup.keep import preference
from curation.dedup.plan import PROCESS_BYTES, dedup_plan, require_memory
from curation.dedup.scheme import PRESETS
from curation.dedup.settings import Dedup, Keep

DOCUMENTS = 200_000


@pytest.fixture(scope="module")
def documents():
    generator = np.random.default_rng(1)
    columns = {name: generator.integers(0, 1 << 60, DOCUMENTS, np.uint64) for name in ("high", "low", "bytes")}
    columns |= {"value_high": columns["high"] % 150_000, "value_low": np.zeros(DOCUMENTS, np.uint64)}
    columns |= {"created": generator.integers(0, 1 << 40, DOCUMENTS), "row": np.arange(DOCUMENTS, dtype=np.uint32)}
    columns |= {"source": np.zeros(DOCUMENTS, np.uint16), "shard": np.zeros(DOCUMENTS, np.uint32)}
    return Documents(["web"], [], columns)


def peak(work):
    """The most bytes that were allocated while `work` ran, beyond those before."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def phase(name, config=None):
    (found,) = [
        one for one in dedup_plan(DOCUMENTS, 10**9, config or Dedup(), 1, DOCUMENTS).phases if one.name == name
    ]
    return found


def test_sorting_by_the_policy_stays_within_the_plan(documents):
    used = peak(lambda: preference(Keep(), ["web"], documents.columns, documents.origins))
    assert 0.9 < (used + 50 * DOCUMENTS) / phase("order").memory < 1.02


def test_exact_twins_stay_within_the_plan(documents):
    used = peak(lambda: exact_twins(documents, Keep()))
    assert 0.7 < (used + 66 * DOCUMENTS) / phase("exact").memory < 1.02
    documents.columns["value_high"] %= 1000  # none is alone
    used = peak(lambda: exact_twins(documents, Keep()))
    assert 0.9 < (used + 66 * DOCUMENTS) / phase("exact").memory < 1.02


def test_the_plan_grows_with_documents_and_bands_alone():
    small, large = (dedup_plan(n, 5000 * n, Dedup(), workers=4) for n in (10**6, 10**8))
    for one, other in zip(small.phases, large.phases, strict=True):
        assert abs(other.memory - 100 * one.memory) < 100
        assert abs(other.disk - 100 * one.disk) < 100
        assert abs(other.a_worker - one.a_worker) < 0.01 * max(1, one.a_worker)
    assert small.memory == max(one.memory + 4 * one.a_worker for one in small.phases)
    assert phase("bands").disk == DOCUMENTS * 14 * ENTRY.itemsize
    assert phase("bands", Dedup(scheme="dolma3")).disk == DOCUMENTS * 26 * ENTRY.itemsize


def test_the_curve_is_that_of_the_scheme(tmp_path):
    plan = dedup_plan(1000, 10**6, Dedup(scheme="dolma3", index=tmp_path))
    assert plan.detection[0.8] == PRESETS["dolma3"].detection(0.8)
    assert [row["name"] for row in plan.rows()][-1] == "index"


def test_deciding_on_more_than_memory_allows_is_refused_before_it_begins():
    require_memory(Dedup(), 10**12, "fuzzy")
    for stage, each in (("exact", 192), ("fuzzy", 110)):
        fitting = ((1 << 30) - PROCESS_BYTES) // each
        require_memory(Dedup(memory=1 << 30), fitting, stage)
        with pytest.raises(ConfigError, match="allow more memory"):
            require_memory(Dedup(memory=1 << 30), int(fitting * 1.1), stage)
