"""Rules as data: what fails, what a missing value means, which reason is recorded, and that counts close."""

from __future__ import annotations

import math
import operator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.config import ConfigError
from curation.executor import LocalExecutor
from curation.ledger import alive, ledger_path
from curation.measure.columns import schema
from curation.measure.groups import GROUPS
from curation.measure.station import Measure, measure
from curation.rules import profile as profiles
from curation.rules.decide import decide
from curation.rules.profile import Profile, Rule, apply, failures, load_profile, profile_names
from curation.schema import LEDGER
from curation.steps import Context

CONFIG = Measure(minhash="off", language="off")


def rule(name: str, measurement: str, **comparison) -> dict:
    return {"name": name, "measurement": measurement, "source": "a test", **comparison}


def profile(*rules: dict) -> Profile:
    return Profile(name="test", version=1, rules=rules)


@pytest.mark.parametrize(
    ("comparison", "at_threshold", "kept"),
    [
        ("drop_below", "keep", [2, 3]),
        ("drop_above", "keep", [1, 2]),
        ("drop_below", "drop", [3]),
        ("drop_above", "drop", [1]),
    ],
)
def test_the_threshold_itself_passes_unless_the_rule_says_otherwise(comparison, at_threshold, kept):
    made = profile(rule("r", "n", **{comparison: 2}, at_threshold=at_threshold))
    keep, names, value, threshold = apply(made, pa.table({"n": [1, 2, 3]}))
    assert np.array([1, 2, 3])[keep].tolist() == kept
    assert names.to_pylist() == [None if k else "r" for k in keep]
    assert value[~keep].tolist() == [n for n in (1, 2, 3) if n not in kept]
    assert threshold[~keep].tolist() == [2.0] * (3 - len(kept))
    assert np.isnan(value[keep]).all()
    assert np.isnan(threshold[keep]).all()


def test_keep_in_compares_text():
    table = pa.table({"language": ["en", "fr", None, "de"]})
    keep, names, value, threshold = apply(profile(rule("german", "language", keep_in=["en", "de"])), table)
    assert keep.tolist() == [True, False, True, True]
    assert names.to_pylist() == [None, "german", None, None]
    assert np.isnan(value).all()
    assert np.isnan(threshold).all()


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize("comparison", [{"drop_below": 5}, {"drop_above": 5}])
def test_a_missing_value_fails_only_a_rule_that_says_so(missing, comparison):
    table = pa.table({"share": pa.array([missing], pa.float64())})
    assert apply(profile(rule("r", "share", **comparison)), table)[0].tolist() == [True]
    keep, names, value, threshold = apply(profile(rule("r", "share", missing="drop", **comparison)), table)
    assert keep.tolist() == [False]
    assert names.to_pylist() == ["r"]
    assert np.isnan(value[0])
    assert threshold[0] == 5


def test_a_missing_text_can_be_dropped_too():
    table = pa.table({"language": pa.array([None, "en"], pa.string())})
    keep = apply(profile(rule("r", "language", keep_in=["en"], missing="drop")), table)[0]
    assert keep.tolist() == [False, True]


def test_the_first_failing_rule_in_the_profile_s_order_is_recorded():
    table = pa.table({"a": [0, 9, 0], "b": [0, 0, 9]})
    low_a, low_b = rule("low_a", "a", drop_below=5), rule("low_b", "b", drop_below=5)
    assert apply(profile(low_a, low_b), table)[1].to_pylist() == ["low_a", "low_b", "low_a"]
    assert apply(profile(low_b, low_a), table)[1].to_pylist() == ["low_b", "low_b", "low_a"]
    assert failures(profile(low_a, low_b), table).tolist() == [[True, True], [False, True], [True, False]]


numbers = st.one_of(st.none(), st.floats(-10, 10), st.just(math.nan), st.integers(-10, 10).map(float))


@given(
    st.lists(st.tuples(numbers, numbers), max_size=20),
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from(["drop_below", "drop_above"]),
            st.integers(-10, 10),
            st.sampled_from(["keep", "drop"]),
        ),
        max_size=5,
    ),
)
def test_decisions_are_those_of_a_loop_over_rows_and_rules(rows, rules):
    table = pa.table(
        {name: pa.array([row[place] for row in rows], pa.float64()) for place, name in enumerate("ab")}
    )
    made = profile(
        *(rule(f"r{n}", m, **{comparison: t}, missing=gone) for n, (m, comparison, t, gone) in enumerate(rules))
    )
    keep, names, value, threshold = apply(made, table)
    fails = {"drop_below": operator.lt, "drop_above": operator.gt}
    for row, found in enumerate(zip(keep.tolist(), names.to_pylist(), value, threshold, strict=True)):
        expected = (True, None, math.nan, math.nan)
        for number, (measurement, comparison, limit, gone) in enumerate(rules):
            measured = rows[row]["ab".index(measurement)]
            is_missing = measured is None or math.isnan(measured)
            if gone == "drop" if is_missing else fails[comparison](measured, limit):
                expected = (False, f"r{number}", math.nan if is_missing else measured, limit)
                break
        assert found[:2] == expected[:2]
        assert np.array_equal(found[2:], expected[2:], equal_nan=True)


