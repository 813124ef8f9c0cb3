"""Work that is done again whenever a file that it reads is saved: `plan --watch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from rich.console import Console
from rich.text import Text

PAUSE = 0.3  # seconds between two looks at the files
Signature = tuple[int, int, int]


def watch(
    recipe: Path,
    more: Iterable[Path],
    work: Callable[[], object],
    console: Console,
    expected: Callable[[Exception], bool],
) -> NoReturn:
    """Do the work now and after each save of a recipe, its bases, its pipeline's files, or `more`; Ctrl-C ends it.

    An error that is `expected` is shown in place of the result; any other is a defect and goes on its way.
    """
    more, seen = list(more), None
    while True:
        files = [*files_of(recipe), *more]
        now = {path: _signature(path) for path in files}  # before the work: a save meanwhile is not missed
        if now != seen:
            seen = now
            console.clear()
            try:
                work()
            except Exception as error:
                if not expected(error):
                    raise
                console.print(Text(f"error: {error}", style="red"))
            names = ", ".join(dict.fromkeys(path.name for path in files))
            console.print(Text(f"\n{time.strftime('%H:%M:%S')}  watching {names}; Ctrl-C ends", style="dim"))
        time.sleep(PAUSE)


def files_of(recipe: Path) -> list[Path]:
    """A recipe (or pipeline) file, its bases, its pipeline with bases, and the recipes of the pipeline's mixes.

    As far as they can be read: what cannot be is watched until it can.
    """
    found = dict(_with_bases(recipe))
    named = next((data["pipeline"] for data in found.values() if isinstance(data.get("pipeline"), str)), None)
    pipeline = recipe if named is None else recipe.parent / named
    found |= dict(_with_bases(pipeline))
    for data in list(found.values()):
        mixes = data.get("mixes")
        for entry in mixes.values() if isinstance(mixes, dict) else ():
            if isinstance(entry, dict) and isinstance(entry.get("recipe"), str):
                found |= dict(_with_bases(pipeline.parent / entry["recipe"]))
    return list(found)


def _with_bases(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    above: set[Path] = set()
    while path.resolve() not in above:
        above.add(path.resolve())
        data = _mapping(path)
        yield path, data
        if not isinstance(data.get("base"), str):
            return
        path = path.parent / data["base"]


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def _signature(path: Path) -> Signature | None:
    """What tells that a file was saved, in place or by another in its place; None: it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
