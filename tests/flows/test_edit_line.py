"""A profile with edits in a pipeline: later stations read the edited text, and the report tells what was cut."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tokenizers
import xxhash
import yaml
from rich.console import Console

from curation.edits import apply_edits, edits_path, span_lists
from curation.measure.line_edits import line_spans, newline_spans
from flows.execute import Options, execute
from flows.report.lineage import lineage
from flows.report.page import render
from flows.show import show
from flows.why import print_story, why
from tests.mini import fingerprints, write_inputs, write_pipeline

PROFILE = {
    "name": "edited",
    "version": 1,
    "edits": ["newlines", "dolma3_lines", "newlines"],
    "rules": [{"name": "cut", "measurement": "line_edit_word_share", "drop_above": 0.5, "source": "a test"}],
}
NOTE = "Sign-in A note of a few words.\n\n\n\nMENU\n12 likes\nThe last line <b>stays</b>."
EDITED = "A note of a few words.\n\nThe last line <b>stays</b>."


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    inputs = tmp_path_factory.mktemp("inputs")
    write_inputs(inputs)
    with open(inputs / "notes.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"text": NOTE}) + "\n")
        file.write(json.dumps({"text": "MENU\nHOME\nonly this line is left, of which few words are"}) + "\n")
        file.write(json.dumps({"text": "HOME PAGE\nTOP OF IT"}) + "\n")
    path = write_pipeline(tmp_path_factory.mktemp("pipeline"), inputs, training=False)
    data = yaml.safe_load(path.read_text())
    for source in data["sources"]:
        if source["kind"] == "text":
            source["profile"] = "edited.yaml"
            source["holdout"] = "0%" if source["name"] == "notes" else "10%"
    (path.parent / "edited.yaml").write_text(yaml.safe_dump(PROFILE))
    path.write_text(yaml.safe_dump(data))
    recipe = yaml.safe_load((path.parent / "pretrain.yaml").read_text())
    recipe["lines"] = [{"source": "notes", "whole": True}, {"source": "topics", "remainder": True}]
    (path.parent / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipeline):
    return execute(Options(pipeline, tmp_path_factory.mktemp("workspace"), workers=1))


def first_documents(run) -> list[dict]:
    return show(run.step("mix/pretrain").folder, run, n=500, source="notes")["documents"]


def test_the_tokens_of_the_data_are_those_of_the_edited_text(finished):
    """From raw text by the finders and the manifest's rows to token ids, without the stations in between."""
    tokenizer = tokenizers.Tokenizer.from_file(
        str(finished.step("tokenizer").folder / "tokenizer" / "tokenizer.json")
    )
    data = finished.step("data/pretrain").folder
    head = json.loads((data / "data.json").read_text())
    tokens = np.fromfile(data / "tokens.bin", np.dtype(head["dtype"]).newbyteorder("<"))
    texts = {}
    for source in ("topics", "notes"):
        for path in finished.step(f"ingest/{source}").shards():
            table = pq.read_table(path)
            current = table["text"].combine_chunks()
            for find in (newline_spans, line_spans, newline_spans):
                current = apply_edits(current, find(current))
            texts |= dict(zip(table["id"].to_pylist(), current.to_pylist(), strict=True))
    rows = pq.read_table(data / "index.parquet").to_pylist()
    assert EDITED in {texts[row["id"]] for row in rows}
    for row in rows:
        ids = tokens[row["start"] : row["start"] + row["length"]].tolist()
        assert ids[:-1] == tokenizer.encode(texts[row["id"]], add_special_tokens=False).ids


def test_edited_pools_keep_rows_and_ids_and_the_original_stays(finished):
    read, edited = finished.step("ingest/notes"), finished.step("edit/notes")
    (before,), (after,) = ([pq.read_table(path) for path in step.shards()] for step in (read, edited))
    assert before["id"].equals(after["id"])
    assert NOTE in before["text"].to_pylist()
    assert EDITED in after["text"].to_pylist()
    spans = pq.read_table(edits_path(finished.step("measure/notes").folder, "notes", read.shards()[0].stem))
    again = apply_edits(before["text"].combine_chunks(), span_lists(spans, 0, len(before)))
    assert again.equals(after["text"].combine_chunks())
    counts = edited.counts
    assert (counts["documents_in"], counts["edited"]) == (4, 3)
    assert counts["bytes_in"] - counts["bytes_out"] == sum(counts["removed_by_rule"].values())
    assert counts["spans_by_rule"] == {"counter_line": 1, "newlines": 1, "sign_in": 1, "uppercase_line": 5}
    assert not finished.steps("edit/chat")


def test_measurements_are_of_the_text_that_they_say(finished):
    measured = pq.read_table(finished.step("measure/notes").shards()[0]).to_pylist()
    row = next(row for row in measured if row["content_hash"] == xxhash.xxh3_128_hexdigest(EDITED.encode()))
    assert (row["bytes"], row["chars"], row["words"]) == (len(EDITED), len(NOTE), 17)
    assert row["line_edit_word_share"] == 5 / 17  # Sign, in, MENU, 12, likes
    assert [row["line_edit_word_share"] for row in measured].count(1.0) == 1
    assert finished.step("rules/notes").counts["dropped"] == {"cut": 1}
    chat = pq.read_table(finished.step("measure/chat").shards()[0])
    assert chat["line_edit_word_share"].null_count == len(chat)


def test_why_the_report_and_show_tell_of_edits(finished):
    notes = pq.read_table(finished.step("ingest/notes").shards()[0]).to_pylist()
    identity = next(row["id"] for row in notes if row["text"] == NOTE)
    (occurrence,) = why(finished, identity)["occurrences"]
    (edit,) = occurrence["edits"]
    assert edit["removed"] == len(NOTE) - len(EDITED)
    assert edit["characters"] == len(EDITED)
    assert edit["shown"][0] == edit["shown"][0] | {
        "start": 0,
        "end": 8,
        "replacement": "",
        "rule": "sign_in",
        "text": "Sign-in",
    }
    out = io.StringIO()
    print_story(why(finished, identity), Console(file=out, width=200, color_system=None))
    assert "12 likes" in out.getvalue()
    assert f"{len(NOTE)} characters, {len(EDITED)} after edits" in out.getvalue()
    assert lineage(finished)["disagreements"] == []
    assert "edit/notes" in render(finished)
    (document,) = [one for one in first_documents(finished) if one["id"] == identity]
    assert "".join(piece["text"] for piece in document["views"]["text"]["runs"]).startswith(EDITED)


def test_two_workers_give_the_same(finished, pipeline, tmp_path):
    again = execute(Options(pipeline, tmp_path, workers=2, until="curate"))
    wanted = fingerprints(finished.workspace)
    found = fingerprints(again.workspace)
    assert {name: wanted[name] for name in found} == found
