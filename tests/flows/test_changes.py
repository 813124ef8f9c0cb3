"""`diff`: what came and went between two mixes, and the reason, on real runs of one workspace."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from curation.mix.reasons import DROPPED_NOW, GONE, HELD_NO_MORE, HELD_NOW, NEW_DATA, RECIPE, HistoryError
from flows.changes import compare
from flows.execute import Options, execute
from flows.run import Run
from tests.mini import write_inputs, write_pipeline

NEW = "A page that was not there the night before. " * 20


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> dict[str, Run]:
    """Runs of one workspace: first; more (a file more, another gone); seed (holds out others, of a pool
    without repeated lines); rules (a stricter profile); small budget; twice (every document)."""
    folder = tmp_path_factory.mktemp("nights")
    inputs = folder / "inputs"
    write_inputs(inputs)
    pipeline = write_pipeline(folder / "pipeline", inputs, training=False)

    def night(*settings: str) -> Run:
        everything = ["mixes.pretrain.set.budget=10M", *settings]
        return execute(Options(pipeline, folder / "workspace", until="mix", workers=1, settings=everything))

    runs = {"first": night()}
    (inputs / "topics-c.jsonl").write_text(json.dumps({"text": NEW}) + "\n", encoding="utf-8")
    (inputs / "notes.jsonl").write_text('{"text": "another note of a few words"}\n', encoding="utf-8")
    runs["more"] = night()
    rule = {"name": "long", "measurement": "chars", "drop_above": 3000, "source": "a test"}
    profile = {"name": "strict", "version": 1, "rules": [rule]}
    (folder / "pipeline" / "strict.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    runs["rules"] = night("sources.0.profile=strict.yaml")
    runs["small"] = night("mixes.pretrain.set.budget=9K")
    runs["twice"] = night('mixes.pretrain.set={budget: 10M, "lines.0.max_repeats": 2}')
    runs["seed"] = night("seed=2", "dedup.lines={repeats: 30, sources: [topics]}")
    return runs


def changes(nights: dict[str, Run], before: str, after: str):
    workspace = nights["first"].workspace
    return compare(f"{nights[before].name}:pretrain", f"{nights[after].name}:pretrain", workspace, True)


def test_new_data_and_data_that_is_gone(nights):
    found = changes(nights, "first", "more")
    reasons = {(source, change): reason for source, change, reason, _ in found.reasons()}
    assert reasons["topics", "came"] == NEW_DATA
    assert reasons["notes", "came"] == NEW_DATA
    assert reasons["notes", "went"] == GONE
    went = {row["source"] for row in found.documents if row["change"] == "went"}
    assert went == {"notes"}  # a new document does not push others out


def test_a_rule_that_drops_and_its_opposite(nights):
    found = changes(nights, "more", "rules")
    went = [row for row in found.documents if row["source"] == "topics" and row["change"] == "went"]
    assert went
    assert {row["reason"] for row in went} == {f"{DROPPED_NOW} rules: long"}
    back = changes(nights, "rules", "more")
    assert {row["reason"] for row in back.documents if row["id"] in {one["id"] for one in went}} == {
        "no longer dropped by rules: long"
    }


def test_a_smaller_budget_is_the_recipe(nights):
    found = changes(nights, "more", "small")
    assert found.documents
    assert {row["reason"] for row in found.documents} == {RECIPE}
    assert {row["change"] for row in found.documents} == {"went"}  # a small budget is a part of a large one


def test_more_copies_are_the_recipe(nights):
    found = changes(nights, "more", "twice")
    assert {(row["change"], row["reason"], row["copies_after"]) for row in found.documents} == {
        ("copies", RECIPE, 2)
    }
    for line in found.counts:
        assert (line["source"], "copies", RECIPE, line["copies"]) in found.reasons()


def test_other_documents_held_out(nights):
    assert nights["seed"].step("trim-lines/topics")
    found = changes(nights, "more", "seed")
    held = {
        name: set(pl.read_parquet(folder / "catalog.parquet").filter("holdout")["id"])
        for name in ("more", "seed")
        for folder in [nights[name].step("catalog/topics").folder]
    }
    reasons = {row["id"]: row["reason"] for row in found.documents if row["source"] == "topics"}
    assert {one for one, reason in reasons.items() if reason == HELD_NOW} == held["seed"] - held["more"]
    assert {one for one, reason in reasons.items() if reason == HELD_NO_MORE} == held["more"] - held["seed"]
    assert held["seed"] != held["more"]


def test_history_that_is_gone_is_an_error_unless_no_reasons_are_asked_for(nights, tmp_path):
    workspace = nights["first"].workspace
    folders = [str(nights[name].step("mix/pretrain").folder) for name in ("first", "more")]
    with pytest.raises(HistoryError, match="--no-reasons"):
        compare(*folders, Path(tmp_path), True)
    assert compare(*folders, Path(tmp_path), False).counts == changes(nights, "first", "more").counts
    assert not compare(folders[0], folders[0], workspace, True).documents
