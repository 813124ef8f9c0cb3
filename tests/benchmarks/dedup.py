"""Deduplication against its peers: speed of the whole command, recall and precision on labelled pairs, scaling.

    make benchmark-peers                                      # .peers/: a virtual environment for each peer, once
    MIXWRIGHT_DATA=... python -m tests.benchmarks.dedup speed --megabytes 400 --slice 25 --cores 1
    MIXWRIGHT_DATA=... python -m tests.benchmarks.dedup quality --pairs 80000
    MIXWRIGHT_DATA=... python -m tests.benchmarks.dedup peers-quality --pairs 4000
    MIXWRIGHT_DATA=... python -m tests.benchmarks.dedup scale --documents 100000 1000000 10000000

Each command runs as a process of its own, pinned to the same cores, from JSON lines to the ids that are kept;
starting up, reading and writing included. Seconds are of wall time and of processor time, children included; the
ratios are of processor time, which other work on the machine hardly changes. With `--slice` the peers of SLOW get
only so many megabytes of the same documents, and rates are compared: hours become minutes, and what they need to
start is a small share of that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from curation.dedup.minhash import signatures
from curation.dedup.records import Fields
from curation.dedup.scheme import PRESETS
from curation.dedup.settings import Dedup, Keep
from curation.dedup.tool import Request, dedup_files
from curation.executor import LocalExecutor
from curation.steps import Context
from tests.benchmarks.dedup_corpus import (
    KINDS,
    LEVELS,
    Pair,
    documents,
    jaccard,
    labelled,
    short_documents,
    write_jsonl,
)
from tests.benchmarks.dedup_runs import PEERS, mixwright, peer
from tests.benchmarks.kernels import machine, megabytes, speed

SLOW = ("datatrove", "text-dedup")


def beginning(made: list[tuple[str, str]], size: float) -> list[tuple[str, str]]:
    """The first documents, of about `size` bytes."""
    ends = np.cumsum([len(text) for _, text in made])
    return made[: int(np.searchsorted(ends, size)) + 1]


def run_speed(options: argparse.Namespace, work: Path) -> dict:
    folder, some = work / "input", work / "slice"
    folder.mkdir()
    some.mkdir()
    made = list(documents(int(options.megabytes * 1e6)))
    size = write_jsonl(folder / "part.jsonl", made, options.cores) / 1e6
    sliced = write_jsonl(some / "part.jsonl", beginning(made, (options.slice or size) * 1e6), options.cores) / 1e6
    runs = [mixwright(folder, work / f"out{at}", options.cores) for at in range(options.runs)]
    ours = min(runs, key=lambda run: run["processor"])
    rows = {"mixwright dedup": ours}
    for name in PEERS:
        if not options.peers or any(name.startswith(wanted) for wanted in options.peers):
            outcome = peer(name, some if name in SLOW else folder, work / name.replace(" ", "-"), options.cores)
            rows |= {name: outcome} if outcome else {}
    table = Table("command", "MB", "seconds", "processor s", "MB/s a core", "times", "times, wall", "kept")
    found = {}
    for name, row in rows.items():
        own = sliced if name in SLOW else size
        found[name] = {
            "megabytes": own,
            "seconds": row["seconds"],
            "processor": row["processor"],
            "rate": own / row["processor"],
            "times": row["processor"] / own / (ours["processor"] / size),
            "times_wall": row["seconds"] / own / (min(run["seconds"] for run in runs) / size),
            "kept": len(row["kept"]),
        }
        table.add_row(name, *(f"{value:,.1f}" for value in found[name].values()))
    first = [text for _, text in made[:4000]]
    texts = pa.array(first, pa.large_string())
    kernel = speed(lambda: signatures(texts, PRESETS["fineweb"]), megabytes(first))
    table.title = f"{len(made):,} documents, {size:,.1f} MB, {options.cores} cores; kernel {kernel:.0f} MB/s"
    Console(width=140).print(table)
    return {"megabytes": size, "documents": len(made), "cores": options.cores, "kernel": kernel, "rows": found}


def interval(found: int, of: int) -> float:
    """Half the width of the 95 % interval of a share, by Wilson's formula."""
    if not of:
        return float("nan")
    share, z = found / of, 1.96
    return z / (1 + z * z / of) * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5


def found_by_bands(folder: Path, work: Path, seed: int) -> set[str]:
    """What is kept if every proposed pair of LEVELS[0] or more, by the signature's shingles, is confirmed."""
    scheme = PRESETS["fineweb"].model_copy(update={"seed": seed})
    keep = Keep(then=("longest",))
    dedup = Dedup(scheme=scheme, verify_ngram=scheme.ngram, threshold=LEVELS[0], keep=keep)
    out = work / f"seed{seed}"
    with LocalExecutor() as executor:
        request = Request(inputs=(str(folder),), fields=Fields(key="id"), dedup=dedup)
        dedup_files(Context(out / "work", executor), request, out)
    kept = set(pq.read_table(out / "kept.parquet")["origin"].to_pylist())
    shutil.rmtree(out)
    return kept


