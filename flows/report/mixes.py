"""The account of each mix, laid out like the tables of the Olmo 3 report."""

from __future__ import annotations

from typing import Any

from flows.report.buckets import maps
from flows.report.reading import manifests
from flows.run import Run

Line = dict[str, Any]


def mixes(run: Run) -> list[dict[str, Any]]:
    """One view a mix: a line a source under its type, the lines by bucket, totals, identity."""
    return [_mix(name, head) for name, (_, head) in manifests(run).items()]


def _mix(name: str, head: dict[str, Any]) -> dict[str, Any]:
    lines = head["account"]
    by_source: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        by_source.setdefault((line["type"] or "", line["source"]), []).append(line)
    types: dict[str, list[Line]] = {}
    for (label, source), members in by_source.items():
        types.setdefault(label, []).append(joined(members) | {"source": source, "buckets": len(members)})
    return {
        "name": name,
        "head": head,
        "types": [(label, members, joined(members)) for label, members in types.items()],
        "sum": joined(lines),
        "maps": maps(lines),
        "lines": lines if len(lines) > len(by_source) else [],
        "targets": any(line["target_tokens"] is not None for line in lines),
        "notes": [
            (members[0]["source"], members[0]["note"])
            for members in by_source.values()
            if len(members) == 1 and members[0]["note"]
        ],
        "largest": max((line["share"] for members in types.values() for line in members), default=0) or 1,
    }


def joined(lines: list[Line]) -> Line:
    """Lines added up. A number that some line does not have (no pool, no target) is left out of the sum, and is
    null if no line has it. `repeats` is tokens over the pool's tokens, of the lines that have a pool."""
    total: Line = {}
    for key in (
        "pool_documents",
        "pool_tokens",
        "target_tokens",
        "error_tokens",
        "documents",
        "occurrences",
        "fragments",
        "tokens",
        "share",
    ):
        known = [line[key] for line in lines if line[key] is not None]
        total[key] = sum(known) if known else None
    from_pools = sum(line["tokens"] for line in lines if line["pool_tokens"])
    total["repeats"] = from_pools / total["pool_tokens"] if total["pool_tokens"] else None
    return total
