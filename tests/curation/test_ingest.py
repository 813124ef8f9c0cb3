"""Ingest: pools depend on contents alone, counts close, errors of the set-up are clear."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation import ingest as ingest_module
from curation.config import ConfigError
from curation.executor import LocalExecutor
from curation.files import file_hash
from curation.ingest import Source, ingest
from curation.read import inventory as inventory_module
from curation.read.inventory import find_files, glob_pattern, units
from curation.read.record import RawFile
from curation.schema import DOCUMENT, QUARANTINE, document_id, messages_bytes, require_columns
from curation.steps import Context, StepOutput, StrictError


def write(root: Path, files: dict[str, list[str]]) -> Path:
    """JSONL files of texts, gzip compressed where the name says so."""
    for name, texts in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return root


def records(root: Path, **fields) -> Source:
    return Source(**({"name": "s", "reader": "records", "root": str(root)} | fields))


def rows(output: StepOutput, without: tuple[str, ...] = ()) -> list[dict]:
    tables = [pq.read_table(path) for path in output.shards()]
    return pa.concat_tables(tables).drop_columns(list(without)).to_pylist() if tables else []


FILES = {f"part-{number}.jsonl": [f"text {number} {line}" for line in range(30)] for number in range(12)}


def test_documents_are_as_the_contract_says(tmp_path, context):
    output = ingest(context, records(write(tmp_path / "in", {"a/b.jsonl.gz": ["one", "two", "  "]})))
    (shard,) = output.shards()
    table = pq.read_table(shard)
    require_columns(table, DOCUMENT, "pool")
    require_columns(pq.read_table(output.folder / "quarantine.parquet"), QUARANTINE, "quarantine")
    assert table["text"].to_pylist() == ["one", "two"]
    assert table["id"].to_pylist() == [document_id("s", text) for text in (b"one", b"two")]
    assert table["origin"].to_pylist() == ["a/b.jsonl.gz#0@0", "a/b.jsonl.gz#1@16"]
    raw = file_hash(tmp_path / "in/a/b.jsonl.gz")
    assert shard.stem == f"{raw[:16]}-00000"
    assert output.counts == {
        "records_read": 3,
        "documents_in": 3,
        "documents_out": 2,
        "quarantined": 0,
        "skipped": 1,
        "skipped_by_reason": {"empty text": 1},
        "bytes_in": (tmp_path / "in/a/b.jsonl.gz").stat().st_size,
        "bytes_text": 6,
        "files": 1,
    }


def test_ids_of_conversations_are_of_their_content(tmp_path, context):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text('{"question": "q", "answer": "é"}\n')
    output = ingest(context, records(tmp_path / "in", kind="chat", reader="question_answer"))
    (row,) = rows(output)
    assert row["messages"] == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "é"}]
    assert messages_bytes(row["messages"]) == '[[["user","q"],["assistant","é"]]]'.encode()
    assert row["id"] == document_id("s", messages_bytes(row["messages"]))
    assert row["text"] is row["chosen"] is None


@given(st.lists(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), max_size=3), max_size=3))
def test_the_bytes_of_messages_are_json_as_pythons_library_writes_it(conversations):
    turns = [[{"role": role, "content": content} for role, content in one] for one in conversations]
    expected = json.dumps(conversations, ensure_ascii=False, separators=(",", ":")).encode()
    assert messages_bytes(*turns) == expected
    with pytest.raises(TypeError, match="surrogate"):
        messages_bytes([{"role": "user", "content": "\ud800"}])


def pool_hashes(output: StepOutput) -> dict[str, str]:
    return {path.name: file_hash(path) for path in [*output.shards(), output.folder / "quarantine.parquet"]}


def test_workers_and_the_order_of_creation_change_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(inventory_module, "UNIT", 1000)  # so that there are several units
    found = []
    for workers, seed in ((1, 0), (2, 1)):
        names = list(FILES)
        random.Random(seed).shuffle(names)
        root = write(tmp_path / f"in-{workers}", {name: FILES[name] for name in names})
        with LocalExecutor(workers) as executor:
            found.append(pool_hashes(ingest(Context(tmp_path / f"ws-{workers}", executor), records(root))))
    assert found[0] == found[1]
    assert len(found[0]) > 4


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(inventory_module, "UNIT", 500)
    root = write(tmp_path / "in", FILES)
    for name in FILES:
        with open(root / name, "ab") as file:
            file.write(b"broken\n")
    clean = pool_hashes(ingest(Context(tmp_path / "clean"), records(root)))
    items, seen = ingest_module._items, []

    def interrupted(source, file, limits):
        seen.append(file.relative)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return items(source, file, limits)

    monkeypatch.setattr(ingest_module, "_items", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest(Context(tmp_path / "killed"), records(root))
    resumed = ingest(Context(tmp_path / "killed"), records(root))
    assert pool_hashes(resumed) == clean
    assert resumed.counts["quarantined"] == len(FILES)
    assert len(seen) < 2 * len(FILES)  # units that were done are not done again


@settings(max_examples=10, deadline=None)
@given(names=st.permutations([f"{letter}.jsonl" for letter in "abcdefgh"]))
def test_a_renamed_file_changes_its_origins_alone(tmp_path_factory, names):
    assert _rename_changes(tmp_path_factory.mktemp("rename"), names) == set()


def test_the_check_of_renaming_can_fail(tmp_path, monkeypatch):
    """The twin: an inventory in the order of paths, as if it were canonical, is found out."""
    inventory = inventory_module.inventory

    def by_path(*arguments):
        return sorted(inventory(*arguments), key=lambda file: file.relative)

    monkeypatch.setattr("curation.ingest.inventory", by_path)
    assert _rename_changes(tmp_path, [f"{letter}.jsonl" for letter in "hgfedcba"])


def _rename_changes(folder: Path, names: list[str]) -> set[str]:
    """The columns other than origin that differ when the same eight files have other names."""
    tables = []
    for side, chosen in (("one", [f"{letter}.jsonl" for letter in "abcdefgh"]), ("two", names)):
        texts = {name: [f"text {number}", "shared"] for number, name in enumerate(chosen)}
        output = ingest(Context(folder / f"ws-{side}"), records(write(folder / side, texts)))
        tables.append(pa.concat_tables([pq.read_table(path) for path in output.shards()]))
    return {
        name for name in tables[0].column_names if name != "origin" and not tables[0][name].equals(tables[1][name])
    }


def test_shards_end_at_their_size_and_hold_every_row(tmp_path, context):
    root = write(tmp_path / "in", {"a.jsonl": [f"{number:010d}" for number in range(100)]})
    output = ingest(context, records(root, shard_bytes=250))
    assert [path.stem[-5:] for path in output.shards()] == ["00000", "00001", "00002", "00003"]
    assert [row["text"] for row in rows(output)] == [f"{number:010d}" for number in range(100)]


def test_a_second_run_reads_nothing_and_a_changed_file_is_seen(tmp_path, monkeypatch):
    root, context = write(tmp_path / "in", {"a.jsonl": ["one"], "b.jsonl": ["two"]}), Context(tmp_path / "ws")
    monkeypatch.setattr(inventory_module, "SETTLED", -(10**18))
    first = ingest(context, records(root))
    hashed = []
    monkeypatch.setattr(inventory_module, "file_hash", lambda path: hashed.append(path.name) or file_hash(path))
    again = ingest(context, records(root))
    assert (again.reused, again.content, hashed) == (True, first.content, [])
    write(root, {"b.jsonl": ["other"]})
    changed = ingest(context, records(root))
    assert hashed == ["b.jsonl"]
    assert {row["text"] for row in rows(changed)} == {"one", "other"}


def test_a_file_changed_just_now_is_not_trusted_to_the_cache(tmp_path, context):
    root = write(tmp_path / "in", {"a.jsonl": ["one"]})
    ingest(context, records(root))
    assert not list((context.workspace / "cache").glob("*.json"))


def test_strict_fails_where_something_is_quarantined(tmp_path, context):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(b'{"text": "sound"}\n{"text": \n')
    output = ingest(context, records(tmp_path / "in"))
    assert output.record["alarms"] == ["1 of 2 records are in quarantine, see quarantine.parquet"]
    context.strict = True
    with pytest.raises(StrictError, match="1 of 2 records"):
        ingest(context, records(tmp_path / "in"))


def test_equal_files_are_both_read_and_their_documents_share_ids(tmp_path, context):
    output = ingest(context, records(write(tmp_path / "in", {"a.jsonl": ["one"], "b.jsonl": ["one"]})))
    found = rows(output)
    assert [row["origin"] for row in found] == ["a.jsonl#0@0", "b.jsonl#0@0"]
    assert found[0]["id"] == found[1]["id"]


def test_set_up_errors_say_what_to_do(tmp_path, context):
    root = write(tmp_path / "in", {"a.jsonl": ["one"]})
    with pytest.raises(ConfigError, match=r"pattern '\*.parquet' matches no file"):
        ingest(context, records(root, include=["*.jsonl", "*.parquet"]))
    with pytest.raises(ConfigError, match="is no folder"):
        ingest(context, records(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="leaves the root"):
        ingest(context, records(root, include=["../**/*"]))
    with pytest.raises(ConfigError, match=r"no file .* is left of 1 after 'exclude'"):
        ingest(context, records(root, exclude=["*"]))
    with pytest.raises(ValidationError, match="no reader 'recrods'; choose one of"):
        records(root, reader="recrods")
    with pytest.raises(ValidationError, match="gives chat, but kind is text"):
        records(root, reader="alpaca")
    with pytest.raises(ValidationError, match="text_kye"):
        records(root, options={"text_kye": "x"})


def test_paths_and_labels_are_not_part_of_what_names_the_step(tmp_path, context):
    one, two = (write(tmp_path / name, FILES) for name in ("one", "two"))
    first = ingest(context, records(one))
    assert (
        ingest(context, records(two, type="Web", holdout="1%", profile="code", quality=True)).folder
        == first.folder
    )
    assert ingest(context, records(two, max_document_bytes=1000)).folder != first.folder


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("**/tests/**", "a/tests/b/c.py", True),
        ("**/tests/**", "tests/c.py", True),
        ("**/tests/**", "a/mytests/c.py", False),
        ("*.py", "a.py", True),
        ("*.py", "a/b.py", False),
        ("a/?.[ch]", "a/x.h", True),
        ("a.py", "aXpy", False),
    ],
)
def test_globs(pattern, path, matches):
    assert bool(glob_pattern(pattern).match(path)) == matches


def test_hidden_files_and_caches_are_left_out(tmp_path):
    write(
        tmp_path, {".hidden.jsonl": ["x"], ".git/a.jsonl": ["x"], "__pycache__/a.jsonl": ["x"], "b/a.jsonl": ["x"]}
    )
    _, found = find_files(str(tmp_path), ("**/*",), ())
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b/a.jsonl"]


def test_units_hold_every_file_once_and_small_files_together(tmp_path):
    files = []
    for number in range(50):
        path = tmp_path / str(number)
        path.write_bytes(b"%d" % number)
        files.append(RawFile(path, str(number), file_hash(path)))
    files.sort(key=lambda file: file.hash)
    (only,) = units(files).values()
    assert only == files


def test_a_message_that_quotes_what_is_not_unicode_goes_to_the_quarantine(tmp_path, context):
    (tmp_path / "in").mkdir()
    wrong = '{"x": NaN, "conversations": [{"from": "\\ud800", "value": "a"}]}\n'
    sound = '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n'
    (tmp_path / "in/a.jsonl").write_text(wrong + sound)
    output = ingest(context, records(tmp_path / "in", kind="chat", reader="sharegpt"))
    assert (output.counts["documents_out"], output.counts["quarantined"]) == (1, 1)
    (error,) = pq.read_table(output.folder / "quarantine.parquet")["error"].to_pylist()
    assert "role '\\ud800' is not known" in error


@pytest.mark.parametrize("share", ["-10%", 1.5, "nan"])
def test_a_holdout_that_is_no_share_is_refused(tmp_path, share):
    with pytest.raises(ValidationError, match="holdout"):
        records(tmp_path, holdout=share)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": "two"}\n'),
        ("a.json", b'[{"text": "one"}, {"text": "two"}]'),
        ("a.tsv", b"text\tkind\none\tx\ntwo\tx\n"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path, context, name, data):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(b"\xef\xbb\xbf" + data)
    output = ingest(context, records(tmp_path / "in"))
    assert [row["text"] for row in rows(output)] == ["one", "two"]
    assert output.counts["quarantined"] == 0


def test_a_file_name_that_is_not_utf8_is_read_and_remembered(tmp_path, context):
    (tmp_path / "in").mkdir()
    name = os.fsencode(tmp_path / "in") + b"/caf\xe9.jsonl"
    with open(name, "w") as file:
        file.write('{"text": "one"}\n')
    os.utime(name, (1_000_000_000, 1_000_000_000))  # settled: its hash goes to the cache
    output = ingest(context, records(tmp_path / "in"))
    assert [row["origin"] for row in rows(output)] == ["caf\\xe9.jsonl#0@0"]
    assert ingest(context, records(tmp_path / "in")).reused


def test_the_raw_files_are_listed_with_their_hashes(tmp_path, context):
    root = write(tmp_path / "in", {"b.jsonl": ["one"], "a/c.jsonl.gz": ["two"], "copy.jsonl": ["one"]})
    output = ingest(context, records(root))
    listed = pq.read_table(output.folder / "files.parquet").to_pylist()
    names = ["b.jsonl", "a/c.jsonl.gz", "copy.jsonl"]
    expected = [
        {"file": name, "bytes": (root / name).stat().st_size, "sha256": file_hash(root / name)} for name in names
    ]
    assert listed == sorted(expected, key=lambda row: (row["sha256"], row["file"]))
    assert sum(row["bytes"] for row in listed) == output.counts["bytes_in"]
    moved = ingest(context, records(root.rename(tmp_path / "elsewhere")))
    assert moved.reused


def test_what_an_interrupted_run_left_of_a_unit_is_no_part_of_it(tmp_path):
    root = write(tmp_path / "in", {"a.jsonl": ["one", "two"]})
    (file,) = inventory_module.inventory(root, [root / "a.jsonl"], tmp_path / "cache", LocalExecutor(1))
    source, folder = records(root), tmp_path / "step"
    for shard_bytes in (1, 1 << 20):  # the first leaves two shards, the second makes one
        counts = ingest_module.ingest_unit(
            folder, "key", source.model_copy(update={"shard_bytes": shard_bytes}), [file]
        )
    assert counts["documents_out"] == 2
    assert [path.name for path in sorted((folder / "shards").iterdir())] == ["key-00000.parquet"]


def test_a_shard_that_vanished_from_an_interrupted_run_is_missed(tmp_path, context, monkeypatch):
    source = records(write(tmp_path / "in", FILES))
    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "_join_quarantine", lambda *_: 1 / 0)  # killed after the last unit
        with pytest.raises(ZeroDivisionError):
            ingest(context, source)
    (shard, *_) = sorted((tmp_path / "workspace/steps/ingest/s").glob("*/shards/*.parquet"))
    shard.unlink()
    with pytest.raises(RuntimeError, match="remove the folder and run again"):
        ingest(context, source)
