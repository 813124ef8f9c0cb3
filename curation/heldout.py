"""Held-out sets: documents kept out of every mix, less those whose text a mix holds under another id.

A held-out document is dropped if a share of its word n-grams occurs in the documents of the mixes, whichever of
them (n = 8 and one half, as Olmo 3 does for its post-training data). Both sides are taken with all their text,
pairs with prompt and both responses.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import Field

from curation.chat import DOCUMENT_COLUMNS, KIND_TRANSFORM
from curation.config import Count, Share, Strict
from curation.dedup.bands import distinct
from curation.files import atomic, read_parquet, remove, write_parquet
from curation.keys import key_of, keyed_hash
from curation.measure.render import rendered_text
from curation.mix.manifest import HEAD, MANIFEST, Manifest, load_manifest, write_manifest
from curation.overlap import FREE, Grams, compared, ngram_text, ngrams_of
from curation.schema import one_array
from curation.shards import batches
from curation.steps import UNITS, Build, Context, StepOutput, step

CANDIDATES = "heldout-candidates"
WANTED = "wanted"  # n-gram hashes of the held-out documents, and per shard those found: removed at the end

DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("share", pa.float64()),  # of its n-grams that the mixes hold
        ("ngrams", pa.uint32()),  # distinct n-grams compared
        ("twin", pa.string()),  # id of the training document that, as far as recorded, holds most of them
        ("twin_source", pa.string()),
        ("example", pa.string()),  # its first n-gram that the twin holds
    ]
)


class Heldout(Strict):
    """How held-out documents are chosen and cleared of training text."""

    ngram: int = Field(8, ge=1, le=64)  # words
    max_share: Share = Field(0.5, ge=0, le=1)  # of its n-grams in training documents: from here on one is dropped
    max_documents: Count = 1000  # of each source
    seed: int = 0


def candidates(
    ctx: Context,
    kind: Literal["text", "pairs"],
    catalogs: dict[str, StepOutput],
    pools: dict[str, StepOutput],
    config: Heldout,
) -> StepOutput:
    """The step `heldout-candidates/<kind>`: `candidates.parquet`, MANIFEST and the n-gram hashes of each.

    Of each source of the kind, `max_documents` held-out documents by keyed hash. Needs no mix: it can be made
    beside them.
    """
    sources = _sources(catalogs, kind)
    inputs = {f"catalog/{source}": catalogs[source].content for source in sources}
    inputs |= {f"pool/{source}": pools[source].content for source in sources}
    settings = config.model_dump(mode="json", exclude={"max_share"})

    def work(build: Build) -> None:
        rows = _candidates(catalogs, sources, config)
        grams, bounds = _wanted(rows, pools, config.ngram)
        table = rows.append_column("grams", pa.LargeListArray.from_arrays(bounds, grams))
        write_parquet(build.folder / "candidates.parquet", table, dictionary=["source", "shard", "transform"])
        build.counts = {"documents_in": len(rows), "documents_out": len(rows), "ngrams": len(grams)}

    return step(ctx, f"{CANDIDATES}/{kind}", 1, settings, inputs, work)


def heldout(
    ctx: Context,
    kind: Literal["text", "pairs"],
    catalogs: dict[str, StepOutput],
    pools: dict[str, StepOutput],
    mixes: dict[str, StepOutput],
    config: Heldout,
) -> StepOutput:
    """The step `heldout/<kind>`: a manifest of kind "evaluation" and `dropped.parquet` (DROPPED).

    Of the `candidates`, those that the mixes do not hold. Raises ValueError without a mix, or if a mix was made
    from another pool or another tokenizer than the others.
    """
    manifests = {name: load_manifest(output.file(HEAD).parent) for name, output in sorted(mixes.items())}
    tokenizer = _shared_tokenizer(manifests)
    trained = sorted({source for manifest in manifests.values() for source in manifest.head["pools"]})
    for name, manifest in manifests.items():
        for source, content in manifest.head["pools"].items():
            if source not in pools or pools[source].content != content:
                raise ValueError(f"mix '{name}' was made from another pool of '{source}'; build the mix again")
    sources = _sources(catalogs, kind)
    chosen = candidates(ctx, kind, catalogs, pools, config)
    inputs = {f"mix/{name}": manifest.hash for name, manifest in manifests.items()}
    inputs |= {f"catalog/{source}": catalogs[source].content for source in sources}
    inputs |= {f"pool/{source}": pools[source].content for source in sorted({*sources, *trained})}
    inputs["candidates"] = chosen.content

    def work(build: Build) -> None:
        for output in mixes.values():
            output.fetch()
        rows = read_parquet(chosen.file("candidates.parquet"))
        column = one_array(rows["grams"])
        grams, bounds = column.values.to_numpy(), column.offsets.to_numpy()
        found = _scan(build, distinct(grams), manifests, pools, config.ngram)
        hit = found["first"][np.searchsorted(found["hashes"], grams)] != FREE if len(grams) else np.zeros(0, bool)
        share = np.diff(np.concatenate([[0], np.cumsum(hit)])[bounds]) / np.maximum(1, np.diff(bounds))
        drop = (share >= config.max_share) & (share > 0)
        dropped = _dropped(rows, pools, share, np.diff(bounds), drop, found, config.ngram)
        build.write_table("dropped.parquet", dropped)
        write_manifest(
            build.folder,
            rows.filter(pa.array(~drop)).select(MANIFEST.names),
            {
                "kind": "evaluation",
                "name": f"heldout-{kind}",
                "recipe": yaml.safe_dump({"heldout": kind, **config.model_dump(mode="json")}, sort_keys=True),
                "seed": config.seed,
                "tokenizer_hash": tokenizer,
                "pools": {source: pools[source].content for source in sources},
                "catalogs": {source: catalogs[source].content for source in sources},
                "parents": {name: manifest.hash for name, manifest in manifests.items()},
            },
        )
        _count(build, sources, rows, drop)

    return step(ctx, f"heldout/{kind}", 2, config, inputs, work)


def scan_shard(
    folder: Path, key: str, shard: str, source: str, rows: np.ndarray, wanted: str, ngram: int
) -> dict[str, int]:
    """Look for the wanted n-grams in some rows of a training shard; write those found and in which document."""
    grams = Grams(np.load(wanted, allow_pickle=False), ngram)
    first = grams.nothing_found()
    for numbers, table in batches(Path(shard), DOCUMENT_COLUMNS, rows):
        grams.find(rendered_text(table), numbers, first)
    at = np.flatnonzero(first != FREE)
    holders = distinct(first[at])
    ids = [table["id"] for _, table in batches(Path(shard), ["id"], holders)] if len(holders) else []
    names = pa.chunked_array([chunk for one in ids for chunk in one.chunks], pa.string())
    table = pa.table(
        {
            "at": pa.array(at, pa.uint32()),
            "id": names.take(pa.array(np.searchsorted(holders, first[at]))),
            "source": pa.repeat(pa.scalar(source), len(at)),
        }
    )
    write_parquet(folder / WANTED / f"{key}.parquet", table)
    return {"documents": len(rows), "found": len(at)}


def _sources(catalogs: dict[str, StepOutput], kind: str) -> list[str]:
    return sorted(name for name, one in catalogs.items() if one.record["config"]["kind"] == kind)


def _shared_tokenizer(manifests: dict[str, Manifest]) -> str:
    hashes = {manifest.head["tokenizer_hash"] for manifest in manifests.values()}
    if len(hashes) != 1:
        raise ValueError(f"held-out sets need mixes of one tokenizer; {sorted(manifests)} have {len(hashes)}")
    return hashes.pop()


def _candidates(catalogs: dict[str, StepOutput], sources: list[str], config: Heldout) -> pa.Table:
    """Manifest rows of the held-out documents of each source that come first in hash order, by source and row."""
    parts = []
    columns = ["id", "source", "kind", "shard", "row", "tokens", "holdout"]
    for source in sources:
        table = read_parquet(catalogs[source].folder / "catalog.parquet", columns)
        table = table.filter(table["holdout"])
        hashes = keyed_hash(table["id"], key_of(config.seed, "heldout"))
        chosen = np.sort(np.argsort(hashes, kind="stable")[: config.max_documents])
        parts.append(table.take(pa.array(chosen)).append_column("order", pa.array(hashes[chosen])))
    if not parts:
        return MANIFEST.empty_table()
    table = pa.concat_tables(parts)
    n = len(table)
    columns = {name: table[name] for name in ("id", "source", "shard", "row", "tokens", "order")}
    columns |= {"bucket": pa.repeat("all", n), "copies": pa.array(np.ones(n, np.uint16))}
    transforms = [KIND_TRANSFORM[kind] for kind in table["kind"].to_pylist()]
    columns["transform"] = pa.array(transforms, pa.string())
    return pa.table([columns[name] for name in MANIFEST.names], schema=MANIFEST)


def _texts(rows: pa.Table, pools: dict[str, StepOutput], places: np.ndarray):
    """(place, text as an array of one) of the rows of a candidate table at `places`, in shard order."""
    chosen = rows.take(pa.array(places)).select(["source", "shard", "row"]).to_pylist()
    by_shard: dict[tuple[str, str], dict[int, int]] = {}
    for place, row in zip(places.tolist(), chosen, strict=True):
        by_shard.setdefault((row["source"], row["shard"]), {})[row["row"]] = place
    for (source, shard), wanted in sorted(by_shard.items()):
        path = pools[source].folder / "shards" / f"{shard}.parquet"
        for numbers, table in batches(path, DOCUMENT_COLUMNS, np.array(sorted(wanted))):
            texts = rendered_text(table)
            for at, number in enumerate(numbers.tolist()):
                yield wanted[number], texts.slice(at, 1)


def _wanted(rows: pa.Table, pools: dict[str, StepOutput], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The compared n-gram hashes of all candidates, one after the other, and where each begins (one more)."""
    grams: list[np.ndarray] = [np.empty(0, np.uint64)] * len(rows)
    for place, text in _texts(rows, pools, np.arange(len(rows))):
        grams[place] = compared(ngrams_of(text, ngram)[0])
    bounds = np.cumsum([0, *(len(one) for one in grams)], dtype=np.int64)
    return np.concatenate([np.empty(0, np.uint64), *grams]), bounds


