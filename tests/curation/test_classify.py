import gzip
import math
import random
import shutil
import string
from collections import Counter

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given as given_texts
from hypothesis import settings
from hypothesis import strategies as st

from curation.classify.apply import classify
from curation.classify.examples import examples_of, held_out
from curation.classify.figures import auc, intervals
from curation.classify.models import LABEL, given, load_applied
from curation.classify.prepare import prepared_texts
from curation.classify.settings import Classifier, ExampleFile
from curation.classify.train import train_classifier, trained
from curation.config import ConfigError
from curation.files import read_json

SMALL = {"buckets": 2000, "dim": 4}
PREFIX = 2000


def sentences(words: str, count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(words.split(), k=30)) + f" {n}" for n in range(count)]


GOOD = sentences("alpha beta gamma theorem proof lemma the of and", 120, 1)
BAD = sentences("buy cheap watches click here now the of and", 80, 2)


def sources(stations, good=GOOD, bad=BAD):
    stations.pool("good", good, shards=2)
    stations.pool("bad", bad, shards=3)
    return stations


def train(stations, ledgers=(), **settings):
    classes = {} if {"classes", "labels"} & set(settings) else {"positives": ["good"], "negatives": ["bad"]}
    config = Classifier(**{**classes, **SMALL, **settings})
    return train_classifier(stations.ctx, "quality", config, stations.pools, stations.measured, list(ledgers))


def apply(stations, source, model, ledgers=(), name="quality", **settings):
    classes = {} if settings else {"positives": ["good"], "negatives": ["bad"]}
    one = trained(name, Classifier(**classes, **settings), model)
    return classify(stations.ctx, stations.pools[source], list(ledgers), [one])


def examples_from(stations, config, ledgers=()):
    return examples_of("quality", config, stations.pools, stations.measured, list(ledgers))


def normalised(text: str) -> str:
    return prepared_texts(pa.array([text], pa.large_string()), PREFIX, True)[0]


def split(text: str) -> str:
    return prepared_texts(pa.array([text], pa.large_string()), PREFIX, True, True)[0]


def test_area_under_the_curve_by_hand():
    """Two positives at .8 and .4, negatives at .6, .4, .1: pairs won 3 + 1, one tie, of 6."""
    scores, positive = np.array([0.8, 0.4, 0.6, 0.4, 0.1]), np.array([True, True, False, False, False])
    assert auc(scores, positive) == pytest.approx((3 + 1 + 0.5) / 6)
    assert auc(scores, ~positive) == pytest.approx(1.5 / 6)
    assert math.isnan(auc(scores, np.ones(5, bool)))


@settings(deadline=None)
@given_texts(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=2, max_size=40))
def test_area_under_the_curve_is_the_share_of_pairs_won(rows):
    scores, positive = np.array([one for one, _ in rows]), np.array([one for _, one in rows])
    if not 0 < positive.sum() < len(rows):
        return
    won = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(won))


def test_a_model_learns_and_is_the_same_each_time(make_stations):
    models = [train(sources(make_stations(name, workers))) for name, workers in (("a", 1), ("b", 2))]
    assert models[0].content == models[1].content
    assert models[0].counts == {"documents_in": 160, "documents_out": 144, "holdout_documents": 16}
    report = read_json(models[0].folder / "report.json")
    assert report["auc"] == report["precision"] == report["recall"] == 1.0
    assert report["train"] + report["holdout"] == 160
    # The check can fail: another seed draws other examples and starts elsewhere.
    assert train(sources(make_stations("c")), seed=3).content != models[0].content


def test_the_report_names_the_worst_mistakes(stations):
    """A third of the positives are advertisements, so that many of those held out are mistakes."""
    mislabelled = sentences("buy cheap watches click here now the of and", 60, 3)
    sources(stations, good=GOOD[:100] + mislabelled, bad=BAD * 2)
    report = read_json(train(stations, holdout=0.3).folder / "report.json")
    counted = [report[f"{kind}_{side}"] for kind in ("true", "false") for side in ("positives", "negatives")]
    assert sum(counted) == report["holdout"]
    mistakes = report["worst_false_negatives"]
    assert mistakes
    assert all("cheap" in one["text"] and one["label"] == "positive" and one["score"] < 0.5 for one in mistakes)
    assert [one["score"] for one in mistakes] == sorted(one["score"] for one in mistakes)
    assert 0.5 < report["auc"] < 1
    assert report["recall"] == report["true_positives"] / (report["true_positives"] + report["false_negatives"])


