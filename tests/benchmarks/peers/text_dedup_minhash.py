"""text-dedup's minhash command on a FOLDER of JSONL, and the ids of what it has kept.

Run by tests/benchmarks/dedup.py with the Python of .peers/text-dedup. Bands and rows are those of the others; the
rest is left at its defaults.
"""

from __future__ import annotations

import subprocess
import sys

from datasets import load_from_disk


def main(folder: str, work: str, kept: str, workers: int) -> None:
    options = {
        "path": "json",
        "data_files": f"{folder}/*.jsonl",
        "split": "train",
        "cache_dir": f"{work}/cache",
        "output": f"{work}/output",
        "column": "text",
        "ngram": 5,
        "num_perm": 112,
        "b": 14,
        "r": 8,
        "batch_size": 10000,
        "num_proc": workers,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "text_dedup.minhash", *arguments], check=True)
    with open(kept, "w") as out:
        out.writelines(f"{name}\n" for name in load_from_disk(f"{work}/output")["id"])


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
