"""Substring deduplication against brute force, against a suffix array, and as a station."""

from __future__ import annotations

import itertools
import random
from pydoc_data.topics import topics

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup import anchors, cuts, texts, windows
from curation.dedup.settings import Dedup, Keep
from curation.dedup.spans import SPAN, bridge, join, lengths_by, snap
from curation.dedup.substring import dedup_substring
from curation.dedup.trimming import Substring
from curation.edits import edit_pool, edits_path
from curation.executor import LocalExecutor
from curation.ledger import ledger_path
from curation.measure.station import Measure, measure
from curation.steps import Context, step
from tests.curation.cuts import outcome, pool_of

QUICK = Measure(minhash=None, language=None, gzip_prefix_bytes=0, groups=())


def brute_force(texts: list[bytes], length: int, dropped: list[bool]) -> list[np.ndarray]:
    """Every window against every one before it, by definition: which bytes of each text are repeated."""
    first: dict[bytes, tuple[int, int]] = {}
    covered = [np.zeros(len(text), bool) for text in texts]
    for document, text in enumerate(texts):
        for place in range(len(text) - length + 1):
            window = text[place : place + length]
            other, other_place = first.get(window, (None, 0))
            if other is None or (dropped[other] and other != document):
                first[window] = (document, place)
            elif other != document or other_place + length <= place:
                covered[document][place : place + length] = True
    return covered


def found(texts, length, dropped=None, at_once=windows.AT_ONCE, find=anchors.find_anchors) -> np.ndarray:
    """The runs of texts by the kernels, the entries in the order in which a partition has them."""
    data = np.frombuffer(b"".join(texts), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    entries = find(data, offsets, np.arange(len(texts), dtype=np.uint32), length)
    entries = entries[np.lexsort((entries["place"], entries["document"], entries["key"]))]
    dropped = np.array(dropped if dropped is not None else [False] * len(texts), bool)
    return windows.repeated_windows(entries, data, offsets, dropped, length, at_once)


def covered_by(runs: np.ndarray, texts: list[bytes]) -> list[np.ndarray]:
    covered = [np.zeros(len(text), bool) for text in texts]
    for document, start, end, *_ in runs.tolist():
        covered[document][start:end] = True
    return covered


def agree(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def few_letters(least: int, most: int) -> st.SearchStrategy[bytes]:
    return st.text("ab", min_size=least, max_size=most).map(str.encode)


@st.composite
def repetitive(draw) -> list[bytes]:
    """Texts put together of the same few parts: repeats within, across, overlapping, periodic."""
    parts = draw(st.lists(few_letters(1, 30) | st.binary(min_size=1, max_size=30), min_size=1, max_size=4))
    text = st.lists(st.sampled_from(parts), max_size=6).map(b"".join)
    return draw(st.lists(text, min_size=1, max_size=6))


@settings(max_examples=150, deadline=None)
@given(repetitive(), st.integers(1, 24), st.sampled_from([1, 3, 50, windows.AT_ONCE]), st.randoms())
def test_what_is_found_is_what_brute_force_finds(texts, length, at_once, generator):
    dropped = [generator.random() < 0.2 for _ in texts]
    runs = found(texts, length, dropped, at_once)
    assert agree(covered_by(runs, texts), brute_force(texts, length, dropped))
    for document, start, end, twin, twin_start in runs.tolist():
        assert texts[document][start:end] == texts[twin][twin_start : twin_start + end - start]
        assert (twin, twin_start) < (document, start)
        assert not dropped[twin] or twin == document


def test_an_anchor_that_depends_on_its_place_would_be_noticed():
    """The planted twin: anchors at every tenth byte, where the text's content says nothing."""

    def aligned(data, offsets, numbers, length):
        entries = anchors.find_anchors(data, offsets, numbers, length)
        return entries[entries["place"] % 10 == 0]

    generator = random.Random(1)
    shared = generator.randbytes(60)
    texts = [generator.randbytes(number) + shared for number in range(20)]
    expected = brute_force(texts, 40, [False] * 20)
    assert agree(covered_by(found(texts, 40), texts), expected)
    assert not agree(covered_by(found(texts, 40, find=aligned), texts), expected)


def test_equal_hashes_of_different_bytes_are_no_repeat():
    """Thue-Morse strings collide under every rolling hash modulo 2^64: only a comparison tells them apart."""
    word = b"a"
    while len(word) < 4096:
        word += word.translate(bytes.maketrans(b"ab", b"ba"))
    other = word.translate(bytes.maketrans(b"ab", b"ba"))
    texts = [word, other, word]
    runs = found(texts, 4096)
    assert [(run["document"], run["twin"]) for run in runs] == [(2, 0)]
    rolled = [0, 0]
    for one, another in zip(word, other, strict=True):
        for place, byte in enumerate((one, another)):
            rolled[place] = (rolled[place] * anchors.BASE + (byte + 1) * 0x9E3779B97F4A7C15) % (1 << 64)
    assert rolled[0] == rolled[1]


def suffix_array_repeats(texts: list[bytes], length: int) -> list[np.ndarray]:
    """Repeats from a sorted list of all suffixes: neighbours with a common prefix of `length` are one group."""
    joined = b"".join(texts)
    ends = np.cumsum([len(text) for text in texts])
    limit = np.repeat(ends, [len(text) for text in texts])
    starts = [place for place in range(len(joined)) if place + length <= limit[place]]
    starts.sort(key=lambda place: joined[place : place + length])
    covered, group = np.zeros(len(joined), bool), []
    for place in [*starts, None]:
        same = (
            group and place is not None and joined[place : place + length] == joined[group[0] : group[0] + length]
        )
        if group and not same:
            first = min(group)
            for later in group:
                if later != first and (limit[later] != limit[first] or first + length <= later):
                    covered[later : later + length] = True
            group = []
        if place is not None:
            group.append(place)
    return np.split(covered, ends[:-1])


def test_a_suffix_array_finds_the_same_in_real_text():
    texts = [text.encode() for _, text in sorted(topics.items())][:40]
    texts.append(texts[3][50:2000] + texts[8][100:900])
    expected = suffix_array_repeats(texts, 100)
    assert 1000 < sum(part.sum() for part in expected) < sum(map(len, texts)) // 2
    assert agree(covered_by(found(texts, 100), texts), expected)


@st.composite
def span_lists(draw) -> np.ndarray:
    rows = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 20)), max_size=12))
    spans = np.array([(document, start, start + size) for document, start, size in sorted(rows)], SPAN)
    return spans if len(spans) else np.zeros(0, SPAN)


