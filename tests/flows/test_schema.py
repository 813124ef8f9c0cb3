"""The JSON Schemas hold for every file that comes with mixwright, and mark what is wrong in one."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from curation.rules.profile import PROFILES
from flows.schema import json_schema

MANIFESTS = Path(__file__).parents[2] / "manifests"


def kind_of(path: Path) -> str:
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    return "profile" if "rules" in keys else "recipe" if "kind" in keys else "pipeline"


TEMPLATES = MANIFESTS / "examples/question-answer.yaml"  # in promptsource's format, read by its own loader
FILES = sorted({*MANIFESTS.rglob("*.yaml"), *PROFILES.glob("*.yaml")} - {TEMPLATES})


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_that_loads_is_valid(path):
    schema = json_schema(kind_of(path))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("recipe", {"kind": "pretrain", "name": "a", "lines": [{"source": "web", "shares": "10%"}]}),
        ("recipe", {"kind": "pretraining", "name": "a", "lines": [{"source": "web", "whole": True}]}),
        ("pipeline", {"name": "a", "sauces": []}),
        ("profile", {"name": "a", "version": 1, "rules": [{"name": "short", "drop_bellow": 3}]}),
    ],
)
def test_a_mistake_is_marked(kind, file):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file, json_schema(kind))
