"""Planning, mixing and verifying over pools of millions of rows in 480 buckets: seconds, processor time, memory.

    python -m tests.benchmarks.mixing [--rows 1M 10M 30M] [--folder DIR]

The pool is one source of 24 topics by 20 vigintiles with lengths as documents of the web have them (log-normal,
900 tokens in the mean); the recipe divides it by topic as Dolma 3's 6T mix does (shares and curve of
manifests/olmo3/6t.yaml, half as many tokens as the pool has). A pool size runs in a process of its own. *plan*
reads the catalog twice and finds every document that is taken; *mix* is plan and manifest, written and hashed;
*verify* recomputes every number from the parts. DIR needs some 90 bytes a row. The command fails if 10 million
rows or fewer need more than 4 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from curation.config import parse_count
from curation.keys import join_ids
from curation.mix.manifest import verify_manifest, write_sorted
from curation.mix.plan import plan
from curation.mix.recipe import Recipe, load_recipe
from curation.schema import CATALOG

OLMO3 = Path(__file__).parents[2] / "manifests" / "olmo3"
GROUP = 1 << 16
MEMORY = 4 << 30
HEAD = {"tokenizer_hash": "", "pools": {}, "catalogs": {}, "parents": {}}


def write_catalog(path: Path, rows: int, topics: list[str]) -> int:
    """A catalog of so many rows, made a row group at a time; its tokens."""
    rng, tokens_in_all = np.random.default_rng(rows), 0
    names = pa.array(topics)
    with pq.ParquetWriter(path, CATALOG, compression="zstd") as writer:
        for start in range(0, rows, GROUP):
            n = min(GROUP, rows - start)
            halves = rng.integers(0, 2**64, (2, n), np.uint64)
            tokens = np.clip(rng.lognormal(6.3, 1.0, n), 1, 1 << 20).astype(np.uint32)
            tokens_in_all += int(tokens.sum())
            columns = {
                "id": join_ids(*halves),
                "source": pa.repeat(pa.scalar("common-crawl"), n),
                "kind": pa.repeat(pa.scalar("text"), n),
                "shard": pa.repeat(pa.scalar(f"shard-{start // (1 << 18):05d}"), n),
                "row": pa.array(np.arange(n, dtype=np.uint32)),
                "tokens": tokens,
                "tokens_plain": tokens,
                "bytes": tokens.astype(np.uint64) * 4,
                "language": pa.repeat(pa.scalar("en"), n),
                "quality": rng.random(n, np.float32),
                "vigintile": rng.integers(1, 21, n, np.uint8),
                "length_bucket": pa.repeat(pa.scalar("<1K"), n),
                "holdout": np.zeros(n, bool),
                "gzip_ratio": rng.random(n),
                "topic": names.take(pa.array(rng.integers(0, len(topics), n))),
            }
            writer.write_table(pa.table(columns, schema=CATALOG), row_group_size=GROUP)
    return tokens_in_all


def recipe_for(tokens: int) -> Recipe:
    """The web's part of the 6T recipe, over half of a pool's tokens."""
    literals = load_recipe(OLMO3 / "6t.yaml").model_dump(exclude_none=True)
    web = literals["lines"][0] | {"share": 1.0}
    return Recipe.model_validate(
        literals | {"name": "web", "budget": tokens // 2, "lines": [web], "underfill": None}
    )


def measured(work) -> tuple[dict[str, float], object]:
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "processor": used, "peak": after.ru_maxrss * 1024}, result


def run(rows: int, folder: Path) -> dict:
    """All figures of one size; in a process of its own."""
    topics = [line.topic[0] for line in recipe_for(2).lines[0].lines]
    small = folder / "small.parquet"
    warm = recipe_for(write_catalog(small, 4_000, topics))
    write_sorted(folder, plan(warm, {"common-crawl": small}).tables(folder / "scratch"), head_of(warm))
    path = folder / "catalog.parquet"
    recipe = recipe_for(write_catalog(path, rows, topics))
    catalogs = {"common-crawl": path}
    result = {"rows": rows, "bytes": path.stat().st_size}
    result["plan"], planned = measured(lambda: plan(recipe, catalogs))
    planned.require_feasible()
    result |= {"buckets": len(planned.account), "taken": planned.totals["unique_documents"]}
    result["error"] = max(abs(line["error_tokens"]) for line in planned.lines)
    del planned
    out = folder / "mix"
    out.mkdir()
    result["mix"], _ = measured(
        lambda: write_sorted(out, plan(recipe, catalogs).tables(folder / "scratch"), head_of(recipe))
    )
    result["verify"], problems = measured(lambda: verify_manifest(out))
    assert problems == [], problems
    return result


def head_of(recipe: Recipe) -> dict:
    return HEAD | {"kind": recipe.kind, "name": recipe.name, "recipe": recipe.text(), "seed": recipe.seed}


def show(results: list[dict]) -> None:
    table = Table(title="Mixing", title_justify="left", box=None)
    table.add_column("")
    for result in results:
        table.add_column(f"{result['rows'] / 1e6:g}M rows", justify="right")

    def row(name: str, cell) -> None:
        table.add_row(name, *(cell(result) for result in results))

    row("buckets", lambda one: f"{one['buckets']}")
    row("documents taken, millions", lambda one: f"{one['taken'] / 1e6:.2f}")
    row("most that a line misses by, tokens", lambda one: f"{one['error']:,}")
    for name in ("plan", "mix", "verify"):
        row(f"{name}, seconds", lambda one, name=name: f"{one[name]['seconds']:.1f}")
        row(f"{name}, seconds of processor", lambda one, name=name: f"{one[name]['processor']:.1f}")
    row("peak memory of plan, MiB", lambda one: f"{one['plan']['peak'] / 2**20:.0f}")
    row("peak memory of all, MiB", lambda one: f"{one['verify']['peak'] / 2**20:.0f}")
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", type=parse_count, default=[10**6, 10**7, 3 * 10**7])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.folder)))
        return
    results = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, "-m", "tests.benchmarks.mixing", "--one", str(rows), "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            results.append(json.loads(done.stdout))
    show(results)
    large = [one for one in results if one["rows"] <= 10**7 and one["verify"]["peak"] > MEMORY]
    sys.exit(f"{len(large)} sizes need more than 4 GiB" if large else 0)


if __name__ == "__main__":
    main()