def test_a_rule_that_names_no_measurement_is_an_error(context, make_pool):
    wrong = profile(rule("typo", "word", drop_below=5))
    with pytest.raises(ConfigError, match=r"rule 'typo': there is no measurement 'word'; there are .*n"):
        apply(wrong, pa.table({"n": [1]}))
    with pytest.raises(ConfigError, match="rule 'typo': there is no measurement 'word'"):
        decide(context, measure(context, make_pool("web", ["x"]), CONFIG), wrong)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (rule("r", "text", drop_below=1), "is string; a threshold needs a number"),
        (rule("r", "n", keep_in=["1"]), "is int64; keep_in needs text"),
    ],
)
def test_a_comparison_that_the_type_does_not_allow_is_an_error(made, message):
    with pytest.raises(ConfigError, match=message):
        apply(profile(made), pa.table({"n": [1], "text": ["x"]}))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (rule("r", "n"), "needs one of drop_below, drop_above, keep_in; found none"),
        (rule("r", "n", drop_below=1, drop_above=2), "found drop_below and drop_above"),
        (rule("r", "n", drop_below=math.nan), "finite number"),
        (rule("r", "n", keep_in=["a"], at_threshold="drop"), "at_threshold is for drop_below and drop_above"),
        (rule("r", "n", drop_under=1), "drop_under"),
        ({"name": "r", "measurement": "n", "drop_below": 1}, "source"),
        (rule("two words", "n", drop_below=1), "name"),
    ],
)
def test_a_rule_that_makes_no_sense_is_an_error(made, message):
    with pytest.raises(ValidationError, match=message):
        Rule.model_validate(made)


def test_an_edit_that_is_not_there_is_an_error():
    with pytest.raises(ValidationError, match="there is no edit 'typo'; choose among newlines"):
        Profile(name="test", version=1, edits=["typo"], rules=[])


def test_a_name_is_given_once():
    with pytest.raises(ValidationError, match="more than one rule named r"):
        profile(rule("r", "n", drop_below=1), rule("r", "n", drop_above=9))


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_fits_the_measurements(name):
    loaded = load_profile(name)
    assert loaded.name == name
    apply(loaded, schema(pa.null(), GROUPS.values()).empty_table())


def test_the_profiles_that_pipelines_name_are_shipped():
    assert {"dolma3", "code", "chat", "plain"} <= set(profile_names())


def test_profiles_are_found_by_name_and_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nversion: 2\nrules:\n  - {name: r, measurement: n, drop_below: 1, source: me}\n")
    assert load_profile(path).version == load_profile(str(path)).version == 2
    with pytest.raises(
        ConfigError, match=r"no rule profile is named 'mine': choose one of c4, chat, code, datatrove"
    ):
        load_profile("mine")
    path.write_text("name: mine\nversion: 2\nrules:\n  - {name: r, measurement: n, drop_below: low, source: me}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml:4:\d+: rules.0.drop_below: .* found 'low'"):
        load_profile(path)


PROSE = (
    "The lighthouse keeper wrote to the harbour office that winter about the lamp and its oil. He had asked for a "
    "new wick in autumn, and none had come with the supply boat. Storms closed the channel for a week. When the "
    "sea was calm again he found that two panes of glass had cracked, so the wind would have put out any flame. "
    "They sent a carpenter, who was paid from the parish chest."
)
OTHER = {
    "The ": "",
    "the ": "",
    "and": "plus",
    "to ": "at ",
    "of ": "by ",
    "that ": "how ",
    "with": "by",
    "have": "get",
}


