"""The station of a source that a model makes: parents to prompts to responses to a pool like any other.

Every answer is cached by content as soon as it is there, so a killed run asks again only for what was under way,
and a run over more parents asks only for the new ones. Rows lie in the parents' order (source, shard, row),
whatever the order of the answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.chat import DOCUMENT_COLUMNS, plain_texts
from curation.files import atomic, remove
from curation.keys import key_of, keyed_hash
from curation.read.record import SAMPLE, BadRecordError, Document
from curation.read.shards import ShardWriter
from curation.schema import DOCUMENT, QUARANTINE, document_id, messages_bytes
from curation.shards import Picks, batches
from curation.steps import Build, Context, StepOutput, step
from curation.synthesis.config import Synthesis
from curation.synthesis.generation import Answer, Completion, Failure, Generations, Generator, Request, answer_all
from curation.synthesis.parse import parse_response
from curation.synthesis.select import choose_parents
from curation.synthesis.template import RenderError, Template, load_template

VERSION = 1
WINDOW_ROWS = 1024  # prompts in memory at once, and
WINDOW_BYTES = 64 << 20  # about so many bytes of them

# What was asked for each parent and what came back, in the order of the parents.
PROMPTS = pa.schema(
    [
        ("id", pa.string()),  # of the document made from the response; null if it is in quarantine
        ("parent_source", pa.string()),
        ("parent", pa.string()),
        ("prompt_hash", pa.string()),  # SHA-256 of the prompt; null if the template could not be filled
        ("prompt", pa.large_string()),
        ("response", pa.large_string()),  # null if there was none
        ("finish", pa.string()),
    ]
)


@dataclass(frozen=True)
class Parent:
    """A document that a prompt is made from, and the prompt, or why there is none."""

    source: str
    id: str
    prompt: str | None
    error: str | None = None


def synthesise(
    ctx: Context,
    config: Synthesis,
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    *,
    holdouts: dict[str, float],
    seed: int,
    folder: Path,
) -> StepOutput:
    """The step `ingest/<name>`: `shards/*.parquet` (DOCUMENT), `quarantine.parquet`, `prompts.parquet` (PROMPTS).

    `pools`, `measured` and `ledgers` are those of the sources before it; `holdouts` and `seed` say which of their
    documents the catalog will hold out: those are no parents. `folder` is what template_file is relative to.
    Counts are those of `ingest`: records_read = documents_in (parents) = documents_out + quarantined + skipped.
    Raises ConfigError for a template, model folder, key or filter that cannot be used, before anything is asked.
    """
    template = load_template(config, folder)
    identity = identity_of(ctx, config)
    keep = {"kind", "name", "parents", "documents", "filter", "cut", "sampling", "parse"}
    literals = config.model_dump(mode="json", include={*keep, "keep_unfinished", "shard_bytes"})
    literals |= {"template": template.text, "generator": identity, "seed": seed}
    literals["holdouts"] = {source: holdouts[source] for source in sorted(config.parents)}
    inputs = {f"ledger/{ledger.name}": ledger.content for ledger in ledgers if decides_on(ledger, config.parents)}
    for source in sorted(config.parents):
        inputs |= {f"pool/{source}": pools[source].content, f"measured/{source}": measured[source].content}

    def work(build: Build) -> None:
        picks = choose_parents(config, pools, measured, ledgers, holdouts, seed)
        with open_generator(config, identity) as generator:
            _work(build, config, template, generator, picks)

    return step(ctx, f"ingest/{config.name}", VERSION, literals, inputs, work)


def open_generator(config: Synthesis, identity: dict[str, Any]) -> Generator:
    """The generator of a synthesis. A local model's libraries are imported here and not before."""
    if config.generator.kind == "endpoint":
        from curation.synthesis.endpoint import EndpointGenerator

        return EndpointGenerator(config.generator, config.sampling)
    from curation.synthesis.local import LocalGenerator

    return LocalGenerator(config.generator, config.sampling, identity)


