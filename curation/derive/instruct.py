"""The station of instructions: examples of tasks, filled into templates, as chat."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.classify.examples import metadata_value
from curation.derive.config import Tasks
from curation.derive.draws import Draws
from curation.derive.promptsource import RenderError, TaskTemplate, Templates
from curation.derive.tasks import PER_DOCUMENT, Task
from curation.files import file_hash, remove
from curation.keys import key_of, keyed_hash
from curation.read.record import SAMPLE
from curation.read.shards import ShardWriter
from curation.schema import DOCUMENT, QUARANTINE, document_id, messages_bytes, metadata_of
from curation.shards import Picks, batches
from curation.steps import Build, Context, StepOutput, step
from curation.synthesis.select import choose_parents
from curation.synthesis.station import appended, decides_on

VERSION = 1
BANK = 256  # examples of a task that exemplars are drawn from
FIELDS = "example"  # of the metadata: the raw example's fields

# What each task gave: the account of the mixture.
MIXTURE = pa.schema(
    [
        ("task", pa.string()),
        ("cluster", pa.string()),
        ("source", pa.string()),
        ("held_out", pa.bool_()),
        ("examples", pa.int64()),  # e_m: that curation kept
        ("used", pa.int64()),  # min(e_m, cap), by `each: all` of each template
        ("templates", pa.int64()),
        ("documents", pa.int64()),
        ("share", pa.float64()),  # of the documents that are not held out
    ]
)


@dataclass(frozen=True)
class Example:
    """A parent document, as what a template sees."""

    source: str
    id: str
    task: str
    cluster: str
    fields: dict[str, Any]


@dataclass
class Pool:
    """One task's examples: where they are, which come first, and the templates."""

    task: str
    cluster: str
    source: str
    templates: list[TaskTemplate]
    hashes: list[int]  # of the examples, sorted
    bank: list[Example]

    def limits(self, each: str, cap: int | None) -> dict[int, int]:
        """By template (-1: whichever is drawn): an example is used if its hash is at most this."""
        if each == "one":
            return {-1: self._bound(cap)}
        examples = len(self.hashes)
        share = None if cap is None or examples <= cap else max(1, cap // len(self.templates))
        return {place: self._bound(share) for place in range(len(self.templates))}

    def _bound(self, count: int | None) -> int:
        return self.hashes[-1] if count is None or count >= len(self.hashes) else self.hashes[count - 1]


def instruct(
    ctx: Context,
    config: Tasks,
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    *,
    holdouts: dict[str, float],
    seed: int,
    folder: Path,
) -> StepOutput:
    """The step `ingest/<name>`: `shards/*.parquet` (DOCUMENT), `quarantine.parquet`, `mixture.parquet` (MIXTURE).

    The arguments are those of `curation.synthesis.station.synthesise`. Counts are those of ingest, a record being
    an example under a template. Raises ConfigError for a file of templates or a filter that cannot be used.
    """
    templates = {task.source: Templates(folder / task.templates) for task in config.tasks}
    inputs = {f"ledger/{ledger.name}": ledger.content for ledger in ledgers if decides_on(ledger, config.parents)}
    for source in sorted(config.parents):
        inputs |= {f"pool/{source}": pools[source].content, f"measured/{source}": measured[source].content}
        inputs |= {f"templates/{source}": file_hash(templates[source].path)}
    literals = config.model_dump(mode="json", exclude={"type", "holdout", "quality", "profile"})
    literals["tasks"] = sorted((task.model_dump(exclude={"templates"}) for task in config.tasks), key=json.dumps)
    literals |= {"seed": seed, "holdouts": {source: holdouts[source] for source in sorted(config.parents)}}

    def work(build: Build) -> None:
        picks = choose_parents(config, pools, measured, ledgers, holdouts, seed)
        _work(build, config, templates, picks)

    return step(ctx, f"ingest/{config.name}", VERSION, literals, inputs, work)


def _work(build: Build, config: Tasks, templates: dict[str, Templates], picks: list[Picks]) -> None:
    remove(build.folder / "shards")  # of an interrupted run
    key = key_of(0, f"tasks/{config.name}")
    tasks = _survey(config, templates, picks, key)
    build.context.progress.begin(build.name, sum(len(one.rows) for one in picks))
    totals: Counter[str] = Counter()
    made: Counter[str] = Counter()
    with (
        ShardWriter(build.folder / "shards", config.name, DOCUMENT, config.shard_bytes) as shards,
        appended(build.folder / "quarantine.parquet", QUARANTINE) as quarantine,
    ):
        for examples in _examples(config, picks):
            for example, hashed in zip(examples, _hashes(examples, key), strict=True):
                totals["examples"] += 1
                pool = tasks[example.task]
                for place, bound in pool.limits(config.each, config.cap).items():
                    if hashed > bound:
                        totals["over the cap"] += 1
                        continue
                    try:
                        row, size = document(config, pool, example, place)
                    except RenderError as error:
                        quarantine([_trouble(config, example, str(error))])
                        totals["quarantined"] += 1
                        continue
                    if row is None:
                        totals["no template gives a target"] += 1
                        continue
                    shards.add(row, size)
                    made[example.task] += 1
                    totals["bytes_text"] += size
            build.context.progress.advance(build.name, len(examples))
    _account(build, config, tasks, made)
    skipped = {
        reason: totals[reason] for reason in ("no template gives a target", "over the cap") if totals[reason]
    }
    read = sum(made.values()) + totals["quarantined"] + sum(skipped.values())
    build.counts = {
        "records_read": read,
        "documents_in": read,
        "documents_out": sum(made.values()),
        "quarantined": totals["quarantined"],
        "skipped": sum(skipped.values()),
        "skipped_by_reason": skipped,
        "bytes_in": 0,
        "bytes_text": totals["bytes_text"],
        "files": 0,
        "examples": totals["examples"],
        "tasks": len(tasks),
    }
    if totals["quarantined"]:
        build.alarm(f"{totals['quarantined']} of {read} examples could not be filled in, see quarantine.parquet")
    if not made:
        build.alarm(f"none of {read} examples gave a document")


def _survey(config: Tasks, templates: dict[str, Templates], picks: list[Picks], key: int) -> dict[str, Pool]:
    """Every task with its examples' hashes and the first of them. One pass over the parents."""
    tasks: dict[str, Pool] = {}
    found: dict[str, list[int]] = defaultdict(list)
    for examples in _examples(config, picks):
        for example, hashed in zip(examples, _hashes(examples, key), strict=True):
            pool = tasks.get(example.task)
            if pool is None:
                every = templates[example.source].all
                pool = tasks[example.task] = Pool(example.task, example.cluster, example.source, every, [], [])
            if (pool.source, pool.cluster) != (example.source, example.cluster):
                raise ValueError(
                    f"'{config.name}': task '{example.task}' is of {pool.source}, cluster {pool.cluster}, and of "
                    f"{example.source}, cluster {example.cluster}; name the tasks apart"
                )
            found[example.task].append(hashed)
            pool.bank.append(example)
            if len(pool.bank) > 2 * BANK:
                pool.bank = _first(pool.bank, key)
    for name, pool in tasks.items():
        pool.hashes, pool.bank = sorted(found[name]), _first(pool.bank, key)
    return tasks


def _first(bank: list[Example], key: int) -> list[Example]:
    order = np.lexsort((np.array([one.id for one in bank]), keyed_hash([one.id for one in bank], key)))
    return [bank[place] for place in order[:BANK].tolist()]


def _hashes(examples: list[Example], key: int) -> list[int]:
    return keyed_hash([example.id for example in examples], key).tolist()


def _examples(config: Tasks, picks: list[Picks]) -> Iterator[list[Example]]:
    """The parents as examples, some at a time, in the order of the pools."""
    by_source = {task.source: task for task in config.tasks}
    for chosen in picks:
        task = by_source[chosen.source]
        for _, table in batches(chosen.path, ["id", "text", "messages", "metadata"], chosen.rows):
            yield [_example(task, row) for row in table.to_pylist()]


def _example(task: Task, row: dict[str, Any]) -> Example:
    def named(what: str) -> str:
        return metadata_value(row["metadata"], what) or "unknown" if what.startswith(PER_DOCUMENT) else what

    return Example(task.source, row["id"], named(task.task), named(task.cluster), fields_of(row))


def fields_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a template sees: the raw example where the reader kept it; else `text`, or `question` (all before the
    last turn) and `answer` (the last turn); and the document's `metadata`.
    """
    metadata = metadata_of(row["metadata"])
    if isinstance(metadata.get(FIELDS), dict):
        return metadata[FIELDS]
    if row["messages"] is None:
        return {"text": row["text"], "metadata": metadata}
    *before, last = row["messages"]
    question = "\n\n".join(turn["content"] for turn in before)
    return {"question": question, "answer": last["content"], "metadata": metadata}


def document(config: Tasks, pool: Pool, example: Example, place: int) -> tuple[dict[str, Any] | None, int]:
    """The DOCUMENT row of an example, and the bytes of its text; None where no template fits it.

    `place`: of its template; -1 for one that is drawn. Raises RenderError.
    """
    draws = Draws(example.id, f"template/{config.name}/{place}")
    shown = None if config.options is None else draws.below(1 << 32) < config.options * 2.0**32
    inverted = None if config.inverted is None else draws.below(1 << 32) < config.inverted * 2.0**32
    few = config.exemplars is not None and draws.below(1 << 32) < config.exemplars.rate * 2.0**32
    for template in _candidates(pool, place, shown, inverted, draws):
        asked = _ask(template, example, shown)
        if asked is None:
            continue
        parts, used = [], []
        if few and config.exemplars is not None:
            parts, used = _exemplars(config, pool, example, template, shown, draws)
        content = "\n\n".join([*parts, asked[0]])
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": asked[1]}]
        about = {
            "how": "templates",
            "parent": example.id,
            "parent_source": example.source,
            "task": example.task,
            "cluster": example.cluster,
            "template": template.name,
            "inverted": template.inverted,
            "options": asked[2],
            "exemplars": used,
        }
        row = {
            "id": document_id(config.name, messages_bytes(messages)),
            "source": config.name,
            "messages": messages,
            "origin": f"{example.source}#{example.id}",
            "metadata": json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
        }
        return row, len(content.encode()) + len(asked[1].encode())
    return None, 0


def _candidates(
    pool: Pool, place: int, shown: bool | None, inverted: bool | None, draws: Draws
) -> list[TaskTemplate]:
    """The templates in the order in which they are tried: of those that fit what was drawn, in random order."""
    if place >= 0:
        return [pool.templates[place]]
    fitting = pool.templates
    for wanted in (
        [template for template in fitting if inverted is None or template.inverted == inverted],
        [template for template in fitting if shown is not False or not template.shows_choices],
    ):
        both = [template for template in fitting if template in wanted]
        fitting = both or fitting  # a task without an inverted template is asked the right way round
    return draws.some(fitting, len(fitting))


def _ask(template: TaskTemplate, example: Example, shown: bool | None) -> tuple[str, str, bool] | None:
    """Input and target of an example, and whether the options stand in the input."""
    rendered = template.render(example.fields, Draws(example.id, f"choice/{template.id}"))
    if rendered is None:
        return None
    if shown and rendered.choices and not template.shows_choices:
        options = "\n".join(f"- {choice}" for choice in rendered.choices)
        return f"{rendered.input}\nOptions:\n{options}", rendered.target, True
    return rendered.input, rendered.target, template.shows_choices


def _exemplars(
    config: Tasks, pool: Pool, example: Example, template: TaskTemplate, shown: bool | None, draws: Draws
) -> tuple[list[str], list[str]]:
    """Solved examples of the same task under the same template, and their ids. None is the example itself."""
    settings = config.exemplars
    number = draws.between(1, settings.most)
    parts, used, left = [], [], settings.characters
    for other in draws.some(pool.bank, 2 * number + 1):
        if len(used) == number or other.fields == example.fields:
            continue
        solved = _ask(template, other, shown)
        if solved is not None and len(solved[0]) + len(solved[1]) + 1 <= left:
            parts.append(f"{solved[0]}\n{solved[1]}")
            used.append(other.id)
            left -= len(parts[-1])
    return parts, used


def _account(build: Build, config: Tasks, tasks: dict[str, Pool], made: Counter[str]) -> None:
    free = sum(count for name, count in made.items() if tasks[name].cluster not in config.held_out)
    rows = []
    for name, pool in sorted(tasks.items()):
        held = pool.cluster in config.held_out
        bounds = pool.limits(config.each, config.cap).values()
        used = int(np.searchsorted(np.array(pool.hashes, np.uint64), np.uint64(max(bounds)), side="right"))
        rows.append(
            {
                "task": name,
                "cluster": pool.cluster,
                "source": pool.source,
                "held_out": held,
                "examples": len(pool.hashes),
                "used": used,
                "templates": len(pool.templates),
                "documents": made[name],
                "share": 0.0 if held or not free else made[name] / free,
            }
        )
    build.write_table("mixture.parquet", pa.Table.from_pylist(rows, schema=MIXTURE))


def _trouble(config: Tasks, example: Example, reason: str) -> dict[str, Any]:
    sample = json.dumps(example.fields, ensure_ascii=True, default=str)[:SAMPLE]
    origin = f"{example.source}#{example.id}"
    return {"source": config.name, "origin": origin, "offset": -1, "error": reason[:2000], "sample": sample}
