"""Ready settings: shapes as published, sizes told before a run, memory near what is kept."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from transformers import Olmo3Config, Olmo3ForCausalLM

from curation.files import read_json
from training.batch import Batch
from training.config import PRESETS, Lora, ModelConfig, Preset, TrainConfig
from training.model import Specials, hidden_states, new_causal, trade_memory
from training.size import KEPT, KEPT_BY_FEED_FORWARD, parameters, size, width
from training.station import train

DOLMA = 100_278  # ids of the Olmo 3 tokenizer
SHAPED = [name for name in get_args(Preset) if TrainConfig(preset=name).model is not None]


def built(shape: ModelConfig, vocabulary: int):
    with torch.device("meta"):
        return new_causal(shape, vocabulary, Specials(0, 1, 2))


def test_every_file_is_a_preset():
    assert {path.stem for path in PRESETS.glob("*.yaml")} == set(get_args(Preset))
    assert SHAPED == ["tiny", "small", "1b", "7b"]


@pytest.mark.parametrize("name", SHAPED)
def test_sizes_are_those_of_the_model(name):
    shape = TrainConfig(preset=name).model
    model = built(shape, DOLMA)
    assert parameters(shape, DOLMA) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("changes", [{"kv_heads": 2}, {"tie_embeddings": False}, {"architecture": "llama"}])
def test_sizes_of_other_shapes(changes):
    shape = ModelConfig(**{"architecture": "olmo3", "hidden_size": 96, "layers": 3, "heads": 6} | changes)
    assert parameters(shape, 1000) == sum(parameter.numel() for parameter in built(shape, 1000).parameters())


@pytest.mark.parametrize("lora", [None, Lora(rank=4), Lora(rank=4, targets=("q_proj", "up_proj"))])
def test_a_model_by_its_config_is_as_large_as_by_its_shape(lora):
    shape = ModelConfig(hidden_size=96, layers=3, heads=6, kv_heads=2, tie_embeddings=False)
    given = {
        "model_type": "llama",
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": width(shape),
        "tie_word_embeddings": False,
    }
    config = TrainConfig(model=shape, lora=lora)
    assert size(ModelConfig(config=given), 1000, config) == size(shape, 1000, config)
    deeper = size(ModelConfig(config=given | {"num_hidden_layers": 4}), 1000, config)
    assert deeper.memory > size(shape, 1000, config).memory


def test_the_7b_model_is_olmo_3():
    """7.3B parameters; 7,298,011,136 where the embedding has the tokenizer's 100,278 rows, as it is released."""
    shape = TrainConfig(preset="7b").model
    model = built(shape, DOLMA)
    assert model.config.vocab_size == 100_352  # the padded vocabulary that it was trained with
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total - 2 * 74 * 4096 == 7_298_011_136
    theirs = Olmo3Config(
        vocab_size=DOLMA, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    with torch.device("meta"):
        assert sum(one.numel() for one in Olmo3ForCausalLM(theirs).parameters()) == 7_298_011_136
    windows = [kind == "sliding_attention" for kind in model.config.layer_types]
    assert windows == [True, True, True, False] * 8
    assert model.config.rms_norm_eps == 1e-6
    assert model.config.rope_parameters["full_attention"]["rope_theta"] == 500_000
    assert parameters(TrainConfig(preset="1b").model, DOLMA) == 1_484_916_736  # OLMo 2 1B's shape and number


def test_the_published_settings():
    rows = {
        "7b": (3e-4, 2000, 0.1, 4_194_304, 8_192, "cosine"),
        "7b-midtrain": (2.0712352850360292e-4, 0, 0.0, 2_097_152, 8_192, "linear"),
        "7b-long-context": (2.0712352850360292e-4, 200, 0.0, 4_194_304, 65_536, "linear"),
    }
    for name, expected in rows.items():
        one = TrainConfig(preset=name)
        found = (
            one.learning_rate,
            one.warmup_steps,
            one.final_share,
            one.batch_tokens,
            one.sequence_length,
            one.schedule,
        )
        assert found == expected
        assert (one.betas, one.weight_decay, one.clip, one.z_loss) == ((0.9, 0.95), 0.1, 1.0, 1e-5)
    assert TrainConfig(preset="7b-long-context").yarn_factor == 8


def test_what_is_given_goes_before_the_preset():
    config = TrainConfig(preset="7b", learning_rate=1e-4, model={"layers": 16})
    assert (config.learning_rate, config.model.layers, config.model.hidden_size) == (1e-4, 16, 4096)
    assert "preset" not in config.model_dump(mode="json")  # the values are the identity, not their name
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config.model_copy(update={"preset": None})
    with pytest.raises(ValueError, match="'tiny', 'small', '1b'"):
        TrainConfig(preset="70b")


def test_the_tiny_preset_trains(context, texts, tokenizer):
    output = train(context, "pretrain", texts, tokenizer, None, TrainConfig(preset="tiny", max_steps=1, threads=1))
    assert read_json(output.folder / "checkpoint.json")["parameters"] == parameters(
        TrainConfig(preset="tiny").model, 263
    )


def kept(shape: ModelConfig, tokens: int, traded: bool) -> int:
    """The numbers that a forward pass keeps for the backward pass, a token, parameters apart."""
    model = new_causal(shape, 1000, Specials(0, 1, 2)).train()
    if traded:
        trade_memory(model)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    lengths, nothing = [tokens // 4] * 4, torch.zeros(0, dtype=torch.int64)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    batch = Batch(
        tokens=positions, positions=positions, lengths=lengths, shared=[0] * 4, rows=nothing.numpy(),
        selected=nothing, targets=nothing, target_ids=nothing.numpy(), sequence=nothing.numpy(),
    )  # fmt: skip
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden_states(model, batch)
    return sum(size for size, _ in storages.values()) // 4 // tokens


@pytest.mark.parametrize("spared", [0, {"llama": 2, "olmo3": 5}], ids=["torch", "kernels"])
@pytest.mark.parametrize("architecture", ["llama", "olmo3"])
def test_activations_are_as_many_as_is_said(architecture, spared, monkeypatch):
    """The kernels of `training.norm`, which a CPU has, keep less."""
    if not spared:
        monkeypatch.setattr("training.model.fuse_norms", lambda model: model)
    for traded in (False, True):
        few, many = (
            kept(ModelConfig(architecture=architecture, hidden_size=128, layers=layers, heads=4), 512, traded)
            for layers in (2, 6)
        )
        shape = ModelConfig(hidden_size=128)
        kept_of_hidden = KEPT[architecture] - (spared[architecture] if spared else 0)
        said = 128 if traded else kept_of_hidden * 128 + KEPT_BY_FEED_FORWARD * width(shape)
        assert (many - few) / 4 == pytest.approx(said, rel=0.05)


def test_memory_of_a_stage():
    config = TrainConfig(preset="7b")
    one = size(config.model, DOLMA, config)
    assert one.state == pytest.approx(7.3e9 * 16 / 8, rel=0.01)
    assert 20e9 < one.memory < 60e9  # fits a GPU of 80 GB
    alone = config.model_copy(update={"processes": 1, "sharding": "none"})
    assert size(config.model, DOLMA, alone).memory > 116e9
    kept_all = config.model_copy(update={"gradient_checkpointing": False})
    assert size(config.model, DOLMA, kept_all).activations > 10 * one.activations / 3
    adapters = alone.model_copy(update={"lora": Lora(rank=16)})
    small = size(config.model, DOLMA, adapters)
    assert small.trained == 32 * 16 * (4 * 8192 + 3 * (4096 + 11008))
    assert small.state < 30e9
