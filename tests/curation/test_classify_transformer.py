"""A tiny `transformers` classifier made from a config: the interface, batches by length, no network, no code."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from curation.classify import transformer
from curation.classify.apply import classify
from curation.classify.models import given, load_applied
from curation.classify.settings import Classifier
from curation.config import ConfigError

WORDS = ["the", "ship", "sails", "to", "a", "harbour", "while", "judges", "read", "the", "statute", "of", "sea"]
TEXTS = ["", "the", *(" ".join(WORDS[: 1 + n % 13] * (1 + n % 5)) for n in range(60))]


@pytest.fixture(scope="module", params=[3, 1], ids=["three labels", "one logit"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier")
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, num_labels=request.param, **sizes)
    config.initializer_range = 1.0
    BertForSequenceClassification(config).save_pretrained(path)
    return path


def loaded(folder, **settings):
    return load_applied(given("tone", Classifier(model=folder, **settings), folder))


def test_batches_by_length_give_what_each_text_gives_alone(folder, monkeypatch):
    monkeypatch.setattr(transformer, "BATCH_TOKENS", 64)
    model, _ = loaded(folder)
    place = model.labels.index(model.labels[-1])
    best, scores, asked = model.predict(pa.array(TEXTS, pa.large_string()), place)
    peer = BertForSequenceClassification.from_pretrained(folder).eval()
    for row, text in enumerate(TEXTS):
        ids = model._tokenizer(text, truncation=True, max_length=32)["input_ids"] or [0]
        with torch.inference_mode():
            logits = peer(torch.tensor([ids])).logits[0]
        chances = (
            logits.softmax(0) if len(logits) > 1 else torch.stack([1 - logits.sigmoid()[0], logits.sigmoid()[0]])
        )
        assert abs(scores[row] - chances.max().item()) < 1e-5
        assert abs(asked[row] - chances[place].item()) < 1e-5
        assert best[row] == chances.argmax().item()
    assert len(set(np.round(scores, 4))) > 10  # the texts differ, so that a mixed-up order would show


def test_the_station_takes_it_like_any_other(stations, folder):
    texts = [text for text in TEXTS if text]
    stations.pool("web", texts, shards=2)
    model, _ = loaded(folder)
    one = given("tone", Classifier(model=folder), folder)
    scored = given("harsh", Classifier(model=folder, positive=model.labels[-1]), folder)
    for path in classify(stations.ctx, stations.pools["web"], [], [one, scored]).shards():
        table = pq.read_table(path)
        assert table.column_names == ["id", "tone", "tone_label", "harsh"]
        assert set(table["tone_label"].to_pylist()) <= set(model.labels)
        for row in table.to_pylist():
            assert (row["harsh"] == row["tone"]) == (row["tone_label"] == model.labels[-1])


def test_a_folder_that_is_no_classifier_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a sequence classification model"):
        loaded(tmp_path)
