"""The pipeline file: sources, how they are curated, which mixes are made of them, which models are trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from curation.classify.settings import QUALITY, TOPIC, Classifier
from curation.config import ConfigError, Share, Strict, load_config
from curation.decontaminate.settings import Decontaminate
from curation.dedup.settings import Dedup
from curation.derive.config import Derived
from curation.derive.tasks import PER_DOCUMENT
from curation.heldout import Heldout
from curation.ingest import Source
from curation.measure.station import Measure
from curation.mix.recipe import Recipe
from curation.mix.recipe import load_recipe as read_recipe
from curation.rules.profile import Profile, load_profile
from curation.synthesis.config import Synthesis
from curation.tokens import Tokenizer
from training.config import EvaluateConfig, TrainConfig, with_model_file


class MixEntry(Strict):
    """A mix of the pipeline: its recipe file, beside the pipeline's, and values to set in it."""

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)


class Stage(Strict):
    """A training stage: what it trains on, from which stage's checkpoint, and how."""

    mix: str
    parent: str | None = None
    checkpoint: str | None = None  # instead of a parent: a folder of transformers, relative to the pipeline file
    config: TrainConfig


class Retrain(Strict):
    """When a scheduled run trains anew: a mix that training uses has changed by this share of its tokens since the
    models were trained. Of the tokens that came and those that went the larger number counts."""

    min_changed: Share = Field(ge=0, le=1)


class OnFailure(Strict):
    """Whom a scheduled run tells that it failed. `command` is run without a shell; `webhook` is the *name* of the
    environment variable that holds the address, since an address is a secret and this file is not."""

    command: str | None = None
    webhook: str | None = Field(None, pattern=r"^[A-Z][A-Z0-9_]*$")


