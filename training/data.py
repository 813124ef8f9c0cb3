"""Materialised data as the trainers see it: tokens and masks mapped from disk, one index row a document.

The folder is what `curation.materialise` writes for a mix manifest: `tokens.bin`, `mask.bin`, `index.parquet` in
the manifest's order, and `data.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import read_json
from curation.schema import require_columns
from curation.steps import StepOutput, verify_files

INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("bucket", pa.string()),
        ("start", pa.int64()),
        ("length", pa.uint32()),
        ("copies", pa.uint16()),
        ("order", pa.uint64()),
        ("bytes", pa.uint64()),
    ]
)
PAIRS = pa.schema(
    [("prompt_length", pa.uint32()), ("rejected_start", pa.int64()), ("rejected_length", pa.uint32())]
)


class DataError(Exception):
    """Materialised data is not what its record says, or not what the method needs."""


@dataclass(frozen=True)
class Data:
    """One mix, ready to train on. Arrays have a length of rows, in the manifest's order."""

    folder: Path
    head: dict[str, Any]  # data.json
    tokens: np.ndarray  # all token ids, mapped from disk
    mask: np.ndarray  # uint8 of the same length, 1: in the loss
    ids: pa.ChunkedArray
    sources: list[str]  # distinct names, sorted
    source: np.ndarray  # int32, position in `sources`
    start: np.ndarray  # int64, first token; of pairs: of prompt + chosen
    length: np.ndarray  # int64
    copies: np.ndarray  # int64
    order: np.ndarray  # uint64
    bytes: np.ndarray  # int64, UTF-8 bytes of the text in the loss
    prompt: np.ndarray | None  # int64, tokens of a pair's prompt; None where the data holds no pairs
    rejected_start: np.ndarray | None
    rejected_length: np.ndarray | None
    margin: np.ndarray | None  # float32, how much better a pair's chosen answer is; 0 where it is not known

    @property
    def rows(self) -> int:
        return len(self.start)

    def names(self, rows: np.ndarray, at_most: int = 8) -> str:
        """The ids of some rows, for a message."""
        shown = ", ".join(self.ids[int(row)].as_py() for row in rows[:at_most])
        return shown + (f" and {len(rows) - at_most} more" if len(rows) > at_most else "")


def open_data(output: StepOutput, verify: bool = True) -> Data:
    """Open `data/<mix>`. With `verify`, every file is hashed first and compared with the step's record.

    Raises DataError, naming the file, for bytes that changed, spans outside the tokens, or missing columns.
    """
    wrong = verify_files(output) if verify else []
    if wrong:
        raise DataError(
            f"{output.name}: changed since it was made; remove {output.folder} and rerun. " + "; ".join(wrong)
        )
    folder, head = output.folder, read_json(output.folder / "data.json")
    index = pq.read_table(folder / "index.parquet")
    require_columns(index, INDEX, str(folder / "index.parquet"))
    pairs = "rejected_start" in index.column_names
    if pairs:
        require_columns(index, PAIRS, str(folder / "index.parquet"))
    tokens = (
        np.memmap(folder / "tokens.bin", np.dtype(head["dtype"]), "r") if head["tokens"] else np.zeros(0, "u2")
    )
    mask = np.memmap(folder / "mask.bin", np.uint8, "r") if head["tokens"] else np.zeros(0, np.uint8)
    if not len(tokens) == len(mask) == head["tokens"]:
        raise DataError(
            f"{folder}: tokens.bin holds {len(tokens)}, mask.bin {len(mask)}, data.json says {head['tokens']}"
        )
    sources = sorted(set(index["source"].to_pylist()))
    data = Data(
        folder=folder,
        head=head,
        tokens=tokens,
        mask=mask,
        ids=index["id"],
        sources=sources,
        source=np.searchsorted(sources, index["source"].to_numpy()).astype(np.int32)
        if sources
        else np.zeros(0, "i4"),
        start=_integers(index, "start"),
        length=_integers(index, "length"),
        copies=_integers(index, "copies"),
        order=index["order"].to_numpy(),
        bytes=_integers(index, "bytes"),
        prompt=_integers(index, "prompt_length") if pairs else None,
        rejected_start=_integers(index, "rejected_start") if pairs else None,
        rejected_length=_integers(index, "rejected_length") if pairs else None,
        margin=_margin(index, folder) if pairs else None,
    )
    _check_spans(data)
    return data


def _integers(index: pa.Table, name: str) -> np.ndarray:
    return index[name].to_numpy().astype(np.int64)


def _margin(index: pa.Table, folder: Path) -> np.ndarray:
    """The optional column `margin`: absent or null is 0."""
    if "margin" not in index.column_names:
        return np.zeros(len(index), np.float32)
    margin = index["margin"].cast(pa.float64()).fill_null(0.0).to_numpy().astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(margin))
    if len(wrong):
        raise DataError(
            f"{folder / 'index.parquet'}: the margin of row {wrong[0]} (document {index['id'][int(wrong[0])]}) is "
            f"{margin[wrong[0]]}; expected a finite number, or null for none"
        )
    return margin


def _check_spans(data: Data) -> None:
    spans = [(data.start, data.length)]
    if data.rejected_start is not None:
        spans.append((data.rejected_start, data.rejected_length))
    for start, length in spans:
        outside = np.flatnonzero((start < 0) | (length < 1) | (start + length > len(data.tokens)))
        if len(outside):
            raise DataError(
                f"{data.folder / 'index.parquet'}: the span of document {data.names(outside)} is empty or lies "
                f"outside the {len(data.tokens)} tokens; remove the folder and rerun"
            )
