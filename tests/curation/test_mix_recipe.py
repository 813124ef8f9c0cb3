"""Recipes: what is refused, with the line of the file, and what identity is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.config import ConfigError
from curation.mix.recipe import Recipe, load_recipe
from curation.schema import LENGTH_BUCKETS

GOOD = """\
kind: pretrain
name: base
pipeline: pipeline.yaml
seed: 7
budget: 1.5M
lines:
- source: web
  share: 76.1%
  max_repeats: 7
  upsample: {cut: 40%}
- source: [code, docs]
  share: 0.239
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mix.yaml"
    path.write_text(text)
    return path


def test_human_units(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.budget == 1_500_000
    assert recipe.lines[0].share == 0.761
    assert recipe.lines[1].source == ("code", "docs")
    assert recipe.sources() == ["code", "docs", "web"]


def test_identity_is_the_literals(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, GOOD))
    same = load_recipe(
        write(tmp_path, "# a comment\n" + GOOD.replace("1.5M", "1500000").replace("pipeline.yaml", "b"))
    )
    assert (same.text(), same.hash) == (recipe.text(), recipe.hash)
    other = load_recipe(write(tmp_path, GOOD), ["lines.0.max_repeats=6"])
    assert other.hash != recipe.hash
    assert "pipeline" not in recipe.text()


def test_canonical_text_is_a_recipe(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, GOOD))
    again = load_recipe(write(tmp_path, recipe.text()))
    assert again.text() == recipe.text()


WRONG = {
    "two rules": ("share: 0.239", "share: 0.239\n  tokens: 5K", "mix.yaml:11:3: lines.1: give exactly one of"),
    "no rule": ("  share: 0.239\n", "", "found none"),
    "shares above 1": ("0.239", "0.25", "add up to 101.1"),
    "shares below 1": ("0.239", "0.237", "raise them or add a remainder line"),
    "no budget": ("budget: 1.5M\n", "", "give budget"),
    "unknown key": ("seed: 7", "sede: 7", "mix.yaml:4:1: sede: there is no such key; did you mean 'seed'?"),
    "both source and mix": ("- source: web", "- source: web\n  mix: x", "either source or mix"),
    "itself": ("source: web", "mix: base", "lines.0"),
    "upsample at 1": ("max_repeats: 7", "max_repeats: 1", "upsample needs max_repeats above 1"),
    "upsample of two": ("source: web", "source: [web, docs]", "give each source its own line"),
    "length": ("share: 0.239", "share: 0.239\n  length: 3K-4K", "no length bucket 3K-4K"),
    "two kinds of bucket": (
        "share: 0.239",
        "share: 0.239\n  length: 1K-2K\n  quality: {min_vigintile: 3}",
        "split",
    ),
    "vigintiles": ("share: 0.239", "share: 0.239\n  quality: {min_vigintile: 9, max_vigintile: 3}", "is above"),
    "fraction above cap": ("share: 0.239", "fraction: 2", "more than max_repeats"),
    "twice": ("[code, docs]", "[code, code]", "named twice"),
    "whole: false": ("share: 0.239", "whole: false", "True"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_recipes_say_where(tmp_path: Path, case: str):
    old, new, message = WRONG[case]
    assert old in GOOD
    with pytest.raises(ConfigError) as error:
        load_recipe(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(error.value)


def test_replay_lines_take_rows_as_they_are():
    for extra in ({"language": "en"}, {"transform": "chat"}):
        with pytest.raises(ValueError, match="takes its rows as they are"):
            Recipe(kind="midtrain", name="m", budget=10, lines=[{"mix": "p", "share": 1, **extra}])
    with pytest.raises(ValueError, match="takes a share or tokens of it, not whole"):
        Recipe(kind="midtrain", name="m", lines=[{"mix": "p", "whole": True}])
    with pytest.raises(ValueError, match="never by itself"):
        Recipe(kind="midtrain", name="m", budget=10, lines=[{"mix": "m", "share": 1}])


def test_length_buckets():
    assert LENGTH_BUCKETS[:3] == ("<1K", "1K-2K", "2K-4K")
    assert LENGTH_BUCKETS[-3:] == ("256K-512K", "512K-1M", ">1M")


@pytest.mark.parametrize(
    ("mix", "kind", "transform"),
    [
        ("pretrain", "text", "none"),
        ("midtrain", "chat", "chat_plain"),
        ("long-context", "chat", "chat_plain"),
        ("instruction", "chat", "chat"),
        ("preference", "pairs", "pair"),
    ],
)
def test_default_transforms(mix: str, kind: str, transform: str):
    recipe = Recipe(kind=mix, name="m", lines=[{"source": "s", "whole": True}])
    assert recipe.transform_of(recipe.lines[0], kind, "s") == transform


@pytest.mark.parametrize(
    ("mix", "kind"),
    [("pretrain", "pairs"), ("instruction", "text"), ("preference", "chat"), ("instruction", "pairs")],
)
def test_documents_that_do_not_fit_the_mix(mix: str, kind: str):
    recipe = Recipe(kind=mix, name="m", lines=[{"source": "s", "whole": True}])
    with pytest.raises(ValueError, match=f"source 's' holds {kind}, the {mix} mix 'm' takes"):
        recipe.transform_of(recipe.lines[0], kind, "s")


DEMO = Path(__file__).parents[2] / "manifests" / "demo"


@pytest.mark.parametrize("name", ["pretrain", "midtrain", "long-context", "instruction", "preference"])
@pytest.mark.parametrize("budget", [[], ["budget=20K"]], ids=["as written", "tiny"])
def test_demo_recipes_load_at_any_size(name: str, budget: list[str]):
    recipe = load_recipe(DEMO / f"{name}.yaml", budget)
    assert (recipe.kind, recipe.name, recipe.on_shortage) == (name, name, "take_all")
    assert recipe.parents() == (["midtrain"] if name == "long-context" else [])
