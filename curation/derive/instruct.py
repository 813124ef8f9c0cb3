"""The station of instructions: examples of tasks, filled into templates, as chat."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.classify.examples import metadata_value
from curation.derive.config import Tasks
from curation.derive.draws import Draws
from curation.derive.promptsource import RenderError, TaskTemplate, Templates
from curation.derive.tasks import PER_DOCUMENT, Task
from curation.files import file_hash, open_parquet, remove
from curation.keys import key_of, keyed_hash
from curation.read.record import SAMPLE
from curation.read.shards import ShardWriter
from curation.schema import DOCUMENT, QUARANTINE, document_id, messages_bytes, metadata_of
from curation.shards import BATCH_ROWS, Picks, batches
from curation.steps import UNITS, Build, Context, StepOutput, step
from curation.synthesis.select import choose_parents
from curation.synthesis.station import appended, decides_on

VERSION = 1
BANK = 256  # examples of a task that exemplars are drawn from
PARTS = "parts"  # a folder a source, until they are shards
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
        _work(build, config, folder, choose_parents(config, pools, measured, ledgers, holdouts, seed))

    return step(ctx, f"ingest/{config.name}", VERSION, literals, inputs, work)


def _work(build: Build, config: Tasks, folder: Path, picks: list[Picks]) -> None:
    """A unit a source, in a process: templates are Python. What they made is joined in the sources' order."""
    remove(build.folder / "shards")  # of an interrupted run
    build.scratch(PARTS)
    by_source: dict[str, list[Picks]] = {}
    for chosen in picks:
        by_source.setdefault(chosen.source, []).append(chosen)
    units = {source: (config, folder, chosen) for source, chosen in by_source.items()}
    found = build.map(_fill, units, "processes")
    tasks: dict[str, dict[str, Any]] = {}
    for source in units:
        for one in found[source]["tasks"]:
            _require_one_task(config, tasks.setdefault(one["task"], one), one)
    totals: Counter[str] = Counter()
    with (
        ShardWriter(build.folder / "shards", config.name, DOCUMENT, config.shard_bytes) as shards,
        appended(build.folder / "quarantine.parquet", QUARANTINE) as quarantine,
    ):
        for source in units:
            totals.update(found[source]["totals"])
            for row in chain.from_iterable(_rows(build.folder / PARTS / source / "documents.parquet")):
                size = sum(len(turn["content"].encode()) for turn in row["messages"])
                shards.add(row, size)
                totals["bytes_text"] += size
            for rows in _rows(build.folder / PARTS / source / "quarantine.parquet"):
                quarantine(rows)
    remove(build.folder / UNITS)  # first: a unit that it calls done must have its documents
    remove(build.folder / PARTS)
    _account(build, config, tasks)
    made = sum(task["documents"] for task in tasks.values())
    skipped = {
        reason: totals[reason] for reason in ("no template gives a target", "over the cap") if totals[reason]
    }
    read = made + totals["quarantined"] + sum(skipped.values())
    build.counts = {
        "records_read": read,
        "documents_in": read,
        "documents_out": made,
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


def _fill(folder: Path, source: str, config: Tasks, templates: Path, picks: list[Picks]) -> dict[str, Any]:
    """The documents of a source's examples, `documents.parquet`, and those that could not be made; what its tasks
    gave."""
    task = next(task for task in config.tasks if task.source == source)
    key = key_of(0, f"tasks/{config.name}")
    tasks = _survey(config, task, Templates(templates / task.templates), picks, key)
    totals: Counter[str] = Counter()
    made: Counter[str] = Counter()
    with (
        appended(folder / PARTS / source / "documents.parquet", DOCUMENT) as documents,
        appended(folder / PARTS / source / "quarantine.parquet", QUARANTINE) as quarantine,
    ):
        for examples in _examples(task, picks):
            rows = []
            for example, hashed in zip(examples, _hashes(examples, key), strict=True):
                totals["examples"] += 1
                pool = tasks[example.task]
                for place, bound in pool.limits(config.each, config.cap).items():
                    if hashed > bound:
                        totals["over the cap"] += 1
                        continue
                    try:
                        row = document(config, pool, example, place)
                    except RenderError as error:
                        quarantine([_trouble(config, example, str(error))])
                        totals["quarantined"] += 1
                        continue
                    if row is None:
                        totals["no template gives a target"] += 1
                        continue
                    rows.append(row)
                    made[example.task] += 1
            documents(rows)
    return {"totals": totals, "tasks": [_given(config, pool, made[name]) for name, pool in sorted(tasks.items())]}


def _rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    with open_parquet(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
            yield batch.to_pylist()


def _survey(config: Tasks, task: Task, templates: Templates, picks: list[Picks], key: int) -> dict[str, Pool]:
    """Every task of a source with its examples' hashes and the first of them. One pass over the parents."""
    tasks: dict[str, Pool] = {}
    found: dict[str, list[int]] = defaultdict(list)
    for examples in _examples(task, picks):
        for example, hashed in zip(examples, _hashes(examples, key), strict=True):
            pool = tasks.get(example.task)
            if pool is None:
                pool = Pool(example.task, example.cluster, example.source, templates.all, [], [])
                tasks[example.task] = pool
            _require_one_task(config, vars(pool), vars(example))
            found[example.task].append(hashed)
            pool.bank.append(example)
            if len(pool.bank) > 2 * BANK:
                pool.bank = _first(pool.bank, key)
    for name, pool in tasks.items():
        pool.hashes, pool.bank = sorted(found[name]), _first(pool.bank, key)
    return tasks


def _require_one_task(config: Tasks, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises ValueError for tasks of one name from two sources or of two clusters."""
    if (one["source"], one["cluster"]) != (other["source"], other["cluster"]):
        raise ValueError(
            f"'{config.name}': task '{one['task']}' is of {one['source']}, cluster {one['cluster']}, and of "
            f"{other['source']}, cluster {other['cluster']}; name the tasks apart"
        )


def _first(bank: list[Example], key: int) -> list[Example]:
    order = np.lexsort((np.array([one.id for one in bank]), keyed_hash([one.id for one in bank], key)))
    return [bank[place] for place in order[:BANK].tolist()]


def _hashes(examples: list[Example], key: int) -> list[int]:
    return keyed_hash([example.id for example in examples], key).tolist()


def _examples(task: Task, picks: list[Picks]) -> Iterator[list[Example]]:
    """The parents of a source as examples, some at a time, in the order of its pool."""
    for chosen in picks:
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


def document(config: Tasks, pool: Pool, example: Example, place: int) -> dict[str, Any] | None:
    """The DOCUMENT row of an example; None where no template fits it.

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
        return {
            "id": document_id(config.name, messages_bytes(messages)),
            "source": config.name,
            "messages": messages,
            "origin": f"{example.source}#{example.id}",
            "metadata": json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
        }
    return None


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


def _given(config: Tasks, pool: Pool, documents: int) -> dict[str, Any]:
    """A row of MIXTURE, but for the share."""
    bounds = pool.limits(config.each, config.cap).values()
    used = np.searchsorted(np.array(pool.hashes, np.uint64), np.uint64(max(bounds)), side="right")
    return {
        "task": pool.task,
        "cluster": pool.cluster,
        "source": pool.source,
        "held_out": pool.cluster in config.held_out,
        "examples": len(pool.hashes),
        "used": int(used),
        "templates": len(pool.templates),
        "documents": documents,
    }


def _account(build: Build, config: Tasks, tasks: dict[str, dict[str, Any]]) -> None:
    rows = [task for _, task in sorted(tasks.items())]
    free = sum(task["documents"] for task in rows if not task["held_out"])
    for task in rows:
        task["share"] = 0.0 if task["held_out"] or not free else task["documents"] / free
    build.write_table("mixture.parquet", pa.Table.from_pylist(rows, schema=MIXTURE))


def _trouble(config: Tasks, example: Example, reason: str) -> dict[str, Any]:
    sample = json.dumps(example.fields, ensure_ascii=True, default=str)[:SAMPLE]
    origin = f"{example.source}#{example.id}"
    return {"source": config.name, "origin": origin, "offset": -1, "error": reason[:2000], "sample": sample}
