"""Sample documents, kept and dropped: drawn by keyed hash, so that the same run shows the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.keys import key_of, keyed_hash
from flows.report import human
from flows.report.reading import Place, Stage, documents, dropped_at, final_pools, readable, sources, stages
from flows.run import Run

PER_RULE = 2  # dropped documents shown of each source and rule
KEPT_PER_SOURCE = 3

# A drawn document: (hash, place, id, value, threshold, twin)
Draw = tuple[int, Place, str, float | None, float | None, str | None]


def samples(run: Run) -> dict[str, Any] | None:
    """The view: dropped documents by stage and rule, kept ones by source. None without pools."""
    pools = sources(run)
    if not pools:
        return None
    decisions = stages(run)
    key = key_of(int(run.data.get("config", {}).get("seed") or 0), "report/samples")
    dropped: dict[tuple[str, str, str], list[Draw]] = {}  # (stage, rule, source)
    kept: dict[str, list[Draw]] = {}
    for source, pool in pools.items():
        for path in pool.shards():
            ids = pq.read_table(path, columns=["id"])["id"].combine_chunks()
            if len(ids):
                _draw(decisions, source, path.stem, ids, keyed_hash(ids, key), dropped, kept)
    # Those that were dropped as they were read, those that are kept as mixes take them.
    found = documents(pools, (draw[1] for draws in dropped.values() for draw in draws))
    found |= documents(final_pools(run), (draw[1] for draws in kept.values() for draw in draws))
    return {"dropped": _by_rule(decisions, dropped, found), "kept": _kept(kept, found)}


def _draw(
    decisions: list[Stage], source: str, shard: str, ids: pa.Array, hashes: np.ndarray, dropped, kept
) -> None:
    gone = dropped_at(decisions, source, shard, len(ids))
    for row in _smallest(hashes, np.flatnonzero(gone < 0), KEPT_PER_SOURCE):
        draw = (int(hashes[row]), Place(source, shard, int(row)), ids[row].as_py(), None, None, None)
        kept[source] = sorted([*kept.get(source, []), draw])[:KEPT_PER_SOURCE]
    for index, stage in enumerate(decisions):
        table = stage.read(source, shard)
        if table is None:
            continue
        table = table.filter(pc.invert(table["keep"]))
        table = table.filter(pa.array(gone[table["row"].to_numpy()] == index))
        for rule in sorted(pc.unique(table["rule"]).to_pylist()):
            mine = table.filter(pc.equal(table["rule"], rule))
            rows = mine["row"].to_numpy()
            for place in _smallest(hashes[rows], np.arange(len(rows)), PER_RULE):
                entry = mine.slice(int(place), 1).to_pylist()[0]
                at = Place(source, shard, entry["row"])
                draw = (
                    int(hashes[rows[place]]),
                    at,
                    entry["id"],
                    entry["value"],
                    entry["threshold"],
                    entry["twin"],
                )
                name = (stage.name, rule, source)
                dropped[name] = sorted([*dropped.get(name, []), draw], key=lambda d: d[:3])[:PER_RULE]


def _smallest(hashes: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.argsort(hashes[rows], kind="stable")[:most]]


def _by_rule(
    decisions: list[Stage], dropped: dict[tuple[str, str, str], list[Draw]], found
) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (stage, rule, _), draws in dropped.items():
        groups.setdefault((stage, rule), []).extend(_card(draw, found) for draw in draws)
    order = {stage.name: (place, stage.label) for place, stage in enumerate(decisions)}
    return [
        {"stage": order[stage][1], "css": f"st-{stage}", "rule": rule, "cards": groups[stage, rule]}
        for stage, rule in sorted(groups, key=lambda key: (order[key[0]][0], key[1]))
    ]


def _kept(kept: dict[str, list[Draw]], found) -> list[dict[str, Any]]:
    return [{"source": source, "cards": [_card(draw, found) for draw in draws]} for source, draws in kept.items()]


def _card(draw: Draw, found: dict[Place, dict[str, Any]]) -> dict[str, Any]:
    _, place, identity, value, threshold, twin = draw
    document = found.get(place, {})
    text = readable(document) if document else ""
    return {
        "id": identity,
        "source": place.source,
        "origin": document.get("origin") or "",
        "value": value,
        "threshold": threshold,
        "twin": twin,
        "characters": len(text),
        "excerpt": human.excerpt(text),
    }
