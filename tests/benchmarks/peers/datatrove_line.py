"""The stations of the headline benchmark by datatrove, one worker: CORPUS, MODELS and WORK folder.

Language, its four filters (Gopher repetition, Gopher quality, C4, FineWeb), a fastText quality score, exact
deduplication in three stages, MinHash in four, token counts by `tokenizers`. Prints processor seconds by station
as JSON. Run by tests/benchmarks/headline.py with the Python of .peers/datatrove.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FastTextClassifierFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import TokensCounter
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.typeshelper import Languages


def content(document) -> str:
    return document.text


def main(corpus: str, models: str, work: str) -> None:
    seconds: dict[str, float] = {}

    def run(station: str, tasks: int, *steps) -> None:
        start = time.process_time()
        logs = f"{work}/logs/{len(list(Path(work).glob('logs/*')))}"
        LocalPipelineExecutor(pipeline=list(steps), tasks=tasks, workers=1, logging_dir=logs).run()
        seconds[station] = seconds.get(station, 0.0) + time.process_time() - start

    def read(name: str) -> JsonlReader:
        return JsonlReader(f"{work}/{name}")

    def files(name: str) -> int:
        return len(list(Path(work, name).glob("*.jsonl.gz")))

    # It wants a label to filter by: a score that no document has.
    asked = {"lid": ("en", 2.0), "quality": ("web", 2.0)}
    scores = [
        FastTextClassifierFilter(f"{models}/{name}", remove_labels=label, newline_replacement=" ")
        for name, label in asked.items()
    ]
    kept = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()]
    everything = JsonlReader(corpus, recursive=True, glob_pattern="**/*.jsonl")
    parts = len(list(Path(corpus).glob("**/*.jsonl")))
    run("filters and classifiers", parts, everything, *scores, *kept, JsonlWriter(f"{work}/filtered"))

    config = ExactDedupConfig(content_getter=content)
    tasks = files("filtered")
    run("exact deduplication", tasks, read("filtered"), ExactDedupSignature(f"{work}/exact", config))
    run("exact deduplication", 1, ExactFindDedups(f"{work}/exact", f"{work}/exact-found", config))
    without = ExactDedupFilter(f"{work}/exact-found", config)
    run("exact deduplication", tasks, read("filtered"), without, JsonlWriter(f"{work}/exact-left"))

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    tasks, (signed, found, removed) = files("exact-left"), (f"{work}/{n}" for n in ("signed", "found", "removed"))
    signing = MinhashDedupSignature(signed, config, language=Languages.english)
    run("fuzzy deduplication", tasks, read("exact-left"), signing)
    run("fuzzy deduplication", 14, MinhashDedupBuckets(signed, found, config=config))
    run("fuzzy deduplication", 1, MinhashDedupCluster(found, removed, config=config))
    left = MinhashDedupFilter(removed)
    run("fuzzy deduplication", tasks, read("exact-left"), left, JsonlWriter(f"{work}/left"))

    run("tokens", files("left"), read("left"), TokensCounter(f"{models}/tokenizer.json"))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:4])
