import gzip
import math
import random
import shutil
from collections import Counter

import fasttext
import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.classify import (
    LABEL,
    PREFIX,
    Quality,
    QualityFile,
    _examples,
    _held_out,
    apply_quality,
    auc,
    normalised,
    score,
    train_quality,
)
from curation.files import read_json

SMALL = {"buckets": 2000, "dim": 4}


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
    config = Quality(**{"positives": ["good"], "negatives": ["bad"], **SMALL, **settings})
    return train_quality(stations.ctx, stations.pools, stations.measured, list(ledgers), config)


def test_area_under_the_curve_by_hand():
    """Two positives at .8 and .4, negatives at .6, .4, .1: pairs won 3 + 1, one tie, of 6."""
    scores, positive = np.array([0.8, 0.4, 0.6, 0.4, 0.1]), np.array([True, True, False, False, False])
    assert auc(scores, positive) == pytest.approx((3 + 1 + 0.5) / 6)
    assert auc(scores, ~positive) == pytest.approx(1.5 / 6)
    assert math.isnan(auc(scores, np.ones(5, bool)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=2, max_size=40))
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
    config = Quality(positives=["good"], negatives=["bad"], sample=50, holdout=0.1)
    examples = _examples(stations.pools, stations.measured, [], config)
    held = _held_out(examples, config)
    assert Counter(label for _, _, label, _ in examples) == {"positive": 50, "negative": 50}
    assert Counter(label for (_, _, label, _), out in zip(examples, held, strict=True) if out) == {
        "positive": 5,
        "negative": 5,
    }
    smaller = _examples(stations.pools, stations.measured, [], config.model_copy(update={"sample": 20}))
    assert {one[0] for one in smaller} < {one[0] for one in examples}


def test_dropped_documents_teach_nothing_and_have_no_score(stations):
    sources(stations)
    ledger = stations.drop("bad", lambda text: text.endswith("7"))
    config = Quality(positives=["good"], negatives=["bad"])
    examples = _examples(stations.pools, stations.measured, [ledger], config)
    assert not any(text.endswith("7") for _, source, _, text in examples if source == "bad")
    model = train(stations, ledgers=[ledger])
    output = apply_quality(stations.ctx, stations.pools["bad"], stations.measured["bad"], [ledger], model)
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
        output = apply_quality(stations.ctx, stations.pools["bad"], stations.measured["bad"], [], model)
        contents[name] = output.content
    assert contents["a"] == contents["b"]
    peer = fasttext.load_model(str(model.folder / "model.bin"))
    texts = [GOOD[0], BAD[0], "", "never seen", "x " * 5000]
    for text, found in zip(texts, score(model.folder / "model.bin", texts), strict=True):
        probabilities = {
            label: value for value, label in peer.f.predict(normalised(text) + "\n", 2, 0.0, "strict")
        }
        assert found == pytest.approx(min(1.0, probabilities.get(LABEL + "positive", 0.0)), abs=1e-6)


def test_a_text_cannot_pose_as_a_label_or_as_two_lines():
    text = "__label__positive A\nB\u2028C\0D\r\n\tÉ" + " x" * PREFIX
    assert normalised(text).startswith("labelpositive a b c d é x x")
    assert "\n" not in normalised(text)
    assert LABEL not in normalised("__label__ __LABEL__negative a__label__b")
    assert len(normalised(text)) <= PREFIX


def test_examples_from_files_count_by_bytes_not_by_path(stations, tmp_path):
    sources(stations)
    lines = "\n".join([*GOOD, "", GOOD[0]]).encode()
    (tmp_path / "good.txt").write_bytes(lines)
    (tmp_path / "good.txt.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "good.txt.zst").write_bytes(zstandard.compress(lines))
    shutil.copy(tmp_path / "good.txt", tmp_path / "copy.txt")
    outputs = {
        name: train(stations, positives=[QualityFile(file=str(tmp_path / name))])
        for name in ("good.txt", "good.txt.gz", "good.txt.zst", "copy.txt")
    }
    assert outputs["copy.txt"].reused
    assert len({output.content for output in outputs.values()}) == 1
    report = read_json(outputs["good.txt"].folder / "report.json")
    assert set(report["by_source"]) == {"positive/file", "negative/bad"}


def test_what_cannot_be_trained_says_why(stations):
    sources(stations, good=GOOD[:9])
    with pytest.raises(ValueError, match="9 positives and 80 negatives are alive; a classifier needs 10"):
        train(stations)
    with pytest.raises(ValueError, match="quality: no source named web; there are bad, good"):
        train(stations, positives=["web"])