def test_classes_are_balanced_and_held_out_alike(stations):
    sources(stations)
    config = Classifier(positives=["good"], negatives=["bad"], sample=50, holdout=0.1)
    examples = examples_from(stations, config)
    held = held_out(examples, config)
    assert Counter(label for _, _, label, _ in examples) == {"positive": 50, "negative": 50}
    assert Counter(label for (_, _, label, _), out in zip(examples, held, strict=True) if out) == {
        "positive": 5,
        "negative": 5,
    }
    smaller = examples_from(stations, config.model_copy(update={"sample": 20}))
    assert {one[0] for one in smaller} < {one[0] for one in examples}


def test_a_class_takes_of_its_sources_evenly_as_far_as_they_go(stations):
    stations.pool("few", sentences("gamma delta theorem proof", 12, 5))
    sources(stations)
    config = Classifier(positives=["good", "few"], negatives=["bad"], sample=40)
    found = Counter((one.label, one.source) for one in examples_from(stations, config))
    assert found == {("positive", "few"): 12, ("positive", "good"): 28, ("negative", "bad"): 40}
    # Without balance the large source has its share: few of few.
    as_they_come = examples_from(stations, config.model_copy(update={"balanced": False}))
    assert Counter(one.source for one in as_they_come)["few"] < 9


def test_each_source_has_figures_against_the_other_class(stations):
    """One source of positives is like the negatives: its recall and AUC show it, those of the other do not."""
    sources(stations)
    stations.pool("odd", sentences("buy cheap watches click here now the of and", 60, 7))
    report = read_json(
        train(stations, positives=["good", "odd"], negatives=["bad"], holdout=0.4).folder / "report.json"
    )
    good, odd = (report["by_source"][f"positive/{name}"] for name in ("good", "odd"))
    assert good["auc"] > odd["auc"]
    assert good["recall"] > odd["recall"]
    assert good["recall"] * good["holdout"] + odd["recall"] * odd["holdout"] == pytest.approx(
        report["true_positives"]
    )
    assert odd["intervals"]["auc"][0] <= odd["auc"] <= odd["intervals"]["auc"][1]
    bad = report["by_source"]["negative/bad"]
    assert (bad["precision"], bad["auc"]) == (report["precision"], report["auc"])


def test_dropped_documents_teach_nothing_and_have_no_score(stations):
    sources(stations)
    ledger = stations.drop("bad", lambda text: text.endswith("7"))
    config = Classifier(positives=["good"], negatives=["bad"])
    examples = examples_from(stations, config, [ledger])
    assert not any(text.endswith("7") for _, source, _, text in examples if source == "bad")
    model = train(stations, ledgers=[ledger])
    output = apply(stations, "bad", model, [ledger])
    for path in output.shards():
        texts = pq.read_table(stations.pools["bad"].folder / "shards" / path.name)
        table = pq.read_table(path)
        assert table["id"].equals(texts["id"])
        for text, quality in zip(texts["text"].to_pylist(), table["quality"].to_pylist(), strict=True):
            assert (quality is None) == text.endswith("7")
            assert quality is None or 0 <= quality < 0.5
    assert output.counts == {"documents_in": 80, "documents_out": 72}


def test_scores_are_those_of_fasttext_for_any_number_of_workers(make_stations):
    contents = {}
    for name, workers in (("a", 1), ("b", 2)):
        stations = sources(make_stations(name, workers))
        model = train(stations)
        output = apply(stations, "bad", model)
        contents[name] = output.content
    assert contents["a"] == contents["b"]
    peer = fasttext.load_model(str(model.folder / "model.bin"))
    one = trained("quality", Classifier(positives=["good"], negatives=["bad"]), model)
    texts = [GOOD[0], BAD[0], "", "never seen", "x " * 5000]
    loaded, asked = load_applied(one)
    for text, found in zip(texts, loaded.predict(pa.array(texts, pa.large_string()), asked)[2], strict=True):
        probabilities = {label: value for value, label in peer.f.predict(split(text) + "\n", 2, 0.0, "strict")}
        assert found == pytest.approx(min(1.0, probabilities.get(LABEL + "positive", 0.0)), abs=1e-5)


