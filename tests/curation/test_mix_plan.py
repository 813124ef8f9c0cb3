"""Plans over random catalogs and recipes: budgets met to a document, caps kept, nothing held out, no order."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curation.mix import draw as draw_module
from curation.mix import ends as ends_module
from curation.mix import select as select_module
from curation.mix.manifest import MANIFEST, Manifest, load_manifest, write_manifest
from curation.mix.plan import InfeasibleError, Plan, manifest_rows, plan
from curation.mix.pool import Pool
from curation.mix.recipe import Recipe
from curation.mix.rows import RecipeError
from curation.schema import CATALOG

HEAD = {
    "kind": "midtrain",
    "recipe": "",
    "seed": 0,
    "tokenizer_hash": "",
    "pools": {},
    "catalogs": {},
    "parents": {},
}


TOPICS = ("law", "sea", None)


def catalog(source: str, documents: int, seed: int = 0, kind: str = "text", largest: int = 300) -> pa.Table:
    rng, ratios = random.Random(f"{source}/{seed}"), random.Random(f"ratios/{source}/{seed}")
    return pa.Table.from_pylist(
        [
            {
                "id": f"{rng.getrandbits(128):032x}",
                "source": source,
                "kind": kind,
                "shard": f"s{number % 3}",
                "row": number // 3,
                "tokens": (tokens := rng.randint(0, largest)),
                "tokens_plain": max(0, tokens - 5) if kind == "chat" else tokens,
                "bytes": 4 * tokens,
                "language": rng.choice(["en", "en", "de"]),
                "quality": rng.random(),
                "vigintile": rng.randint(1, 20),
                "length_bucket": rng.choice(["<1K", "1K-2K", "2K-4K"]),
                "holdout": rng.random() < 0.1,
                "gzip_ratio": ratios.choice([ratios.random(), 0.5]) if tokens else None,
                "topic": TOPICS[number % 3],
            }
            for number in range(documents)
        ],
        schema=CATALOG,
    )


def recipe_of(*lines: dict, **keys) -> Recipe:
    return Recipe.model_validate({"kind": "pretrain", "name": "m", "seed": 3, "lines": list(lines), **keys})


def broken_promises(planned: Plan, catalogs: dict[str, pa.Table]) -> set[str]:
    """Which promises a plan breaks, by plain loops over its rows and the catalogs."""
    broken = set()
    known = {(d["source"], d["id"]): d for table in catalogs.values() for d in table.to_pylist()}
    taken: dict[tuple, list] = defaultdict(list)
    for row in planned.rows.iter_rows(named=True):
        taken[row["source"], row["bucket"]].append(row)
        document = known[row["source"], row["id"]]
        if document["holdout"]:
            broken.add("holdout")
        if (row["shard"], row["row"]) != (document["shard"], document["row"]) or row["tokens"] == 0:
            broken.add("row")
    caps = {source: line.max_repeats for line in planned.recipe.lines for source in line.source}
    for line in planned.account:
        rows = taken.pop((line["source"], line["bucket"]), [])
        tokens = sum(row["tokens"] * row["copies"] for row in rows)
        largest = max((d["tokens"] for d in known.values() if d["source"] == line["source"]), default=0)
        if abs(tokens - line["target_tokens"]) > largest:
            broken.add("target")
        if any(row["copies"] > math.ceil(caps[line["source"]]) for row in rows):
            broken.add("cap")
        if (tokens, len(rows)) != (line["tokens"], line["documents"]):
            broken.add("account")
    if taken:
        broken.add("account")
    for line in planned.lines:
        rows = [d["tokens"] for d in known.values() if d["source"] in line["name"].replace("+", " ").split()]
        if abs(line["error_tokens"]) > max(rows, default=0):
            broken.add("line")
    return broken


SHARES = st.lists(st.integers(1, 100), min_size=1, max_size=3)


@st.composite
def worlds(draw):
    """Catalogs of one to three sources and a recipe over them: shares, or fixed lines and a remainder."""
    parts = draw(SHARES)
    names = "abc"[: len(parts)]
    catalogs = {name: catalog(name, draw(st.integers(0, 40)), draw(st.integers(0, 99))) for name in names}
    lines = []
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        line = {
            "source": name,
            "max_repeats": draw(st.sampled_from([1, 1.5, 4])),
            "share": f"{part / sum(parts):.9f}",
        }
        if number == 0 and len(parts) > 1 and draw(st.booleans()):
            del line["share"]
            line |= draw(
                st.sampled_from([{"remainder": True}, {"whole": True}, {"fraction": "36.3%"}, {"tokens": 900}])
            )
        line |= draw(
            st.sampled_from(
                [
                    {},
                    {},
                    {"language": "en"},
                    {"quality": {"min_vigintile": 9}},
                    {"length": ["<1K", "2K-4K"]},
                    {"gzip": {"drop_lowest": "20%", "drop_highest": "30%"}},
                ]
            )
        )
        lines.append(line)
    budget = draw(st.integers(100, 12_000))
    return catalogs, recipe_of(*lines, budget=budget)


@given(worlds())
@settings(max_examples=120, deadline=None)
def test_promises(world):
    catalogs, recipe = world
    planned = plan(recipe, catalogs)
    if planned.feasible:
        assert broken_promises(planned, catalogs) == set()
    else:
        names = {line.name for line in recipe.lines} | {recipe.name}
        assert all(problem.name in names and problem.shortage_tokens > 0 for problem in planned.problems)
        assert all(problem.choices for problem in planned.problems)
        with pytest.raises(InfeasibleError, match="asks for"):
            planned.require_feasible()


@given(worlds(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_no_order_of_rows_or_sources_is_seen(world, seed):
    catalogs, recipe = world
    assert same_rows(plan(recipe, catalogs), plan(recipe, shuffled(catalogs, seed)))


def shuffled(catalogs: dict[str, pa.Table], seed: int) -> dict[str, pa.Table]:
    rng, result = random.Random(seed), {}
    for name in rng.sample(sorted(catalogs), len(catalogs)):
        rows = rng.sample(range(len(catalogs[name])), len(catalogs[name]))
        result[name] = catalogs[name].take(pa.array(rows, pa.int64()))
    return result


def same_rows(one: Plan, two: Plan) -> bool:
    return one.account == two.account and one.rows.equals(two.rows)


FIXED = {"a": catalog("a", 300), "b": catalog("b", 300)}
TWO_LINES = recipe_of(
    {"source": "a", "share": "60%"}, {"source": "b", "share": "40%", "max_repeats": 3}, budget=40_000
)


def test_the_fixed_world_keeps_its_promises():
    planned = plan(TWO_LINES, FIXED)
    assert planned.feasible
    assert broken_promises(planned, FIXED) == set()


def keep_holdout(monkeypatch):
    monkeypatch.setattr(Pool, "held", lambda self, table: np.zeros(len(table), bool))


def miss_by_documents(monkeypatch):
    original = ends_module.nearest_prefix
    fewer = lambda tokens, *rest: (max(0, original(tokens, *rest)[0] - 3), 0)  # noqa: E731
    monkeypatch.setattr(ends_module, "nearest_prefix", fewer)


def copy_too_often(monkeypatch):
    greedy = lambda cells, *rest: np.where(cells >= 0, np.where(np.arange(len(cells)) < 50, 9, 0), 0)  # noqa: E731
    monkeypatch.setattr(draw_module, "_copies", greedy)


def forget_to_count(monkeypatch):
    original = ends_module.CellDraw.counts
    less = lambda self, sequence: original(self, sequence) | {"documents": 1}  # noqa: E731
    monkeypatch.setattr(ends_module.CellDraw, "counts", less)


@pytest.mark.parametrize(
    ("plant", "promise"),
    [
        (keep_holdout, "holdout"),
        (miss_by_documents, "target"),
        (miss_by_documents, "line"),
        (copy_too_often, "cap"),
        (forget_to_count, "account"),
    ],
)
def test_planted_bugs_break_a_promise(monkeypatch, plant, promise: str):
    plant(monkeypatch)
    assert promise in broken_promises(plan(TWO_LINES, FIXED), FIXED)


def test_planted_selection_by_place_sees_the_order(monkeypatch):
    assert same_rows(plan(TWO_LINES, FIXED), plan(TWO_LINES, shuffled(FIXED, 1)))
    by_place = lambda high, low, key: np.arange(len(high), dtype=np.uint64) << np.uint64(54)  # noqa: E731
    monkeypatch.setattr(draw_module, "keyed_hash_of", by_place)
    one, two = plan(TWO_LINES, FIXED), plan(TWO_LINES, shuffled(FIXED, 1))
    monkeypatch.undo()
    assert not same_rows(one, two)


def documents(planned: Plan) -> dict[str, int]:
    return dict(planned.rows.select("id", "copies").iter_rows())


@given(st.integers(100, 60_000), st.integers(100, 60_000))
@settings(max_examples=40, deadline=None)
def test_a_smaller_budget_is_part_of_a_larger(one, two):
    small, large = sorted((one, two))
    lines = [
        {"source": "a", "share": "35.7%", "max_repeats": 9},
        {"source": "b", "share": "64.3%", "max_repeats": 9},
    ]
    of_small = documents(plan(recipe_of(*lines, budget=small), FIXED))
    of_large = documents(plan(recipe_of(*lines, budget=large, name="other"), FIXED))
    assert all(of_large.get(document, 0) >= copies for document, copies in of_small.items())


def test_another_seed_draws_other_documents():
    lines = [{"source": "a", "fraction": "30%"}]
    one, two = plan(recipe_of(*lines), FIXED), plan(recipe_of(*lines, seed=4), FIXED)
    assert set(documents(one)) != set(documents(two))


def test_new_documents_do_not_reshuffle_the_others():
    """With a tenth more documents and tokens, what stays of a fixed budget is what came first by hash."""
    recipe = recipe_of({"source": "a", "tokens": 10_000})
    before = documents(plan(recipe, FIXED))
    more = pa.concat_tables([FIXED["a"], catalog("a", 30, seed=1)])
    after = documents(plan(recipe, {"a": more}))
    old = set(FIXED["a"]["id"].to_pylist())
    assert set(after) & old < set(before)
    assert len(set(before) - set(after)) <= len(set(after) - old) + 15


def test_shares_fill_the_budget_to_the_token():
    planned = plan(
        recipe_of({"source": ["a", "b"], "share": 1, "quality": {"min_vigintile": 4}}, budget=12_345), FIXED
    )
    assert sum(line["target_tokens"] for line in planned.account) == 12_345
    assert len(planned.account) == 2 * 17


def test_remainder_takes_what_is_left():
    planned = plan(
        recipe_of({"source": "a", "whole": True}, {"source": "b", "remainder": True}, budget=60_000), FIXED
    )
    whole, rest = planned.account
    assert whole["error_tokens"] == 0
    assert whole["tokens"] == whole["pool_tokens"]
    assert rest["target_tokens"] == 60_000 - whole["tokens"]


def test_remainders_share_by_pool_up_to_their_caps():
    lines = [{"source": "a", "remainder": True, "max_repeats": 0.1}, {"source": "b", "remainder": True}]
    small, full = plan(recipe_of(*lines, budget=30_000), FIXED).account
    assert small["target_tokens"] == small["pool_tokens"] // 10
    assert small["target_tokens"] + full["target_tokens"] == 30_000


def test_common_fraction_of_a_group():
    planned = plan(recipe_of({"source": ["a", "b"], "tokens": 20_000}), FIXED)
    one, two = (line["target_tokens"] / line["pool_tokens"] for line in planned.account)
    assert one == pytest.approx(two, abs=1e-4)


def test_upsampling_by_quality():
    line = {"source": "a", "share": 1, "max_repeats": 7, "upsample": {"cut": "40%"}}
    planned = plan(recipe_of(line, budget=60_000), FIXED)
    repeats = [line["repeats"] for line in planned.account]
    assert [line["bucket"] for line in planned.account] == [f"q{n:02d}" for n in range(1, 21)]
    assert repeats[:6] == [0] * 6
    assert repeats[-1] > 3
    assert broken_promises(planned, FIXED) == set()
    assert "upsampling curve" in planned.notes[0]
    too_much = plan(recipe_of(line, budget=10**6), FIXED)
    assert "raise max_repeats" in str(too_much.problems[0])


def feasible_after(choice: str, line: dict, budget: int) -> bool:
    if choice.startswith("raise max_repeats to "):
        line = line | {"max_repeats": float(choice.rsplit(" ", 1)[1])}
    elif choice.startswith("lower the budget to "):
        budget = int(choice.rsplit(" ", 1)[1])
    elif choice.startswith("lower the share to "):
        line = line | {"share": choice.rsplit(" ", 1)[1]}
    elif choice.startswith("set on_shortage"):
        return plan(
            recipe_of(line, {"source": "b", "remainder": True}, budget=budget, on_shortage="take_all"), FIXED
        ).feasible
    else:
        return True
    return plan(
        recipe_of(line, {"source": "b", "remainder": True, "max_repeats": 99}, budget=budget), FIXED
    ).feasible


@pytest.mark.parametrize("extra", [{}, {"quality": {"min_vigintile": 17}}, {"max_repeats": 5, "upsample": {}}])
@pytest.mark.parametrize("budget", [400_000, 777_777])
def test_choices_of_a_problem_make_it_feasible(extra: dict, budget: int):
    line = {"source": "a", "share": "90%", **extra}
    (problem,) = plan(
        recipe_of(line, {"source": "b", "remainder": True, "max_repeats": 99}, budget=budget), FIXED
    ).problems
    assert (problem.line, problem.name) == ("lines.0", "a")
    assert len(problem.choices) == 4 + bool(extra)
    for choice in problem.choices:
        assert feasible_after(choice, line, budget), choice


@pytest.mark.parametrize("share", ["10%", "63.7%"])
def test_choices_of_a_short_remainder(share: str):
    def planned(budget: int, repeats: float = 1) -> Plan:
        rest = {"source": "b", "remainder": True, "max_repeats": repeats}
        return plan(recipe_of({"source": "a", "share": share, "max_repeats": 99}, rest, budget=budget), FIXED)

    (problem,) = planned(200_000).problems
    repeats, budget, _ = problem.choices
    assert planned(200_000, float(repeats.rsplit(" ", 1)[1])).feasible
    budget = int(budget.removeprefix("lower the budget to "))
    assert planned(budget).feasible
    assert not planned(budget + 20).feasible


def test_an_error_line_does_not_swell_the_remainder():
    """Where a shortage is an error, the remainder is what the recipe as written leaves, and not blamed too."""
    lines = [{"source": "a", "share": "90%"}, {"source": "b", "remainder": True}]
    assert [problem.line for problem in plan(recipe_of(*lines, budget=90_000), FIXED).problems] == ["lines.0"]
    taken = plan(recipe_of(*lines, budget=60_000, on_shortage="take_all"), FIXED)
    assert taken.account[1]["target_tokens"] == 60_000 - taken.account[0]["pool_tokens"]


def test_take_all_takes_all_and_says_so():
    planned = plan(recipe_of({"source": "a", "share": 1}, budget=10**6, on_shortage="take_all"), FIXED)
    (line,) = planned.account
    assert planned.feasible
    assert line["tokens"] == line["pool_tokens"]
    assert line["error_tokens"] == line["tokens"] - 10**6
    assert line["note"] == f"{10**6 - line['tokens']} tokens short: the pool holds no more"
    assert any("not to be had" in note for note in planned.notes)


def test_absolute_lines_above_the_budget():
    planned = plan(
        recipe_of(
            {"source": "a", "whole": True}, {"source": "b", "share": "50%"}, budget=1000, on_shortage="take_all"
        ),
        FIXED,
    )
    assert not planned.feasible
    assert "budget: asks for" in str(planned.problems[0])


def test_lines_that_take_the_same_documents():
    lines = [{"source": "a", "fraction": 0.1}, {"source": "a", "fraction": 0.1, "quality": {"min_vigintile": 5}}]
    with pytest.raises(
        RecipeError, match=r"lines\.0 \(a\), lines\.1 \(a\) may take the same \d+ documents of 'a'"
    ):
        plan(recipe_of(*lines), FIXED)
    lines = [{"source": "a", "fraction": 0.1, "where": {"bytes": bounds}} for bounds in ({"min": 99}, {"max": 98})]
    with pytest.raises(RecipeError, match="take the same buckets of 'a' \\(all\\)"):
        plan(recipe_of(*lines), FIXED)
    halves = [
        {"source": "a", "fraction": 0.5, "quality": {"max_vigintile": 10}},
        {"source": "a", "whole": True, "quality": {"min_vigintile": 11}},
    ]
    planned = plan(recipe_of(*halves), FIXED)
    assert planned.rows.select("id").is_unique().all()
    assert broken_promises(planned, FIXED) == set()


def test_errors_name_what_is_wrong():
    with pytest.raises(RecipeError, match="no source 'c'; there are a, b"):
        plan(recipe_of({"source": "c", "whole": True}), FIXED)
    with pytest.raises(RecipeError, match="no mix 'p' to take rows of"):
        plan(recipe_of({"mix": "p", "tokens": 9}), FIXED)
    bare = FIXED["a"].set_column(10, CATALOG.field("vigintile"), pa.nulls(300, pa.uint8()))
    with pytest.raises(RecipeError, match="source 'a' has no quality scores"):
        plan(recipe_of({"source": "a", "whole": True, "quality": {}}), {"a": bare})
    with pytest.raises(ValueError, match="catalog of a: column 'holdout' is missing"):
        plan(recipe_of({"source": "a", "whole": True}), {"a": FIXED["a"].drop(["holdout"])})


def test_chat_counts_plain_tokens_in_a_base_mix_and_template_tokens_in_instruction():
    chat = {"chat": catalog("chat", 50, kind="chat")}
    line = {"source": "chat", "whole": True}
    base = plan(recipe_of(line, kind="midtrain"), chat)
    instruction = plan(recipe_of(line, kind="instruction"), chat)
    free = [d for d in chat["chat"].to_pylist() if not d["holdout"]]
    assert base.totals["tokens"] == sum(d["tokens_plain"] for d in free)
    assert instruction.totals["tokens"] == sum(d["tokens"] for d in free)
    assert set(base.rows["transform"]) == {"chat_plain"}
    assert set(instruction.rows["transform"]) == {"chat"}


def test_an_empty_pool_is_a_line_of_nothing():
    (line,) = plan(recipe_of({"source": "a", "whole": True, "language": "fr"}), FIXED).account
    assert (line["pool_documents"], line["documents"], line["repeats"]) == (0, 0, None)
    planned = plan(recipe_of({"source": "a", "tokens": 50, "language": "fr"}), {"a": catalog("a", 0)})
    assert planned.problems[0].available_tokens == 0


@pytest.fixture
def parent(tmp_path) -> Manifest:
    lines = [{"source": "a", "tokens": 50_000, "max_repeats": 3}, {"source": "b", "tokens": 25_000}]
    built = plan(recipe_of(*lines, kind="midtrain", name="mid"), FIXED)
    write_manifest(tmp_path / "mid", manifest_rows(built), HEAD | {"name": "mid", "account": built.account})
    return load_manifest(tmp_path / "mid")


def test_replay_keeps_the_proportions_of_the_mix(parent: Manifest):
    planned = plan(recipe_of({"mix": "mid", "share": 1}, budget=30_000, kind="long-context"), {}, {"mid": parent})
    a, b = planned.account
    assert (a["source"], a["bucket"], b["source"]) == ("a", "mix:mid", "b")
    assert a["target_tokens"] == pytest.approx(20_000, abs=300)
    assert abs(planned.totals["tokens"] - 30_000) <= 600
    there = {row["id"]: row["copies"] for row in parent.rows().to_pylist()}
    assert all(there[document] >= copies for document, copies in documents(planned).items())
    full = plan(recipe_of({"mix": "mid", "share": 1}, budget=10**6, on_shortage="take_all"), {}, {"mid": parent})
    assert documents(full) == there


def test_replay_takes_no_document_that_the_mix_has(parent: Manifest):
    lines = [{"source": "a", "share": "33.9%", "length": "2K-4K"}, {"mix": "mid", "share": "66.1%"}]
    planned = plan(recipe_of(*lines, budget=30_000, kind="long-context"), FIXED, {"mid": parent})
    assert planned.feasible
    assert planned.rows.select("source", "id", "shard", "row").is_unique().all()
    by_bucket = planned.rows.group_by("bucket").agg((pl.col("tokens") * pl.col("copies")).sum()).sort("bucket")
    assert by_bucket["bucket"].to_list() == ["2K-4K", "mix:mid"]
    assert abs(by_bucket["tokens"][1] - 19_830) <= 600


def test_a_short_replay_is_a_problem_of_its_line(parent: Manifest):
    lines = [{"source": "b", "remainder": True}, {"mix": "mid", "tokens": 500_000}]
    planned = plan(recipe_of(*lines, budget=510_000, kind="long-context"), FIXED, {"mid": parent})
    assert [(problem.line, problem.name) for problem in planned.problems] == [("lines.1", "mix:mid")]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(0, 4000))
def test_copies_come_within_half_a_document(tokens, target):
    tokens = np.array(tokens)
    assume(target <= 60_000)
    copies = select_module.copies_of(np.arange(len(tokens), dtype=np.uint64)[::-1], tokens, target)
    assert 2 * abs(int((copies * tokens).sum()) - target) <= tokens.max()
    assert copies.max() - copies.min() <= 1


def test_manifest_of_a_plan_is_of_its_schema():
    assert manifest_rows(plan(TWO_LINES, FIXED)).schema.equals(MANIFEST)


def test_each_topic_may_have_a_line_of_its_own():
    lines = [
        {"source": "a", "whole": True, "topic": "law", "quality": {"min_vigintile": 11}},
        {"source": "a", "whole": True, "topic": "sea"},
    ]
    planned = plan(recipe_of(*lines), FIXED)
    topics = {row["id"]: (row["topic"], row["vigintile"]) for row in FIXED["a"].to_pylist()}
    for row in planned.rows.iter_rows(named=True):
        topic, vigintile = topics[row["id"]]
        assert row["bucket"] == (f"law/q{vigintile:02d}" if topic == "law" else "sea/all")
        assert topic == "sea" or vigintile >= 11
    assert {row["bucket"].partition("/")[0] for row in planned.rows.iter_rows(named=True)} == {"law", "sea"}
    assert sum(line["pool_tokens"] for line in planned.account) == planned.rows["tokens"].sum()
    with pytest.raises(RecipeError, match="source 'a' has no topic tax; it has law, sea"):
        plan(recipe_of({"source": "a", "whole": True, "topic": "tax"}), FIXED)


def test_a_line_of_several_topics_has_buckets_by_length_in_their_order():
    line = {"source": "a", "whole": True, "topic": ["law", "sea"], "length": ["<1K", "1K-2K", "2K-4K"]}
    planned = plan(recipe_of(line), FIXED)
    assert [one["bucket"] for one in planned.account] == [f"law+sea/{name}" for name in ("<1K", "1K-2K", "2K-4K")]
