"""Models from scratch of any architecture that transformers has, by its own config."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from curation.config import ConfigError
from training.config import ModelConfig, TrainConfig, with_model_file
from training.model import Specials, new_causal
from training.station import train
from training.work import Job

from .conftest import END_OF_TEXT, PAD, VOCABULARY
from .test_options import interrupted
from .test_train import columns, weights

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 7}
QWEN2 = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_theta": 5000.0,  # as configs of transformers 4 have it
    "architectures": ["Qwen2ForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "code.Model"},  # never followed
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize("content", [GPT2, QWEN2], ids=["gpt2", "qwen2"])
def test_a_config_of_transformers_is_trained(context, texts, tokenizer, tiny, tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    by_file = tiny.model_copy(update={"model": ModelConfig(config=str(path)), "epochs": 2})
    output = train(context, "pretrain", texts, tokenizer, None, by_file)
    losses = columns(output, "losses")["loss"]
    assert losses[-1] < losses[0] - 0.5
    model = AutoModelForCausalLM.from_pretrained(output.folder / "model")
    assert model.config.model_type == content["model_type"]
    assert (model.config.pad_token_id, model.config.eos_token_id) == (PAD, END_OF_TEXT)
    assert VOCABULARY <= model.config.vocab_size < VOCABULARY + 128
    assert model.config.hidden_size == 32
    assert not hasattr(model.config, "auto_map")
    if content is QWEN2:
        assert model.config.rope_parameters["rope_theta"] == 5000.0
    literal = by_file.model_copy(update={"model": ModelConfig(config=content)})
    assert train(context, "pretrain", texts, tokenizer, None, literal).reused  # its content counts, not its path
    path.write_text(json.dumps({**content, "initializer_range": 0.03}))
    other = train(context, "pretrain", texts, tokenizer, None, by_file)
    assert not other.reused
    assert not np.array_equal(columns(other, "losses")["loss"], losses)


def test_experts_go_on_from_a_checkpoint(context, texts, tokenizer, tiny, tmp_path, monkeypatch):
    """Mixtral was published with a matrix for each expert, and is computed with one for all of them."""
    content = {key: QWEN2[key] for key in QWEN2 if key.endswith(("size", "layers", "heads", "embeddings"))}
    shape = ModelConfig(config={**content, "model_type": "mixtral", "num_local_experts": 4})
    settings = tiny.model_copy(update={"model": shape, "checkpoint_every": 3})
    whole = train(context, "pretrain", texts, tokenizer, None, settings)
    assert any(name.endswith("experts.3.w1.weight") for name in weights(whole))
    stopped = interrupted(monkeypatch, tmp_path / "stopped", "pretrain", texts, tokenizer, None, settings)
    (kept,) = stopped.workspace.rglob("step-*/model")
    told = AutoModelForCausalLM.from_pretrained(kept, output_loading_info=True)[1]
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert train(stopped, "pretrain", texts, tokenizer, None, settings).content == whole.content


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "theirs", "auto_map": {"AutoModelForCausalLM": "code.Model"}}, "code from elsewhere"),
        ({"model_type": "vit"}, "no causal model of type 'vit'"),
        ({**QWEN2, "num_hiden_layers": 2} | {"num_hidden_layers": 2}, None),
        ({"model_type": "qwen2", "hiden_size": 32}, "did you mean 'hidden_size'"),
        ({**QWEN2, "hidden_size": "many"}, "expected int"),
        ({"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 1}, "mixwright_packed"),
    ],
)
def test_a_config_that_gives_no_model(config, reason):
    def build():
        return new_causal(ModelConfig(config=config), VOCABULARY, Specials(END_OF_TEXT, END_OF_TEXT, PAD))

    if reason is None:  # an unknown key that stands beside the one it resembles: of other times, not mistyped
        assert build().config.num_hidden_layers == 2
        return
    with pytest.raises(ValueError, match=reason):
        build()


def test_what_is_no_config(tmp_path, tiny):
    with pytest.raises(ValueError, match="leave hidden_size, layers out"):
        ModelConfig(config=GPT2, hidden_size=64, layers=2)
    with pytest.raises(ValueError, match="names its model_type"):
        ModelConfig(config={"n_embd": 32})
    for name, content in (("missing", None), ("broken", "{"), ("list", "[]"), ("nameless", "{}")):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=name):
            with_model_file(tiny.model_copy(update={"model": ModelConfig(config=name)}), tmp_path)


def test_a_preset_gives_its_shape_up_and_processes_are_told_all(tmp_path):
    config = TrainConfig(preset="tiny", model={"config": GPT2})
    assert config.sequence_length == 256
    job = Job(config, tmp_path, tmp_path, None, None, tmp_path, tmp_path, tmp_path)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json").config == config.model_copy(update={"preset": None})
