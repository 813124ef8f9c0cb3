"""Stages end to end: reduction, accounts, checkpoints, refusals."""

from __future__ import annotations

import json
import pickletools
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from curation.files import file_hash, read_json
from curation.steps import Context, DamagedError
from training.batch import batch_of_units, make_batch
from training.causal_lm import Causal
from training.config import TrainConfig
from training.data import DataError, open_data
from training.dpo import DPO, Reference
from training.loop import NonFiniteLossError
from training.losses import dpo
from training.model import device, find_specials, load_causal, load_reward, new_causal
from training.optimiser import learning_rate, make_optimiser
from training.plan import make_plan
from training.reward import scores
from training.station import train
from training.trace import AccountError, Trace, count_tokens, token_account

from .conftest import END, PAD, TINY, chat, pair, sentences, text, write_data


def later(tiny: TrainConfig, **changes) -> TrainConfig:
    """The settings of a stage with a parent."""
    return TrainConfig(**(tiny.model_dump() | {"model": None} | changes))


def columns(output, table: str) -> dict[str, np.ndarray]:
    found = pq.read_table(output.folder / f"{table}.parquet")
    return {name: found[name].to_numpy() for name in found.column_names}


@pytest.fixture
def pretrained(context, texts, tokenizer, tiny):
    return train(context, "pretrain", texts, tokenizer, None, tiny)


def weights(output) -> dict[str, torch.Tensor]:
    return load_file(output.folder / "model" / "model.safetensors")


def step_gradients(texts, tokenizer, micro_batch_tokens: int, mean_of_means: bool = False):
    """The gradient of the first step, reduced as the loop does it, or with the planted bug."""
    torch.manual_seed(0)
    model = new_causal(TINY, 266, find_specials(tokenizer.folder / "tokenizer")).double()
    data = open_data(texts)
    settings = TrainConfig(model=TINY, sequence_length=64, batch_tokens=512, micro_batch_tokens=micro_batch_tokens)
    plan, method = make_plan(data, settings), Causal(data, z_loss=1e-3)
    outcomes = [
        method.outcome(model, batch_of_units(data, plan, units, device()))
        for units in plan.micro_batches(0, micro_batch_tokens)
    ]
    if mean_of_means:
        loss = sum(outcome.loss.sum / outcome.loss.count for outcome in outcomes) / len(outcomes)
    else:
        loss = sum(outcome.loss.sum for outcome in outcomes) / sum(outcome.loss.count for outcome in outcomes)
    loss.backward()
    return len(outcomes), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.usefixtures("on_cpu")
def test_a_step_is_the_same_however_it_is_split(texts, tokenizer):
    count, whole = step_gradients(texts, tokenizer, 512)
    parts, split = step_gradients(texts, tokenizer, 70)
    assert (count, parts) == (1, 8) or parts > count
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-9, atol=1e-12)
    _, wrong = step_gradients(texts, tokenizer, 70, mean_of_means=True)
    assert any(not torch.allclose(wrong[name], gradient, rtol=1e-6) for name, gradient in whole.items())


def test_the_loop_divides_once(context, texts, tokenizer, tiny):
    """Whole stages with one and with many micro-batches a step give the same losses, to rounding."""
    runs = [
        train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"micro_batch_tokens": size}))
        for size in (512, 70)
    ]
    whole, split = (columns(run, "losses") for run in runs)
    assert np.allclose(whole["loss"], split["loss"], rtol=1e-4)
    assert np.allclose(whole["gradient_norm"], split["gradient_norm"], rtol=1e-3)


