"""Line and paragraph deduplication against its definition in plain Python."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup.lines import dedup_lines
from curation.dedup.segments import find_segments, frequent_segments
from curation.dedup.settings import Dedup, Keep
from curation.dedup.shingles import words
from curation.dedup.trimming import Lines
from curation.ledger import ledger_path
from curation.measure.station import Measure, measure
from curation.schema import document_id
from tests.curation.cuts import outcome, pool_of

WHITE = " \t\n\v\f\r"
QUICK = Measure(minhash=None, language=None, gzip_prefix_bytes=0, groups=())


def pieces(text: str, unit: str) -> list[str]:
    """A text cut into lines with their newlines, or into paragraphs with the empty lines that follow them."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if unit == "line":
        return lines
    found, inside = [], False
    for line in lines:
        filled = bool(line.strip(WHITE))
        if not found or (filled and not inside):
            found.append("")
        inside = filled
        found[-1] += line
    return found


def key_of(piece: str, normalise: str) -> object:
    """What pieces are compared by; None for one that is never cut."""
    stripped = piece.strip(WHITE)
    return (tuple(words(stripped)) or None) if normalise == "words" else stripped


def by_definition(documents: list[tuple[str, str]], config: Lines) -> list[str | None]:
    """The texts after the cuts of (source, text), in the order of preference; None for a document dropped."""
    places = defaultdict(list)
    for number, (source, text) in enumerate(documents):
        for piece in pieces(text, config.unit):
            key = key_of(piece, config.normalise)
            if key is not None and len(piece.strip(WHITE).encode()) >= config.min_bytes:
                places[source if config.scope == "source" else "", key].append(number)
    amount = {
        key: len(numbers) if config.count == "occurrences" else len(set(numbers))
        for key, numbers in places.items()
    }
    result, keeper = [], {}
    for source, text in documents:
        kept, own = "", set()
        for piece in pieces(text, config.unit):
            key = (source if config.scope == "source" else "", key_of(piece, config.normalise))
            stays = amount.get(key, 0) <= config.repeats or len(piece.strip(WHITE).encode()) < config.min_bytes
            if not stays and config.keep == "first" and key not in keeper:
                stays = key not in own or config.count == "documents"
                own.add(key)
            kept += piece if stays else ""
        removed = len(text.encode()) - len(kept.encode())
        if removed > config.max_removed * len(text.encode()):
            result.append(None)
        else:
            result.append(kept)
            keeper |= dict.fromkeys(own)
    return result


LINES = [
    "Menu | Home | About us",
    "menu | home  about us ",
    "All rights reserved.",
    "  All rights reserved.\r",
    "x",
]
LINES += ["Écoute, voilà une ligne", "écoute voilà UNE ligne", "-------------------", "", " ", "the story goes on"]


@st.composite
def corpora(draw) -> list[tuple[str, str]]:
    line = st.sampled_from(LINES) | st.text("ab c\n", max_size=6)
    text = st.tuples(st.lists(line, max_size=8).map("\n".join), st.sampled_from(["", "\n"])).map("".join)
    texts = draw(st.lists(text, min_size=1, max_size=7))
    return [(draw(st.sampled_from(["books", "web"])), text) for text in texts]


SETTINGS = st.builds(
    Lines,
    unit=st.sampled_from(["line", "paragraph"]),
    repeats=st.integers(1, 3),
    count=st.sampled_from(["documents", "occurrences"]),
    scope=st.sampled_from(["source", "all"]),
    normalise=st.sampled_from(["none", "words"]),
    keep=st.sampled_from(["first", "none"]),
    min_bytes=st.sampled_from([1, 5, 20]),
    max_removed=st.sampled_from([0.3, 0.7, 1.0]),
)


