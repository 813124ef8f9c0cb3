"""`plan` over pool statistics: a line a source or a bucket, differences from published figures, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.accounts import bar, by_source
from flows.cli import app

OLMO3 = Path(__file__).parents[2] / "manifests" / "olmo3"
PLAN = ["plan", str(OLMO3 / "6t.yaml"), "--pool", str(OLMO3 / "9t-pool.csv")]


def run(*more: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*PLAN, *more], env={"COLUMNS": "170"})
    assert done.exit_code == code, done.output
    return done.output


def test_480_buckets_are_a_line():
    told = run()
    assert [line.split()[0] for line in told.splitlines()[2:9]] == [
        "common-crawl",
        "olmocr-pdfs",
        "stack-edu",
        "finemath-3plus",
        "arxiv",
        "wikipedia",
        "total",
    ]
    assert "480 buckets" in told
    assert "0.55x (0.00 to 7.00)" in told
    assert "485 buckets in 6 lines; all of them: --buckets" in told
    assert told.count("upsampling curve") == 2  # of 24 the steepest


def test_every_bucket_where_it_is_asked_for():
    told = run("--buckets")
    assert "science-math-and-technology/q20" in told
    assert told.count("common-crawl ") >= 480


def test_every_difference_is_listed():
    told = run("--published", str(OLMO3 / "6t-published.csv"))
    assert "12 of 27 published figures agree to every digit that was printed" in told
    listed = told[told.index("Beside the published figures") :].splitlines()[2:]
    assert len([line for line in listed if line.strip()]) == 15


def test_json_has_lines_and_differences():
    told = json.loads(run("--json", "--published", str(OLMO3 / "6t-published.csv")))
    assert len(told["account"]) == 485
    assert len(told["lines"]) == 6 + 24
    assert sum(not one["agrees"] for one in told["published"]) == 15


def test_what_cannot_be_met_is_told():
    assert "6t.yaml:19:5: lines.0.lines.1" in run("--set", "budget=10T", code=3)


@pytest.mark.parametrize(("part", "drawn"), [(0, ""), (1e-9, "▏"), (0.5, "██████"), (1, "████████████")])
def test_bars(part: float, drawn: str):
    assert bar(part) == drawn


def test_a_source_of_equal_buckets_has_no_range():
    line = {"source": "a", "type": "", "bucket": "x", "pool_documents": 1, "pool_tokens": 10, "target_tokens": 5}
    line |= {"error_tokens": 0, "documents": 1, "occurrences": 1, "fragments": 1, "tokens": 5, "share": 0.5}
    (one,) = by_source([line | {"repeats": 0.5}, line | {"repeats": 0.5, "bucket": "y"}])
    assert "range" not in one
    assert (one["bucket"], one["tokens"], one["repeats"]) == ("2 buckets", 10, 0.5)