def test_pretraining_learns_and_its_account_closes(pretrained, texts):
    head = read_json(pretrained.folder / "checkpoint.json")
    assert head["manifest_hash"] == read_json(texts.folder / "data.json")["manifest_hash"]
    data = open_data(texts)
    for position, source in enumerate(data.sources):
        of_source = data.source == position
        line = head["account"][source]
        assert line["tokens"] == line["delivered"] == int((data.length * data.copies)[of_source].sum())
        assert line["delivered"] == line["in_loss"] + line["masked"] + line["truncated"]
        assert line["masked"] == line["fragments"]  # all text is in the loss but what begins a fragment
        assert (line["left"], line["padding"], line["truncated"]) == (0, 0, 0)
    losses = columns(pretrained, "losses")
    assert losses["tokens"].sum() == head["totals"]["delivered"]
    assert losses["count"].sum() == head["totals"]["in_loss"]
    assert losses["loss"][-1] < losses["loss"][0] - 0.5
    by_source = columns(pretrained, "losses_by_source")
    sums = np.bincount(by_source["step"], by_source["loss_sum"])[1:]
    sums /= np.bincount(by_source["step"], by_source["count"])[1:]
    assert np.allclose(sums, losses["loss"], rtol=1e-5)
    for position, source in enumerate(data.sources):
        of_source = data.source == position
        first = head["account"][source]["fragments"]  # a byte that begins a fragment is in no loss
        size = int((data.bytes * data.copies)[of_source].sum()) - first
        assert by_source["bytes"][by_source["source"] == source].sum() == size


def test_an_account_that_does_not_close_raises(texts):
    data = open_data(texts)
    plan = make_plan(data, TrainConfig(model=TINY, sequence_length=64))
    trace = Trace("0", data.sources)
    for step in range(len(plan.steps) - 1):
        for units in plan.micro_batches(step, 4096):
            trace.add(count_tokens(data, plan, units, batch_of_units(data, plan, units, device())))
    token_account(data, plan, trace, epochs=1)
    trace.account["masked"][0] -= 1  # a token lost
    with pytest.raises(AccountError, match="books"):
        token_account(data, plan, trace, epochs=1)
    trace.account["in_loss"][0] += 1  # found again, in the wrong place
    with pytest.raises(AccountError, match="in the loss"):
        token_account(data, plan, trace, epochs=1)


def test_tokens_beyond_max_steps_are_left(context, texts, tokenizer, tiny):
    output = train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"max_steps": 2}))
    totals = read_json(output.folder / "checkpoint.json")["totals"]
    assert totals["left"] > 0
    assert totals["tokens"] == totals["delivered"] + totals["left"]


def test_the_checkpoint_loads_as_it_is(pretrained, texts):
    model = AutoModelForCausalLM.from_pretrained(pretrained.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(pretrained.folder / "model")
    ids = tokenizer("the quick", return_tensors="pt")["input_ids"]
    theirs = model(ids, labels=ids).loss
    ours = load_causal(pretrained.folder / "model")(ids, use_cache=False, document_lengths=[9]).logits
    assert torch.nn.functional.cross_entropy(ours[0, :-1], ids[0, 1:]).item() == pytest.approx(
        theirs.item(), rel=1e-5
    )
    assert model.generation_config.eos_token_id == [256, END]
    assert model.config._attn_implementation == "sdpa"


def test_same_inputs_same_bytes_and_nothing_done_twice(context, tmp_path, texts, tokenizer, tiny, pretrained):
    assert train(context, "pretrain", texts, tokenizer, None, tiny).reused
    again = train(Context(tmp_path / "other"), "pretrain", texts, tokenizer, None, tiny)
    assert again.content == pretrained.content
    often = tiny.model_copy(update={"checkpoint_every": 2})
    saving = train(Context(tmp_path / "third"), "pretrain", texts, tokenizer, None, often)
    assert saving.content == pretrained.content
    assert not (saving.folder / ".units").exists()
    seeded = train(context, "pretrain", texts, tokenizer, None, tiny.model_copy(update={"seed": 1}))
    assert seeded.content != pretrained.content


def test_no_file_is_a_pickle(pretrained):
    for path in pretrained.folder.rglob("*"):
        if path.is_file():
            with pytest.raises(ValueError):  # noqa: PT012
                list(pickletools.genops(path.read_bytes()))
                raise AssertionError(f"{path} is a pickle")


def test_changed_data_is_refused(context, texts, tokenizer, tiny):
    path = texts.folder / "tokens.bin"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"tokens\.bin"):
        train(context, "pretrain", texts, tokenizer, None, tiny)


def test_instructions_without_their_end_are_refused(context, tokenizer, tiny, pretrained):
    row = chat("talk", "hello", "bye")
    row.mask[-1] = 0
    broken = write_data(context, "instruct", [row, chat("talk", "hi", "ho")])
    with pytest.raises(DataError, match="1 documents leave the end-of-turn token"):
        train(context, "sft", broken, tokenizer, pretrained, later(tiny))


