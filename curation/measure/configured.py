"""The groups that a pipeline file asks for, with what it adds to them: block lists and functions of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from curation.config import ConfigError
from curation.files import file_hash, json_hash
from curation.measure import own, url
from curation.measure.group import Group
from curation.measure.groups import chosen


class Asked(Protocol):
    """What of `curation.measure.station.Measure` is looked at here."""

    groups: tuple[str, ...]
    functions: tuple[str, ...]
    url_lists: url.UrlLists


def configured(config: Asked, folder: Path, taken: Iterable[str]) -> tuple[list[Group], dict[str, str]]:
    """The groups to measure, and the hashes of the files behind them by the role that they play.

    Paths are relative to `folder`; `taken` are the columns that belong to no group. Raises ConfigError for a file
    that is missing or does not run, lists without the group `url`, and a function of the name of another column.
    """
    groups, inputs = chosen(config.groups), {}
    lists = config.url_lists.files(folder)
    if lists:
        if url.GROUP.name not in config.groups:
            raise ConfigError(
                "measure.url_lists: the group 'url' is not among `groups`, and nothing else reads them"
            )
        groups = [url.group(lists) if group.name == url.GROUP.name else group for group in groups]
        inputs |= {f"url_lists/{name}": json_hash([file_hash(path) for path in lists[name]]) for name in lists}
    functions: dict[str, Path] = {}
    for reference in config.functions:
        path, name = own.function_file(reference, folder)
        if name in functions:
            raise ConfigError(f"measure.functions: '{reference}': there are two functions named '{name}'")
        functions[name] = path
    if functions:
        there = {*taken, *(column for group in groups for column in group.columns)}
        if clash := sorted(there & set(functions)):
            raise ConfigError(f"measure.functions: '{clash[0]}' is a measurement already; give yours another name")
        groups = [*groups, own.group(functions)]
        inputs |= {f"functions/{name}": file_hash(path) for name, path in functions.items()}
    return groups, inputs