def test_a_text_cannot_pose_as_a_label_or_as_two_lines():
    text = "__label__positive A\nB\u2028C\0D\r\n\tÉ" + " x" * PREFIX
    assert normalised(text).startswith("labelpositive a b c d é x x")
    assert "\n" not in normalised(text)
    assert LABEL not in normalised("__label__ __LABEL__negative a__label__b")
    assert len(normalised(text)) <= PREFIX
    assert normalised("a </s> b </S>") == "a s b s"


@settings(deadline=None, max_examples=50)
@given_texts(st.lists(st.text(st.sampled_from("aB_lbe</s> \n\0\u2028É\u212a\u023a__label__")), max_size=5))
def test_what_a_classifier_sees_is_python_s_lowercase_and_split(texts):
    """The same by Python's own string methods, but for marks, which no text keeps."""
    for text, found in zip(texts, prepared_texts(pa.array(texts, pa.large_string()), 40, True), strict=True):
        words = text[:40].lower().replace("\0", " ").split()
        assert LABEL not in found
        assert "</s>" not in found.split()
        if LABEL not in " ".join(words):
            assert found == " ".join("s" if word == "</s>" else word for word in words)


@settings(deadline=None, max_examples=50)
@given_texts(st.text(st.sampled_from("aB_! .?#</s>\nÉ"), max_size=30))
def test_split_punctuation_is_a_word_of_its_own(text):
    marked = "".join(f" {mark} " if mark in string.punctuation else mark for mark in text)
    assert split(text) == " ".join(marked.lower().split())


def test_intervals_hold_the_figure_and_shrink_with_more_examples():
    generator = np.random.default_rng(1)
    positive = np.arange(2000) % 2 == 0
    scores = np.clip(generator.normal(0.4 + 0.2 * positive, 0.2), 0, 1)
    wide, narrow = intervals(scores[:100], positive[:100]), intervals(scores, positive)
    for name, true in (("auc", auc(scores, positive)), ("recall", (scores[positive] >= 0.5).mean())):
        assert narrow[name][0] < true < narrow[name][1]
        assert narrow[name][1] - narrow[name][0] < (wide[name][1] - wide[name][0]) / 2
    assert intervals(scores, positive) == narrow


