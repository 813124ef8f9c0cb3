"""How long `decide` and `whatif` take over stored measurements: seconds, one process, one run.

    python -m tests.benchmarks.decide [--documents 100000] [--shards 4]

The measurements are those of real texts (the files of `tests.benchmarks.kernels`), their rows drawn with
repetition and with other ids, in as many shards as are asked for; the profile is `dolma3` without its edits. The
time to load Python and its libraries is not in the figures, reading the files is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.measure.station import Measure, measure_table
from curation.rules.profile import load_profile
from curation.steps import Context, StepOutput, step
from flows.decide import decide_pools
from flows.pools import MeasuredPool
from flows.whatif import what_if
from tests.benchmarks.kernels import corpora
from tests.conftest import documents_table

TEXT_BYTES = 4_000_000  # of each kind of text
SETTINGS = ["few_words=30", "symbols=0.2", "dup_5gram=0.2"]


def measured(context: Context, documents: int, shards: int) -> StepOutput:
    """A step `measure/web` of so many rows."""
    texts = [text for some in corpora(TEXT_BYTES).values() for text in some]
    real = measure_table(documents_table("web", texts), Measure(minhash="off", language="off"), None)
    draw = np.random.default_rng(1)

    def work(build) -> None:
        for number in range(shards):
            rows = draw.integers(0, len(real), documents // shards)
            ids = pa.array([f"{number:08x}{row:024x}" for row in range(len(rows))])
            build.write_table(
                f"shards/web-{number:05d}.parquet", real.take(pa.array(rows)).set_column(0, "id", ids)
            )

    return step(context, "measure/web", 1, {}, {}, work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder))
        pool = MeasuredPool("web", None, measured(context, arguments.documents, arguments.shards), None)
        profile = load_profile("dolma3").model_copy(update={"edits": ()})
        started = time.perf_counter()
        [decided] = decide_pools(context, [pool], profile)
        between = time.perf_counter()
        answer = what_if([pool], profile, SETTINGS, 5)
        ended = time.perf_counter()
    gained = answer.total().gained[0]
    print(f"{decided.documents:,} documents in {arguments.shards} shards, {len(profile.rules)} rules")
    print(f"decide, ledger written: {between - started:.2f} s; {decided.kept:,} kept")
    print(f"whatif, three settings: {ended - between:.2f} s; {gained:,} gained")


if __name__ == "__main__":
    main()