def test_a_turn_in_the_middle_without_its_end_is_refused(context, tokenizer, tiny, pretrained):
    first, second = chat("talk", "hello", "bye"), chat("talk", "hi", "ho")
    row = replace(first, tokens=first.tokens + second.tokens, mask=[*first.mask[:-1], 0, *second.mask])
    broken = write_data(context, "instruct", [row, second])
    with pytest.raises(DataError, match="1 documents leave the end-of-turn token"):
        train(context, "sft", broken, tokenizer, pretrained, later(tiny))


def test_a_document_without_loss_is_an_alarm(context, tokenizer, tiny, pretrained):
    row = chat("talk", "hello", "bye")
    row.mask = [0] * len(row.mask)
    data = write_data(context, "instruct", [row, chat("talk", "hi", "ho")])
    output = train(context, "sft", data, tokenizer, pretrained, later(tiny))
    assert output.record["alarms"] == ["1 documents of 'talk' have no token in the loss"]


def test_a_loss_that_is_no_number_stops_before_the_update(context, texts, tokenizer, tiny, monkeypatch):
    honest = Causal.outcome
    calls = []

    def spoiled(self, model, batch):
        outcome = honest(self, model, batch)
        calls.append(batch)
        return replace(outcome, loss=outcome.loss._replace(sum=outcome.loss.sum * float("nan")))

    monkeypatch.setattr(Causal, "outcome", spoiled)
    with pytest.raises(NonFiniteLossError, match="step 1: the loss is nan in documents") as error:
        train(context, "pretrain", texts, tokenizer, None, tiny)
    data = open_data(texts)
    assert data.ids[int(np.unique(calls[0].rows)[0])].as_py() in str(error.value)


