"""rensa's RMinHashDeduplicator on a FOLDER of JSONL -> kept ids.

Run by tests/benchmarks/dedup.py with the Python of .peers/rensa. As in its README the tokens of a document are
`text.split()`; with "5" as last argument they are word 5-grams, as the others take.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rensa import RMinHashDeduplicator


def main(folder: str, kept: str, ngram: int) -> None:
    def tokens(text: str) -> list[str]:
        words = text.split()
        if ngram == 1:
            return words
        return [" ".join(words[at : at + ngram]) for at in range(max(1, len(words) - ngram + 1))]

    names: list[str] = []

    def pairs():
        for path in sorted(Path(folder).glob("*.jsonl")):
            with open(path, "rb") as file:
                for line in file:
                    record = json.loads(line)
                    names.append(record["id"])
                    yield record["id"], tokens(record["text"])

    keep = RMinHashDeduplicator(threshold=0.8, num_perm=128, use_lsh=True).add_pairs(pairs())
    with open(kept, "w") as out:
        out.writelines(f"{name}\n" for name, stays in zip(names, keep, strict=True) if stays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3], int(sys.argv[5]))