def identity_of(ctx: Context, config: Synthesis) -> dict[str, Any]:
    if config.generator.kind == "endpoint":
        from curation.synthesis.endpoint import endpoint_identity

        return endpoint_identity(config.generator)
    from curation.synthesis.local import local_identity

    cache = ctx.workspace / "cache" / f"hashes-model-{config.name}.json"
    return local_identity(config.generator, cache, ctx.executor)


def decides_on(ledger: StepOutput, sources: tuple[str, ...]) -> bool:
    return any((ledger.folder / "ledger" / source).is_dir() for source in sources)


def _work(build: Build, config: Synthesis, template: Template, generator: Generator, picks: list[Picks]) -> None:
    remove(build.folder / "shards")  # of an interrupted run
    sampling = config.sampling.model_dump(mode="json")
    cache = Generations(build.context.workspace / "cache" / "generations", generator.identity, sampling)
    base_seed = key_of(config.sampling.seed, f"generate/{config.name}")
    provenance = {
        "model": generator.identity["model"],
        "sampling": sampling,
        "template": hashlib.sha256(template.text.encode()).hexdigest(),
    }
    if config.generator.kind == "endpoint":
        provenance["endpoint"] = config.generator.url
    chosen = sum(len(one.rows) for one in picks)
    build.context.progress.begin(build.name, chosen)
    totals: Counter[str] = Counter()
    with (
        ShardWriter(build.folder / "shards", config.name, DOCUMENT, config.shard_bytes) as shards,
        appended(build.folder / "quarantine.parquet", QUARANTINE) as quarantine,
        appended(build.folder / "prompts.parquet", PROMPTS) as prompts,
    ):
        for window in _windows(_parents(config, template, generator, picks)):
            answers = _answers(build, window, generator, cache, base_seed if config.sampling.temperature else None)
            troubles, asked = [], []
            for parent, answer in zip(window, answers, strict=True):
                totals["bytes_in"] += len((parent.prompt or "").encode())
                made = _document(config, parent, answer)
                row = None
                if isinstance(made, Failure):
                    totals["unanswered"] += isinstance(answer, Failure) and parent.prompt is not None
                    troubles.append(_trouble(config, parent, answer, made.reason))
                else:
                    row, size = _row(config, parent, answer, made, provenance)
                    shards.add(row, size)
                    totals["documents_out"] += 1
                    totals["bytes_text"] += size
                asked.append(_asked(parent, answer, row))
            totals["quarantined"] += len(troubles)
            quarantine(troubles)
            prompts(asked)
    read = totals["documents_out"] + totals["quarantined"]
    build.counts = {name: totals[name] for name in ("documents_out", "quarantined", "bytes_in", "bytes_text")}
    build.counts |= {"records_read": read, "documents_in": read, "skipped": 0, "skipped_by_reason": {}, "files": 0}
    if totals["quarantined"]:
        again = f"; {totals['unanswered']} had no answer and are asked again if this step's folder is removed"
        build.alarm(
            f"{totals['quarantined']} of {read} parents gave no document, see quarantine.parquet"
            + (again if totals["unanswered"] else "")
        )
    if not totals["documents_out"]:
        build.alarm(f"none of {read} parents gave a document")


@contextlib.contextmanager
def appended(path: Path, schema: pa.Schema):
    """A function that appends rows to a Parquet file, which is complete or absent."""
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema)) if rows else None


def _parents(config: Synthesis, template: Template, generator: Generator, picks: list[Picks]) -> Iterator[Parent]:
    """The chosen documents in the order of the pools, each with its prompt."""
    for chosen in picks:
        for _, table in batches(chosen.path, [*DOCUMENT_COLUMNS, "metadata"], chosen.rows):
            columns = table["id"].to_pylist(), plain_texts(table).to_pylist(), table["metadata"].to_pylist()
            for document, text, metadata in zip(*columns, strict=True):
                fields = json.loads(metadata or "{}")
                try:
                    prompt = template.render(_cut(config, generator, text), document, chosen.source, fields)
                except RenderError as error:
                    yield Parent(chosen.source, document, None, str(error))
                else:
                    yield Parent(chosen.source, document, prompt)


