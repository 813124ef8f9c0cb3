"""bfloat16 products: refused where they do not pay; else losses near those of float32, and weights in it."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from training import precision
from training.config import TrainConfig
from training.model import device
from training.station import train


def losses(output) -> np.ndarray:
    return pq.read_table(output.folder / "losses.parquet")["loss"].to_numpy()


def test_what_does_not_pay_is_refused(context, texts, tokenizer, tiny, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_gain", lambda _: 0.02)
    with pytest.raises(ValueError, match="0\\.02 times as fast as in float32"):
        train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"precision": "bfloat16"}))


def test_the_gain_is_a_positive_number():
    assert precision.bfloat16_gain(device()) > 0


def test_losses_are_near_and_weights_stay_whole(context, texts, pairs, tokenizer, tiny, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_gain", lambda _: 2.0)  # also where it is emulated
    rounded = tiny.model_copy(update={"precision": "bfloat16"})
    runs = [train(context, "pretrain", texts, tokenizer, None, settings) for settings in (tiny, rounded)]
    assert not np.array_equal(losses(runs[0]), losses(runs[1]))
    assert np.allclose(losses(runs[0]), losses(runs[1]), rtol=0.01)
    weights = load_file(runs[1].folder / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # DPO starts at its reference: both are computed alike
    settings = TrainConfig(**rounded.model_dump() | {"model": None, "method": "dpo", "max_steps": 2})
    dpo = train(context, "dpo", pairs, tokenizer, runs[1], settings)
    assert losses(dpo)[0] == pytest.approx(np.log(2), abs=2e-3)
