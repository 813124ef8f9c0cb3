"""Order, fragments, steps and micro-batches: every token once, whatever the settings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.order import boundaries
from training.batch import batch_of_units
from training.config import TrainConfig
from training.data import DataError, open_data
from training.model import device
from training.plan import best_fit_decreasing, make_plan
from training.trace import Trace, count_tokens, token_account

from .conftest import Row, chat, pair, sentences, text, write_data

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=200)


@given(SIZES, st.integers(1, 300))
def test_bins_hold_every_item_once(sizes, capacity):
    bins = best_fit_decreasing(np.array(sizes), capacity)
    assert sorted(item for members in bins for item in members) == list(range(len(sizes)))
    for members in bins:
        assert sum(sizes[item] for item in members) <= capacity or len(members) == 1
    fitting = [size for size in sizes if size <= capacity]
    best = -(-sum(fitting) // capacity)  # no packing can do with fewer; best fit decreasing stays below 11/9 + 1
    assert len(bins) - (len(sizes) - len(fitting)) <= best * 2 or len(fitting) < 3


@given(SIZES, st.integers(1, 1000))
def test_steps_fill_the_budget_in_order(sizes, budget):
    steps = boundaries(np.array(sizes), budget)
    assert steps[0] == 0
    assert steps[-1] == len(sizes)
    for first, last in itertools.pairwise(steps):
        assert last > first
        assert sum(sizes[first:last]) <= budget or last == first + 1
        assert last == len(sizes) or sum(sizes[first : last + 1]) > budget  # nothing more would have fitted


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"sequence_length": 32, "batch_tokens": 128, "micro_batch_tokens": 64} | changes)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 80), st.integers(80, 400), st.integers(1, 3))
def test_every_token_is_fed_once_a_copy_and_epoch(texts, sequence_length, batch_tokens, epochs):
    data = open_data(texts, verify=False)
    plan = make_plan(
        data,
        config(sequence_length=sequence_length, micro_batch_tokens=80, batch_tokens=batch_tokens, epochs=epochs),
    )
    fed = np.zeros(len(data.tokens), np.int64)
    for step in range(len(plan.steps) - 1):
        for units in plan.micro_batches(step, 80):
            for unit in units:
                fed[plan.start[unit] : plan.start[unit] + plan.length[unit]] += 1
    expected = np.repeat(data.copies, data.length) * epochs
    assert np.array_equal(fed, expected)


def test_more_copies_and_documents_keep_the_order_of_the_others(context):
    contents = sentences(20, 5, 7)

    def order(rows):
        data = open_data(write_data(context, "pretrain", rows))
        return list(dict.fromkeys(data.ids[int(row)].as_py() for row in make_plan(data, config()).row))

    few = order([text("web", content) for content in contents[:10]])
    every = order([text("web", content, copies=1 + (n >= 10)) for n, content in enumerate(contents)])
    assert [one for one in every if one in set(few)] == few


def test_pairs_are_cut_and_hopeless_ones_left_out(context):
    rows = [pair("judged", "why", "because it is so", "no"), pair("judged", "why " * 12, "yes", "no")]
    data = open_data(write_data(context, "preference", rows))
    plan = make_plan(data, config(method="reward", sequence_length=16))
    assert len(plan.row) == 1
    assert len(plan.skipped) == 1
    total = int((data.length + data.rejected_length).sum())
    skipped = int((data.length + data.rejected_length)[plan.skipped].sum())
    assert int((plan.tokens + plan.truncated).sum()) + skipped == total
    assert plan.length[0] == 16


def test_loss_of_a_chat_is_on_the_answer_and_its_end(context):
    data = open_data(write_data(context, "instruct", [chat("talk", "hello", "bye")]))
    plan = make_plan(data, config())
    batch = batch_of_units(data, plan, np.array([0]), device())
    assert bytes(batch.targets[:-1].tolist()) == b"bye"
    assert batch.targets[-1].item() == 262  # <|end|>
    assert batch.tokens[0, batch.selected + 1].tolist() == batch.targets.tolist()


def test_data_of_another_kind_is_refused(texts, pairs):
    with pytest.raises(DataError, match="trains on pairs"):
        make_plan(open_data(texts), config(method="dpo"))
    with pytest.raises(DataError, match="trains on documents"):
        make_plan(open_data(pairs), config())


def test_a_step_without_loss_is_refused_before_training(context):
    rows = [chat("talk", "a long question " * 3, "x"), chat("talk", "hi", "ho")]
    data = open_data(write_data(context, "instruct", rows))
    with pytest.raises(DataError, match="no token in the loss"):
        make_plan(data, config(sequence_length=16, batch_tokens=16, micro_batch_tokens=16))


def conversation(*turns: tuple[str, str]) -> Row:
    """Turns of a user and an assistant; the answers and their ends are in the loss."""
    tokens, mask = [], []
    for question, answer in turns:
        one = chat("talk", question, answer)
        tokens, mask = tokens + one.tokens, mask + one.mask
    return Row("talk", tokens, mask)


def heard(data, settings) -> list[bytes]:
    """What each unit has in the loss, as text; the end of a turn is a full stop."""
    plan = make_plan(data, settings)
    texts = []
    for unit in range(len(plan.row)):
        batch = batch_of_units(data, plan, np.array([unit]), device())
        assert len(batch.targets) == plan.in_loss[unit]
        texts.append(bytes(token if token < 256 else ord(".") for token in batch.targets.tolist()))
    return texts


def test_loss_is_on_all_turns_or_the_last(context):
    rows = [conversation(("hello", "hi"), ("how", "well"), ("bye", "ciao")), chat("talk", "a", "b")]
    data = open_data(write_data(context, "instruct", rows))
    assert sorted(heard(data, config(sequence_length=64))) == [b"b.", b"hi.well.ciao."]
    assert sorted(heard(data, config(sequence_length=64, loss_on="last"))) == [b"b.", b"ciao."]
    # cut into fragments, the last turn alone is in the loss wherever it falls
    found = heard(data, config(sequence_length=12, loss_on="last"))
    assert sorted(text for text in found if text) == [b"b.", b"ciao."]
    text_data = open_data(write_data(context, "pretrain", [text("web", "abcd")]))
    assert heard(text_data, config(loss_on="last")) == heard(text_data, config()) == [b"bcd."]


QUESTION = "a question of forty tokens and some more"


def longer(context):
    rows = [text("web", "x" * 50), text("web", "short"), chat("web", QUESTION, "no")]
    return open_data(write_data(context, "instruct", rows))


def totals(data, settings) -> dict[str, int]:
    """The account of a run of these settings, batches and all."""
    plan = make_plan(data, settings)
    trace = Trace("0", data.sources)
    for step in range(len(plan.steps) - 1):
        for units in plan.micro_batches(step, settings.micro_batch_tokens):
            trace.add(count_tokens(data, plan, units, batch_of_units(data, plan, units, device())))
    return token_account(data, plan, trace, settings.epochs)["web"]


def test_what_is_too_long_is_split_cut_dropped_or_refused(context):
    data = longer(context)
    tokens = int(data.length.sum())
    split = totals(data, config())
    assert (split["fragments"], split["truncated"], split["over_length"], split["left_out"]) == (5, 0, 2, 0)
    cut = totals(data, config(over_length="cut"))  # the chat's answer lies beyond: nothing of it would be learned
    assert (cut["fragments"], cut["over_length"], cut["left_out"]) == (2, 2, 1)
    assert cut["truncated"] == 51 - 32 + len(chat("web", QUESTION, "no").tokens)
    drop = totals(data, config(over_length="drop"))
    assert (drop["fragments"], drop["over_length"], drop["left_out"]) == (1, 2, 2)
    assert all(account["tokens"] == account["delivered"] == tokens for account in (split, cut, drop))
    with pytest.raises(DataError, match="2 documents are longer than sequence_length 32"):
        make_plan(data, config(over_length="raise"))
    make_plan(data, config(over_length="raise", sequence_length=64))


def test_pairs_that_are_too_long_are_cut_dropped_or_refused(context):
    rows = [pair("judged", "why", "because it is so", "no"), pair("judged", "why", "yes", "no")]
    data = open_data(write_data(context, "preference", rows))
    settings = {"method": "reward", "sequence_length": 16}
    assert make_plan(data, config(**settings)).truncated.sum() > 0
    plan = make_plan(data, config(**settings, over_length="drop"))
    assert (len(plan.row), len(plan.skipped), len(plan.over)) == (1, 1, 1)
    with pytest.raises(DataError, match="1 documents are longer"):
        make_plan(data, config(**settings, over_length="raise"))
    with pytest.raises(ValueError, match="over_length split is of documents"):
        config(**settings, over_length="split")