class Pipeline(Strict):
    """A pipeline file. `mixes` and `train` are in order: what an entry builds on comes before it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = 0
    sources: list[Source] = Field(min_length=1)
    synthesis: list[Synthesis] = Field(default_factory=list)  # sources that a model makes of those before
    derive: list[Derived] = Field(default_factory=list)  # sources made of what curation has kept
    measure: Measure = Field(default_factory=Measure)
    dedup: Dedup = Field(default_factory=Dedup)
    decontaminate: Decontaminate | None = None
    tokenizer: Tokenizer = Field(default_factory=Tokenizer)
    classifiers: dict[str, Classifier] = Field(default_factory=dict)  # quality and topic go into the catalog
    mixes: dict[str, MixEntry] = Field(default_factory=dict)
    heldout: Heldout = Field(default_factory=Heldout)
    train: dict[str, Stage] = Field(default_factory=dict)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    retrain: Retrain | None = None  # without it a scheduled run trains whenever a mix has changed
    on_failure: OnFailure = Field(default_factory=OnFailure)

    @model_validator(mode="after")
    def _names_resolve(self) -> Pipeline:
        names = [source.name for source in self.catalogued]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names must be unique; given twice: {', '.join(twice)}")
        known = {source.name for source in self.sources}
        for made in self.synthesis:
            if unknown := [parent for parent in made.parents if parent not in known]:
                raise ValueError(f"synthesis '{made.name}': from '{unknown[0]}', which is no source before it")
            known.add(made.name)
        for made in self.derive:
            if unknown := [parent for parent in made.parents if parent not in known]:
                raise ValueError(
                    f"derive '{made.name}': from '{unknown[0]}', which is no source of files or a model"
                )
        unknown = sorted(set(self.decontaminate.by_source) - set(names)) if self.decontaminate else []
        if unknown:
            raise ValueError(f"decontaminate.by_source: no source '{unknown[0]}' among {', '.join(names)}")
        texts = [source.name for source in self.all_sources if source.kind == "text"]
        for station in ("lines", "substring"):
            settings = getattr(self.dedup, station)
            if unknown := [name for name in (settings.sources if settings else ()) if name not in texts]:
                raise ValueError(
                    f"dedup.{station}.sources: no source '{unknown[0]}' of kind text among {', '.join(texts)}"
                )
        self._classifiers_resolve(names)
        if taken := [name for name in self.mixes if name.startswith("heldout")]:
            raise ValueError(f"mixes: '{taken[0]}' is a name of the held-out sets; choose another")
        before: set[str] = set()
        for name, stage in self.train.items():
            if stage.mix not in self.mixes:
                raise ValueError(f"train.{name}: mix '{stage.mix}' is not among {', '.join(self.mixes)}")
            if stage.parent is not None and stage.parent not in before:
                raise ValueError(f"train.{name}: parent '{stage.parent}' is not a stage before it")
            if [stage.parent, stage.checkpoint, stage.config.model].count(None) != 2:
                raise ValueError(f"train.{name}: give one of a parent, a checkpoint and config.model")
            before.add(name)
        return self

    def _classifiers_resolve(self, names: list[str]) -> None:
        for name, classifier in self.classifiers.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "id" or name.endswith("_label"):
                raise ValueError(f"classifiers: '{name}' is no name for a column; use letters, digits and _")
            where = [*classifier.sources, *classifier.training_sources()]
            if unknown := [source for source in where if source not in names]:
                raise ValueError(f"classifiers.{name}: no source '{unknown[0]}' among {', '.join(names)}")
        for name, scored in ((QUALITY, True), (TOPIC, False)):
            classifier = self.classifiers.get(name)
            if classifier and (classifier.score_label() is not None) != scored:
                raise ValueError(
                    f"classifiers.{name}: "
                    + ("name its `positive` label" if scored else "a topic has no `positive`")
                )

    def classified(self, source: Source | Synthesis | Derived) -> list[str]:
        """The classifiers that are applied to a source: those that name it; of those that name none all but
        `quality`, which the source itself asks for."""
        return [
            name
            for name, classifier in self.classifiers.items()
            if source.name in classifier.sources
            or (not classifier.sources and (source.quality if name == QUALITY else True))
        ]

    def held_out_tasks(self) -> dict[str, Derived]:
        """Sources of raw examples of tasks that are held out, and what holds them out: no mix takes them."""
        return {
            task.source: derived
            for derived in self.derive
            for task in (derived.tasks if derived.how == "templates" and derived.held_out else ())
            if task.cluster in derived.held_out or task.cluster.startswith(PER_DOCUMENT)
        }

    @property
    def all_sources(self) -> list[Source | Synthesis]:
        """The sources read from files, then those made by a model: what is measured, decided and deduplicated."""
        return [*self.sources, *self.synthesis]

    @property
    def catalogued(self) -> list[Source | Synthesis | Derived]:
        """All sources that a mix can take: those, and the derived ones."""
        return [*self.all_sources, *self.derive]


def load_pipeline(path: Path, overrides: list[str] | None = None) -> tuple[Pipeline, dict[str, Recipe]]:
    """A pipeline file and the recipes of its mixes, by mix name. Raises curation.config.ConfigError."""
    pipeline = load_config(path, Pipeline, overrides)
    for name, stage in pipeline.train.items():
        config = with_model_file(stage.config, path.parent)
        pipeline.train[name] = stage.model_copy(update={"config": config})
    recipes = {name: load_recipe(path, name, entry) for name, entry in pipeline.mixes.items()}
    _require_known(path, pipeline, recipes)
    return pipeline, recipes


def load_profiles(pipeline: Pipeline, folder: Path) -> dict[str, Profile]:
    """The rule profile of each source. A profile is one that ships with mixwright, or a file below `folder`."""
    names = {source.name: source.profile for source in pipeline.all_sources}
    loaded = {
        name: load_profile(folder / name if name.endswith((".yaml", ".yml")) else name)
        for name in dict.fromkeys(names.values())
    }
    return {source: loaded[name] for source, name in names.items()}


def _require_known(path: Path, pipeline: Pipeline, recipes: dict[str, Recipe]) -> None:
    """Raise ConfigError for a profile, a source or a mix that is not there: before any work, not after an hour."""
    load_profiles(pipeline, path.parent)
    sources = [source.name for source in pipeline.catalogued]
    before: list[str] = []
    for name, recipe in recipes.items():
        for kind, wanted, known in (("source", recipe.sources(), sources), ("mix", recipe.parents(), before)):
            if unknown := [one for one in wanted if one not in known]:
                raise ConfigError(
                    f"{path.parent / pipeline.mixes[name].recipe}: mix '{name}' takes from {kind} '{unknown[0]}', "
                    f"which the pipeline does not have before it; it has {', '.join(known) or 'none'}"
                )
        before.append(name)
        _require_held_out(path.parent / pipeline.mixes[name].recipe, pipeline, recipe)


def _require_held_out(path: Path, pipeline: Pipeline, recipe: Recipe) -> None:
    """Raise ConfigError for a recipe that takes the raw examples of a task whose cluster is held out."""
    for source, derived in pipeline.held_out_tasks().items():
        if source in recipe.sources():
            held = ", ".join(derived.held_out)
            raise ConfigError(
                f"{path}: mix '{recipe.name}' takes source '{source}', but '{derived.name}' holds out "
                f"clusters of its tasks ({held}): take '{derived.name}' instead"
            )


def load_recipe(pipeline_path: Path, name: str, entry: MixEntry) -> Recipe:
    settings = [f"{key}={_flow(value)}" for key, value in entry.set.items()]
    return read_recipe(pipeline_path.parent / entry.recipe, [*settings, f"name={name}"])


def as_settings(values: dict[str, Any], above: str = "") -> list[str]:
    """Nested values as the "dotted.key=value" strings that are laid over a file."""
    settings = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            settings += as_settings(value, f"{above}{key}.")
        else:
            settings.append(f"{above}{key}={_flow(value)}")
    return settings


def _flow(value: Any) -> str:
    """A value as YAML on one line, as an override takes it."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