def _cut(config: Synthesis, generator: Generator, text: str) -> str:
    text = text[: config.cut.characters]
    return text if config.cut.tokens is None else generator.beginning(text, config.cut.tokens)


def _windows(parents: Iterator[Parent]) -> Iterator[list[Parent]]:
    """So many parents at a time as may be in memory. Which ones depends on the parents alone."""
    window: list[Parent] = []
    size = 0
    for parent in parents:
        window.append(parent)
        size += len(parent.prompt or "")
        if len(window) >= WINDOW_ROWS or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _answers(
    build: Build, window: list[Parent], generator: Generator, cache: Generations, seed_key: int | None
) -> list[Answer]:
    """An answer for each parent of a window. `seed_key`: of the documents' seeds, None where nothing is drawn."""
    answers: list[Answer] = [Failure(parent.error or "no answer") for parent in window]
    places = [place for place, parent in enumerate(window) if parent.prompt is not None]
    seeds: list[int | None] = [None] * len(places)
    if seed_key is not None:
        hashes = keyed_hash([window[place].id for place in places], seed_key)
        seeds = (hashes >> np.uint64(33)).tolist()  # 31 bits: what every server takes
    requests = [Request(window[place].prompt, seed) for place, seed in zip(places, seeds, strict=True)]
    build.context.progress.advance(build.name, len(window) - len(places))
    for number, answer in answer_all(generator, cache, requests):
        answers[places[number]] = answer
        build.context.progress.advance(build.name)
    return answers


def _document(config: Synthesis, parent: Parent, answer: Answer) -> Document | Failure:
    if isinstance(answer, Failure):
        return answer
    if answer.finish == "length" and not config.keep_unfinished:
        return Failure(f"the response was not finished at max_tokens ({config.sampling.max_tokens})")
    try:
        return parse_response(config, parent.prompt, answer.text)
    except BadRecordError as error:
        return Failure(f"unparsable response: {error}")


def _row(
    config: Synthesis, parent: Parent, answer: Completion, made: Document, provenance: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """The DOCUMENT row of a response, and the bytes of its text."""
    content = made.text.encode() if config.kind == "text" else messages_bytes(made.messages)
    parts = [made.text] if config.kind == "text" else [turn["content"] for turn in made.messages]
    metadata = provenance | {
        "parent": parent.id,
        "parent_source": parent.source,
        "prompt": _prompt_hash(parent),
        "finish": answer.finish,
    }
    said = {"endpoint_model": answer.model, "endpoint_fingerprint": answer.fingerprint}
    metadata |= {name: value for name, value in said.items() if value is not None}
    row = {
        "id": document_id(config.name, content),
        "source": config.name,
        "text": made.text,
        "messages": made.messages,
        "origin": _origin(parent),
        "metadata": json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
    }
    return row, sum(len(part.encode()) for part in parts)


def _origin(parent: Parent) -> str:
    return f"{parent.source}#{parent.id}"


def _prompt_hash(parent: Parent) -> str | None:
    return None if parent.prompt is None else hashlib.sha256(parent.prompt.encode()).hexdigest()


def _asked(parent: Parent, answer: Answer, row: dict[str, Any] | None) -> dict[str, Any]:
    said = isinstance(answer, Completion)
    return {
        "id": row["id"] if row else None,
        "parent_source": parent.source,
        "parent": parent.id,
        "prompt_hash": _prompt_hash(parent),
        "prompt": parent.prompt,
        "response": answer.text if said else None,
        "finish": answer.finish if said else None,
    }


def _trouble(config: Synthesis, parent: Parent, answer: Answer, reason: str) -> dict[str, Any]:
    sample = answer.text if isinstance(answer, Completion) else parent.prompt or ""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in sample[:SAMPLE])
    return {
        "source": config.name,
        "origin": _origin(parent),
        "offset": -1,
        "error": reason[:2000],
        "sample": "".join(escaped)[:SAMPLE],
    }