def bytes_of(spans: np.ndarray) -> set[tuple[int, int]]:
    return {(document, byte) for document, start, end in spans.tolist() for byte in range(start, end)}


def bridged(spans: list[tuple[int, int]], share: float) -> list[tuple[int, int]]:
    """Olmo's greedy merge of one document's spans from left to right."""
    out, covered = [], 0
    for start, end in spans:
        if out and covered + end - start >= share * (end - out[-1][0]):
            out[-1], covered = (out[-1][0], end), covered + end - start
        else:
            out.append((start, end))
            covered = end - start
    return out


@settings(max_examples=150, deadline=None)
@given(span_lists(), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_joining_and_bridging(runs, share):
    joined = join(runs)
    assert bytes_of(joined) == bytes_of(runs)
    assert all(a[2] < b[1] or a[0] < b[0] for a, b in itertools.pairwise(joined.tolist()))
    expected = set()
    for document in range(3):
        spans = [(start, end) for which, start, end in joined.tolist() if which == document]
        mirrored = [(-end, -start) for start, end in reversed(spans)]
        both = bridged(spans, share) + [(-end, -start) for start, end in bridged(mirrored, share)]
        expected |= {(document, byte) for start, end in both for byte in range(start, end)}
    assert bytes_of(bridge(joined, share)) == expected
    assert lengths_by(joined, 3).sum() == len(bytes_of(runs))


@settings(max_examples=200, deadline=None)
@given(st.text("aé語😀 \n", max_size=60), st.data())
def test_snapping_only_shortens_to_good_bounds(text, data):
    raw = text.encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, len(raw)))
    spans = np.array([(0, start, end)] if start < end else [], SPAN)
    for to in ("none", "word", "line"):
        for _, begin, stop in snap(spans, np.frombuffer(raw, np.uint8), np.array([0, len(raw)]), to).tolist():
            assert start <= begin < stop <= end
            left, right = raw[:begin].decode(), raw[stop:].decode()  # no character is cut
            if to == "line":
                assert left[-1:] in ("", "\n")
                assert right == "" or raw[stop - 1 : stop] == b"\n"
            if to == "word" and " " in raw[begin:stop].decode()[1:-1]:  # a bound was in reach
                assert left == "" or left[-1].isspace() or raw[begin : begin + 1].isspace()


