"""The measuring station: same bytes however the work is cut, rows aligned with the pool, rendering and hashes."""

from __future__ import annotations

import gzip
import json
import random

import deflate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xxhash

from curation.config import ConfigError
from curation.dedup.minhash import Scheme, signatures
from curation.executor import LocalExecutor
from curation.measure import station
from curation.measure.group import Group
from curation.measure.groups import GROUPS
from curation.measure.render import prompt_text, rendered_text
from curation.measure.station import Measure, measure, measure_table, measured_schema
from curation.steps import Context, verify_files
from tests.conftest import documents_table

SCHEME = Scheme(bands=2, rows=3)
CONFIG = Measure(minhash=SCHEME, language=False)


def say(*turns: str) -> list[dict[str, str]]:
    """Messages of the user and the assistant in turn; "system: ..." and "assistant: ..." name their role."""
    messages = []
    for place, turn in enumerate(turns):
        role, colon, content = turn.partition(": ")
        if not colon:
            role, content = ("user", "assistant")[place % 2], turn
        messages.append({"role": role, "content": content})
    return messages


def documents(count: int) -> list[str]:
    words = [
        "the",
        "of",
        "and",
        "to",
        "be",
        "or",
        "not",
        "question",
        "#",
        "...",
        "1999",
        "Zürich",
        "東京",
        "\n",
        "\n\n",
    ]
    draw = random.Random(7)
    texts = [" ".join(draw.choices(words, k=draw.randrange(60))) for _ in range(count)]
    return ["", " ", "\x00", "x", *texts, "long " * 5000]


def shard_bytes(output) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.shards()}


def test_a_row_for_each_document_in_the_pool_s_order(context, make_pool):
    pool = make_pool("web", documents(50), shards=3)
    output = measure(context, pool, CONFIG)
    assert output.name == "measure/web"
    assert not verify_files(output)
    assert output.counts["documents_in"] == output.counts["documents_out"] == 55
    for shard, measured in zip(pool.shards(), output.shards(), strict=True):
        assert shard.name == measured.name
        table, texts = pq.read_table(measured), pq.read_table(shard)
        assert table.schema.equals(measured_schema(CONFIG))
        assert table["id"].equals(texts["id"])
        assert table["bytes"].to_pylist() == [len(text.encode()) for text in texts["text"].to_pylist()]
        expected = [xxhash.xxh3_128_hexdigest(text.encode()) for text in texts["text"].to_pylist()]
        assert table["content_hash"].to_pylist() == expected


@pytest.mark.parametrize("shards", [1, 4])
def test_workers_change_no_byte(tmp_path, make_pool, shards):
    pool = make_pool("web", documents(300), shards=shards)
    outputs = []
    for workers in (1, 2):
        with LocalExecutor(workers) as executor:
            outputs.append(measure(Context(tmp_path / str(workers), executor), pool, CONFIG))
    assert shard_bytes(outputs[0]) == shard_bytes(outputs[1])
    assert outputs[0].content == outputs[1].content


@pytest.mark.parametrize(("rows", "group"), [(1, 64), (7, 64), (100, 64), (1000, 64), (7, 1 << 14)])
def test_cutting_a_shard_into_batches_changes_no_byte(tmp_path, make_pool, monkeypatch, rows, group):
    pool = make_pool("web", documents(300))
    monkeypatch.setattr(station, "ROW_GROUP", group)
    whole = measure(Context(tmp_path / "whole"), pool, CONFIG)
    monkeypatch.setattr(station, "BATCH_ROWS", rows)
    cut = measure(Context(tmp_path / "cut"), pool, CONFIG)
    assert shard_bytes(whole) == shard_bytes(cut)


def test_the_equality_of_batches_can_fail(tmp_path, make_pool, monkeypatch):
    """The planted twin: row groups that follow the batches."""
    monkeypatch.setattr(station, "row_groups", lambda tables, rows: tables)
    pool = make_pool("web", documents(300))
    whole = measure(Context(tmp_path / "whole"), pool, CONFIG)
    monkeypatch.setattr(station, "BATCH_ROWS", 7)
    cut = measure(Context(tmp_path / "cut"), pool, CONFIG)
    assert shard_bytes(whole) != shard_bytes(cut)


def test_an_empty_pool_gives_an_empty_file_of_the_schema(context, make_pool):
    def work(build):
        build.write_table("shards/a.parquet", documents_table("web", []))

    pool = station.step(context, "ingest/web", 1, {}, {}, work)
    [shard] = measure(context, pool, CONFIG).shards()
    assert pq.read_table(shard).schema.equals(measured_schema(CONFIG))
    assert pq.read_metadata(shard).num_rows == 0


def test_what_is_off_is_null(context, make_pool):
    config = Measure(minhash="off", language="off", gzip_prefix_bytes=0)
    [shard] = measure(context, make_pool("web", ["some text"]), config).shards()
    table = pq.read_table(shard)
    for column in ("minhash", "language", "language_score", "gzip_ratio"):
        assert table[column].null_count == 1


def test_signatures_are_those_of_the_dedup_package():
    texts = ["one two three four five six", "too short", "", "one two three four five six seven"]
    table = station.measure_table(documents_table("web", texts), CONFIG, None)
    expected, has_signature = signatures(pa.array(texts, pa.large_string()), SCHEME)
    found = table["minhash"].to_pylist()
    assert [row is not None for row in found] == has_signature.tolist() == [True, False, False, True]
    assert found[0] == expected[0].tolist()
    assert found[3] == expected[3].tolist()


