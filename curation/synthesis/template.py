"""Templates of prompts: Jinja2 in its sandbox, where what is not defined is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from curation.config import ConfigError
from curation.synthesis.config import Synthesis

VARIABLES = ("text", "id", "source", "metadata")


class RenderError(Exception):
    """A template cannot be filled from a document."""


class Template:
    """A template, its syntax and variables checked. `text` is what it is made of."""

    def __init__(self, text: str, name: str):
        """`name`: how messages call it. Raises ConfigError naming it and the line or the variable."""
        self.text, self.name = text, name
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
        )
        del environment.globals["lipsum"], environment.filters["random"]  # another prompt each time
        try:
            known = {*VARIABLES, *environment.globals}
            unknown = sorted(meta.find_undeclared_variables(environment.parse(text)) - known)
            self._template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise ConfigError(f"{name}, line {error.lineno}: {error.message}") from None
        if unknown:
            raise ConfigError(
                f"{name}: no variable '{unknown[0]}'; there are {', '.join(VARIABLES)}, "
                f"and a document's own fields are metadata.{unknown[0]} and the like"
            )

    def render(self, text: str, id: str, source: str, metadata: dict[str, Any]) -> str:
        """The prompt of a document. Raises RenderError naming the template and what it could not find."""
        try:
            return self._template.render(text=text, id=id, source=source, metadata=metadata)
        except Exception as error:  # whatever a template does to one document must not stop the others
            raise RenderError(f"{self.name}: {type(error).__name__}: {error}") from error


def load_template(config: Synthesis, folder: Path) -> Template:
    """The template of a synthesis; its file is relative to `folder`. Raises ConfigError."""
    if config.template is not None:
        return Template(config.template, f"template of synthesis '{config.name}'")
    path = folder / config.template_file
    try:
        return Template(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"synthesis '{config.name}': template_file {path}: {error}") from None
