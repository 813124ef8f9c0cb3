"""Incremental deduplication: batches in any order give what one run over everything gives."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.config import ConfigError
from curation.dedup import fuzzy, index
from curation.dedup.exact import dedup_exact
from curation.dedup.fuzzy import dedup_fuzzy
from curation.dedup.incremental import held
from curation.dedup.index import newest, verify
from curation.dedup.minhash import Scheme, signatures
from curation.dedup.settings import Dedup, Keep
from curation.files import remove
from curation.ledger import alive, ledger_path
from curation.schema import DOCUMENT, document_id
from curation.steps import Context, step

SCHEME = Scheme(ngram=2, bands=12, rows=2)
CONFIG = Dedup(scheme=SCHEME, verify_ngram=2, threshold=0.5, alarm_share=1.0)
SOURCES = ("books", "web")


def records(texts):
    """(source, text, created, origin) of texts: all by their content."""
    rows = []
    for text, source, day in texts:
        origin = xxhash.xxh3_64_hexdigest(f"{source}{text}{day}".encode())
        rows.append((source, text, f"2024-01-{day:02d}", origin))
    return rows


def pools_of(context, rows, shards=2):
    pools, measured = {}, {}
    for source in SOURCES:
        mine = [row for row in rows if row[0] == source]
        table = pa.Table.from_pylist(
            [
                {
                    "id": document_id(source, text.encode()),
                    "source": source,
                    "text": text,
                    "created": created,
                    "origin": origin,
                    "metadata": "{}",
                }
                for _, text, created, origin in mine
            ],
            schema=DOCUMENT,
        )

        def ingest(build, table=table, source=source):
            for number in range(shards):
                part = table.take(np.arange(number, len(table), shards))
                build.write_table(f"shards/{source}-{number}.parquet", part)

        pools[source] = step(context, f"ingest/{source}", 1, {"rows": mine, "shards": shards}, {}, ingest)

        def measure(build, source=source):
            for path in pools[source].shards():
                table = pq.read_table(path)
                texts = table["text"].combine_chunks()
                values, has = signatures(texts, SCHEME)
                lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), SCHEME.permutations)
                encoded = [text.encode() for text in texts.to_pylist()]
                columns = {
                    "id": table["id"],
                    "bytes": pa.array([len(text) for text in encoded], pa.int64()),
                    "content_hash": pa.array([xxhash.xxh3_128_hexdigest(text) for text in encoded], pa.string()),
                    "minhash": pa.array(
                        [row if flag else None for row, flag in zip(lists.to_pylist(), has, strict=True)],
                        lists.type,
                    ),
                }
                build.write_table(f"shards/{path.name}", pa.table(columns))

        literals = {"minhash": SCHEME.model_dump(mode="json")}
        measured[source] = step(
            context, f"measure/{source}", 1, literals, {"pool": pools[source].content}, measure
        )
    return pools, measured


def run(context, rows, config, shards=2):
    pools, measured = pools_of(context, rows, shards)
    exact = dedup_exact(context, pools, measured, {}, config)
    return pools, exact, dedup_fuzzy(context, pools, measured, [exact], config)


def kept_of_run(pools, outputs):
    kept = set()
    for source, pool in pools.items():
        for path in pool.shards():
            table = pq.read_table(path, columns=["id", "origin"])
            flags = alive(outputs, source, path.stem, len(table))
            kept |= {(source, row["id"], row["origin"]) for row in itertools.compress(table.to_pylist(), flags)}
    return kept


def kept_of_index(path):
    return {(row["source"], row["id"], row["origin"]) for row in held(path).to_pylist() if row["kept"]}


def near_twins(pools, output):
    found = {}
    for source, pool in pools.items():
        for path in pool.shards():
            for row in pq.read_table(ledger_path(output.folder, source, path.stem)).to_pylist():
                if not row["keep"]:
                    found[row["id"]] = (row["twin"], row["value"])
    return found


def world(seed, count=14):
    """Texts in families of edits, chains of edits of edits, exact copies on other days and in the other source."""
    generator = random.Random(seed)
    texts = []
    for _ in range(count):
        words = [f"w{generator.randrange(60)}" for _ in range(generator.choice([6, 12, 20]))]
        for _ in range(generator.randrange(1, 6)):
            texts.append((" ".join(words), generator.choice(SOURCES), generator.randrange(1, 28)))
            words = list(words)
            words[generator.randrange(len(words))] = f"w{generator.randrange(60)}"
            if generator.random() < 0.4:
                words.append(f"w{generator.randrange(60)}")
    texts += [(text, generator.choice(SOURCES), generator.randrange(1, 28)) for text, _, _ in texts[:6]]
    texts += [("one", "web", 3), ("one", "books", 4), ("", "web", 5)]
    return list(dict.fromkeys(texts))


KEEPS = [Keep(), Keep(then=("newest",)), Keep(sources=("books",), then=("longest",)), Keep(then=())]


case = given(
    st.integers(0, 10_000),
    st.sampled_from(KEEPS),
    st.sampled_from([1, 3, 100]),
    st.integers(2, 5),
    st.integers(1, 3),
)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_batches(folder, seed, keep, max_bucket, batches, shards):
    """One run over everything, then the same documents in batches: the same kept set, told step by step."""
    config = CONFIG.model_copy(update={"keep": keep, "max_bucket": max_bucket})
    rows = records(world(seed))
    pools, exact, near = run(Context(folder / "once"), rows, config)
    whole = kept_of_run(pools, [exact, near])
    assert near.counts["kept_pairs_left_out"] == 0

    random.Random(seed + 1).shuffle(rows)
    held_config = config.model_copy(update={"index": folder / "index"})
    kept = set()
    for number in range(batches):
        batch = rows[number::batches]
        pools, exact, near = run(Context(folder / f"night{number}"), batch, held_config, shards)
        assert near.counts["kept_pairs_left_out"] == 0
        changes = pq.read_table(near.folder / "reversals.parquet").to_pylist()
        kept -= {(c["source"], c["id"], c["origin"]) for c in changes if c["change"] == "superseded"}
        kept |= {(c["source"], c["id"], c["origin"]) for c in changes if c["change"] == "reinstated"}
        kept |= kept_of_run(pools, [exact, near])
        assert kept_of_index(folder / "index") == kept
    assert kept == whole
    assert verify(newest(folder / "index")) == []


@settings(relaxed, max_examples=4)
@case
def test_batches_in_any_order_keep_what_one_run_keeps(tmp_path_factory, seed, keep, max_bucket, batches, shards):
    check_batches(tmp_path_factory.mktemp("incremental"), seed, keep, max_bucket, batches, shards)


@pytest.mark.slow
@settings(relaxed, max_examples=60)
@case
def test_many_batches_in_any_order_keep_what_one_run_keeps(
    tmp_path_factory, seed, keep, max_bucket, batches, shards
):
    check_batches(tmp_path_factory.mktemp("incremental"), seed, keep, max_bucket, batches, shards)


def test_a_run_that_is_cut_off_at_any_commit_resumes_and_nothing_is_added_twice(tmp_path, monkeypatch):
    """Stopped before the pointer moves, and between that and the step's record: the index is valid throughout."""
    rows = records(world(3))
    config = CONFIG.model_copy(update={"index": tmp_path / "index"})
    run(Context(tmp_path / "a"), rows[::2], config)
    first = newest(config.index)
    honest_write, honest_discard = index.write_json, fuzzy.discard

    def cut(*arguments):
        raise KeyboardInterrupt

    def cut_at_pointer(path, value):
        cut() if path.name == "CURRENT" else honest_write(path, value)

    monkeypatch.setattr(index, "write_json", cut_at_pointer)
    with pytest.raises(KeyboardInterrupt):
        run(Context(tmp_path / "b"), rows[1::2], config)
    assert newest(config.index).name == first.name
    assert verify(first) == []
    monkeypatch.setattr(index, "write_json", honest_write)
    monkeypatch.setattr(fuzzy, "discard", cut)
    with pytest.raises(KeyboardInterrupt):
        run(Context(tmp_path / "b"), rows[1::2], config)
    second = newest(config.index)
    assert second.record["parent"] == first.name
    monkeypatch.setattr(fuzzy, "discard", honest_discard)
    run(Context(tmp_path / "b"), rows[1::2], config)
    assert newest(config.index).name == second.name
    whole = run(Context(tmp_path / "whole"), rows, CONFIG)
    assert kept_of_index(config.index) == kept_of_run(whole[0], whole[1:])
    assert run(Context(tmp_path / "b"), rows[1::2], config)[2].reused


def test_an_index_that_does_not_fit_or_is_broken_is_refused_and_a_lost_one_is_made_again(tmp_path):
    rows = records(world(4))[:12]
    config = CONFIG.model_copy(update={"index": tmp_path / "index"})
    near = run(Context(tmp_path / "a"), rows, config)[2]
    with pytest.raises(ConfigError, match=r"threshold = 0\.5, found 0\.9"):
        run(Context(tmp_path / "a"), rows, config.model_copy(update={"threshold": 0.9}))
    remove(config.index)
    again = run(Context(tmp_path / "a"), rows, config)[2]
    assert (again.content, newest(config.index).documents) == (near.content, again.counts["index_texts"])
    (newest(config.index).folder / "pairs.npy").write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"expected .* bytes, found 5"):
        held(config.index)


def test_an_index_that_is_not_compared_with_would_be_noticed(tmp_path, monkeypatch):
    """The planted twin: without the bands of old documents, near-duplicates of them are kept."""
    monkeypatch.setattr(fuzzy, "held_bands", lambda joined, base: ([], []))
    with pytest.raises(AssertionError):
        check_batches(tmp_path, seed=1, keep=Keep(), max_bucket=100, batches=3, shards=1)
