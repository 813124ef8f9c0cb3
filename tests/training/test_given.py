"""A checkpoint from elsewhere as a parent: any causal model of transformers with the pipeline's ids."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from curation.files import read_json, write_json
from training.station import given_checkpoint, train

from .conftest import VOCABULARY
from .test_train import columns, later, weights

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.fixture
def qwen(tmp_path, tokenizer):
    """With fewer rows than the tokenizer has ids, and another type of weights."""
    torch.manual_seed(3)
    config = Qwen3Config(vocab_size=256, intermediate_size=64, max_position_embeddings=128, **SHAPE)
    folder = tmp_path / "qwen"
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    plain = read_json(tokenizer.folder / "tokenizer" / "tokenizer.json")
    write_json(folder / "tokenizer.json", plain | {"added_tokens": []})  # its own tokens: bytes alone
    return folder


def test_it_is_trained_on(context, texts, tokenizer, tiny, qwen):
    parent = given_checkpoint(context, "tuned", qwen, tokenizer)
    before, ours = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32), weights(parent)
    embedding = ours["model.embed_tokens.weight"]
    assert len(embedding) >= VOCABULARY
    assert torch.equal(embedding[:256], before.model.embed_tokens.weight)
    assert torch.equal(ours["model.layers.1.mlp.up_proj.weight"], before.model.layers[1].mlp.up_proj.weight)
    output = train(context, "tuned", texts, tokenizer, parent, later(tiny))
    losses = columns(output, "losses")["loss"]
    assert losses[-1] < losses[0] - 0.3
    head = read_json(output.folder / "checkpoint.json")
    assert head["parent"] == {"name": "given/tuned", "content": parent.content}
    assert AutoModelForCausalLM.from_pretrained(output.folder / "model").config.model_type == "qwen3"
    assert given_checkpoint(context, "tuned", qwen, tokenizer).reused


def test_an_older_architecture(tmp_path, context, texts, tokenizer, tiny):
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    shutil.copyfile(tokenizer.folder / "tokenizer" / "tokenizer.json", tmp_path / "gpt2" / "tokenizer.json")
    parent = given_checkpoint(context, "tuned", tmp_path / "gpt2", tokenizer)
    losses = columns(train(context, "tuned", texts, tokenizer, parent, later(tiny)), "losses")["loss"]
    assert losses[-1] < losses[0]


def test_other_ids_and_other_folders_are_refused(tmp_path, context, tokenizer, qwen):
    content = read_json(qwen / "tokenizer.json")
    vocabulary = content["model"]["vocab"]
    a, b = list(vocabulary)[:2]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    write_json(qwen / "tokenizer.json", content)
    with pytest.raises(ValueError, match="in the pipeline's tokenizer"):
        given_checkpoint(context, "tuned", qwen, tokenizer)
    (qwen / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no such file"):
        given_checkpoint(context, "tuned", qwen, tokenizer)
    with pytest.raises(ValueError, match="weights in safetensors"):
        given_checkpoint(context, "tuned", tmp_path, tokenizer)
