"""Documents of a run beside those that an index holds: what joins the comparison, and what the index becomes.

A nightly flow calls `dedup_exact` and `dedup_fuzzy` on the new documents with `Dedup(index=PATH)`. The first call
makes the index; each later one compares new with new and new with old, decides, and extends it. The kept set of
the index is then the one that a single run over everything would keep, whatever the batches and their order:

* who is kept is a function of the set of documents alone (`curation.dedup.similar`), as long as
  `kept_pairs_left_out` is 0;
* so nothing may be forgotten. A document dropped before stays in the index, since the one that it was dropped for
  may be superseded by a more preferred one that it does not resemble. Old decisions can change:
  `reversals.parquet` lists each old document that was kept and now is not (`superseded`), or the other way round
  (`reinstated`). The keep policy brings them about: under `then: [oldest]`, where documents come in the order of
  their dates, none occurs.

A text that the index holds takes part once, as its most preferred record; the others are duplicates of that one.
`held(PATH)` gives the records that the index stands for, and which are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.dedup.documents import Decisions, Documents, Shard
from curation.dedup.index import BANDS, STATE, TEXTS, Version, newest
from curation.dedup.keep import preference
from curation.dedup.ranking import WHO
from curation.dedup.settings import Keep
from curation.dedup.similar import Known
from curation.dedup.verify import VERIFIED
from curation.files import read_parquet

POLICY = ("source", "bytes", "created", "score", "high", "low")  # what the keep policy looks at


class Everything(Documents):
    """The living documents of a run, then the records that an index holds, each part of it as a shard."""

    def __init__(self, living: Documents, base: Version | None):
        parts = base.parts if base else {}
        shards = list(living.shards)
        for name in parts:
            shards.append(Shard("", name, base.part(name) / TEXTS, base.part(name) / BANDS, len(shards)))
        sources = [read_parquet(base.state(name), columns=["source"])["source"] for name in parts]
        names = sorted({*living.names, *(one for column in sources for one in column.unique().to_pylist())})
        places = {name: place for place, name in enumerate(names)}
        columns = {
            "source": [np.array([places[name] for name in living.names], np.uint16)[living.columns["source"]]]
        }
        columns["source"] += [_places(column, places) for column in sources]
        sizes = np.array(list(parts.values()), np.int64)
        columns["shard"] = [living.columns["shard"]]
        columns["shard"].append(np.repeat(np.arange(len(living.shards), len(shards), dtype=np.uint32), sizes))
        columns["row"] = [living.columns["row"], *(np.arange(size, dtype=np.uint32) for size in sizes)]
        old = base.columns() if base else {}
        for name in living.columns:
            if name not in columns:
                columns[name] = [living.columns[name], *([old[name]] if base else [])]
        super().__init__(names, shards, {name: np.concatenate(arrays) for name, arrays in columns.items()})
        self.living, self.base = len(living), base
        self.old_twin = old.get("twin", np.zeros(0, np.int64))

    def origins(self, positions: np.ndarray) -> list[str]:
        """The origins of some documents: those of the index from its state, others from their pools."""
        found: dict[int, str] = {}
        shard_of = self.columns["shard"][positions]
        for place in np.unique(shard_of):
            wanted = positions[shard_of == place]
            shard = self.shards[place]
            path = self.base.state(shard.name) if wanted[0] >= self.living else shard.pool
            values = read_parquet(path, columns=["origin"])["origin"].take(pa.array(self.columns["row"][wanted]))
            found.update(zip(wanted.tolist(), (value or "" for value in values.to_pylist()), strict=True))
        return [found[position] for position in positions.tolist()]


def _places(column: pa.ChunkedArray, places: dict[str, int]) -> np.ndarray:
    encoded = column.combine_chunks().dictionary_encode()
    values = np.array([places[name] for name in encoded.dictionary.to_pylist()], np.uint16)
    return values[encoded.indices.to_numpy(zero_copy_only=False)] if len(encoded) else np.zeros(0, np.uint16)


@dataclass(frozen=True)
class Joined:
    """The distinct texts that take part, as Documents: new ones of the run's shards, then those of the index.

    `leader`: of each the position of its most preferred record in `everything`. `place`: of each position in
    `everything` the text that it is, int64; -1 for one that neither takes part nor is asked for.
    """

    everything: Everything
    texts: Documents
    leader: np.ndarray
    place: np.ndarray

    @property
    def new(self) -> int:
        """How many texts are new. They come first."""
        return len(self.leader) - (len(self.everything) - self.everything.living)


def join(living: Documents, base: Version | None, keep: Keep) -> Joined:
    """Put the living documents of a run beside those of an index; both need the columns value_high, value_low."""
    everything = Everything(living, base)
    total, n = len(everything), len(living)
    twin = exact_twins(everything, keep)
    leader_of = np.where(twin < 0, np.arange(total), twin)
    carrier = np.arange(total)  # of a leader's position: the position whose text and bands stand for it
    carrier[leader_of[n:]] = np.arange(n, total)
    carriers = carrier[leader_of]
    takes_part = np.zeros(total, bool)
    takes_part[carriers] = True
    members = np.flatnonzero(takes_part)
    leader = leader_of[members]
    rank = np.cumsum(takes_part) - 1
    columns = {
        name: column[leader if name in POLICY else members]
        for name, column in everything.columns.items()
        if not name.startswith("value")
    }
    texts = Documents(everything.names, everything.shards, columns)
    return Joined(everything, texts, leader, rank[carriers])


def exact_twins(documents: Documents, keep: Keep) -> np.ndarray:
    """For each document the position of the most preferred one of its text, -1 if that is itself. int64 (n,)."""
    high, low = documents.columns["value_high"], documents.columns["value_low"]
    order = np.lexsort((low, high))
    first = np.ones(len(order), bool)
    first[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    group_of_sorted = np.cumsum(first) - 1
    several = np.bincount(group_of_sorted)[group_of_sorted] > 1
    members, group = order[several], group_of_sorted[several]

    columns = {
        name: column[members] for name, column in documents.columns.items() if not name.startswith("value_")
    }
    best_first = preference(keep, documents.names, columns, lambda some: documents.origins(members[some]))
    best_first = best_first[np.argsort(group[best_first], kind="stable")]
    leads = np.ones(len(best_first), bool)
    leads[1:] = group[best_first[1:]] != group[best_first[:-1]]
    leader = members[best_first][leads][np.cumsum(leads) - 1] if len(best_first) else members
    twin = np.full(len(documents), -1, np.int64)
    twin[members[best_first]] = np.where(leads, -1, leader)
    return twin


def known_of(joined: Joined, base: Version | None, order: np.ndarray) -> Known:
    """What the index knows of the texts, `order` being theirs by preference."""
    old = order >= joined.new
    settled, pairs = np.zeros(len(order), bool), np.zeros(0, VERIFIED)
    if base:
        settled[old] = joined.everything.old_twin[order[old] - joined.new] < 0
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        pairs = moved(base.pairs(), number[joined.new :])
    return Known(~old, settled, pairs)


def look_up(joined: Joined, order: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """WHO of texts numbered by `order`: the most preferred record of each."""
    positions = joined.leader[order[numbers]]
    found = np.empty(len(numbers), WHO)
    for name in WHO.names:
        found[name] = joined.everything.columns[name][positions]
    return found


def moved(pairs: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Pairs of positions i as pairs of positions to[i]."""
    out = np.empty(len(pairs), VERIFIED)
    one, other = to[pairs["pair"] >> np.uint64(32)], to[pairs["pair"] & np.uint64(0xFFFFFFFF)]
    high, low = np.maximum(one, other).astype(np.uint64), np.minimum(one, other).astype(np.uint64)
    out["pair"] = high << np.uint64(32) | low
    out["similarity"] = pairs["similarity"]
    return np.sort(out, order="pair")


