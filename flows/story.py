"""The story of one document, as plain data: from raw file and offset to the mixes and checkpoints that hold it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.steps import StepOutput
from flows.report import human
from flows.report.contamination import STEP as CONTAMINATION
from flows.report.contamination import matches_at
from flows.report.edits import edits_at
from flows.report.lineage import ancestors, checkpoints
from flows.report.reading import (
    Place,
    Stage,
    documents,
    manifest_parts,
    manifests,
    readable,
    row_of,
    sources,
    stages,
)
from flows.run import Run

SHORTEST_PREFIX = 6
CANDIDATES_SHOWN = 12
EXCERPT = 600

# {"id", "run", "occurrences": [...]}; an occurrence is a mapping with the keys that `_occurrence` sets.
# Nothing but strings, numbers, booleans, None, lists and mappings: `json.dumps` takes it.
Story = dict[str, Any]


class DocumentIdError(Exception):
    """The id or its prefix does not name one document."""


class UnknownDocumentError(DocumentIdError):
    """No document of the run's pools has this id."""


class AmbiguousIdError(DocumentIdError):
    """Several documents' ids begin like this. `candidates` are (id, source, origin)."""

    def __init__(self, prefix: str, candidates: list[tuple[str, str, str]], total: int):
        lines = [f"  {identity}  {source}  {origin}" for identity, source, origin in candidates]
        more = f"\n  and {total - len(candidates)} more" if total > len(candidates) else ""
        super().__init__(f"{total} ids begin with '{prefix}'; give more digits:\n" + "\n".join(lines) + more)
        self.candidates = candidates


def why(run: Run, id_prefix: str) -> Story:
    """The story of the document whose id begins with `id_prefix` (at least 6 hex digits), as plain data.

    One id may have several occurrences: the same content read twice in one source. Raises DocumentIdError for a
    malformed prefix, UnknownDocumentError, AmbiguousIdError.
    """
    prefix = id_prefix.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},32}}", prefix):
        expected = f"{SHORTEST_PREFIX} to 32 hex digits"
        raise DocumentIdError(f"'{id_prefix}' is not a document id: expected {expected}, as the report shows them")
    pools = sources(run)
    found = find(pools, prefix)
    if not found:
        searched = ", ".join(pools) or "no pool"
        raise UnknownDocumentError(
            f"no document of run {run.name} has an id that begins with '{prefix}' (searched: {searched})"
        )
    if len({identity for identity, _ in found}) > 1:
        raise _ambiguous(pools, prefix, found)
    identity = found[0][0]
    facts = _Facts(run, pools)
    return {
        "id": identity,
        "run": run.name,
        "occurrences": [_occurrence(facts, identity, place) for _, place in found],
    }


def find(pools: dict[str, StepOutput], prefix: str) -> list[tuple[str, Place]]:
    """(id, place) of every document whose id begins with `prefix`. Reads the id column alone, shard by shard."""
    found = []
    for source, pool in pools.items():
        for path in pool.shards():
            ids = pq.read_table(path, columns=["id"])["id"].combine_chunks()
            rows = np.flatnonzero(pc.starts_with(ids, prefix).to_numpy(zero_copy_only=False)).tolist()
            found += [(ids[row].as_py(), Place(source, path.stem, row)) for row in rows]
    return found


def _ambiguous(pools: dict[str, StepOutput], prefix: str, found: list[tuple[str, Place]]) -> AmbiguousIdError:
    first = dict(sorted(found, reverse=True))
    shown = sorted(first)[:CANDIDATES_SHOWN]
    origins = documents(pools, [first[identity] for identity in shown])
    candidates = [
        (identity, first[identity].source, origins[first[identity]]["origin"] or "") for identity in shown
    ]
    return AmbiguousIdError(prefix, candidates, len(first))


class _Facts:
    """What all occurrences of a story look into, read once."""

    def __init__(self, run: Run, pools: dict[str, StepOutput]):
        self.run, self.pools = run, pools
        self.stages: list[Stage] = stages(run)
        self.manifests = manifests(run)
        self.heldout = run.steps("heldout/")
        self.checkpoints = checkpoints(run)


