"""A user's own measurements: from the pipeline file to the ledger, and every way in which they can be wrong."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.config import ConfigError
from curation.ledger import ledger_path
from curation.measure.entropy import GROUP as ENTROPY
from curation.measure.own import MeasurementError
from curation.measure.station import Measure, measure
from curation.rules.decide import decide
from curation.rules.profile import Profile
from curation.steps import Context
from flows.line import Line
from flows.pipeline import load_pipeline
from tests.conftest import documents_table
from tests.curation.test_measure import unicode_words

EXAMPLES = Path(__file__).parent.parent.parent / "manifests" / "examples"
MINE = """
def vowel_share(text: str) -> float | None:
    letters = [c for c in text.lower() if c.isalpha()]
    return sum(c in "aeiou" for c in letters) / len(letters) if letters else None

def licence(text: str, metadata: dict) -> str | None:
    return metadata.get("license")

def exclamations(text: str) -> int:
    return text.count("!")
"""
NAMES = ("vowel_share", "licence", "exclamations")


def config(*functions: str) -> Measure:
    return Measure(minhash="off", language="off", groups=(), functions=[f"mine.py:{name}" for name in functions])


def test_a_column_for_each_function_with_the_type_that_it_promises(context, make_pool, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    pool = make_pool("web", [{"text": "Aha!!", "metadata": '{"license": "MIT"}'}, "", "brr"], shards=2)
    tables = [pq.read_table(path) for path in measure(context, pool, config(*NAMES), folder=tmp_path).shards()]
    table = pa.concat_tables(tables)
    assert [table.schema.field(name).type for name in NAMES] == [pa.float64(), pa.string(), pa.int64()]
    assert [table[name].to_pylist() for name in NAMES] == [[2 / 3, None, 0.0], ["MIT", None, None], [2, 0, 0]]


def test_a_changed_function_is_measured_again_and_a_moved_one_is_not(context, make_pool, tmp_path):
    pool = make_pool("web", ["Aha!!"])
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder, text in zip(folders, (MINE, MINE, MINE.replace("aeiou", "a")), strict=True):
        folder.mkdir()
        (folder / "mine.py").write_text(text)
    steps = [measure(context, pool, config("vowel_share"), folder=folder) for folder in folders]
    assert [step.reused for step in steps] == [False, True, False]
    assert not measure(context, pool, config("exclamations"), folder=folders[0]).reused
    assert not list(folders[0].glob("__pycache__"))


def test_rules_decide_over_them(context, make_pool, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    rule = {"name": "few_vowels", "measurement": "vowel_share", "drop_below": 0.3, "source": "a test"}
    measured = measure(context, make_pool("web", ["hello", "brr", "..."]), config("vowel_share"), folder=tmp_path)
    decided = decide(context, measured, Profile(name="mine", version=1, rules=[rule]))
    rows = pq.read_table(ledger_path(decided.folder, "web", "web-00000")).to_pylist()
    assert [(row["keep"], row["value"], row["threshold"]) for row in rows] == [
        (True, None, None),
        (False, 0.0, 0.3),
        (True, None, None),
    ]


@pytest.mark.parametrize(
    ("reference", "code", "message"),
    [
        ("mine.py", MINE, "expected FILE.py:FUNCTION"),
        ("none.py:f", MINE, "none.py: no such file"),
        ("mine.py:vowels", MINE, "no function 'vowels'; it has vowel_share, licence, exclamations"),
        ("mine.py:f", "def f(text: str) -> float:\n  return 1 +\n", "mine.py does not run: SyntaxError"),
        ("mine.py:f", "import nowhere\n", "mine.py does not run: ModuleNotFoundError"),
        ("mine.py:f", "def f(text): return 1\n", "say what it returns"),
        ("mine.py:f", "def f(text: str) -> list: return []\n", "say what it returns"),
        ("mine.py:f", "def f() -> int: return 1\n", "it must take the text"),
        ("mine.py:words", "def words(text: str) -> int: return 1\n", "'words' is a measurement already"),
        ("mine.py:Words", "def Words(text: str) -> int: return 1\n", "no name for a column"),
    ],
)
def test_what_is_wrong_with_a_function_is_told_before_any_work(
    context, make_pool, tmp_path, reference, code, message
):
    (tmp_path / "mine.py").write_text(code)
    asked = Measure(minhash="off", language="off", groups=(), functions=[reference])
    with pytest.raises(ConfigError, match=message):
        measure(context, make_pool("web", ["x"]), asked, folder=tmp_path)
    assert not (context.workspace / "steps" / "measure").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", "'f' failed on document [0-9a-f]{32}: ZeroDivisionError.*return None where it has no value"),
        ("'many'", "'f' gave 'many' on document [0-9a-f]{32}; its annotation promises double"),
        ("True", "'f' gave True on document"),
        ("float('nan')", "'f' gave nan on document"),
    ],
)
def test_a_function_that_fails_names_itself_and_the_document(context, make_pool, tmp_path, body, message):
    (tmp_path / "mine.py").write_text(f"def f(text: str) -> float:\n    return {body}\n")
    with pytest.raises(MeasurementError, match=message):
        measure(context, make_pool("web", ["x"]), config("f"), folder=tmp_path)


class EnoughError(Exception):
    """The stations that the test is about are done."""


def test_the_example_runs_from_the_pipeline_file_to_the_ledger(tmp_path):
    for name in ("own-measures.yaml", "my-rules.yaml", "my_measures.py"):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        text = text.replace('["*.py"]', '["json/*.py", "a*.py"]').replace("drop_below: 0.25", "drop_below: 0.37")
        (tmp_path / name).write_text(text, encoding="utf-8")
    pipeline, recipes = load_pipeline(tmp_path / "own-measures.yaml", ["measure.language=off"])

    def stage(name, work):
        if name == "dedup-exact":
            raise EnoughError
        return work()

    line = Line(pipeline, recipes, tmp_path, Context(tmp_path / "workspace"), stage)
    line.ingest()
    with pytest.raises(EnoughError):
        line.curate()
    decided, measured = line.decided["docstrings"], line.measured["docstrings"]
    table = pa.concat_tables([pq.read_table(path) for path in measured.shards()])
    assert table.schema.field("vowel_share").type == pa.float64()
    values = dict(zip(table["id"].to_pylist(), table["vowel_share"].to_pylist(), strict=True))
    ledgers = [pq.read_table(path) for path in sorted((decided.folder / "ledger").rglob("*.parquet"))]
    dropped = [row for row in pa.concat_tables(ledgers).to_pylist() if row["rule"] == "few_vowels"]
    assert dropped
    assert all(values[row["id"]] == row["value"] < row["threshold"] == 0.37 for row in dropped)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(), st.text("ab AB,é"), st.just("The the cat")), max_size=4))
def test_word_entropy_is_that_of_a_counter(texts):
    documents = documents_table("web", texts)
    found = ENTROPY.measure(documents, pa.array(texts, pa.large_string()))["word_entropy"].to_pylist()
    for text, entropy in zip(texts, found, strict=True):
        # The simple lowercase, as the tables of the kernels have it: U+0130 gives one character.
        counts = Counter("".join(c.lower()[0] for c in word) for word in unicode_words(text)).values()
        total = sum(counts)
        expected = sum(-n / total * math.log(n / total) for n in counts) if total else None
        assert entropy == (None if expected is None else pytest.approx(expected, abs=1e-12))
