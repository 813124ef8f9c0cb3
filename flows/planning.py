"""Plans and single mixes over pools that a pipeline has curated: what `plan`, `mix`, `verify` and `show` share."""

from __future__ import annotations

import contextlib
from pathlib import Path

from curation.config import ConfigError, read_yaml
from curation.mix.plan import Plan
from curation.mix.plan import plan as solve
from curation.mix.recipe import Recipe, load_recipe
from curation.mix.statistics import plan_statistics, read_statistics
from curation.steps import Context, StepMissingError, StepOutput
from flows.line import Line, Stage
from flows.pipeline import load_pipeline


def plan_recipe(path: Path, workspace: Path, settings: list[str]) -> Plan:
    """Solve a recipe over the catalogs of its pipeline. Raises ConfigError where those have not been built."""
    recipe, line = _open(path, settings, Context(workspace.resolve(), build=False))
    try:
        line.ingest()
        line.curate()
        for name in _ancestors(line, recipe):
            line.mixes[name] = line.mix_one(name)
    except StepMissingError as missing:
        raise ConfigError(f"{path}: {missing}. First: {_curate_command(path, recipe, workspace, 'mix')}") from None
    return plan_over(line, recipe)


def curated(path: Path, workspace: Path) -> Line:
    """The line of a pipeline file with its catalogs, and those of its mixes that are there, nothing built.

    Raises ConfigError where it has not been curated.
    """
    pipeline, recipes = load_pipeline(path)
    line = Line(pipeline, recipes, path.parent, Context(workspace.resolve(), build=False))
    try:
        line.ingest()
        line.curate()
    except StepMissingError as missing:
        command = f"mixwright run {path} --workspace {workspace} --until curate"
        raise ConfigError(f"{path}: {missing}. First: {command}") from None
    for name, recipe in recipes.items():
        with contextlib.suppress(StepMissingError):
            if all(parent in line.mixes for parent in recipe.parents()):
                line.mixes[name] = line.mix_one(name)
    return line


def plan_over(line: Line, recipe: Recipe) -> Plan:
    """Solve a recipe over a line that is curated and has the mixes that the recipe takes rows from."""
    line.context.build = True  # tokens under a transform that is new: counted for the plan, and kept for the mix
    counted = {**line.catalogs, **line.transformed(recipe)}
    catalogs = {name: output.folder / "catalog.parquet" for name, output in counted.items()}
    measured = {name: output.folder for name, output in line.measured.items()}
    parents = {name: line.mixes[name].folder for name in recipe.parents()}
    return solve(recipe, catalogs, parents, line.types(), measured)


def is_pipeline(path: Path) -> bool:
    """Whether a file is a pipeline's, not a mix's. Raises ConfigError for one that cannot be read."""
    return "sources" in read_yaml(path)[0]


def build_mix(path: Path, settings: list[str], context: Context, stage: Stage) -> StepOutput:
    """Build the manifest of a recipe, curating what has not been curated yet."""
    recipe, line = _open(path, settings, context)
    line.stage = stage
    line.ingest()
    line.curate()
    for name in _ancestors(line, recipe):
        line.mixes[name] = line.mix_one(name)
    line.recipes[recipe.name] = recipe
    return line.mix_one(recipe.name)


def _open(path: Path, settings: list[str], context: Context) -> tuple[Recipe, Line]:
    """A recipe and the line of the pipeline that it names. A pipeline's own settings of the mix apply, too."""
    recipe = load_recipe(path, settings)
    if recipe.pipeline is None:
        raise ConfigError(f"{path}: key 'pipeline' is missing: the pipeline file whose pools the mix is made of")
    pipeline_path = path.parent / recipe.pipeline
    pipeline, recipes = load_pipeline(pipeline_path)
    return recipe, Line(pipeline, recipes, pipeline_path.parent, context)


def _ancestors(line: Line, recipe: Recipe) -> list[str]:
    """The mixes that a recipe takes rows from, directly or not, parents first."""
    found: list[str] = []
    for parent in recipe.parents():
        if parent not in line.recipes:
            raise ConfigError(f"mix '{parent}' is not in the pipeline; it has {', '.join(line.recipes)}")
        found += [name for name in (*_ancestors(line, line.recipes[parent]), parent) if name not in found]
    return found


def _curate_command(path: Path, recipe: Recipe, workspace: Path, until: str) -> str:
    return f"mixwright run {path.parent / str(recipe.pipeline)} --workspace {workspace} --until {until}"


def plan_pools(path: Path, settings: list[str], pool: Path) -> Plan:
    """Solve a recipe over pool statistics alone: no workspace, no documents."""
    return plan_statistics(load_recipe(path, settings), read_statistics(pool))
