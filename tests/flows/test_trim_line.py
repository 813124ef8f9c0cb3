"""Repeated lines and substrings in a pipeline: what is planted in many documents is trained on once."""

from __future__ import annotations

import io
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from tokenizers import Tokenizer

from curation.dedup import cuts
from curation.mix.manifest import load_manifest, verify_manifest
from flows.execute import Options, execute
from flows.pipeline import load_pipeline
from flows.report.page import render
from flows.why import print_story, why
from tests.mini import fingerprints, write_inputs, write_pipeline

MENU = "Home | News | Contact | Privacy | Imprint of this site"
STATIONS = ("dedup-lines", "trim-lines/notes", "dedup-substring", "trim/notes", "trim/topics")


def words(generator: random.Random, count: int) -> str:
    return " ".join("".join(generator.choices("abcdefghijklmnoprstuvw", k=6)) for _ in range(count))


NOTICE = f"Notice of <b>licence</b>: {words(random.Random(7), 100)}"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """Ten notes: a menu at the top of each, a licence notice of some 700 bytes in the middle of a long line."""
    inputs = tmp_path_factory.mktemp("inputs")
    write_inputs(inputs)
    generator = random.Random(1)
    notes = [f"{MENU}\n{words(generator, 150)} {NOTICE} {words(generator, 150)}" for _ in range(10)]
    with open(inputs / "notes.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in notes)
    path = write_pipeline(tmp_path_factory.mktemp("pipeline"), inputs, training=False)
    data = yaml.safe_load(path.read_text())
    for source in data["sources"][:2]:
        source["holdout"] = "0%"
    data["dedup"] = {"substring": {"snap": "none"}, "lines": {"repeats": 3, "sources": ["notes"]}}
    path.write_text(yaml.safe_dump(data))
    recipe = path.parent / "pretrain.yaml"
    recipe.write_text(recipe.read_text().replace("40K", "40M"))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipeline):
    return execute(Options(pipeline, tmp_path_factory.mktemp("workspace"), until="mix", workers=1))


def trained_on(run) -> list[str]:
    """The texts of the pretraining mix, decoded from its token data."""
    folder = run.step("data/pretrain").folder
    tokens = np.fromfile(folder / "tokens.bin", np.uint16)
    tokenizer = Tokenizer.from_file(str(next(run.step("tokenizer").folder.rglob("tokenizer.json"))))
    index = pq.read_table(folder / "index.parquet").to_pylist()
    return [tokenizer.decode(tokens[row["start"] : row["start"] + row["length"]].tolist()) for row in index]


def test_what_is_planted_in_many_documents_is_trained_on_once(finished):
    texts = trained_on(finished)
    assert sum(text.count(NOTICE) for text in texts) == 1
    assert sum(text.count(NOTICE[10:60]) for text in texts) == 1
    assert sum(text.count(MENU) for text in texts) == 1
    assert verify_manifest(load_manifest(finished.step("mix/pretrain").folder).folder) == []


def test_bytes_and_documents_close(finished):
    for source in ("topics", "notes"):
        dropped = 0
        for stage in (f"rules/{source}", "dedup-exact", "dedup-fuzzy", "dedup-lines", "dedup-substring"):
            for path in (finished.step(stage).folder / "ledger" / source).glob("*.parquet"):
                dropped += pq.read_table(path, columns=["keep"])["keep"].to_pylist().count(False)
        catalog = pq.read_table(finished.step(f"catalog/{source}").folder / "catalog.parquet")
        assert finished.step(f"ingest/{source}").counts["documents_out"] == dropped + len(catalog)
        cut = finished.step("dedup-substring").counts["by_source"][source]
        counts = finished.step(f"trim/{source}").counts
        assert counts["bytes_in"] - counts["bytes_out"] == cut["bytes_cut"]
        places = {(row["shard"], row["row"]): row["bytes"] for row in catalog.to_pylist()}
        for path in finished.step(f"trim/{source}").shards():
            sizes = [len(text.encode()) for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]
            for row, size in enumerate(sizes):
                assert places.get((path.stem, row), size) == size
    assert finished.step("dedup-lines").counts["by_source"]["notes"]["bytes_cut"] == 9 * (len(MENU) + 1)


def test_why_tells_where_the_text_stayed(finished):
    output = finished.step("dedup-substring")
    (path,) = (output.folder / "repeats" / "notes").glob("*.parquet")
    repeats = pq.read_table(path).to_pylist()
    pool = pq.read_table(finished.step("ingest/notes").shards()[0]).to_pylist()
    cut, kept = pool[repeats[0]["row"]], repeats[0]["twin"]
    out = io.StringIO()
    print_story(why(finished, cut["id"]), Console(file=out, width=200, color_system=None))
    told = out.getvalue()
    assert "repeated_line" in told
    assert "repeated_substring" in told
    assert f"also in {kept[:12]}" in told
    assert "Notice of <b>licence</b>" in told


def test_the_report_counts_what_was_cut(finished):
    html = render(finished)
    cut = finished.step("dedup-substring").counts
    assert "Repeated text" in html
    assert f"{cut['bytes_cut']:,}" in html
    assert "Notice of &lt;b&gt;licence" in html
    assert "<b>licence" not in html


def test_a_run_that_is_cut_off_gives_the_same(tmp_path, pipeline, finished, monkeypatch):
    honest, calls = cuts._write_spans, itertools.count()

    def cut(*arguments):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(cuts, "_write_spans", cut)
    options = Options(pipeline, tmp_path / "workspace", until="mix", workers=2)
    with pytest.raises(KeyboardInterrupt):
        execute(options)
    execute(options)
    found, expected = fingerprints(tmp_path / "workspace"), fingerprints(finished.workspace)
    assert {name: found[name] for name in STATIONS} == {name: expected[name] for name in STATIONS}
    assert found == expected


def test_settings_are_checked_before_any_work(pipeline):
    with pytest.raises(
        Exception, match=r"dedup.substring.sources: no source 'chat' of kind text among topics, not"
    ):
        load_pipeline(pipeline, ["dedup.substring.sources=[chat]"])
    with pytest.raises(Exception, match=r"dedup.lines.sources: no source 'web'"):
        load_pipeline(pipeline, ["dedup.lines.sources=[web]"])
