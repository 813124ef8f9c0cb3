"""A recipe with fill-in-the-middle, from raw files to token data: planned, built, shown and explained."""

from __future__ import annotations

import pyarrow.compute as pc
import pytest
import yaml

from curation.mix.manifest import load_manifest, verify_manifest
from flows.execute import Options, execute
from flows.planning import plan_recipe
from flows.show import show
from flows.why import why
from tests.mini import write_inputs, write_pipeline

NAME = "fim rate=0.5 spm=0.5"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The mini pipeline; a midtraining mix takes manual pages under FIM, a long-context mix rows of it."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_inputs(folder / "inputs")
    path = write_pipeline(folder, folder / "inputs", training=False)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["mixes"] = {name: {"recipe": f"{name}.yaml"} for name in ("mid", "long", "preference")}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    line = {"source": "topics", "tokens": "20K", "transform": {"fim": {}}}
    for name, kind, lines in (
        ("mid", "midtrain", [line]),
        ("long", "long-context", [{"mix": "mid", "tokens": "8K"}]),
    ):
        recipe = {"kind": kind, "name": name, "pipeline": "pipeline.yaml", "on_shortage": "take_all"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe | {"lines": lines}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, pipeline):
    folder = tmp_path_factory.mktemp("workspace")
    return folder, execute(Options(pipeline, folder, workers=1, until="mix"))


def test_a_plan_is_the_mix_and_counts_what_is_new(pipeline, workspace):
    folder, run = workspace
    manifest = load_manifest(run.step("mix/mid").folder)
    assert plan_recipe(pipeline.parent / "mid.yaml", folder, []).account == manifest.head["account"]
    other = plan_recipe(pipeline.parent / "mid.yaml", folder, ["lines.0.transform={fim: {rate: 1}}"])
    assert set(other.rows["transform"]) == {"fim rate=1.0 spm=0.5"}


def test_rows_go_into_other_mixes_as_they_are(workspace):
    run = workspace[1]
    for name in ("mid", "long"):
        folder = run.step(f"mix/{name}").folder
        assert verify_manifest(folder) == []
        rows = load_manifest(folder).rows()
        assert set(rows["transform"].to_pylist()) == {"none", NAME}
        counts = run.step(f"data/{name}").counts
        assert counts["tokens_with_copies"] == pc.sum(pc.multiply(rows["tokens"], rows["copies"])).as_py()


def test_show_and_why_tell_of_it(workspace):
    run = workspace[1]
    shown = show(run.step("mix/mid").folder, run, n=40)
    changed = [document for document in shown["documents"] if document["transform"] == NAME]
    assert 0 < len(changed) < len(shown["documents"])
    for document in changed:
        text = "".join(part["text"] for part in document["views"]["text"]["runs"])
        assert text.startswith(("<|fim_prefix|>", "<|fim_suffix|>"))
    story = why(run, changed[0]["id"])
    assert NAME in {mix["transform"] for one in story["occurrences"] for mix in one["mixes"]}
