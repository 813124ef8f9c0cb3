"""Rules for some documents and other thresholds for some: value and threshold recorded are those applied."""

from __future__ import annotations

import operator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.config import ConfigError
from curation.rules import profile as profiles
from curation.rules.profile import Profile, apply, failures, load_profile

LONG = {"name": "long", "measurement": "n", "drop_above": 10, "source": "a test"}
TABLE = pa.table({"n": [11, 11, 13, 13, 11, 99], "language": ["en", "de", "de", "nl", None, "ja"]})


def profile(*overrides: dict, rules=(LONG,)) -> Profile:
    return Profile(
        name="test", version=1, rules=rules, overrides=[{"source": "a test", **one} for one in overrides]
    )


def test_an_override_changes_the_threshold_of_its_documents_and_the_ledger_says_which():
    made = profile(
        {"where": {"language": ["de", "nl"]}, "rules": {"long": {"drop_above": 12}}},
        {"where": {"language": "ja"}, "rules": {"long": False}},
    )
    keep, rule, value, threshold = apply(made, TABLE)
    assert keep.tolist() == [False, True, False, False, False, True]
    assert rule.to_pylist() == ["long", None, "long", "long", "long", None]
    assert value[~keep].tolist() == [11, 13, 13, 11]
    assert threshold[~keep].tolist() == [10, 12, 12, 10]


def test_the_last_override_that_fits_counts():
    first = {"where": {"language": "de"}, "rules": {"long": {"drop_above": 12}}}
    last = {"where": {"language": ["de", "nl"]}, "rules": {"long": {"drop_above": 14}}}
    assert apply(profile(first, last), TABLE)[0].tolist() == [False, True, True, True, False, False]
    assert apply(profile(last, first), TABLE)[0].tolist() == [False, True, False, True, False, False]


def test_a_rule_for_some_documents_looks_at_no_others():
    made = profile(rules=({**LONG, "where": {"language": ["de"]}},))
    assert apply(made, TABLE)[0].tolist() == [True, False, False, True, True, True]
    assert made.measurements == ["n", "language"]


def test_values_of_a_text_measurement_can_be_overridden():
    rule = {"name": "wanted", "measurement": "language", "keep_in": ["en"], "missing": "drop", "source": "a test"}
    table = pa.table({"language": ["en", "de", "de", None], "site": ["a", "a", "b", "b"]})
    made = profile({"where": {"site": "b"}, "rules": {"wanted": {"keep_in": ["de"]}}}, rules=(rule,))
    assert apply(made, table)[0].tolist() == [True, False, True, False]


languages = st.sampled_from(["en", "de", "nl", None])
comparisons = st.sampled_from(["drop_below", "drop_above"])
limits = st.integers(-5, 5)


@given(
    st.lists(st.tuples(st.one_of(st.none(), limits), languages), max_size=20),
    comparisons,
    limits,
    st.sets(st.sampled_from(["en", "de", "nl"])),
    st.lists(
        st.tuples(st.sets(st.sampled_from(["en", "de", "nl"]), min_size=1), st.one_of(st.just(False), limits)),
        max_size=3,
    ),
)
def test_verdicts_are_those_of_a_loop_over_documents(rows, comparison, limit, only, changes):
    rule = {"name": "r", "measurement": "n", comparison: limit, "source": "a test"}
    if only:
        rule["where"] = {"language": sorted(only)}
    overrides = [
        {"where": {"language": sorted(where)}, "rules": {"r": change is not False and {comparison: change}}}
        for where, change in changes
    ]
    table = pa.table(
        {
            "n": pa.array([n for n, _ in rows], pa.int64()),
            "language": pa.array([tag for _, tag in rows], pa.string()),
        }
    )
    keep, _, value, threshold = apply(profile(*overrides, rules=(rule,)), table)
    for row, (n, language) in enumerate(rows):
        meant = not only or language in only
        applied = limit if meant else False
        for where, change in changes:
            if meant and language in where:
                applied = change
        compare = {"drop_below": operator.lt, "drop_above": operator.gt}[comparison]
        dropped = applied is not False and n is not None and compare(n, applied)
        assert keep[row] == (not dropped)
        assert np.array_equal(
            [value[row], threshold[row]], [n, applied] if dropped else [np.nan] * 2, equal_nan=True
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"where": {"language": "de"}, "rules": {"lnog": {"drop_above": 1}}},
            "there is no rule 'lnog'; there are long",
        ),
        (
            {"where": {"language": "de"}, "rules": {"long": {"drop_below": 1}}},
            "compares by drop_above; .* drop_below",
        ),
        ({"where": {"language": "de"}, "rules": {"long": {}}}, "compares by drop_above; the override gives none"),
        ({"where": {"language": "de"}, "rules": {"long": {"drop_above": float("nan")}}}, "finite number"),
        ({"where": {}, "rules": {"long": False}}, "where"),
        ({"where": {"language": []}, "rules": {"long": False}}, "where"),
        ({"where": {"language": "de"}, "rules": {}}, "rules"),
        ({"where": {"language": "de"}, "rules": {"long": True}}, "rules"),
    ],
)
def test_an_override_that_makes_no_sense_is_an_error(override, message):
    with pytest.raises(ValidationError, match=message):
        profile(override)


def test_where_must_name_a_text_that_was_measured():
    made = profile({"where": {"tongue": "de"}, "rules": {"long": False}})
    with pytest.raises(
        ConfigError, match="where 'tongue': there is no measurement 'tongue'; there are n, language"
    ):
        failures(made, TABLE)
    with pytest.raises(ConfigError, match="where 'n': it is int64; where needs text"):
        failures(profile({"where": {"n": "11"}, "rules": {"long": False}}), TABLE)


def test_overrides_are_read_from_a_file_with_off_for_no_rule(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nversion: 1\nrules:\n- {name: long, measurement: n, drop_above: 10, source: me}\n"
        "overrides:\n- where: {language: [de, nl]}\n  source: me\n  rules: {long: {drop_above: 12}}\n"
        "- where: {language: ja}\n  source: me\n  rules: {long: off}\n"
    )
    assert apply(load_profile(path), TABLE)[0].tolist() == [False, True, False, False, False, True]


def test_the_loop_over_documents_can_fail(monkeypatch):
    """The planted twin: the first override that fits counts."""
    fits = profiles.variants

    def reversed_variants(made, rule, table):
        return fits(made.model_copy(update={"overrides": made.overrides[::-1]}), rule, table)

    monkeypatch.setattr(profiles, "variants", reversed_variants)
    with pytest.raises(AssertionError):
        test_the_last_override_that_fits_counts()
