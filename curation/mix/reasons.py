"""Why a document came into a mix or went: the recipe, a rule, new data. The steps behind the manifests tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curation.ledger import ledger_path
from curation.mix.diff import Diff
from curation.mix.manifest import Manifest
from curation.steps import StepOutput, find

NEW_DATA, GONE = "new data", "no longer in the data"
RECIPE, POOL = "recipe", "the draw moved with the pools"
POOLS = ("trim", "trim-lines", "edit", "ingest")  # the stations that write a pool
HELD_NOW, HELD_NO_MORE = "now held out", "no longer held out"
KEPT_NOW, DROPPED_NOW = "no longer dropped by", "now dropped by"


class HistoryError(Exception):
    """The steps that a manifest was made of are not in the workspace any more."""


@dataclass(frozen=True)
class _History:
    """What the pipeline knew of a source when a mix was made."""

    pool: StepOutput
    catalog: StepOutput
    ledgers: list[StepOutput]

    def catalogued(self) -> pl.DataFrame:
        """id and holdout of what the stations left."""
        return pl.from_arrow(pq.read_table(self.catalog.folder / "catalog.parquet", columns=["id", "holdout"]))

    def ids_of_pool(self) -> pl.Series:
        tables = [pq.read_table(path, columns=["id"]) for path in self.pool.shards()]
        return pl.from_arrow(pa.concat_tables(tables))["id"] if tables else pl.Series([], dtype=pl.String)

    def dropped_by(self) -> pl.DataFrame:
        """id and what dropped it ("rules: few_words"), the first of several stages."""
        found = [pl.DataFrame(schema={"id": pl.String, "by": pl.String})]
        for ledger in self.ledgers:
            for shard in self.pool.shards():
                path = ledger_path(ledger.folder, self.pool.source, shard.stem)
                if path.exists():
                    table = pl.from_arrow(pq.read_table(path, columns=["id", "stage", "rule", "keep"]))
                    by = pl.concat_str("stage", "rule", separator=": ", ignore_nulls=True)
                    found.append(table.filter(~pl.col("keep")).select("id", by=by))
        return pl.concat(found).unique("id", keep="first", maintain_order=True)


def with_reasons(workspace: Path, before: Manifest, after: Manifest, changes: Diff) -> pa.Table:
    """`changes.documents` with a column `reason`.

    "new data" and "no longer in the data" look at the pools; "now dropped by STAGE: RULE" and its opposite at the
    ledgers; "now held out" and its opposite at the catalogs. A document that could have been taken both times owes
    its change to the recipe if that differs, else to other documents: a share of a larger pool draws others.
    Raises HistoryError where the workspace does not hold the steps.
    """
    otherwise = POOL if before.head["recipe_hash"] == after.head["recipe_hash"] else RECIPE
    documents = pl.from_arrow(changes.documents).with_columns(reason=pl.lit(otherwise))
    parts = [documents.clear()]
    for (source,), rows in documents.group_by("source", maintain_order=True):
        old, new = (manifest.head["catalogs"].get(source) for manifest in (before, after))
        if old != new and old and new:
            rows = _explain(workspace, source, before, after, rows, otherwise)
        parts.append(rows)
    return pl.concat(parts).to_arrow()


def _explain(
    workspace: Path, source: str, before: Manifest, after: Manifest, rows: pl.DataFrame, otherwise: str
) -> pl.DataFrame:
    """The reasons of one source whose catalog is another one than before."""
    old, new = (_history(workspace, manifest, source) for manifest in (before, after))
    reasons = np.full(len(rows), otherwise, object)
    came, went = ("came", old, NEW_DATA, KEPT_NOW, HELD_NO_MORE), ("went", new, GONE, DROPPED_NOW, HELD_NOW)
    for change, other, gone, verb, held in (came, went):
        ids, changed, catalogued = rows["id"], rows["change"] == change, other.catalogued()
        held_out = catalogued.filter("holdout")["id"]
        reasons[(changed & ids.is_in(held_out.implode())).to_numpy()] = held
        absent = (changed & ~ids.is_in(catalogued["id"].implode())).to_numpy()
        if not absent.any():
            continue
        reasons[absent & ~ids.is_in(other.ids_of_pool().implode()).to_numpy()] = gone
        by = rows.select("id").join(other.dropped_by(), on="id", how="left", maintain_order="left")["by"]
        dropped = absent & by.is_not_null().to_numpy()
        reasons[dropped] = [f"{verb} {name}" for name in by.filter(pl.Series(dropped))]
    return rows.with_columns(reason=pl.Series(reasons.tolist(), dtype=pl.String))


def _history(workspace: Path, manifest: Manifest, source: str) -> _History:
    def step(content: str, *names: str) -> StepOutput:
        found = (find(workspace, name, content) for name in names)
        output = next((output for output in found if output is not None), None)
        if output is None:
            raise HistoryError(
                f"{workspace}: step '{names[-1]}' behind the mix '{manifest.head['name']}' ({manifest.hash[:16]}) "
                "is not there any more, so reasons cannot be told; compare without them (--no-reasons)"
            )
        return output

    catalog = step(manifest.head["catalogs"][source], f"catalog/{source}")
    inputs = catalog.record["inputs"]
    stations = {role.removeprefix("ledger/"): content for role, content in inputs.items() if "ledger/" in role}
    ledgers = [step(content, name) for name, content in stations.items() if name.partition("/")[2] in ("", source)]
    return _History(step(inputs["pool"], *pool_steps(source)), catalog, ledgers)


def pool_steps(source: str) -> list[str]:
    """The names that the step of a source's pool may have, the last station's first."""
    return [f"{station}/{source}" for station in POOLS]
