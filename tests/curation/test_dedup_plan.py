"""The plan of deduplication against what the phases really hold."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from curation.config import ConfigError
from curation.dedup import ranking, similar
from curation.dedup.bands import ENTRY
from curation.dedup.documents import Documents, Shard
from curation.dedup.incremental import exact_twins
from curation.dedup.keep import preference
from curation.dedup.plan import DECIDING, PROCESS_BYTES, RANGE_BYTES, RANKING, dedup_plan, require_memory
from curation.dedup.scheme import PRESETS
from curation.dedup.settings import Dedup, Keep
from curation.dedup.similar import columns
from curation.dedup.unionfind import by_component, components
from curation.dedup.verify import VERIFIED, Verified
from curation.files import write_array

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


def clustered(folder, size):
    """Verified pairs of DOCUMENTS documents in ranges: each is like the first of its `size`."""
    numbers = np.arange(DOCUMENTS)
    later = numbers[numbers % size > 0]
    pairs = np.empty(len(later), VERIFIED)
    pairs["pair"], pairs["similarity"] = later << 32 | later // size * size, 0.9
    bounds = list(range(0, DOCUMENTS + 1, DOCUMENTS // 10))
    files = [folder / f"{at}.npy" for at in range(10)]
    for at, path in enumerate(files):
        write_array(path, pairs[(later >= bounds[at]) & (later < bounds[at + 1])])
    verified = Verified(DOCUMENTS)
    verified.add(bounds, files)
    return verified


@pytest.mark.parametrize("size", [2, 10, DOCUMENTS])
def test_deciding_holds_sixteen_bytes_a_candidate(tmp_path, size):
    """The whole of what sees all documents: who is kept, components, their members in order."""
    verified = clustered(tmp_path, size)

    def decide():
        similar._decide(tmp_path, verified)
        halves = (columns(pairs)[:2] for _, _, pairs in verified.ranges())
        assert by_component(components(DOCUMENTS, halves))[1] == size

    decide()  # compiled
    assert DECIDING == 16
    assert 0.7 < peak(decide) / (16 * DOCUMENTS) < 1.05
    assert phase("decide").memory == 16 * DOCUMENTS + RANGE_BYTES


def test_ranking_holds_a_range_of_the_documents(tmp_path):
    generator = np.random.default_rng(1)
    shards = [Shard("web", f"{at}", tmp_path, tmp_path, at) for at in range(4)]
    for shard in shards:
        keys = np.sort(generator.integers(0, 1 << 60, DOCUMENTS // 4))
        table = {f"key{at}": keys for at in range(5)} | {"row": np.arange(len(keys), dtype=np.uint32)}
        table = pa.table(table | {"origin": [f"o{at}" for at in range(len(keys))]})
        path = ranking.candidates_file(tmp_path, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    used = peak(lambda: ranking._rank(tmp_path, "", shards, 0, None, None))
    assert 0.4 < used / (RANKING * DOCUMENTS) < 1
    half = (1 << 59,) * 5
    assert peak(lambda: ranking._rank(tmp_path, "", shards, 0, None, half)) < 0.6 * used


def test_with_an_index_columns_in_memory_stay_within_the_plan(documents, tmp_path):
    held = phase("rank", Dedup(index=tmp_path)).memory
    used = peak(lambda: preference(Keep(), ["web"], documents.columns, documents.origins))
    assert (used + 66 * DOCUMENTS) / held < 1.02
    documents.columns["value_high"] %= 1000  # none is alone
    used = peak(lambda: exact_twins(documents, Keep()))
    assert 0.7 < (used + 66 * DOCUMENTS) / held < 1.02


def test_the_plan_grows_with_documents_and_bands_alone():
    small, large = (dedup_plan(n, 5000 * n, Dedup(), workers=4) for n in (10**7, 10**9))
    for one, other in zip(small.phases, large.phases, strict=True):
        a_document = (other.memory - one.memory) / (10**9 - 10**7)
        assert a_document == pytest.approx({"buckets": 3, "verify": 3, "decide": 8}.get(one.name, 0))
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
    require_memory(Dedup(), 10**12)
    fitting = ((1 << 30) - PROCESS_BYTES - RANGE_BYTES) // 16
    require_memory(Dedup(memory=1 << 30), int(fitting * 0.9))
    with pytest.raises(ConfigError, match="allow more memory"):
        require_memory(Dedup(memory=1 << 30), int(fitting * 1.1))
