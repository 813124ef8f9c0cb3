"""A given fastText model in a pipeline: a measurement that rules use and that `classify` takes over."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from threading import Barrier

import fasttext
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from curation.classify.apply import classify
from curation.classify.models import given
from curation.config import ConfigError
from curation.executor import LocalExecutor
from curation.steps import Context
from flows.line import Line
from flows.pipeline import load_pipeline
from flows.terminal import Terminal

CLEAN, FOUL = "river garden bread window letter music", "rotten filth muck slime grime stench"
RULE = {"name": "foul", "measurement": "toxicity", "drop_above": 0.5, "source": "this test"}


def texts(count: int) -> list[str]:
    generator = random.Random(1)
    words = [generator.choices([*(CLEAN if n % 3 else FOUL).split(), "the", "of"], k=20) for n in range(count)]
    return [" ".join(one) + f" {n}." for n, one in enumerate(words)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    lines = [f"__label__{'clean' if n % 3 else 'foul'} {text}" for n, text in enumerate(texts(300))]
    (folder / "examples.txt").write_text("\n".join(lines))
    options = {"thread": 1, "epoch": 20, "dim": 4, "bucket": 500, "minn": 2, "maxn": 3, "verbose": 0}
    fasttext.train_supervised(str(folder / "examples.txt"), **options).save_model(str(folder / "foul.bin"))
    (folder / "notes.jsonl").write_text("\n".join(json.dumps({"text": one}) for one in texts(60)))
    (folder / "clean.yaml").write_text(yaml.safe_dump({"name": "clean", "version": 1, "rules": [RULE]}))
    return folder


def pipeline(folder: Path, **settings) -> Path:
    """With a score for rules, a label, and a trained classifier beside them."""
    source = {"reader": "records", "root": str(folder), "include": ["notes.jsonl"]}
    classes = {"a": ["notes"], "b": ["other"]}
    data = {
        "name": "scored",
        "sources": [{"name": "notes", "profile": "clean.yaml", **source}, {"name": "other", **source}],
        "tokenizer": {"vocab_size": 400, "sample_bytes": "20KiB"},
        "classifiers": {
            "toxicity": {"model": "foul.bin", "positive": "foul"},
            "kind": {"model": "foul.bin", "sources": ["other"]},
            "topic": {"classes": classes, "buckets": 500, "dim": 4, "sources": ["other"]},
        },
        **settings,
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def run(folder: Path, workspace: Path, workers: int) -> Line:
    loaded, recipes = load_pipeline(pipeline(folder))
    executor = LocalExecutor(workers, "inline" if workers == 1 else "local")
    line = Line(loaded, recipes, folder, Context(workspace, executor))
    line.ingest()
    line._measure_and_decide(loaded.sources)
    return line


def column(output, name: str) -> list:
    return [value for path in output.shards() for value in pq.read_table(path)[name].to_pylist()]


def test_a_rule_uses_the_score_of_a_model_and_classify_takes_it_over(folder, tmp_path):
    contents = {}
    for workers in (1, 2):
        line = run(folder, tmp_path / str(workers), workers)
        measured, decided = line.measured["notes"], line.decided["notes"]
        assert decided.counts["dropped"] == {"foul": 20}
        scores = column(measured, "toxicity")
        assert sum(score > 0.5 for score in scores) == 20
        applied = [given(name, line.pipeline.classifiers[name], folder) for name in ("toxicity", "kind")]
        ledgers = [line.decided["other"]]
        pool, with_scores = line.pools["other"], line.scored["other"]
        taken = classify(line.context, pool, ledgers, applied, with_scores)
        again = classify(line.context, pool, ledgers, applied)
        assert {path.name: path.read_bytes() for path in taken.shards()} == {
            path.name: path.read_bytes() for path in again.shards()
        }
        assert set(column(taken, "kind_label")) == {"clean", "foul"}
        assert "kind" not in pq.read_schema(measured.shards()[0]).names
        contents[workers] = sorted((one.name, one.content) for one in line.context.outputs)
    assert contents[1] == contents[2]


def test_scores_that_are_taken_over_are_those_of_the_measuring_pass(folder, tmp_path):
    """Planted: other measurements give other classes, so nothing is computed again."""
    line = run(folder, tmp_path, 1)
    applied = [given("toxicity", line.pipeline.classifiers["toxicity"], folder)]
    (path,) = line.measured["other"].shards()
    table = pq.read_table(path)
    place = table.schema.get_field_index("toxicity")
    scores = pa.array([0.25] * len(table), pa.float32())
    pq.write_table(table.set_column(place, "toxicity", scores), path)
    taken = classify(line.context, line.pools["other"], [], applied, line.measured["other"])
    assert set(column(taken, "toxicity")) == {0.25}


def test_the_model_is_an_input_of_measuring(folder, tmp_path):
    line = run(folder, tmp_path, 1)
    before = (folder / "foul.bin").read_bytes()
    options = {"thread": 1, "epoch": 2, "dim": 4, "bucket": 500, "verbose": 0}
    try:
        other = fasttext.train_supervised(str(folder / "examples.txt"), **options)
        other.save_model(str(folder / "foul.bin"))
        assert run(folder, tmp_path, 1).measured["notes"].folder != line.measured["notes"].folder
    finally:
        (folder / "foul.bin").write_bytes(before)


def test_a_classifier_cannot_have_the_name_of_a_measurement(folder, tmp_path):
    loaded, recipes = load_pipeline(pipeline(folder, classifiers={"words": {"model": "foul.bin"}}))
    line = Line(loaded, recipes, folder, Context(tmp_path, LocalExecutor(1, "inline")))
    line.ingest()
    with pytest.raises(ConfigError, match=r"classifiers\.words: 'words' is a measurement already"):
        line._measure_and_decide(loaded.sources)


def test_a_tokenizer_is_trained_beside_classifiers_but_not_on_one_worker(folder, tmp_path):
    """With two workers each waits until the other is under way. The terminal tells whose steps are whose."""
    contents = {}
    for workers in (1, 2):
        line = run(folder, tmp_path / str(workers), workers)
        line.ledgers = list(line.decided.values())
        screen, names, under_way, met = io.StringIO(), [], [], Barrier(workers, timeout=60)
        terminal = Terminal(Console(file=screen, width=120))
        line.context.progress = terminal

        def stage(name, work, names=names, under_way=under_way, met=met):
            names.append(name)
            under_way.append(name)
            if name in ("tokenizer", "classifier/topic"):
                met.wait()
                assert met.parties > 1 or under_way == [name]
            result = work()
            under_way.remove(name)
            return result

        line.stage = terminal.stage(stage)
        line._count_and_score()
        contents[workers] = {one.name: one.content for one in line.context.outputs}
        if workers == 1:
            assert names == ["tokenizer", "tokens", "classifier/topic", "classify", "catalog"]
        shown = {found.split()[1]: found for found in screen.getvalue().splitlines()}
        assert "2 sources, 120 → 100 docs" in shown["classify"]
        assert "2 sources, 120 docs" in shown["tokens"]
    assert contents[1] == contents[2]
    assert contents[1] != {**contents[2], "tokenizer": ""}  # the comparison can fail