def without_stop_words(text: str) -> str:
    for word, other in OTHER.items():
        text = text.replace(word, other)
    return text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("The end of it.", "short"),
        ("x" * 200, "few_words"),
        (" ".join(f"a{n % 10} b{n}" for n in range(60)), "short_words"),
        (PROSE.replace(" ", " # ", 12), "symbols"),
        ("\n".join(f"- {line} " for line in PROSE.split(". ")), "bullet_lines"),
        (PROSE.replace(". ", "...\n"), "ellipsis_lines"),
        (PROSE.replace(" the ", " 1234 ").replace(" a ", " 56789 ") + " 12345" * 20, "few_alphabetic_words"),
        (without_stop_words(PROSE), "few_stop_words"),
        ("\n".join([*PROSE.split(". "), *PROSE.split(". ")[:2]]), "dup_lines"),
        (PROSE + " and so on" * 30, "top_2gram"),
        (PROSE + " " + PROSE, "dup_5gram"),
    ],
)
def test_dolma3_prose_drops_what_each_rule_is_about(context, make_pool, text, reason):
    measured = measure(context, make_pool("web", [text]), CONFIG)
    decided = decide(context, measured, load_profile("dolma3"))
    assert pq.read_table(ledger_path(decided.folder, "web", "web-00000"))["rule"].to_pylist() == [reason]


def test_the_ledger_and_its_counts_close(context, make_pool):
    texts = [PROSE, "too short", "", PROSE + " " + PROSE, PROSE[:200], "\n".join([PROSE] * 3)]
    measured = measure(context, make_pool("web", texts, shards=2), CONFIG)
    decided = decide(context, measured, load_profile("dolma3"))
    counts = decided.counts
    assert decided.name == "rules/web"
    assert counts["documents_in"] == len(texts)
    assert counts["documents_in"] == counts["documents_out"] + sum(counts["dropped"].values())
    kept = []
    for shard in measured.shards():
        rows = pq.read_metadata(shard).num_rows
        ledger = pq.read_table(ledger_path(decided.folder, "web", shard.stem))
        assert ledger.schema.equals(LEDGER)
        assert set(ledger["stage"].to_pylist()) == {"rules"}
        assert ledger["id"].to_pylist() == pq.read_table(shard, columns=["id"])["id"].to_pylist()
        assert ledger["keep"].to_pylist() == alive([decided], "web", shard.stem, rows).tolist()
        assert all((row["rule"] is None) == row["keep"] for row in ledger.to_pylist())
        failing = pq.read_table(decided.folder / "failures" / shard.name).to_pylist()
        dropped = [row for row in ledger.to_pylist() if not row["keep"]]
        assert [(row["id"], row["row"], row["rules"][0]) for row in failing] == [
            (row["id"], row["row"], row["rule"]) for row in dropped
        ]
        kept += ledger["keep"].to_pylist()
    assert kept == [True, False, False, False, False, False]
    for name, dropped in counts["dropped"].items():
        assert counts["failing_alone"][name] <= dropped + counts["failing"][name]
        assert counts["failing_alone"][name] <= counts["failing"][name]
    assert sum(counts["failing"].values()) > sum(counts["dropped"].values())


def test_workers_change_no_byte_of_the_ledger(tmp_path, make_pool):
    pool = make_pool("web", [PROSE, "short", *(PROSE[n:] for n in range(40))], shards=4)
    contents = set()
    for workers in (1, 2):
        with LocalExecutor(workers) as executor:
            context = Context(tmp_path / str(workers), executor)
            contents.add(decide(context, measure(context, pool, CONFIG), load_profile("dolma3")).content)
    assert len(contents) == 1


def test_another_threshold_is_another_step_without_measuring_again(context, make_pool):
    measured = measure(context, make_pool("web", ["one two three"]), CONFIG)
    loose, strict = (profile(rule("words", "words", drop_below=limit)) for limit in (3, 4))
    assert decide(context, measured, loose).counts["documents_out"] == 1
    assert decide(context, measured, strict).counts["documents_out"] == 0
    assert decide(context, measured, loose).reused
    assert measure(context, make_pool("web", ["one two three"]), CONFIG).reused


def test_decisions_read_no_text(context, make_pool, monkeypatch):
    """The pool is gone and the rules still decide."""
    pool = make_pool("web", ["one two three"])
    measured = measure(context, pool, CONFIG)
    for shard in pool.shards():
        shard.unlink()
    assert decide(context, measured, load_profile("plain")).counts["documents_out"] == 1


def test_the_loop_over_rules_can_fail(monkeypatch):
    """The planted twin: a comparison that drops the threshold itself."""
    monkeypatch.setattr(profiles, "_fails", lambda profile, rule, table: table["n"].to_numpy() <= rule.drop_below)
    with pytest.raises(AssertionError):
        test_the_threshold_itself_passes_unless_the_rule_says_otherwise("drop_below", "keep", [2, 3])
