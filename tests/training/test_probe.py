"""Models that train here, and models that would train wrongly and are refused."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    NemotronConfig,
    Phi3Config,
    PhiConfig,
    Qwen3Config,
)

from training.attention import PACKED
from training.probe import ModelError, probe

COMMON = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
COMMON |= {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
OUTPUT, PACKING = "a bias, a scale or a cap", "sees another one"
GOOD = {
    "llama": LlamaConfig(**COMMON),
    "qwen3": Qwen3Config(**COMMON, head_dim=8),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": GPTNeoXConfig(**{**COMMON, "num_key_value_heads": 4}),
    "phi3": Phi3Config(**COMMON),  # queries, keys and values of one matrix
    "mixtral": MixtralConfig(**COMMON, num_local_experts=4),  # experts round what they multiply together
}
BAD = {
    "scaled logits": (CohereConfig(**COMMON), OUTPUT),
    "capped logits": (
        Gemma2Config(**COMMON, head_dim=8, attn_logit_softcapping=None),
        "final_logit_softcapping is 30",
    ),
    "capped scores": (
        Gemma2Config(**COMMON, head_dim=8, final_logit_softcapping=None),
        "attn_logit_softcapping is 50",
    ),
    "attention sinks": (GptOssConfig(**COMMON, head_dim=8, num_local_experts=4), "sinks"),
    "lengths that do not reach attention": (NemotronConfig(**COMMON, head_dim=8), "attention interface"),
    "a bias on the logits": (PhiConfig(**{**COMMON, "num_key_value_heads": 4}), OUTPUT),
    "a state instead of attention": (
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),
        "sees another",
    ),
}


def build(config):
    torch.manual_seed(0)
    if config.model_type == "mamba":
        return AutoModelForCausalLM.from_config(config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED)
    for name, parameter in model.named_parameters():
        if name == "lm_head.bias":
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("name", GOOD)
def test_models_that_attend_and_multiply_are_taken(name):
    model = build(GOOD[name]).train()
    probe(model)
    assert model.training


@pytest.mark.parametrize("name", BAD)
def test_models_that_would_train_wrongly_are_refused(name):
    config, reason = BAD[name]
    with pytest.raises(ModelError, match=reason):
        probe(build(config))
