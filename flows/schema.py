"""JSON Schemas of the files that people write, so that an editor completes keys and marks mistakes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

FILES = {
    "recipe": ("curation.mix.recipe", "Recipe"),
    "pipeline": ("flows.pipeline", "Pipeline"),
    "profile": ("curation.rules.profile", "Profile"),
}


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a recipe, a pipeline or a profile file.

    It knows keys, types and units, not what depends on several keys. A file may take keys from its `base`, mapping
    by mapping; so only what stands in a list has keys that are required.
    """
    module, name = FILES[kind]
    model: type[BaseModel] = getattr(importlib.import_module(module), name)
    schema = model.model_json_schema()
    listed = set(_listed(schema))
    for name, definition in [("", schema), *schema.get("$defs", {}).items()]:
        if name not in listed:
            definition.pop("required", None)
    base = {"type": "string", "description": "A file, relative to this one, that gives what is not given here."}
    schema["properties"] = {"base": base, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"mixwright {kind}", **schema}


def _listed(node: Any) -> Iterator[str]:
    """The names of the definitions that are items of a list."""
    if isinstance(node, dict):
        if isinstance(items := node.get("items"), dict) and "$ref" in items:
            yield items["$ref"].rpartition("/")[2]
        for child in node.values():
            yield from _listed(child)
    elif isinstance(node, list):
        for child in node:
            yield from _listed(child)
