"""Decide anew over stored measurements: the command `decide`. No text is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curation.ledger import ledger_path
from curation.rules.decide import decide
from curation.rules.profile import Profile, Rule
from curation.steps import Context, StepOutput
from flows.pools import MeasuredPool, require_measurements
from flows.report import human


@dataclass(frozen=True)
class RuleCount:
    """What one rule drops of a pool: `dropped` counts documents for which it is the first that fails."""

    rule: str
    measurement: str
    limit: str
    failing: int
    failing_alone: int | None  # not known after a short circuit
    dropped: int
    tokens: int  # of the documents dropped


@dataclass(frozen=True)
class Decided:
    """One pool under a profile. `estimated`: tokens are guessed from bytes, since nothing has counted them."""

    source: str
    step: StepOutput
    documents: int
    kept: int
    tokens: int
    kept_tokens: int
    estimated: bool
    rules: list[RuleCount]

    def as_json(self) -> dict[str, Any]:
        rules = [asdict(rule) for rule in self.rules]
        names = ("source", "documents", "kept", "tokens", "kept_tokens")
        told = {name: getattr(self, name) for name in names}
        return {**told, "tokens_estimated": self.estimated, "ledger": str(self.step.folder), "rules": rules}


def decide_pools(context: Context, pools: list[MeasuredPool], profile: Profile) -> list[Decided]:
    """The step `rules/<source>` of each pool under the profile, and what each rule does.

    Raises ConfigError for a measurement that a pool was measured without.
    """
    require_measurements(profile, pools)
    return [_decided(pool, decide(context, pool.measured, profile), profile) for pool in pools]


def _decided(pool: MeasuredPool, step: StepOutput, profile: Profile) -> Decided:
    places = {rule.name: place for place, rule in enumerate(profile.rules)}
    by_rule = np.zeros(len(places) + 1, np.int64)  # the last one is for what is kept
    for shard, _, tokens in pool.shards([]):
        ledger = pq.read_table(ledger_path(step.folder, pool.source, shard), columns=["rule"])
        first = ledger["rule"].combine_chunks().dictionary_encode()
        names = [places[name] for name in first.dictionary.to_pylist()]
        rows = np.array([*names, len(places)])[first.indices.fill_null(len(names)).to_numpy()]
        by_rule += np.bincount(rows, tokens, len(places) + 1).astype(np.int64)
    counts = step.counts
    rules = [
        RuleCount(
            rule.name,
            rule.measurement,
            limit(rule),
            counts["failing"][rule.name],
            counts["failing_alone"].get(rule.name),
            counts["dropped"][rule.name],
            int(by_rule[places[rule.name]]),
        )
        for rule in profile.rules
    ]
    return Decided(
        pool.source,
        step,
        counts["documents_in"],
        counts["documents_out"],
        int(by_rule.sum()),
        int(by_rule[-1]),
        pool.tokens is None,
        rules,
    )


def limit(rule: Rule) -> str:
    """What a rule drops, in a few signs: "< 50", "≥ 0.2", "not en, de"."""
    if rule.keep_in is not None:
        return "not " + ", ".join(rule.keep_in)
    signs = {"drop_below": "<≤", "drop_above": ">≥"}[rule.comparison]
    return f"{signs[rule.at_threshold == 'drop']} {human.number(rule.threshold)}"


def print_decided(decided: list[Decided], profile: Profile, console: Console) -> None:
    """A table for each pool: its rules, documents and tokens."""
    for one in decided:
        mark = "~" if one.estimated else ""
        table = Table(title=f"{one.source} under {profile.name} {profile.version}", title_justify="left", box=None)
        for name in ("rule", "measurement", "drops"):
            table.add_column(name)
        for name in ("fails", "fails alone", "dropped first", "of documents", "tokens", "of tokens"):
            table.add_column(name, justify="right")
        for rule in one.rules:
            table.add_row(
                Text(rule.rule),
                Text(rule.measurement),
                Text(rule.limit),
                human.count(rule.failing),
                human.count(rule.failing_alone),
                human.count(rule.dropped),
                human.percent(rule.dropped / max(1, one.documents)),
                mark + human.count(rule.tokens),
                human.percent(rule.tokens / max(1, one.tokens)),
            )
        console.print(table)
        console.print(
            Text(
                f"kept {one.kept:,} of {one.documents:,} documents, {mark}{human.count(one.kept_tokens)} of "
                f"{mark}{human.count(one.tokens)} tokens; ledger: {one.step.folder}"
            )
        )
    if profile.overrides:
        console.print(
            Text(f"{len(profile.overrides)} overrides apply; the ledger holds the thresholds applied", "dim")
        )
    if any(one.estimated for one in decided):
        console.print(Text("~ tokens estimated from bytes: they have not been counted", "dim"))
