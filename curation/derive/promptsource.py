"""Templates of tasks as promptsource publishes them: a YAML file a data set, Jinja templates `input ||| target`.

A file is data. Its two tags become mappings, any other is an error; a template runs in Jinja's immutable sandbox,
in which only the methods and filters that templates use can be reached, and nothing grows without bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateSyntaxError, pass_context
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from curation.config import ConfigError
from curation.derive.draws import Draws

SEPARATOR = "|||"
PROTECTED = "\N{BOX DRAWINGS LIGHT VERTICAL}" * 3 + "\x1f"  # stands for a separator in an example's own text
LARGEST_FILE = 8 << 20
LONGEST = 1 << 20  # characters of a rendered template
MOST_STEPS = 10_000  # of a range
DRAWS = "the draws of this document"  # no name that a template could write

METHODS = {
    str: {"capitalize", "endswith", "find", "index", "join", "lower", "lstrip", "replace", "rstrip", "split",
          "splitlines", "startswith", "strip", "title", "upper"},
    list: {"count", "index"},
    tuple: {"count", "index"},
    dict: {"get", "items", "keys", "values"},
    LoopContext: {"first", "index", "index0", "last", "length", "revindex", "revindex0"},
}  # fmt: skip
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "join", "last", "length", "list",
    "lower", "replace", "reverse", "round", "sort", "string", "sum", "title", "trim", "truncate", "unique",
    "upper",
)  # fmt: skip


class RenderError(Exception):
    """A template cannot be filled from an example."""


@dataclass(frozen=True)
class Rendered:
    """An example under a template."""

    input: str
    target: str
    choices: list[str] | None  # what the target is one of, where the template says so


class Templates:
    """The templates of a file, in the order of their names."""

    def __init__(self, path: Path):
        """Raises ConfigError naming the file, and the line or the template that is wrong."""
        self.path = path
        self.all = [TaskTemplate(path, entry) for entry in _entries(path)]
        self.all.sort(key=lambda template: (template.name, template.id))
        if not self.all:
            raise ConfigError(f"{path}: no template in it")


class TaskTemplate:
    """One template, its syntax checked."""

    def __init__(self, path: Path, entry: dict[str, Any]):
        about = entry.get("metadata")
        about = about if isinstance(about, dict) else {}
        self.id, self.name = str(entry.get("id", "")), str(entry.get("name", "")).strip()
        self.where = f"{path}: template '{self.name or self.id}'"
        jinja, choices = entry.get("jinja"), entry.get("answer_choices")
        if not isinstance(jinja, str) or not isinstance(choices, str | None):
            raise ConfigError(f"{self.where}: expected jinja, and answer_choices if there are any, as strings")
        # False: it asks for something else than the data set was made for, such as the question for an answer.
        self.inverted = about.get("original_task") is False
        self.shows_choices = about.get("choices_in_prompt") is True
        try:
            self._template = ENVIRONMENT.from_string(jinja)
            self._choices = None if choices is None else ENVIRONMENT.from_string(choices)
        except TemplateSyntaxError as error:
            raise ConfigError(f"{self.where}, line {error.lineno} of the template: {error.message}") from None

    @property
    def has_choices(self) -> bool:
        return self._choices is not None

    def render(self, example: dict[str, Any], draws: Draws) -> Rendered | None:
        """Input and target, both without blanks around them; None where the template gives none for this example.

        `draws`: for templates that choose one of several answers. Raises RenderError.
        """
        if "answer_choices" in example:
            raise RenderError(
                f"{self.where}: the example has a field 'answer_choices', which is the template's own"
            )
        fields = {
            name: value.replace(SEPARATOR, PROTECTED) if isinstance(value, str) else value
            for name, value in example.items()
        }
        fields[DRAWS] = draws
        choices = None if self._choices is None else _parts(self._run(self._choices, fields))
        parts = _parts(self._run(self._template, {**fields, "answer_choices": choices}))
        if len(parts) != 2 or not all(parts):
            return None
        return Rendered(*parts, choices)

    def _run(self, template: Any, fields: dict[str, Any]) -> str:
        made, length = [], 0
        try:
            for piece in template.generate(fields):
                made.append(piece)
                length += len(piece)
                if length > LONGEST:
                    raise RenderError(f"{self.where}: gives over {LONGEST} characters")
        except RenderError:
            raise
        except Exception as error:  # whatever a template does to one example must not stop the others
            raise RenderError(f"{self.where}: {type(error).__name__}: {error}") from error
        return "".join(made)


def _parts(rendered: str) -> list[str]:
    return [part.replace(PROTECTED, SEPARATOR).strip() for part in rendered.split(SEPARATOR)]


class _Loader(yaml.SafeLoader):
    """Plain YAML, and promptsource's two tags as the mappings that they are."""


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > LARGEST_FILE:
        raise ConfigError(f"{path}: over {LARGEST_FILE} bytes; templates are a small file")
    try:
        data = yaml.load(raw, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a file of templates: {error}") from None
    entries = data.get("templates") if isinstance(data, dict) else None
    if isinstance(entries, dict):
        entries = [
            {"id": key, "name": key, **entry} if isinstance(entry, dict) else entry
            for key, entry in entries.items()
        ]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path}: expected `templates`, a mapping of templates")
    return entries


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with a list of what may be reached, instead of one of what may not."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        allowed = next((names for kind, names in METHODS.items() if isinstance(obj, kind)), set())
        return attr in allowed and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `format`, not even the sandbox's own: a width of its would grow without bound."""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = all(isinstance(side, int | float) for side in (left, right))
        if operator == "+" or (operator == "*" and numbers):
            if operator == "+" and not numbers and len(left) + len(right) > LONGEST:
                raise SecurityError(f"a value of over {LONGEST} parts")
            return super().call_binop(context, operator, left, right)
        if operator == "%" and numbers:
            return super().call_binop(context, operator, left, right)
        raise SecurityError(
            f"'{operator}' of {type(left).__name__} and {type(right).__name__} is not for templates"
        )


@pass_context
def _choice(context: Any, items: Sequence[Any]) -> Any:
    return context[DRAWS].one(items)


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    counts = Counter(items).most_common()
    return [item for item, count in counts if count == counts[0][1]]


def _range(*bounds: int) -> range:
    steps = range(*bounds)
    if len(steps) > MOST_STEPS:
        raise SecurityError(f"a range of over {MOST_STEPS} steps")
    return steps


def _environment() -> _Environment:
    made = _Environment(undefined=StrictUndefined, autoescape=False)
    made.filters = {name: made.filters[name] for name in FILTERS}
    made.filters |= {"choice": _choice, "most_frequent": _most_frequent}
    made.globals = {"range": _range, "zip": zip, "dict": dict}
    return made


ENVIRONMENT = _environment()
