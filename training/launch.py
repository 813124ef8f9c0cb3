"""Start the processes of a stage through torchrun, watch them, and bring back what they trained."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import training
from curation.files import read_json, remove
from training.loop import Watch
from training.work import FAILED, KNOWN, TRAINED, Job, Trained

POLL = 0.2  # seconds between looks at the log


class ProcessesError(Exception):
    """The processes of a stage ended without a result, for a reason that they could not tell."""


def launch(job: Job, watches: Sequence[Watch], output: Path) -> Trained:
    """Train with `job.config.processes` processes on this machine; `watches` hear of each step.

    What the processes print goes to the file `output`. Raises what a process raised, where it could tell;
    ProcessesError otherwise.
    """
    job.progress.mkdir(parents=True, exist_ok=True)
    for name in (FAILED, TRAINED):
        remove(job.progress / name)
    description = job.progress / "job.json"
    job.write(description)
    told = job.log.stat().st_size if job.log.exists() else 0
    with _held(job.progress) as lock, open(output, "ab") as printed:
        before = printed.tell()
        command = [*_torchrun(job.config.processes), str(description), str(lock)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            env=_environment(),
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
                told = _tell(job.log, told, watches)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if (job.progress / FAILED).exists():
        failed = read_json(job.progress / FAILED)
        raise KNOWN[failed["kind"]](failed["message"])
    if not (job.progress / TRAINED).exists():
        raise ProcessesError(
            f"the {job.config.processes} processes ended with code {process.returncode}; {output} says:\n"
            + _last_words(output, before)
        )
    return Trained.read(job.progress / TRAINED)


def _last_words(output: Path, before: int) -> str:
    """What was printed last, after `before` bytes; torchrun's account of it only where there is no more."""
    lines = output.read_bytes()[before:].decode(errors="replace").splitlines()
    torchrun = next((place for place, line in enumerate(lines) if "distributed/elastic" in line), len(lines))
    told = [line for line in lines if line.startswith("[rank")] or lines[:torchrun] or lines
    return "\n".join(told[-10:])


def _torchrun(processes: int) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*launcher, "--nproc-per-node", str(processes), "-m", "training.work"]


def _environment() -> dict[str, str]:
    """This process's own, with the package that it runs, and no warning of torchrun's about threads."""
    home = str(Path(training.__file__).parents[1])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}


def _tell(log: Path, place: int, watches: Sequence[Watch]) -> int:
    """Tell the watches of the whole lines of the log after `place`; returns where the next one begins."""
    if not log.exists():
        return place
    with open(log, "rb") as file:
        file.seek(place)
        lines = file.read()
    whole = lines[: lines.rfind(b"\n") + 1]
    for line in whole.splitlines():
        row = json.loads(line)
        told = row.pop("by_source"), row.pop("seconds")
        for watch in watches:
            watch(row, *told)
    return place + len(whole)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """A file of a new name, locked until this process leaves or ends: the sign for the others to end, too."""
    path = folder / f"launcher-{secrets.token_hex(4)}.lock"
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    remove(path)
