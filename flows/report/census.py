"""The census: documents and tokens of each source after each stage, from the ledgers alone, no text read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from curation.schema import shard_rows
from curation.steps import StepOutput
from flows.report.reading import Stage, column, dropped_at, sources, stages, table_optional
from flows.run import Run


@dataclass
class Amount:
    """Documents and their tokens; `counted` is false where no token count exists."""

    documents: int = 0
    tokens: int = 0

    def __iadd__(self, other: Amount) -> Amount:
        self.documents += other.documents
        self.tokens += other.tokens
        return self


@dataclass
class SourceCensus:
    """One source, from its raw records to what the mixes may take."""

    source: str
    kind: str
    read: int  # records read, quarantined and skipped ones among them
    quarantined: int
    skipped: int
    ingested: Amount
    after: list[Amount]  # after each stage of decision
    dropped: dict[tuple[str, str], Amount] = field(default_factory=dict)  # (stage, rule)
    held_out: Amount | None = None
    available: Amount | None = None  # in the catalog and not held out


@dataclass
class Census:
    stages: list[Stage]
    sources: list[SourceCensus]
    counted: bool  # whether tokens are known

    def dropped(self) -> dict[tuple[str, str], Amount]:
        """What each (stage, rule) dropped over all sources, largest first within a stage."""
        totals: dict[tuple[str, str], Amount] = {}
        for source in self.sources:
            for key, amount in source.dropped.items():
                total = totals.setdefault(key, Amount())
                total += amount
        order = {stage.name: place for place, stage in enumerate(self.stages)}
        return dict(sorted(totals.items(), key=lambda item: (order[item[0][0]], -item[1].documents, item[0][1])))


def take_census(run: Run) -> Census:
    """Count every source of the run. What the stages say of one shard is in memory at a time."""
    decisions = stages(run)
    found = [_source(run, name, pool, decisions) for name, pool in sources(run).items()]
    return Census(decisions, found, bool(run.steps("tokens/")))


def _source(run: Run, name: str, pool: StepOutput, decisions: list[Stage]) -> SourceCensus:
    counts = pool.counts
    skipped = counts.get("skipped", 0)
    skipped = sum(skipped.values()) if isinstance(skipped, dict) else skipped
    quarantined = counts.get("quarantined", 0)
    read = counts.get("records_read", counts.get("documents_out", 0) + quarantined + skipped)
    census = SourceCensus(
        name, counts.get("kind", ""), read, quarantined, skipped, Amount(), [Amount() for _ in decisions]
    )
    counter = run.step(f"tokens/{name}")
    for path in pool.shards():
        _shard(census, decisions, counter, path.stem, shard_rows(path))
    catalog = table_optional(run.step(f"catalog/{name}"), "catalog.parquet", ["tokens", "holdout", "kind"])
    if catalog is not None:
        held = pc.filter(catalog["tokens"], catalog["holdout"])
        free = pc.filter(catalog["tokens"], pc.invert(catalog["holdout"]))
        census.held_out = Amount(len(held), pc.sum(held).as_py() or 0)
        census.available = Amount(len(free), pc.sum(free).as_py() or 0)
        census.kind = census.kind or (catalog["kind"][0].as_py() if len(catalog) else "")
    return census


def _shard(
    census: SourceCensus, decisions: list[Stage], counter: StepOutput | None, shard: str, rows: int
) -> None:
    tokens = column(counter, shard, "tokens")
    weights = np.zeros(rows, np.int64) if tokens is None else tokens.astype(np.int64)
    ledgers = [stage.read(census.source, shard, ["row", "rule", "keep"]) for stage in decisions]
    gone = dropped_at(ledgers, rows)
    census.ingested += Amount(rows, int(weights.sum()))
    for index, (stage, table) in enumerate(zip(decisions, ledgers, strict=True)):
        left = (gone < 0) | (gone > index)
        census.after[index] += Amount(int(left.sum()), int(weights[left].sum()))
        if table is None:
            continue
        encoded = table["rule"].combine_chunks().dictionary_encode()
        at = table["row"].to_numpy()
        codes = encoded.indices.fill_null(-1).to_numpy()
        for code, rule in enumerate(encoded.dictionary.to_pylist()):
            mine = at[(codes == code) & (gone[at] == index)]
            total = census.dropped.setdefault((stage.name, rule), Amount())
            total += Amount(len(mine), int(weights[mine].sum()))
