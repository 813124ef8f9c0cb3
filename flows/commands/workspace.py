"""Commands on a workspace, its runs, and what is installed."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows.commands.shared import (
    WORKSPACE,
    AsJson,
    DryRun,
    Exit,
    Workspace,
    escape,
    out,
    print_json,
    tell_address,
)


def runs(workspace: Workspace = WORKSPACE, as_json: AsJson = False) -> None:
    """List the runs of a workspace, the latest first: state, time, steps done and found, where they are."""
    from flows.run import recorded_runs
    from flows.runs import describe, print_runs

    described = [describe(run) for run in recorded_runs(workspace)]
    described.sort(key=lambda run: (run["started"], run["run"]), reverse=True)
    print_json(described) if as_json else print_runs(described, out)


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
        print_json({**folders, "bytes": freed, "removed": not dry_run})
    else:
        print_garbage(garbage, workspace, freed, not dry_run, out)


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
    out.print(escape(page))
    tell_address(page)


def schema(
    kind: Annotated[Literal["recipe", "pipeline", "profile"], typer.Argument(help="Which file it describes.")],
) -> None:
    """Print the JSON Schema of a kind of file, for editors that complete and check YAML.

    mixwright schema recipe > recipe.schema.json; the first line of a recipe then says
    # yaml-language-server: $schema=recipe.schema.json
    """
    from flows.schema import json_schema

    print_json(json_schema(kind))


def doctor(as_json: AsJson = False) -> None:
    """What is installed, which engines and devices can be used, what is missing and how to get it."""
    from flows.doctor import examine, print_findings

    findings = examine()
    print_json([finding.__dict__ for finding in findings]) if as_json else print_findings(findings, out)
    if any(finding.state == "missing" and finding.needed for finding in findings):
        raise typer.Exit(Exit.FAILED)
