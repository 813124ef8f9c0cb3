"""A pipeline with a source that a model makes, from raw files to mixes: it is treated as any other source."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from curation.config import ConfigError
from curation.mix.manifest import load_manifest
from flows.execute import Options, execute, missing_step
from flows.pipeline import load_pipeline
from flows.why import why
from tests.mini import fingerprints, write_inputs, write_pipeline
from tests.synthetic import write_model


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """The mini pipeline; a tiny model continues its manual pages, and makes chats of those continuations."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_inputs(folder / "inputs")
    path = write_pipeline(folder, folder / "inputs", training=False)
    model = str(write_model(folder / "model"))
    generator = {"kind": "transformers", "model": model, "batch_size": 4}
    common = {"generator": generator, "sampling": {"max_tokens": 16, "temperature": 1.0}}
    (folder / "more.j2").write_text("{{ source }}: {{ text }}", encoding="utf-8")
    continued = {"name": "continued", "from": ["topics", "chat"], "documents": 12, "template_file": "more.j2"}
    continued |= {"cut": {"characters": 100}, "filter": {"words": {"min": 5}}, "type": "Made"}
    asked = {"name": "asked", "kind": "chat", "from": ["continued"], "template": "{{ text }}?"}
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["synthesis"] = [continued | common, asked | common]
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    recipe = yaml.safe_load((folder / "pretrain.yaml").read_text(encoding="utf-8"))
    recipe["lines"] = [{"source": "topics", "share": "90%"}, {"source": "continued", "share": "10%"}]
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipeline):
    return execute(Options(pipeline, tmp_path_factory.mktemp("workspace"), workers=1))


def test_counts_close_and_the_mix_holds_made_documents(finished):
    for source in ("continued", "asked"):
        counts = finished.step(f"ingest/{source}").counts
        assert counts["records_read"] == counts["documents_out"] + counts["quarantined"] + counts["skipped"]
        dropped = 0
        for name in (f"rules/{source}", "dedup-exact", "dedup-fuzzy"):
            for path in (finished.step(name).folder / "ledger" / source).glob("*.parquet"):
                dropped += pq.read_table(path)["keep"].to_pylist().count(False)
        left = len(pq.read_table(finished.step(f"catalog/{source}").folder / "catalog.parquet"))
        assert counts["documents_out"] == dropped + left
        assert left > 0
    rows = load_manifest(finished.step("mix/pretrain").folder).rows().to_pylist()
    assert {row["source"] for row in rows} == {"topics", "continued"}


def test_no_parent_is_held_out(finished):
    """Otherwise a model's words on a held-out document could be trained on."""
    held = set()
    for source in ("topics", "chat"):
        table = pq.read_table(finished.step(f"catalog/{source}").folder / "catalog.parquet")
        held |= set(table.filter(table["holdout"])["id"].to_pylist())
    parents = pq.read_table(finished.step("ingest/continued").folder / "prompts.parquet")
    assert held
    assert len(parents) == 12
    assert not held & set(parents["parent"].to_pylist())


def test_a_made_document_tells_where_it_comes_from(finished):
    row = next(
        row
        for row in load_manifest(finished.step("mix/pretrain").folder).rows().to_pylist()
        if row["source"] == "continued"
    )
    story = why(finished, row["id"])
    told = story["occurrences"][0]
    metadata = told["metadata"] if isinstance(told["metadata"], dict) else json.loads(told["metadata"])
    assert told["origin"] == f"{metadata['parent_source']}#{metadata['parent']}"
    assert why(finished, metadata["parent"])["occurrences"][0]["place"]["source"] == metadata["parent_source"]


def test_nothing_to_do_twice_and_the_same_bytes_with_two_workers(finished, pipeline, tmp_path):
    assert missing_step(Options(pipeline, finished.workspace)) is None
    execute(Options(pipeline, tmp_path / "workspace", workers=2))
    assert fingerprints(tmp_path / "workspace") == fingerprints(finished.workspace)
    changed = missing_step(Options(pipeline, finished.workspace, settings=["synthesis.0.sampling.seed=3"]))
    assert changed.name == "ingest/continued"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("synthesis.0.from=[asked]", "'asked', which is no source before it"),
        ("synthesis.0.name=topics", "given twice: topics"),
        ("synthesis.1.generator.kind=oracle", "oracle"),
    ],
)
def test_wrong_settings_are_named(pipeline, setting, message):
    with pytest.raises(ConfigError, match=message):
        load_pipeline(pipeline, [setting])
