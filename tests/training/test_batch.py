"""Equality: packed or alone, prompt shared or computed twice, in one micro-batch or several. Each with its bug."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training import attention
from training.attention import told
from training.batch import Batch, make_batch, pair_batch
from training.causal_lm import Causal
from training.config import ModelConfig
from training.data import Data, open_data
from training.dpo import DPO, Reference
from training.model import Specials, device, find_specials, hidden_states, new_causal
from training.reward import Reward

from .conftest import END, END_OF_TEXT, PAD, TINY, VOCABULARY, chat, pair, text, write_data

pytestmark = pytest.mark.usefixtures("on_cpu")
SHAPES = {
    "llama": TINY,
    "olmo3": ModelConfig(
        architecture="olmo3", hidden_size=32, layers=4, heads=4, max_position=256, sliding_window=6
    ),
}


@pytest.fixture(params=SHAPES)
def model(request, tokenizer):
    torch.manual_seed(0)
    return new_causal(SHAPES[request.param], 266, find_specials(tokenizer.folder / "tokenizer")).double()


@pytest.fixture
def judged(context) -> Data:
    """A long prompt, answers alike at first, an answer that begins the other, no prompt, equal lengths."""
    rows = [
        pair("judged", "a question of some length", "an answer", "no"),
        pair("judged", "why", "because it is so", "because it is not so, and more"),
        pair("judged", "why not", "yes", "yes, and"),
        replace(pair("judged", "", "x", "yy"), prompt=0),
        pair("judged", "same length", "abc", "abd"),
    ]
    return open_data(write_data(context, "preference", rows))


def methods(data: Data):
    reference = Reference(*np.split(np.linspace(-40, -20, 2 * data.rows), 2))
    return {"dpo": DPO(data, reference, 0.3, "sigmoid_norm", 0.1, 0.5), "reward": Reward(data, 0.01)}


def gradients(model, method, batches: list[Batch]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    losses = [method.outcome(model, batch).loss for batch in batches]
    (sum(loss.sum for loss in losses) / sum(loss.count for loss in losses)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """To float32's rounding: transformers' norms compute in it, whatever the model's type."""
    return all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6) for name in expected)


def with_head(model, name: str):
    if name == "reward":
        model.score = torch.nn.Linear(32, 1, bias=False, dtype=torch.float64)
        model.lm_head.weight.requires_grad_(False) if not model.config.tie_word_embeddings else None
    return model


@pytest.mark.parametrize("name", ["dpo", "reward"])
@pytest.mark.parametrize("longest", [256, 12])
def test_a_shared_prompt_changes_nothing(model, judged, name, longest):
    """Loss and gradients with what both sides begin with computed once, and twice; also of cut sequences."""
    method, rows = methods(judged)[name], np.flatnonzero(judged.prompt + 1 < longest)
    model = with_head(model, name)
    shared, apart = (pair_batch(judged, rows, longest, device(), share) for share in (True, False))
    assert shared.tokens.numel() < apart.tokens.numel() == sum(apart.lengths)
    assert shared.lengths == apart.lengths
    found, expected = gradients(model, method, [shared]), gradients(model, method, [apart])
    assert same(found, expected)
    each = method.outcome(model, shared).loss.each, method.outcome(model, apart).loss.each
    torch.testing.assert_close(*each, rtol=1e-6, atol=1e-6)
    # The planted bugs: a branch that starts counting positions anew, and one that forgets what it shares.
    own = torch.cat([torch.arange(piece) for piece in shared.pieces])[None]
    assert not same(gradients(model, method, [replace(shared, positions=own)]), expected)
    forgetful = replace(shared, lengths=shared.pieces, shared=[0] * len(shared.pieces))
    assert not same(gradients(model, method, [forgetful]), expected)


