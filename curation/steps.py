"""Steps: a pure function, a frozen config and a version, with an output folder named by content.

The folder of a step is `<workspace>/steps/<name>/<fingerprint>`; the fingerprint covers the step's version, its
config literals and the content hashes of its inputs, and nothing else (no path, date, worker count or engine).
A step whose `step.json` is there, with every file it lists, is complete and is not run again. Before that, each
finished unit is kept in `.units/`, so a killed run loses at most the units under way.

In the mirror of a workspace on a store (`curation.remote`) a step is there if the store has its record. What is
built here is published before anything else may use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from curation import memory, remote
from curation.executor import Executor, Kind, LocalExecutor
from curation.files import (
    atomic,
    file_hash,
    json_hash,
    read_json,
    remove,
    remove_unfinished,
    write_json,
    write_parquet,
)
from curation.objects import CorruptError

RECORD = remote.RECORD
UNITS = ".units"
HASHED = 8  # files that are hashed at once, at most


class StepMissingError(Exception):
    """A step has not been run yet and the context does not allow to run it."""

    def __init__(self, name: str, fingerprint: str):
        super().__init__(f"step '{name}' has not been run in this workspace (fingerprint {fingerprint[:16]})")
        self.name, self.fingerprint = name, fingerprint


class DamagedError(Exception):
    """A step failed because files that it read are not those that were written: a failing disk, a foreign hand."""


class StrictError(Exception):
    """Under --strict: something that is otherwise counted and reported."""


class Progress:
    """What a long stage tells whoever watches. This one stays silent; the command line draws bars."""

    def begin(self, station: str, total: int) -> None:
        """A station starts; `total` units are to be done."""

    def advance(self, station: str, units: int = 1, note: str = "") -> None:
        """`units` more are done. `note` is a short state for the watcher (a loss, a rate)."""

    def end(self, output: StepOutput) -> None:
        """A station is complete, by work or because its output was there already."""


@dataclass
class Context:
    """What a step may use: the workspace, an executor, and how to treat trouble."""

    workspace: Path
    executor: Executor = field(default_factory=lambda: LocalExecutor(engine="inline"))
    strict: bool = False
    build: bool = True  # False: never work, raise StepMissingError instead
    progress: Progress = field(default_factory=Progress)
    outputs: list[StepOutput] = field(default_factory=list)  # every step asked for, in order

    def __post_init__(self):
        self.workspace = remote.open_workspace(self.workspace)


@dataclass(frozen=True)
class StepOutput:
    """A complete step: where its files are and what its record says."""

    place: Path  # its folder; of a step on a store where the files come when they are asked for
    record: dict[str, Any]
    reused: bool = False
    store: remote.Store | None = None  # where the files are that may not be here

    def __reduce__(self):  # for a worker the files are at hand
        return StepOutput, (self.folder, self.record, self.reused)

    @property
    def folder(self) -> Path:
        """The folder with all files in it: see `fetch`."""
        self.fetch()
        return self.place

    def fetch(self) -> None:
        """See to it that all files are here, where the step is on a store. Raises StoreError."""
        if self.store is not None:
            self.store.materialise(self.place, self.record)

    def file(self, name: str) -> Path:
        """One file of the folder, where no other is needed. Raises KeyError for one that the step has not."""
        if self.store is not None:
            return self.store.file(self.place, self.record, name)
        return self.place / name

    @property
    def name(self) -> str:
        return self.record["name"]

    @property
    def content(self) -> str:
        """Hash over the names and bytes of all output files: what later steps depend on. 64 hex."""
        return self.record["content"]

    @functools.cached_property
    def hashes(self) -> frozenset[str]:
        """What a step that reads this one, or a file of it, has among its inputs."""
        return frozenset({self.content, *(entry["hash"] for entry in self.record["files"].values())})

    @property
    def counts(self) -> dict[str, Any]:
        return self.record["counts"]

    @property
    def source(self) -> str:
        """Of a per-source step ("measure/web"): the source."""
        return self.name.partition("/")[2]

    def shards(self) -> list[Path]:
        """The shard files of a per-source step, sorted by name."""
        return sorted((self.folder / "shards").glob("*.parquet"))


class Build:
    """A step under way: where to write, what to count."""

    def __init__(self, context: Context, name: str, folder: Path, reads: int | None = None):
        self.context, self.name, self.folder = context, name, folder
        self.counts: dict[str, Any] = {}
        self.alarms: list[str] = []
        self.volatile: set[str] = set()
        self.reads = reads  # bytes, where every input is a step's

    def write_table(self, relative: str, table: pa.Table) -> None:
        write_parquet(self.folder / relative, table)

    def write_json(self, relative: str, value: Any) -> None:
        write_json(self.folder / relative, value)

    def scratch(self, relative: str) -> Path:
        """A file or folder that the content hash leaves out: logs with times in them, partial results."""
        self.volatile.add(relative)
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def alarm(self, message: str) -> None:
        """Something a person should look at: kept in the record, shown at the end, an error under --strict."""
        self.alarms.append(message)

    def map(self, function: Callable[..., Any], units: dict[str, tuple], kind: Kind) -> dict[str, Any]:
        """Call `function(folder, key, *arguments)` for each unit and return its JSON results by key.

        A unit done by an earlier, interrupted run is not done again, nor by a worker that takes over from one that
        died: `function` must write its files through `curation.files` (complete or absent) and return only what
        is derived from its arguments.
        """
        journal = self.folder / UNITS
        journal.mkdir(parents=True, exist_ok=True)
        done = {key: journal / f"{key}.json" for key in units}
        results = _entered(done)
        todo = [key for key in units if key not in results]
        self.context.progress.begin(self.name, len(units))
        self.context.progress.advance(self.name, len(results))
        calls = [(self.folder, key, *units[key]) for key in todo]
        for position, result in self.context.executor.map(partial(run_unit, function), calls, kind, self.reads):
            results[todo[position]] = result
            self.context.progress.advance(self.name)
        return {key: results[key] for key in units}


def run_unit(function: Callable[..., Any], folder: Path, key: str, *arguments: Any) -> Any:
    """On a worker: do a unit and enter its result in the step's journal, unless it is there."""
    done = folder / UNITS / f"{key}.json"
    if known := _entered({key: done}):
        return known[key]
    result = function(folder, key, *arguments)
    write_json(done, result, synced=False)  # its files are; if power fails, it is done again
    return result


