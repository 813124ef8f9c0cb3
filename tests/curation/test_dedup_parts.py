"""The parts of deduplication, each against a few lines of plain Python."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import shards
from curation.dedup import documents
from curation.dedup.bands import (
    ENTRY,
    band_keys,
    bucket_pairs,
    pairs_left_out,
    read_partition,
    read_shared,
    sorted_entries,
)
from curation.dedup.jaccard import shingle_sets, similarities, write_sets
from curation.dedup.keep import UNKNOWN_TIME, parse_times, preference
from curation.dedup.scheme import Scheme, Shingling
from curation.dedup.settings import Keep
from curation.dedup.shingles import shingle_hash64, shingles
from curation.dedup.unionfind import by_component, components, keep_representatives
from curation.files import map_array, write_array
from curation.measure.render import rendered_text
from curation.schema import DOCUMENT

relaxed = settings(deadline=None, max_examples=60)
pair_sets = st.dictionaries(
    st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda pair: pair[0] > pair[1]),
    st.sampled_from([0.8, 0.85, 0.9, 1.0]),
    max_size=40,
)


def arrays(pairs):
    later, earlier = (np.array([pair[i] for pair in sorted(pairs)], np.uint64) for i in (0, 1))
    return later, earlier, np.array([pairs[pair] for pair in sorted(pairs)])


@relaxed
@given(pair_sets, st.sets(st.integers(1, 14)))
def test_representatives_cover_their_twins_and_no_two_are_similar(pairs, cuts):
    """The kept ones are independent, every dropped one has its most similar kept twin, the best is never lost:
    whatever the ranges in which documents are decided on."""
    dropped, parts = np.zeros(15, bool), []
    for first, last in itertools.pairwise(sorted({0, *cuts, 15})):
        own = {pair: value for pair, value in pairs.items() if first <= pair[0] < last}
        parts.append(keep_representatives(dropped, first, last, *arrays(own)))
    twin, similarity = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    kept = {document for document in range(15) if twin[document] == document}
    assert kept == set(np.flatnonzero(~dropped).tolist())
    assert 0 in kept
    assert not any(later in kept and earlier in kept for later, earlier in pairs)
    for document in range(15):
        candidates = {k: pairs[document, k] for k in kept if (document, k) in pairs}
        if document in kept:
            assert not candidates
            assert np.isnan(similarity[document])
        else:
            best = max(candidates.values())
            assert similarity[document] == best
            assert twin[document] == min(k for k, value in candidates.items() if value == best)


@relaxed
@given(pair_sets)
def test_components_are_those_of_flood_fill(pairs):
    neighbours = {document: {document} for document in range(15)}
    for later, earlier in pairs:
        neighbours[later].add(earlier)
        neighbours[earlier].add(later)
    expected = []
    for document in range(15):
        reached, grown = {document}, set()
        while reached != grown:
            grown, reached = reached, set().union(*(neighbours[member] for member in reached))
        expected.append(min(reached))
    later, earlier, _ = arrays(pairs)
    halves = [(later[::2], earlier[::2]), (later[1::2], earlier[1::2])]
    found = components(15, halves)
    assert found.tolist() == expected
    sizes = Counter(expected)
    several = [document for document in range(15) if sizes[expected[document]] > 1]
    members, largest = by_component(found)
    key = lambda document: (-sizes[expected[document]], expected[document], document)  # noqa: E731
    assert members.tolist() == sorted(several, key=key)
    assert largest == max(sizes.values())


def test_a_long_chain_does_not_overflow_or_slow_down():
    size = 200_000
    later, earlier = np.arange(1, size, dtype=np.uint64), np.arange(size - 1, dtype=np.uint64)
    assert not components(size, [(later, earlier)]).any()
    assert not components(size, [(later[::-1].copy(), earlier[::-1].copy())]).any()
    twin, _ = keep_representatives(np.zeros(size, bool), 0, size, later, earlier, np.ones(size - 1))
    np.testing.assert_array_equal(twin[0::2], np.arange(0, size, 2))
    np.testing.assert_array_equal(twin[1::2], np.arange(0, size, 2))


entries = st.lists(
    st.tuples(st.sampled_from([0, 1, 5, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]), st.integers(0, 30)),
    max_size=60,
    unique=True,
).map(lambda rows: np.array(sorted(rows), ENTRY))


def expected_pairs(found, max_bucket):
    pairs, out = set(), 0
    for _, group in itertools.groupby(found.tolist(), key=lambda entry: entry[0]):
        members = [document for _, document in group]
        for at, document in enumerate(members):
            pairs |= {(document, earlier) for earlier in members[: min(at, max_bucket)]}
            out += max(0, at - max_bucket)
    return pairs, out


@relaxed
@given(entries, st.integers(1, 6), st.integers(1, 50))
def test_bucket_pairs_are_all_pairs_up_to_the_bound(found, max_bucket, at_once):
    pairs, out = expected_pairs(found, max_bucket)
    runs = list(bucket_pairs(found, max_bucket, at_once=at_once))
    assert {(int(pair) >> 32, int(pair) & 0xFFFFFFFF) for run in runs for pair in run} == pairs
    assert all((np.diff(run.astype(object)) > 0).all() for run in runs)
    assert all(len(run) <= max(at_once, max_bucket) for run in runs)
    assert pairs_left_out(found, max_bucket) == out


@settings(deadline=None, max_examples=20)  # writes files
@given(entries, st.integers(1, 3), st.sampled_from([1, 2, 4, 8, 3]))
def test_partitions_hold_every_entry_once_and_whole_buckets(tmp_path_factory, found, files, partitions):
    folder = tmp_path_factory.mktemp("bands")
    paths = [folder / f"{number}.npy" for number in range(files)]
    for number, path in enumerate(paths):
        write_array(path, found[number::files])
    parts = [read_partition(paths, at, partitions) for at in range(partitions)]
    np.testing.assert_array_equal(np.concatenate(parts), found)
    keys = [set(part["key"].tolist()) for part in parts]
    assert sum(map(len, keys)) == len(set().union(*keys))
    firsts = [100 * number for number in range(files)]
    shared = [
        tuple(one) for at in range(partitions) for one in read_shared(paths, firsts, at, partitions).tolist()
    ]
    placed = sorted((key, firsts[at % files] + document) for at, (key, document) in enumerate(found.tolist()))
    times = Counter(key for key, _ in placed)
    assert shared == [one for one in placed if times[one[0]] > 1]


def test_band_keys_are_equal_exactly_where_bands_are():
    scheme = Scheme(bands=5, rows=2)
    signatures = np.random.default_rng(1).integers(0, 3, (40, 10)).astype(np.uint32)
    documents = np.repeat(np.arange(40, dtype=np.uint32), 5)
    found = sorted_entries(band_keys(signatures, scheme).ravel(), documents)
    assert found.tolist() == sorted(found.tolist())
    assert len(found) == 200
    expected = set()
    for band in range(5):
        rows = signatures[:, 2 * band : 2 * band + 2]
        expected |= {(a, b) for a in range(40) for b in range(a) if (rows[a] == rows[b]).all()}
    pairs, _ = expected_pairs(found, 40)
    assert pairs == expected


words = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=25).map(" ".join)


@relaxed
@given(st.lists(st.tuples(words, words), min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_similarities_are_those_of_python_sets(texts, threshold):
    sets = [[set(shingles(text, 2)) for text in pair] for pair in texts]
    stored, bounds = [], []
    for side in (0, 1):
        hashes, sizes = shingle_sets(
            pa.array([pair[side] for pair in texts], pa.large_string()), Shingling(ngram=2)
        )
        expected = [sorted(shingle_hash64(s) for s in pair[side]) for pair in sets]
        ends = np.cumsum(sizes)
        assert [h.tolist() for h in np.split(hashes, ends)] == [*expected, []]
        stored.append(hashes)
        bounds.append(np.stack([ends - sizes, ends], 1))
    got = similarities(stored[0], bounds[0], stored[1], bounds[1], threshold)
    for value, (a, b) in zip(got, sets, strict=True):
        true = len(a & b) / len(a | b)
        assert value == true or (value == 0 and true < threshold)


def test_a_similarity_of_exactly_the_threshold_passes():
    """12 of 15: 0.8 times 15 in floating point must not push it under."""
    for size in range(1, 400):
        shared = np.arange(size, dtype=np.uint64)
        for larger in {size, -(-size * 5 // 4), size + 1}:
            both = np.arange(larger, dtype=np.uint64)
            true = size / larger
            (got,) = similarities(shared, np.array([[0, size]]), both, np.array([[0, larger]]), true)
            assert got == true


def shard_of(pool):
    return documents.Shard("source", pool.stem, pool, pool, 0)


def test_sets_of_some_rows_are_read_in_batches(tmp_path):
    texts = [f"some words of document number {i} " + "x " * (i % 3) for i in range(700)]
    table = pa.Table.from_pylist(
        [{"id": f"{i:032x}", "text": text} for i, text in enumerate(texts)], schema=DOCUMENT
    )
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=100)
    rows = np.array([0, 255, 256, 257, 511, 699], np.uint32)
    sizes = write_sets(tmp_path / "sets.u64", shard_of(tmp_path / "pool.parquet").texts(rows), Shingling(ngram=3))
    expected = [sorted({shingle_hash64(s) for s in shingles(texts[row], 3)}) for row in rows]
    assert sizes.tolist() == [len(hashes) for hashes in expected]
    assert np.fromfile(tmp_path / "sets.u64", np.uint64).tolist() == [h for hashes in expected for h in hashes]


def test_sets_of_long_documents_are_made_a_few_at_a_time(tmp_path, monkeypatch):
    size, seen = 1 << 18, []
    table = pa.Table.from_pylist(
        [{"id": f"{i:032x}", "text": f"{i} {'a ' * (size // 2)}"} for i in range(40)], schema=DOCUMENT
    )
    pq.write_table(table, tmp_path / "pool.parquet", use_dictionary=False)
    monkeypatch.setattr(shards, "BATCH_BYTES", 8 * size)
    monkeypatch.setattr(documents, "rendered_text", lambda table: seen.append(len(table)) or rendered_text(table))
    rows = np.arange(40, dtype=np.uint32)
    sizes = write_sets(tmp_path / "sets.u64", shard_of(tmp_path / "pool.parquet").texts(rows), Shingling(ngram=3))
    assert len(sizes) == sum(seen) == 40
    assert max(seen) <= 8


COLUMNS = st.fixed_dictionaries(
    {
        "source": st.integers(0, 2),
        "bytes": st.integers(0, 2),
        "created": st.sampled_from([UNKNOWN_TIME, -5, 0, 7]),
        "high": st.integers(0, 1),
        "low": st.sampled_from([0, (1 << 64) - 1]),
        "shard": st.integers(0, 2),
        "row": st.integers(0, 9),
        "origin": st.sampled_from(["a", "b", "c"]),
    }
)


@relaxed
@given(
    st.lists(COLUMNS, max_size=12, unique_by=lambda row: (row["shard"], row["row"])),
    st.permutations(["longest", "newest"]).flatmap(lambda wishes: st.sampled_from([wishes, wishes[:1], []])),
    st.sampled_from([(), ("y",), ("z", "x")]),
)
def test_preference_is_the_policy_spelt_out(rows, wishes, sources):
    keep = Keep(sources=sources, then=tuple(wishes))
    types = {"source": np.uint16, "created": np.int64, "shard": np.uint32, "row": np.uint32}
    columns = {
        name: np.array([row[name] for row in rows], types.get(name, np.uint64))
        for name in ("source", "bytes", "created", "high", "low", "shard", "row")
    }
    order = preference(keep, ["x", "y", "z"], columns, lambda some: [rows[at]["origin"] for at in some])

    def policy(at):
        row = rows[at]
        name = "xyz"[row["source"]]
        place = sources.index(name) if name in sources else len(sources)
        wanted = {"longest": -row["bytes"], "newest": -row["created"]}
        ties = (row["high"], row["low"], row["origin"], name, row["shard"], row["row"])
        return (place, *(wanted[wish] for wish in wishes), *ties)

    assert order.tolist() == sorted(range(len(rows)), key=policy)


def test_times_are_compared_as_times():
    given_times = [
        "2024-01-02",
        "2024-01-02T03:04:05Z",
        "2024-01-02T05:04:05+02:00",
        None,
        "yesterday",
        "",
        "1969-12-31",
        "2024",
        "2024-02",
    ]
    got = parse_times(pa.array(given_times, pa.string()))
    assert got[0] == datetime(2024, 1, 2, tzinfo=UTC).timestamp() * 1e6
    assert got[1] == got[2] == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp() * 1e6
    assert (got[3:6] == UNKNOWN_TIME).all()
    assert got[6] == -86400 * 1_000_000
    assert [datetime.fromtimestamp(time / 1e6, UTC).isoformat()[:10] for time in got[7:]] == [
        "2024-01-01",
        "2024-02-01",
    ]
    chunks = pa.chunked_array([given_times[:4], [], given_times[4:]], pa.string())
    np.testing.assert_array_equal(parse_times(chunks), got)
    assert len(parse_times(pa.chunked_array([], pa.string()))) == 0
    assert parse_times(pa.array([None, None], pa.string())).tolist() == [UNKNOWN_TIME] * 2


@pytest.mark.parametrize("text", ["a b", "世界世界", "a世a世a", "é", "𝒳 𝒳", ""])
def test_the_densest_texts_fit_the_buffer_of_words(text):
    hashes, _ = shingle_sets(pa.array([text], pa.large_string()), Shingling(ngram=1))
    assert hashes.tolist() == sorted({shingle_hash64(s) for s in shingles(text, 1)})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.uint32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros(0, np.int64),
        np.array([(1, 2.5)], np.dtype([("pair", "<u8"), ("similarity", "<f8")])),
    ],
)
def test_an_array_is_mapped_as_it_was_written(tmp_path, array):
    write_array(tmp_path / "a.npy", array)
    found = map_array(tmp_path / "a.npy")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(found, np.load(tmp_path / "a.npy"))
