"""Megabytes a second on one core: the measuring pass, MinHash alone, and datasketch on the same documents.

    python -m tests.benchmarks.kernels [--megabytes 24] [--compare-megabytes 3] [--json FILE]

The documents are real: files of the folder MIXWRIGHT_DATA where that is set, else the Python standard library and
the texts that installed packages ship. The process pins itself to one core. Figures are megabytes (10^6 bytes of
UTF-8 text) a second of processor time, so that other work on the machine hardly counts; the best of three runs,
after compilation. datasketch is given the shingles as Python bytes, as its
interface asks; it is timed with them (what a user of it pays) and without (its own share).
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import platform
import site
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard
from datasketch import MinHash
from rich.console import Console
from rich.table import Table

from curation.dedup.minhash import signatures
from curation.dedup.scheme import PRESETS, Scheme
from curation.dedup.shingles import shingle_hash, shingles
from curation.measure.language import LanguageIdentifier, language_model
from curation.measure.station import Measure, measure_table
from curation.schema import DOCUMENT

DATA_FILES = {
    "prose": ["text/*.jsonl.*", "text/*.parquet", "long/books-*.jsonl.*"],
    "code": ["code/*.jsonl.*"],
    "many languages": ["multilingual/*.jsonl.*"],
}
RUNS = 3


def corpora(limit: int) -> dict[str, list[str]]:
    """Documents by kind, each at most `limit` bytes."""
    root = os.environ.get("MIXWRIGHT_DATA")
    if root:
        found = {
            kind: (
                text for pattern in patterns for path in sorted(Path(root).glob(pattern)) for text in _texts(path)
            )
            for kind, patterns in DATA_FILES.items()
        }
    else:
        library, packages = Path(sysconfig.get_path("stdlib")), Path(site.getsitepackages()[0])
        prose = [*packages.glob("**/*.rst"), *packages.glob("**/*.md"), *packages.glob("*.dist-info/**/*")]
        prose += library.glob("pydoc_data/*.py")
        code = (path for path in library.glob("**/*.py") if "site-packages" not in path.parts)
        found = {
            "prose": (_read(path) for path in sorted(prose) if path.is_file() and path.name != "RECORD"),
            "code": (_read(path) for path in sorted(code)),
        }
    return {kind: _first(texts, limit) for kind, texts in found.items()}


def _texts(path: Path) -> Iterator[str]:
    """The `text` of each record of a JSONL file (gz, zst) or Parquet file."""
    if path.suffix == ".parquet":
        yield from (text for text in pq.read_table(path, columns=["text"])["text"].to_pylist() if text)
    elif path.suffix == ".txt":
        yield _read(path)
    else:
        with gzip.open(path) if path.suffix == ".gz" else zstandard.open(path) as file:
            for line in io.TextIOWrapper(file, "utf-8"):
                record = json.loads(line) if line.startswith("{") else {}
                if isinstance(record.get("text"), str):
                    yield record["text"]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _first(texts: Iterator[str], limit: int) -> list[str]:
    kept, size = [], 0
    for text in texts:
        size += len(text.encode())
        if size > limit:
            break
        kept.append(text)
    return kept


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def speed(work: Callable[[], object], size: float, runs: int = RUNS) -> float:
    """Megabytes a second of processor time, the best of some runs."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return size / min(seconds)


def documents(texts: list[str]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"id": f"{at:032x}", "text": text} for at, text in enumerate(texts)], schema=DOCUMENT
    )


def by_datasketch(lists: list[list[bytes]], scheme: Scheme, hashfunc: Callable[[bytes], int] | None) -> np.ndarray:
    """Signatures of lists of shingles, by datasketch's fastest documented way: a batch a document."""
    out = np.zeros((len(lists), scheme.permutations), np.uint32)
    empty = MinHash(scheme.permutations, scheme.seed, hashfunc=hashfunc, scheme="affine32")
    for row, items in enumerate(lists):
        sketch = empty.copy()
        sketch.update_batch(items)
        out[row] = sketch.hashvalues
    return out


