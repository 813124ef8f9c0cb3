"""Measurements that a user writes: Python functions, each a column of its name.

    # my_measures.py
    def vowel_share(text: str) -> float | None:
        letters = [character for character in text.lower() if character.isalpha()]
        return sum(letter in "aeiou" for letter in letters) / len(letters) if letters else None

with `measure: {functions: [my_measures.py:vowel_share]}` in the pipeline file. A function takes the text of a
document and, if it has a second parameter, the metadata as a mapping. What it returns is said by its annotation:
int, float or str, or None with one of them for documents where it has no value. It must depend on nothing else.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.config import ConfigError
from curation.measure.group import Columns, Group
from curation.schema import metadata_of

KINDS = {int: pa.int64(), float: pa.float64(), str: pa.string()}
NAME = "functions"


class MeasurementError(ValueError):
    """A user's function failed on a document or returned what it did not promise."""


def function_file(reference: str, folder: Path) -> tuple[Path, str]:
    """The file and the function of FILE.py:FUNCTION, the file relative to `folder`. Raises ConfigError."""
    path, colon, name = reference.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"measure.functions: '{reference}': expected FILE.py:FUNCTION")
    if not (folder / path).is_file():
        raise ConfigError(f"measure.functions: {folder / path}: no such file")
    return folder / path, name


def group(functions: dict[str, Path]) -> Group:
    """The group of these functions, by name, each with the file that it is in. Runs the files.

    Raises ConfigError for a file that does not run, a function that is not there and an annotation that is no type
    of a column.
    """
    loaded = {name: _load(path, name) for name, path in functions.items()}
    columns = {name: _kind(functions[name], name, function) for name, function in loaded.items()}
    return Group(NAME, columns, partial(_measure, loaded, columns))


def _load(path: Path, name: str) -> Callable[..., Any]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"measure.functions: {path}: '{name}' is no name for a column; use a-z, 0-9 and _")
    spec = importlib.util.spec_from_file_location(f"_measurements_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is written beside a user's file
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"measure.functions: {path} does not run: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = keep
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        there = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"measure.functions: {path} has no function '{name}'; it has {', '.join(there) or 'none'}"
        )
    return function


def _kind(path: Path, name: str, function: Callable[..., Any]) -> pa.DataType:
    if len(inspect.signature(function).parameters) not in (1, 2):
        raise ConfigError(f"measure.functions: {path}:{name}: it must take the text, or the text and the metadata")
    returned = typing.get_type_hints(function).get("return")
    union = typing.get_origin(returned) in (types.UnionType, typing.Union)
    options = typing.get_args(returned) if union else (returned,)
    kinds = [kind for kind in options if kind is not type(None)]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        raise ConfigError(
            f"measure.functions: {path}:{name}: say what it returns: `-> float` (or int or str, `| None` with it)"
        )
    return KINDS[kinds[0]]


def _measure(
    functions: dict[str, Callable[..., Any]],
    columns: dict[str, pa.DataType],
    documents: pa.Table,
    texts: pa.LargeStringArray,
) -> Columns:
    ids, contents = documents["id"].to_pylist(), texts.to_pylist()
    with_metadata = {name for name in functions if len(inspect.signature(functions[name]).parameters) == 2}
    metadata = [metadata_of(one) for one in documents["metadata"].to_pylist()] if with_metadata else []
    found = {}
    for name, function in functions.items():
        extra = metadata if name in with_metadata else None
        values = [
            _called(name, function, columns[name], ids[row], (text, extra[row]) if extra else (text,))
            for row, text in enumerate(contents)
        ]
        found[name] = pa.array(values, columns[name])
    return found


def _called(name: str, function: Callable[..., Any], kind: pa.DataType, identity: str, arguments: tuple) -> Any:
    """The value of one document. A number that is no finite one has no place in a rule: it is an error."""
    try:
        value = function(*arguments)
    except Exception as error:
        raise MeasurementError(
            f"measurement '{name}' failed on document {identity}: {type(error).__name__}: {error}; return None "
            "where it has no value"
        ) from error
    wanted = {pa.int64(): int, pa.float64(): (int, float), pa.string(): str}[kind]
    fits = value is None or (isinstance(value, wanted) and not isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise MeasurementError(
            f"measurement '{name}' gave {value!r} on document {identity}; its annotation promises {kind}"
        )
    return value
