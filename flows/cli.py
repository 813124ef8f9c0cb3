"""The command `mixwright`. Heavy modules are imported by the commands that need them, so that help is instant."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

# Read by OpenMP when torch or numba load it: threads that spin while they wait halve the speed of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

gc.set_threshold(50_000, 20, 20)  # importing makes half a million objects, which are all there to stay

app = typer.Typer(
    name="mixwright",
    help="Raw text to audited training mixes to trained models, every token accounted for.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _console(stream: str) -> Console:
    """In a file or a pipe a line is a line: nothing is cut to the width of a terminal that is not there."""
    is_terminal = getattr(sys, stream).isatty()
    width = {} if is_terminal or "COLUMNS" in os.environ else {"width": 160}
    return Console(stderr=stream == "stderr", highlight=False, soft_wrap=not is_terminal, **width)


out, errors = _console("stdout"), _console("stderr")


class Exit(IntEnum):
    """Exit codes that scripts can use."""

    OK = 0
    FAILED = 1  # a station failed; finished work is kept
    USAGE = 2  # a file or an option is wrong; nothing was done
    NEGATIVE = 3  # the question was answered with no: a manifest is not sound, a mix cannot be met
    NOT_FOUND = 4  # no such run, document or manifest
    INTERRUPTED = 130


def _workspace(place: str | Path) -> Path:
    from curation.remote import open_workspace

    return open_workspace(place)


def _results(place: str | Path) -> Path:
    from curation.remote import open_results

    return open_results(place)


def _local(place: str | Path) -> Path:
    if "://" in str(place):
        raise typer.BadParameter("this has to lie on a disk of this machine, not at a URL")
    return Path(place)


Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="MIXWRIGHT_WORKSPACE",
        parser=_workspace,
        metavar="FOLDER|URL",
        help="Folder that holds all results, or s3://bucket/prefix and the like, worked on in MIXWRIGHT_CACHE.",
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Units of work at once. Default: one for each core.")]
Engine = Annotated[
    Literal["local", "inline", "dask", "ray"],
    typer.Option(help="Where units run: in threads and processes, one by one, or on a cluster."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster of dask or ray, whose machines share the workspace's folder (of a URL: its mirror in "
        "MIXWRIGHT_CACHE). Default: one on this machine, for the run alone."
    ),
]
StrictMode = Annotated[bool, typer.Option("--strict", help="Fail on whatever is otherwise counted and reported.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over the file, e.g. seed=7.")
]
NoOrchestrator = Annotated[bool, typer.Option("--no-orchestrator", help="Run without Prefect.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
RunName = Annotated[str | None, typer.Option("--run", help="Name or folder of a run. Default: the latest.")]

Exactly = Annotated[
    bool, typer.Option("--exact", help="Meet every line to the token: cut its last document (text only).")
]

Buckets = Annotated[bool, typer.Option("--buckets", help="A line for each bucket, not for each source.")]

WORKSPACE = Path("workspace")


def main() -> None:
    """Entry point: runs a command and turns known errors into a message and an exit code."""
    try:
        app()
    except (KeyboardInterrupt, SystemExit) as end:  # typer makes the latter of the former
        if isinstance(end, SystemExit) and end.code != Exit.INTERRUPTED:
            raise
        errors.print("\n[yellow]interrupted[/]; finished work is kept, the same command goes on from there")
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        errors.print(f"[red]error:[/] {_escape(str(error))}")
        sys.exit(code)


def _exit_code(error: Exception) -> Exit | None:
    """Of an error whose message says what is wrong: the code. None: a defect of the program."""
    known = _known_errors()
    named = next((known[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in known), None)
    # ValueError is for users, here as in the design; an OSError names the file and what is wrong with it.
    return Exit.FAILED if named is None and isinstance(error, ValueError | OSError) else named


def _known_errors() -> dict[str, Exit]:
    return {
        "ConfigError": Exit.USAGE,
        "StoreError": Exit.FAILED,
        "RecipeError": Exit.USAGE,
        "ProfileError": Exit.USAGE,
        "InfeasibleError": Exit.NEGATIVE,
        "ManifestError": Exit.NEGATIVE,
        "HistoryError": Exit.NOT_FOUND,
        "BusyError": Exit.FAILED,
        "StrictError": Exit.FAILED,
        "DamagedError": Exit.FAILED,
        "DataError": Exit.FAILED,
        "ExportError": Exit.FAILED,
        "TokenCountError": Exit.FAILED,
        "NonFiniteLossError": Exit.FAILED,
        "ProcessesError": Exit.FAILED,
        "ServerError": Exit.FAILED,
        "ClusterError": Exit.FAILED,
        "EngineError": Exit.USAGE,
        "StoppedError": Exit.INTERRUPTED,
        "RunNotFoundError": Exit.NOT_FOUND,
        "NoSuchStepError": Exit.NOT_FOUND,
        "UnknownDocumentError": Exit.NOT_FOUND,
        "UnknownPoolError": Exit.NOT_FOUND,
        "RecordNotFoundError": Exit.NOT_FOUND,
        "AmbiguousIdError": Exit.NOT_FOUND,
        "DocumentIdError": Exit.USAGE,
    }


def _escape(value: object) -> str:
    """Text of the world outside for a line of markup: no tag of its own, no code that steers the terminal."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)))


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")  # ASCII: no code of a document steers the terminal


