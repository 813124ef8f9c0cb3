"""`exact: true`: each line's tokens met to the token, by cutting one document of each line and bucket."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.chat import CUT, WHOLE
from curation.mix import ends as ends_module
from curation.mix import select as select_module
from curation.mix.plan import Plan, plan
from curation.mix.recipe import Recipe
from tests.curation.test_mix_plan import FIXED, TWO_LINES, catalog, recipe_of, same_rows, shuffled, worlds


def cut_to_the_token(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"exact": True})


def wrong_lines(planned: Plan, catalogs: dict[str, pa.Table]) -> list[str]:
    """What an exact plan must not do, by plain loops."""
    whole = {(d["source"], d["id"]): d["tokens"] for table in catalogs.values() for d in table.to_pylist()}
    wrong = [f"{line['source']} misses" for line in planned.account if line["error_tokens"]]
    cuts = set()
    for row in planned.rows.iter_rows(named=True):
        tokens = whole[row["source"], row["id"]]
        if row["transform"] in WHOLE:
            where = row["source"], row["bucket"]
            wrong += ["two cuts"] if where in cuts else []
            wrong += ["no real cut"] if not 0 < row["tokens"] < tokens or row["copies"] != 1 else []
            cuts.add(where)
        elif row["tokens"] != tokens:
            wrong.append("cut without a mark")
    return wrong


@given(worlds())
@settings(max_examples=120, deadline=None)
def test_every_line_to_the_token(world):
    catalogs, recipe = world
    planned = plan(cut_to_the_token(recipe), catalogs)
    if planned.feasible:
        assert wrong_lines(planned, catalogs) == []


@given(worlds(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_no_order_is_seen(world, seed):
    catalogs, recipe = world
    recipe = cut_to_the_token(recipe)
    assert same_rows(plan(recipe, catalogs), plan(recipe, shuffled(catalogs, seed)))


def test_a_smaller_budget_is_a_part_but_for_what_it_cuts():
    small, large = (
        plan(cut_to_the_token(TWO_LINES.model_copy(update={"budget": budget})), FIXED).rows
        for budget in (21_000, 40_000)
    )
    copies = {(row["source"], row["id"]): row["copies"] for row in large.iter_rows(named=True)}
    whole = small.filter(~pl.col("transform").is_in(list(WHOLE)))
    assert len(small) - len(whole) == 2
    assert all(copies[row["source"], row["id"]] >= row["copies"] for row in whole.iter_rows(named=True))


def test_planted_selection_of_whole_documents_misses(monkeypatch):
    monkeypatch.setattr(ends_module, "CUT", {})
    assert "a misses" in wrong_lines(plan(cut_to_the_token(TWO_LINES), FIXED), FIXED)


def test_chat_as_plain_text_is_cut_and_chat_is_not():
    chats = {"talk": catalog("talk", 40, kind="chat")}
    planned = plan(recipe_of({"source": "talk", "tokens": 1_234}, exact=True), chats)
    assert planned.totals["tokens"] == 1_234
    assert set(planned.rows["transform"]) == {"chat_plain", CUT["chat_plain"]}
    with pytest.raises(ValueError, match="exact: the documents of a mix of kind instruction are not cut"):
        recipe_of({"source": "talk", "tokens": 1_234}, exact=True, kind="instruction")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 2000), st.integers(0, 99))
def test_rows_drawn_from_rows_that_are_cut_already(tokens, target, seed):
    """A replay draws from a mix that has cut documents itself: still exact, and no document is cut twice."""
    rng = np.random.default_rng(seed)
    rows = pl.DataFrame(
        {
            "id": [f"{n:032x}" for n in range(len(tokens))],
            "source": "a",
            "bucket": "mix:m",
            "shard": "s",
            "row": pl.Series(range(len(tokens)), dtype=pl.UInt32),
            "tokens": pl.Series(tokens, dtype=pl.UInt32),
            "copies": pl.Series(rng.integers(1, 4, len(tokens)), dtype=pl.UInt16),
            "transform": "none",
            "order": pl.Series([0] * len(tokens), dtype=pl.UInt64),
        }
    )
    cut = rows.head(1).with_columns(transform=pl.lit("head"), copies=pl.lit(1, pl.UInt16))
    rows = pl.concat([rows, cut.with_columns(tokens=pl.col("tokens") // 2).filter(pl.col("tokens") > 0)])
    pool = int((rows["tokens"].cast(pl.Int64) * rows["copies"]).sum())
    target = min(target, pool)
    drawn = select_module.select_occurrences(rows, target, "pretrain", 1, exact=True)
    missing = target - int((drawn["tokens"].cast(pl.Int64) * drawn["copies"]).sum())
    assert not drawn.select("id", "transform").is_duplicated().any()
    assert 0 <= missing < max(tokens)
    taken = {(row["id"], row["transform"]): row["copies"] for row in drawn.iter_rows(named=True)}
    left = [
        row["tokens"]
        for row in rows.filter(pl.col("id") != cut["id"][0]).iter_rows(named=True)
        if row["copies"] > taken.get((row["id"], row["transform"]), 0)
    ]
    assert missing == 0 or max(left, default=0) <= missing  # nothing long enough was left to cut


def test_the_manifest_says_that_it_is_exact():
    assert "exact: true" in cut_to_the_token(TWO_LINES).text()