def _entered(journal: dict[str, Path]) -> dict[str, Any]:
    """The results of the units that are in the journal, by key; one that cannot be read is not in it."""
    results = {}
    for key, path in journal.items():
        with contextlib.suppress(FileNotFoundError, ValueError):
            results[key] = read_json(path)
    return results


def step(
    context: Context,
    name: str,
    version: int,
    config: BaseModel | dict[str, Any],
    inputs: dict[str, str],
    work: Callable[[Build], None],
) -> StepOutput:
    """Return the step's output, running `work` only if it is not there.

    `inputs` maps a role to a content hash. `config` holds literals alone, never a path. `work` writes below
    `build.folder` and sets `build.counts` (by convention documents_in, documents_out, by_source).
    Raises StepMissingError if the work is needed and `context.build` is false; StrictError for alarms.
    """
    literals = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    identity = {"name": name, "version": version, "config": literals, "inputs": inputs}
    fingerprint = json_hash(identity)
    folder = context.workspace / "steps" / name / fingerprint[:16]
    output = load(folder)
    if output is None:
        if not context.build:
            raise StepMissingError(name, fingerprint)
        with _lease(folder, name):
            output = load(folder)  # another process may have finished it while this one waited
            if output is None:
                output = _make(context, folder, {**identity, "fingerprint": fingerprint}, work)
    context.outputs.append(output)
    context.progress.end(output)
    if context.strict and output.record["alarms"]:
        raise StrictError(f"{name}: " + "; ".join(output.record["alarms"]))
    return output


def load(folder: Path) -> StepOutput | None:
    """The complete step in `folder`; None if its record or a file of it is missing or of another size.

    In the mirror of a store: if the store has its record. Raises curation.remote.StoreError.
    """
    store = remote.of(folder)
    if store is None:
        return _complete(folder)
    record = store.record(folder)
    if record is None:
        return None
    here = _complete(folder)
    is_here = here is not None and here.content == record["content"]
    return StepOutput(folder, record, reused=True, store=None if is_here else store)


def _complete(folder: Path) -> StepOutput | None:
    try:
        record = read_json(folder / RECORD)
        files = record["files"].items()
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None  # none, or one that a failing disk has cut: then it counts as not there
    for relative, entry in files:
        path = folder / relative
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return None
    return StepOutput(folder, record, reused=True)


def find(workspace: Path, name: str, content: str) -> StepOutput | None:
    """The complete step of that name and content hash, whatever it was made of; None if there is none."""
    below = Path(workspace) / "steps" / name
    store = remote.of(below)
    folders = (path.parent for path in below.glob(f"*/{RECORD}")) if store is None else store.folders(below)
    for folder in sorted(folders):
        output = load(folder)
        if output is not None and output.content == content:
            return output
    return None


def verify_files(output: StepOutput) -> list[str]:
    """The files of a step whose bytes are not those of its record, each with what was found."""
    wrong = []
    for relative, entry in output.record["files"].items():
        path = output.folder / relative
        found = file_hash(path) if path.is_file() else "no file"
        if found != entry["hash"]:
            wrong.append(f"{path}: expected {entry['hash']}, found {found}")
    return wrong


