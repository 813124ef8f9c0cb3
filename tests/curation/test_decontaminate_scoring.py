"""The kernels of decontamination find and score what plain Python over sets of words does."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.decontaminate import detect
from curation.decontaminate.benchmarks import Item
from curation.decontaminate.detect import DeconScanner
from curation.decontaminate.index import decon_index, memory, share_index, word_hashes
from curation.decontaminate.settings import Decon, NgramShare
from curation.decontaminate.share import ShareScanner
from curation.dedup.shingles import shingle_hash64, words
from tests.curation.decontamination import ReferenceDecon, ReferenceShare

ALPHABET = ["a", "b", "kite", "Wind", "sand", "é", "七", "x_1"]
DECON = Decon(
    ngram=2,
    sample_every=3,
    max_misses=3,
    threshold=0.5,
    perfect_words=4,
    full_words=12,
    min_words=3,
    min_unique_words=1,
    confident_ngrams=6,
    answer_ngram=2,
    short_answer=2,
    short_window=4,
    answer_window=6,
    passage_ngram=2,
    passage_window=3,
    passage_misses=2,
)
SHARE = NgramShare(
    ngram=3, threshold=0.5, max_items=2, min_ngrams=1, min_words=3, answer_words=4, min_unique_words=1
)

phrases = st.lists(st.sampled_from(ALPHABET), max_size=14)
texts = phrases.map(" ".join)


@st.composite
def cases(draw):
    """Items, and documents made of pieces of them and of other words."""
    parts = draw(st.lists(st.tuples(phrases, phrases, phrases), min_size=1, max_size=4))
    items = [Item("set", str(number), *map(" ".join, part)) for number, part in enumerate(parts)]
    pieces = [" ".join(piece) for part in parts for piece in part]
    document = st.lists(st.one_of(st.sampled_from(pieces), texts), max_size=6).map(", ".join)
    return items, draw(st.lists(document, min_size=1, max_size=4))


def decon_found(items, documents, config) -> list[dict]:
    index, kept, _ = decon_index(items, config)
    out = [{} for _ in documents]
    for match in DeconScanner(index, config).scan(pa.array(documents, pa.large_string())):
        assert match.threshold == pytest.approx(ReferenceDecon(kept, config).threshold(match.item))
        out[match.row][match.item] = match[2:5] + match[6:]
    return out


def decon_expected(items, documents, config) -> list[dict]:
    _, kept, _ = decon_index(items, config)
    reference = ReferenceDecon(kept, config)
    return [reference.scan(document) for document in documents]


def same(found: list[dict], expected: list[dict]) -> bool:
    if [sorted(one) for one in found] != [sorted(one) for one in expected]:
        return False
    pairs = [(one[key], other[key]) for one, other in zip(found, expected, strict=True) for key in one]
    return all(one == pytest.approx(other, abs=1e-8) for one, other in pairs)


@given(cases())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_decon_scores_as_plain_python_does(case):
    items, documents = case
    assert same(decon_found(items, documents, DECON), decon_expected(items, documents, DECON))


def test_decon_comparison_sees_a_planted_bug(monkeypatch):
    """The twin: with one miss less allowed, some of these documents must come out otherwise."""
    item = Item("set", "0", "one two three four five six seven eight nine ten eleven twelve")
    document = "one two three four and five six seven eight nine ten eleven twelve"
    expected = decon_expected([item], [document], DECON)
    assert same(decon_found([item], [document], DECON), expected)
    assert expected[0]
    wrong = DECON.model_copy(update={"max_misses": 1})
    assert not same(decon_found([item], [document], wrong), expected)
    monkeypatch.setitem(detect.__dict__, "DIGITS", 0)
    assert not same(decon_found([item], [document], DECON), expected)


@given(cases())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ngram_share_counts_as_plain_python_does(case):
    items, documents = case
    index, kept, _ = share_index(items, SHARE)
    found = [{} for _ in documents]
    for match in ShareScanner(index, SHARE).scan(pa.array(documents, pa.large_string())):
        found[match.row][match.item] = match.score
    reference = ReferenceShare(kept, SHARE)
    assert found == [reference.scan(document) for document in documents]


@given(cases())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_documents_are_scored_one_by_one(case):
    """What lies beside a document, and in which order, changes nothing: no state is left by the one before."""
    items, documents = case
    together = decon_found(items, documents, DECON)
    assert together == [decon_found(items, [document], DECON)[0] for document in documents]
    assert together[::-1] == decon_found(items, documents[::-1], DECON)


def test_more_matches_than_a_call_returns(monkeypatch):
    """The kernel stops before the document that does not fit, and goes on with it."""
    monkeypatch.setattr(detect, "SPARE", 1)
    question = "which of the seven kites flew over the sand in the wind"
    items = [Item("set", str(number), f"{question} {name}") for number, name in enumerate(("a", "b", "c"))]
    documents = [f"{question} a and {question} b", "nothing", f"{question} c {question} a"] * 3
    config = DECON.model_copy(update={"threshold": 0.2})
    found = decon_found(items, documents, config)
    assert sum(map(len, found)) > len(items) + 1
    assert same(found, decon_expected(items, documents, config))


def test_hashes_are_those_of_the_words():
    text = "Nine kites, 七 winds"
    expected = [shingle_hash64(word) for word in words(text)]
    index, _, _ = decon_index([Item("set", "0", text)], Decon(ngram=1, min_words=1))
    assert sorted(expected) == index.question.hashes.tolist()
    assert len(word_hashes([text])[0]) == 4


def test_items_left_out_have_a_reason():
    question = "how many of the nine kites flew over the sand when the wind came back from the sea at last"
    items = [
        Item("set", "first", question),
        Item("set", "again", question.upper()),
        Item("other", "elsewhere", question),
        Item("set", "short", "too short"),
        Item("set", "few", "so " * 30),
    ]
    _, kept, left_out = decon_index(items, Decon())
    assert [item.name for item in kept] == ["first", "elsewhere"]
    assert left_out == {"set": {"duplicate": 1, "too_short": 1, "few_words": 1}}


def test_boilerplate_is_no_match():
    """What more than `max_items` items share, and rows of single characters, are not compared."""
    shared = "sort the following words in alphabetical order and give the list as your answer please"
    lists = ["kite wind sand sea cloud rain snow", "lamp table chair book paper pen ink"]
    items = [Item("set", str(n), f"{shared} {lists[n % 2]} {n} {n}{n} end of {lists[n % 2]}") for n in range(6)]
    config = NgramShare(max_items=3)
    index, kept, _ = share_index(items, config)
    scanner = ShareScanner(index, config)
    assert not list(scanner.scan(pa.array([shared], pa.large_string())))
    found = list(scanner.scan(pa.array([items[0].question], pa.large_string())))
    assert [kept[match.item].name for match in found if match.score == 1] == ["0"]
    letters = Item("set", "letters", " ".join("abcdefghijklmnopqrstuvwxyz"))
    _, _, left_out = share_index([letters], config)
    assert left_out == {"set": {"boilerplate": 1}}


def test_the_size_of_the_index_is_what_its_arrays_take():
    index, _, _ = decon_index([Item("set", "0", " ".join(f"word{n}" for n in range(40)))], Decon())
    arrays = [index.table.keys, index.question.hashes, index.weights]
    assert memory(index) > sum(array.nbytes for array in arrays)


def test_parts_are_weighed_as_olmo_3_states():
    question = " ".join(f"word{n}" for n in range(40))
    whole = Item("set", "0", question, "the answer is made of nine words in all", "a passage of five more words")
    for drop, expected in (((), (0.7, 0.2, 0.1)), (("passage",), (0.75, 0.25, 0)), (("answer",), (0.85, 0, 0.15))):
        item = dataclasses.replace(whole, **dict.fromkeys(drop, ""))
        index, _, _ = decon_index([item], Decon())
        assert index.weights[0].tolist() == pytest.approx(expected)
    index, _, _ = decon_index([Item("set", "0", " ".join(question.split()[:14]), "forty two " * 4)], Decon())
    assert index.weights[0].tolist() == pytest.approx([0.75 * 0.75, 0.4375, 0])  # 10 n-grams: confidence .75
    lengths = [20, 35, 50, 500]
    items = [Item("set", str(n), " ".join(f"w{k}" for k in range(n))) for n in lengths]
    index, _, _ = decon_index(items, Decon())
    assert index.thresholds.tolist() == pytest.approx([1.0, 0.9, 0.8, 0.8])
