"""The story of a document: equal to what was put into the run, for every fate a document can have."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from curation.schema import document_id
from flows.why import AmbiguousIdError, DocumentIdError, UnknownDocumentError, print_story, why


def story_of(run, fabricator, source, text):
    return why(run, document_id(source, text.encode()))


def printed(story) -> str:
    out = io.StringIO()
    print_story(story, Console(file=out, width=160, color_system=None))
    return out.getvalue()


def texts_by_fate(fabricator, source):
    """Texts of a source that are alive and those that are not."""
    pairs = zip(fabricator.sources[source], fabricator.alive[source], strict=True)
    return [text for text, alive in pairs if alive]


def test_a_kept_document_names_every_mix_and_checkpoint(whole_run, fabricator):
    source = fabricator.hostile_source
    text = texts_by_fate(fabricator, source)[1]
    story = story_of(whole_run, fabricator, source, text)
    [occurrence] = story["occurrences"]
    assert occurrence["verdict"] == "in pretrain, midtrain"
    assert occurrence["origin"] == "raw/1.jsonl#1"
    assert occurrence["tokens"]["tokens"] == len(text.split()) + 1
    assert occurrence["measurements"]["words"] == len(text.split())
    assert [decision["keep"] for decision in occurrence["decisions"]] == [True, True, True]
    assert {mix["mix"]: mix["copies"] for mix in occurrence["mixes"]} == {"pretrain": 1, "midtrain": 3}
    used = {entry["stage"]: entry["trained_on"] for entry in occurrence["checkpoints"]}
    assert used["pretrain"] == [{"stage": "pretrain", "mix": "pretrain"}]
    assert used["dpo"] == [
        {"stage": "dpo", "mix": "midtrain"},
        {"stage": "midtrain", "mix": "midtrain"},
        {"stage": "pretrain", "mix": "pretrain"},
    ]
    assert "in pretrain, midtrain" in printed(story)


def test_ranks_of_a_mix_are_a_permutation(whole_run, fabricator):
    ranks = []
    for source in fabricator.sources:
        for text in texts_by_fate(fabricator, source):
            [occurrence] = [
                one
                for one in story_of(whole_run, fabricator, source, text)["occurrences"]
                if all(decision["keep"] for decision in one["decisions"])
            ]
            ranks += [(mix["rank"], mix["of"]) for mix in occurrence["mixes"] if mix["mix"] == "pretrain"]
    assert sorted(ranks) == [(n + 1, len(ranks)) for n in range(len(ranks))]


def test_a_filtered_document_names_rule_value_and_threshold(whole_run, fabricator):
    source = fabricator.hostile_source
    [occurrence] = story_of(whole_run, fabricator, source, "# # # # four signs")["occurrences"]
    first, *rest = occurrence["decisions"]
    assert (first["rule"], first["keep"], first["threshold"]) == ("symbols", False, 0.1)
    assert first["value"] == pytest.approx(4 / 6)
    assert all(not decision["examined"] for decision in rest)
    assert occurrence["mixes"] == occurrence["checkpoints"] == []
    assert occurrence["verdict"] == "dropped at rules: symbols 0.667, threshold 0.1"


def test_a_near_duplicate_shows_its_twin(whole_run, fabricator):
    source = fabricator.hostile_source
    kept = next(text for text in fabricator.sources[source] if text.startswith("permission"))
    dropped = fabricator.sources["books"][2]
    [occurrence] = story_of(whole_run, fabricator, "books", dropped)["occurrences"]
    decision = occurrence["decisions"][-1]
    assert (decision["rule"], decision["value"]) == ("near_duplicate", 0.9)
    assert decision["twin"]["id"] == document_id(source, kept.encode())
    assert decision["twin"]["source"] == source
    assert decision["twin"]["origin"] == f"raw/{fabricator.sources[source].index(kept)}.jsonl#" + str(
        fabricator.sources[source].index(kept)
    )
    assert decision["twin"]["excerpt"].startswith("permission number 0")


def test_a_twin_of_the_same_id_is_the_other_copy(whole_run, fabricator):
    """The same text twice in one source is one id with two occurrences; each knows which one it is."""
    source = fabricator.hostile_source
    twice = next(text for text in fabricator.sources[source] if fabricator.sources[source].count(text) == 2)
    rows = [n for n, text in enumerate(fabricator.sources[source]) if text == twice]
    kept, dropped = story_of(whole_run, fabricator, source, twice)["occurrences"]
    assert [kept["place"]["row"], dropped["place"]["row"]] == rows
    assert all(decision["keep"] for decision in kept["decisions"])
    decision = next(decision for decision in dropped["decisions"] if not decision["keep"])
    assert decision["rule"] == "duplicate"
    assert decision["twin"]["row"] == rows[0]
    assert kept["mixes"]
    assert not dropped["mixes"]


def test_a_held_out_document_is_in_no_mix(whole_run, fabricator):
    source = fabricator.hostile_source
    text = texts_by_fate(fabricator, source)[-1]
    occurrence = next(
        one for one in story_of(whole_run, fabricator, source, text)["occurrences"] if one["catalog"]
    )
    assert occurrence["catalog"]["holdout"]
    assert occurrence["mixes"] == []
    assert occurrence["heldout"] == [{"set": "text", "kept": True}]
    assert occurrence["verdict"] == "kept out of every mix, for evaluation"


def test_a_held_out_document_that_the_mixes_hold_says_how_much(whole_run, fabricator):
    text = texts_by_fate(fabricator, "books")[-1]
    [occurrence] = story_of(whole_run, fabricator, "books", text)["occurrences"]
    [entry] = occurrence["heldout"]
    assert (entry["kept"], entry["share"], entry["example"]) == (False, 0.75, fabricator.hostile)
    assert "dropped from evaluation" in occurrence["verdict"]
    assert "75.0% of its wording" in printed({"id": "", "run": "", "occurrences": [occurrence]})


def test_every_story_is_json_and_prints_no_control_code(whole_run, fabricator):
    for source, texts in fabricator.sources.items():
        for text in texts:
            story = story_of(whole_run, fabricator, source, text)
            assert json.loads(json.dumps(story, allow_nan=False)) == story
            lines = printed(story)
            assert "\x1b" not in lines
            assert "\x00" not in lines


def test_a_story_of_a_run_that_stopped_early(curated_run, fabricator):
    text = texts_by_fate(fabricator, "books")[0]
    [occurrence] = story_of(curated_run, fabricator, "books", text)["occurrences"]
    assert occurrence["mixes"] == occurrence["checkpoints"] == []


@pytest.mark.parametrize("prefix", ["", "abc", "abcde", "xyzxyz", "../../etc", "g" * 32, "a" * 33])
def test_what_is_no_id_is_an_error(curated_run, prefix):
    with pytest.raises(DocumentIdError, match="6 to 32 hex digits") as caught:
        why(curated_run, prefix)
    assert type(caught.value) is DocumentIdError


def test_an_unknown_id_names_what_was_searched(curated_run):
    with pytest.raises(UnknownDocumentError, match="books"):
        why(curated_run, "0" * 32)


def test_a_prefix_finds_the_document(whole_run, fabricator):
    identity = document_id("books", texts_by_fate(fabricator, "books")[0].encode())
    assert why(whole_run, identity[:6].upper()) == why(whole_run, identity)


def test_an_ambiguous_prefix_lists_the_candidates(curated_run, monkeypatch):
    monkeypatch.setattr("flows.story.SHORTEST_PREFIX", 0)
    with pytest.raises(AmbiguousIdError, match="give more digits") as caught:
        why(curated_run, "")
    assert len(caught.value.candidates) == 12
    assert all(len(identity) == 32 and origin for identity, _, origin in caught.value.candidates)
