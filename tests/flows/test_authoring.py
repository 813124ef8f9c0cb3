"""`new`: a recipe from the pools that are there loads, is valid, and its plan meets every line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from curation.mix.recipe import load_recipe
from curation.mix.rows import RecipeError
from flows.authoring import LONG, TAKES, author, of_statistics
from flows.cli import app
from flows.planning import curated, plan_pools, plan_recipe
from flows.schema import json_schema

OLMO3 = Path(__file__).parents[2] / "manifests" / "olmo3"
TAKEN = {
    "pretrain": {"topics", "notes"},
    "midtrain": {"topics", "notes", "chat"},
    "long-context": {"topics"},
    "instruction": {"chat"},
    "preference": {"pairs"},
}
HOSTILE = "a: #x\n\u202e'\"{[web"


def new(*arguments: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["new", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def in_full(text: str) -> str:
    """A recipe with its suggestions taken: keys in comments come to life."""
    return re.sub(
        r"^( *)# (\w+: [^#]*\S)( #.*)?$", lambda m: m[1] + m[2] if _is_key(m[2]) else m[0], text, flags=re.M
    )


def _is_key(text: str) -> bool:
    return text.partition(":")[0] in ("upsample", "quality", "pairs", "on_shortage")


@pytest.mark.parametrize("kind", TAKES)
def test_a_recipe_over_a_pipeline_is_met(kind, project, tmp_path):
    pipeline, workspace = project[0] / "pipeline.yaml", project[1]
    path = tmp_path / "deep" / "mine.yaml"
    path.parent.mkdir()
    told = new(kind, "--pipeline", pipeline, "-w", workspace, "-o", path)
    assert "Mix mine" in told
    text = path.read_text(encoding="utf-8")
    jsonschema.validate(yaml.safe_load(text), json_schema("recipe"))
    recipe = load_recipe(path)
    assert (recipe.kind, recipe.name, set(recipe.sources())) == (kind, "mine", TAKEN[kind])
    planned = plan_recipe(path, workspace, [])
    assert planned.problems == []
    taken = {line["source"]: line for line in planned.account if line["source"] in recipe.sources()}
    if kind != "long-context":  # there the replayed mix has the same sources
        for source, line in taken.items():
            assert f"{line['pool_documents']:,} document" in text
            assert f"{line['pool_tokens']:,} tokens" in text
            assert line["repeats"] <= 1.001, source
        assert planned.totals["tokens"] >= 0.95 * sum(line["pool_tokens"] for line in taken.values())
    for other in {"topics", "notes", "chat", "pairs"} - TAKEN[kind]:
        assert re.search(rf"^#   {other} \(", text, re.M)
    suggested = in_full(text)
    assert suggested != text
    path.write_text(suggested, encoding="utf-8")
    plan_recipe(path, workspace, [])  # it fits the pools, though a quality filter may leave too little


def test_long_context_takes_long_documents_and_a_mix_again(project, tmp_path):
    path = tmp_path / "long.yaml"
    new("long-context", "--pipeline", project[0] / "pipeline.yaml", "-w", project[1], "-o", path)
    line, replay = load_recipe(path).lines
    assert line.length[0] == LONG[0]
    assert (replay.mix, replay.share) == ("pretrain", 0.661)


def test_a_mix_again_leaves_a_third(tmp_path):
    path, pool = tmp_path / "long.yaml", OLMO3 / "600b-pool.csv"
    new("long-context", "--pool", pool, "-o", path)
    counted = pl.read_csv(pool, comment_prefix="#").filter(~pl.col("source").str.starts_with("mix:"))
    tokens = dict(counted.group_by("source").agg(pl.col("tokens").sum()).iter_rows())
    _, *others, replay = load_recipe(path).lines
    assert (replay.mix, replay.share) == ("midtrain-100b", 0.661)
    for line in others:
        assert line.share == pytest.approx(0.339 * tokens[line.source[0]] / sum(tokens.values()), rel=1e-3)
    assert plan_pools(path, [], pool).problems == []


def test_a_mix_that_gives_less_than_it_holds_lowers_the_budget():
    """Of the rows of a mix those that other lines take are not to be had: only a plan tells how many are left."""
    pools = of_statistics(OLMO3 / "600b-pool.csv")
    _, planned = author("long-context", pools, "long")
    held = pools.replay[1]
    text, lowered = author("long-context", replace(pools, replay=(pools.replay[0], 3 * held)), "long")
    assert lowered.problems == []
    assert yaml.safe_load(text)["budget"] == "151B"
    assert lowered.totals == planned.totals


def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mine", encoding="utf-8")
    new("pretrain", "--pool", OLMO3 / "9t-pool.csv", "-o", path, code=1)
    assert path.read_text(encoding="utf-8") == "mine"
    new("pretrain", "--pool", OLMO3 / "9t-pool.csv", "-o", path, "--force")
    assert load_recipe(path).lines[0].source == ("common-crawl",)


def test_shares_are_those_of_the_tokens(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(new("midtrain", "--pool", OLMO3 / "2t-pool.csv"), encoding="utf-8")
    counted = pl.read_csv(OLMO3 / "2t-pool.csv", comment_prefix="#").group_by("source").agg(pl.col("tokens").sum())
    tokens = dict(counted.iter_rows())
    recipe = load_recipe(path)
    assert {line.source[0] for line in recipe.lines} == set(tokens)
    assert recipe.lines[0].remainder
    for line in recipe.lines[1:]:
        assert line.share == pytest.approx(tokens[line.source[0]] / sum(tokens.values()), rel=1e-3)
    planned = plan_pools(path, ["on_shortage=error"], OLMO3 / "2t-pool.csv")
    assert planned.problems == []
    assert 0.99 * sum(tokens.values()) < planned.totals["tokens"] <= sum(tokens.values())
    assert plan_pools(
        path, ["budget=10T"], OLMO3 / "2t-pool.csv"
    ).problems  # the twin: more than four times the pool


def test_names_of_the_world_outside_stay_names(tmp_path):
    rows = {"source": [HOSTILE, "b", "empty", "chats"], "kind": ["text", "text", "text", "chat"]}
    rows |= {"type": ["x\nlines: []", None, None, None], "documents": [3, 1, 0, 5], "tokens": [301, 7, 0, 90]}
    pl.DataFrame(rows).write_parquet(tmp_path / "pool.parquet")
    pools = of_statistics(tmp_path / "pool.parquet")
    text, planned = author("pretrain", pools, "My Mix")
    assert yaml.safe_load(text)["name"] == "pretrain"
    assert {line["source"] for line in planned.account} == {HOSTILE, "b"}
    assert "\u202e" not in text
    with pytest.raises(RecipeError, match=r"takes pairs; there are .*chats"):
        author("preference", pools, "preference")


def test_pools_that_are_not_curated_say_what_to_run(project, tmp_path):
    with pytest.raises(Exception, match="--until curate"):
        curated(project[0] / "pipeline.yaml", tmp_path)
    new("pretrain", code=2)
