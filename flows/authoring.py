"""`mixwright new`: a recipe from the pools that are there, written to be read and changed by a person."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from pathlib import Path

import yaml

from curation.classify.settings import QUALITY
from curation.config import UNITS, ConfigError
from curation.files import read_json, write_bytes
from curation.mix.plan import Plan
from curation.mix.recipe import Kind, Recipe
from curation.mix.rows import RecipeError
from curation.mix.statistics import plan_statistics, read_statistics
from curation.schema import LENGTH_BUCKETS
from flows.planning import curated, plan_over
from flows.summary import human

TAKES = {
    "pretrain": ("text",),
    "midtrain": ("text", "chat"),
    "long-context": ("text",),
    "instruction": ("chat",),
    "preference": ("pairs",),
}
ABOUT = {
    "pretrain": "The base mix: text, each source by its size.",
    "midtrain": "The annealing mix: text, and chat as plain text.",
    "long-context": "Long documents, by length, and the midtraining mix again where there is one.",
    "instruction": "Instructions as chat. The loss is on the answers alone.",
    "preference": "Pairs of a better and a worse answer.",
}
SEQUENCE = {"pretrain": 8192, "midtrain": 8192, "long-context": 65536}
MAX_REPEATS = {"pretrain": 4, "midtrain": 4, "long-context": 2, "instruction": 2, "preference": 1}
REPLAY = Fraction(661, 1000)  # of Longmino's 50B mix (Olmo 3 report, table 11)
LONG = ("8K-16K", "4K-8K", "2K-4K", "1K-2K")  # documents at least so long, if they hold a tenth of the tokens
DIGITS = 4  # of a share
TRIES = 8  # budgets, each lower than the one before


@dataclass(frozen=True)
class Offer:
    """A source that a mix may take. `kind`: None where pool statistics do not say."""

    name: str
    kind: str | None
    type: str
    scored: bool  # has quality vigintiles
    held_out: bool = False  # the raw examples of tasks that no mix may hold


@dataclass(frozen=True)
class Pools:
    """What there is to mix, and how a recipe over it is planned."""

    told: str  # where they were found
    offers: Sequence[Offer]
    replay: tuple[str, int] | None  # a mix that long-context may take again, and its tokens
    by_length: bool  # whether lengths are known
    plan: Callable[[Recipe], Plan]
    pipeline: str | None = None  # as the recipe names it


@dataclass(frozen=True)
class Part:
    """A line to be: a source with what it may take of it, or a mix with no documents told."""

    name: str
    documents: int
    tokens: int
    offer: Offer | None = None
    lengths: tuple[str, ...] = ()


def of_pipeline(path: Path, workspace: Path, folder: Path) -> Pools:
    """The curated pools of a pipeline; the recipe will lie in `folder`. Raises ConfigError for none."""
    line = curated(path, workspace)
    held = line.pipeline.held_out_tasks()
    offers = [
        Offer(one.name, one.kind, one.type, QUALITY in line.pipeline.classified(one), one.name in held)
        for one in line.pipeline.catalogued
    ]
    built = [
        (name, int(read_json(output.folder / "mix.json")["totals"]["tokens"]))
        for kind in ("midtrain", "pretrain")
        for name, output in line.mixes.items()
        if line.recipes[name].kind == kind
    ]
    named = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return Pools(path.name, offers, next(iter(built), None), True, lambda recipe: plan_over(line, recipe), named)


def of_statistics(path: Path) -> Pools:
    """The pools of a file of pool statistics. Raises curation.mix.rows.RecipeError for one that is none."""
    frame = read_statistics(path)
    offers, replay = [], None
    for (name,), rows in frame.group_by("source", maintain_order=True):
        known = {key: rows[key].drop_nulls() for key in ("kind", "type", "vigintile") if key in rows.columns}
        first = {key: values[0] for key, values in known.items() if len(values)}
        if name.startswith("mix:"):
            replay = replay or (name.removeprefix("mix:"), int(rows["tokens"].sum()))
        else:
            offers.append(Offer(name, first.get("kind"), first.get("type", ""), "vigintile" in first))
    by_length = (
        "length_bucket" in frame.columns
        and not frame.filter(~frame["source"].str.starts_with("mix:") & frame["length_bucket"].is_null()).height
    )
    return Pools(path.name, offers, replay, by_length, lambda recipe: plan_statistics(recipe, frame))


def author(kind: Kind, pools: Pools, name: str) -> tuple[str, Plan]:
    """The text of a recipe of this kind, and its plan, which meets every line. Raises RecipeError for pools that
    hold nothing for it.
    """
    name = name if re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) else kind
    fitting = [one for one in pools.offers if one.kind in (None, *TAKES[kind]) and not one.held_out]
    parts = _parts(kind, pools, fitting)
    if not parts:
        there = ", ".join(f"{_comment(one.name)} ({_kind(one)})" for one in pools.offers)
        raise RecipeError(
            f"{pools.told}: no documents for a mix of kind {kind}, which takes {' and '.join(TAKES[kind])}; "
            f"there are {there or 'no sources'}"
        )
    if kind == "long-context" and pools.replay and pools.replay[0] != name and pools.replay[1]:
        parts.append(Part(pools.replay[0], 0, pools.replay[1]))
    taken = {part.name for part in parts if part.offer}
    others = [one for one in pools.offers if one.name not in taken]
    shares = _shares(parts)
    most = min(part.tokens / share for part, share in zip(parts, shares, strict=True))
    for _ in range(TRIES):
        text = "\n".join(_text(kind, name, pools, list(zip(parts, shares, strict=True)), others, most))
        planned = pools.plan(Recipe.model_validate(yaml.safe_load(text)))
        if not planned.problems:
            return text, planned
        most = _lower(planned, shares, most)
    raise RecipeError(f"{pools.told}: {planned.problems[0]}")


def _lower(planned: Plan, shares: Sequence[Fraction], most: Fraction) -> Fraction:
    """A budget below one that cannot be met: a mix gives no rows that other lines take, as only plans tell.
    A smaller budget takes fewer of them, so that it need not go below half.
    """
    short = [one for one in planned.problems if one.line is not None]
    met = (one.available_tokens / shares[int(one.line.split(".")[1])] for one in short)
    return max(min(met, default=Fraction(0)), most / 2)


def _parts(kind: Kind, pools: Pools, offers: Sequence[Offer]) -> list[Part]:
    """What a mix may take of each source, most tokens first, counted as the planner counts: as they are rendered,
    without what is held out."""
    if not offers:
        return []
    lengths = kind == "long-context" and pools.by_length
    lines = [{"source": one.name, "whole": True, **({"by": ["length"]} if lengths else {})} for one in offers]
    account = pools.plan(Recipe.model_validate({"kind": kind, "name": "all", "lines": lines})).account
    buckets = _long(account) if lengths else ()
    counted = []
    for offer in offers:
        own = [line for line in account if line["source"] == offer.name]
        own = [line for line in own if not buckets or line["bucket"] in buckets]
        there = tuple(bucket for bucket in buckets if any(line["bucket"] == bucket for line in own))
        documents, tokens = (sum(line[f"pool_{key}"] for line in own) for key in ("documents", "tokens"))
        counted.append(Part(offer.name, documents, tokens, offer, there))
    return sorted((part for part in counted if part.tokens), key=lambda part: (-part.tokens, part.name))


def _long(account: Sequence[dict]) -> tuple[str, ...]:
    """The length buckets that count as long here; all of them where no documents are."""
    total = sum(line["pool_tokens"] for line in account)
    for floor in LONG:
        buckets = LENGTH_BUCKETS[LENGTH_BUCKETS.index(floor) :]
        if sum(line["pool_tokens"] for line in account if line["bucket"] in buckets) * 10 >= total > 0:
            return buckets
    return LENGTH_BUCKETS


def _shares(parts: Sequence[Part]) -> list[Fraction]:
    """In proportion to tokens, as they will be written; the first takes what the others leave."""
    sources = [part for part in parts if part.offer]
    total = sum(part.tokens for part in sources)
    left = 1 - (REPLAY if len(sources) < len(parts) else 0)
    shares = [REPLAY if part.offer is None else _rounded(left * Fraction(part.tokens, total)) for part in parts]
    return [1 - sum(shares[1:]), *shares[1:]]


def _rounded(share: Fraction) -> Fraction:
    down = Context(prec=DIGITS, rounding=ROUND_FLOOR)
    return Fraction(down.divide(Decimal(share.numerator), Decimal(share.denominator)))


def _percent(share: Fraction) -> str:
    written = Decimal((share * 100).numerator) / Decimal((share * 100).denominator)
    return f"{format(written.normalize(), 'f')}%"


def _budget(most: Fraction) -> str:
    """In three digits, rounded down."""
    whole = max(math.floor(most), 1)
    digits = max(len(str(whole)) - 3, 0)
    number = whole // 10**digits * 10**digits
    unit = max((unit for unit in UNITS if number >= UNITS[unit]), key=UNITS.__getitem__)
    return f"{format((Decimal(number) / UNITS[unit]).normalize(), 'f')}{unit}"


def _text(
    kind: Kind,
    name: str,
    pools: Pools,
    parts: Sequence[tuple[Part, Fraction]],
    others: Sequence[Offer],
    most: Fraction,
) -> Iterator[str]:
    yield f"# {ABOUT[kind]}"
    yield f"# Written by mixwright new {kind} from the pools of {_comment(pools.told)}; yours to change."
    yield "# `mixwright plan RECIPE.yaml --watch` shows its account after each save."
    yield f"kind: {kind}"
    yield f"name: {name}"
    if pools.pipeline is not None:
        yield f"pipeline: {_scalar(pools.pipeline)}"
    yield "seed: 1"
    there = human(sum(part.tokens for part, _ in parts if part.offer))
    yield f"budget: {_budget(most)} # tokens; its sources hold {there}, and this takes none of them twice"
    if kind in SEQUENCE:
        yield f"sequence_length: {SEQUENCE[kind]} # of training: documents are counted in pieces of it"
    yield "# on_shortage: take_all # where a pool does not hold what its line asks for"
    if kind == "preference":
        yield "# pairs: {per_prompt: 4, max_length_difference: 400}"
    yield ""
    yield "lines:"
    for number, (part, share) in enumerate(parts):
        yield from _line(kind, part, share, number == 0 and len(parts) > 1)
    if others:
        yield "# not taken, since they are of another kind, are held out or hold nothing that fits:"
        yield from (f"#   {_comment(one.name)} ({_kind(one)})" for one in others)
    yield ""


def _line(kind: Kind, part: Part, share: Fraction, rest: bool) -> Iterator[str]:
    if part.offer is None:
        yield f"# the mix again, {human(part.tokens)} tokens: two thirds, as in Olmo 3's Longmino"
        yield f"- mix: {_scalar(part.name)}"
        yield f"  share: {_percent(share)}"
        return
    label = f"{_comment(part.offer.type)}: " if part.offer.type else ""
    plural = "" if part.documents == 1 else "s"
    yield f"# {label}{part.documents:,} document{plural}, {part.tokens:,} tokens"
    yield f"- source: {_scalar(part.name)}"
    if rest:
        yield f"  remainder: true # what the other lines leave: {float(share):.2%}"
    else:
        yield f"  share: {_percent(share)}"
    if part.lengths:
        yield f"  length: [{', '.join(map(_scalar, part.lengths))}]"
    yield f"  max_repeats: {MAX_REPEATS[kind]}{_why_repeats(kind) if rest else ''}"
    if part.offer.scored and kind == "pretrain":
        yield "  # upsample: {cut: 40%} # by quality: the worst 40% out, the best up to max_repeats times"
    if part.offer.scored and kind == "midtrain":
        yield "  # quality: {min_vigintile: 17} # the best fifth of its tokens alone"


def _why_repeats(kind: Kind) -> str:
    told = " # how often its pool may be taken at most"
    return told + ("; four epochs are about as good as new text" if MAX_REPEATS[kind] == 4 else "")


def _kind(offer: Offer) -> str:
    return "held out" if offer.held_out else offer.kind or "kind not known"


def _scalar(value: str) -> str:
    """A string as YAML on one line."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]


def _comment(value: str) -> str:
    """Text of the world outside in a comment: on one line, without codes."""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def require_free(path: Path) -> None:
    """Raise ConfigError if there is a file already."""
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: there is a file already; choose another name, or --force to write over it")


def save(path: Path, text: str, force: bool) -> None:
    """Write the recipe, over a file that is there only if forced. Raises ConfigError."""
    if not force:
        require_free(path)  # again: planning took its time
    write_bytes(path, text.encode())