def _occurrence(facts: _Facts, identity: str, place: Place) -> dict[str, Any]:
    run = facts.run
    document = documents(facts.pools, [place])[place]
    text = readable(document)
    measured = row_of(run.step(f"measure/{place.source}"), place.shard, place.row, ("id", "minhash"))
    tokens = row_of(run.step(f"tokens/{place.source}"), place.shard, place.row, ("id",))
    classes = row_of(run.step(f"classify/{place.source}"), place.shard, place.row, ("id",))
    catalog = _matching(run.step(f"catalog/{place.source}"), "catalog.parquet", identity, place)
    mixes = _mixes(facts, identity, place)
    decisions = [_decision(facts, stage, place) for stage in facts.stages]
    occurrence = {
        "place": place._asdict(),
        "origin": document["origin"],
        "created": document["created"],
        "metadata": _metadata(document["metadata"]),
        "characters": len(text),
        "excerpt": human.excerpt(text, EXCERPT),
        "edits": edits_at(run, place),
        "measurements": measured,
        "decisions": decisions,
        "tokens": tokens,
        "quality": classes.get("quality"),
        "classes": classes,
        "catalog": {key: value for key, value in catalog.items() if key not in ("id", "source", "shard", "row")},
        "heldout": _heldout(facts, identity, place),
        "mixes": mixes,
        "checkpoints": _checkpoints(facts, mixes),
    }
    return {**occurrence, "verdict": _verdict(occurrence)}


def _metadata(text: str | None) -> Any:
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return {"unparsed": text}


def _decision(facts: _Facts, stage: Stage, place: Place) -> dict[str, Any]:
    row = _ledger_row(stage, place)
    if row is None:
        return {"stage": stage.name, "examined": False, "keep": True}
    entry = {key: row[key] for key in ("stage", "keep", "rule", "value", "threshold")}
    failures = stage.ledgers[place.source].folder / "failures" / f"{place.shard}.parquet"
    if not row["keep"] and failures.exists():
        entry["also_fails"] = [rule for rule in _failures(failures, place.row) if rule != row["rule"]]
    if row["twin"]:
        entry["twin"] = _twin(facts, stage, row["twin"], place)
    if row["rule"] and stage.name == CONTAMINATION:
        entry["matches"] = matches_at(facts.run, *place)
    return {**entry, "examined": True}


def _ledger_row(stage: Stage, place: Place) -> dict[str, Any] | None:
    table = stage.read(place.source, place.shard)
    rows = table.filter(pc.equal(table["row"], place.row)).to_pylist() if table is not None else []
    return rows[0] if rows else None


def _failures(path: Path, row: int) -> list[str]:
    """All the rules that a document fails, not only the first."""
    found = pq.read_table(path, filters=[("row", "=", row)], partitioning=None).to_pylist()
    return found[0]["rules"] if found else []


def _kept_by(stage: Stage, place: Place) -> bool:
    row = _ledger_row(stage, place)
    return row is not None and row["keep"]


