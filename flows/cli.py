"""The command `mixwright`: its commands in the order of the help, and how it ends."""

from __future__ import annotations

import atexit
import gc
import os
import sys

import typer

from flows.commands import documents, mixes, pipelines, workspace
from flows.commands.shared import Exit, errors, escape, exit_code, was_interrupted

# Read by OpenMP when torch or numba load it: threads that spin while they wait halve the speed of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

gc.set_threshold(50_000, 20, 20)  # importing makes half a million objects, which are all there to stay
atexit.register(gc.freeze)  # and at the end are not searched for cycles: their memory goes with the process

app = typer.Typer(
    name="mixwright",
    help="Raw text to audited training mixes to trained models, every token accounted for.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (
    pipelines.run,
    pipelines.serve,
    mixes.new,
    mixes.plan,
    mixes.mix,
    mixes.diff,
    mixes.verify,
    mixes.show,
    documents.why,
    mixes.pairs,
    mixes.export,
    mixes.replay,
    documents.decide,
    documents.whatif,
    workspace.report,
    workspace.schema,
    documents.dedup,
    workspace.runs,
    workspace.gc,
    workspace.doctor,
):
    app.command()(command)


def main() -> None:
    """Entry point: runs a command and turns known errors into a message and an exit code."""
    try:
        app()
    except BaseException as error:
        if was_interrupted(error):
            errors.print("\n[yellow]interrupted[/]; finished work is kept, the same command goes on from there")
            sys.exit(Exit.INTERRUPTED)
        code = exit_code(error)
        if code is None:
            raise
        errors.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(code)


if __name__ == "__main__":
    main()
