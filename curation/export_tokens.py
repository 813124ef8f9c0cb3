"""A mix as OLMo-core reads it: raw token files, a file of boundaries beside each, and label masks.

Files are flat little-endian arrays without a header, whatever their suffix says: uint16 for vocabularies up to
65,536, else uint32. End-of-text closes every document: our texts end in it; a conversation and a text that the mix
cuts do not, and get one more, masked where there are masks. Text is `part-NNNNN.npy` with `start, end, id, source
file, row` in `part-NNNNN.csv.gz`. A mix with tokens outside the loss is laid out as instruction data is:
`token_ids_part_NNNN.npy`, `labels_mask_part_NNNN.npy`, and `start, end` in `token_ids_part_NNNN.csv.gz`.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curation.encoder import load_encoder
from curation.export import ExportError, Form
from curation.files import atomic, read_json, write_bytes, write_json
from curation.materialise import INDEX, MASK, TOKENS
from curation.mix.manifest import require_verified
from curation.steps import StepOutput, verify_files

NAME = "olmo-core"


def olmo_core(manifest: StepOutput, data: StepOutput, tokenizer: StepOutput, part_bytes: int) -> Form:
    """The form of `data/<mix>`, its bytes verified. Raises ValueError for data of another manifest, for pairs."""
    mix = require_verified(manifest.folder)
    if wrong := verify_files(data):
        raise ValueError(f"{data.name}: changed since it was made; remove {data.folder} and rerun. {wrong[0]}")
    head = read_json(data.folder / "data.json")
    if head["manifest_hash"] != mix.hash:
        raise ValueError(f"{data.folder}: made from another manifest than {mix.folder}; run the pipeline again")
    return OlmoCore(mix, tokenizer, NAME, part_bytes, data, head)


class OlmoCore(Form):
    """The data is mapped, never read whole; a part is written straight into its mapped file."""

    def __init__(self, mix, tokenizer, name: str, part_bytes: int, data: StepOutput, head: dict[str, Any]):
        super().__init__(mix, tokenizer, name, part_bytes)
        index = pq.read_table(data.folder / INDEX)
        if "rejected_start" in index.column_names:
            raise ValueError(f"{mix.folder}: OLMo-core has no form for pairs; export them as parquet or jsonl")
        rows = mix.rows()
        if not index["id"].equals(rows["id"]) or not index["length"].equals(rows["tokens"].cast("uint32")):
            raise ExportError(f"{data.folder / INDEX}: other documents or lengths than the manifest's rows")
        self.dtype = np.dtype(head["dtype"]).newbyteorder("<")
        self.masked = head["in_loss"] < head["tokens"]
        self.end = load_encoder(tokenizer).specials.end_of_text
        self.tokens = (
            np.memmap(data.folder / TOKENS, self.dtype, "r") if head["tokens"] else np.empty(0, self.dtype)
        )
        self.mask = np.memmap(data.folder / MASK, np.uint8, "r") if head["tokens"] else np.empty(0, np.uint8)
        self.start = index["start"].to_numpy()
        self.length = index["length"].to_numpy().astype(np.int64)
        self.open = self.tokens[self.start + self.length - 1] != self.end  # not closed by end-of-text
        self.places = rows.select(["id", "source", "shard", "row"])
        sizes = (self.length + self.open) * self.dtype.itemsize
        self.lay_out(index["order"].to_numpy(), index["copies"].to_numpy().astype(np.int64), sizes)

    def _stem(self, part: int) -> str:
        return f"token_ids_part_{part:04d}" if self.masked else f"part-{part:05d}"

    def files(self, part: int) -> list[str]:
        names = [f"{self._stem(part)}.npy", f"{self._stem(part)}.csv.gz"]
        return [*names, f"labels_mask_part_{part:04d}.npy"] if self.masked else names

    def write(self, folder: Path, scratch: Path, part: int) -> dict[str, int]:
        rows = self.rows_of(part)
        ends = np.cumsum(self.length[rows] + self.open[rows])
        starts = ends - self.length[rows] - self.open[rows]
        self._fill(folder / f"{self._stem(part)}.npy", self.tokens, self.dtype, rows, starts, ends, self.end)
        counts = {"documents": len(rows), "added_end_of_text": int(self.open[rows].sum())}
        counts["bytes"] = (folder / f"{self._stem(part)}.npy").stat().st_size
        counts["tokens"] = counts["bytes"] // self.dtype.itemsize - counts["added_end_of_text"]
        if self.masked:
            path = folder / f"labels_mask_part_{part:04d}.npy"
            self._fill(path, self.mask, np.dtype(bool), rows, starts, ends, False)
            counts["tokens_in_loss"] = int(np.count_nonzero(np.memmap(path, bool, "r")))
        self._write_boundaries(folder / f"{self._stem(part)}.csv.gz", rows, starts, ends)
        return counts

    def _fill(self, path: Path, values, dtype: np.dtype, rows, starts, ends, closing) -> None:
        """One flat file: the values of each row, and `closing` after those that are not closed."""
        with atomic(path) as temporary:
            out = np.memmap(temporary, dtype, "w+", shape=(int(ends[-1]),))
            spans = (self.start[rows], self.length[rows], self.open[rows], starts, ends)
            for first, length, opened, start, end in zip(*(span.tolist() for span in spans), strict=True):
                out[start : start + length] = values[first : first + length]
                if opened:
                    out[end - 1] = closing
            out.flush()
            del out

    def _write_boundaries(self, path: Path, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        if self.masked:
            writer.writerows(spans)
        else:
            places = self.places.take(rows).to_pylist()
            for span, at in zip(spans, places, strict=True):
                writer.writerow([*span, at["id"], f"{at['source']}/{at['shard']}.parquet", at["row"] + 1])
        write_bytes(path, gzip.compress(lines.getvalue().encode(), 6, mtime=0))

    def finish(self, folder: Path, record: dict[str, Any]) -> None:
        super().finish(folder, record)
        if self.masked:
            counts, row = record["counts"], self.row
            sources = self.places["source"].to_numpy(zero_copy_only=False)[row]
            names, place = np.unique(sources, return_inverse=True)
            tokens = np.bincount(place, self.length[row] + self.open[row], len(names)).astype(np.int64).tolist()
            told = {
                "total_instances": counts["documents"],
                "total_tokens": counts["tokens"] + counts["added_end_of_text"],
                "trainable_tokens": counts["tokens_in_loss"],
                "tokens_by_source": dict(zip(names.tolist(), tokens, strict=True)),
            }
            write_json(folder / "dataset_statistics.json", told)