def by_sequence(query, key, value, begins_q, begins_k, max_q, max_k, *, scale, window_size):
    """What torch's variable-length kernel computes, by its description: a softmax over what a query sees."""
    results = []
    for one, other, first, last in zip(begins_q[:-1], begins_q[1:], begins_k[:-1], begins_k[1:], strict=True):
        queries, keys, values = query[one:other], key[first:last], value[first:last]
        assert len(queries) <= max_q
        assert len(keys) <= max_k
        back = torch.arange(len(keys))[None] - torch.arange(len(queries))[:, None] - len(keys) + len(queries)
        seen = (back <= window_size[1]) & ((back >= -window_size[0]) | torch.tensor(window_size[0] < 0))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(2)
        results.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(results)


@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_the_kernel_is_told_the_same(model, judged, name, monkeypatch):
    """Loss and gradients with a row's documents one by one, and as the variable-length kernel is told of them."""
    method, batch = methods(judged)[name], pair_batch(judged, np.arange(judged.rows), 256, device())
    model = with_head(model, name)
    expected = gradients(model, method, [batch])
    monkeypatch.setattr(attention, "has_kernel", lambda _: True)
    monkeypatch.setattr(attention, "varlen_attn", by_sequence)
    monkeypatch.setattr(attention, "OPTIONS", {"window_size"})
    assert same(gradients(model, method, [batch]), expected)

    def mistold(*given):  # the planted bug: a branch that goes on from the side after its own
        arguments = told(*given)
        return arguments | {"key_places": arguments["key_places"].roll(1)}

    monkeypatch.setattr("training.model.told", mistold)
    assert not same(gradients(model, method, [batch]), expected)


@torch.no_grad()
def test_neither_side_of_a_pair_sees_the_other(model, judged):
    batch = pair_batch(judged, np.arange(judged.rows), 256, device())
    before = hidden_states(model, batch).split(batch.pieces)
    half = len(batch.pieces) // 2
    for changed in range(half):  # the chosen side beyond what is shared
        first = sum(batch.pieces[:changed]) + batch.shared[half + changed]
        tokens = batch.tokens.clone()
        tokens[0, first : sum(batch.pieces[: changed + 1])] = PAD
        after = hidden_states(model, replace(batch, tokens=tokens)).split(batch.pieces)
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            assert torch.equal(old, new) == (place != changed)
    tokens = batch.tokens.clone()  # and the prompt is seen by both sides of its pair, by no other
    tokens[0, 0] = PAD
    after = hidden_states(model, replace(batch, tokens=tokens)).split(batch.pieces)
    kept = [torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    moved = [place for place, equal in enumerate(kept) if not equal]
    assert moved == ([0, half] if batch.shared[half] else [0])


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12), st.integers(2, 14))
def test_places_of_a_pair_are_those_of_its_sequences(chosen, rejected, longest):
    """What `selected` points at, and what is expected there, against plain loops over each side."""
    sides = [[9, 8, *chosen, 7], [9, 8, *rejected, 7]]
    tokens = np.array(sides[0] + sides[1], np.uint16)
    data = _pair_of(tokens, len(sides[0]))
    batch = pair_batch(data, np.array([0]), longest, device())
    row, found = batch.tokens[0].tolist(), []
    for place, target in zip(batch.selected.tolist(), batch.targets.tolist(), strict=True):
        found.append((row[place], target))
    expected = [(side[n - 1], side[n]) for side in (side[:longest] for side in sides) for n in range(1, len(side))]
    assert found == expected
    shared = batch.shared[1]
    assert sides[0][:shared] == sides[1][:shared]
    assert shared >= min(2, longest - 1)
    assert batch.positions[0].tolist() == [*range(batch.lengths[0]), *range(shared, batch.lengths[1])]


def _pair_of(tokens: np.ndarray, length: int) -> Data:
    one = {name: np.array([value]) for name, value in (("start", 0), ("length", length), ("prompt", 1))}
    one |= {"rejected_start": np.array([length]), "rejected_length": np.array([len(tokens) - length])}
    empty = dict.fromkeys(("folder", "head", "ids", "sources", "source", "copies", "order", "bytes", "margin"))
    return Data(**{**empty, **one, "tokens": tokens, "mask": np.ones(len(tokens), np.uint8)})


