"""A manifest as token data: what a trainer reads, in flat files, in the manifest's own order.

`tokens.bin` holds token ids (uint16 for vocabularies up to 65,536, else uint32, little endian), `mask.bin` a
byte for each (1 = in the loss), `index.parquet` a row for each manifest row, `data.json` what they are. A row's
place in the files follows from the manifest's token counts alone: shards are written side by side, in any order.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.chat import DOCUMENT_COLUMNS, WHOLE, Segments
from curation.encoder import Encoded, Encoder, load_encoder
from curation.files import read_parquet, remove, sync, write_parquet
from curation.mix.manifest import HEAD, Manifest, load_manifest, require_verified
from curation.preference.margin import margin_of, margins
from curation.shards import batches
from curation.steps import UNITS, Build, Context, StepOutput, step
from curation.transforms.render import render

TOKENS, MASK, INDEX = "tokens.bin", "mask.bin", "index.parquet"
FACTS = "facts"  # per shard, what only rendering tells of a row; merged into the index, then removed
PAIR = "pair"

INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("bucket", pa.string()),
        ("start", pa.int64()),  # of the row's tokens (of a pair: prompt and chosen) in tokens.bin and mask.bin
        ("length", pa.uint32()),
        ("copies", pa.uint16()),
        ("order", pa.uint64()),
        ("bytes", pa.uint64()),  # UTF-8 bytes of the text in the loss, for bits per byte
    ]
)
PAIR_FIELDS = [
    ("prompt_length", pa.uint32()),  # tokens of the prompt, the same in both
    ("rejected_start", pa.int64()),  # prompt and rejected
    ("rejected_length", pa.uint32()),
    ("margin", pa.float32()),  # how much better the chosen answer is; null where it is not known
]


class TokenCountError(Exception):
    """A document has another number of tokens, or another id, than its manifest row says."""


def materialise(
    ctx: Context, name: str, manifest: StepOutput, pools: dict[str, StepOutput], tokenizer: StepOutput
) -> StepOutput:
    """The step `data/<name>`: the manifest's documents as token ids, loss mask and index.

    Each row's tokens are counted again and must be what the manifest says; of a document that the mix cuts, they
    are the first ones. Copies are not written out. Raises
    ManifestError for a manifest that is not sound, TokenCountError; ValueError if a pool or the tokenizer is
    not the one that the manifest was made from.
    """
    mix = load_manifest(manifest.file(HEAD).parent) if manifest.store else require_verified(manifest.folder)
    sources = sorted(mix.head["pools"])
    require_same_inputs(mix, pools, tokenizer)
    inputs = {"manifest": mix.hash, "tokenizer": tokenizer.content}
    inputs |= {f"pool/{source}": pools[source].content for source in sources}

    def work(build: Build) -> None:
        if manifest.store:  # which is verified here alone: a run that has nothing to do fetches no rows
            require_verified(manifest.folder)
        rows = mix.rows()
        paired = are_pairs(rows, mix.folder)
        lengths = rows["tokens"].to_numpy().astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        encoder = load_encoder(tokenizer)
        dtype = "uint16" if encoder.vocab_size <= 1 << 16 else "uint32"
        _allocate(build, {TOKENS: int(starts[-1]) * np.dtype(dtype).itemsize, MASK: int(starts[-1])})
        facts = build.scratch(FACTS)
        units = {
            key: (str(path), str(tokenizer.folder), dtype, part)
            for key, path, part in by_shard(rows, starts[:-1], pools)
        }
        results = build.map(write_shard, units, encoder.kind_of_units(len(units), ctx.executor.workers)).values()
        index = _index(rows, starts[:-1], [facts / f"{key}.parquet" for key in units], paired)
        build.write_table(INDEX, index)
        # The journal goes first: a unit that it calls done must have its facts, or a killed run could not go on.
        remove(build.folder / UNITS)
        remove(facts)
        totals = {"tokens": int(starts[-1]), "in_loss": sum(result["in_loss"] for result in results)}
        build.write_json(
            "data.json",
            {
                "kind": mix.head["kind"],
                "dtype": dtype,
                "vocab_size": encoder.vocab_size,
                "tokenizer_hash": tokenizer.content,
                "manifest_hash": mix.hash,
                "rows": len(rows),
                **totals,
            },
        )
        build.counts = {"documents_in": len(rows), "documents_out": len(rows), **totals}
        build.counts["tokens_with_copies"] = int(lengths @ rows["copies"].to_numpy().astype(np.int64))

    return step(ctx, f"data/{name}", 2, {}, inputs, work)


def write_shard(folder: Path, key: str, shard: str, tokenizer: str, dtype: str, part: pa.Table) -> dict[str, int]:
    """Write the tokens and mask of those documents of one shard that `part` names, each at its place.

    `part`: columns place (row of the manifest), id, row (rising), tokens, transform, start.
    """
    encoder = load_encoder(Path(tokenizer))
    tokens = _open(folder / TOKENS, dtype)
    mask = _open(folder / MASK, "uint8")
    facts, in_loss = [], 0
    for rows, documents, rendered, encoded in rendered_rows(shard, encoder, part):
        for number, start in enumerate(rows["start"].to_pylist()):
            first, last = encoded.starts[number], encoded.starts[number + 1]
            tokens[start : start + last - first] = encoded.ids[first:last]
            mask[start : start + last - first] = encoded.mask[first:last]
        in_loss += int(encoded.mask.sum(dtype=np.int64))
        margin = margin_of(rows["transform"][0].as_py())
        known = pa.nulls(len(documents), pa.float32()) if margin is None else margins(documents, margin)
        facts.append(_facts(rows["place"], rendered, encoded).append_column("margin", known))
    for name in (TOKENS, MASK):  # not by the maps' own flush, for which every thread would wait
        sync(folder / name)
    write_parquet(folder / FACTS / f"{key}.parquet", pa.concat_tables(facts))
    return {"in_loss": in_loss}


def rendered_rows(
    shard: str, encoder: Encoder, part: pa.Table
) -> Iterator[tuple[pa.Table, pa.Table, Segments, Encoded]]:
    """The documents of one shard that `part` names, as the model sees them: (rows of `part`, all of one transform;
    the documents; rendered; encoded), some at a time.

    `part`: columns id, row (rising), tokens, transform. Raises TokenCountError for a row that has other tokens.
    """
    wanted = part["row"].to_numpy()
    for numbers, table in batches(Path(shard), [*DOCUMENT_COLUMNS, "metadata"], np.unique(wanted)):
        here = part.slice(*_span(wanted, numbers[0], numbers[-1]))
        for transform in sorted(here["transform"].unique().to_pylist()):
            rows = here.filter(pc.equal(here["transform"], transform))
            documents = table.take(pa.array(np.searchsorted(numbers, rows["row"].to_numpy())))
            rendered, _ = render(documents, WHOLE.get(transform, transform), encoder.specials)
            encoded = encoder.encode(rendered)
            if transform in WHOLE:
                encoded = encoded.first(rows["tokens"].to_numpy())
                rendered = replace(rendered, contents=pa.array(encoder.decode(encoded), pa.large_string()))
            _require_counts(rows, documents, encoded, shard)
            yield rows, documents, rendered, encoded


def require_same_inputs(mix: Manifest, pools: dict[str, StepOutput], tokenizer: StepOutput) -> None:
    """Raises ValueError for a pool or a tokenizer that the manifest was not made from."""
    for source, content in sorted(mix.head["pools"].items()):
        if source not in pools:
            raise ValueError(f"{mix.folder}: holds documents of '{source}'; no such pool among {sorted(pools)}")
        if pools[source].content != content:
            raise ValueError(
                f"{mix.folder}: made from pool '{source}' {content[:16]}, given is {pools[source].content[:16]}; "
                "build the mix again"
            )
    if mix.head["tokenizer_hash"] != (given := tokenizer.content):
        raise ValueError(
            f"{mix.folder}: counted with tokenizer {str(mix.head['tokenizer_hash'])[:16]}, given is {given[:16]}; "
            "build the mix again"
        )


def are_pairs(rows: pa.Table, folder: Path) -> bool:
    """Whether the rows of a manifest are pairs. Raises ValueError for pairs beside others."""
    transforms = set(rows["transform"].unique().to_pylist())
    others = {name for name in transforms if name.partition(" ")[0] != PAIR}
    if others and others != transforms:
        raise ValueError(f"{folder}: pairs and {sorted(others)} in one manifest; expected pairs alone")
    return bool(transforms) and not others


def _allocate(build: Build, sizes: dict[str, int]) -> None:
    """Make the files in full size. If one is not as an interrupted run left it, that run's units count no more."""
    paths = {build.folder / name: size for name, size in sizes.items()}
    if any(not path.is_file() or path.stat().st_size != size for path, size in paths.items()):
        remove(build.folder / UNITS)
        remove(build.folder / FACTS)
        for path, size in paths.items():
            with open(path, "wb") as file:
                os.truncate(file.fileno(), size)
            sync(path)


