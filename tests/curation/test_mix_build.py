"""The station `mix/<name>`: what is built is what was planned, and nothing but content decides about its bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.executor import LocalExecutor
from curation.mix.build import mix
from curation.mix.diff import diff
from curation.mix.manifest import load_manifest, verify_manifest
from curation.mix.plan import InfeasibleError, plan
from curation.mix.recipe import Recipe
from curation.mix.rows import RecipeError
from curation.schema import CATALOG
from curation.steps import Context, StepOutput, step

BASE = {"kind": "midtrain", "name": "mid", "seed": 5, "sequence_length": 128}
MIDTRAIN = Recipe.model_validate(
    BASE
    | {
        "budget": 20_000,
        "lines": [
            {"source": "web", "share": "70%", "max_repeats": 7, "upsample": {"cut": 0.4}},
            {"source": "code", "share": "30%"},
        ],
    }
)
LONG = Recipe.model_validate(
    BASE
    | {
        "kind": "long-context",
        "name": "long",
        "budget": 9_000,
        "lines": [{"source": "code", "share": "33.9%", "length": ["1K-2K"]}, {"mix": "mid", "share": "66.1%"}],
    }
)


def catalog(source: str, documents: int = 400) -> pa.Table:
    rng = random.Random(source)
    rows = []
    for number in range(documents):
        tokens = rng.randint(0, 200)
        rows.append(
            {
                "id": f"{rng.getrandbits(128):032x}",
                "source": source,
                "kind": "text",
                "shard": "s0",
                "row": number,
                "tokens": tokens,
                "tokens_plain": tokens,
                "bytes": tokens,
                "language": "en",
                "quality": 0.5,
                "vigintile": rng.randint(1, 20),
                "length_bucket": rng.choice(["<1K", "1K-2K"]),
                "holdout": rng.random() < 0.1,
                "gzip_ratio": 0.2 + tokens / 400,
            }
        )
    return pa.Table.from_pylist(rows, schema=CATALOG)


def constant_step(ctx: Context, name: str, table: pa.Table | None = None, version: int = 1) -> StepOutput:
    def work(build):
        build.write_table("catalog.parquet", pa.table({"name": [name]}) if table is None else table)

    return step(ctx, name, version, {"rows": 0 if table is None else table.to_pylist()}, {}, work)


def inputs(ctx: Context, order: tuple[str, ...] = ("web", "code"), shuffle: int | None = None):
    catalogs, pools = {}, {}
    for source in order:
        table = catalog(source)
        if shuffle is not None:
            table = table.take(pa.array(random.Random(shuffle).sample(range(len(table)), len(table))))
        catalogs[source] = constant_step(ctx, f"catalog/{source}", table)
        pools[source] = constant_step(ctx, f"ingest/{source}")
    return catalogs, pools, constant_step(ctx, "tokenizer")


def build_both(ctx: Context, order=("web", "code")) -> tuple[StepOutput, StepOutput]:
    catalogs, pools, tokenizer = inputs(ctx, order)
    types = {"web": "Web pages", "code": "Code"}
    middle = mix(ctx, MIDTRAIN, catalogs, pools, tokenizer, types=types)
    return middle, mix(ctx, LONG, catalogs, pools, tokenizer, {"mid": middle}, types)


def test_built_is_planned(context: Context):
    middle, long = build_both(context)
    catalogs = {name: catalog(name) for name in ("web", "code")}
    for recipe, output in ((MIDTRAIN, middle), (LONG, long)):
        planned = plan(recipe, catalogs, {"mid": middle.folder}, {"web": "Web pages", "code": "Code"})
        manifest = load_manifest(output.folder)
        assert manifest.head["account"] == planned.account
        assert manifest.head["totals"] == planned.totals
        assert verify_manifest(output.folder) == []
        assert output.counts["tokens"] == sum(line["tokens"] for line in planned.account)
        assert output.counts["documents_out"] == manifest.rows()["id"].combine_chunks().unique().__len__()
    head = load_manifest(long.folder).head
    assert head["parents"] == {"mid": load_manifest(middle.folder).hash}
    assert {line["type"] for line in head["account"]} == {"Web pages", "Code"}
    assert sorted(head["pools"]) == ["code", "web"]


def files(output: StepOutput) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.folder.iterdir() if path.name != "step.json"}


def test_same_bytes_for_any_workers_and_order(tmp_path: Path):
    one = build_both(Context(tmp_path / "one"))
    with LocalExecutor(2) as executor:
        two = build_both(Context(tmp_path / "two", executor), ("code", "web"))
    for a, b in zip(one, two, strict=True):
        assert a.folder.name == b.folder.name
        assert files(a) == files(b)
        assert len(files(a)) == 2


def test_a_permuted_catalog_gives_the_same_rows(tmp_path: Path):
    """Its content hash is another, which the head tells; the rows and the account are the same."""
    one, two = Context(tmp_path / "one"), Context(tmp_path / "two")
    a = load_manifest(mix(one, MIDTRAIN, *inputs(one)).folder)
    b = load_manifest(mix(two, MIDTRAIN, *inputs(two, shuffle=3)).folder)
    assert a.rows().equals(b.rows())
    assert a.head["account"] == b.head["account"]
    assert a.hash != b.hash


def test_same_bytes_for_any_hash_seed(tmp_path: Path):
    code = (
        "import runpy, sys; from pathlib import Path; from curation.steps import Context\n"
        "names = runpy.run_path(sys.argv[1])\n"
        "outputs = names['build_both'](Context(Path(sys.argv[2])))\n"
        "print([output.content for output in outputs])"
    )
    found = []
    for seed in ("0", "1"):
        command = [sys.executable, "-c", code, __file__, str(tmp_path / seed)]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()}
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1] != ""


def test_what_makes_a_mix_new(context: Context):
    catalogs, pools, tokenizer = inputs(context)
    first = mix(context, MIDTRAIN, catalogs, pools, tokenizer)
    assert mix(context, MIDTRAIN, catalogs, pools, tokenizer).reused
    moved = MIDTRAIN.model_copy(update={"pipeline": "elsewhere.yaml"})
    assert mix(context, moved, catalogs, pools, tokenizer).reused
    extra = {"books": constant_step(context, "catalog/books", catalog("books"))}
    assert mix(context, MIDTRAIN, catalogs | extra, pools | extra, tokenizer).reused
    other = constant_step(context, "tokenizer", pa.table({"other": [1]}))
    assert mix(context, MIDTRAIN, catalogs, pools, other).folder != first.folder
    assert mix(context, MIDTRAIN.model_copy(update={"seed": 6}), catalogs, pools, tokenizer).folder != first.folder


def test_infeasible_builds_nothing(context: Context):
    catalogs, pools, tokenizer = inputs(context)
    recipe = MIDTRAIN.model_copy(update={"budget": 10**7})
    with pytest.raises(InfeasibleError, match=r"lines\.1 \(code\): asks for 3,000,000 tokens"):
        mix(context, recipe, catalogs, pools, tokenizer)
    assert not list((context.workspace / "steps" / "mix").rglob("mix.json"))


def test_a_parent_of_other_inputs_is_refused(context: Context):
    catalogs, pools, tokenizer = inputs(context)
    middle = mix(context, MIDTRAIN, catalogs, pools, tokenizer)
    other = constant_step(context, "tokenizer", pa.table({"other": [1]}))
    with pytest.raises(RecipeError, match="'mid' was made with another tokenizer"):
        mix(context, LONG, catalogs, pools, other, {"mid": middle})
    newer = pools | {"web": constant_step(context, "ingest/web", version=2)}
    newer["web"] = constant_step(context, "ingest/web", pa.table({"new": [1]}))
    with pytest.raises(RecipeError, match="'mid' was made of another version of 'web'"):
        mix(context, LONG, catalogs, newer, tokenizer, {"mid": middle})
    with pytest.raises(RecipeError, match="no source 'web'; there are code"):
        mix(context, MIDTRAIN, {"code": catalogs["code"]}, pools, tokenizer)


def test_footer_names_recipe_and_inputs(context: Context):
    middle, _ = build_both(context)
    footer = pq.read_metadata(middle.folder / "part-00000.parquet").metadata[b"mixwright.mix"].decode()
    for expected in ("midtrain", "max_repeats", load_manifest(middle.folder).head["catalogs"]["web"]):
        assert expected in footer


def test_diff(context: Context):
    catalogs, pools, tokenizer = inputs(context)
    small = load_manifest(mix(context, MIDTRAIN, catalogs, pools, tokenizer).folder)
    more = MIDTRAIN.model_copy(update={"budget": 30_000, "lines": MIDTRAIN.lines[:1], "name": "web-only"})
    more = Recipe.model_validate(more.model_dump() | {"lines": [{"source": "web", "tokens": 21_000}]})
    large = load_manifest(mix(context, more, catalogs, pools, tokenizer).folder)
    changes = diff(small, large)
    before = {(row["source"], row["id"]): row for row in small.rows().to_pylist()}
    after = {(row["source"], row["id"]): row for row in large.rows().to_pylist()}
    counts = {line["source"]: line for line in changes.counts}
    assert counts["code"]["came"] == 0
    assert counts["code"]["went"] == sum(source == "code" for source, _ in before)
    web = {key for key in {*before, *after} if key[0] == "web"}
    shared = [key for key in web if key in before and key in after]
    assert counts["web"]["came"] == len(web - set(before))
    assert counts["web"]["went"] == len(web - set(after))
    assert counts["web"]["copies"] == sum(before[key]["copies"] != after[key]["copies"] for key in shared)
    assert counts["web"]["same"] == len(shared) - counts["web"]["copies"] > 0
    assert (
        sum(line["tokens"] for line in changes.counts)
        == large.head["totals"]["tokens"] - small.head["totals"]["tokens"]
    )
    assert len(changes.documents) == sum(
        line[key] for line in changes.counts for key in ("came", "went", "copies")
    )
    assert diff(small, small).documents.num_rows == 0