CONFIG = Dedup(substring=Substring(min_bytes=40, bridge=1, snap="none"), keep=Keep(then=()), alarm_share=1)


def run_station(context, texts_by_source, config=CONFIG, shards=1):
    pools = {name: pool_of(context, name, texts, shards) for name, texts in texts_by_source.items()}
    measured = {name: measure(context, pool, QUICK) for name, pool in pools.items()}
    return pools, dedup_substring(context, pools, measured, [], config)


def one_by_one(pools, settings_: Substring) -> dict[tuple[str, str], str | None]:
    """The definition: documents in the order of preference, each compared with those before it that were kept."""
    every = []
    for source, pool in pools.items():
        for path in pool.shards():
            every += [(row["id"], source, row["text"]) for row in pq.read_table(path).to_pylist()]
    every.sort()
    texts, dropped, result = [], [], {}
    for _, source, text in every:
        texts.append(text.encode())
        covered = brute_force(texts, settings_.min_bytes, [*dropped, False])[-1]
        dropped.append(bool(covered.sum() > settings_.max_removed * len(covered)))
        kept = bytes(np.frombuffer(texts[-1], np.uint8)[~covered])
        result[source, text] = None if dropped[-1] else kept.decode()
    return result


def chained_texts(seed: int, count: int = 14) -> list[str]:
    """ASCII texts of shared parts, many of which would be dropped for one that is dropped itself."""
    generator = random.Random(seed)
    parts = ["".join(generator.choices("abcdefgh ", k=generator.randint(20, 90))) for _ in range(6)]
    texts = ["".join(generator.choices(parts, k=generator.randint(1, 5))) for _ in range(count)]
    return list(dict.fromkeys(texts))


@pytest.mark.parametrize("seed", range(6))
def test_the_station_does_as_if_documents_were_taken_one_by_one(context, seed):
    texts = chained_texts(seed)
    config = CONFIG.model_copy(update={"substring": CONFIG.substring.model_copy(update={"max_removed": 0.6})})
    pools, output = run_station(context, {"web": texts[:8], "books": texts[8:]}, config, shards=2)
    result = outcome(pools, output)
    assert result == one_by_one(pools, config.substring)
    assert output.counts["documents_out"] == sum(text is not None for text in result.values())
    kept = sum(len(before) - len(text) for (_, before), text in result.items() if text is not None)
    assert output.counts["bytes_cut"] == kept
    by_source = output.counts["by_source"].values()
    assert sum(counts["bytes_cut"] for counts in by_source) == kept


def test_a_drop_that_is_not_taken_back_would_be_noticed(context, monkeypatch):
    """The planted twin: one round, so that text whose only other copy is in a dropped document vanishes."""
    honest = np.array_equal
    monkeypatch.setattr(cuts.np, "array_equal", lambda one, other: honest(one, other) or one.dtype == bool)
    config = CONFIG.model_copy(update={"substring": CONFIG.substring.model_copy(update={"max_removed": 0.6})})
    wrong = 0
    for seed in range(6):
        pools, output = run_station(context, {f"web-{seed}": chained_texts(seed)}, config)
        wrong += outcome(pools, output) != one_by_one(pools, config.substring)
    assert wrong


def test_nothing_but_the_documents_matters(tmp_path, monkeypatch):
    """Shards, their order, workers and partitions: the same cuts; and the same bytes where shards are the same."""
    texts = chained_texts(9, 30)
    pools, whole = run_station(Context(tmp_path / "a"), {"web": texts})
    expected = outcome(pools, whole)
    assert any(text not in (None, before) for (_, before), text in expected.items())
    shuffled = random.Random(1).sample(texts, len(texts))
    for number, shards in enumerate((1, 3)):
        assert (
            outcome(*run_station(Context(tmp_path / f"b{number}"), {"web": shuffled}, shards=shards)) == expected
        )
    monkeypatch.setattr(cuts, "PARTITION", 5)
    context = Context(tmp_path / "c", LocalExecutor(workers=2))
    assert run_station(context, {"web": texts})[1].content == whole.content


