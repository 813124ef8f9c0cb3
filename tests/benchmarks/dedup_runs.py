"""Commands run and timed as processes of their own: ours, and the peers in their own environments."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: orphans of the processes started here become ours
SCRIPTS = Path(__file__).parent / "peers"
PEERS = {  # how a peer is called: its environment, its script, further arguments
    "datatrove": ("datatrove", "datatrove_minhash.py", []),
    "text-dedup": ("text-dedup", "text_dedup_minhash.py", []),
    "rensa, as its README (words)": ("rensa", "rensa_dedup.py", ["1"]),
    "rensa, word 5-grams": ("rensa", "rensa_dedup.py", ["5"]),
}


class Outcome(dict):
    """seconds, processor seconds and peak memory of a command, and the ids it kept."""


def timed(command: list[str], cores: int, log: Path) -> dict[str, float]:
    """Run a command on the first `cores` cores. Raises RuntimeError with the end of its log if it fails."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(cores)}
    environment |= {"RAYON_NUM_THREADS": str(cores)}
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with open(log, "wb") as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
    seconds = time.perf_counter() - started
    with contextlib.suppress(ChildProcessError):
        while True:  # what outlived its parent is ours by now, and its time counts once it has been waited for
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor": used}


def mixwright(folder: Path, out: Path, cores: int, *options: str) -> Outcome:
    """The command of this project: the ids it kept and its time."""
    command = [sys.executable, "-m", "flows.cli", "dedup", str(folder), "--out", str(out), "--json"]
    command += ["--id-field", "id", "--workers", str(cores), "--memory", "64GiB", *options]
    outcome = Outcome(timed(command, cores, out.with_suffix(".log")))
    outcome["kept"] = set(pq.read_table(out / "kept.parquet")["origin"].to_pylist())
    records = (out / "work" / "steps").rglob("step.json")
    outcome["peak"] = max(json.loads(record.read_text())["peak_memory"] for record in records)
    return outcome


def peer(name: str, folder: Path, work: Path, cores: int) -> Outcome | None:
    """A peer on the same documents; None where its environment is not there."""
    environment, script, arguments = PEERS[name]
    python = Path(os.environ.get("MIXWRIGHT_PEERS", ROOT / ".peers")) / environment / "bin" / "python"
    if not python.is_file():
        print(f"{name}: no {python}; run make benchmark-peers", file=sys.stderr)
        return None
    work.mkdir(parents=True)
    kept = work / "kept.txt"
    command = [str(python), str(SCRIPTS / script), str(folder), str(work), str(kept), str(cores), *arguments]
    outcome = Outcome(timed(command, cores, work / "log.txt"))
    outcome["kept"] = set(kept.read_text().splitlines())
    return outcome
