"""Lines within lines, floors, filters on measurements, mixes left out; and each line within one document."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.config import ConfigError
from curation.mix import ends as ends_module
from curation.mix import plan as plan_module
from curation.mix import rows as rows_module
from curation.mix import sorting as sorting_module
from curation.mix.filters import exact
from curation.mix.manifest import load_manifest, write_manifest
from curation.mix.plan import Plan, manifest_rows, plan
from curation.mix.recipe import Line, Recipe, load_recipe
from curation.mix.rows import RecipeError
from tests.curation.test_mix_plan import FIXED, HEAD, broken_promises, catalog, documents, recipe_of, same_rows

QUALITY = ({"max_vigintile": 10}, {"min_vigintile": 11})
AMOUNTS = ({"remainder": True}, {"tokens": 300}, {"fraction": "20%"}, {"share": "30%"})


def taken(planned: Plan, table: pa.Table, line: Line) -> int:
    """Tokens of the rows that a line's own filters allow, by plain loops over the catalog."""
    copies = documents(planned)
    return sum(
        copies.get(row["id"], 0) * row["tokens"]
        for row in table.to_pylist()
        if row["source"] in line.source
        and (not line.topic or row["topic"] in line.topic)
        and (not line.language or row["language"] in line.language)
        and (not line.quality or line.quality.min_vigintile <= row["vigintile"] <= line.quality.max_vigintile)
    )


def check_lines(planned: Plan, catalogs: dict[str, pa.Table]) -> None:
    """Each line, whether it has lines or not, is within its longest document of what it asks for."""
    everything = pa.concat_tables(catalogs.values())
    longest = {name: max(table["tokens"].to_pylist(), default=0) for name, table in catalogs.items()}
    places = {}

    def note(lines, at):
        for number, line in enumerate(lines):
            places[f"{at}lines.{number}"] = line
            note(line.lines, f"{at}lines.{number}.")

    note(planned.recipe.lines, "")
    for line in planned.lines:
        own = places[line["line"]]
        assert line["tokens"] == taken(planned, everything, own)
        assert abs(line["tokens"] - line["target_tokens"]) <= max(longest[source] for source in own.source), line


@st.composite
def trees(draw):
    """One to three sources, some divided by topic, some topics again by quality; caps, floors, remainders."""

    def amounts(count: int) -> list[dict]:
        parts = draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
        lines = [{"share": f"{100 * part / sum(parts):.7f}%"} for part in parts]
        if count > 1 and draw(st.booleans()):
            lines[0] = dict(draw(st.sampled_from(AMOUNTS[:3])))
        for line in lines:
            if "share" in line or "remainder" in line:
                line |= draw(st.sampled_from([{}, {}, {"min_tokens": 400}, {"min_repeats": 0.2}]))
        return lines

    def divided(line: dict, filters: list[dict], deeper: bool) -> dict:
        lines = [amount | own for amount, own in zip(amounts(len(filters)), filters, strict=True)]
        if deeper and draw(st.booleans()):
            lines[-1] = divided(lines[-1], [{"quality": one} for one in QUALITY], False)
            lines[-1].pop("min_repeats", None)
        return line | {"lines": lines}

    count = draw(st.integers(1, 3))
    catalogs = {name: catalog(name, draw(st.integers(20, 60)), draw(st.integers(0, 99))) for name in "abc"[:count]}
    lines = []
    for name, amount in zip(catalogs, amounts(count), strict=True):
        line = {"source": name, "max_repeats": draw(st.sampled_from([1, 2.5]))} | amount
        if draw(st.booleans()):
            line = divided(line, [{"topic": "law"}, {"topic": "sea", "language": "en"}], True)
        lines.append(line)
    return catalogs, recipe_of(*lines, budget=draw(st.integers(800, 12_000)))


@given(trees())
@settings(max_examples=150, deadline=None)
def test_any_tree_is_met_to_a_document_or_names_a_line(world):
    catalogs, recipe = world
    planned = plan(recipe, catalogs)
    if planned.feasible:
        check_lines(planned, catalogs)
        assert broken_promises(planned, catalogs) <= {"cap", "line"}  # those look at lines of one level alone
        for place, line in recipe.leaves().items():
            summary = next(one for one in planned.lines if one["line"] == place)
            longest = max(catalogs[line.source[0]]["tokens"].to_pylist())
            assert summary["target_tokens"] >= (line.min_tokens or 0)
            assert summary["tokens"] <= exact(line.max_repeats) * summary["pool_tokens"] + longest
    else:
        for problem in planned.problems:
            assert problem.line is None or problem.line.startswith("lines.")
            assert problem.shortage_tokens > 0
            assert problem.choices