@pytest.mark.parametrize(
    ("module", "unit"),
    [(texts, "_write_text"), (cuts, "_write_runs"), (cuts, "_write_spans"), (cuts, "_write_cuts")],
)
def test_a_run_that_is_cut_off_resumes_with_the_same_result(tmp_path, monkeypatch, module, unit):
    monkeypatch.setattr(cuts, "PARTITION", 20)
    sources = {"web": chained_texts(2, 30), "books": chained_texts(3, 20)}
    whole = run_station(Context(tmp_path / "whole"), sources)[1]
    honest, calls = getattr(module, unit), itertools.count()

    def cut(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(module, unit, cut)
    with pytest.raises(KeyboardInterrupt):
        run_station(Context(tmp_path / "cut"), sources)
    resumed = run_station(Context(tmp_path / "cut"), sources)[1]
    assert (resumed.content, resumed.counts) == (whole.content, whole.counts)


def test_cut_twice_is_cut_once(context):
    """What is left holds no long string twice: a second pass over the edited pool finds nothing."""
    generator = random.Random(5)
    notice = "".join(generator.choices("abcdefghijklmnop ", k=300))
    texts = ["".join(generator.choices("qrstuvwxyz ", k=200)) for _ in range(8)]
    texts = [f"{text}{number}{notice}{number}" for number, text in enumerate(texts)]
    pools, output = run_station(context, {"web": texts})
    assert output.counts["bytes_cut"] == 7 * len(notice)
    trimmed = edit_pool(context, "trim/web", pools["web"], output)
    again = dedup_substring(context, {"web": trimmed}, {"web": measure(context, trimmed, QUICK)}, [], CONFIG)
    assert again.counts["runs"] == 0
    assert trimmed.counts["bytes_in"] - trimmed.counts["bytes_out"] == output.counts["bytes_cut"]


def test_measurements_of_other_texts_are_refused(context):
    pools = {"web": pool_of(context, "web", ["some text", "another text"])}
    measured = measure(context, pools["web"], QUICK)

    def work(build):
        for path in measured.shards():
            table = pq.read_table(path)
            place = table.schema.get_field_index("bytes")
            wrong = np.array([1] * len(table), table.schema.field(place).type.to_pandas_dtype())
            build.write_table(f"shards/{path.name}", table.set_column(place, table.schema.field(place), [wrong]))

    other = step(context, "measure/web", 1, {"wrong": True}, {}, work)
    with pytest.raises(ValueError, match="texts up to row 1 end at byte 21, but measured were 2"):
        dedup_substring(context, pools, {"web": other}, [], CONFIG)


def test_no_text_and_no_documents(context):
    _, output = run_station(context, {"web": [], "books": ["short"]})
    assert output.counts["documents_out"] == 1
    assert output.counts["runs"] == 0
    assert dedup_substring(context, {}, {}, [], CONFIG).counts["documents_in"] == 0


def test_a_source_that_loses_much_text_raises_an_alarm(context):
    generator = random.Random(3)
    text = "".join(generator.choices("abcdefghi ", k=400))
    config = CONFIG.model_copy(update={"alarm_share": 0.3})
    tails = ["".join(generator.choices("klm", k=150)) for _ in range(5)]
    _, output = run_station(
        context, {"web": [f"{text}{number}{tail}" for number, tail in enumerate(tails)]}, config
    )
    (alarm,) = output.record["alarms"]
    assert "'web' loses 1,600 of 2,755 bytes (58.1%) to dedup-substring" in alarm


def test_the_drop_names_the_document_that_has_most_of_it(context):
    generator = random.Random(4)
    one, other = ("".join(generator.choices("abcdefghi ", k=size)) for size in (400, 200))
    sources = {"books": [one + "0" * 90, other + "1" * 90], "web": [one + other + "and so on"]}
    config = CONFIG.model_copy(update={"keep": Keep(sources=("books",), then=())})
    pools, output = run_station(context, sources, config)
    (row,) = pq.read_table(ledger_path(output.folder, "web", "web-0")).to_pylist()
    assert (row["keep"], row["rule"], row["threshold"]) == (False, "repeated_substring_share", 0.8)
    assert row["value"] == pytest.approx(600 / 609)
    ids = pq.read_table(pools["books"].shards()[0], columns=["id"])["id"].to_pylist()
    assert row["twin"] == ids[0]
    repeats = pq.read_table(output.folder / "repeats" / "web" / "web-0.parquet").to_pylist()
    assert [(run["start"], run["end"], run["twin"], run["twin_start"]) for run in repeats] == [
        (0, 400, ids[0], 0),
        (400, 600, ids[1], 0),
    ]
    assert len(pq.read_table(edits_path(output.folder, "web", "web-0"))) == 0
