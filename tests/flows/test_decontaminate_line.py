"""Decontamination in a pipeline: its ledger takes documents out, `why` and the report show the match."""

from __future__ import annotations

import io
import json
from html import escape
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from flows.execute import Options, execute
from flows.pipeline import load_pipeline
from flows.report.page import render, view
from flows.why import print_story, why
from tests.mini import write_inputs, write_pipeline

HOSTILE = "<script>alert('&')</script> [bold]"
QUESTION = (
    f"{HOSTILE} A farmer of the eastern hills sold seventeen baskets of plums on Monday and eleven more on "
    "Thursday; how many baskets did he carry to the market over both of these days in all?"
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    inputs = tmp_path_factory.mktemp("inputs")
    write_inputs(inputs)
    with open(inputs / "notes.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"text": f"Found on the web.\n\n{QUESTION}\n\nAnswer: 28 baskets."}) + "\n")
    (inputs / "exam.jsonl").write_text(json.dumps({"q": QUESTION, "a": 28.0}) + "\n", encoding="utf-8")
    path = write_pipeline(tmp_path_factory.mktemp("pipeline"), inputs, training=False)
    data = yaml.safe_load(path.read_text())
    exam = {"name": "exam", "root": str(inputs), "include": ["exam.jsonl"], "question": "q", "answer": "a"}
    data["decontaminate"] = {"benchmarks": [exam], "by_source": {"topics": "ngram_share", "chat": "none"}}
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipeline):
    return execute(Options(pipeline, tmp_path_factory.mktemp("workspace"), until="curate", workers=1))


def the_match(run) -> dict:
    (match,) = pq.read_table(run.step("decontaminate").folder / "matches.parquet").to_pylist()
    return match


def told(run, identity: str) -> str:
    out = io.StringIO()
    print_story(why(run, identity), Console(file=out, width=200, color_system=None))
    return out.getvalue()


def test_a_contaminated_document_is_in_no_catalog(finished):
    match = the_match(finished)
    assert (match["source"], match["benchmark"], match["score"]) == ("notes", "exam", 1.0)
    for source in ("topics", "notes", "chat", "pairs"):
        dropped = 0
        names = (f"rules/{source}", "dedup-exact", "dedup-fuzzy", "decontaminate")
        for ledger in map(finished.step, names):
            for path in (ledger.folder / "ledger" / source).glob("*.parquet"):
                dropped += pq.read_table(path, columns=["keep"])["keep"].to_pylist().count(False)
        catalog = pq.read_table(finished.step(f"catalog/{source}").folder / "catalog.parquet")
        assert finished.step(f"ingest/{source}").counts["documents_out"] == dropped + len(catalog)
        assert match["id"] not in catalog["id"].to_pylist()


def test_why_shows_the_match_with_its_text(finished):
    match = the_match(finished)
    (occurrence,) = why(finished, match["id"])["occurrences"]
    decision = occurrence["decisions"][-1]
    assert (decision["stage"], decision["keep"], decision["rule"]) == ("decontaminate", False, "exam")
    assert [found["item_text"] for found in decision["matches"]] == [QUESTION]
    assert occurrence["verdict"].startswith("dropped at decontaminate: exam 1")
    text = told(finished, match["id"])
    assert "exam exam.jsonl#0: 1, characters" in text
    assert text.count("A farmer of the eastern hills") >= 3  # the document, the match and the item
    assert "[bold]" in text  # text, not markup


def test_the_report_counts_and_shows_and_escapes(finished):
    section = view(finished)["contamination"]
    (row,) = section["benchmarks"]
    assert (row["items"], row["items_hit"], row["documents_hit"]) == (1, 1, 1)
    assert row["sources"] == [("notes", 1)]
    assert [one["method"] for one in row["methods"]] == ["decon", "ngram_share"]
    html = render(finished)
    assert escape(HOSTILE) in html.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert HOSTILE not in html
    assert "drop" in section["action"]


def test_marked_documents_stay_and_are_told(pipeline, finished):
    settings = ["decontaminate.action=mark"]
    run = execute(Options(pipeline, finished.workspace, until="curate", workers=1, settings=settings))
    match = the_match(run)
    catalog = pq.read_table(run.step("catalog/notes").folder / "catalog.parquet")
    assert match["id"] in catalog["id"].to_pylist()
    assert "kept, marked: exam 1" in told(run, match["id"])
    assert "marked, not taken out" in render(run)


def test_a_source_that_is_not_there_is_an_error(pipeline):
    with pytest.raises(Exception, match=r"decontaminate.by_source: no source 'topic'"):
        load_pipeline(pipeline, ["decontaminate.by_source.topic=decon"])
