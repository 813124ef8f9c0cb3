"""The gzip cut: exact ranks by a plain sort, the same for any order of rows, and only where a line asks for it."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.mix.filters import GzipCut
from curation.mix.gzip_cut import inside_cut
from curation.mix.plan import plan
from curation.mix.recipe import Line, Recipe
from curation.mix.rows import RecipeError
from curation.schema import CATALOG

RATIOS = st.lists(st.none() | st.sampled_from([0.2, 0.4, 0.4000001, 0.9]) | st.floats(0.01, 1.2), max_size=60)
SHARES = st.sampled_from(["0%", "10%", "20%", "30%", "33.3%", "40%"])


def frame_of(ratios: list[float | None]) -> pl.DataFrame:
    """Rows of scattered ids, some of them twice."""
    ids = [f"{(number // 2) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in range(len(ratios))]
    return pl.DataFrame(
        {"id": ids, "shard": ["s"] * len(ratios), "row": range(len(ratios)), "gzip_ratio": ratios},
        schema={"id": pl.String, "shard": pl.String, "row": pl.UInt32, "gzip_ratio": pl.Float64},
    )


def by_plain_sort(rows: pl.DataFrame, lowest: str, highest: str) -> set[int]:
    """The rows that stay, by Python's own sort and fractions."""
    ranked = sorted(
        (row["gzip_ratio"], row["id"], row["row"]) for row in rows.to_dicts() if row["gzip_ratio"] is not None
    )
    below, above = (math.floor(Fraction(share.rstrip("%")) * len(ranked) / 100) for share in (lowest, highest))
    return {row for _, _, row in ranked[below : len(ranked) - above]}


def kept_rows(rows: pl.DataFrame, lowest: str, highest: str) -> set[int]:
    return set(rows.filter(inside_cut(rows, GzipCut(drop_lowest=lowest, drop_highest=highest)))["row"])


@given(RATIOS, SHARES, SHARES, st.integers(0, 9))
@settings(deadline=None, max_examples=200)
def test_the_cut_is_that_of_a_plain_sort_in_any_order(ratios, lowest, highest, seed):
    rows = frame_of(ratios)
    expected = by_plain_sort(rows, lowest, highest)
    assert kept_rows(rows, lowest, highest) == expected
    assert kept_rows(rows.sample(fraction=1, shuffle=True, seed=seed), lowest, highest) == expected


def test_that_check_sees_a_cut_at_interpolated_quantiles():
    """What most would write, a filter between two quantiles, keeps all of many equal ratios."""
    rows = frame_of([0.1] * 5 + [0.4] * 5)
    low, high = (rows["gzip_ratio"].quantile(share) for share in (0.2, 0.8))
    between = set(rows.filter(pl.col("gzip_ratio").is_between(low, high))["row"])
    assert between != by_plain_sort(rows, "20%", "20%") == kept_rows(rows, "20%", "20%")


def test_shares_are_the_decimals_that_a_person_wrote():
    """29 % of 100 documents are 29, though 100 times the binary fraction nearest to 0.29 is below 29."""
    assert len(kept_rows(frame_of([n / 100 for n in range(100)]), "29%", "0%")) == 71
    assert math.floor(100 * 0.29) == 28


def catalog(source: str, documents: int = 100, **columns) -> pa.Table:
    rng = random.Random(source)
    rows = []
    for number in range(documents):
        row = {"id": f"{rng.getrandbits(128):032x}", "source": source, "kind": "text", "shard": "s", "row": number}
        row |= {"tokens": 10, "tokens_plain": 10, "bytes": 40, "language": "de" if number % 2 else "en"}
        row |= {"length_bucket": "<1K" if number < 50 else "1K-2K", "holdout": number % 10 == 0}
        rows.append(row | {"gzip_ratio": (number + 1) / 100} | columns)
    return pa.Table.from_pylist(rows, schema=CATALOG)


def recipe_of(*lines: dict) -> Recipe:
    return Recipe.model_validate({"kind": "long-context", "name": "m", "lines": list(lines)})


def test_a_line_cuts_each_source_among_what_its_other_filters_leave():
    catalogs = {"a": catalog("a"), "b": catalog("b", gzip_ratio=0.5)}
    line = {"source": ["a", "b"], "whole": True, "length": "1K-2K", "language": "en"}
    everything = plan(recipe_of(line), catalogs)
    planned = plan(recipe_of(line | {"gzip": {"drop_lowest": "20%", "drop_highest": "10%"}}), catalogs)
    before, after = (sorted(one.rows.filter(pl.col("source") == "a")["row"]) for one in (everything, planned))
    assert before == [row for row in range(50, 100, 2) if row % 10]  # 20 documents, none of them held out
    assert after == before[4:-2]
    assert planned.account[0]["pool_documents"] == 14
    assert len(planned.rows.filter(pl.col("source") == "b")) == 14
    assert "lines.0 (a): the gzip cut keeps 14 of 20 documents, of ratios 0.630 to 0.950" in planned.notes
    assert not any("gzip" in note for note in everything.notes)


def test_the_budget_changes_no_cut():
    line = {"source": "a", "gzip": {}}
    small, large = (plan(recipe_of(line | {"tokens": tokens}), {"a": catalog("a")}) for tokens in (100, 400))
    assert set(small.rows["id"]) < set(large.rows["id"])


def test_errors_name_what_is_wrong():
    line = {"source": "a", "whole": True, "gzip": {}}
    with pytest.raises(RecipeError, match=r"no gzip ratios to cut by; set measure\.gzip_prefix_bytes above 0"):
        plan(recipe_of(line), {"a": catalog("a", gzip_ratio=None)})
    with pytest.raises(ValidationError, match="drop everything"):
        GzipCut(drop_lowest="50%", drop_highest="50%")
    with pytest.raises(ValidationError, match="a line that takes a mix takes its rows as they are: remove gzip"):
        Line.model_validate({"mix": "p", "tokens": 9, "gzip": {}})


def test_a_recipe_without_a_cut_keeps_its_hash():
    """Old manifests name a recipe by its hash: a filter that is not used must not be in its text."""
    recipe = recipe_of({"source": "a", "whole": True})
    assert "gzip" not in recipe.text()
    assert recipe.hash != recipe_of({"source": "a", "whole": True, "gzip": {}}).hash