@pytest.mark.usefixtures("on_cpu")
def test_reward_model_scores_as_transformers_does(context, chats, pairs, tokenizer, tiny, pretrained):
    """Its own forward pass finds the last token by the pad id, in right-padded rows."""
    output = train(context, "reward", pairs, tokenizer, pretrained, later(tiny, method="reward", centring=0.01))
    losses = columns(output, "losses")
    assert losses["accuracy"][-1] > 0.9
    data = open_data(pairs)
    rows = np.arange(6)
    batch = make_batch(data, rows, data.start[:6], data.length[:6], data.prompt[:6], device())
    with torch.no_grad():
        ours = scores(load_reward(output.folder / "model").eval(), batch)
        longest = max(batch.lengths)
        padded = [
            data.tokens[start : start + length].tolist() + [PAD] * (longest - length)
            for start, length in zip(data.start[:6], data.length[:6], strict=True)
        ]
        model = AutoModelForSequenceClassification.from_pretrained(output.folder / "model").eval()
        theirs = model(input_ids=torch.tensor(padded)).logits[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dpo_starts_at_its_reference_and_moves_from_it(context, pairs, tokenizer, tiny, pretrained):
    settings = later(tiny, method="dpo", learning_rate=1e-3)
    output = train(context, "dpo", pairs, tokenizer, pretrained, settings)
    losses = columns(output, "losses")
    assert losses["loss"][0] == pytest.approx(np.log(2), abs=1e-5)
    assert losses["rewards/margins"][-1] > 0.01
    again = train(context, "dpo", pairs, tokenizer, pretrained, later(tiny, method="dpo", beta=0.2))
    references = [one for one in context.outputs if one.name == "reference/dpo"]
    assert [one.reused for one in references] == [False, True]
    assert again.content != output.content


DPO_SETTINGS = [
    {"dpo_loss": "ipo"},
    {"dpo_loss": "hinge"},
    {"dpo_loss": "robust", "label_smoothing": 0.1},
    {"dpo_loss": "sigmoid_norm", "beta": 5.0},
    {"label_smoothing": 0.1, "sft_weight": 0.5},
]


@pytest.mark.parametrize("changes", DPO_SETTINGS)
def test_other_settings_of_dpo(context, pairs, tokenizer, tiny, pretrained, changes):
    settings = later(tiny, method="dpo", max_steps=2, **changes)
    losses = columns(train(context, "dpo", pairs, tokenizer, pretrained, settings), "losses")
    # The policy begins as the reference: every margin is zero, and the loss is what the formula gives for it.
    kind, beta = settings.dpo_loss, settings.beta
    at_zero = dpo(torch.zeros(1), beta, kind, settings.label_smoothing).sum.item()
    expected = at_zero + settings.sft_weight * losses["chosen_nll"][0]
    assert losses["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_smoothing_is_refused_where_it_has_no_meaning(tiny):
    with pytest.raises(ValueError, match="not of hinge"):
        later(tiny, method="dpo", dpo_loss="hinge", label_smoothing=0.1)


def test_margins_of_the_data_are_in_the_loss(context, tokenizer, tiny, pretrained):
    """The first step of two stages that differ in the margins alone, against the formula."""
    contents = sentences(4, 4, 5)
    losses = []
    for margins in ([None] * 4, [0.0, None, 1.5, 0.25]):
        rows = [
            replace(pair("judged", q, q.upper(), "no"), margin=m) for q, m in zip(contents, margins, strict=True)
        ]
        data = write_data(context, "preference", rows)
        settings = later(tiny, method="reward", warmup_steps=0, max_steps=1)
        losses.append(columns(train(context, "reward", data, tokenizer, pretrained, settings), "losses"))
    assert losses[0]["margin"][0] == losses[1]["margin"][0]  # the same scores: the seed draws the head
    assert losses[1]["loss"][0] > losses[0]["loss"][0]


def test_a_margin_that_is_no_number_is_refused(context):
    data = write_data(context, "preference", [replace(pair("judged", "a", "b", "c"), margin=float("nan"))])
    with pytest.raises(DataError, match="the margin of row 0"):
        open_data(data)


def dpo_step(pairs, tokenizer, micro_batch_tokens: int, bug: bool = False) -> dict[str, torch.Tensor]:
    """The gradient of a step of DPO with an SFT term; with the planted bug, that term is a mean of means."""
    torch.manual_seed(0)
    model = new_causal(TINY, 266, find_specials(tokenizer.folder / "tokenizer")).double()
    data = open_data(pairs)
    settings = TrainConfig(
        method="dpo", sequence_length=64, batch_tokens=2048, micro_batch_tokens=micro_batch_tokens
    )
    plan = make_plan(data, settings)
    zeros = np.zeros(data.rows)
    method, count = DPO(data, Reference(zeros - 30, zeros - 31), 0.1, "sigmoid_norm", 0.0, 0.5), 0
    for units in plan.micro_batches(0, micro_batch_tokens):
        batch = batch_of_units(data, plan, units, device())
        if bug:
            batch = replace(batch, answer_tokens=float(plan.chosen_in_loss[units].mean()))
        outcome = method.outcome(model, batch)
        outcome.loss.sum.backward()
        count += outcome.loss.count
    assert count == plan.steps[1]
    return {name: parameter.grad / count for name, parameter in model.named_parameters()}


@pytest.mark.usefixtures("on_cpu")
def test_a_step_of_dpo_is_the_same_however_it_is_split(pairs, tokenizer):
    whole, split, wrong = (dpo_step(pairs, tokenizer, *given) for given in ((2048,), (120,), (120, True)))
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-8, atol=1e-12)
    assert any(not torch.allclose(wrong[name], gradient, rtol=1e-4) for name, gradient in whole.items())


def test_long_context_stretches_positions(context, texts, tokenizer, tiny, pretrained):
    settings = later(tiny, yarn_factor=2.0, sequence_length=400, micro_batch_tokens=512)
    output = train(context, "long-context", texts, tokenizer, pretrained, settings)
    config = json.loads((output.folder / "model" / "config.json").read_text())
    assert config["max_position_embeddings"] == 512
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert AutoModelForCausalLM.from_pretrained(output.folder / "model").config.rope_parameters["factor"] == 2.0
    with pytest.raises(ValueError, match="beyond the model's 256 positions"):
        train(
            context,
            "long-context",
            texts,
            tokenizer,
            pretrained,
            later(tiny, sequence_length=400, micro_batch_tokens=512),
        )


def test_settings_that_do_not_fit_are_refused(context, texts, pairs, tokenizer, tiny, pretrained):
    with pytest.raises(ValueError, match="without a parent"):
        train(context, "sft", texts, tokenizer, None, later(tiny))
    with pytest.raises(ValueError, match="leave model out"):
        train(context, "sft", texts, tokenizer, pretrained, tiny)
    with pytest.raises(ValueError, match="beta is of method dpo only"):
        TrainConfig(beta=0.2)
    reward = train(context, "reward", pairs, tokenizer, pretrained, later(tiny, method="reward", max_steps=1))
    with pytest.raises(ValueError, match="is a reward model"):
        train(context, "dpo", pairs, tokenizer, reward, later(tiny, method="dpo"))


def test_weight_decay_spares_norms_and_embeddings(tokenizer):
    for tied in (True, False):
        shape = TINY.model_copy(update={"tie_embeddings": tied})
        model = new_causal(shape, 266, find_specials(tokenizer.folder / "tokenizer"))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = make_optimiser(model, TrainConfig(model=shape)).param_groups
        spared = {names[id(parameter)] for parameter in groups[1]["params"]}
        assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.1, 0.0)
        assert all("norm" in name or name == "model.embed_tokens.weight" for name in spared)
        assert "model.embed_tokens.weight" in spared
        assert ("lm_head.weight" in names.values()) == (not tied)