def held_bands(joined: Joined, base: Version | None) -> tuple[list[Path], list[int]]:
    """The files of band entries of the parts of an index, and their documents."""
    held = [shard for shard in joined.texts.shards if not shard.source]
    return [shard.measured for shard in held], list(base.parts.values()) if base else []


def living_decisions(joined: Joined, twin: np.ndarray, similarity: np.ndarray, threshold: float) -> Decisions:
    """What becomes of the living documents of the run, from what becomes of the texts.

    `twin` is of each text the place of the kept one that it is dropped for, -1 if it is kept.
    """
    n = joined.everything.living
    text = joined.place[:n]
    leads = joined.leader[text] == np.arange(n)
    near = leads & (twin[text] >= 0)
    where = np.where(leads, -1, joined.leader[text])
    where[near] = joined.leader[twin[text[near]]]
    value = np.where(near, similarity[text], np.where(leads, np.nan, 1.0))
    rule = np.where(near, "near_duplicate", "duplicate").astype(object)
    return Decisions("fuzzy", rule, np.where(near, threshold, 1.0), where, value, joined.everything)


def reversals(joined: Joined, twin: np.ndarray, similarity: np.ndarray) -> pa.Table:
    """The records of the index that were kept and are not, or the other way round.

    Columns: source, id, origin, change ("superseded" or "reinstated"), twin (id), similarity (null where there is
    no twin).
    """
    everything, n = joined.everything, joined.everything.living
    old = np.arange(n, len(everything))
    text = joined.place[n:]
    leads = _same_records(everything, old, joined.leader[text])
    was, kept = everything.old_twin < 0, leads & (twin[text] < 0)
    changed = np.flatnonzero(was != kept)
    positions, text, leads = old[changed], text[changed], leads[changed]
    gone = was[changed]
    twins = np.where(leads, joined.leader[np.maximum(twin[text], 0)], joined.leader[text])
    ids = np.full(len(changed), None, object)
    ids[gone] = everything.ids(twins[gone])
    value = np.where(gone, np.where(leads, similarity[text], 1.0), np.nan)
    return pa.table(
        {
            "source": pa.array(
                [everything.names[one] for one in everything.columns["source"][positions]], pa.string()
            ),
            "id": pa.array(everything.ids(positions), pa.string()),
            "origin": pa.array(everything.origins(positions), pa.string()),
            "change": pa.array(np.where(gone, "superseded", "reinstated"), pa.string()),
            "twin": pa.array(ids, pa.string()),
            "similarity": pa.array(value, pa.float64(), from_pandas=True),
        }
    )


