"""The station of long documents with blocks woven in: each parent's text, whole, with CWE or REX blocks between.

A row of `woven.parquet` says of each block where it stands, what it was made of and who worded it; a document less
its blocks is its parent, to the character.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.chat import DOCUMENT_COLUMNS, plain_texts
from curation.config import ConfigError
from curation.derive import cwe, rex
from curation.derive.config import Cwe, Rex
from curation.derive.draws import Draws
from curation.files import file_hash, remove
from curation.keys import draw, key_of, keyed_hash
from curation.read.shards import ShardWriter
from curation.schema import DOCUMENT, QUARANTINE, document_id
from curation.shards import Picks, batches
from curation.steps import Build, Context, StepOutput, step
from curation.synthesis.generation import Completion, Generations, Generator, Request, answer_all
from curation.synthesis.select import choose_parents
from curation.synthesis.station import appended, decides_on, identity_of, open_generator

VERSION = 1
WINDOW_BYTES = 32 << 20  # of parents in memory at once, about

WOVEN = pa.schema(
    [
        ("id", pa.string()),  # of the made document
        ("parent_source", pa.string()),
        ("parent", pa.string()),
        ("start", pa.int64()),  # characters of the parent's text that the block is about
        ("end", pa.int64()),  # the block stands after these
        ("at", pa.int64()),  # the block's characters in the made document
        ("characters", pa.int64()),
        ("what", pa.string()),  # cwe, or the name of a vignette
        ("facts", pa.string()),  # JSON: {noun: count} of the questions, or {phrase: times}
        ("writer", pa.string()),  # null for our own words, else the model
        ("rejected", pa.string()),  # JSON list: why parts of the model's answer are not in it
    ]
)


@dataclass
class Slot:
    """A place for a block: after characters `start` to `end`. Either `own` writes it or a model that is asked."""

    start: int
    end: int
    what: str
    prompt: str
    own: Callable[[], tuple[str, dict[str, int]]]  # the block and its facts
    read: Callable[[str], tuple[str, dict[str, int], list[str]]]  # a response as block ("": none), facts, rejected
    text: str = ""
    facts: dict[str, int] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    writer: str | None = None


@dataclass
class Parent:
    source: str
    id: str
    text: str
    created: str | None
    slots: list[Slot]


def weave(
    ctx: Context,
    config: Cwe | Rex,
    pools: dict[str, StepOutput],
    measured: dict[str, StepOutput],
    ledgers: list[StepOutput],
    *,
    holdouts: dict[str, float],
    seed: int,
    folder: Path,
) -> StepOutput:
    """The step `ingest/<name>`: `shards/*.parquet` (DOCUMENT), `quarantine.parquet` (empty), `woven.parquet`.

    The arguments are those of `curation.synthesis.station.synthesise`. Counts are those of ingest: a parent of too
    few sections, or for which no block was made, is skipped for that reason. Raises ConfigError for a file of
    nouns, a model or a filter that cannot be used.
    """
    inputs = {f"ledger/{ledger.name}": ledger.content for ledger in ledgers if decides_on(ledger, config.parents)}
    for source in sorted(config.parents):
        inputs |= {f"pool/{source}": pools[source].content, f"measured/{source}": measured[source].content}
    literals = config.model_dump(
        mode="json", exclude={"nouns", "generator", "type", "holdout", "quality", "profile"}
    )
    literals |= {"seed": seed, "holdouts": {source: holdouts[source] for source in sorted(config.parents)}}
    identity = identity_of(ctx, config) if config.generator else None
    literals["generator"] = identity
    nouns = None
    if config.how == "cwe" and config.nouns is not None:
        path = folder / config.nouns
        if not path.is_file():
            raise ConfigError(f"'{config.name}': nouns {path}: no such file")
        inputs["nouns"] = file_hash(path)
        nouns = frozenset(path.read_text(encoding="utf-8").lower().split())

    def work(build: Build) -> None:
        picks = choose_parents(config, pools, measured, ledgers, holdouts, seed)
        with contextlib.ExitStack() as stack:
            generator = stack.enter_context(open_generator(config, identity)) if identity else None
            _work(build, config, nouns, generator, picks)

    return step(ctx, f"ingest/{config.name}", VERSION, literals, inputs, work)


def cwe_slots(config: Cwe, nouns: frozenset[str] | None, document: str, text: str) -> list[Slot]:
    """A slot a partition: questions about its commonest nouns."""
    slots = []
    for number, part in enumerate(cwe.counted(text, Draws(document, "cwe"), nouns)):
        draws = Draws(document, f"cwe/{number}")  # its own: a model's answers come in any order

        def own(part=part, draws=draws) -> tuple[str, dict[str, int]]:
            cards = cwe.written(part, config.questions, draws)
            return cwe.block(cards, draws), {card.noun: card.count for card in cards}

        def read(response: str, part=part, draws=draws) -> tuple[str, dict[str, int], list[str]]:
            cards, rejected = cwe.checked(part, response)
            cards = cards[: config.questions]
            return cwe.block(cards, draws), {card.noun: card.count for card in cards}, rejected

        slots.append(Slot(part.start, part.end, "cwe", cwe.prompt(part, text, config.questions), own, read))
    return slots


def rex_slots(config: Rex, document: str, text: str) -> list[Slot]:
    """Slots for so many vignettes as are drawn for the document, spread over its partitions."""
    draws = Draws(document, "rex")
    parts = rex.found(text, draws, config.snippets, config.excerpts)
    number = draws.between(*config.vignettes)
    slots = []
    for place, part in enumerate(parts):
        share = number // len(parts) + (place < number % len(parts))
        names = sorted(rex.REQUESTS if config.generator else rex.VIGNETTES)
        for name in draws.some(names, share):

            def own(part=part, name=name) -> tuple[str, dict[str, int]]:
                return rex.VIGNETTES[name](part, draws), {one.phrase: one.times for one in part.snippets}

            def read(response: str, part=part) -> tuple[str, dict[str, int], list[str]]:
                wrong = rex.checked(part, response)
                facts = {one.phrase: one.times for one in part.snippets}
                return ("", facts, [wrong]) if wrong else (response.strip(), facts, [])

            prompt = rex.prompt(part, name) if config.generator else ""
            slots.append(Slot(part.start, part.end, name, prompt, own, read))
    return slots


def woven(text: str, slots: list[Slot]) -> tuple[str, list[tuple[int, int]]]:
    """The text with the blocks of its slots, each between blank lines, and each block's place: (at, characters).

    The line breaks that set a block off belong to it.
    """
    parts, places, done, length = [], [], 0, 0
    for slot in slots:
        passed = text[done : slot.end]
        parts.append(passed)
        length += len(passed)
        before = "" if not length or passed.endswith(("\n\n", "\r\n\r\n")) or (not passed and places) else "\n\n"
        piece = f"{before}{slot.text}\n\n"
        parts.append(piece)
        places.append((length, len(piece)))
        length += len(piece)
        done = slot.end
    return "".join([*parts, text[done:]]), places


def _work(
    build: Build, config: Cwe | Rex, nouns: frozenset[str] | None, generator: Generator | None, picks: list[Picks]
) -> None:
    remove(build.folder / "shards")  # of an interrupted run
    sampling = config.sampling.model_dump(mode="json")
    cache = None
    if generator is not None:
        cache = Generations(build.context.workspace / "cache" / "generations", generator.identity, sampling)
    build.context.progress.begin(build.name, sum(len(one.rows) for one in picks))
    totals: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    with (
        ShardWriter(build.folder / "shards", config.name, DOCUMENT, config.shard_bytes) as shards,
        appended(build.folder / "quarantine.parquet", QUARANTINE),
        appended(build.folder / "woven.parquet", WOVEN) as audit,
    ):
        for parents in _windows(_parents(config, nouns, picks)):
            _fill(config, parents, generator, cache)
            for parent in parents:
                totals["bytes_in"] += len(parent.text.encode())
                totals["read"] += 1
                slots = [slot for slot in parent.slots if slot.text]
                totals["rejected"] += sum(len(slot.rejected) for slot in parent.slots)
                if not slots:
                    skipped["no block was right" if parent.slots else "too few sections"] += 1
                    continue
                row, rows, size = _row(config, parent, slots)
                shards.add(row, size)
                audit(rows)
                totals["documents"] += 1
                totals["bytes_text"] += size
                totals["blocks"] += len(slots)
            build.context.progress.advance(build.name, len(parents))
    build.counts = {
        "records_read": totals["read"],
        "documents_in": totals["read"],
        "documents_out": totals["documents"],
        "quarantined": 0,
        "skipped": sum(skipped.values()),
        "skipped_by_reason": dict(sorted(skipped.items())),
        "bytes_in": totals["bytes_in"],
        "bytes_text": totals["bytes_text"],
        "files": 0,
        "blocks": totals["blocks"],
        "rejected": totals["rejected"],
    }
    if not totals["documents"]:
        build.alarm(f"none of {totals['read']} parents gave a document: {dict(skipped) or 'there was none'}")


def _parents(config: Cwe | Rex, nouns: frozenset[str] | None, picks: list[Picks]) -> Iterator[Parent]:
    for chosen in picks:
        for _, table in batches(chosen.path, [*DOCUMENT_COLUMNS, "created"], chosen.rows):
            columns = table["id"].to_pylist(), plain_texts(table).to_pylist(), table["created"].to_pylist()
            for document, text, created in zip(*columns, strict=True):
                if config.how == "cwe":
                    slots = cwe_slots(config, nouns, document, text)
                else:
                    slots = rex_slots(config, document, text)
                yield Parent(chosen.source, document, text, created, slots)


def _windows(parents: Iterator[Parent]) -> Iterator[list[Parent]]:
    window: list[Parent] = []
    size = 0
    for parent in parents:
        window.append(parent)
        size += len(parent.text)
        if size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _fill(
    config: Cwe | Rex, parents: list[Parent], generator: Generator | None, cache: Generations | None
) -> None:
    """Write every slot's block, or let the model do it. A request that is not answered leaves its slot empty."""
    slots = [(parent, slot) for parent in parents for slot in parent.slots]
    if generator is None or cache is None:
        for _, slot in slots:
            slot.text, slot.facts = slot.own()
        return
    seeds: list[int | None] = [None] * len(slots)
    if config.sampling.temperature:
        hashes = keyed_hash(
            [parent.id for parent, _ in slots], key_of(config.sampling.seed, f"weave/{config.name}")
        )
        places = [place for parent in parents for place in range(len(parent.slots))]
        seeds = [draw(hashed, place) >> 33 for hashed, place in zip(hashes, places, strict=True)]  # 31 bits
    requests = [Request(slot.prompt, seed) for (_, slot), seed in zip(slots, seeds, strict=True)]
    for place, answer in answer_all(generator, cache, requests):
        slot = slots[place][1]
        slot.writer = generator.identity["model"]
        if isinstance(answer, Completion):
            slot.text, slot.facts, slot.rejected = slot.read(answer.text)
        else:
            slot.rejected = [answer.reason]


def _row(config: Cwe | Rex, parent: Parent, slots: list[Slot]) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """The DOCUMENT row of a parent with its blocks, the rows of WOVEN, the bytes of the text."""
    text, places = woven(parent.text, slots)
    content = text.encode()
    made = document_id(config.name, content)
    metadata = {"how": config.how, "parent": parent.id, "parent_source": parent.source, "blocks": len(slots)}
    if config.generator is not None:
        metadata["model"] = slots[0].writer
    row = {
        "id": made,
        "source": config.name,
        "text": text,
        "origin": f"{parent.source}#{parent.id}",
        "created": parent.created,
        "metadata": json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
    }
    rows = [
        {
            "id": made,
            "parent_source": parent.source,
            "parent": parent.id,
            "start": slot.start,
            "end": slot.end,
            "at": at,
            "characters": characters,
            "what": slot.what,
            "facts": json.dumps(slot.facts, ensure_ascii=False),
            "writer": slot.writer,
            "rejected": json.dumps(slot.rejected, ensure_ascii=False),
        }
        for slot, (at, characters) in zip(slots, places, strict=True)
    ]
    return row, rows, len(content)