def spread(texts: list[str], limit: float) -> list[str]:
    """Every n-th document, about `limit` megabytes, none of more than a tenth of that."""
    short = [text for text in texts if len(text.encode()) < limit * 1e5]
    return _first(iter(short[:: max(1, int(megabytes(short) / limit))]), int(limit * 1e6))


def measure_corpus(kind: str, texts: list[str], compare: float) -> dict[str, object]:
    """All figures of one corpus."""
    size, table, scheme = megabytes(texts), documents(texts), PRESETS["fineweb"]
    strings = table["text"].combine_chunks()
    whole = Measure()
    plain = Measure(minhash="off", language="off", gzip_prefix_bytes=0, groups=())
    identifier = LanguageIdentifier(language_model(whole.language.model), whole.language.prefix)
    measure_table(table.slice(0, 2), whole, identifier)

    few = spread(texts, compare)
    lists, few_size = [shingles(text, scheme.ngram) for text in few], megabytes(few)
    few_strings = pa.array(few, pa.large_string())
    ours, has = signatures(few_strings, scheme)
    theirs = by_datasketch(lists, scheme, shingle_hash)
    equal = int((ours[has] == theirs[has]).all(1).sum())
    figures = {
        "documents": kind,
        "megabytes": round(size, 1),
        "count": len(texts),
        "measuring pass, all of it": speed(lambda: measure_table(table, whole, identifier), size, 1),
        "measuring pass, text statistics and hashes": speed(lambda: measure_table(table, plain, None), size),
        "MinHash 14 x 8": speed(lambda: signatures(strings, scheme), size),
        "MinHash 26 x 11": speed(lambda: signatures(strings, PRESETS["dolma3"]), size),
        "MinHash 14 x 8, a sample of them": speed(lambda: signatures(few_strings, scheme), few_size),
        "datasketch, the same sample, sha1, shingling included": speed(
            lambda: by_datasketch([shingles(text, scheme.ngram) for text in few], scheme, None), few_size, 1
        ),
        "datasketch, the same sample, sha1, shingles given": speed(
            lambda: by_datasketch(lists, scheme, None), few_size
        ),
        "datasketch, the same sample, xxh32, shingles given": speed(
            lambda: by_datasketch(lists, scheme, xxhash.xxh32_intdigest), few_size
        ),
    }
    ours_speed = figures["MinHash 14 x 8, a sample of them"]
    return figures | {
        "times datasketch, shingling included": ours_speed
        / figures["datasketch, the same sample, sha1, shingling included"],
        "times datasketch, xxh32, shingles given": ours_speed
        / figures["datasketch, the same sample, xxh32, shingles given"],
        "signatures compared": int(has.sum()),
        "signatures bit-equal": equal,
    }


def machine() -> str:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [
            line.partition(":")[2] for line in _read(Path("/proc/cpuinfo")).splitlines() if "model name" in line
        ]
        processor = models[0].strip() if models else processor
    packages = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "datasketch"))
    return f"one core of {processor}; Python {platform.python_version()}, {packages}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=24, help="text of each kind for our kernels")
    parser.add_argument("--compare-megabytes", type=float, default=3, help="text of each kind for datasketch")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = [
        measure_corpus(kind, texts, options.compare_megabytes)
        for kind, texts in corpora(int(options.megabytes * 1e6)).items()
        if texts
    ]
    table = Table(title="MB/s on one core", caption=machine())
    table.add_column("")
    for row in rows:
        table.add_column(f"{row['documents']}\n{row['count']} documents, {row['megabytes']} MB", justify="right")
    for name in list(rows[0])[3:]:
        table.add_row(
            name, *(f"{row[name]:.1f}" if isinstance(row[name], float) else str(row[name]) for row in rows)
        )
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "corpora": rows}, indent=1) + "\n")
    unequal = sum(row["signatures compared"] - row["signatures bit-equal"] for row in rows)
    if unequal:
        print(f"{unequal} signatures are not bit-equal to datasketch's", file=sys.stderr)
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
