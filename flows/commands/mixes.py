"""Commands on recipes and the mixes made of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.shared import (
    WORKSPACE,
    Address,
    AsJson,
    Buckets,
    DryRun,
    Engine,
    Exactly,
    Exit,
    RunName,
    Settings,
    StrictMode,
    Workers,
    Workspace,
    escape,
    exit_code,
    out,
    print_json,
    results,
    tell_address,
    with_exact,
)


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
        out.print(f"recipe: {escape(output)}")


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
    given = (recipe, workspace, with_exact(settings, exact), pool, published, buckets, as_json)
    if watch:
        from flows.watch import watch as keep_planning

        if as_json:
            raise typer.BadParameter("it shows tables: leave --json out", param_hint="--watch")
        more = [path for path in (pool, published) if path is not None]
        keep_planning(recipe, more, lambda: _plan(*given), out, lambda error: exit_code(error) is not None)
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
        print_json(rows) if as_json else print_stages(rows, out)
        return True
    planned = plan_recipe(recipe, workspace, settings) if pool is None else plan_pools(recipe, settings, pool)
    compared = compare(planned, published) if published else None
    if as_json:
        print_json(plan_json(planned, compared))
    else:
        print_plan(planned, out, buckets)
        if compared is not None:
            print_comparison(compared, out)
    return not planned.problems


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
        planned = plan_recipe(recipe, workspace, with_exact(settings, exact))
        print_plan(planned, out, buckets)
        if planned.problems:
            raise typer.Exit(Exit.NEGATIVE)
        return
    place = workspace.resolve()
    with open_executor(engine, workers, address, place) as executor, Terminal(out) as terminal:
        context = Context(place, executor, strict, progress=terminal)
        built = build_mix(recipe, with_exact(settings, exact), context, terminal.stage(direct))
    head = read_json(built.file("mix.json"))
    print_account(head["name"], head["account"], head["totals"], out, buckets)
    out.print(f"manifest {head['hash'][:16]}: {escape(built.place)}")
    tell_address(built.place)


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
    print_json(changes.as_json()) if as_json else print_changes(changes, documents, out)


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
        print_json({"manifest": str(folder), "sound": not problems, "problems": problems})
    elif problems:
        for problem in problems:
            out.print(f"[red]✗[/] {escape(problem)}")
    else:
        out.print(f"[green]✓[/] {escape(folder)}: every part, row, count and hash is as recorded")
    if problems:
        raise typer.Exit(Exit.NEGATIVE)


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
    print_json(shown) if as_json else print_show(shown, out)


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
    print_json(lines) if as_json else print_pairs(lines, out)


def export(
    name: Annotated[str, typer.Argument(help="A training stage of the run; with --as, a mix.")],
    folder: Annotated[
        Path, typer.Argument(parser=results, metavar="FOLDER|URL", help="A new folder, or a URL (s3://...).")
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
        print_json({"folder": shown(done)}) if as_json else out.print(escape(shown(done)))
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
        print_json(record)
    else:
        counts = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in record["counts"].items())
        out.print(f"{escape(shown(folder))}: {record['parts']} parts; {counts}")


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
    print_json(found) if as_json else print_replayed(found, out)
