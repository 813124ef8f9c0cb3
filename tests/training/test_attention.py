"""Packed rows do not leak, and give what transformers gives for each document alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from training.attention import PACKED
from training.config import ModelConfig
from training.model import Specials, new_causal

LENGTHS = [7, 19, 1, 12]
SHAPES = {
    "llama": ModelConfig(hidden_size=32, layers=2, heads=4, kv_heads=2, max_position=64),
    "olmo3": ModelConfig(
        architecture="olmo3",
        hidden_size=32,
        layers=4,
        heads=4,
        max_position=64,
        sliding_window=5,
        tie_embeddings=False,
    ),
}


def plain_causal(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **ignored):
    """The planted bug: causal over the whole row, as if it were one document."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling).transpose(1, 2), None


AttentionInterface.register("leaking", plain_causal)


@pytest.fixture(params=SHAPES)
def model(request):
    torch.manual_seed(0)
    return new_causal(SHAPES[request.param], 300, Specials(256, 262, 257)).eval()


@torch.no_grad()
def logits(model, documents: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = [len(document) for document in documents]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    row = model(
        torch.cat(documents)[None], position_ids=positions, use_cache=False, document_lengths=lengths
    ).logits[0]
    return list(row.split(lengths))


def documents(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (length,), generator=generator) for length in LENGTHS]


def leaks(model) -> bool:
    """Whether changing one document changes a logit of another one in the row."""
    before = documents()
    found = logits(model, before)
    for changed in range(len(before)):
        after = [*before[:changed], (before[changed] + 1) % 256, *before[changed + 1 :]]
        for other, (old, new) in enumerate(zip(found, logits(model, after), strict=True)):
            if other != changed and not torch.equal(old, new):
                return True
    return False


def test_no_document_sees_another(model):
    assert not leaks(model)


def test_the_leak_test_can_fail(model):
    model.set_attn_implementation("leaking")
    assert leaks(model)


@torch.no_grad()
@pytest.mark.parametrize("theirs", ["eager", "sdpa"])
def test_each_document_is_as_alone_in_transformers(model, theirs):
    """Also of sliding windows: OLMo 3's are shorter than the documents here."""
    found = logits(model, documents())
    model.set_attn_implementation(theirs)
    for document, ours in zip(documents(), found, strict=True):
        torch.testing.assert_close(ours, model(document[None], use_cache=False).logits[0], rtol=1e-4, atol=1e-5)


def test_lengths_that_do_not_fit_are_refused(model):
    row = torch.cat(documents())[None]
    with pytest.raises(ValueError, match="document_lengths"):
        model(row, use_cache=False)
    with pytest.raises(ValueError, match="document_lengths"):
        model(row, use_cache=False, document_lengths=[3, 4])
    assert model.config._attn_implementation == PACKED
