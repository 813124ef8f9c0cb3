"""YAML files that people write: base files, variables, human units, errors that name line and column."""

from __future__ import annotations

import difflib
import os
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTE_UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}

DEEPEST, MOST = 50, 200_000  # levels and values of a YAML file


class ConfigError(Exception):
    """A config file is wrong. The message names the file, the line, what was found and what was expected."""


class Strict(BaseModel):
    """Base of every config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_count(value: Any) -> int:
    """150000, "150K", "1.5B" -> an integer. Raises ValueError for anything that is not a whole number."""
    return _parse_units(value, UNITS, "a count such as 2000000, 2M or 1.5B")


def parse_bytes(value: Any) -> int:
    """1048576 or "256MiB" -> bytes."""
    return _parse_units(value, BYTE_UNITS, "a size such as 1048576 or 256MiB")


def parse_share(value: Any) -> float:
    """0.761 or "76.1%" -> 0.761."""
    text = str(value).strip()
    try:
        number = Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
    except InvalidOperation:
        raise ValueError(f"expected a share such as 0.25 or 25%, found {value!r}") from None
    return float(number)


def _parse_units(value: Any, units: dict[str, int], expected: str) -> int:
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
    if isinstance(value, bool) or match is None or match[2].upper() not in units:
        raise ValueError(f"expected {expected}, found {value!r}")
    number = Decimal(match[1].replace("_", "")) * units[match[2].upper()]
    if number != number.to_integral_value():
        raise ValueError(f"expected {expected}, found {value!r}, which is not a whole number")
    return int(number)


Count = Annotated[int, BeforeValidator(parse_count, json_schema_input_type=int | str)]
Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=int | str)]
Share = Annotated[float, BeforeValidator(parse_share, json_schema_input_type=float | str)]

Model = TypeVar("Model", bound=BaseModel)


def load_config(path: Path, model: type[Model], overrides: list[str] | None = None) -> Model:
    """Read a YAML file as `model`. `overrides` are "dotted.key=value" strings, the value in YAML.

    `base: other.yaml` takes everything from that file (relative to this one) that is not given here: mappings
    merge, anything else replaces. `${NAME}` in a string is the environment variable. Raises ConfigError.
    """
    return load_located(path, model, overrides)[0]


def load_located(
    path: Path, model: type[Model], overrides: list[str] | None = None
) -> tuple[Model, dict[tuple, str]]:
    """As `load_config`; with it "file:line:column" of every key path, for errors that only later work can find."""
    data, places = read_yaml(Path(path))
    for override in overrides or []:
        _override(data, override)
    data = _expand(data, (), places, path)
    try:
        return model.model_validate(data), places
    except ValidationError as error:
        raise ConfigError(_explain(error, model, places, Path(path))) from None


def place_of(at: tuple, places: dict[tuple, str], path: Path | str) -> str:
    """The closest known place of a key path: its own, or that of what holds it."""
    while at and at not in places:
        at = at[:-1]
    return places.get(at, str(path))


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[tuple, str]]:
    """The mapping of a YAML file with its base merged in, and "file:line:column" of every key path in it.

    `above`: the files whose base this one is.
    """
    if path.resolve() in above:
        raise ConfigError(f"{path}: it is a base of itself; take one 'base' of {', '.join(map(str, above))} out")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: expected a mapping of keys to values")
    places: dict[tuple, str] = {}
    data = _build(node, (), path, places)
    if "base" in data:
        base, base_places = read_yaml(path.parent / str(data.pop("base")), (*above, path.resolve()))
        return merge(base, data), {**base_places, **places}
    return data, places


def merge(base: Any, change: Any) -> Any:
    """`change` laid over `base`: mappings key by key, anything else replaced."""
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {key: merge(base[key], value) if key in base else value for key, value in change.items()}
    return change


def _build(node: yaml.Node, at: tuple, path: Path, places: dict[tuple, str]) -> Any:
    places[at] = _place(path, node)
    if len(at) > DEEPEST or len(places) > MOST:  # an alias within itself, or aliases of aliases of aliases
        raise ConfigError(f"{places[at]}: over {DEEPEST} levels or {MOST} values; write them out without aliases")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{_place(path, key_node)}: a key is a word, not a list or mapping")
            if key in result:
                raise ConfigError(f"{_place(path, key_node)}: key '{key}' is given twice")
            result[key] = _build(value_node, (*at, key), path, places)
            places[(*at, key)] = _place(path, key_node)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*at, index), path, places) for index, child in enumerate(node.value)]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-45
        raise ConfigError(f"{places[at]}: {error}") from None


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _override(data: dict[str, Any], override: str) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: expected key=value, for example --set seed=7")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from None
    *parents, last = dotted.split(".")
    for key in parents:
        try:
            data = data[int(key)] if isinstance(data, list) else data.setdefault(key, {})
        except (ValueError, IndexError):
            raise ConfigError(f"--set {override}: '{key}' is no position in a list") from None
        if not isinstance(data, dict | list):
            raise ConfigError(f"--set {override}: '{key}' is a value, not a mapping")
    try:
        data[int(last) if isinstance(data, list) else last] = parsed
    except (ValueError, IndexError):
        raise ConfigError(f"--set {override}: '{last}' is no position in a list of {len(data)}") from None


def _expand(value: Any, at: tuple, places: dict[tuple, str], path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expand(child, (*at, key), places, path) for key, child in value.items()}
    if isinstance(value, list):
        return [_expand(child, (*at, index), places, path) for index, child in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{place_of(at, places, path)}: the environment variable {match[1]} is not set")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", variable, value)


def _explain(error: ValidationError, model: type[BaseModel], places: dict[tuple, str], path: Path) -> str:
    messages = []
    for problem in error.errors():
        at = tuple(problem["loc"])
        key = ".".join(str(part) for part in at) or "(top)"
        found = "" if problem["type"] == "missing" else f", found {_short(problem['input'])}"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = _unknown_key(str(at[-1]), _model_at(model, at[:-1]))
        messages.append(f"{place_of(at, places, path)}: {key}: {message}{found}")
    return "\n".join(messages)


def _unknown_key(key: str, model: type[BaseModel] | None) -> str:
    known = sorted(model.model_fields) if model else []
    if close := difflib.get_close_matches(key, known, 1):
        return f"there is no such key; did you mean '{close[0]}'?"
    return f"there is no such key; expected one of {', '.join(known)}" if known else "there is no such key"


def _model_at(model: type[BaseModel] | None, at: tuple) -> type[BaseModel] | None:
    """The model that stands at a key path, as far as the types of the fields say."""
    for part in at:
        if model is not None and isinstance(part, str):
            field = model.model_fields.get(part)
            model = _model_in(field.annotation) if field else model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_model_in, get_args(annotation)) if found), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
