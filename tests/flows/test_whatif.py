"""`decide` and `whatif` over a recorded run: equal to a loop over documents, from the ledger to the drawing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from curation.config import ConfigError
from curation.ledger import ledger_path
from curation.measure.station import Measure, measure
from curation.rules.decide import decide
from curation.rules.profile import Profile, load_profile
from curation.steps import Context, step
from flows.decide import decide_pools, print_decided
from flows.pools import BYTES_PER_TOKEN, UnknownPoolError, measured_pools
from flows.report.measurements import Histogram, Threshold, shown_bins, thresholds
from flows.report.whatif import print_what_if, write_page
from flows.run import Recorder, Run, load_run
from flows.whatif import parse_settings, what_if, with_settings
from tests.conftest import documents_table

TEXTS = {
    "web": ["word " * n for n in (2, 5, 8, 11, 14, 40)] + ["# " * 9, "</script><b>\x1b[31m" + " x" * 9],
    "books": ["long words everywhere " * n for n in (1, 3, 4, 9)],
}
PROFILE = """
name: short
version: 3
rules:
- {name: few_words, measurement: whitespace_words, drop_below: 10, source: a test}
- {name: symbols, measurement: symbol_word_ratio, drop_above: 0.5, source: a test}
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Two measured pools in a recorded run; the tokens of `web` (three a byte) have been counted."""
    folder = tmp_path_factory.mktemp("decide") / "workspace"
    context = Context(folder)
    (folder.parent / "short.yaml").write_text(PROFILE)
    profile = load_profile(folder.parent / "short.yaml")
    recorder = Recorder(folder, "test", {"sources": [{"name": "web"}, {"name": "books"}]}, "")
    for source, texts in TEXTS.items():
        table = documents_table(source, texts)

        def fill(build, table=table, source=source):
            for number, half in enumerate((table.slice(0, 3), table.slice(3))):
                build.write_table(f"shards/{source}-{number:05d}.parquet", half)

        pool = step(context, f"ingest/{source}", 1, {"texts": texts}, {}, fill)
        measured = measure(context, pool, Measure(minhash="off", language="off", groups=()))
        for output in (pool, measured, decide(context, measured, profile)):
            recorder.add(output)
    recorder.add(
        step(context, "tokens/web", 1, {}, {}, lambda build: write_tokens(build, load_pool(folder, "web")))
    )
    recorder.finish("completed")
    return folder


def load_pool(folder: Path, source: str) -> Path:
    return next((folder / "steps" / "ingest" / source).glob("*/step.json")).parent


def write_tokens(build, pool: Path) -> None:
    for path in sorted((pool / "shards").glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "text"])
        tokens = [3 * len(text.encode()) for text in table["text"].to_pylist()]
        build.write_table(
            f"shards/{path.name}", pa.table({"id": table["id"], "tokens": pa.array(tokens, pa.uint32())})
        )


@pytest.fixture
def run(workspace) -> Run:
    return load_run(workspace)


@pytest.fixture
def profile(workspace) -> Profile:
    return load_profile(workspace.parent / "short.yaml")


def tokens_of(source: str, text: str) -> int:
    size = len(text.encode())
    return 3 * size if source == "web" else -(-size // BYTES_PER_TOKEN)


def kept(texts: list[str], few_words: float = 10, symbols: float = 0.5) -> list[str]:
    return [t for t in texts if len(t.split()) >= few_words and t.count("#") / len(t.split()) <= symbols]


def test_decide_writes_the_ledger_of_the_profile_without_any_text(workspace, run, profile, tmp_path):
    pools = measured_pools(run, ["all"])
    assert [pool.source for pool in pools] == ["web", "books"]
    looser = with_settings(profile, parse_settings(profile, ["few_words=5"]))
    context = Context(workspace)
    for decided in decide_pools(context, [replace(pool, documents=None) for pool in pools], looser):
        texts = TEXTS[decided.source]
        expected = kept(texts, few_words=5)
        assert (decided.documents, decided.kept) == (len(texts), len(expected))
        assert decided.kept_tokens == sum(tokens_of(decided.source, text) for text in expected)
        assert decided.tokens == sum(tokens_of(decided.source, text) for text in texts)
        assert decided.estimated == (decided.source == "books")
        assert sum(rule.dropped for rule in decided.rules) == decided.documents - decided.kept
        assert sum(rule.tokens for rule in decided.rules) == decided.tokens - decided.kept_tokens
        assert decided.step.name == f"rules/{decided.source}"
        ledger = [
            row
            for shard in next(pool for pool in pools if pool.source == decided.source).measured.shards()
            for row in pq.read_table(ledger_path(decided.step.folder, decided.source, shard.stem)).to_pylist()
        ]
        assert [row["keep"] for row in ledger] == [text in expected for text in texts]
        assert {row["threshold"] for row in ledger if row["rule"] == "few_words"} == {5.0}


def test_deciding_as_the_run_did_finds_its_step(workspace, run, profile):
    [pool] = measured_pools(run, ["web"])
    [decided] = decide_pools(Context(workspace, build=False), [pool], profile)
    assert decided.step.folder == run.step("rules/web").folder


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (["few_words=5"], {"few_words": 5}),
        (["few_words=12.5", "symbols=0.99"], {"few_words": 12.5, "symbols": 0.99}),
        (["few_words=off"], {"few_words": 0}),
        (["symbols=off", "few_words=1"], {"symbols": 2, "few_words": 1}),
        (["few_words=10"], {}),
    ],
)
def test_whatif_counts_what_a_loop_over_the_texts_counts(run, profile, settings, arguments):
    answer = what_if(measured_pools(run, ["all"]), profile, settings, 3)
    for effect in answer.effects:
        texts = TEXTS[effect.source]
        before, after = kept(texts), kept(texts, **arguments)
        sets = {
            "all": texts,
            "before": before,
            "after": after,
            "gained": [text for text in after if text not in before],
            "lost": [text for text in before if text not in after],
        }
        for name, chosen in sets.items():
            expected = (len(chosen), sum(tokens_of(effect.source, text) for text in chosen))
            assert getattr(effect, name) == expected, (effect.source, name)
    total = answer.total()
    assert total.after[0] == sum(effect.after[0] for effect in answer.effects)
    assert total.before[1] + total.gained[1] - total.lost[1] == total.after[1]


def test_examples_are_the_changed_documents_nearest_to_the_new_threshold(run, profile):
    answer = what_if(measured_pools(run, ["all"]), profile, ["few_words=5"], 2)
    assert [(one.value, one.fate) for one in answer.examples] == [(5, "gained"), (8, "gained")]
    assert answer.examples[0].text == " ".join(["word"] * 5)
    answer = what_if(measured_pools(run, ["web"]), profile, ["few_words=9.5"], 2)
    assert {one.fate for one in answer.examples} == {"unchanged"}
    assert sorted(one.value for one in answer.examples) == [9, 10]


def test_an_example_belongs_to_the_rule_that_changes_its_fate(run, profile):
    answer = what_if(measured_pools(run, ["web"]), profile, ["few_words=5", "symbols=0.6"], 9)
    gained = [(one.rule, one.value) for one in answer.examples if one.fate == "gained"]
    assert gained == [("few_words", 5), ("few_words", 8)]


def test_a_setting_leaves_overrides_alone(run, profile):
    override = {"where": {"content_hash": "none"}, "rules": {"few_words": {"drop_below": 3}}, "source": "a test"}
    made = Profile.model_validate({**profile.model_dump(), "overrides": [override]})
    assert with_settings(made, parse_settings(made, ["few_words=5"])).overrides == made.overrides
    assert with_settings(made, parse_settings(made, ["few_words=off"])).overrides == ()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("few_word=3", "no rule 'few_word'; did you mean few_words"),
        ("zzz=3", "no rule 'zzz'; it has few_words, symbols"),
        ("few_words", "expected RULE=VALUE, for example --set few_words=0.5"),
        ("few_words=many", "--set few_words=many: expected a number or 'off'"),
        ("few_words=.nan", "finite number"),
    ],
)
def test_a_setting_that_makes_no_sense_is_an_error(profile, setting, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(profile, [setting])


def test_a_rule_is_set_once(profile):
    with pytest.raises(ConfigError, match="rule 'symbols' is set twice"):
        parse_settings(profile, ["symbols=1", "symbols=2"])


def test_an_unknown_pool_names_those_there_are(run):
    with pytest.raises(
        UnknownPoolError, match="no measured pool 'wbe'; it has web, books, or 'all'; did you mean 'web'"
    ):
        measured_pools(run, ["books", "wbe"])


@pytest.mark.parametrize(
    ("measurement", "message"),
    [
        ("comment_share", r"pool 'web' has no measurement 'comment_share': measured without the group 'code'"),
        ("whitespace_word", "pool 'web' has no measurement 'whitespace_word'; did you mean whitespace_words"),
    ],
)
def test_a_measurement_that_was_not_taken_says_how_to_get_it(workspace, run, measurement, message):
    rule = {"name": "r", "measurement": measurement, "drop_above": 1, "source": "a test"}
    made = Profile(name="p", version=1, rules=[rule])
    for ask in (
        lambda pools: what_if(pools, made, ["r=2"], 1),
        lambda pools: decide_pools(Context(workspace), pools, made),
    ):
        with pytest.raises(ConfigError, match=message):
            ask(measured_pools(run, ["web"]))


def test_a_profile_with_other_edits_asks_for_measuring_anew(workspace, run, profile):
    made = Profile.model_validate({**profile.model_dump(), "edits": ["newlines"]})
    pools = measured_pools(run, ["web"])
    with pytest.raises(ConfigError, match="edits text by newlines, but pool 'web' was measured with no edits"):
        decide_pools(Context(workspace), pools, made)


def test_what_a_short_circuit_left_out_is_not_guessed(workspace, run, profile):
    [pool] = measured_pools(run, ["web"])
    asked = Measure(minhash="off", language="off", groups=(), short_circuit=True)
    late = {"name": "gzip", "measurement": "gzip_ratio", "drop_below": 0.1, "source": "a test"}
    made = Profile.model_validate({**profile.model_dump(), "rules": [*profile.model_dump()["rules"], late]})
    short = replace(pool, measured=measure(Context(workspace), pool.documents, asked, profile=made))
    [decided] = decide_pools(Context(workspace), [short], made)
    assert {rule.failing_alone for rule in decided.rules} == {None}
    print_decided([decided], made, Console(file=io.StringIO()))
    [effect] = what_if([short], made, ["gzip=0.9"], 1).effects  # a rule that comes later can be asked about
    [whole] = what_if([pool], made, ["gzip=0.9"], 1).effects
    assert effect == whole
    assert effect.lost[0] > 0
    with pytest.raises(ConfigError, match="`short_circuit` under other early rules"):
        what_if([short], made, ["few_words=5"], 1)


def test_the_drawing_names_both_cuts_and_escapes_every_text(run, profile, tmp_path):
    answer = what_if(measured_pools(run, ["web"]), profile, ["few_words=5"], 9)
    page = write_page(answer, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "</script><b>" not in page
    assert "\x1b" not in page
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    words = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert {"new 5", "old 10"} <= set(words)
    out = io.StringIO()
    print_what_if(answer, Console(file=out, width=160, color_system=None))
    assert "new cut 5, old cut 10" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_the_report_says_for_which_documents_a_threshold_is():
    limits = thresholds(load_profile("code").model_dump(mode="json"))
    [everywhere] = limits["max_line_length"]
    assert (everywhere.where, len(everywhere.elsewhere)) == ("", 1)
    assert everywhere.elsewhere[0].startswith("code language HTML, JSON, ")
    assert everywhere.elsewhere[0].endswith(": above 100,000")
    assert limits["mean_line_length"][0].elsewhere[0].endswith(": off")
    [little] = limits["visible_chars"]
    assert little.where == "code language HTML"
    histogram = Histogram(share=False)
    histogram.add(np.array([1.0, 50, 500, 0]))
    assert not any(shown_bins(histogram, [little]).dropped)
    assert any(shown_bins(histogram, [replace(little, where="")]).dropped)
    never = Threshold("never", None, 0.0)
    assert shown_bins(histogram, [never]).edges[0] > 0.5  # a threshold at 0 does not stretch the axis


def test_a_person_sees_which_tokens_are_estimated(workspace, run, profile):
    out = io.StringIO()
    print_decided(
        decide_pools(Context(workspace), measured_pools(run, ["books"]), profile), profile, Console(file=out)
    )
    assert "~ tokens estimated from bytes" in out.getvalue()


def mixwright(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_commands(workspace, tmp_path):
    profile = workspace.parent / "short.yaml"
    done = mixwright("decide", "web", "books", "-p", profile, "-w", workspace, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [pool["kept"] for pool in told["pools"]] == [len(kept(texts)) for texts in TEXTS.values()]
    assert Path(told["pools"][0]["ledger"]).is_dir()
    page = tmp_path / "x.html"
    done = mixwright(
        "whatif", "all", "-p", profile, "--set", "few_words=5", "-w", workspace, "--json", "--output", page
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"]["gained"]["documents"] == 3
    assert page.is_file()
    for arguments, code in (
        (["whatif", "nothing", "--set", "few_words=5"], 4),
        (["whatif", "web", "--set", "few=5"], 2),
    ):
        done = mixwright(*arguments, "-p", profile, "-w", workspace)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
