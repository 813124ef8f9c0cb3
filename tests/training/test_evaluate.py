"""Evaluation against what transformers computes, and properties that bind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from curation.files import read_json
from training.config import EvaluateConfig, TrainConfig
from training.data import open_data
from training.evaluate import _windows, bits_per_byte
from training.model import load_causal
from training.pair_accuracy import bootstrap_interval, by_length, by_margin, calibration, pair_accuracy
from training.station import evaluate, train

from .conftest import VOCABULARY, pair, write_data


@pytest.fixture
def settings() -> EvaluateConfig:
    return EvaluateConfig(window=64, micro_batch_tokens=256, samples=2, sample_tokens=6, threads=1)


@pytest.fixture
def pretrained(context, texts, tokenizer, tiny):
    return train(context, "pretrain", texts, tokenizer, None, tiny)


@torch.no_grad()
def bits_by_transformers(folder, tokens: list[int]) -> float:
    """One document at once, by transformers' own forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    logps = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    nats = -logps[torch.arange(len(tokens) - 1), tokens[1:]].double().sum().item()
    return nats / np.log(2) + np.log2(VOCABULARY)  # the first token by a uniform code


@pytest.mark.usefixtures("on_cpu")
def test_bits_per_byte_is_what_transformers_gives(pretrained, texts, settings):
    data, model = open_data(texts), load_causal(pretrained.folder / "model")
    wide = settings.model_copy(update={"window": 256, "micro_batch_tokens": 512})
    found = bits_per_byte(model, data, wide)["by_source"]["web"]
    rows = np.flatnonzero(data.source == data.sources.index("web"))
    spans = [slice(data.start[row], data.start[row] + data.length[row]) for row in rows]
    expected = sum(bits_by_transformers(pretrained.folder, data.tokens[span].tolist()) for span in spans)
    assert found["bits"] == pytest.approx(expected, rel=1e-5)
    assert found["bytes"] == int(data.bytes[rows].sum())
    assert found["bits_per_byte"] == pytest.approx(expected / found["bytes"], rel=1e-5)


def test_windows_score_every_token_once():
    for length in (1, 2, 7, 8, 9, 15, 16, 50):
        windows = _windows(100, length, 8)
        assert windows[0][0] == 100
        assert all(size <= 8 for _, size in windows)
        scored = [place for start, size in windows for place in range(start + 1, start + size)]
        assert scored == list(range(101, 100 + length))


@pytest.mark.usefixtures("on_cpu")
def test_scores_do_not_depend_on_the_batch(context, pretrained, texts, pairs, tokenizer, settings):
    data, model = open_data(texts), load_causal(pretrained.folder / "model")
    small, large = (settings.model_copy(update={"micro_batch_tokens": size}) for size in (64, 4096))
    found, other = bits_per_byte(model, data, small), bits_per_byte(model, data, large)
    assert found["all"]["bits"] == pytest.approx(other["all"]["bits"], rel=1e-6)
    assert found["all"]["tokens"] == other["all"]["tokens"] == int(data.mask.sum())


