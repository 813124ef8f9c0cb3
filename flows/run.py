"""A run: one execution of a pipeline, recorded in `<workspace>/runs/<run>/run.json`.

The record names every step that the run used, done or found; the steps' own records hold the rest. Where the
workspace is on a store, the store says which runs there are, and a run's file is fetched when it is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from curation import remote
from curation.files import read_json, write_bytes, write_json
from curation.read.stores import StoreError
from curation.steps import StepOutput, load

RECORD = "run.json"
TOLD_EVERY = 30  # seconds between two times that the record of a run at work is sent to a store
REPORTED_PACKAGES = ("mixwright", "polars", "pyarrow", "numba", "torch", "transformers", "prefect")


class RunNotFoundError(Exception):
    """No such run in the workspace."""


@dataclass(frozen=True)
class Run:
    """A recorded run, finished or not."""

    folder: Path
    data: dict[str, Any]

    @property
    def workspace(self) -> Path:
        return self.folder.parent.parent

    @property
    def name(self) -> str:
        return self.data["run"]

    def step(self, name: str) -> StepOutput | None:
        """The step of that name ("mix/pretrain"), or None if the run has none or its files are gone."""
        return self._load([entry for entry in self.data["steps"] if entry["name"] == name]).get(name)

    def steps(self, prefix: str = "") -> dict[str, StepOutput]:
        """The steps whose name begins with `prefix`, by the rest of the name, in the order of the run."""
        chosen = [entry for entry in self.data["steps"] if entry["name"].startswith(prefix)]
        return {name.removeprefix(prefix): output for name, output in self._load(chosen).items()}

    def file(self, name: str) -> Path:
        """A file of the run's folder, there or not: fetched where the workspace is on a store."""
        path = self.folder / name
        store = remote.of(path)
        if store is not None and not path.exists() and (data := store.read(path)) is not None:
            write_bytes(path, data)
        return path

    def publish(self) -> None:
        """Send the folder, once more, where the workspace is on a store: the record last."""
        if (store := remote.of(self.folder)) is not None:
            store.push_folder(self.folder, RECORD)

    def _load(self, entries: Iterable[dict[str, Any]]) -> dict[str, StepOutput]:
        outputs = {entry["name"]: load(self.workspace / entry["folder"]) for entry in entries}
        return {name: output for name, output in outputs.items() if output is not None}


class RunInOneGo(Run):
    """A run for who reads it in one go: a step is looked for once, not each time that it is asked for."""

    @cached_property
    def _known(self) -> dict[str, StepOutput | None]:
        return {}

    def _load(self, entries: Iterable[dict[str, Any]]) -> dict[str, StepOutput]:
        entries = list(entries)
        if new := [entry for entry in entries if entry["name"] not in self._known]:
            self._known.update(dict.fromkeys(entry["name"] for entry in new) | super()._load(new))
        found = {entry["name"]: self._known[entry["name"]] for entry in entries}
        return {name: output for name, output in found.items() if output is not None}


class Recorder:
    """Keeps `run.json` true while a run goes on: it is rewritten after each step.

    Synced at the start and at the end. In between nobody waits for the disk: if power fails, the record may be of
    an earlier step, or not be there.
    """

    def __init__(self, workspace: Path, pipeline: str, config: dict[str, Any], command: str):
        self.workspace = workspace
        self.folder = _new_folder(workspace / "runs", pipeline)
        self.name = self.folder.name
        self._lock = threading.Lock()  # steps of several sources end at once
        self._told = float("-inf")  # when a store was
        self.data: dict[str, Any] = {
            "run": self.name,
            "pipeline": pipeline,
            "config": config,
            "command": command,
            "versions": _versions(),
            "started": _now(),
            "finished": None,
            "status": "running",
            "error": None,
            "steps": [],
        }
        self.save()

    def add(self, output: StepOutput) -> None:
        """Record a step that the run has done or found. A step asked for twice is recorded once."""
        entry = {
            "name": output.name,
            "folder": output.place.relative_to(self.workspace).as_posix(),
            "fingerprint": output.record["fingerprint"],
            "content": output.content,
            "reused": output.reused,
            "seconds": 0.0 if output.reused else output.record["seconds"],
        }
        with self._lock:
            if all(known["name"] != output.name for known in self.data["steps"]):
                self.data["steps"].append(entry)
                self.save(synced=False)

    @property
    def run(self) -> Run:
        """The run as it is, and as it goes on to be."""
        return Run(self.folder, self.data)

    def finish(self, status: str, error: str | None = None) -> Run:
        """`status` is completed, failed or interrupted."""
        self.data |= {"status": status, "error": error, "finished": _now()}
        completed = status == "completed"
        with contextlib.nullcontext() if completed else contextlib.suppress(StoreError):  # which may be the reason
            self.save()
        return self.run

    def save(self, synced: bool = True) -> None:
        path = self.folder / RECORD
        write_json(path, self.data, synced)
        store = remote.of(path)
        if store is not None and (self.data["finished"] or time.monotonic() - self._told > TOLD_EVERY):
            store.send(path)
            self._told = time.monotonic()


def load_run(workspace: Path, name: str | None = None) -> Run:
    """The run of that name (or a path to its folder), or the latest. Raises RunNotFoundError."""
    runs = Path(workspace) / "runs"
    if name and (Path(name) / RECORD).is_file():
        folder = Path(name).resolve()
        remote.open_workspace(folder.parent.parent)  # a mirror tells its store
        return Run(folder, read_json(folder / RECORD))
    known = {run.name: run for run in recorded_runs(workspace)}
    if not known:
        raise RunNotFoundError(
            f"{remote.shown(workspace)}: no run yet; start one with: mixwright run PIPELINE.yaml"
        )
    if name is None:
        return max(known.values(), key=lambda run: (run.data["started"], run.name))
    if name not in known:
        raise RunNotFoundError(f"{remote.shown(runs)}: no run '{name}'; there are {', '.join(sorted(known))}")
    return known[name]


def manifest_folder(manifest: str, workspace: Path, run: str | None) -> Path:
    """The folder of a manifest, given as that folder or as the name of a mix of a run."""
    if (Path(manifest) / "mix.json").is_file():
        return Path(manifest)
    outputs = load_run(workspace, run).steps("mix/")
    if manifest not in outputs:
        raise RunNotFoundError(
            f"'{manifest}' is no folder with a mix.json and no mix of the run; "
            f"it has {', '.join(outputs) or 'none'}"
        )
    return outputs[manifest].folder


def recorded_runs(workspace: Path) -> list[Run]:
    """Every run of the workspace, by name. What is no record of its folder counts as not there."""
    found, runs = [], Path(workspace) / "runs"
    store = remote.of(runs)
    if store is None:
        paths = sorted(runs.glob(f"*/{RECORD}"))
    else:
        paths = [
            store.pull(one)
            for one in store.below(runs)
            if one.path.name == RECORD and one.path.parent.parent == runs
        ]
    for path in paths:
        with contextlib.suppress(ValueError, FileNotFoundError):  # a store's may have been collected meanwhile
            data = read_json(path)
            if isinstance(data, dict) and data.get("run") == path.parent.name:
                found.append(Run(path.parent.resolve(), data))
    return found


def _new_folder(runs: Path, pipeline: str) -> Path:
    """Make a folder of a name that no other run has, were it started in the same second, or on another machine."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    if remote.of(runs) is not None:
        stamp += f"-{secrets.token_hex(3)}"
    for number in itertools.count(1):
        folder = runs / (f"{pipeline}-{stamp}" if number == 1 else f"{pipeline}-{stamp}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _versions() -> dict[str, str]:
    found = {}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
