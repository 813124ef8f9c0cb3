"""The headline benchmark: 1 GB of JSON lines from raw text to a pretrain mix, and where the seconds go.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.headline [--megabytes 1000] [--workers 2] [--folder DIR]
    MIXWRIGHT_DATA=... python -m tests.benchmarks.headline --peer .peers/datatrove/bin/python --peer-megabytes 8

The corpus is that of `tests.benchmarks.corpus` (web pages, code and papers out of real text, with planted
duplicates); making it is not counted. `headline.yaml` beside this file is the pipeline: ingest, all measurements,
the filters of a profile and its edits, exact and verified fuzzy deduplication, language, a quality classifier
trained on the way, a tokenizer trained on the way with exact counts, a pretrain mix. It runs in a process of its
own, start-up and compiled kernels' cache included, when the corpus has reached the disk. Stations that run at once
are one row. Seconds are of the clock and of the processors (all processes); the peak is the highest sum of the
resident memory of all processes, looked at five times a second, where what they share counts once. The last line
is a plain pass over the same bytes. With --peer the same stations are run by datatrove on a slice
(`peers/datatrove_line.py`). DIR needs about 3 GB for 1,000 MB and is emptied of what was put there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Lock, Thread

import psutil
from rich.console import Console
from rich.table import Table

from curation.memory import Resident
from tests.benchmarks.corpus import json_lines, write_corpus

HERE = Path(__file__).parent
RUN = """import sys
from tests.benchmarks.headline import run
if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
"""


def run(workspace: str, workers: int) -> None:
    """The pipeline up to its mix; a line of JSON on standard output for each station, and one at the end.

    Stations that run at once have one line: which of them used the processors cannot be told.
    """
    from flows.engines import open_executor

    lock, together, under_way, at = Lock(), {}, [], {}

    def now():
        return {"seconds": time.monotonic(), "processor": _processor_seconds()}

    def stage(name, work):
        station = name.partition("/")[0]
        with lock:
            if not under_way:
                together.clear()
                at.update(now())
                print(json.dumps({"begins": station}), flush=True)
            together[station] = None
            under_way.append(station)
        result = work()
        with lock:
            under_way.remove(station)
            if not under_way:
                cost = {key: end - at[key] for key, end in now().items()}
                print(json.dumps({"stations": list(together), **cost}), flush=True)
        return result

    with open_executor(workers=workers) as executor:
        executor.start()  # its server loads the line while this process does
        from curation.steps import Context
        from flows.execute import Options, open_line

        options = Options(HERE / "headline.yaml", Path(workspace))
        line = open_line(options, Context(Path(workspace), executor), stage)
        line.ingest()
        line.curate()
        mixed = line.mix_one("pretrain")
        total = {"documents": sum(pool.counts["documents_in"] for pool in line.pools.values())}
        steps = {one.name: one.counts.get("documents_out") for one in line.context.outputs}
        total |= {"processor": _processor_seconds(), "mix": mixed.counts, "documents_out": steps}
        print(json.dumps({"end": total}), flush=True)


def _processor_seconds() -> float:
    """Of this process and all its children, those that have ended included."""
    used = os.times()
    total = used.user + used.system + used.children_user + used.children_system
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            total += times.user + times.system
    return total


class Watch(Thread):
    """The highest memory of a process and its children, by station."""

    def __init__(self, process: psutil.Popen):
        super().__init__(daemon=True)
        self.process, self.station, self.peaks = process, "start", {}

    def run(self) -> None:
        resident = Resident(self.process)
        while self.process.poll() is None:
            self.peaks[self.station] = max(resident.now(), self.peaks.get(self.station, 0))
            time.sleep(0.2)


def watched(corpus: Path, workspace: Path, workers: int, tokens: int) -> dict:
    """Run the pipeline in a process of its own; stations with their costs, peaks, and the whole."""
    script = workspace.parent / "run.py"
    script.write_text(RUN)
    variables = {
        "HEADLINE_CORPUS": str(corpus),
        "HEADLINE_TOKENS": str(tokens),
        "PYTHONPATH": str(HERE.parents[1]),
    }
    command = [sys.executable, str(script), str(workspace), str(workers)]
    begun = time.monotonic()
    stations: dict[str, dict] = {}
    end: dict = {}
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables)
    watch = Watch(process)
    watch.start()
    for line in process.stdout:
        said = json.loads(line)
        watch.station = said.get("begins", watch.station)
        if "stations" in said:
            held = stations.setdefault(", ".join(said["stations"]), {"seconds": 0.0, "processor": 0.0})
            held["seconds"] += said["seconds"]
            held["processor"] += said["processor"]
        end = said.get("end", end)
    if process.wait():
        sys.exit(f"the pipeline failed with exit code {process.returncode}")
    watch.join()
    whole = {"seconds": time.monotonic() - begun, "processor": end.pop("processor")}
    rest = {key: whole[key] - sum(one[key] for one in stations.values()) for key in whole}
    stations |= {"start, imports, end": rest, "whole": whole}
    for name, one in stations.items():
        one["peak"] = watch.peaks.get(name.partition(",")[0], 0)
    whole["peak"] = max(watch.peaks.values())
    return {"stations": stations, **end}


def plain_pass(corpus: Path) -> float:
    """Processor seconds of reading the files and finding the largest byte of them."""
    import numpy as np

    start = time.process_time()
    for path in corpus.glob("*/*.jsonl"):
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                np.frombuffer(block, np.uint8).max()
    return time.process_time() - start


def peer(python: str, megabytes: float, folder: Path) -> dict[str, float]:
    """datatrove's stations on a slice: processor seconds a megabyte, by station and in all.

    Its stations need models: lid.176.ftz, a quality classifier and a tokenizer trained on the slice, not counted.
    """
    corpus, models, work = (folder / name for name in ("slice", "models", "peer"))
    size = sum(write_corpus(corpus, megabytes).values()) / 1e6
    _models(corpus, models)
    work.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = str(HERE / "peers" / "datatrove_line.py")
    limits = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    command = [python, script, str(corpus), str(models), str(work)]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | limits)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(out.stdout.splitlines()[-1])
    return {name: seconds / size for name, seconds in found.items()} | {"whole": whole / size}


def _models(corpus: Path, models: Path) -> None:
    import fasttext

    from curation.measure.language import language_model
    from curation.tokenizer.bpe import train_bpe
    from curation.tokenizer.config import Tokenizer

    models.mkdir()
    shutil.copy(language_model(), models / "lid")
    files = {kind: sorted((corpus / kind).glob("*.jsonl")) for kind in ("web", "papers")}
    texts = {kind: [row["text"] for path in some for row in json_lines(path)] for kind, some in files.items()}
    examples = models / "examples.txt"
    examples.write_text(
        "".join(
            f"__label__{kind} {' '.join(text[:2000].split())}\n" for kind, some in texts.items() for text in some
        )
    )
    model = fasttext.train_supervised(str(examples), wordNgrams=2, dim=16, bucket=100_000, thread=1, verbose=0)
    model.save_model(str(models / "quality"))
    train_bpe(iter(texts.values()), Tokenizer(vocab_size=16_000)).save(str(models / "tokenizer.json"))


def show(found: dict, size: float, plain: float) -> None:
    table = Table(title=f"{size:.0f} MB of text, {found['documents']:,} documents")
    for column in ("station", "seconds", "processor s", "MB/s", "MB/s a core", "peak, MiB"):
        table.add_column(column, justify="left" if column == "station" else "right")
    for name, one in found["stations"].items():
        rates = (f"{size / max(1e-9, one[key]):.0f}" for key in ("seconds", "processor"))
        costs = (f"{one[key]:.1f}" for key in ("seconds", "processor"))
        table.add_row(name, *costs, *rates, f"{one['peak'] / 2**20:.0f}")
    table.add_row("a plain pass", "", f"{plain:.1f}", "", f"{size / plain:.0f}", "")
    Console(width=120).print(table)
    print(json.dumps(found["mix"]))
    print(json.dumps(found["documents_out"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=0, help="budget of the mix; default: one for 20 bytes")
    parser.add_argument(
        "--folder", type=Path, help="where to put the corpus and the workspace; default: temporary"
    )
    parser.add_argument("--corpus", type=Path, help="a corpus that is there already")
    parser.add_argument("--peer", help="Python of an environment with datatrove; then only the peer is run")
    parser.add_argument("--peer-megabytes", type=float, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        if options.peer:
            found = peer(options.peer, options.peer_megabytes, folder)
            for name, seconds in found.items():
                print(f"{name:24} {seconds:8.3f} processor s/MB {1 / seconds:8.2f} MB/s a core")
            return
        corpus = options.corpus or folder / "corpus"
        if not options.corpus:
            write_corpus(corpus, options.megabytes)
            os.sync()  # or the disk would still write it while the pipeline is timed
        plain = plain_pass(corpus)
        tokens = options.tokens or int(options.megabytes * 1e6 / 20)
        found = watched(corpus, folder / "workspace", options.workers, tokens)
        show(found, options.megabytes, plain)


if __name__ == "__main__":
    main()
