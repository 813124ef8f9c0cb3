"""A mix in files that others read: numbered parts, in the global order, each copy written out.

A part is complete or absent, and its record lies in `.export/` until `export.json`, written last, holds them all:
a killed export goes on by parts, to the same bytes. Forms are in `curation.export_tokens`, `curation.export_text`.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation import remote
from curation.encoder import FOLDER
from curation.executor import Executor
from curation.files import file_hash, read_json, remove, remove_unfinished, write_json
from curation.mix.manifest import Manifest
from curation.order import boundaries, in_order
from curation.steps import StepOutput, write_folder

RECORD, UNDER_WAY, IDENTITY = "export.json", ".export", "identity.json"
VERSION = 1


class ExportError(Exception):
    """What was written is not what the manifest says, or a folder holds something else."""


@dataclass
class Form(ABC):
    """One form of a mix. `row`: the manifest row of each occurrence, in the global order. `cuts`: of parts."""

    manifest: Manifest
    tokenizer: StepOutput
    name: str
    part_bytes: int

    def lay_out(self, order: np.ndarray, copies: np.ndarray, sizes: np.ndarray) -> None:
        """Fix the order and the parts. `sizes`: bytes of each row, counted or guessed."""
        self.row = in_order(order, copies)
        self.cuts = boundaries(sizes[self.row], self.part_bytes)
        if not len(self.row):
            raise ValueError(f"{self.manifest.folder}: the mix holds no document; there is nothing to export")

    @property
    def parts(self) -> int:
        return len(self.cuts) - 1

    def rows_of(self, part: int) -> np.ndarray:
        """The manifest rows of a part, in its order."""
        return self.row[self.cuts[part] : self.cuts[part + 1]]

    def prepare(self, folder: Path, scratch: Path, executor: Executor) -> None:  # noqa: B027 (not every form has to)
        """What comes before the parts; whatever `scratch` holds of it already is not done again."""

    @abstractmethod
    def write(self, folder: Path, scratch: Path, part: int) -> dict[str, int]:
        """Write the files of a part; its counts. `documents` and `tokens` are among them, without added ones."""

    @abstractmethod
    def files(self, part: int) -> list[str]:
        """The files of a part, relative to the folder."""

    def finish(self, folder: Path, record: dict[str, Any]) -> None:
        """What comes after the parts, before the record."""
        write_folder_once(self.tokenizer.folder / FOLDER, folder / FOLDER)


def export_mix(form: Form, folder: Path, executor: Executor) -> dict[str, Any]:
    """Write a mix to `folder` in a form; the record, as in `export.json`. What is there already is not done again.
    A mirror of `curation.remote` is published.

    Raises ExportError for a folder that holds something else, and where the tokens or documents written are not
    those of the manifest.
    """
    identity = {
        "version": VERSION,
        "form": form.name,
        "mix": form.manifest.head["name"],
        "kind": form.manifest.head["kind"],
        "manifest_hash": form.manifest.hash,
        "tokenizer_hash": form.tokenizer.content,
        "part_bytes": form.part_bytes,
    }
    store = remote.of_results(folder)
    if store is not None:
        store.require_ours(RECORD, identity)
    record = _written(form, folder, identity, executor)
    if store is not None:
        store.publish_results(folder, RECORD, leave_out=UNDER_WAY)
    return record


def _written(form: Form, folder: Path, identity: dict[str, Any], executor: Executor) -> dict[str, Any]:
    scratch = folder / UNDER_WAY
    if (folder / RECORD).is_file():
        record = read_json(folder / RECORD)
        _require_same(record, identity, folder)
        _require_whole(record, folder)
        remove(scratch)
        return record
    _begin(folder, scratch, identity)
    done = {path: scratch / f"part-{path:05d}.json" for path in range(form.parts)}
    if todo := [part for part, path in done.items() if not path.is_file()]:
        form.prepare(folder, scratch, executor)
        for _ in executor.map(_write_part, [(form, folder, scratch, part) for part in todo], "threads"):
            pass
    record = identity | _sum(form, [read_json(path) for path in done.values()], folder)
    form.finish(folder, record)
    write_json(folder / RECORD, record)
    remove(scratch)
    return record


def write_folder_once(source: Path, target: Path) -> None:
    if not target.is_dir():
        write_folder(target, lambda temporary: shutil.copytree(source, temporary, dirs_exist_ok=True))


def _begin(folder: Path, scratch: Path, identity: dict[str, Any]) -> None:
    if (scratch / IDENTITY).is_file():
        _require_same(read_json(scratch / IDENTITY), identity, folder)
        remove_unfinished(folder)
    elif folder.exists() and any(path.name != UNDER_WAY for path in folder.iterdir()):
        raise ExportError(f"{folder}: holds other files and no export; name a new or empty folder")
    else:
        write_json(scratch / IDENTITY, identity)


def _require_same(found: dict[str, Any], identity: dict[str, Any], folder: Path) -> None:
    for key, value in identity.items():
        if found.get(key) != value:
            raise ExportError(
                f"{folder}: holds an export with {key} {found.get(key)!r}, asked for is {value!r}; "
                "name a new folder"
            )


def _require_whole(record: dict[str, Any], folder: Path) -> None:
    for name, file in record["files"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != file["bytes"]:
            raise ExportError(f"{path}: {found} bytes, {RECORD} says {file['bytes']}; remove the folder and rerun")


def _write_part(form: Form, folder: Path, scratch: Path, part: int) -> None:
    counts = form.write(folder, scratch, part)
    files = {}
    for name in form.files(part):
        path = folder / name
        files[name] = {"bytes": path.stat().st_size, "hash": file_hash(path)}
    write_json(scratch / f"part-{part:05d}.json", {"counts": counts, "files": files})
    remove(spool(scratch, part))


def spool(scratch: Path, part: int) -> Path:
    """Where `prepare` puts what a part is made of; removed with the part's record."""
    return scratch / f"part-{part:05d}"


def _sum(form: Form, parts: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The counts and files of all parts, proven against the manifest's totals."""
    counts = {key: sum(part["counts"][key] for part in parts) for key in parts[0]["counts"]}
    totals = form.manifest.head["totals"]
    for key, expected in (("documents", totals["occurrences"]), ("tokens", totals["tokens"])):
        if counts[key] != expected:
            raise ExportError(
                f"{folder}: {counts[key]} {key} written, the manifest has {expected}; "
                "remove the folder and export again"
            )
    files = {name: file for part in parts for name, file in part["files"].items()}
    return {"counts": counts, "parts": len(parts), "files": files}
