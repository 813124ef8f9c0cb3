"""How many times faster texts are counted than by `tokenizers`: megabytes a second, one core, one run.

    python -m tests.benchmarks.tokens [--tokenizer FOLDER] [--megabytes 24] [--compare-megabytes 3] [--json FILE]

The documents are those of `tests.benchmarks.kernels`: files of the folder MIXWRIGHT_DATA where that is set, else
the standard library and the texts of installed packages. Without --tokenizer a byte-level BPE of 32,000 tokens is
trained on them, split as cl100k. The process pins itself to one core, and both libraries keep to one thread.
Figures are megabytes (10^6 bytes of UTF-8) a second of processor time, from a column of Arrow, as the step
`tokens` reads it, to the number of tokens of each document: by `tokenizers` (its fastest call, a batch without
offsets), by fastokens and by our own kernels (`curation.tokenizer.counter`). All are timed on a sample of the
documents spread over the corpus. A *first pass* is that of an encoder which has seen no text; in later passes over
the sample its caches hold the words. *New text* is every other document of the sample after the rest of it: unseen
documents for an encoder that is no longer cold, as all but the first megabytes of a pool are.
The command fails unless fastokens gives the ids of `tokenizers` and the kernels their number.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

LIMITS = {"RAYON_NUM_THREADS": "1", "FASTOKENS_BPE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.update(LIMITS)  # read when the libraries start their pools

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from curation.encoder import Encoder  # noqa: E402
from curation.tokenizer.bpe import take_given, train_bpe, write_folder  # noqa: E402
from curation.tokenizer.config import Tokenizer  # noqa: E402
from tests.benchmarks.kernels import corpora, machine, megabytes, spread  # noqa: E402

RUNS = 3
TRAIN_BYTES = 6_000_000  # of each corpus, where a tokenizer is trained


def seconds_of(work, runs: int) -> float:
    """Processor time of the fastest of some runs."""
    found = []
    for _ in range(runs):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def make_folder(given: Path | None, texts: dict[str, list[str]], folder: Path) -> None:
    """The given tokenizer or one trained on every corpus, as the pipeline makes it."""
    if given is not None:
        write_folder(folder, *take_given(given, ()))
    else:
        sample = [text for some in texts.values() for text in spread(some, TRAIN_BYTES / 1e6)]
        write_folder(folder, train_bpe(iter([sample]), Tokenizer()), {})


WAYS = {"tokenizers": ("tokenizers", False), "fastokens": ("fastokens", False), "kernels": ("tokenizers", True)}


def measure_corpus(kind: str, texts: list[str], folder: Path, compare: float) -> dict[str, object]:
    """All figures of one corpus."""
    sample = spread(texts, compare)
    part = megabytes(sample)
    columns = [pa.array(some, pa.large_string()) for some in (sample, sample[::2], sample[1::2])]
    row = {
        "documents": kind,
        "count": len(texts),
        "megabytes": round(megabytes(texts), 1),
        "sample, megabytes": round(part, 1),
    }
    for name, way in WAYS.items():
        Encoder(folder, *way).lengths(["compile first"])
        once, halved = Encoder(folder, *way), Encoder(folder, *way)
        halved.lengths(columns[1])
        passes = 1 if name == "tokenizers" else RUNS
        row[f"{name}, first pass"] = part / seconds_of(lambda once=once: once.lengths(columns[0]), 1)
        row[f"{name}, best pass"] = part / seconds_of(lambda once=once: once.lengths(columns[0]), passes)
        new = seconds_of(lambda halved=halved: halved.lengths(columns[2]), 1)
        row[f"{name}, new text"] = megabytes(sample[1::2]) / new
    for name in list(WAYS)[1:]:
        for figure in ("first pass", "new text", "best pass"):
            row[f"{name}, {figure}, times tokenizers"] = row[f"{name}, {figure}"] / row[f"tokenizers, {figure}"]
    reference, fast, kernels = (Encoder(folder, *way) for way in WAYS.values())
    ids, starts = reference.contents(sample)
    equal = all(map(np.array_equal, fast.contents(sample), (ids, starts)))
    equal &= np.array_equal(kernels.lengths(columns[0]), np.diff(starts))
    whole = pa.chunked_array([texts], pa.large_string())
    equal &= np.array_equal(kernels.lengths(whole), fast.lengths(whole))
    return {**row, "tokens compared": len(ids), "equal": bool(equal)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="a Hugging Face folder with a BPE; else one is trained")
    parser.add_argument("--megabytes", type=float, default=24, help="text of each kind")
    parser.add_argument("--compare-megabytes", type=float, default=3, help="of it, for both libraries")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    texts = {kind: found for kind, found in corpora(int(options.megabytes * 1e6)).items() if found}
    with tempfile.TemporaryDirectory() as folder:
        make_folder(options.tokenizer, texts, Path(folder))
        rows = [
            measure_corpus(kind, some, Path(folder), options.compare_megabytes) for kind, some in texts.items()
        ]
    where = f"{machine()}, " + ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "fastokens"))
    table = Table(title="MB/s on one core", caption=where)
    table.add_column("")
    for row in rows:
        table.add_column(f"{row['documents']}\n{row['count']} documents, {row['megabytes']} MB", justify="right")
    for name in list(rows[0])[3:]:
        table.add_row(
            name, *(f"{row[name]:.1f}" if isinstance(row[name], float) else str(row[name]) for row in rows)
        )
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": where, "corpora": rows}, indent=1) + "\n")
    if unequal := [str(row["documents"]) for row in rows if not row["equal"]]:
        print(f"ids or counts are not equal: {', '.join(unequal)}", file=sys.stderr)
    return int(bool(unequal))


if __name__ == "__main__":
    sys.exit(main())