def test_examples_from_files_count_by_bytes_not_by_path(stations, tmp_path):
    sources(stations)
    lines = "\n".join([*GOOD, "", GOOD[0]]).encode()
    (tmp_path / "good.txt").write_bytes(lines)
    (tmp_path / "good.txt.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "good.txt.zst").write_bytes(zstandard.compress(lines))
    shutil.copy(tmp_path / "good.txt", tmp_path / "copy.txt")
    outputs = {
        name: train(stations, positives=[ExampleFile(file=str(tmp_path / name))])
        for name in ("good.txt", "good.txt.gz", "good.txt.zst", "copy.txt")
    }
    assert outputs["copy.txt"].reused
    assert len({output.content for output in outputs.values()}) == 1
    report = read_json(outputs["good.txt"].folder / "report.json")
    assert set(report["by_source"]) == {"positive/file", "negative/bad"}


def test_what_cannot_be_trained_says_why(stations):
    sources(stations, good=GOOD[:9])
    with pytest.raises(
        ValueError, match="80 negative and 9 positive are alive; a classifier needs two classes and 10"
    ):
        train(stations)
    with pytest.raises(ValueError, match=r"classifiers.quality: no source named web; there are bad, good"):
        train(stations, positives=["web"])


LABELLED = {
    "art": sentences("paint canvas colour brush museum the of and", 60, 4),
    "law": sentences("court statute appeal judge clause the of and", 50, 5),
    "sea": sentences("ship harbour tide sailor anchor the of and", 40, 6),
}


def labelled_pool(stations):
    documents = [(text, label) for label, texts in LABELLED.items() for text in texts]
    stations.pool(
        "mixed", [text for text, _ in documents], shards=2, metadata=[{"topic": one} for _, one in documents]
    )


def test_topics_from_the_documents_own_labels(make_stations):
    contents = {}
    for name, workers in (("a", 1), ("b", 2)):
        stations = make_stations(name, workers)
        labelled_pool(stations)
        settings = {"labels": {"sources": ["mixed"], "key": "metadata.topic"}, "epochs": 20}
        model = train(stations, **settings)
        report = read_json(model.folder / "report.json")
        assert report["account"]["examples"] == {label: {"mixed": 36} for label in LABELLED}
        assert report["confusion"] == {label: {label: 4} for label in LABELLED}
        assert report["macro_f1"] == report["accuracy"] == 1.0
        assert report["worst_mistakes"] == []
        output = apply(stations, "mixed", model, name="topic", **settings)
        contents[name] = (model.content, output.content)
        texts = {}
        for path in stations.pools["mixed"].shards():
            texts |= {row["id"]: row["text"] for row in pq.read_table(path).to_pylist()}
        for path in output.shards():
            for row in pq.read_table(path).to_pylist():
                assert texts[row["id"]] in LABELLED[row["topic_label"]]
                assert 1 / 3 < row["topic"] <= 1
    assert contents["a"] == contents["b"]


def test_labels_are_renamed_and_what_has_no_name_is_left_out(stations):
    labelled_pool(stations)
    labels = {"sources": ["mixed"], "key": "metadata.topic", "names": {"art": "dry", "law": "dry", "sea": "wet"}}
    report = read_json(train(stations, labels=labels, positive="wet").folder / "report.json")
    assert report["account"]["examples"] == {"dry": {"mixed": 36}, "wet": {"mixed": 36}}
    assert report["auc"] > 0.9
    without = {**labels, "names": {"art": "dry", "sea": "wet"}}
    unequal = read_json(train(stations, labels=without, balanced=False).folder / "report.json")
    assert unequal["account"]["examples"] == {"dry": {"mixed": 54}, "wet": {"mixed": 36}}


def test_a_given_model_file_scores_as_the_one_it_was(stations, tmp_path):
    sources(stations)
    model = train(stations)
    shutil.copy(model.folder / "model.bin", tmp_path / "my.bin")
    config = Classifier(model="my.bin", positive="positive", lowercase=True, split_punctuation=True)
    one = given("quality", config, tmp_path)
    copied = classify(stations.ctx, stations.pools["bad"], [], [one])
    for ours, theirs in zip(apply(stations, "bad", model).shards(), copied.shards(), strict=True):
        assert pq.read_table(ours).equals(pq.read_table(theirs))
    with pytest.raises(ConfigError, match="the model has no label 'fine'; it has"):
        classify(
            stations.ctx,
            stations.pools["bad"],
            [],
            [given("q", config.model_copy(update={"positive": "fine"}), tmp_path)],
        )
    with pytest.raises(ConfigError, match="neither a fastText file nor a folder"):
        given("quality", Classifier(model="none.bin"), tmp_path)


def test_more_threads_raise_an_alarm(stations):
    sources(stations)
    assert train(stations).record["alarms"] == []
    assert "trained with 2 threads" in train(stations, threads=2).record["alarms"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give exactly one of"),
        ({"positives": ["a"]}, "give exactly one of"),
        ({"model": "a.bin", "classes": {"a": ["x"], "b": ["y"]}}, "give exactly one of"),
        ({"classes": {"a": ["x"]}}, "needs two"),
        ({"classes": {"a": ["x"], "b c": ["y"]}}, "no white space"),
        ({"classes": {"a": ["x"], "b": ["y"]}, "positive": "c"}, "none of the classes a, b"),
        ({"labels": {"sources": ["x"], "key": "topic"}}, "metadata"),
    ],
)
def test_a_classifier_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Classifier(**settings)