def _with_exact(settings: list[str] | None, exact: bool) -> list[str]:
    return [*(settings or []), *(["exact=true"] if exact else [])]


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


@app.command()
def run(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline file (YAML).")],
    workspace: Workspace = WORKSPACE,
    until: Annotated[str, typer.Option(help="Stop after this job: ingest, curate, mix or train.")] = "train",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    strict: StrictMode = False,
    dry_run: DryRun = False,
    no_orchestrator: NoOrchestrator = False,
    settings: Settings = None,
) -> None:
    """Run a pipeline: raw files to pools, mixes, trained and evaluated models, and a report.

    What is there already is not done again; a run that was stopped or killed goes on where it was.

    Example: mixwright run manifests/demo/pipeline.yaml --workers 2
    """
    from flows.execute import Options, finished_run, missing_step
    from flows.line import JOBS

    if until not in JOBS:
        raise typer.BadParameter(f"'{until}' is no job; choose one of {', '.join(JOBS)}", param_hint="--until")
    options = Options(pipeline, workspace, until, workers, engine, address, strict, settings or [])
    missing = missing_step(options)
    if dry_run:
        _tell_dry_run(missing)
    elif missing is None and (latest := finished_run(options)) is not None:
        out.print("[green]nothing to do[/]: inputs, recipes and code are as before, every step is there")
        out.print(f"latest run: {latest.name}; report: {_escape(latest.folder / 'report.html')}")
        _tell_address(workspace)
    else:
        _run_and_summarise(options, no_orchestrator)


def _tell_dry_run(missing: Exception | None) -> None:
    if missing is None:
        out.print("nothing to do: every step is there")
    else:
        out.print(f"next: {_escape(missing)}; the steps after it follow from its result")


def _run_and_summarise(options: Any, no_orchestrator: bool) -> None:
    from flows.execute import execute
    from flows.line import direct
    from flows.summary import print_summary
    from flows.terminal import Terminal

    signal.signal(signal.SIGTERM, _terminate)
    with Terminal(out) as terminal:
        if no_orchestrator:
            finished = execute(options, terminal, terminal.stage(direct))
        else:
            from flows.orchestrate import run_flow

            finished = run_flow(options, terminal, terminal.stage)
    print_summary(finished, out)
    out.print(f"\nreport: {_escape(finished.folder / 'report.html')}")
    _tell_address(options.workspace)


def _tell_address(place: Path) -> None:
    from curation.remote import shown

    if shown(place) != str(place):
        out.print(f"published: {_escape(shown(place))}")


