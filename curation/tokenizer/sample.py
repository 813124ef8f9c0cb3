"""The text that a tokenizer is trained on: of pools, of pools by weight, or of a mix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import compress
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from curation.chat import DOCUMENT_COLUMNS, plain_texts
from curation.dedup.bands import distinct
from curation.files import read_parquet
from curation.keys import key_of, keyed_hash
from curation.ledger import alive
from curation.mix.filters import exact
from curation.mix.manifest import Manifest
from curation.mix.solve import water_fill
from curation.schema import require_same_ids
from curation.shards import Picks, chosen, pick
from curation.steps import StepOutput
from curation.tokenizer.config import Tokenizer

LONGEST = 1 << 16  # bytes of a document's beginning that training sees, so that a few books do not rule
Outputs = dict[str, StepOutput]
Texts = dict[str, list[str]]  # by source


@dataclass
class Sample:
    """Documents chosen to train on, each `copies` times, and what was read of them, by source."""

    picks: list[Picks]
    copies: list[np.ndarray] | None = None  # of each pick's rows; None: all once
    documents: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)  # UTF-8, copies counted

    def texts(self, threads: int, others: Sequence[Picks], held: Texts) -> Iterator[list[str]]:
        """The beginnings of the documents, in batches; counts them as they are read, ahead on `threads`.

        Those of the documents `others` are put into `held` on the way, so that no shard is read twice.
        """
        own, beside = ({one.path: one.rows for one in picks} for picks in (self.picks, others))
        copies = dict(zip(own, self.copies or (), strict=False))
        none = np.empty(0, np.int64)
        both = [
            Picks(one.source, one.path, distinct(np.concatenate([one.rows, beside.get(one.path, none)])))
            for one in self.picks
        ]
        both += [one for one in others if one.path not in own]
        for place, rows, table in chosen(both, DOCUMENT_COLUMNS, threads):
            source, path = both[place].source, both[place].path
            texts = [beginning(text) for text in plain_texts(table).to_pylist()]
            held.setdefault(source, []).extend(compress(texts, np.isin(rows, beside.get(path, none))))
            times = np.isin(rows, own.get(path, none)).astype(np.int64)
            at = np.flatnonzero(times)
            if path in copies:
                times[at] = copies[path][np.searchsorted(own[path], rows[at])]
            found = [text for text, many in zip(texts, times.tolist(), strict=True) for _ in range(many)]
            if len(at):
                self.documents[source] = self.documents.get(source, 0) + len(at)
                self.bytes[source] = self.bytes.get(source, 0) + sum(len(text.encode()) for text in found)
                yield found


def beginning(text: str) -> str:
    """At most LONGEST bytes of a text, whole characters."""
    return text[:LONGEST].encode()[:LONGEST].decode(errors="ignore")


def choose(pools: Outputs, measured: Outputs, ledgers: list[StepOutput], config: Tokenizer) -> Sample:
    """Alive documents by keyed hash until `sample_bytes`: of all pools together, or of each by its weight.

    A source that holds less than its weight asks gives all it has, and the others more. Raises ValueError for a
    weight of an unknown source.
    """
    key = key_of(config.seed, "tokenizer")
    if not config.weights:
        return Sample(pick(pools, pools, measured, ledgers, key, weight=config.sample_bytes, largest=LONGEST))
    if unknown := sorted(config.weights.keys() - pools.keys()):
        raise ValueError(
            f"tokenizer.weights: no source {', '.join(unknown)}; there are {', '.join(sorted(pools))}"
        )
    names = sorted(config.weights)
    held = [alive_bytes(pools[name], measured[name], ledgers, LONGEST) for name in names]
    weights: list[Fraction] = [exact(config.weights[name]) for name in names]
    parts = water_fill(weights, held, min(config.sample_bytes, sum(held)))
    wanted = [(name, part) for name, part in zip(names, parts, strict=True) if part]
    return Sample(
        [
            one
            for name, part in wanted
            for one in pick([name], pools, measured, ledgers, key, weight=part, largest=LONGEST)
        ]
    )


def choose_from_mix(manifest: Manifest, pools: Outputs, measured: Outputs, config: Tokenizer) -> Sample:
    """Documents of a mix by keyed hash until `sample_bytes`, each as often as the mix has it.

    Raises ValueError where the mix was made of other pools than these.
    """
    for source, content in manifest.head["pools"].items():
        if source not in pools or pools[source].content != content:
            found = "another version of it" if source in pools else "no such source"
            raise ValueError(
                f"{manifest.folder}: made of pool '{source}', but here is {found}; build the mix again"
            )
    rows = pl.from_arrow(manifest.rows()).group_by("source", "shard", "row", "id").agg(pl.col("copies").sum())
    rows = rows.sort("source", "shard", "row")
    places = [
        (source, pools[source].folder / "shards" / f"{shard}.parquet", group)
        for (source, shard), group in rows.group_by("source", "shard", maintain_order=True)
    ]
    sizes = [
        np.minimum(read_parquet(_beside(measured[source], path), ["bytes"])["bytes"].to_numpy(), LONGEST)[
            group["row"].to_numpy()
        ]
        for source, path, group in places
    ]
    hashes = keyed_hash(rows["id"].to_arrow().cast(pa.string()), key_of(config.seed, "tokenizer"))
    order = np.argsort(hashes, kind="stable")
    weights = (np.concatenate(sizes or [np.empty(0)]) * rows["copies"].to_numpy()).astype(np.int64)[order]
    taken = np.zeros(len(rows), bool)
    taken[order[np.cumsum(weights) - weights < config.sample_bytes]] = True
    picks, copies, first = [], [], 0
    for source, path, group in places:
        own = group.filter(pl.Series(taken[first : first + len(group)]))
        first += len(group)
        if len(own):
            picks.append(Picks(source, path, own["row"].to_numpy().astype(np.int64)))
            copies.append(own["copies"].to_numpy())
    return Sample(picks, copies)


def alive_bytes(
    pool: StepOutput, measured: StepOutput, ledgers: list[StepOutput], largest: int | None = None
) -> int:
    """Bytes of text of a pool's alive documents, of each at most `largest`."""
    total = 0
    for path in pool.shards():
        measures = read_parquet(_beside(measured, path), ["id", "bytes"])
        require_same_ids(read_parquet(path, ["id"])["id"], measures["id"], str(path))
        sizes = (
            measures["bytes"].to_numpy().astype(np.int64)[alive(ledgers, pool.source, path.stem, len(measures))]
        )
        total += int((sizes if largest is None else np.minimum(sizes, largest)).sum())
    return total


def _beside(output: StepOutput, path: Path) -> Path:
    return output.folder / "shards" / path.name
