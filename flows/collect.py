"""Garbage collection of a workspace: what no kept run, manifest or checkpoint refers to goes, and nothing else.

On a store, records go before the files that they name, no other object goes, and the mirror loses what the store
does. Runs of this machine are seen at work by their locks; those of others are not: collect when they have ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from curation import remote
from curation.files import below, read_json, remove
from curation.steps import RECORD, StepOutput, load
from flows.report.human import size
from flows.run import Run, recorded_runs

OF_RUNS = ("run.json", "report.html", "changes.json")  # the files of a run, the record first
ROOTS = ("mix", "train")  # the stations whose results are kept for themselves: manifests and checkpoints


class BusyError(Exception):
    """A run is at work in the workspace."""


@dataclass(frozen=True)
class Garbage:
    """Folders that can go: steps (unfinished ones too) and the records of runs that are not kept."""

    steps: list[Path]
    runs: list[Path]

    @property
    def folders(self) -> list[Path]:
        return [*self.steps, *self.runs]


def find_garbage(workspace: Path, keep_runs: int | None = None) -> Garbage:
    """What can be removed. `keep_runs`: of each pipeline only so many of the latest runs are kept; None keeps all.

    Kept are the steps of kept runs; the manifests and checkpoints that belong to no run at all (`mixwright mix`
    makes them), or to a kept one; and whatever those were made of, by the content hashes in their records.
    """
    steps = _steps(workspace)
    kept, dropped = _split(recorded_runs(workspace), keep_runs)
    of_kept, of_dropped = _folders(kept), _folders(dropped)
    alone = [
        folder
        for folder, output in steps.items()
        if output and output.name.partition("/")[0] in ROOTS and folder not in of_kept | of_dropped
    ]
    needed = _with_inputs(alone, of_kept, steps)
    return Garbage(sorted(set(steps) - needed), sorted(run.folder for run in dropped))


def collect(workspace: Path, garbage: Garbage) -> int:
    """Remove the garbage; returns its bytes. Raises BusyError, with nothing removed, while a run is at work."""
    for path in sorted(_locks(workspace)):
        with _lease(path, workspace):
            pass
    freed, store = 0, remote.of(workspace)
    for folder in garbage.steps:
        with _lease(folder.parent / f".{folder.name}.lock", workspace):
            freed += bytes_of(folder)
            if store is not None:
                store.withdraw(folder)
            (folder / RECORD).unlink(missing_ok=True)  # from here on the step counts as not there
            remove(folder)
    for folder in garbage.runs:
        freed += bytes_of(folder)
        if store is not None:
            _withdraw_run(store, folder)
        remove(folder)
    return freed


def _withdraw_run(store: remote.Store, folder: Path) -> None:
    there = [one.path for one in store.below(folder)]
    changes = [path for path in there if path.parent == folder / "changes" and path.suffix == ".parquet"]
    for path in [*(folder / name for name in OF_RUNS), *changes]:
        if path in there:
            store.delete(path)


def bytes_of(folder: Path) -> int:
    """Bytes of all files below a folder; of those on the store where that has any."""
    store = remote.of(folder)
    there = sum(one.size for one in store.below(folder)) if store is not None else 0
    return there or sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _steps(workspace: Path) -> dict[Path, StepOutput | None]:
    """Every step folder by its path; None for one that is not complete."""
    folders = {path.parent.resolve() for path in below(workspace / "steps") if path.name == RECORD}
    for lock in _locks(workspace):
        folder = (lock.parent / lock.name[1 : -len(".lock")]).resolve()
        folders |= {folder} if folder.is_dir() else set()
    if (store := remote.of(workspace)) is not None:
        folders |= {*store.steps(), *store.abandoned()}
    return {folder: load(folder) for folder in sorted(folders)}


def _locks(workspace: Path) -> list[Path]:
    """Of each step that was ever begun; a run may be at work."""
    return [path for path in below(workspace / "steps") if re.fullmatch(r"\..*\.lock", path.name)]


def _split(runs: list[Run], keep: int | None) -> tuple[list[Run], list[Run]]:
    by_pipeline: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.data["started"], run.name), reverse=True):
        by_pipeline[run.data["pipeline"]].append(run)
    kept = [run for group in by_pipeline.values() for run in group[:keep]]
    return kept, [run for run in runs if run not in kept]


def _folders(runs: Iterable[Run]) -> set[Path]:
    return {(run.workspace / entry["folder"]).resolve() for run in runs for entry in run.data["steps"]}


def _with_inputs(alone: Iterable[Path], kept: set[Path], steps: dict[Path, StepOutput | None]) -> set[Path]:
    """`kept`, and the steps `alone` with all that they were made of, directly or not.

    An input is known by its content, which several steps can have: one that is kept already serves.
    """
    made = defaultdict(list)  # content hash of a step, of a file of it or of its manifest -> folders
    for folder, output in steps.items():
        for value in _hashes(output) if output else ():
            made[value].append(folder)
    needed, todo = set(kept), list(alone)
    while todo:
        folder = todo.pop()
        if folder not in needed:
            needed.add(folder)
            for value in steps[folder].record["inputs"].values():
                todo += [] if needed.intersection(made[value]) else made[value][:1]
    return needed


def _hashes(output: StepOutput) -> Iterator[str]:
    yield output.content
    yield from (entry["hash"] for entry in output.record["files"].values())
    if "mix.json" in output.record["files"]:
        yield read_json(output.file("mix.json"))["hash"]


@contextlib.contextmanager
def _lease(path: Path, workspace: Path) -> Iterator[None]:
    """Hold a step's lock, so that no run builds it meanwhile. Raises BusyError where one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{workspace}: a run is building in {path.parent}; collect when it has ended"
            ) from None
        yield


def print_garbage(garbage: Garbage, workspace: Path, freed: int, done: bool, console: Console) -> None:
    """What goes, or has gone, by station, and the bytes."""
    by_station = Counter(folder.relative_to((workspace / "steps").resolve()).parts[0] for folder in garbage.steps)
    for station, steps in sorted(by_station.items()):
        console.print(Text(f"{station:14} {steps:6,} steps"))
    verb = "removed" if done else "would be removed"
    console.print(f"{len(garbage.steps):,} steps and {len(garbage.runs):,} runs {verb}, {size(freed)}")