@given(trees(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_no_order_and_no_size_of_pieces_is_seen(world, seed):
    catalogs, recipe = world
    rng = random.Random(seed)
    shuffled = {
        name: table.take(pa.array(rng.sample(range(len(table)), len(table)))) for name, table in catalogs.items()
    }
    one = plan(recipe, catalogs)
    with pytest.MonkeyPatch.context() as patch:
        original = rows_module.pieces
        for module in ("draw", "pool", "screens"):
            patch.setattr(f"curation.mix.{module}.pieces", lambda found, rows=7: original(found, 7))
        two = plan(recipe, shuffled)
        assert same_rows(one, two)


TWENTY = recipe_of({"source": "a", "tokens": 31_415, "quality": {}}, budget=31_415)


def by_bucket(lines, exact):
    """Each bucket to its own nearest document: what a line's buckets are rounded by adds up."""
    for cell in (cell for cells in lines for cell in cells):
        cell.taken, _ = ends_module.nearest_prefix(cell.near["tokens"], cell.rest - int(cell.below[1]))
    return []


def forgetful(lines, exact):
    """Each line to its own nearest document, whatever those before it left."""
    return [cell for cells in lines for cell in ends_module.end_lines([cells], exact)]


def test_a_line_of_twenty_buckets_is_within_one_document(monkeypatch):
    """The twin: buckets rounded one by one, each within half a document, miss by several together."""
    catalogs = {"a": catalog("a", 120, 5, largest=3_000)}
    (line,) = plan(TWENTY, catalogs).lines
    longest = max(catalogs["a"]["tokens"].to_pylist())
    assert abs(line["error_tokens"]) <= longest / 2
    monkeypatch.setattr(plan_module, "end_lines", by_bucket)
    (line,) = plan(TWENTY, catalogs).lines
    assert abs(line["error_tokens"]) > longest


def test_a_line_of_twenty_lines_is_within_one_document(monkeypatch):
    """The twin: each line within it to its own nearest document."""
    catalogs = {"a": catalog("a", 200, 3, largest=3_000)}
    inner = [{"quality": {"min_vigintile": n, "max_vigintile": n}, "share": "5%"} for n in range(1, 21)]
    recipe = recipe_of({"source": "a", "tokens": 61_000, "max_repeats": 9, "lines": inner})
    planned = plan(recipe, catalogs)
    assert abs(planned.lines[0]["error_tokens"]) <= 1_500
    check_lines(planned, catalogs)
    monkeypatch.setattr(plan_module, "end_lines", forgetful)
    assert abs(plan(recipe, catalogs).lines[0]["error_tokens"]) > 3_000


@given(st.integers(2_000, 60_000), st.integers(2_000, 60_000))
@settings(max_examples=40, deadline=None)
def test_a_line_of_buckets_nests_to_the_document(one, two):
    """Though its buckets end together, a larger budget takes all that a smaller one does."""
    catalogs = {"a": catalog("a", 120, 5, largest=3_000)}
    small, large = (
        documents(plan(recipe_of({"source": "a", "tokens": budget, "quality": {}, "max_repeats": 4}), catalogs))
        for budget in sorted((one, two))
    )
    assert all(large.get(document, 0) >= copies for document, copies in small.items())


def test_windows_that_are_too_narrow_are_made_wider(monkeypatch):
    """Where a draw ends is found even if nothing was expected right; the same rows come out."""
    catalogs = {"a": catalog("a", 3_000, 5), "b": catalog("b", 2_000, 6)}
    line = {"source": ["a", "b"], "share": 1, "quality": {}, "max_repeats": 3}
    recipe = recipe_of(line, budget=500_000)
    whole = plan(recipe, catalogs)
    monkeypatch.setattr(ends_module, "SPREAD", 1e-3)
    monkeypatch.setattr(ends_module, "MARGIN", 1e-3)
    assert same_rows(plan(recipe, catalogs), whole)
    check_lines(whole, catalogs)


def test_lines_have_the_source_and_filters_of_the_line_around_them():
    inner = [{"topic": "law", "share": "60%"}, {"topic": "sea", "remainder": True, "language": ["en", "de"]}]
    line = {"source": "a", "tokens": 9_000, "language": "en", "max_repeats": 2, "lines": inner}
    recipe = recipe_of(line)
    leaves = recipe.leaves()
    assert list(leaves) == ["lines.0.lines.0", "lines.0.lines.1"]
    assert [(one.source, one.language, one.max_repeats) for one in leaves.values()] == [
        (("a",), ("en",), 2),
        (("a",), ("en", "de"), 2),
    ]
    planned = plan(recipe, FIXED)
    assert [(one["bucket"], one["target_tokens"]) for one in planned.account] == [
        ("law/en/all", 5_400),
        ("sea/en+de/all", 3_600),
    ]
    assert Recipe.model_validate(recipe.model_dump()).text() == recipe.text()


def test_buckets_by_topic_quality_and_language():
    planned = plan(recipe_of({"source": "a", "fraction": 1, "by": ["topic", "quality", "language"]}), FIXED)
    expected = {}
    for row in FIXED["a"].to_pylist():
        if not row["holdout"] and row["tokens"]:
            key = f"{row['topic'] or 'none'}/{row['language']}/q{row['vigintile']:02d}"
            expected[key] = expected.get(key, 0) + row["tokens"]
    assert {line["bucket"]: line["tokens"] for line in planned.account} == expected


def test_floors_raise_a_share_at_the_cost_of_the_others():
    lines = [
        {"source": "a", "share": "2%", "min_tokens": 3_000},
        {"source": "b", "share": "49%"},
        {"source": "c", "share": "49%"},
    ]
    catalogs = FIXED | {"c": catalog("c", 300)}
    asked = [line["target_tokens"] for line in plan(recipe_of(*lines, budget=30_000), catalogs).lines]
    assert asked == [3_000, 13_500, 13_500]
    problem = plan(recipe_of({**lines[0], "min_tokens": 31_000}, *lines[1:], budget=30_000), catalogs).problems[0]
    assert str(problem).startswith("lines.0 (a): asks for 31,000 tokens, 30,000 are to be had, 1,000 short.")
    assert problem.choices == ("raise the budget by 1000", "lower its floor to 30000")


def test_a_remainder_has_a_floor_too():
    lines = [{"source": "a", "tokens": 20_000}, {"source": "b", "remainder": True, "min_repeats": 0.25}]
    (problem,) = plan(recipe_of(*lines, budget=21_000), FIXED).problems
    pool = sum(row["tokens"] for row in FIXED["b"].to_pylist() if not row["holdout"])
    assert (problem.line, problem.asked_tokens, problem.available_tokens) == ("lines.1", -(-pool // 4), 1_000)
    budget = 21_000 + int(problem.choices[0].rsplit(" ", 1)[1])
    assert plan(recipe_of(*lines, budget=budget), FIXED).feasible


WRONG = {
    "floor of tokens": ({"source": "a", "tokens": 9, "min_tokens": 3}, "min_tokens is a floor of a share"),
    "floor above cap": ({"source": "a", "share": 1, "min_repeats": 2}, "min_repeats 2 is above max_repeats 1"),
    "shares within": (
        {"source": "a", "share": 1, "lines": [{"topic": "law", "share": "60%"}]},
        "the shares add up to 60.0000%: raise them or add a remainder line",
    ),
    "no source within": ({"share": 1, "lines": [{"topic": "law", "share": 1}]}, "give either source or mix"),
    "bounds of nothing": ({"source": "a", "share": 1, "where": {"bytes": {}}}, "give min, max or among"),
    "bounds that cross": ({"source": "a", "share": 1, "where": {"bytes": {"min": 2, "max": 1}}}, "is above max 1"),
    "upsample by topic": (
        {"source": "a", "share": 1, "max_repeats": 3, "upsample": {}, "by": ["topic"]},
        "by quality alone",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_lines_that_cannot_be(case: str):
    line, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        recipe_of(line, budget=100)


def test_problems_point_into_the_file(tmp_path: Path):
    path = tmp_path / "mix.yaml"
    path.write_text(
        "kind: pretrain\nname: m\nbudget: 50K\nlines:\n- source: a\n  share: 100%\n  lines:\n"
        "  - {topic: law, share: 90%}\n  - {topic: sea, remainder: true}\n"
    )
    problem = plan(load_recipe(path), FIXED).problems[0]
    assert str(problem).startswith(f"{path}:8:5: lines.0.lines.0 (a law): asks for 45,000 tokens")
    path.write_text(path.read_text().replace("topic: law", "topic: tax"))
    with pytest.raises(
        RecipeError, match=r"mix\.yaml:8:5: lines\.0\.lines\.0: .* has no topic tax; it has law, sea"
    ):
        plan(load_recipe(path), FIXED)
    path.write_text(path.read_text().replace("topic: tax", "topics: law"))
    with pytest.raises(ConfigError, match=r"mix\.yaml:8:6: lines\.0\.lines\.0\.topics: .* did you mean 'topic'\?"):
        load_recipe(path)


def test_filters_on_columns_of_the_catalog():
    bounds = {"bytes": {"min": 200, "max": 800}, "language": {"among": ["de", "fr"]}}
    planned = plan(recipe_of({"source": "a", "whole": True, "where": bounds}), FIXED)
    expected = {
        row["id"]
        for row in FIXED["a"].to_pylist()
        if not row["holdout"] and row["tokens"] and 200 <= row["bytes"] <= 800 and row["language"] == "de"
    }
    assert set(planned.rows["id"]) == expected != set()


def write_measures(folder: Path, table: pa.Table, **columns) -> Path:
    """Shards of measurements for every row that the catalog names, and for some that it does not."""
    for shard in set(table["shard"].to_pylist()):
        rows = [row for row in table.to_pylist() if row["shard"] == shard]
        last = max(row["row"] for row in rows)
        ids = {row["row"]: row["id"] for row in rows}
        whole = {"id": [ids.get(n, "gone") for n in range(last + 1)]}
        whole |= {name: [value(ids.get(n)) for n in range(last + 1)] for name, value in columns.items()}
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(whole), folder / "shards" / f"{shard}.parquet")
    return folder


def test_filters_on_any_measurement(tmp_path: Path):
    table = FIXED["a"]
    score = lambda name: None if name is None or name < "1" else int(name[:4], 16) / 65536  # noqa: E731
    measured = {"a": write_measures(tmp_path, table.slice(30), toxicity=score)}
    lines = [
        {"source": "a", "whole": True, "where": {"toxicity": {"max": 0.5}}, "label": "mild"},
        {"source": "a", "fraction": "50%", "where": {"toxicity": {"min": 0.50001}}, "label": "harsh"},
    ]
    catalogs = {"a": table.slice(30)}
    planned = plan(recipe_of(*lines), catalogs, measured=measured)
    free = [row for row in catalogs["a"].to_pylist() if not row["holdout"] and row["tokens"]]
    mild = {row["id"] for row in free if (value := score(row["id"])) is not None and value <= 0.5}
    assert set(planned.rows.filter(pl.col("bucket") == "mild/all")["id"]) == mild
    assert all(score(one) > 0.5 for one in planned.rows.filter(pl.col("bucket") == "harsh/all")["id"])
    wrong = [{"source": "a", "whole": True, "where": {"toxicty": {"max": 0.5}}}]
    with pytest.raises(
        RecipeError, match=r"lines\.0: source 'a' has no measurement 'toxicty'; did you mean 'toxicity'"
    ):
        plan(recipe_of(*wrong), catalogs, measured=measured)


def test_a_mix_that_is_left_out(tmp_path: Path):
    """A validation set by a recipe of its own: no other mix that names it takes a document of it."""
    kept = plan(recipe_of({"source": "a", "tokens": 5_000}, name="validation", seed=9), FIXED)
    write_manifest(tmp_path, manifest_rows(kept), HEAD | {"name": "validation", "account": kept.account})
    parents = {"validation": load_manifest(tmp_path)}
    lines = {"source": "a", "whole": True}
    without = plan(recipe_of(lines, without="validation"), FIXED, parents)
    everything = set(plan(recipe_of(lines), FIXED).rows["id"])
    assert set(without.rows["id"]) == everything - set(kept.rows["id"])
    assert without.account[0]["pool_documents"] == len(everything) - len(kept.rows)
    with pytest.raises(RecipeError, match="no mix 'validation' to take rows of"):
        plan(recipe_of(lines, without="validation"), FIXED)


def test_shares_need_not_fill_the_budget_if_the_recipe_says_so():
    lines = [{"source": "a", "share": "40%"}, {"source": "b", "share": "30%"}]
    planned = plan(recipe_of(*lines, budget=20_000, underfill=True), FIXED)
    assert [line["target_tokens"] for line in planned.lines] == [8_000, 6_000]
    assert any("6,000 of the budget are not used" in note for note in planned.notes)


def test_lines_that_do_not_fill_the_line_around_them_are_named():
    inner = [{"topic": "law", "tokens": 1_000}, {"topic": "sea", "tokens": 500}]
    (problem,) = plan(recipe_of({"source": "a", "tokens": 2_000, "lines": inner}), FIXED).problems
    assert (problem.line, problem.asked_tokens, problem.available_tokens) == ("lines.0", 2_000, 1_500)
    inner[1]["tokens"] = 1_200
    (problem,) = plan(recipe_of({"source": "a", "tokens": 2_000, "lines": inner}), FIXED).problems
    assert (problem.line, problem.asked_tokens, problem.available_tokens) == ("lines.0", 2_200, 2_000)


def test_shares_of_shares_lower_the_budget_together():
    inner = [{"topic": "law", "share": "25%"}, {"topic": "sea", "remainder": True, "max_repeats": 99}]
    outer = [
        {"source": "a", "share": "40%", "lines": inner},
        {"source": "b", "remainder": True, "max_repeats": 99},
    ]
    problem = plan(recipe_of(*outer, budget=900_000), FIXED).problems[0]
    budget = next(int(one.rsplit(" ", 1)[1]) for one in problem.choices if one.startswith("lower the budget"))
    assert plan(recipe_of(*outer, budget=budget), FIXED).feasible
    assert not plan(recipe_of(*outer, budget=budget + 30), FIXED).feasible
    assert budget == pytest.approx(problem.available_tokens / float(Fraction(1, 10)), rel=1e-3)


@pytest.mark.parametrize("most", [3, 17, 60])
def test_rows_that_memory_does_not_hold_are_sorted_on_disk(monkeypatch, tmp_path: Path, most: int):
    """In ranges of buckets, and of the ids of a bucket: the same tables, and nothing left behind."""
    line = {"source": "a", "share": "50%", "by": ["topic", "language"], "max_repeats": 3}
    recipe = recipe_of(line, {"source": "b", "share": "50%", "max_repeats": 3}, budget=60_000, exact=True)
    planned = plan(recipe, FIXED)
    whole = pa.concat_tables(planned.tables(tmp_path / "unused"))
    assert not (tmp_path / "unused").exists()
    monkeypatch.setattr(sorting_module, "RANGE_ROWS", most)
    assert pa.concat_tables(planned.tables(tmp_path / "scratch")).equals(whole)
    assert not list((tmp_path / "scratch").glob("*"))
    keys = [(row["source"], row["bucket"], row["id"], row["shard"], row["row"]) for row in whole.to_pylist()]
    assert keys == sorted(keys)


PIECES = rows_module.pieces


def in_pieces_of_300(found):
    return PIECES(found, 300)


def test_a_catalog_file_is_read_in_pieces_of_row_groups(tmp_path: Path):
    """From a file of many row groups, from one of a single one, from memory: the same rows."""
    catalogs = {name: catalog(name, 2_000, largest=90) for name in "ab"}
    recipe = recipe_of({"source": ["a", "b"], "share": 1, "by": ["topic", "quality"]}, budget=50_000)
    expected = plan(recipe, catalogs)
    for rows in (100, 5_000):
        paths = {name: tmp_path / f"{name}-{rows}.parquet" for name in catalogs}
        for name, path in paths.items():
            pq.write_table(catalogs[name], path, row_group_size=rows)
        with pytest.MonkeyPatch.context() as patch:
            for module in ("draw", "pool"):
                patch.setattr(f"curation.mix.{module}.pieces", in_pieces_of_300)
            assert same_rows(plan(recipe, paths), expected)


def test_many_lines_that_filter_by_measurements():
    """Thirty row filters are thirty bits of a profile, not two to the thirtieth profiles."""
    steps = [(40 * n, 40 * n + 39) for n in range(30)]
    lines = [
        {"source": "a", "whole": True, "where": {"bytes": {"min": low, "max": high}}, "label": f"b{low}"}
        for low, high in steps
    ]
    planned = plan(recipe_of(*lines), FIXED)
    free = [row for row in FIXED["a"].to_pylist() if not row["holdout"] and row["tokens"]]
    assert len(planned.rows) == sum(row["bytes"] < 1_200 for row in free)
    assert len(planned.account) == 30


def test_lines_that_find_nothing_are_lines_of_their_own():
    lines = [{"source": "a", "fraction": 1, "language": "fr", "quality": one} for one in QUALITY]
    planned = plan(recipe_of(*lines), FIXED)
    assert [(line["bucket"], line["tokens"]) for line in planned.account] == [("fr/q10", 0), ("fr/q20", 0)]