@app.command()
def serve(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline file (YAML).")],
    cron: Annotated[
        str | None, typer.Option(help='When to run, as in cron: "0 3 * * *" is each night at 3.')
    ] = None,
    interval: Annotated[str | None, typer.Option(help="How often to run instead: 90s, 30m, 12h or 1d.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of the cron line, such as Europe/Berlin.")] = None,
    workspace: Workspace = WORKSPACE,
    until: Annotated[str, typer.Option(help="Stop after this job: ingest, curate, mix or train.")] = "train",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    strict: StrictMode = False,
    port: Annotated[int, typer.Option(help="Of Prefect's UI, on the loopback interface.")] = 4200,
    settings: Settings = None,
) -> None:
    """Run a pipeline on a schedule: take in new raw files, build the mixes anew, train where enough has changed.

    A night that is due while another is at work is left out. `retrain: {min_changed: 5%}` in the pipeline file
    says how much change is enough, `on_failure: {command: ..., webhook: VARIABLE}` whom a failure is told.

    Example: mixwright serve manifests/real/pipeline.yaml --cron "0 3 * * *"
    """
    from flows.execute import Options
    from flows.line import JOBS
    from flows.serve import serve as start

    if until not in JOBS:
        raise typer.BadParameter(f"'{until}' is no job; choose one of {', '.join(JOBS)}", param_hint="--until")
    if (cron is None) == (interval is None):
        raise typer.BadParameter("give one of --cron and --interval", param_hint="--cron")
    every = _duration(interval) if interval else None
    options = Options(pipeline, workspace, until, workers, engine, address, strict, settings or [])
    start(options, cron, every, timezone, port, lambda line: out.print(_escape(line)))


def _duration(text: str) -> Any:
    """90s, 30m, 12h or 1d."""
    import re
    from datetime import timedelta

    match = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if match is None or int(match[1]) == 0:
        raise typer.BadParameter(f"'{text}': expected such as 90s, 30m, 12h or 1d", param_hint="--interval")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})


@app.command()
def new(
    kind: Annotated[
        Literal["pretrain", "midtrain", "long-context", "instruction", "preference"],
        typer.Argument(help="What the mix is for."),
    ],
    pipeline: Annotated[
        Path | None, typer.Option(help="The pipeline file whose curated pools the mix is made of.")
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="Pool statistics (Parquet or CSV) instead.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The recipe's file. Default: it is printed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Write a recipe from the pools that are there: sources that fit, shares by their tokens, a budget they meet.

    What it writes is planned before; change it as you like, with mixwright plan RECIPE.yaml --watch beside it.

    Example: mixwright new midtrain --pipeline manifests/demo/pipeline.yaml -o midtrain.yaml
    """
    from flows.accounts import print_plan
    from flows.authoring import author, of_pipeline, of_statistics, require_free, save

    if (pipeline is None) == (pool is None):
        raise typer.BadParameter("give one of --pipeline and --pool", param_hint="--pipeline")
    if output is not None and not force:
        require_free(output)
    folder = Path() if output is None else output.parent
    pools = of_pipeline(pipeline, workspace, folder) if pipeline else of_statistics(pool)
    text, planned = author(kind, pools, kind if output is None else output.stem)
    if output is None:
        sys.stdout.write(text)
    else:
        save(output, text, force)
        print_plan(planned, out)
        out.print(f"recipe: {_escape(output)}")


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe of a mix, or a pipeline file (YAML).")],
    workspace: Workspace = WORKSPACE,
    settings: Settings = None,
    exact: Exactly = False,
    pool: Annotated[
        Path | None, typer.Option(help="Plan over pool statistics (Parquet or CSV) instead of a workspace.")
    ] = None,
    published: Annotated[
        Path | None, typer.Option(help="Compare with a CSV of published figures; list every difference.")
    ] = None,
    buckets: Buckets = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Plan again when the recipe or a file it names is saved, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the account of a mix before any work: tokens, share and repeats per source, and what cannot be met.

    The pools must have been curated: mixwright run PIPELINE.yaml --until curate. Or their statistics are given:
    a row for each bucket with source, documents, tokens, and of topic, language, vigintile and length_bucket what
    the recipe looks at. Exit code 3: cannot be met. Of a pipeline file: what its training stages will need,
    parameters, steps, memory (of a model by a checkpoint or a config of transformers only steps).

    Example: mixwright plan manifests/olmo3/6t.yaml --pool manifests/olmo3/9t-pool.csv
    """
    given = (recipe, workspace, _with_exact(settings, exact), pool, published, buckets, as_json)
    if watch:
        from flows.watch import watch as keep_planning

        if as_json:
            raise typer.BadParameter("it shows tables: leave --json out", param_hint="--watch")
        more = [path for path in (pool, published) if path is not None]
        keep_planning(recipe, more, lambda: _plan(*given), out, lambda error: _exit_code(error) is not None)
    elif not _plan(*given):
        raise typer.Exit(Exit.NEGATIVE)


def _plan(
    recipe: Path,
    workspace: Path,
    settings: list[str],
    pool: Path | None,
    published: Path | None,
    buckets: bool,
    as_json: bool,
) -> bool:
    """Plan once and print it. Returns whether everything can be met."""
    from curation.mix.published import compare
    from flows.accounts import plan_json, print_comparison, print_plan
    from flows.planning import is_pipeline, plan_pools, plan_recipe

    if is_pipeline(recipe):
        from flows.training_plan import plan_stages, print_stages

        rows = plan_stages(recipe, settings)
        _print_json(rows) if as_json else print_stages(rows, out)
        return True
    planned = plan_recipe(recipe, workspace, settings) if pool is None else plan_pools(recipe, settings, pool)
    compared = compare(planned, published) if published else None
    if as_json:
        _print_json(plan_json(planned, compared))
    else:
        print_plan(planned, out, buckets)
        if compared is not None:
            print_comparison(compared, out)
    return not planned.problems


@app.command()
def mix(
    recipe: Annotated[Path, typer.Argument(help="The recipe of a mix (YAML).")],
    workspace: Workspace = WORKSPACE,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    strict: StrictMode = False,
    dry_run: DryRun = False,
    settings: Settings = None,
    exact: Exactly = False,
    buckets: Buckets = False,
) -> None:
    """Build one mix (and the mixes it takes rows from) over curated pools; print its account and manifest."""
    from curation.files import read_json
    from curation.steps import Context
    from flows.accounts import print_account, print_plan
    from flows.engines import open_executor
    from flows.line import direct
    from flows.planning import build_mix, plan_recipe
    from flows.terminal import Terminal

    if dry_run:
        planned = plan_recipe(recipe, workspace, _with_exact(settings, exact))
        print_plan(planned, out, buckets)
        if planned.problems:
            raise typer.Exit(Exit.NEGATIVE)
        return
    place = workspace.resolve()
    with open_executor(engine, workers, address, place) as executor, Terminal(out) as terminal:
        context = Context(place, executor, strict, progress=terminal)
        built = build_mix(recipe, _with_exact(settings, exact), context, terminal.stage(direct))
    head = read_json(built.file("mix.json"))
    print_account(head["name"], head["account"], head["totals"], out, buckets)
    out.print(f"manifest {head['hash'][:16]}: {_escape(built.place)}")
    _tell_address(built.place)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="A manifest's folder, RUN:MIX, or the name of a mix.")],
    after: Annotated[str, typer.Argument(help="Likewise: what it is compared with.")],
    workspace: Workspace = WORKSPACE,
    reasons: Annotated[bool, typer.Option(help="Say why each document came or went.")] = True,
    documents: Annotated[int, typer.Option("--documents", "-n", min=0, help="Documents to list.")] = 10,
    as_json: AsJson = False,
) -> None:
    """What changed between two mixes, by source: documents that came, went, have other copies, and why.

    A name without a run is that of the latest run: mixwright diff demo-20260101-120000:pretrain pretrain
    """
    from flows.changes import compare, print_changes

    changes = compare(before, after, workspace, reasons)
    _print_json(changes.as_json()) if as_json else print_changes(changes, documents, out)