def test_learning_rate_rises_and_falls():
    for schedule, middle in (("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)):
        config = TrainConfig(learning_rate=1.0, warmup_steps=10, schedule=schedule, final_share=0.1)
        rates = [learning_rate(config, step, 111) for step in range(111)]
        assert rates[:10] == [pytest.approx((step + 1) / 11) for step in range(10)]
        assert max(rates) == rates[10] == 1.0
        assert rates[60] == pytest.approx(middle)
        assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.1)


def rates(steps: int, **changes) -> list[float]:
    config = TrainConfig(learning_rate=1.0, **changes)
    return [learning_rate(config, step, steps) for step in range(steps)]


def test_warm_up_stable_decay():
    found = rates(100, schedule="wsd", warmup_steps=9, decay_share=0.2, final_share=0.0)
    assert found[:9] == [pytest.approx(step / 10) for step in range(1, 10)]
    assert set(found[9:80]) == {1.0}
    assert found[80:] == [pytest.approx(1 - step / 20) for step in range(1, 21)]
    short = rates(10, schedule="wsd", warmup_steps=4, decay_steps=50)  # no room for what is stable
    assert short[:4] == [pytest.approx(step / 5) for step in range(1, 5)]
    assert short[4:] == sorted(short[4:], reverse=True)
    assert short[-1] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="of schedule wsd only"):
        TrainConfig(decay_steps=5)


def test_the_schedules_of_olmo_3():
    """Peak and final rate of its 7B stages: pretraining by cosine, the others linear to zero."""
    pretrain = rates(5000, schedule="cosine", warmup_steps=2000, final_share=0.1)
    assert (max(pretrain), pretrain.index(1.0)) == (1.0, 2000)
    assert pretrain[-1] == pytest.approx(0.1)
    midtrain = rates(500, schedule="linear", warmup_steps=0, final_share=0.0)
    assert (midtrain[0], midtrain[-1]) == (1.0, 0.0)
    long = rates(500, schedule="linear", warmup_steps=200, final_share=0.0)
    assert (long[200], long[-1]) == (1.0, 0.0)


def test_a_pair_weighs_the_same_whatever_its_source(context, tokenizer, tiny, pretrained):
    rows = [pair("one", q, q.upper(), "no") for q in sentences(8, 4, 5)]
    rows += [pair("two", q, q.upper(), "no") for q in sentences(4, 4, 6)]
    data = write_data(context, "preference", rows)
    output = train(context, "reward", data, tokenizer, pretrained, later(tiny, method="reward"))
    account = read_json(output.folder / "checkpoint.json")["account"]
    assert (account["one"]["fragments"], account["two"]["fragments"]) == (8, 4)
    assert file_hash(output.folder / "model" / "tokenizer.json") == file_hash(
        tokenizer.folder / "tokenizer" / "tokenizer.json"
    )


def test_texts_of_one_token_train_nothing_but_are_counted(context, tokenizer, tiny):
    data = write_data(context, "pretrain", [text("web", ""), text("web", "hello there")])
    output = train(context, "pretrain", data, tokenizer, None, tiny)
    assert read_json(output.folder / "checkpoint.json")["account"]["web"]["masked"] == 2