def test_the_gzip_ratio_is_that_of_a_gzip_file_of_the_prefix(monkeypatch):
    text = "".join(f"{number} of {number * number}, ä{number % 7}; " for number in range(900))
    packed, honest = [], deflate.gzip_compress
    monkeypatch.setattr(deflate, "gzip_compress", lambda *a: packed.append(bytes(honest(*a))) or packed[-1])
    whole = station.measure_table(documents_table("web", [text, ""]), CONFIG, None)
    config = Measure(language="off", gzip_prefix_bytes=100)
    short = station.measure_table(documents_table("web", [text]), config, None)
    assert [gzip.decompress(file) for file in packed] == [text.encode(), text.encode()[:100]]
    assert whole["gzip_ratio"].to_pylist() == [len(packed[0]) / len(text.encode()), None]
    assert short["gzip_ratio"].to_pylist() == [len(packed[1]) / 100]
    zlib_at_both_ends = [len(gzip.compress(text.encode(), level)) for level in (9, 1)]
    assert 0.9 * zlib_at_both_ends[0] < len(packed[0]) < 1.1 * zlib_at_both_ends[1]


CHATS = [
    {"messages": say("system: Be brief.", "user: Why?", "assistant: Because.", "user: And?")},
    {"messages": say("Prompt"), "chosen": say("assistant: Good"), "rejected": say("assistant: Bad")},
    {"messages": say("assistant: Only me.", "assistant: Twice.")},
    {"messages": []},
    {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "ü"}]},
    "plain text",
]
RENDERED = [
    "Be brief.\n\nWhy?\n\nBecause.\n\nAnd?",
    "Prompt\n\nGood\n\nBad",
    "Only me.\n\nTwice.",
    "",
    "\n\nü",
    "plain text",
]
PROMPTS = ["Be brief.\n\nWhy?", "Prompt", "Only me.\n\nTwice.", "", "", "plain text"]


def test_chats_and_pairs_are_rendered_by_blank_lines():
    table = documents_table("chat", CHATS)
    assert rendered_text(table).to_pylist() == RENDERED
    assert prompt_text(table).to_pylist() == PROMPTS
    for start in range(len(CHATS)):  # a slice, and rows in several chunks
        assert rendered_text(table.slice(start, 2)).to_pylist() == RENDERED[start : start + 2]
        parts = pa.concat_tables([table.slice(start), table.slice(0, start)])
        assert prompt_text(parts).to_pylist() == PROMPTS[start:] + PROMPTS[:start]
    assert rendered_text(table.slice(0, 0)).to_pylist() == []


def test_one_prompt_is_one_group_whatever_the_answer():
    chats = [{"messages": say("Same question", answer)} for answer in ("yes", "no")]
    chats.append({"messages": say("Another question", "yes")})
    table = station.measure_table(documents_table("chat", chats), CONFIG, None)
    first, second, third = table["group_hash"].to_pylist()
    assert first == second != third
    assert first == xxhash.xxh3_128_hexdigest(b"Same question")
    assert len(set(table["content_hash"].to_pylist())) == 3


def test_the_config_says_what_the_result_depends_on(context, make_pool):
    record = measure(context, make_pool("web", ["x"]), CONFIG).record
    assert record["config"]["libraries"].keys() == {"unicode", "deflate"}
    assert record["config"]["minhash"] == {"ngram": 5, "bands": 2, "rows": 3, "seed": 1}
    assert record["inputs"].keys() == {"pool"}
    assert Measure(minhash="dolma3").minhash.permutations == 286
    assert json.dumps(Measure().model_dump(mode="json"))


def test_in_order_keeps_the_order_and_raises():
    assert list(station.in_order(lambda n: n * n, range(20), 3)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(station.in_order(lambda n: 1 / n, [1, 0, 2], 2))


def test_row_groups_hold_exactly_the_rows_asked_for():
    tables = [pa.table({"n": np.arange(size)}) for size in (3, 0, 10, 1, 6)]
    groups = list(station.row_groups(iter(tables), 4))
    assert [len(group) for group in groups] == [4, 4, 4, 4, 4]
    assert pa.concat_tables(groups).equals(pa.concat_tables(tables).combine_chunks())


def test_a_missing_language_model_is_an_error_that_says_what_to_do(context, make_pool, tmp_path):
    config = Measure(language={"model": tmp_path / "none.ftz"})
    with pytest.raises(ConfigError, match=r"none.ftz: no such language model"):
        measure(context, make_pool("web", ["x"]), config)


@pytest.fixture
def vowels(monkeypatch):
    """A group of one column, registered for the test."""
    count = Group(
        "vowels", {"vowels": pa.int64()}, lambda documents, texts: {"vowels": pc.count_substring(texts, "a")}
    )
    monkeypatch.setitem(GROUPS, "vowels", count)


def test_a_group_adds_its_columns_where_it_is_chosen(vowels):
    documents = documents_table("web", ["a banana", "plum"])
    everything = Measure(minhash="off", language="off")
    without = Measure(minhash="off", language="off", groups=())
    assert "vowels" in everything.groups
    assert measure_table(documents, everything, None)["vowels"].to_pylist() == [4, 0]
    assert "vowels" not in measure_table(documents, without, None).column_names


def test_an_unknown_group_is_an_error():
    with pytest.raises(ValueError, match="no group 'vowel'"):
        Measure(groups=["vowel"])
