"""Short circuit: the verdicts of measuring everything, less measured, and nothing said that is not known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.config import ConfigError
from curation.dedup.minhash import Scheme
from curation.executor import LocalExecutor
from curation.ledger import ledger_path
from curation.measure.station import Measure, measure
from curation.rules.decide import decide
from curation.rules.profile import Profile
from curation.rules.short_circuit import EARLY, early
from curation.steps import Context
from flows.line import Line
from flows.pipeline import load_pipeline

SCHEME = Scheme(bands=2, rows=3)
WHOLE = Measure(minhash=SCHEME, language="off")
SHORT = Measure(minhash=SCHEME, language="off", short_circuit=True)
TEXTS = [
    "",
    "a b",
    "one two three four five six seven",
    "x " * 40,
    "secret " * 30,
    *("w" * n for n in range(1, 9)),
]


def profile(short: float = 3, gzip: float = 0.3, **more) -> Profile:
    rules = [
        {"name": "gzip", "measurement": "gzip_ratio", "drop_below": gzip, "source": "a test"},
        {"name": "short", "measurement": "whitespace_words", "drop_below": short, "source": "a test"},
        {"name": "long_word", "measurement": "mean_word_length", "drop_above": 5, "source": "a test"},
    ]
    return Profile(name="test", version=1, rules=rules, **more)


def table(output) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in output.shards()])


def ledger(decided, measured) -> list[dict]:
    paths = [ledger_path(decided.folder, "web", shard.stem) for shard in measured.shards()]
    return pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist()


def test_the_verdicts_are_those_of_measuring_everything(context, make_pool):
    pool = make_pool("web", TEXTS, shards=2)
    whole, short = (measure(context, pool, config, profile=profile()) for config in (WHOLE, SHORT))
    decided = [decide(context, measured, profile()) for measured in (whole, short)]
    ledgers = [ledger(one, measured) for one, measured in zip(decided, (whole, short), strict=True)]
    assert [row["keep"] for row in ledgers[0]] == [row["keep"] for row in ledgers[1]]
    assert [row["rule"] for row in ledgers[0]] != [row["rule"] for row in ledgers[1]]  # order is no fate any more
    assert decided[1].counts["failing"] == decided[1].counts["dropped"]
    assert decided[1].counts["failing_alone"] == {}


def test_what_early_rules_drop_is_measured_no_further(context, make_pool):
    pool = make_pool("web", TEXTS)
    whole, short = (table(measure(context, pool, config, profile=profile())) for config in (WHOLE, SHORT))
    assert whole.schema.equals(short.schema)
    words, length = whole["whitespace_words"].to_numpy(), whole["mean_word_length"].to_numpy()
    passes = ~((words < 3) | (length > 5))
    assert 0 < passes.sum() < len(TEXTS)
    always = {"id", "content_hash", "group_hash", "bytes", "line_edit_word_share", *EARLY}
    for name in whole.column_names:
        ours, theirs = short[name].combine_chunks(), whole[name].combine_chunks()
        if name in always:
            assert ours.equals(theirs), name
        else:
            assert ours.filter(pa.array(passes)).equals(theirs.filter(pa.array(passes))), name
            assert ours.filter(pa.array(~passes)).null_count == (~passes).sum(), name


def test_without_a_profile_or_without_the_option_everything_is_measured(context, make_pool):
    pool = make_pool("web", TEXTS)
    whole = measure(context, pool, WHOLE)
    assert measure(context, pool, WHOLE, profile=profile()).reused
    assert measure(context, pool, SHORT).folder == whole.folder


def test_only_early_rules_are_part_of_the_step_s_identity(context, make_pool):
    pool = make_pool("web", TEXTS)
    first = measure(context, pool, SHORT, profile=profile())
    assert measure(context, pool, SHORT, profile=profile(gzip=0.1)).reused
    assert not measure(context, pool, SHORT, profile=profile(short=4)).reused
    assert decide(context, first, profile(gzip=0.1)).counts["documents_in"] == len(TEXTS)
    with pytest.raises(ConfigError, match="pool 'web' was measured with `short_circuit` under other early rules"):
        decide(context, first, profile(short=2))


def test_a_pipeline_file_asks_for_it_and_each_source_goes_by_its_own_profile(tmp_path):
    (tmp_path / "a.txt").write_text("one two three four")
    rules = "[{name: few, measurement: whitespace_words, drop_below: 9, source: a test}]"
    (tmp_path / "mine.yaml").write_text(f"name: mine\nversion: 1\nrules: {rules}\n")
    source = "{{name: {}, reader: plain_text, root: {}, include: ['*.txt'], profile: {}}}"
    sources = ", ".join(
        source.format(name, tmp_path, profile) for name, profile in (("a", "mine.yaml"), ("b", "plain"))
    )
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"name: short\nsources: [{sources}]\nmeasure: {{language: off, short_circuit: true}}\n")
    pipeline, recipes = load_pipeline(path)

    def stage(name, work):
        if name == "dedup-exact":
            raise EnoughError
        return work()

    line = Line(pipeline, recipes, tmp_path, Context(tmp_path / "workspace"), stage)
    line.ingest()
    with pytest.raises(EnoughError):
        line.curate()
    assert table(line.measured["a"])["gzip_ratio"].null_count == 1
    assert table(line.measured["b"])["gzip_ratio"].null_count == 0
    assert line.decided["a"].counts["dropped"] == {"few": 1}


class EnoughError(Exception):
    """The stations that the test is about are done."""


def test_a_rule_is_early_if_all_that_its_threshold_hangs_on_is():
    late = {"where": {"language": "de"}, "rules": {"short": {"drop_below": 1}}, "source": "a test"}
    made = profile(overrides=[late])
    assert [rule.name for rule in early(profile()).rules] == ["short", "long_word"]
    assert [rule.name for rule in early(made).rules] == ["long_word"]
    assert early(made).overrides == ()


def test_workers_change_no_byte(tmp_path, make_pool):
    pool = make_pool("web", TEXTS * 3, shards=3)
    contents = set()
    for workers in (1, 2):
        with LocalExecutor(workers) as executor:
            context = Context(tmp_path / str(workers), executor)
            contents.add(measure(context, pool, SHORT, profile=profile()).content)
    assert len(contents) == 1


def test_a_pool_of_which_nothing_passes(context, make_pool):
    short = table(measure(context, make_pool("web", ["", "a"]), SHORT, profile=profile()))
    assert short["gzip_ratio"].null_count == 2
    assert np.array_equal(short["whitespace_words"].to_numpy(), [0, 1])