@app.command()
def verify(
    manifest: Annotated[str, typer.Argument(help="A manifest's folder, or the name of a mix of the run.")],
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every number and hash of a manifest from its parts. Exit code 3: it is not sound."""
    from curation.mix.manifest import verify_manifest
    from flows.run import manifest_folder

    folder = manifest_folder(manifest, workspace, run)
    problems = verify_manifest(folder)
    if as_json:
        _print_json({"manifest": str(folder), "sound": not problems, "problems": problems})
    elif problems:
        for problem in problems:
            out.print(f"[red]✗[/] {_escape(problem)}")
    else:
        out.print(f"[green]✓[/] {_escape(folder)}: every part, row, count and hash is as recorded")
    if problems:
        raise typer.Exit(Exit.NEGATIVE)


@app.command()
def show(
    manifest: Annotated[str, typer.Argument(help="A manifest's folder, or the name of a mix of the run.")],
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=0, help="Documents to show.")] = 3,
    source: Annotated[str | None, typer.Option(help="Show documents of this source alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a manifest's account and documents as the model sees them, what is in the loss coloured."""
    from flows.run import RunNotFoundError, load_run, manifest_folder
    from flows.show import print_show
    from flows.show import show as read

    folder = manifest_folder(manifest, workspace, run)
    try:
        recorded = load_run(workspace, run)
    except RunNotFoundError:
        if run is not None:
            raise
        recorded = None  # a mix that no run has made
    shown = read(folder, recorded, samples, source, workspace)
    _print_json(shown) if as_json else print_show(shown, out)


@app.command()
def why(
    document: Annotated[
        str, typer.Argument(metavar="DOCUMENT-ID", help="An id, or its first six digits or more.")
    ],
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Tell a document's whole story: raw file, measurements, decisions, twin, mixes, checkpoints."""
    from flows.run import load_run
    from flows.why import print_story
    from flows.why import why as story

    told = story(load_run(workspace, run), document)
    _print_json(told) if as_json else print_story(told, out)


@app.command()
def pairs(
    name: Annotated[
        str | None, typer.Argument(metavar="[MIX|SOURCE]", help="Default: all sources of pairs.")
    ] = None,
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Count preference data as Llama 2 does: comparisons, turns, tokens of an example, a prompt, a response."""
    from flows.pairs import pairs_of, print_pairs
    from flows.run import load_run

    lines = pairs_of(load_run(workspace, run), name)
    _print_json(lines) if as_json else print_pairs(lines, out)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A training stage of the run; with --as, a mix.")],
    folder: Annotated[
        Path, typer.Argument(parser=_results, metavar="FOLDER|URL", help="A new folder, or a URL (s3://...).")
    ],
    form: Annotated[
        Literal["olmo-core", "parquet", "jsonl"] | None,
        typer.Option("--as", help="Export the mix: raw tokens for OLMo-core, or rendered text."),
    ] = None,
    part_size: Annotated[str, typer.Option(help="Of the files of a mix, cut between documents.")] = "256MiB",
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Take a trained model out of the workspace, with its card; or a mix, in files that other trainers read.

    A mix comes in the global order, each copy written out, with counts and hashes in export.json. A killed export
    goes on where it was. Rendered text is read by datasets.load_dataset(FOLDER).

    Examples:

    mixwright export sft my-model

    mixwright export pretrain tokens --as olmo-core --part-size 1GiB
    """
    from curation.remote import shown
    from flows.run import load_run

    found = load_run(workspace, run)
    if form is None:
        from flows.export import export_model

        done = export_model(found, name, folder)
        _print_json({"folder": shown(done)}) if as_json else out.print(_escape(shown(done)))
        return
    from curation.config import parse_bytes
    from curation.executor import LocalExecutor
    from flows.export_mix import export_data

    try:
        part_bytes = parse_bytes(part_size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--part-size") from None
    with LocalExecutor(workers) as executor:
        record = export_data(found, name, form, folder, part_bytes, executor)
    if as_json:
        _print_json(record)
    else:
        counts = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in record["counts"].items())
        out.print(f"{_escape(shown(folder))}: {record['parts']} parts; {counts}")


@app.command()
def replay(
    stage: Annotated[str, typer.Argument(help="A training stage of the run.")],
    step: Annotated[int, typer.Argument(min=1, help="The number of the step, from 1.")],
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Show exactly what a training step saw: documents, spans, text, what was in the loss. Runs no model.

    Works for stages that have failed, too: mixwright replay pretrain 37
    """
    from flows.replay import print_replayed, replayed
    from flows.run import load_run

    found = replayed(load_run(workspace, run), stage, step)
    _print_json(found) if as_json else print_replayed(found, out)


Pools = Annotated[list[str], typer.Argument(metavar="POOL...", help="Sources of the run, or `all`.")]
ProfileName = Annotated[str, typer.Option("--profile", "-p", help="A profile's name, or its YAML file.")]


@app.command()
def decide(
    pools: Pools,
    profile: ProfileName,
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Decide over measured pools under a profile: write the ledger anew; show what each rule drops. Reads no text.

    Name the profile in the pipeline file to go on from there: measuring is not done again.

    Example: mixwright decide web --profile manifests/mine.yaml
    """
    from curation.executor import LocalExecutor
    from curation.rules.profile import load_profile
    from curation.steps import Context
    from flows.decide import decide_pools, print_decided
    from flows.pools import measured_pools
    from flows.run import load_run

    chosen = load_profile(profile)
    found = measured_pools(load_run(workspace, run), pools)
    with LocalExecutor(workers) as executor:
        decided = decide_pools(Context(workspace.resolve(), executor), found, chosen)
    if as_json:
        told = [one.as_json() for one in decided]
        _print_json({"profile": chosen.name, "version": chosen.version, "pools": told})
    else:
        print_decided(decided, chosen, out)


@app.command()
def whatif(
    pools: Pools,
    profile: ProfileName,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="RULE=VALUE", help="Another threshold, values with commas, or off."),
    ],
    workspace: Workspace = WORKSPACE,
    run: RunName = None,
    examples: Annotated[int, typer.Option(min=0, help="Documents to show for each rule.")] = 5,
    output: Annotated[Path | None, typer.Option(help="The page (HTML). Default: in the workspace.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what other thresholds would change: documents and tokens by source, the distribution, examples.

    Nothing is decided: the answer comes from stored measurements.

    Example: mixwright whatif web papers --profile dolma3 --set few_words=30 --set symbols=off
    """
    from curation.remote import of
    from curation.rules.profile import load_profile
    from flows.pools import measured_pools
    from flows.report.whatif import print_what_if, write_page
    from flows.run import load_run
    from flows.whatif import default_page, what_if

    chosen = load_profile(profile)
    found = measured_pools(load_run(workspace, run), pools)
    answer = what_if(found, chosen, settings, examples)
    page = write_page(answer, output or default_page(workspace, found, chosen))
    if output is None and (store := of(page)) is not None:
        store.send(page)
    if as_json:
        _print_json({**answer.as_json(), "page": str(page)})
    else:
        print_what_if(answer, out)
        out.print(f"\ndrawing: {_escape(page)}")


@app.command()
def report(
    run: Annotated[str | None, typer.Argument(help="Name or folder of a run. Default: the latest.")] = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Write a run's report again: one HTML file that opens offline."""
    from curation.remote import of
    from flows.report import write_report
    from flows.run import load_run

    page = write_report(load_run(workspace, run))
    if (store := of(page)) is not None:
        store.send(page)  # and nothing else: its run may be at work on another machine
    out.print(_escape(page))
    _tell_address(page)


@app.command()
def schema(
    kind: Annotated[Literal["recipe", "pipeline", "profile"], typer.Argument(help="Which file it describes.")],
) -> None:
    """Print the JSON Schema of a kind of file, for editors that complete and check YAML.

    mixwright schema recipe > recipe.schema.json; the first line of a recipe then says
    # yaml-language-server: $schema=recipe.schema.json
    """
    from flows.schema import json_schema

    _print_json(json_schema(kind))


@app.command()
def dedup(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUTS...", help="Files, folders or globs, each as [SOURCE=]PATH.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=_results,
            metavar="FOLDER|URL",
            help="Folder for the results; of a URL (s3://...) OUT/work stays in MIXWRIGHT_CACHE.",
        ),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field that holds the text; dotted where nested.")] = "text",
    id_field: Annotated[str | None, typer.Option(help="Field that holds the record's own id.")] = None,
    date_field: Annotated[str | None, typer.Option(help="Field that holds an ISO 8601 date.")] = None,
    score_field: Annotated[
        str | None, typer.Option(help="Field that holds a number; the highest is best.")
    ] = None,
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            "--preset",
            help="fineweb, dolma3, bands x rows as 14x8, or a mapping: '{similarity: 0.8, permutations: 256}', "
            "'{unit: characters, ngram: 24, bands: 20, rows: 13}'.",
        ),
    ] = "fineweb",
    threshold: Annotated[float, typer.Option(help="True Jaccard similarity that makes duplicates.")] = 0.8,
    verify_ngram: Annotated[
        int | None,
        typer.Option(min=1, help="Units in the n-grams that are compared. Default: 3 words, else the scheme's."),
    ] = None,
    exact_only: Annotated[bool, typer.Option("--exact-only", help="Remove equal texts alone.")] = False,
    exact_by: Annotated[
        str | None, typer.Option(help="A field, such as url, that exact duplicates share instead of the text.")
    ] = None,
    alike: Annotated[
        str | None,
        typer.Option(help="What exact duplicates may differ in: unicode, case, punctuation, white_space."),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Which is kept, in this order: best, longest, newest, oldest.")
    ] = "longest",
    prefer: Annotated[
        list[str] | None, typer.Option(help="A source whose records are kept before others'; first comes first.")
    ] = None,
    write_records: Annotated[
        bool, typer.Option("--write-records", help="Copy the kept records, unchanged, to OUT/records.")
    ] = False,
    alarm_share: Annotated[float, typer.Option(help="A source that loses more raises an alarm.")] = 0.5,
    memory: Annotated[str, typer.Option(help="What may be used; it decides how many workers run.")] = "4GiB",
    index: Annotated[
        Path | None,
        typer.Option(
            parser=_local, metavar="FOLDER", help="Of an index, on a disk: compare with it too, and add to it."
        ),
    ] = None,
    explain: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Compare two records and do nothing else.")
    ] = None,
    workers: Workers = None,
    strict: StrictMode = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove exact and near-duplicate records from any JSON lines or Parquet, plain or compressed.

    A record is removed only if a kept one has the same text, or a true Jaccard similarity of the threshold or
    more. Records stay where they are: OUT gets tables of what is kept and removed for what, and of clusters.

    Examples:

    mixwright dedup crawl/*.jsonl.gz --out deduped --write-records

    mixwright dedup web=crawl/ books=gutenberg.parquet --prefer books --keep longest -o deduped

    mixwright dedup crawl/ --id-field url --explain https://a.example/1 https://b.example/2
    """
    from flows import dedup as command

    options = {"text": text_field, "key": id_field, "created": date_field, "score": score_field}
    wishes = [wish for wish in keep.split(",") if wish]
    request = command.request(
        inputs=inputs,
        fields={name: value for name, value in options.items() if value is not None},
        dedup={
            "scheme": command.scheme(scheme),
            "exact": command.exact(exact_by, alike),
            "threshold": threshold,
            **({} if verify_ngram is None else {"verify_ngram": verify_ngram}),
            "keep": {"sources": prefer or [], "then": wishes, "score": "score" if "best" in wishes else None},
            "alarm_share": alarm_share,
            "index": index,
        },
        exact_only=exact_only,
        write_records=write_records,
        alarm_share=alarm_share,
        memory=memory,
    )
    if explain:
        found = command.compared(request, explain)
        _print_json(command.explanation_json(found)) if as_json else command.print_explanation(found, out)
    elif dry_run:
        planned = command.planned(request, workers)
        _print_json(command.plan_json(planned)) if as_json else command.print_plan(planned, out)
    elif to is None:
        raise typer.BadParameter("a folder for the results is needed: --out FOLDER", param_hint="--out")
    else:
        signal.signal(signal.SIGTERM, _terminate)
        done = command.deduplicate(request, to, workers, strict, errors if as_json else out)
        _print_json(command.summary_json(done)) if as_json else command.print_summary(done, out)


@app.command()
def runs(workspace: Workspace = WORKSPACE, as_json: AsJson = False) -> None:
    """List the runs of a workspace, the latest first: state, time, steps done and found, where they are."""
    from flows.run import recorded_runs
    from flows.runs import describe, print_runs

    described = [describe(run) for run in recorded_runs(workspace)]
    described.sort(key=lambda run: (run["started"], run["run"]), reverse=True)
    _print_json(described) if as_json else print_runs(described, out)


@app.command()
def gc(
    workspace: Workspace = WORKSPACE,
    keep_runs: Annotated[
        int | None,
        typer.Option(min=1, help="Keep only so many latest runs of each pipeline. Default: all."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove results that no kept run, manifest or checkpoint refers to, and nothing else.

    mixwright gc --keep-runs 3 --dry-run shows what would go. On a store (s3://...) runs of other machines are not
    seen at work: collect when they have ended.
    """
    from flows.collect import bytes_of, collect, find_garbage, print_garbage

    garbage = find_garbage(workspace, keep_runs)
    freed = sum(map(bytes_of, garbage.folders)) if dry_run else collect(workspace, garbage)
    if as_json:
        folders = {"steps": [str(path) for path in garbage.steps], "runs": [str(path) for path in garbage.runs]}
        _print_json({**folders, "bytes": freed, "removed": not dry_run})
    else:
        print_garbage(garbage, workspace, freed, not dry_run, out)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What is installed, which engines and devices can be used, what is missing and how to get it."""
    from flows.doctor import examine, print_findings

    findings = examine()
    _print_json([finding.__dict__ for finding in findings]) if as_json else print_findings(findings, out)
    if any(finding.state == "missing" and finding.needed for finding in findings):
        raise typer.Exit(Exit.FAILED)


if __name__ == "__main__":
    main()