def _twin(facts: _Facts, stage: Stage, twin: str, place: Place) -> dict[str, Any]:
    """Where the kept twin lies. It may bear the same id, so the stage's ledger is asked which copy it kept."""
    kept = (candidate for _, candidate in find(facts.pools, twin) if _kept_by(stage, candidate))
    other = next((candidate for candidate in kept if candidate != place), None)
    if other is None:
        return {"id": twin}
    document = documents(facts.pools, [other]).get(other, {})
    return {
        "id": twin,
        "source": other.source,
        "shard": other.shard,
        "row": other.row,
        "origin": document.get("origin"),
        "excerpt": human.excerpt(readable(document), EXCERPT // 2) if document else "",
    }


def _matching(output: StepOutput | None, relative: str, identity: str, place: Place) -> dict[str, Any]:
    """The row of a table of the step that stands for this occurrence of the id; {} if there is none."""
    path = output.folder / relative if output else None
    return _row_in(path, identity, place) if path and path.exists() else {}


def _row_in(path: Path, identity: str, place: Place) -> dict[str, Any]:
    """Filtered by id first: files sorted by it are then read in part only."""
    names = pq.read_schema(path).names
    where = [("id", "=", identity)]
    where += [(key, "=", value) for key, value in place._asdict().items() if key in names]
    rows = pq.read_table(path, filters=where, partitioning=None).to_pylist()
    return rows[0] if rows else {}


def _mixes(facts: _Facts, identity: str, place: Place) -> list[dict[str, Any]]:
    found = []
    for name, (output, head) in facts.manifests.items():
        for part in manifest_parts(output.folder):
            row = _row_in(part, identity, place)
            if row:
                kept = {key: row[key] for key in ("bucket", "tokens", "copies", "transform", "order")}
                rank = _rank(output.folder, row["order"])
                found.append({"mix": name, "manifest": head["hash"], **kept, "rank": rank, "of": _rows(head)})
    return found


def _rank(folder: Path, order: int) -> int:
    """The place of the row's first copy among all rows of the mix in the global order, 1 the first."""
    columns = (pq.read_table(part, columns=["order"])["order"].to_numpy() for part in manifest_parts(folder))
    return 1 + sum(int((orders < order).sum()) for orders in columns)


def _rows(head: dict[str, Any]) -> int:
    return sum(part["rows"] for part in head["parts"].values())


def _heldout(facts: _Facts, identity: str, place: Place) -> list[dict[str, Any]]:
    found = []
    for name, output in facts.heldout.items():
        if any(_row_in(part, identity, place) for part in manifest_parts(output.folder)):
            found.append({"set": name, "kept": True})
        dropped = _matching(output, "dropped.parquet", identity, place)
        if dropped:
            found.append(
                {
                    "set": name,
                    "kept": False,
                    "share": dropped.get("share"),
                    "example": dropped.get("example"),
                    "twin": dropped.get("twin"),
                    "twin_source": dropped.get("twin_source"),
                }
            )
    return found


def _checkpoints(facts: _Facts, mixes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checkpoints whose weights have been trained on a mix that holds the document, directly or by a parent."""
    holding = {mix["mix"] for mix in mixes}
    mix_of = {entry["stage"]: entry["mix"] for entry in facts.checkpoints}
    found = []
    for entry in facts.checkpoints:
        line = [entry["stage"], *ancestors(facts.checkpoints, entry["stage"])]
        through = [stage for stage in line if mix_of[stage] in holding]
        if through:
            found.append(
                {
                    "stage": entry["stage"],
                    "checkpoint": entry["content"],
                    "direct": through[0] == entry["stage"],
                    "trained_on": [{"stage": stage, "mix": mix_of[stage]} for stage in through],
                }
            )
    return found


def _verdict(occurrence: dict[str, Any]) -> str:
    for decision in occurrence["decisions"]:
        if not decision["keep"]:
            return f"dropped at {decision['stage']}: {describe_rule(decision)}"
    if any(entry["kept"] for entry in occurrence["heldout"]):
        return "kept out of every mix, for evaluation"
    if occurrence["heldout"]:
        return "kept out of every mix, and dropped from evaluation because the mixes hold much of its wording"
    if occurrence["catalog"].get("holdout"):
        return "kept out of every mix, for evaluation; not among the documents evaluated"
    if occurrence["mixes"]:
        return "in " + ", ".join(mix["mix"] for mix in occurrence["mixes"])
    return "kept, in no mix" if occurrence["catalog"] else "kept so far"


def describe_rule(decision: dict[str, Any]) -> str:
    """ "mean word length 12.1, threshold 10" """
    words = human.label(decision.get("rule") or "")
    if decision.get("value") is not None:
        words += f" {human.number(decision['value'])}"
    if decision.get("threshold") is not None:
        words += f", threshold {human.number(decision['threshold'])}"
    if decision.get("also_fails"):
        words += f" (fails {', '.join(human.label(rule) for rule in decision['also_fails'])} too)"
    if decision.get("twin"):
        words += f", twin {decision['twin']['id'][:12]}"
    return words
