"""What engines, Prefect and starting up cost.

    python -m tests.benchmarks.orchestration units               # milliseconds a unit, by engine
    python -m tests.benchmarks.orchestration tasks               # milliseconds a Prefect task, at 500 tasks
    python -m tests.benchmarks.orchestration start               # seconds to help, reading, the first station
    MIXWRIGHT_DATA=... python -m tests.benchmarks.orchestration engines --pipeline manifests/real/pipeline.yaml

`engines` runs the curation half (`--until mix`) with one and two workers of the local engine, on Dask, on Ray, and
under Prefect, and compares the content of every step. Processor time is that of the command and all it starts.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from curation.executor import Kind, LocalExecutor
from curation.steps import Build, Context, step
from flows.engines import open_executor
from tests.mini import fingerprints, write_inputs, write_pipeline

ENGINES = ("local", "dask", "ray")
TASKS = 500


def nothing(x: int) -> int:
    return x


def nothing_in(folder: Path, key: str) -> int:
    return 0


def units(count: int) -> None:
    """Trivial units through the executor alone, and through a step, whose journal is a file a unit."""
    print("| engine | start s | units | tasks | ms a unit | with the journal, 2,000 units: ms a unit |")
    print("|---|---|---|---|---|---|")
    for engine, kind in [(one, "threads") for one in ENGINES] + [("local", "processes")]:
        started = time.perf_counter()
        with open_executor(engine, 2) as executor, tempfile.TemporaryDirectory() as folder:
            list(executor.map(nothing, [(x,) for x in range(8)], kind))
            opened = time.perf_counter() - started
            started = time.perf_counter()
            assert sum(1 for _ in executor.map(nothing, ((x,) for x in range(count)), kind)) == count
            spent = (time.perf_counter() - started) / count * 1e3
            context = Context(Path(folder), executor)
            started = time.perf_counter()
            made = step(context, "x", 1, {}, {}, partial(_two_thousand, kind))
            journal = (time.perf_counter() - started) / 2000 * 1e3
            assert not made.reused
            tasks = count if isinstance(executor, LocalExecutor) else min(count, 1024)
        print(f"| {engine}, {kind} | {opened:.1f} | {count:,} | {tasks:,} | {spent:.4f} | {journal:.2f} |")


def _two_thousand(kind: Kind, build: Build) -> None:
    build.map(nothing_in, {f"{number:06d}": () for number in range(2000)}, kind)


def tasks() -> None:
    """A flow of 500 tasks that do nothing, on a server of its own; and the same calls without Prefect."""
    from flows.orchestrate import as_task, server

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with server(Path(folder)):
            from prefect import flow

            up = time.perf_counter() - started

            @flow(name="many")
            def many() -> None:
                for number in range(TASKS):
                    as_task(f"t{number}", lambda: None)

            flow(name="first")(lambda: as_task("t", lambda: None))()
            started = time.perf_counter()
            many()
            spent = time.perf_counter() - started
    print(f"server up after {up:.1f} s; {TASKS} tasks in {spent:.2f} s: {spent / TASKS * 1e3:.1f} ms a task")


def start(repeats: int = 5) -> None:
    """The best of five of each command; the first station of a run, from the start of the command."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_inputs(place / "inputs")
        pipeline = write_pipeline(place / "pipeline", place / "inputs", training=False)
        run = ["run", str(pipeline), "-w", str(place / "w"), "--until", "mix"]
        _seconds(run)
        print(f"mixwright --help: {min(_seconds(['--help']) for _ in range(repeats)):.2f} s")
        for command in (["runs"], ["gc", "--dry-run"], ["verify", "pretrain"], ["show", "pretrain", "-n", "1"]):
            best = min(_seconds([*command, "-w", str(place / "w")]) for _ in range(repeats))
            print(f"mixwright {' '.join(command)}: {best:.2f} s")
        print(f"mixwright run, nothing to do: {min(_seconds(run) for _ in range(repeats)):.2f} s")
        for more in (["--no-orchestrator"], []):
            best = min(_first_station(pipeline, place / f"n{number}{len(more)}", more) for number in range(3))
            print(f"to the first station {'without Prefect' if more else 'under Prefect'}: {best:.2f} s")


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started


def _first_station(pipeline: Path, workspace: Path, more: list[str]) -> float:
    command = [sys.executable, "-m", "flows.cli", "run", str(pipeline), "-w", str(workspace), "--until", "ingest"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(workspace.glob("steps/ingest/*/.*.lock")):
        assert process.poll() is None
        time.sleep(0.005)
    spent = time.perf_counter() - started
    process.wait()
    return spent


def engines(pipeline: Path, until: str) -> None:
    """The curation half by each engine in turn, and once more under Prefect: wall and processor seconds."""
    rows = [("local, 1 worker", ["--workers", "1"]), ("local", []), ("dask", ["--engine", "dask"])]
    rows += [("ray", ["--engine", "ray"]), ("local, under Prefect", ["prefect"]), ("local again", [])]
    expected, seconds = None, {}
    print("| | seconds | processor seconds | times local |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for name, more in rows:
            workspace = Path(folder) / "w"
            command = ["run", str(pipeline), "-w", str(workspace), "--until", until]
            options = [] if more == ["prefect"] else ["--no-orchestrator", *more]
            options += [] if "--workers" in more else ["--workers", "2"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name] = _seconds([*command, *options])
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found = fingerprints(workspace)
            expected = expected or found
            assert found == expected, f"{name}: other content in {set(found.items()) ^ set(expected.items())}"
            ratio = seconds[name] / seconds["local"] if "local" in seconds else float("nan")
            print(f"| {name} | {seconds[name]:.1f} | {spent:.1f} | {ratio:.2f} |", flush=True)
            shutil.rmtree(workspace)
    print(f"{len(expected or {})} steps, the same content in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["units", "tasks", "start", "engines"])
    parser.add_argument("--count", type=int, default=1_000_000, help="units for `units`")
    parser.add_argument("--pipeline", type=Path, default=Path("manifests/real/pipeline.yaml"))
    parser.add_argument("--until", default="mix")
    chosen = parser.parse_args()
    if chosen.what == "units":
        units(chosen.count)
    elif chosen.what == "engines":
        engines(chosen.pipeline, chosen.until)
    else:
        {"tasks": tasks, "start": start}[chosen.what]()


if __name__ == "__main__":
    from tests.benchmarks import orchestration  # whose functions worker processes can import

    orchestration.main()