def run_quality(options: argparse.Namespace, work: Path) -> dict:
    """Our recall against the promise of the curve at each level, and the precision of what is removed.

    Each seed is a set of permutations of its own: pairs times seeds are the trials that the interval is of.
    """
    folder = work / "input"
    folder.mkdir()
    made, pairs = labelled(options.pairs)
    write_jsonl(folder / "part.jsonl", made)
    curve = PRESETS["fineweb"].detection
    kept = [found_by_bands(folder, work, seed) for seed in range(1, options.seeds + 1)]
    usual = mixwright(folder, work / "usual", options.cores)
    table = Table("Jaccard, 5-grams", "pairs", "promised", "found", "difference", "95 % interval")
    levels = []
    for low, high in pairwise(LEVELS):
        own = [pair for pair in pairs if low <= pair.jaccard5 < high]
        trials = len(own) * len(kept)
        found = sum(not one.issuperset(pair[:2]) for one in kept for pair in own)
        promised = float(np.mean([curve(pair.jaccard5) for pair in own])) if own else float("nan")
        share, half = found / max(1, trials), interval(found, trials)
        levels.append(
            {"from": low, "to": high, "pairs": len(own), "promised": promised, "found": share, "half": half}
        )
        cells = (f"{promised:.4f}", f"{share:.4f}", f"{share - promised:+.4f}", f"± {half:.4f}")
        table.add_row(f"{low} to {high}", f"{len(own):,}", *cells)
    table.title = f"{len(made):,} documents, {len(kept)} seeds"
    Console(width=120).print(table)
    removed = pq.read_table(work / "usual" / "removed.parquet").to_pylist()
    texts = dict(made)
    true = [jaccard(texts[row["origin"]], texts[row["twin_origin"]], 3) for row in removed]
    right = sum(value >= 0.8 for value in true)
    kinds = {}
    for kind in KINDS:
        own = [pair for pair in pairs if pair.kind == kind and pair.jaccard3 >= 0.8]
        found = sum(not usual["kept"].issuperset(pair[:2]) for pair in own)
        promised = float(np.mean([curve(pair.jaccard5) for pair in own])) if own else float("nan")
        kinds[kind] = {"pairs": len(own), "found": found / max(1, len(own)), "promised": promised}
    print(f"removed at 0.8: {len(removed):,}, of them with a kept twin of 0.8 or more: {right:,}")
    print(json.dumps(kinds, indent=1))
    return {"levels": levels, "removed": len(removed), "right": right, "kinds": kinds}


def run_peers_quality(options: argparse.Namespace, work: Path) -> dict:
    """Recall and precision at 0.8 of everyone on the same labelled documents."""
    folder = work / "input"
    folder.mkdir()
    made, pairs = labelled(options.pairs)
    write_jsonl(folder / "part.jsonl", made, options.cores)
    rows = {"mixwright dedup": mixwright(folder, work / "ours", options.cores)}
    for name in PEERS:
        outcome = peer(name, folder, work / name.replace(" ", "-"), options.cores)
        rows |= {name: outcome} if outcome else {}
    twins: dict[str, list[Pair]] = {}
    for pair in pairs:
        for name in pair[:2]:
            twins.setdefault(name, []).append(pair)
    bounds = [(0.0, 0.5), *pairwise(LEVELS)]
    table = Table("", *(f"{low} to {high}" for low, high in bounds), "removed", "precision", "recall at 0.8")
    found = {}
    for name, row in rows.items():
        gone = {document for document, _ in made} - row["kept"]
        right = sum(any(pair.jaccard3 >= 0.8 for pair in twins[document]) for document in gone)
        shares = []
        for low, high in bounds:
            own = [pair for pair in pairs if low <= pair.jaccard3 < high]
            shares.append(sum(not row["kept"].issuperset(pair[:2]) for pair in own) / max(1, len(own)))
        own = [pair for pair in pairs if pair.jaccard3 >= 0.8]
        recall = sum(not row["kept"].issuperset(pair[:2]) for pair in own) / max(1, len(own))
        precision = right / max(1, len(gone))
        found[name] = {"levels": shares, "removed": len(gone), "precision": precision, "recall": recall}
        cells = [f"{share:.3f}" for share in shares]
        table.add_row(name, *cells, f"{len(gone):,}", f"{precision:.4f}", f"{recall:.4f}")
    table.title = "Share of pairs of which one is removed, by Jaccard similarity of word 3-grams"
    Console(width=160).print(table)
    return found


def run_scale(options: argparse.Namespace, work: Path) -> dict:
    """Processor time and peak memory by the number of short documents."""
    table = Table("documents", "MB", "seconds", "processor s", "µs a document", "peak MiB", "kept")
    found = []
    for count in options.documents:
        folder = work / f"input{count}"
        folder.mkdir()
        size = write_jsonl(folder / "part.jsonl", short_documents(count)) / 1e6
        run = mixwright(folder, work / f"out{count}", options.cores, "--memory", options.memory)
        row = {"documents": count, "megabytes": size, "seconds": run["seconds"], "processor": run["processor"]}
        row |= {"micro": run["processor"] / count * 1e6, "peak": run["peak"] / 2**20, "kept": len(run["kept"])}
        found.append(row)
        table.add_row(*(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in row.values()))
        shutil.rmtree(folder)
        shutil.rmtree(work / f"out{count}")
    Console(width=120).print(table)
    return {"rows": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "quality", "peers-quality", "scale"])
    parser.add_argument("--megabytes", type=float, default=100, help="text of the speed comparison")
    parser.add_argument("--slice", type=float, help="megabytes for the slow peers; all without it")
    parser.add_argument("--pairs", type=int, default=4000, help="labelled pairs")
    parser.add_argument("--seeds", type=int, default=8, help="sets of permutations for the recall of quality")
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--memory", default="4GiB", help="what our command may use in scale")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="of our command, the best counts")
    parser.add_argument("--peers", nargs="*", help="beginnings of the names of peers; all without it")
    parser.add_argument("--work", type=Path, help="folder for files; a temporary one without it")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    runs = {"speed": run_speed, "quality": run_quality, "peers-quality": run_peers_quality, "scale": run_scale}
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        figures = runs[options.what](options, Path(work))
    print(machine())
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
