import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.dedup.shingles import shingles, words
from curation.heldout import DROPPED, Heldout, candidates, heldout
from curation.mix.manifest import load_manifest, verify_manifest
from curation.overlap import FREE, Grams, compared, ngram_text, ngrams_of

VOCABULARY = [f"{a}{b}" for a in ("ka", "lo", "mi", "né", "日") for b in ("r", "st", "ve", "x")]
short_texts = st.lists(st.sampled_from(["a", "B", "c1", "é", "日"]), max_size=14).map(" ".join)


def prose(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices([f"{a}{b}" for a in VOCABULARY for b in VOCABULARY], k=count))


def grams(text: str, ngram: int) -> list[bytes]:
    """The n-grams of a text, by the reference in Python. A short text is one."""
    found = words(text)
    return shingles(text, min(ngram, len(found))) if found else []


def shares(held: list[str], training: list[str], ngram: int) -> list[float]:
    known = {gram for text in training for gram in grams(text, ngram)}
    sets = [set(grams(text, ngram)) for text in held]
    return [len(one & known) / len(one) if one else 0.0 for one in sets]


def shares_by_kernel(held: list[str], training: list[str], ngram: int) -> list[float]:
    held, training = pa.array(held, pa.large_string()), pa.array(training, pa.large_string())
    hashes = [compared(one) for one in ngrams_of(held, ngram)]
    index = Grams(np.unique(np.concatenate([np.empty(0, np.uint64), *hashes])), ngram)
    first = index.nothing_found()
    index.find(training, np.arange(len(training)), first)
    hit = index.hashes[first != FREE]
    return [float(np.isin(one, hit).mean()) if len(one) else 0.0 for one in hashes]


@settings(deadline=None)
@given(st.lists(short_texts, max_size=4), st.lists(short_texts, max_size=4), st.integers(1, 4))
def test_shares_are_those_of_sets_of_words(held, training, ngram):
    assert shares_by_kernel(held, training, ngram) == shares(held, training, ngram)


def test_shares_of_long_texts_and_that_the_check_can_fail():
    """Long enough for several blocks of the kernel, with a passage that straddles the border of two."""
    passage = prose(500, 1)
    training = [prose(1900, 2) + " " + passage + " " + prose(3000, 3), "short"]
    held = [prose(700, 4) + " " + passage, passage + prose(100, 5), prose(50, 6), "SHORT!", ""]
    expected = shares(held, training, 8)
    assert shares_by_kernel(held, training, 8) == expected
    assert expected[0] == pytest.approx(0.41, abs=0.02)
    assert expected[2:] == [0, 1, 0]
    assert shares_by_kernel(held, training, 9) != expected


def test_a_long_document_is_judged_by_a_fair_sample_of_its_ngrams():
    half = prose(20_000, 1)
    assert len(compared(ngrams_of(pa.array([half + prose(20_000, 2)], pa.large_string()), 8)[0])) == 1 << 14
    assert shares_by_kernel([half + " " + prose(20_000, 2)], [half], 8)[0] == pytest.approx(0.5, abs=0.02)


def test_the_text_of_an_ngram():
    text = "One, two -- THREE\n" + prose(3000, 1)
    for at in (0, 1, 2000):
        assert ngram_text(text, at, 8).encode() == shingles(text, 8)[at]
    assert ngram_text("Only three words", 0, 8) == "only three words"


def world(stations, tokenizer):
    """Held-out documents: a copy, a half, a fresh one, and a pair; a mix of the text and chat that holds them."""
    half = prose(60, 11)
    fresh = [prose(60, seed) for seed in range(20, 26)]
    stations.pool(
        "web", [f"A page. {prose(80, 10)} The end.", half + " " + prose(80, 12), prose(300, 13)], shards=2
    )
    stations.pool("chat", [[("user", prose(30, 14)), ("assistant", prose(40, 15))]])
    stations.pool("books", [prose(80, 10).upper(), half + " " + prose(90, 16), half + " " + prose(20, 17), *fresh])
    pairs = [
        ([("user", prose(30, 14))], [("assistant", prose(40, 15))], [("assistant", "no")]),
        ([("user", prose(30, 18))], [("assistant", prose(40, 19))], [("assistant", prose(9, 13))]),
    ]
    stations.pool("pairs", pairs)
    catalogs = {
        "web": stations.catalog("web", tokenizer),
        "books": stations.catalog("books", tokenizer, holdout=1.0),
        "pairs": stations.catalog("pairs", tokenizer, holdout=1.0),
    }
    mixes = {
        "pretrain": stations.mix("pretrain", tokenizer, web=None),
        "instruction": stations.mix("instruction", tokenizer, chat=None, web=None),
    }
    return catalogs, mixes


def held(stations, kind, catalogs, mixes, **settings):
    return heldout(stations.ctx, kind, catalogs, stations.pools, mixes, Heldout(**settings))


