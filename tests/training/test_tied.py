"""A tied embedding whose gradient is added by hand gets what autograd gives it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from training import tied
from training.attention import PACKED
from training.head import cross_entropy
from training.model import Specials, head_weight, new_causal
from training.parallel import twin
from training.tied import join_gradients

from .conftest import TINY, VOCABULARY

PAD = 2


def gpt2():
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    return AutoModelForCausalLM.from_config(config, attn_implementation=PACKED).eval()  # without dropout


def llama(tie_embeddings: bool = True):
    return new_causal(TINY.model_copy(update={"tie_embeddings": tie_embeddings}), VOCABULARY, Specials(0, 1, PAD))


def gradients(model, micro_batches: int = 2, in_loss: int = 5) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    for _ in range(micro_batches):
        tokens = torch.randint(0, 9, (1, 24), generator=draw)  # few of them, the pad token too: all stand often
        states = model.base_model(tokens, position_ids=torch.arange(24)[None], document_lengths=[24])
        targets = tokens[0, 24 - in_loss :]
        loss = cross_entropy(states.last_hidden_state[0, 23 - in_loss : 23], head_weight(model), targets)[0]
        (loss + states.last_hidden_state.square().sum()).backward()
    return [parameter.grad for parameter in model.parameters()]


def agree(model, **how) -> bool:
    plain = copy.deepcopy(model)
    join_gradients(model)
    pairs = zip(gradients(model, **how), gradients(plain, **how), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max())) for a, b in pairs)


@pytest.mark.parametrize("how", [{}, {"micro_batches": 1}, {"in_loss": 0}])
@pytest.mark.parametrize("make", [llama, gpt2, lambda: llama(False)], ids=["llama", "gpt2", "untied"])
def test_gradients_are_those_of_autograd(make, how):
    assert agree(make(), **how)


def test_twins_have_gradients_of_their_own():
    model = llama()
    plain = copy.deepcopy(model)
    join_gradients(model)
    other = twin(model)
    found = gradients(other)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, gradients(plain), strict=True))


def test_a_gradient_of_the_pad_token_is_seen(monkeypatch):
    model = llama()
    assert model.get_input_embeddings().padding_idx == PAD
    honest = tied._apart

    def careless(embedding, inputs, output):
        monkeypatch.setattr(embedding, "padding_idx", None)
        return honest(embedding, inputs, output)

    monkeypatch.setattr(tied, "_apart", careless)
    assert not agree(model)


def test_a_frozen_embedding_stays_without():
    model = llama()
    model.get_input_embeddings().weight.requires_grad_(False)
    join_gradients(model)
    assert not model.get_input_embeddings()._forward_hooks