def _open(path: Path, dtype: str) -> np.ndarray:
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r+")


def by_shard(
    rows: pa.Table, starts: np.ndarray, pools: dict[str, StepOutput]
) -> Iterator[tuple[str, Path, pa.Table]]:
    """For each shard that the manifest draws from: (key, path, its rows in rising order), sorted."""
    rows = rows.select(["id", "source", "shard", "row", "tokens", "transform"])
    rows = rows.append_column("place", pa.array(np.arange(len(rows)))).append_column("start", pa.array(starts))
    rows = rows.sort_by(
        [("source", "ascending"), ("shard", "ascending"), ("row", "ascending"), ("place", "ascending")]
    )
    changes = np.zeros(max(0, len(rows) - 1), bool)
    for name in ("source", "shard"):
        changes |= pc.not_equal(rows[name].slice(1), rows[name].slice(0, len(changes))).to_numpy()
    cuts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows)]
    for first, last in itertools.pairwise(cuts) if len(rows) else ():
        source, shard = rows["source"][first].as_py(), rows["shard"][first].as_py()
        path = pools[source].folder / "shards" / f"{shard}.parquet"
        yield f"{source}--{shard}", path, rows.slice(first, last - first)


def _span(sorted_rows: np.ndarray, lowest: int, highest: int) -> tuple[int, int]:
    first = int(np.searchsorted(sorted_rows, lowest))
    return first, int(np.searchsorted(sorted_rows, highest, side="right")) - first


