"""Sample documents, kept and dropped: drawn by keyed hash, so that the same run shows the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from curation.files import read_parquet
from curation.keys import FEW, key_of, keyed_hash
from flows.report import human
from flows.report.reading import (
    READABLE,
    Place,
    Stage,
    documents,
    dropped_at,
    final_pools,
    readable,
    sources,
    stages,
)
from flows.run import Run

PER_RULE = 2  # dropped documents shown of each source and rule
KEPT_PER_SOURCE = 3
SHOWN = [*READABLE, "origin"]

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
            ids = read_parquet(path, ["id"])["id"].combine_chunks()
            if len(ids):
                # few at a time, for which no kernel need be loaded
                parts = [keyed_hash(ids.slice(start, FEW), key) for start in range(0, len(ids), FEW)]
                _draw(decisions, source, path.stem, ids, np.concatenate(parts), dropped, kept)
    # Those that were dropped as they were read, those that are kept as mixes take them: often of one file.
    final = final_pools(run)
    as_taken = [draw[1] for draws in kept.values() for draw in draws]
    unedited = [place for place in as_taken if final[place.source].place == pools[place.source].place]
    found = documents(final, set(as_taken) - set(unedited), SHOWN)
    found |= documents(pools, [*unedited, *(draw[1] for draws in dropped.values() for draw in draws)], SHOWN)
    return {"dropped": _by_rule(decisions, dropped, found), "kept": _kept(kept, found)}


def _draw(
    decisions: list[Stage], source: str, shard: str, ids: pa.Array, hashes: np.ndarray, dropped, kept
) -> None:
    ledgers = [stage.read(source, shard) for stage in decisions]
    gone = dropped_at(ledgers, len(ids))
    for row in _smallest(hashes, np.flatnonzero(gone < 0), KEPT_PER_SOURCE):
        draw = (int(hashes[row]), Place(source, shard, int(row)), ids[row].as_py(), None, None, None)
        kept[source] = sorted([*kept.get(source, []), draw])[:KEPT_PER_SOURCE]
    for index, (stage, table) in enumerate(zip(decisions, ledgers, strict=True)):
        if table is None:
            continue
        at = table["row"].to_numpy()
        own = hashes[at]
        mine = np.flatnonzero(~table["keep"].to_numpy() & (gone[at] == index))
        rules = table["rule"].combine_chunks().dictionary_encode()
        codes = rules.indices.fill_null(-1).to_numpy()[mine]
        for rule, code in sorted((rule, code) for code, rule in enumerate(rules.dictionary.to_pylist())):
            for place in _smallest(own, mine[codes == code], PER_RULE):
                entry = table.slice(int(place), 1).to_pylist()[0]
                draw = (
                    int(own[place]),
                    Place(source, shard, entry["row"]),
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
