"""The line: the stations of a pipeline in order, each a call of a plain function. Knows no orchestrator.

A *job* is what can be run or scheduled by itself: ingest, curate, mix, train. A *stage* is one call of
`line.stage`: one task of the orchestrator, over all sources where it works source by source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from curation.catalog import catalog
from curation.classify.apply import classify
from curation.classify.models import Applied, given
from curation.classify.train import train_classifier, trained
from curation.decontaminate.station import decontaminate, index_benchmarks
from curation.dedup.exact import dedup_exact
from curation.dedup.fuzzy import dedup_fuzzy
from curation.dedup.lines import dedup_lines
from curation.dedup.substring import dedup_substring
from curation.derive.config import Derived
from curation.derive.instruct import instruct
from curation.derive.weave import weave
from curation.edits import edit_pool
from curation.encoder import limit_threads
from curation.heldout import CANDIDATES, candidates, heldout
from curation.ingest import Source, ingest
from curation.materialise import materialise
from curation.measure.remeasure import remeasure
from curation.measure.station import measure
from curation.mix.build import mix
from curation.mix.recipe import Recipe
from curation.rules.decide import decide
from curation.steps import Context, StepOutput
from curation.synthesis.config import Synthesis
from curation.synthesis.station import synthesise
from curation.tokens import count_tokens, train_tokenizer
from curation.transforms.count import transformed
from flows.pipeline import Pipeline, load_profiles
from training.station import evaluate, given_checkpoint, train

Result = TypeVar("Result")
Outputs = dict[str, StepOutput]
AnySource = Source | Synthesis | Derived
Stage = Callable[[str, Callable[[], Any]], Any]
JOBS = ("ingest", "curate", "mix", "train")


def direct(name: str, work: Callable[[], Result]) -> Result:
    """A stage without an orchestrator: the call itself."""
    return work()


@dataclass
class Line:
    """A pipeline about to run, and what its stations have given so far."""

    pipeline: Pipeline
    recipes: dict[str, Recipe]
    folder: Path  # of the pipeline file: profiles and recipes are relative to it
    context: Context
    stage: Stage = direct

    pools: Outputs = field(default_factory=dict)
    measured: Outputs = field(default_factory=dict)
    scored: Outputs = field(default_factory=dict)  # measurements whose texts no later station has changed
    decided: Outputs = field(default_factory=dict)
    ledgers: list[StepOutput] = field(default_factory=list)  # of all stages that decide
    tokenizer: StepOutput | None = None
    catalogs: Outputs = field(default_factory=dict)
    mixes: Outputs = field(default_factory=dict)
    data: Outputs = field(default_factory=dict)
    checkpoints: Outputs = field(default_factory=dict)
    evaluations: Outputs = field(default_factory=dict)

    def run(self, until: str = "train", goes_on: Callable[[Line, str], bool] = lambda line, job: True) -> None:
        """All jobs in order, up to and with `until`. `goes_on` is asked before each whether it is to be done."""
        for job in JOBS[: JOBS.index(until) + 1]:
            if goes_on(self, job):
                getattr(self, job)()

    def _at_once(self, *parts: Callable[[], None]) -> None:
        """Parts of the line of which none needs another: on one worker one after the other."""
        self.context.executor.each(lambda part: part(), parts)

    def _each_source(
        self, name: str, work: Callable[[str], StepOutput], sources: Sequence[AnySource] | None = None
    ) -> Outputs:
        """The largest pools first: what comes last is alone on its worker while the others have nothing left."""
        names = [source.name for source in self.pipeline.catalogued if sources is None or source in sources]
        pools = self.pools
        first = sorted(names, key=lambda one: pools[one].record["bytes"] if one in pools else 0, reverse=True)
        outputs = dict(zip(first, self.stage(name, lambda: self.context.executor.each(work, first)), strict=True))
        return {name: outputs[name] for name in names}

    def ingest(self) -> None:
        """Raw files to pools, and evaluation sets to the index by which they are searched for."""
        sources = {source.name: source for source in self.pipeline.sources}

        def ingest_each() -> None:
            self.pools = self._each_source(
                "ingest", lambda name: ingest(self.context, sources[name]), self.pipeline.sources
            )

        self._at_once(self._index_benchmarks, ingest_each)

    def curate(self) -> None:
        """Pools to catalogs: measure, decide, synthesise, dedup, trim, decontaminate, derive, count, score."""
        self._measure_and_decide(self.pipeline.sources)
        for synthesis in self.pipeline.synthesis:
            self._synthesise(synthesis)
            self._measure_and_decide([synthesis])
        self._deduplicate()
        self._trim()
        self._decontaminate()
        self._count_and_score()

    def _synthesise(self, config: Synthesis) -> None:
        """A model's documents, made of what rules kept: deduplication then sees all sources at once."""
        holdouts = {source.name: source.holdout for source in self.pipeline.all_sources}
        self.pools[config.name] = self.stage(
            f"synthesise/{config.name}",
            lambda: synthesise(
                self.context,
                config,
                self.pools,
                self.measured,
                list(self.decided.values()),
                holdouts=holdouts,
                seed=self.pipeline.seed,
                folder=self.folder,
            ),
        )

    def _measure_and_decide(self, sources: Sequence[Source | Synthesis]) -> None:
        """Measure, decide by the profiles, make the edits that they name: later stations read the edited pools."""
        context, pipeline = self.context, self.pipeline
        what = pipeline.measure.model_copy(update={"minhash": pipeline.dedup.scheme})
        profiles = load_profiles(pipeline, self.folder)
        by_name = {source.name: source for source in sources}
        self.measured |= self._each_source(
            "measure",
            lambda name: measure(
                context,
                self.pools[name],
                what,
                profiles[name].edits,
                self.folder,
                profiles[name],
                self._given(by_name[name]),
            ),
            sources,
        )
        self.scored |= {source.name: self.measured[source.name] for source in sources}
        edited = [source for source in sources if source.kind == "text" and profiles[source.name].edits]

        def apply_rules() -> None:
            self.decided |= self._each_source(
                "rules", lambda name: decide(context, self.measured[name], profiles[name]), sources
            )

        def edit() -> None:
            if edited:
                self.pools |= self._each_source(
                    "edit",
                    lambda name: edit_pool(context, f"edit/{name}", self.pools[name], self.measured[name]),
                    edited,
                )

        self._at_once(apply_rules, edit)

    def _deduplicate(self) -> None:
        context, settings = self.context, self.pipeline.dedup
        if settings.index is not None:
            settings = settings.model_copy(update={"index": self.folder / settings.index})
        exact = self.stage(
            "dedup-exact", lambda: dedup_exact(context, self.pools, self.measured, self.decided, settings)
        )
        before = [*self.decided.values(), exact]
        fuzzy = self.stage(
            "dedup-fuzzy", lambda: dedup_fuzzy(context, self.pools, self.measured, before, settings)
        )
        self.ledgers = [*before, fuzzy]

    def _trim(self) -> None:
        """Cut lines, then substrings, that are repeated: later stations read the trimmed pools."""
        settings = self.pipeline.dedup
        if settings.lines is not None:
            self._cut("dedup-lines", dedup_lines, settings.lines.sources, "trim-lines")
        if settings.substring is not None:
            self._cut("dedup-substring", dedup_substring, settings.substring.sources, "trim")

    def _cut(self, name: str, find: Callable[..., StepOutput], names: tuple[str, ...], station: str) -> None:
        """Find what is repeated in these sources of text, or all; write their pools without it; measure anew."""
        context, ledgers = self.context, self.ledgers
        sources = [one for one in self.pipeline.all_sources if one.kind == "text"]
        sources = [one for one in sources if one.name in names or not names]
        pools = {one.name: self.pools[one.name] for one in sources}
        measured = {one.name: self.measured[one.name] for one in sources}
        found = self.stage(name, lambda: find(context, pools, measured, ledgers, self.pipeline.dedup))
        self.ledgers = [*ledgers, found]
        self.scored = {one: output for one, output in self.scored.items() if one not in pools}
        self.pools |= self._each_source(
            station, lambda one: edit_pool(context, f"{station}/{one}", pools[one], found), sources
        )
        self.measured |= self._each_source(
            f"{station}-measure",
            lambda one: remeasure(
                context, f"{station}-measure/{one}", self.pools[one], measured[one], found, self.pipeline.measure
            ),
            sources,
        )

    def _index_benchmarks(self) -> None:
        settings = self.pipeline.decontaminate
        if settings is not None:
            kinds = {source.name: source.kind for source in self.pipeline.all_sources}
            self.stage("decontaminate-index", lambda: index_benchmarks(self.context, kinds, settings))

    def _decontaminate(self) -> None:
        settings = self.pipeline.decontaminate
        if settings is not None:
            before = self.ledgers
            found = self.stage(
                "decontaminate",
                lambda: decontaminate(self.context, self.pools, self.measured, before, settings),
            )
            self.ledgers = [*before, found]

    def _count_and_score(self) -> None:
        context, pipeline, ledgers = self.context, self.pipeline, self.ledgers
        limit_threads(context.executor.workers)
        before = dict(self.pools), dict(self.measured)  # a tokenizer learns from every text once
        tokens: Outputs = {}
        classes: Outputs = {}

        def count(name: str, sources: Sequence[AnySource]) -> None:
            counted = self._each_source(
                name, lambda one: count_tokens(context, self.pools[one], self.tokenizer), sources
            )
            tokens.update(counted)

        def train_and_count() -> None:
            self.tokenizer = self.stage(
                "tokenizer", lambda: train_tokenizer(context, *before, ledgers, pipeline.tokenizer)
            )
            count("tokens", pipeline.all_sources)

        def derive_and_classify() -> None:
            self._derive()
            classes.update(self._classify())

        self._at_once(train_and_count, derive_and_classify)
        if pipeline.derive:
            count("tokens-derived", pipeline.derive)
        sources = {source.name: source for source in pipeline.catalogued}
        self.catalogs = self._each_source(
            "catalog",
            lambda name: catalog(
                context,
                sources[name],
                self.pools[name],
                self.measured[name],
                ledgers,
                tokens[name],
                classes.get(name),
                pipeline.seed,
            ),
        )

    def _derive(self) -> None:
        """Sources made of what is left, each measured and, like its parents, dropped by nothing from here on."""
        if not self.pipeline.derive:
            return
        holdouts = {source.name: source.holdout for source in self.pipeline.all_sources}
        before = dict(self.pools), dict(self.measured)

        def derive(config: Derived) -> StepOutput:
            make = instruct if config.how == "templates" else weave
            return self.stage(
                f"derive/{config.name}",
                lambda: make(
                    self.context,
                    config,
                    *before,
                    self.ledgers,
                    holdouts=holdouts,
                    seed=self.pipeline.seed,
                    folder=self.folder,
                ),
            )

        made = self.context.executor.each(derive, self.pipeline.derive)
        self.pools |= {config.name: output for config, output in zip(self.pipeline.derive, made, strict=True)}
        found = self._each_source(
            "measure-derived",
            lambda name: measure(self.context, self.pools[name], self.pipeline.measure, folder=self.folder),
            self.pipeline.derive,
        )
        self.measured |= found
        self.scored |= found

    def _given(self, source: Source | Synthesis) -> list[Applied]:
        """The classifiers with a model of the user's that are applied to a source."""
        settings = self.pipeline.classifiers
        names = [name for name in self.pipeline.classified(source) if settings[name].model]
        return [given(name, settings[name], self.folder) for name in names]

    def _classify(self) -> Outputs:
        """Train the classifiers that are not given, and apply them: the steps `classify/<source>` by source."""
        context, pipeline, ledgers = self.context, self.pipeline, self.ledgers
        applied: dict[str, Applied] = {}
        for name, settings in pipeline.classifiers.items():
            if settings.model:
                applied[name] = given(name, settings, self.folder)
                continue
            model = self.stage(
                f"classifier/{name}",
                lambda name=name, settings=settings: train_classifier(
                    context, name, settings, self.pools, self.measured, ledgers
                ),
            )
            applied[name] = trained(name, settings, model)
        names = {source.name: pipeline.classified(source) for source in pipeline.catalogued}
        return self._each_source(
            "classify",
            lambda source: classify(
                context,
                self.pools[source],
                ledgers,
                [applied[one] for one in names[source]],
                self.scored.get(source),
            ),
            [source for source in pipeline.catalogued if names[source.name]],
        )

    def mix(self) -> None:
        """Catalogs to mixes, held-out sets and token data; nothing for a pipeline that only curates.

        What a mix is made into waits for that mix alone, a held-out set for all.
        """
        if not self.recipes:
            return
        counted: dict[str, Future[Outputs]] = {name: Future() for name in self.recipes}
        made: dict[str, Future[StepOutput]] = {name: Future() for name in self.recipes}

        def make(name: str) -> StepOutput:
            self.mixes[name] = self.mix_one(name, counted[name].result())
            return self.mixes[name]

        def materialise_each() -> None:
            for name, promised in made.items():
                self._materialise({name: promised.result()})

        def hold_out(kind: Literal["text", "pairs"]) -> None:
            """A held-out set, of which no document is near one of a mix."""
            over, settings = (self.context, kind, self.catalogs, self.pools), self.pipeline.heldout
            self.stage(f"{CANDIDATES}/{kind}", lambda: candidates(*over, settings))
            wait(made.values())
            if not any(promised.exception() for promised in made.values()):
                held = self.stage(f"heldout/{kind}", lambda: heldout(*over, self.mixes, settings))
                self._materialise({f"heldout-{kind}": held})

        # What waits stands after what it waits for: only so many parts begin at once.
        self._at_once(
            lambda: _fulfil(counted, lambda name: self.transformed(self.recipes[name])),
            lambda: _fulfil(made, make),
            materialise_each,
            lambda: hold_out("text"),
            lambda: hold_out("pairs"),
        )

    def _materialise(self, manifests: Outputs) -> None:
        for name, manifest in manifests.items():
            self.data[name] = self.stage(
                f"data/{name}",
                lambda name=name, manifest=manifest: materialise(
                    self.context, name, manifest, self.pools, self.tokenizer
                ),
            )

    def mix_one(self, name: str, counted: Outputs | None = None) -> StepOutput:
        """One mix, after those it takes rows from. `counted`: what `transformed` gives, if that has been asked."""
        recipe = self.recipes[name]
        parents = {parent: self.mixes[parent] for parent in recipe.parents()}
        counted = self.transformed(recipe) if counted is None else counted
        return self.stage(
            f"mix/{name}",
            lambda: mix(
                self.context,
                recipe,
                self.catalogs,
                self.pools,
                self.tokenizer,
                parents,
                self.types(),
                counted,
                self.measured,
            ),
        )

    def transformed(self, recipe: Recipe) -> Outputs:
        """The catalogs that count the documents under a recipe's transforms, by source."""
        return {
            source: self.stage(
                f"transform/{source}",
                lambda source=source, names=names: transformed(
                    self.context, source, self.catalogs[source], self.pools[source], self.tokenizer, names
                ),
            )
            for source, names in recipe.transforms().items()
            if source in self.catalogs
        }

    def types(self) -> dict[str, str]:
        """The type of each source, as the tables of the account show it."""
        return {source.name: source.type for source in self.pipeline.catalogued}

    def train(self) -> None:
        """Token data to checkpoints, each evaluated on the held-out sets."""
        for name, stage in self.pipeline.train.items():
            parent = self.checkpoints.get(stage.parent) if stage.parent else None
            if stage.checkpoint is not None:
                folder = self.folder / stage.checkpoint
                parent = self.stage(
                    f"given/{name}",
                    lambda name=name, folder=folder: given_checkpoint(self.context, name, folder, self.tokenizer),
                )
            self.checkpoints[name] = self.stage(
                f"train/{name}",
                lambda name=name, stage=stage, parent=parent: train(
                    self.context, name, self.data[stage.mix], self.tokenizer, parent, stage.config
                ),
            )
            self.evaluations[name] = self.stage(
                f"evaluate/{name}",
                lambda name=name, parent=parent: evaluate(
                    self.context,
                    name,
                    self.checkpoints[name],
                    self.tokenizer,
                    self.data["heldout-text"],
                    self.data["heldout-pairs"],
                    self.pipeline.evaluate,
                    parent,
                ),
            )


def _fulfil(promised: dict[str, Future[Result]], make: Callable[[str], Result]) -> None:
    """Make what is promised, in order. Where one fails, so do those after it."""
    try:
        for name, promise in promised.items():
            promise.set_result(make(name))
    except BaseException as error:
        for promise in promised.values():
            if not promise.done():
                promise.set_exception(error)
        raise
