"""datatrove's four MinHash stages, as in its examples/minhash_deduplication.py: FOLDER of JSONL -> kept ids.

Run by tests/benchmarks/dedup.py with the Python of .peers/datatrove.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.typeshelper import Languages


def main(folder: str, work: str, kept: str, workers: int) -> None:
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    files = len(list(Path(folder).glob("*.jsonl")))

    def run(stage: str, tasks: int, *steps) -> None:
        LocalPipelineExecutor(
            pipeline=list(steps), tasks=tasks, workers=workers, logging_dir=f"{work}/logs/{stage}"
        ).run()

    read = JsonlReader(folder, text_key="text", id_key="id")
    signatures, buckets, removed = (f"{work}/{name}" for name in ("signatures", "buckets", "removed"))
    run("1", files, read, MinhashDedupSignature(signatures, config, language=Languages.english))
    run("2", 14, MinhashDedupBuckets(signatures, buckets, config=config))
    run("3", 1, MinhashDedupCluster(buckets, removed, config=config))
    run("4", files, read, MinhashDedupFilter(removed), JsonlWriter(f"{work}/output"))
    with open(kept, "w") as out:
        for path in sorted(Path(work, "output").glob("*.jsonl.gz")):
            with gzip.open(path) as file:
                out.writelines(json.loads(line)["id"] + "\n" for line in file)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
