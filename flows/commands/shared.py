"""What the commands share: options, the consoles, exit codes, and what becomes of an error."""

from __future__ import annotations

import json
import os
import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console


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
    if "://" not in str(place) and not (Path(place) / "mirror.json").is_file():
        return Path(place)  # as below, without loading what stores need
    from curation.remote import open_workspace

    return open_workspace(place)


def results(place: str | Path) -> Path:
    from curation.remote import open_results

    return open_results(place)


def local_folder(place: str | Path) -> Path:
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


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C or SIGTERM is what an error comes of: on the way out another may take its place.

    Prefect has an exception of its own for SIGTERM, typer makes an exit of Ctrl-C, and pydantic, where it writes
    JSON, an error that only says so.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TerminationSignal":
            return True
        if isinstance(error, SystemExit) and error.code == Exit.INTERRUPTED:
            return True
        if type(error).__name__ == "PydanticSerializationError" and "KeyboardInterrupt" in str(error):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def exit_code(error: BaseException) -> Exit | None:
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


def escape(value: object) -> str:
    """Text of the world outside for a line of markup: no tag of its own, no code that steers the terminal."""
    from rich.markup import escape as without_tags

    return without_tags(
        "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    )


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")  # ASCII: no code of a document steers the terminal


def with_exact(settings: list[str] | None, exact: bool) -> list[str]:
    return [*(settings or []), *(["exact=true"] if exact else [])]


def terminate(*_: object) -> None:
    raise KeyboardInterrupt


def tell_address(place: Path) -> None:
    from curation.remote import shown

    if shown(place) != str(place):
        out.print(f"published: {escape(shown(place))}")
