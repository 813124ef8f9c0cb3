"""A pipeline with derived sources, from raw files to mixes: counted, mixed, explained like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from curation.config import ConfigError
from curation.mix.manifest import load_manifest, verify_manifest
from flows.execute import Options, execute, missing_step
from flows.pipeline import load_pipeline
from flows.report.page import render
from flows.why import why
from tests.mini import fingerprints, write_inputs, write_pipeline

TEMPLATES = Path(__file__).parents[2] / "manifests/examples/question-answer.yaml"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """The mini pipeline; questions are woven into its longest manual pages, and its chat is asked by templates."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_inputs(folder / "inputs")
    path = write_pipeline(folder, folder / "inputs", training=False)
    (folder / "templates.yaml").write_text(TEMPLATES.read_text(encoding="utf-8"), encoding="utf-8")
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    task = {"source": "chat", "task": "manual", "cluster": "manuals", "templates": "templates.yaml"}
    long = {"from": ["topics"], "filter": {"words": {"min": 1200}}, "type": "Long"}
    settings["derive"] = [
        {"name": "counting", "how": "cwe", **long},
        {"name": "extraction", "how": "rex", **long},
        {"name": "asked", "how": "templates", "from": ["chat"], "tasks": [task], "exemplars": {}},
    ]
    settings["mixes"] = {name: {"recipe": f"{name}.yaml"} for name in ("long", "instruction", "preference")}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    recipe = {"kind": "long-context", "name": "long", "pipeline": "pipeline.yaml", "on_shortage": "take_all"}
    lines = [{"source": ["counting", "extraction"], "whole": True}, {"source": "topics", "tokens": "9K"}]
    (folder / "long.yaml").write_text(yaml.safe_dump(recipe | {"lines": lines}), encoding="utf-8")
    recipe = yaml.safe_load((folder / "instruction.yaml").read_text(encoding="utf-8"))
    recipe["lines"] = [{"source": "asked", "share": "100%"}]
    (folder / "instruction.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipeline):
    return execute(Options(pipeline, tmp_path_factory.mktemp("workspace"), workers=1, until="mix"))


def test_the_mixes_hold_derived_documents(finished):
    for name, sources in (("long", {"counting", "extraction", "topics"}), ("instruction", {"asked"})):
        folder = finished.step(f"mix/{name}").folder
        assert verify_manifest(folder) == []
        rows = load_manifest(folder).rows()
        assert set(rows["source"].to_pylist()) == sources
        assert finished.step(f"data/{name}").counts["tokens"] == sum(rows["tokens"].to_pylist())


def test_what_is_derived_is_dropped_by_nothing_and_of_nothing_held_out(finished):
    held = set()
    for source in ("topics", "chat"):
        table = pq.read_table(finished.step(f"catalog/{source}").folder / "catalog.parquet")
        held |= set(table.filter(table["holdout"])["id"].to_pylist())
    for source in ("counting", "extraction", "asked"):
        output = finished.step(f"ingest/{source}")
        alive = pq.read_table(finished.step(f"catalog/{source}").folder / "catalog.parquet")
        assert len(alive) == output.counts["documents_out"] > 0
        for path in output.shards():
            for text in pq.read_table(path, columns=["metadata"])["metadata"].to_pylist():
                about = json.loads(text)
                assert not {about["parent"], *about.get("exemplars", [])} & held


def test_a_derived_document_tells_its_parent(finished):
    rows = load_manifest(finished.step("mix/long").folder).rows().to_pylist()
    row = next(row for row in rows if row["source"] == "counting")
    story = why(finished, row["id"])["occurrences"][0]
    assert story["verdict"] == "in long"
    assert story["origin"] == f"topics#{story['metadata']['parent']}"
    assert why(finished, story["metadata"]["parent"])["occurrences"][0]["place"]["source"] == "topics"


def test_the_report_tells_of_blocks_and_tasks(finished):
    page = render(finished)
    section = page[page.index('id="derived"') :].partition("</section>")[0]
    blocks = pq.read_table(finished.step("ingest/counting").folder / "woven.parquet")
    assert f"cwe: {len(blocks)} blocks" in section
    assert "manual" in section


def test_two_workers_give_the_same_bytes(finished, pipeline, tmp_path):
    assert missing_step(Options(pipeline, finished.workspace, until="mix")) is None
    execute(Options(pipeline, tmp_path / "workspace", workers=2, until="mix"))
    assert fingerprints(tmp_path / "workspace") == fingerprints(finished.workspace)
    changed = missing_step(Options(pipeline, finished.workspace, settings=["derive.2.cap=3"]))
    assert changed.name == "ingest/asked"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["derive.0.from=[extraction]"], "'extraction', which is no source of files or a model"),
        (["derive.0.name=topics"], "given twice: topics"),
        (["derive.0.how=magic"], "magic"),
        (["derive.1.vignettes=[5, 2]"], "expected .least, most., found .5, 2."),
        (["derive.2.held_out=[manuals]", "mixes.instruction.set={lines: [{source: chat, share: 1}]}"],
         "takes source 'chat', but 'asked' holds out clusters of its tasks .manuals.: take 'asked' instead"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(pipeline, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_pipeline(pipeline, settings)