def _scan(
    build: Build, hashes: np.ndarray, manifests: dict[str, Manifest], pools: dict[str, StepOutput], ngram: int
) -> dict:
    """Read every document of the mixes once. For each hash: FREE, or the place in `ids` of one that has it."""
    wanted = build.scratch(WANTED) / "hashes.npy"
    with atomic(wanted) as temporary, open(temporary, "wb") as file:
        np.save(file, hashes, allow_pickle=False)
    parts = [manifest.rows().select(["source", "shard", "row"]) for manifest in manifests.values()]
    rows = pa.concat_tables(parts).group_by(["source", "shard", "row"]).aggregate([])
    rows = rows.sort_by([("source", "ascending"), ("shard", "ascending"), ("row", "ascending")])
    units = {}
    for source in rows["source"].unique().to_pylist():
        of_source = rows.filter(pc.equal(rows["source"], source))
        for shard in of_source["shard"].unique().to_pylist():
            numbers = of_source.filter(pc.equal(of_source["shard"], shard))["row"].to_numpy().astype(np.int64)
            path = pools[source].folder / "shards" / f"{shard}.parquet"
            units[f"{source}--{shard}"] = (str(path), source, numbers, str(wanted), ngram)
    results = build.map(scan_shard, units, "either")
    build.counts["training_documents"] = sum(result["documents"] for result in results.values())
    first, tables, base = np.full(len(hashes), FREE, np.int64), [], 0
    for key in sorted(units):
        table = read_parquet(build.folder / WANTED / f"{key}.parquet")
        at = table["at"].to_numpy()
        first[at] = np.where(first[at] == FREE, base + np.arange(len(at)), first[at])
        tables.append(table.select(["id", "source"]))
        base += len(table)
    # The journal goes first: a unit that it calls done must have its file, or a killed run could not go on.
    remove(build.folder / UNITS)
    remove(build.folder / WANTED)
    return {"hashes": hashes, "first": first, "holders": pa.concat_tables(tables) if tables else None}


