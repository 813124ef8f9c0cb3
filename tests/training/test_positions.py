"""A longer context: the published frequencies on the chosen layers, nothing on the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Olmo3Config

from curation.files import read_json
from training.config import ModelConfig, TrainConfig
from training.positions import extend_positions
from training.station import train

from .conftest import TINY
from .test_train import later

OLMO = ModelConfig(architecture="olmo3", hidden_size=64, layers=4, heads=2, max_position=128, rope_theta=5e5)


def yarn_frequencies(width: int, base: float, factor: float, before: int, fast: float, slow: float) -> np.ndarray:
    """Peng et al. 2023, section 3.2, from the paper, the limits rounded outwards as in its code."""
    dimension = np.arange(width // 2)
    frequency = base ** (-2 * dimension / width)

    def where(rotations: float) -> float:
        return width * math.log(before / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(where(fast)), 0), min(math.ceil(where(slow)), width - 1)
    kept = 1 - np.clip((dimension - low) / (high - low), 0, 1)
    return frequency * kept + frequency / factor * (1 - kept)


@pytest.fixture
def olmo(context, texts, tokenizer, tiny):
    settings = tiny.model_copy(update={"model": OLMO, "max_steps": 1})
    return train(context, "pretrain", texts, tokenizer, None, settings)


def frequencies(output, kind: str) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(output.folder / "model")
    return getattr(model.model.rotary_emb, f"{kind}_inv_freq").double().numpy()


def test_yarn_stretches_full_attention_alone(context, texts, tokenizer, tiny, olmo):
    settings = later(
        tiny, yarn_factor=8, sequence_length=1000, micro_batch_tokens=1024, batch_tokens=1024, max_steps=1
    )
    output = train(context, "long", texts, tokenizer, olmo, settings)
    plain = 5e5 ** (-np.arange(0, 32, 2) / 32)
    stretched = yarn_frequencies(32, 5e5, 8, 128, 32, 1)
    assert np.allclose(frequencies(output, "sliding_attention"), plain, rtol=1e-6)
    assert np.allclose(frequencies(output, "full_attention"), stretched, rtol=1e-6)
    assert not np.allclose(stretched, plain, rtol=1e-2)
    config = read_json(output.folder / "model" / "config.json")
    assert config["max_position_embeddings"] == 1024
    assert config["rope_parameters"]["full_attention"]["beta_fast"] == 32
    model = AutoModelForCausalLM.from_pretrained(output.folder / "model")
    assert model.model.rotary_emb.full_attention_attention_scaling == pytest.approx(0.1 * math.log(8) + 1)
    with pytest.raises(ValueError, match="stretched already"):
        train(context, "longer", texts, tokenizer, output, later(tiny, yarn_factor=2.0, max_steps=1))


def test_another_base_on_chosen_layers(context, texts, tokenizer, tiny, olmo):
    settings = later(tiny, rope_theta=8e6, max_position=256, rope_layers=["full_attention"], max_steps=1)
    output = train(context, "long", texts, tokenizer, olmo, settings)
    assert np.allclose(frequencies(output, "full_attention"), 8e6 ** (-np.arange(0, 32, 2) / 32), rtol=1e-6)
    assert np.allclose(frequencies(output, "sliding_attention"), 5e5 ** (-np.arange(0, 32, 2) / 32), rtol=1e-6)
    assert read_json(output.folder / "model" / "config.json")["max_position_embeddings"] == 256


def test_every_layer_of_a_model_with_one_kind():
    config = LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    extend_positions(config, TrainConfig(yarn_factor=4, yarn_beta_fast=16))
    assert config.rope_parameters["factor"] == 4
    assert config.rope_parameters["beta_fast"] == 16
    assert config.max_position_embeddings == 256
    everywhere = Olmo3Config(num_hidden_layers=4)
    extend_positions(everywhere, TrainConfig(yarn_factor=4, rope_layers=("full_attention", "sliding_attention")))
    assert {line["rope_type"] for line in everywhere.rope_parameters.values()} == {"yarn"}


def test_what_cannot_be_extended_is_refused(context, texts, tokenizer, tiny):
    with pytest.raises(ValueError, match="no layers of kind 'linear_attention'; it has full_attention"):
        extend_positions(Olmo3Config(), TrainConfig(rope_theta=1e6, rope_layers=("linear_attention",)))
    with pytest.raises(ValueError, match="one kind alone"):
        extend_positions(LlamaConfig(), TrainConfig(rope_theta=1e6, rope_layers=("full_attention",)))
    with pytest.raises(ValueError, match="max_position goes with"):
        TrainConfig(max_position=4096)
    with pytest.raises(ValueError, match="leave max_position out"):
        TrainConfig(yarn_factor=2, max_position=4096)
    with pytest.raises(ValueError, match="yarn_factor is of method causal only"):
        TrainConfig(method="dpo", yarn_factor=2)
    with pytest.raises(ValueError, match=r"give model\.max_position"):
        train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"rope_theta": 1e6}))


def test_extended_models_attend_as_transformers_does(context, texts, tokenizer, tiny, olmo):
    """Our packed attention and theirs, on a text beyond the old context."""
    from training.model import load_causal

    settings = later(tiny, yarn_factor=8, max_steps=1)
    folder = train(context, "long", texts, tokenizer, olmo, settings).folder / "model"
    ids = torch.randint(0, 256, (1, 300), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = load_causal(folder)(ids, use_cache=False, document_lengths=[300]).logits
        theirs = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert TINY.rope_theta != OLMO.rope_theta