def test_every_stage_has_its_evaluation(context, pretrained, texts, pairs, tokenizer, settings, tiny):
    base = tiny.model_dump() | {"model": None}
    reward = train(context, "reward", pairs, tokenizer, pretrained, TrainConfig(**base | {"method": "reward"}))
    dpo = train(
        context,
        "dpo",
        pairs,
        tokenizer,
        pretrained,
        TrainConfig(**base | {"method": "dpo", "learning_rate": 1e-3, "epochs": 3}),
    )
    results = {}
    for stage, output in {"pretrain": pretrained, "reward": reward, "dpo": dpo}.items():
        evaluation = evaluate(context, stage, output, tokenizer, texts, pairs, settings, pretrained)
        results[stage] = read_json(evaluation.folder / "evaluation.json")
        assert evaluate(context, stage, output, tokenizer, texts, pairs, settings, pretrained).reused
    assert {"text", "answers", "samples"} < set(results["pretrain"])
    assert "text" not in results["reward"]
    assert results["reward"]["pairs"]["all"]["accuracy"] > 0.9
    assert results["dpo"]["pairs"]["all"]["accuracy"] > 0.6
    assert results["dpo"]["pairs"]["all"]["pairs"] == 30
    by_length = results["reward"]["pairs"]["by_length"]
    assert sum(line["pairs"] for line in by_length.values()) == 30
    assert "by_margin" not in results["reward"]["pairs"]  # the pairs have none
    assert sum(level["pairs"] for level in results["reward"]["pairs"]["calibration"]) == 30
    assert [sample["kind"] for sample in results["pretrain"]["samples"]] == ["text", "text"]
    assert results["dpo"]["samples"][0]["kind"] == "chat"
    assert results["dpo"]["samples"][0]["prompt"].endswith("<|assistant|>")
    with pytest.raises(ValueError, match="need the reference checkpoint"):
        evaluate(context, "dpo", dpo, tokenizer, texts, pairs, settings)


@pytest.mark.usefixtures("on_cpu")
def test_a_model_against_itself_wins_nothing(pretrained, pairs, settings):
    """Rewards of a model against itself are all ties, and ties are errors."""
    model = load_causal(pretrained.folder / "model").eval()
    line = pair_accuracy(model, "dpo", open_data(pairs), pretrained, settings)["all"]
    assert (line["accuracy"], line["ties"]) == (0.0, line["pairs"])


def test_interval_is_that_of_resampling():
    correct = np.array([True] * 70 + [False] * 30)
    low, high = bootstrap_interval(correct, 4000, np.random.default_rng(0))
    chance = np.random.default_rng(1)
    means = [chance.choice(correct, 100).mean() for _ in range(4000)]
    assert low == pytest.approx(np.percentile(means, 2.5), abs=0.015)
    assert high == pytest.approx(np.percentile(means, 97.5), abs=0.015)
    assert bootstrap_interval(correct, 100, np.random.default_rng(3)) == bootstrap_interval(
        correct, 100, np.random.default_rng(3)
    )


def test_pairs_are_told_apart_by_length(context):
    rows = [pair("judged", "q", "a" * chosen, "b" * rejected) for chosen, rejected in ((9, 2), (2, 9), (40, 41))]
    data = open_data(write_data(context, "preference", rows))
    lengths = data.length - data.rejected_length
    groups = by_length(data, np.arange(3))
    assert {name: lengths[which].tolist() for name, which in groups.items()} == {
        "chosen longer": [7],
        "alike": [-1],
        "rejected longer": [-7],
    }


def test_pairs_are_told_apart_by_margin():
    assert by_margin(np.zeros(5)) == {}
    few = by_margin(np.array([1.0, 0.5, 0.5]))
    assert {name: which.tolist() for name, which in few.items()} == {
        "0.5": [False, True, True],
        "1": [True, False, False],
    }
    many = by_margin(np.arange(9.0))
    assert [which.sum() for which in many.values()] == [3, 3, 3]
    assert np.sum(list(many.values()), axis=0).tolist() == [1] * 9


def test_calibration_of_rewards_that_mean_what_they_say():
    chance = np.random.default_rng(0)
    truth = chance.normal(size=20_000) * 2
    wins = chance.random(20_000) < 1 / (1 + np.exp(-truth))  # as Bradley and Terry have it
    margin = np.where(wins, truth, -truth)  # of the chosen side over the other
    levels, error = calibration(margin)
    assert [level["pairs"] for level in levels] == [2000] * 10
    assert all(abs(level["confidence"] - level["accuracy"]) < 0.04 for level in levels)
    assert error < 0.02
    assert calibration(5 * margin)[1] > 0.1  # surer than it may be
    assert calibration(np.zeros(4)) == ([{"confidence": 0.5, "accuracy": 0.5, "pairs": 1}] * 4, 0.0)
    assert calibration(np.zeros(0)) == ([], None)
