"""Losses against values worked out by hand and against plain autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy

from training import head
from training.losses import bradley_terry, causal, dpo, dpo_margin, dpo_weight


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


# Log-probabilities of one pair: policy chosen and rejected, reference chosen and rejected; tokens 8 and 12.
PAIR = one(-20), one(-30), one(-22), one(-29)
LENGTHS = {"chosen_tokens": one(8), "rejected_tokens": one(12)}


@pytest.mark.parametrize(
    ("kind", "beta", "smoothing", "expected"),
    [
        ("sigmoid", 0.1, 0.0, 0.554355),
        ("sigmoid", 0.1, 0.1, 0.584355),
        ("robust", 0.1, 0.1, 0.516855),
        ("hinge", 0.1, 0.0, 0.7),
        ("ipo", 0.1, 0.0, 21.777778),
        ("sigmoid_norm", 0.1, 0.0, 0.676619),
        ("sigmoid_norm", 5.0, 0.0, 0.173008),
    ],
)
def test_dpo_by_hand(kind, beta, smoothing, expected):
    loss = dpo(dpo_margin(*PAIR, beta, kind, **LENGTHS), beta, kind, smoothing)
    assert loss.sum.item() == pytest.approx(expected, abs=1e-6)
    assert loss.count == 1


def test_ipo_on_sums_is_that_of_the_authors():
    """One token each: nothing is averaged."""
    lengths = {"chosen_tokens": one(1), "rejected_tokens": one(1)}
    assert dpo(dpo_margin(*PAIR, 0.1, "ipo", **lengths), 0.1, "ipo").sum.item() == pytest.approx(4.0)


def test_robust_loss_is_unbiased_under_flips():
    """Chowdhury et al. 2024, lemma 3.2: over labels flipped with chance e, its mean is the true label's loss."""
    margin, e = torch.tensor([0.3, -2.0], dtype=torch.float64), 0.2
    kept, flipped = dpo(margin, 0.1, "robust", e).each, dpo(-margin, 0.1, "robust", e).each
    torch.testing.assert_close((1 - e) * kept + e * flipped, dpo(margin, 0.1).each)


def test_the_weight_of_a_pair_is_how_wrong_its_reward_is():
    """Rafailov et al. 2023, equation 7: sigmoid(reward of rejected - reward of chosen)."""
    margin = dpo_margin(*PAIR, 0.1)
    assert dpo_weight(margin, 0.1, "sigmoid").item() == pytest.approx(1 / (1 + 2.718281828459045**0.3))
    assert dpo_weight(margin, 0.1, "hinge").item() == 1
    assert dpo_weight(one(1.5), 0.1, "hinge").item() == 0
    policy = PAIR[0].clone().requires_grad_()
    dpo(dpo_margin(policy, *PAIR[1:], 0.1), 0.1).sum.backward()
    assert policy.grad.item() == pytest.approx(-0.1 * dpo_weight(margin, 0.1, "sigmoid").item())


@pytest.mark.parametrize("kind", ["ipo", "sigmoid_norm"])
def test_averages_want_lengths(kind):
    with pytest.raises(ValueError, match="chosen_tokens"):
        dpo_margin(*PAIR, 0.1, kind)


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 0.251929), ({"margin": one(0.5)}, 0.386871), ({"centring": 0.01}, 0.282554)]
)
def test_bradley_terry_by_hand(options, expected):
    assert bradley_terry(one(1.5), one(0.25), **options).sum.item() == pytest.approx(expected, abs=1e-6)


def test_sums_of_parts_are_the_sum_of_the_whole():
    chosen, rejected = torch.randn(2, 7, dtype=torch.float64)
    whole = bradley_terry(chosen, rejected)
    parts = [bradley_terry(chosen[part], rejected[part]) for part in (slice(0, 2), slice(2, 7))]
    assert sum(part.count for part in parts) == whole.count
    assert sum(part.sum for part in parts).item() == pytest.approx(whole.sum.item())
    means = sum(part.sum / part.count for part in parts) / 2  # the bug: a mean of means
    assert means.item() != pytest.approx((whole.sum / whole.count).item())


@pytest.fixture
def rows(monkeypatch):
    """Hidden states, output matrix and targets that need several chunks, the last one short."""
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", 1)
    monkeypatch.setattr(head, "SMALLEST_CHUNK", 5)
    torch.manual_seed(0)
    hidden = torch.randn(13, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(0, 11, (13,))


@pytest.fixture(params=[False, True])
def products(request, monkeypatch):
    """Also with what the compiler is given for a GPU, not compiled."""
    monkeypatch.setattr(head, "_compiled_slopes", lambda: head._fusible_slopes)
    return head.Products(fused=request.param)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_fused_cross_entropy_is_the_definition(rows, z_loss, products):
    hidden, weight, targets = rows
    logits = hidden @ weight.T
    nll = torch_cross_entropy(logits, targets, reduction="none")
    expected = causal(nll, torch.ones(13, dtype=torch.bool), logits.logsumexp(1), z_loss)
    found, each = head.cross_entropy(hidden, weight, targets, z_loss, products)
    torch.testing.assert_close(found, expected.sum)
    torch.testing.assert_close(each, nll)
    assert not each.requires_grad
    gradients = torch.autograd.grad(3 * expected.sum, [hidden, weight])
    for ours, theirs in zip(torch.autograd.grad(3 * found, [hidden, weight]), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_gradients_are_computed_that_nobody_wants(rows, monkeypatch):
    """And what is found without them has the bits of what is found with them: DPO compares the two."""
    hidden, weight, targets = (
        tensor.detach().float() if tensor.is_floating_point() else tensor for tensor in rows
    )
    weight.requires_grad_()
    expected = head.cross_entropy(hidden, weight, targets)[1], head.token_logps(hidden, weight, targets)
    monkeypatch.setattr(head, "_slopes", None)
    with torch.no_grad():
        found = head.cross_entropy(hidden, weight, targets)[1], head.token_logps(hidden, weight, targets)
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


@pytest.mark.parametrize("kept", [0, 7 * 11, 1 << 20])  # no softmax, that of one chunk, and all
def test_token_logps_are_log_softmax(rows, kept, products, monkeypatch):
    monkeypatch.setitem(head.KEPT_LOGITS, "cpu", kept)
    hidden, weight, targets = rows
    expected = -torch_cross_entropy(hidden @ weight.T, targets, reduction="none")
    found = head.token_logps(hidden, weight, targets, products)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(13, dtype=torch.float64) - 4
    gradients = torch.autograd.grad((weights * expected).sum(), [hidden, weight])
    for ours, theirs in zip(
        torch.autograd.grad((weights * found).sum(), [hidden, weight]), gradients, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("function", [head.cross_entropy, head.token_logps])
def test_a_frozen_output_matrix_is_given_no_gradient(rows, function, monkeypatch):
    """As under adapters: neither its memory nor its product is spent."""
    hidden, weight, targets = rows

    def value(weight):
        found = function(hidden, weight, targets)
        return found[0] if isinstance(found, tuple) else found.sum()

    expected = torch.autograd.grad(value(weight), hidden)[0]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros_like", None)
        assert torch.equal(torch.autograd.grad(value(weight.detach()), hidden)[0], expected)


def test_mask_leaves_tokens_out():
    nll, log_partition = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 2.0])
    loss = causal(nll, torch.tensor([True, False, True]), log_partition, z_loss=0.5)
    assert (loss.sum.item(), loss.count) == (1.0 + 4.0 + 0.5 * 4.0, 2)


def test_head_of_no_rows_is_zero():
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    loss, each = head.cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert len(each) == 0
    assert not weight.grad.any()
