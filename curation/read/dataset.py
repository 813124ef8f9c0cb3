"""Hugging Face dataset folders: which files hold a split, by the folder's own description or by their names.

Two layouts are known: what `datasets.save_to_disk` writes (Arrow files named by state.json), and a repository as
the Hub holds it (README.md with a list of data files, or files and folders named train, validation, test). See
"Structure your repository" in the documentation of `datasets`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

from curation.config import ConfigError, Strict
from curation.read.streams import plain_name

DATA = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
Read = Callable[[str], bytes]


class Dataset(Strict):
    """A source's root is a Hugging Face dataset folder, of which one split is read."""

    config: str | None = None  # None: the default one, or the only one
    split: str | None = None  # None: train, or the only one


def dataset_files(files: list[str], read: Read, matches: Callable[[str, str], bool], wanted: Dataset) -> list[str]:
    """The files of the split that is wanted, sorted. `files`: all paths below the root; `read` gives the bytes of
    one; `matches(pattern, path)` says whether a glob matches. Raises ConfigError where there is no such split.
    """
    if "dataset_dict.json" in files:
        splits = dict.fromkeys(_json(read, "dataset_dict.json", "splits", list))
        name = _choose(splits, wanted.split)
        return _saved(files, read, f"{name}/")
    if "state.json" in files:
        return _saved(files, read, "")
    splits = _listed(files, read, matches, wanted) or _named(files)
    return sorted(splits[_choose(splits, wanted.split)])


def _choose(splits: dict[str, Any], wanted: str | None) -> str:
    if wanted is None and len(splits) == 1:
        return next(iter(splits))
    name = wanted or "train"
    if name not in splits:
        raise ConfigError(f"dataset: no split '{name}'; it has {', '.join(sorted(splits)) or 'no data files'}")
    return name


def _json(read: Read, name: str, key: str, kind: type) -> Any:
    try:
        value = json.loads(read(name)).get(key)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"dataset: {name} is not what datasets writes: {error}") from None
    if not isinstance(value, kind):
        raise ConfigError(f"dataset: {name}: '{key}' is {value!r}, expected a {kind.__name__}")
    return value


def _saved(files: list[str], read: Read, folder: str) -> list[str]:
    """The Arrow files of a saved split, by its state.json."""
    state = f"{folder}state.json"
    if state not in files:
        raise ConfigError(f"dataset: {state} is missing; save the dataset again with save_to_disk")
    if json.loads(read(state)).get("_indices_data_files"):
        raise ConfigError(f"dataset: {state} names rows of its tables; call flatten_indices() and save it again")
    names = [f"{folder}{entry['filename']}" for entry in _json(read, state, "_data_files", list)]
    if missing := sorted(set(names) - set(files)):
        raise ConfigError(f"dataset: {state} names '{missing[0]}', which is missing")
    return sorted(names)


def _listed(
    files: list[str], read: Read, matches: Callable[[str, str], bool], wanted: Dataset
) -> dict[str, list[str]]:
    """Splits by the `configs` in the head of README.md; none if it has no such list."""
    head = (
        re.match(rb"---\s*\n(.*?)\n---\s*(\n|\Z)", read("README.md"), re.DOTALL) if "README.md" in files else None
    )
    try:
        configs = (yaml.safe_load(head[1]) or {}).get("configs") if head else None
    except (yaml.YAMLError, AttributeError) as error:
        raise ConfigError(f"dataset: the head of README.md is not YAML: {error}") from None
    if not configs:
        if wanted.config is not None:
            raise ConfigError(f"dataset: config '{wanted.config}' is wanted, but README.md lists no configs")
        return {}
    found = _config(configs, wanted.config)
    data_files, below = found.get("data_files"), found.get("data_dir")
    if data_files is None:
        return _named([name for name in files if below is None or name.startswith(f"{below.strip('/')}/")])
    if not isinstance(data_files, list) or not all(isinstance(entry, dict) for entry in data_files):
        data_files = [{"split": "train", "path": data_files}]
    splits: dict[str, list[str]] = {}
    for entry in data_files:
        patterns = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
        for pattern in patterns:
            full = f"{below.strip('/')}/{pattern}" if below else pattern
            names = [name for name in files if matches(full, name)]
            if not names:
                raise ConfigError(f"dataset: README.md names the data files '{full}', and no file is one")
            splits.setdefault(entry["split"], []).extend(names)
    return splits


def _config(configs: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    names = {str(config.get("config_name", "default")): config for config in configs}
    if wanted is None:
        default = [name for name, config in names.items() if config.get("default")]
        wanted = next(iter(names)) if len(names) == 1 else (default or ["default"])[0]
    if wanted not in names:
        raise ConfigError(
            f"dataset: no config '{wanted}'; README.md lists {', '.join(names)}; name one as 'config'"
        )
    return names[wanted]


def _named(files: list[str]) -> dict[str, list[str]]:
    """Splits by the words in the names of files and folders; all data files are `train` where no name says."""
    data = [
        name for name in files if plain_name(name).endswith(DATA) and name.rpartition("/")[2] not in DESCRIPTIONS
    ]
    splits: dict[str, list[str]] = {}
    for name in data:
        words = re.split(r"[^a-z]+", plain_name(name).rpartition(".")[0])
        for split, known in SPLIT_WORDS.items():
            if set(known) & set(words):
                splits.setdefault(split, []).append(name)
                break
    return splits or ({"train": data} if data else {})