def test_documents_that_the_mixes_hold_are_dropped_with_the_evidence(stations, tokenizer):
    catalogs, mixes = world(stations, tokenizer)
    output = held(stations, "text", catalogs, mixes)
    books = pq.read_table(stations.pools["books"].shards()[0]).to_pylist()
    web = {
        row["id"]: row["text"]
        for path in stations.pools["web"].shards()
        for row in pq.read_table(path).to_pylist()
    }
    dropped = pq.read_table(output.folder / "dropped.parquet")
    assert dropped.schema.equals(DROPPED)
    lines = {line["id"]: line for line in dropped.to_pylist()}
    assert set(lines) == {books[0]["id"], books[2]["id"]}
    expected = shares([book["text"] for book in books], list(web.values()), 8)
    assert [lines[book["id"]]["share"] for book in (books[0], books[2])] == pytest.approx(
        [expected[0], expected[2]]
    )
    assert 0 < expected[1] < 0.5
    for line in lines.values():
        assert line["twin_source"] == "web"
        assert line["example"] in " ".join(word.decode() for word in words(web[line["twin"]]))
    rows = load_manifest(output.folder).rows()
    assert sorted(rows["id"].to_pylist()) == sorted(book["id"] for book in books if book["id"] not in lines)
    assert output.counts["by_source"] == {
        "books": {"documents_in": 9, "documents_out": 7, "dropped": 2},
        "web": {"documents_in": 0, "documents_out": 0, "dropped": 0},
    }
    assert output.counts["training_documents"] == 4


def test_the_share_that_is_too_much_is_a_setting(stations, tokenizer):
    catalogs, mixes = world(stations, tokenizer)
    dropped = {
        share: pq.read_table(held(stations, "text", catalogs, mixes, max_share=share).folder / "dropped.parquet")
        for share in (0.0, 0.3, 1.0)
    }
    assert [len(dropped[share]) for share in (0.0, 0.3, 1.0)] == [3, 3, 1]


def test_what_is_compared_is_made_once_for_all_mixes(stations, tokenizer):
    catalogs, mixes = world(stations, tokenizer)
    first = candidates(stations.ctx, "text", catalogs, stations.pools, Heldout())
    assert first.counts["documents_out"] == 9
    for changed, some in (({}, mixes), ({"max_share": 0.1}, mixes), ({}, {"pretrain": mixes["pretrain"]})):
        held(stations, "text", catalogs, some, **changed)
        again = candidates(stations.ctx, "text", catalogs, stations.pools, Heldout(**changed))
        assert (again.reused, again.folder) == (True, first.folder)
    other = candidates(stations.ctx, "text", catalogs, stations.pools, Heldout(ngram=7))
    assert other.content != first.content
    rows = pq.read_table(first.folder / "candidates.parquet").to_pylist()
    books = {row["id"]: row["text"] for row in pq.read_table(stations.pools["books"].shards()[0]).to_pylist()}
    for row in rows:
        assert len(row["grams"]) == len(set(grams(books[row["id"]], 8)))


def test_pairs_are_compared_with_prompt_and_responses(stations, tokenizer):
    catalogs, mixes = world(stations, tokenizer)
    output = held(stations, "pairs", catalogs, mixes)
    lines = pq.read_table(output.folder / "dropped.parquet").to_pylist()
    pairs = pq.read_table(stations.pools["pairs"].shards()[0])
    assert [(line["id"], line["twin_source"]) for line in lines] == [(pairs["id"][0].as_py(), "chat")]
    row = load_manifest(output.folder).rows().to_pylist()[0]
    assert (row["id"], row["transform"], row["copies"]) == (pairs["id"][1].as_py(), "pair", 1)


def test_the_manifest_verifies_and_names_its_mixes(stations, tokenizer):
    catalogs, mixes = world(stations, tokenizer)
    output = held(stations, "text", catalogs, mixes, max_documents=5)
    assert verify_manifest(output.folder) == []
    head = load_manifest(output.folder).head
    assert (head["kind"], head["name"]) == ("evaluation", "heldout-text")
    assert head["parents"] == {name: load_manifest(mix.folder).hash for name, mix in mixes.items()}
    assert head["tokenizer_hash"] == tokenizer.content
    assert yaml.safe_load(head["recipe"])["max_documents"] == 5
    assert output.counts["documents_in"] == 5


def test_workers_change_nothing_and_what_is_removed_would_be_seen(make_stations, tokenizer):
    outputs = []
    for name, workers in (("a", 1), ("b", 2)):
        stations = make_stations(name, workers)
        outputs.append(held(stations, "text", *world(stations, tokenizer)))
    assert outputs[0].content == outputs[1].content
    catalogs, _ = world(stations, tokenizer)
    without_copy = held(stations, "text", catalogs, {"pretrain": stations.mix("p", tokenizer, chat=None)})
    assert without_copy.content != outputs[0].content
    assert without_copy.counts["documents_out"] == 9


def test_a_source_that_loses_all_is_an_alarm(stations, tokenizer):
    stations.pool("web", [prose(50, 1)])
    stations.pool("books", [prose(50, 1)])
    catalogs = {"books": stations.catalog("books", tokenizer, holdout=1.0)}
    output = held(stations, "text", catalogs, {"pretrain": stations.mix("pretrain", tokenizer, web=None)})
    assert output.record["alarms"] == ["books: all 1 held-out documents occur in the mixes; none is left"]
    assert verify_manifest(output.folder) == []


def test_mixes_of_other_pools_or_none_are_errors(stations, make_stations, tokenizer):
    catalogs, mixes = world(stations, tokenizer)
    with pytest.raises(ValueError, match=r"held-out sets need mixes of one tokenizer; \[\] have 0"):
        held(stations, "text", catalogs, {})
    stations.pool("web", ["another night"])
    with pytest.raises(ValueError, match="was made from another pool of 'web'; build the mix again"):
        held(stations, "text", catalogs, mixes)


@pytest.mark.parametrize("wrong", [{"ngram": 0}, {"ngram": 65}, {"max_share": -1}, {"max_share": "101%"}])
def test_settings_that_compare_nothing_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Heldout(**wrong)