def _require_counts(rows: pa.Table, documents: pa.Table, encoded: Encoded, shard: str) -> None:
    if not rows["id"].equals(documents["id"]):
        wrong = next(n for n in range(len(rows)) if rows["id"][n] != documents["id"][n])
        raise TokenCountError(
            f"{shard}: row {rows['row'][wrong]} is document {documents['id'][wrong]}, "
            f"the manifest says {rows['id'][wrong]}; build the mix again"
        )
    different = np.flatnonzero(encoded.lengths != rows["tokens"].to_numpy())
    if len(different):
        n = int(different[0])
        raise TokenCountError(
            f"document {rows['id'][n]} ({shard}, row {rows['row'][n]}): {encoded.lengths[n]} tokens as "
            f"'{rows['transform'][n]}', the manifest says {rows['tokens'][n]}; count again"
        )


def _facts(places: pa.ChunkedArray, rendered: Segments, encoded: Encoded) -> pa.Table:
    """Bytes in the loss, prompt length and length of the first sequence of each document."""
    sizes = pc.binary_length(rendered.contents).to_numpy() * rendered.loss
    at_segment = np.concatenate([[0], np.cumsum(sizes)])
    first_segment = rendered.starts[:-1]
    begin = encoded.segment_starts[first_segment]
    return pa.table(
        {
            "place": places,
            "bytes": pa.array(np.diff(at_segment[rendered.starts]), pa.uint64()),
            "prompt": pa.array(encoded.segment_starts[first_segment + rendered.parts[:, 0]] - begin, pa.uint32()),
            "first": pa.array(encoded.segment_starts[first_segment + rendered.parts[:, 1]] - begin, pa.uint32()),
        }
    )


def _index(rows: pa.Table, starts: np.ndarray, facts: list[Path], paired: bool) -> pa.Table:
    columns = {name: np.zeros(len(rows), np.int64) for name in ("bytes", "prompt", "first")}
    margin = np.full(len(rows), np.nan, np.float32)
    for path in facts:
        table = read_parquet(path)
        margin[table["place"].to_numpy()] = table["margin"].to_numpy(zero_copy_only=False)
        for name, column in columns.items():
            column[table["place"].to_numpy()] = table[name].to_numpy()
    total = rows["tokens"].to_numpy().astype(np.int64)
    length = columns["first"] if paired else total
    made = {"start": starts, "length": length, "bytes": columns["bytes"]}
    schema = INDEX_SCHEMA
    if paired:
        made |= {"prompt_length": columns["prompt"], "rejected_start": starts + length}
        made |= {"rejected_length": total - length, "margin": margin}
        schema = pa.schema([*INDEX_SCHEMA, *PAIR_FIELDS])
    given = {name: pa.array(values, schema.field(name).type, from_pandas=True) for name, values in made.items()}
    return pa.table([given[name] if name in given else rows[name] for name in schema.names], schema=schema)