def _dropped(
    rows: pa.Table,
    pools: dict[str, StepOutput],
    share: np.ndarray,
    compared_ngrams: np.ndarray,
    drop: np.ndarray,
    found: dict,
    ngram: int,
) -> pa.Table:
    lines = []
    for place, text in _texts(rows, pools, np.flatnonzero(drop)):
        hashes = ngrams_of(text, ngram)[0]
        at = np.minimum(np.searchsorted(found["hashes"], hashes), len(found["hashes"]) - 1)
        hit = (found["hashes"][at] == hashes) & (found["first"][at] != FREE)
        holders = found["holders"].take(pa.array(found["first"][at[hit]])).to_pylist()
        counts = Counter(holder["id"] for holder in holders)
        best = max(range(len(holders)), key=lambda n: (counts[holders[n]["id"]], -n))
        holder, example = holders[best], int(np.flatnonzero(hit)[best])
        lines.append(
            {
                "id": rows["id"][place].as_py(),
                "source": rows["source"][place].as_py(),
                "share": float(share[place]),
                "ngrams": int(compared_ngrams[place]),
                "example": ngram_text(text[0].as_py(), example, ngram),
                "twin": holder["id"],
                "twin_source": holder["source"],
            }
        )
    lines.sort(key=lambda line: (line["source"], line["id"]))
    return pa.Table.from_pylist(lines, schema=DROPPED)


def _count(build: Build, sources: list[str], rows: pa.Table, drop: np.ndarray) -> None:
    names = np.array(rows["source"].to_pylist(), object)
    by_source = {}
    for source in sources:
        here = names == source
        kept = int((here & ~drop).sum())
        by_source[source] = {
            "documents_in": int(here.sum()),
            "documents_out": kept,
            "dropped": int(drop[here].sum()),
        }
        if here.any() and not kept:
            build.alarm(f"{source}: all {int(here.sum())} held-out documents occur in the mixes; none is left")
    build.counts |= {"documents_in": len(rows), "documents_out": int((~drop).sum()), "by_source": by_source}