def _same_records(everything: Everything, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether the documents at two lists of positions are the same record: source, id and origin. bool."""
    same = one == other
    alike = ~same
    for name in ("source", "high", "low"):
        alike &= everything.columns[name][one] == everything.columns[name][other]
    alike = np.flatnonzero(alike)
    pairs = zip(everything.origins(one[alike]), everything.origins(other[alike]), strict=True)
    same[alike] = [a == b for a, b in pairs]
    return same


def held(root: Path) -> pa.Table:
    """The records that an index holds, a row a distinct text.

    Columns: source, id, origin, kept, twin (id, null where kept), similarity (to the twin, null where kept).
    Raises ConfigError if there is none, or if it is broken.
    """
    version = newest(root)
    parts = [read_parquet(version.state(part)) for part in version.parts] if version else []
    table = pa.concat_tables(parts) if parts else STATE.empty_table()
    halves = (table["high"].to_numpy().tolist(), table["low"].to_numpy().tolist())
    ids = pa.array([f"{a:016x}{b:016x}" for a, b in zip(*halves, strict=True)], pa.string())
    twin = table["twin"].to_numpy()
    kept = twin < 0
    return pa.table(
        {
            "source": table["source"],
            "id": ids,
            "origin": table["origin"],
            "kept": pa.array(kept),
            "twin": ids.take(pa.array(np.where(kept, 0, twin), mask=kept)),
            "similarity": pa.array(table["similarity"].to_numpy(), pa.float64(), from_pandas=True),
        }
    )
