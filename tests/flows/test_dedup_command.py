"""`mixwright dedup` as a person calls it: exit codes, JSON, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

TEXT = "the quick brown fox jumps over the lazy dog near the bank of a river that runs by the town"


def mixwright(*arguments, cwd):
    command = [sys.executable, "-m", "flows.cli", "dedup", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def kept(folder):
    return set(pq.read_table(folder / "kept.parquet")["origin"].to_pylist())


@pytest.fixture
def folder(tmp_path):
    texts = [TEXT, TEXT, TEXT + " today", "something else entirely that nobody has said before today or since"]
    lines = "".join(json.dumps({"id": at, "text": text}) + "\n" for at, text in enumerate(texts))
    (tmp_path / "a.jsonl").write_text(lines)
    return tmp_path


def test_a_run_tells_counts_and_the_differences_of_clusters(folder):
    done = mixwright("a.jsonl", "--out", "out", "--id-field", "id", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cluster of 3" in done.stdout
    assert "today" in done.stdout
    told = json.loads(mixwright("a.jsonl", "--out", "out", "--id-field", "id", "--json", cwd=folder).stdout)
    assert (told["documents_in"], told["documents_out"], told["exact"], told["fuzzy"]) == (4, 2, 1, 1)
    assert told["unchanged"]


def test_a_plan_and_two_records_need_no_output_folder(folder):
    planned = json.loads(mixwright("a.jsonl", "--dry-run", "--json", cwd=folder).stdout)
    assert planned["documents"] == 4
    assert planned["detection"]["0.8"] == 0.9235
    told = json.loads(mixwright("a.jsonl", "--id-field", "id", "--explain", 0, 2, "--json", cwd=folder).stdout)
    assert told["only_second"] == ["the town today"]
    assert told["duplicates"]


def test_a_field_or_texts_made_alike_tell_exact_duplicates_and_any_scheme_near_ones(folder):
    """A page under one address has the later copy removed; texts that differ in case and blanks count as one."""
    rows = [
        ("a", TEXT, "u1"),
        ("b", TEXT + " " + TEXT[::-1], "u1"),
        ("c", TEXT.upper() + "  ", None),
        ("d", "x y", 7),
    ]
    lines = (json.dumps({"id": at, "text": text, "meta": {"url": url}}) + "\n" for at, text, url in rows)
    (folder / "b.jsonl").write_text("".join(lines))
    options = ["b.jsonl", "--id-field", "id", "--exact-only", "--json", "--out"]
    assert json.loads(mixwright(*options, "url", "--exact-by", "meta.url", cwd=folder).stdout)["exact"] == 1
    assert kept(folder / "url") == {"b", "c", "d"}  # the longest of u1; without an address nobody's duplicate
    assert json.loads(mixwright(*options, "as-is", cwd=folder).stdout)["exact"] == 0
    told = json.loads(mixwright(*options, "alike", "--alike", "case,white_space", cwd=folder).stdout)
    assert told["exact"] == 1
    assert kept(folder / "alike") == {"b", "c", "d"}  # two more bytes than a
    scheme = "{unit: characters, ngram: 12, similarity: 0.7, permutations: 64}"
    done = mixwright("b.jsonl", "--id-field", "id", "--scheme", scheme, "--out", "near", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert kept(folder / "near") == {"b", "c", "d"}  # characters are lower-cased, blanks are one


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.jsonl", "-o", "out"], 2, "no such file"),
        (["a.jsonl"], 2, "--out"),
        (["a.jsonl", "-o", "out", "--scheme", "huge"], 2, "expected a scheme"),
        (["a.jsonl", "-o", "out", "--scheme", "{ngram: 5"], 2, "no mapping"),
        (["a.jsonl", "-o", "out", "--alike", "looks"], 2, "looks"),
        (["a.jsonl", "-o", "out", "--exact-by", "url", "--index", "held"], 2, "an index holds texts"),
        (["a.jsonl", "-o", "out", "--memory", "10MiB"], 2, "--memory"),
        (["a.jsonl", "--explain", "x", "y"], 4, "'x' is no record"),
        (["a.jsonl", "-o", "out", "--strict", "--alarm-share", "0.1"], 1, "loses"),
    ],
)
def test_wrong_calls_and_bad_outcomes_have_their_exit_codes(folder, arguments, code, message):
    done = mixwright(*arguments, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