def _make(context: Context, folder: Path, identity: dict[str, Any], work: Callable[[Build], None]) -> StepOutput:
    """Do the work and, in a mirror, publish it."""
    store = remote.of(folder)
    made = None if store is None else _complete(folder)  # by a run that ended before the store had it all
    reused = made is not None
    if made is None:
        _run(context, folder, identity, work)
        made = _complete(folder)
    if store is not None:
        theirs = store.record(folder)  # another machine was faster
        if theirs is not None and theirs["content"] != made.content:
            remove(folder)
            return load(folder)
        if theirs is None:
            _publish(store, made)
    return StepOutput(folder, made.record, reused)


def _publish(store: remote.Store, made: StepOutput) -> None:
    try:
        store.publish(made.place, made.record)
    except CorruptError as error:
        require_sound([made], f"publishing {made.name}", error)
        raise


def _run(context: Context, folder: Path, identity: dict[str, Any], work: Callable[[Build], None]) -> None:
    if (folder / RECORD).exists():
        # A complete step that lost a file. Its journal may be there still, if a kill came between the two, and
        # would call units done whose files are gone. Of the two it goes first.
        remove(folder / UNITS)
        remove(folder / RECORD)
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    build = Build(context, identity["name"], folder, _bytes_read(context, identity))
    started = time.perf_counter()
    with memory.peak() as peak:
        try:
            work(build)
        except Exception as error:
            _require_sound(context, identity, error)
            raise
    remove_unfinished(folder)  # of a worker that was killed, whose unit another has done since
    left_out = [folder / out for out in (UNITS, *build.volatile)]
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not any(path.is_relative_to(out) for out in left_out)]
    with ThreadPoolExecutor(min(HASHED, context.executor.workers)) as pool:
        hashes = list(pool.map(file_hash, paths))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "hash": found}
        for path, found in zip(paths, hashes, strict=True)
    }
    seconds = time.perf_counter() - started
    # of raw files, where the step counts them, or of the steps that it reads, as they lie on disk
    bytes_in = build.counts.get("bytes_in") or sum(one.record["bytes"] for one in _read(context, identity))
    record = {
        **identity,
        "content": json_hash({relative: entry["hash"] for relative, entry in files.items()}),
        "counts": build.counts,
        "alarms": build.alarms,
        "files": files,
        "volatile": sorted(build.volatile),
        "seconds": round(seconds, 3),
        "bytes_in": bytes_in,
        "bytes_in_per_second": round(bytes_in / seconds) if seconds else 0,
        "bytes": sum(entry["bytes"] for entry in files.values()),
        "peak_memory": peak[0],
        "workers": context.executor.workers,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(folder / RECORD, record)
    remove(folder / UNITS)


def _require_sound(context: Context, identity: dict[str, Any], error: Exception) -> None:
    require_sound(_read(context, identity), identity["name"], error)


def _read(context: Context, identity: dict[str, Any]) -> list[StepOutput]:
    """The steps that a step reads: those whose content, or a file of them, is among its inputs."""
    read = set(identity["inputs"].values())
    return [output for output in list(context.outputs) if not read.isdisjoint(output.hashes)]


def _bytes_read(context: Context, identity: dict[str, Any]) -> int | None:
    """The bytes of the steps that a step reads; None where it reads something else too: raw files, a model."""
    read = _read(context, identity)
    if not read:
        return None
    known = frozenset().union(*(output.hashes for output in read))
    if not known.issuperset(identity["inputs"].values()):
        return None
    return sum(output.record["bytes"] for output in read)


def require_sound(outputs: list[StepOutput], name: str, error: Exception) -> None:
    """After the failure of `name`: raise DamagedError if a step that it read has not the bytes of its record.

    Such a step counts as not there from then on, so that the next run makes it again.
    """
    damaged = []
    for output in outputs:
        is_here = output.store is None or output.store.is_here(output.place)
        if is_here and (wrong := verify_files(output)):
            damaged += wrong
            remove(output.place / UNITS)
            remove(output.place / RECORD)
            if (store := remote.of(output.place)) is not None:
                store.forget(output.place)
    if damaged:
        raise DamagedError(
            f"{name} failed ({type(error).__name__}) on files that are not as they were written:\n"
            + "\n".join(damaged)
            + "\nThe steps that they belong to count as not there now: the same command makes them again, or "
            "fetches them where they are on a store"
        ) from error


def withdraw(output: StepOutput) -> None:
    """Remove a step that must be made again, on its store too."""
    if (store := remote.of(output.place)) is not None:
        store.withdraw(output.place)
    remove(output.place)


@contextlib.contextmanager
def _lease(folder: Path, name: str) -> Iterator[None]:
    """Hold the step's lock; the operating system frees it however the holder ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another run on this workspace is building {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Write a folder so that it is complete or absent: `fill` writes into the temporary one."""
    with atomic(path) as temporary:
        temporary.mkdir()
        fill(temporary)