def cut_by_kernels(documents: list[tuple[str, str]], config: Lines) -> list[str | None]:
    """The same by the kernels, with the rounds of the station."""
    found = []
    for number, (source, text) in enumerate(documents):
        raw = np.frombuffer(text.encode(), np.uint8)
        scope = len(source) if config.scope == "source" else 0
        choice = {"paragraphs": config.unit == "paragraph", "words": config.normalise == "words"}
        numbers = np.array([number], np.uint32)
        offsets = np.array([0, len(raw)])
        found.append(find_segments(raw, offsets, numbers, scope, **choice, min_bytes=config.min_bytes))
    entries, drop = np.concatenate(found), np.zeros(len(documents), bool)
    while True:
        runs = frequent_segments(
            entries,
            drop,
            config.repeats,
            occurrences=config.count == "occurrences",
            keep_first=config.keep == "first",
        )
        result, now = [], []
        for number, (_, text) in enumerate(documents):
            raw, spans = text.encode(), sorted(runs[runs["document"] == number][["start", "end"]].tolist())
            removed = sum(end - start for start, end in spans)
            for start, end in reversed(spans):
                raw = raw[:start] + raw[end:]
            now.append(removed > config.max_removed * len(text.encode()))
            result.append(None if now[-1] else raw.decode())
        if now == drop.tolist():
            return result
        drop = np.array(now)


@settings(max_examples=300, deadline=None)
@given(corpora(), SETTINGS)
def test_what_is_cut_is_what_the_definition_says(documents, config):
    assert cut_by_kernels(documents, config) == by_definition(documents, config)


def run_station(context, documents, lines, keep=(), shards=1, alarm_share=1):
    names = sorted({source for source, _ in documents})
    texts = {name: [text for source, text in documents if source == name] for name in names}
    pools = {name: pool_of(context, name, texts[name], shards) for name in names}
    measured = {name: measure(context, pool, QUICK) for name, pool in pools.items()}
    config = Dedup(lines=lines, keep=Keep(sources=keep, then=()), alarm_share=alarm_share)
    return pools, dedup_lines(context, pools, measured, [], config)


CORPUS = [
    (source, f"{LINES[0]}\n\nStory {number} of {source} is a long one, and it is told here.\n{LINES[2]}\n")
    for source, count in (("books", 3), ("web", 5))
    for number in range(count)
]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("scope", ["source", "all"])
def test_the_station_does_what_the_definition_says(context, scope, shards):
    config = Lines(repeats=3, scope=scope)
    pools, output = run_station(context, CORPUS, config, shards=shards)
    order = sorted(CORPUS, key=lambda one: document_id(one[0], one[1].encode()))
    expected = dict(zip(order, by_definition(order, config), strict=True))
    assert outcome(pools, output) == expected
    cut = [len(before) - len(text) for (_, before), text in expected.items()]
    assert sum(size > 0 for size in cut) == (4 if scope == "source" else 7)
    assert (output.counts["bytes_cut"], output.counts["documents_out"]) == (sum(cut), 8)


def test_the_line_stays_where_the_policy_prefers_it(context):
    pools, output = run_station(context, CORPUS, Lines(repeats=3, scope="all"), keep=("web",))
    kept = [source for (source, before), text in outcome(pools, output).items() if text == before]
    assert kept == ["web"]
    repeats = pq.read_table(output.folder / "repeats" / "books" / "books-0.parquet").to_pylist()
    assert {row["twin_source"] for row in repeats} == {"web"}


def test_pages_of_nothing_else_are_dropped(context):
    page = f"{LINES[0]}\n{LINES[2]}\n"
    documents = [("web", f"{page}{number}") for number in range(5)]
    _, output = run_station(context, documents, Lines(repeats=2), alarm_share=0.5)
    rows = pq.read_table(ledger_path(output.folder, "web", "web-0")).to_pylist()
    dropped = [row for row in rows if not row["keep"]]
    (kept,) = [row["id"] for row in rows if row["keep"]]
    assert {(row["rule"], row["stage"], row["threshold"], row["twin"]) for row in dropped} == {
        ("repeated_line_share", "lines", 0.8, kept)
    }
    assert any("'web' loses 4 of 5" in alarm for alarm in output.record["alarms"])