def test_packed_documents_learn_what_each_learns_alone(context, model):
    data = open_data(write_data(context, "pretrain", [text("web", "abc " * n) for n in (1, 9, 3, 5)]))
    nothing = np.zeros(data.rows, np.int64)

    def batch(rows: np.ndarray) -> Batch:
        return make_batch(data, rows, data.start[rows], data.length[rows], nothing[rows], device())

    method = Causal(data, z_loss=1e-3)
    packed = batch(np.arange(data.rows))
    alone = gradients(model, method, [batch(np.array([row])) for row in range(data.rows)])
    assert same(gradients(model, method, [packed]), alone)
    # The planted bug: one long document, so that each attends to those before it.
    leaking = replace(packed, lengths=[sum(packed.lengths)], shared=[0])
    assert not same(gradients(model, method, [leaking]), alone)


def test_a_document_without_loss_adds_nothing(context, model):
    """It is computed, and no term of the loss is its own; the planted bug: its tokens count."""
    answer = text("talk", "an answer that is learned")
    silent = replace(text("talk", "a question alone"), mask=[0] * len(text("talk", "a question alone").tokens))
    data = open_data(write_data(context, "instruct", [answer, silent]))

    def found(rows: list[int], mask: np.ndarray = data.mask) -> dict[str, torch.Tensor]:
        rows = np.array(rows)
        nothing = np.zeros(len(rows), np.int64)
        with_mask = replace(data, mask=mask)
        batch = make_batch(with_mask, rows, data.start[rows], data.length[rows], nothing, device())
        return gradients(model, Causal(with_mask), [batch])

    learned = int(np.flatnonzero(data.length == len(answer.tokens))[0])
    assert same(found([0, 1]), found([learned]))
    assert not same(found([0, 1], np.ones_like(data.mask)), found([learned]))


def test_a_pad_token_that_ends_answers_stays_in_the_loss_there_alone(context):
    """Against transformers' own loss on padded rows. The planted bug: every pad token is kept out of the loss."""
    torch.manual_seed(0)
    model = new_causal(TINY, VOCABULARY, Specials(END_OF_TEXT, END, pad=END))
    rows = [
        chat("talk", "why", "since"),
        chat("talk", "how is it", "so"),
        chat("talk", "a", "an answer that is long"),
    ]
    data = open_data(write_data(context, "instruct", rows))
    places, nothing = np.arange(3), np.zeros(3, np.int64)
    batch = make_batch(data, places, data.start, data.length, nothing, device())
    assert np.count_nonzero(batch.target_ids == END) == 3
    with torch.no_grad():
        ours = Causal(data).outcome(model, batch).loss
    model.set_attn_implementation("eager")
    longest = int(data.length.max())
    ids, labels = torch.full((3, longest), END), torch.full((3, longest), -100)
    for place, (start, length) in enumerate(zip(data.start.tolist(), data.length.tolist(), strict=True)):
        tokens = torch.from_numpy(data.tokens[start : start + length].astype(np.int64))
        ids[place, :length] = tokens
        labels[place, :length] = tokens.masked_fill(torch.from_numpy(data.mask[start : start + length] == 0), -100)
    seen = torch.arange(longest)[None] < torch.from_numpy(data.length)[:, None]

    def theirs(labels: torch.Tensor) -> tuple[float, int]:
        with torch.no_grad():
            loss = model(input_ids=ids, attention_mask=seen.long(), labels=labels).loss
        return float(loss), int((labels[:, 1:] != -100).sum())

    found = theirs(labels)
    assert (float(ours.sum) / ours.count, ours.count) == (pytest.approx(found[0], rel=1e-5), found[1])
    wrong = theirs(labels.masked_fill(ids == END, -100))
    assert wrong[1] == ours.count - 3
    assert abs(wrong[0] - found[0]) > 1e-3
