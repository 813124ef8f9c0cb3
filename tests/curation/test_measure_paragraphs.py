"""Languages of paragraphs: those of each paragraph alone, and the share of the document's own."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.measure.language import Language, LanguageIdentifier, language_model
from curation.measure.paragraphs import COLUMNS, paragraph_languages
from curation.measure.station import Measure, measure
from tests.curation.test_measure_language import SENTENCES, needs_model

pytestmark = needs_model
TEXTS = [
    "\n\n".join([SENTENCES["en"] * 3, SENTENCES["de"], SENTENCES["en"]]),
    f"\r\n\r\n{SENTENCES['fr']}\r\n{SENTENCES['fr']}\r\n\r\n \n\n",
    "",
    " \n\n\t",
    SENTENCES["zh"],
]


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return LanguageIdentifier(language_model(), 2000)


def columns(texts: list[str], identifier: LanguageIdentifier) -> dict[str, list]:
    array = pa.array(texts, pa.large_string())
    found = paragraph_languages(array, identifier.identify(array)[0], identifier)
    assert {name: column.type for name, column in found.items()} == COLUMNS
    return {name: column.to_pylist() for name, column in found.items()}


def test_each_paragraph_has_a_language_and_the_document_a_share_of_its_own(identifier):
    found = columns(TEXTS, identifier)
    assert found["paragraph_languages"] == [["en", "de", "en"], ["fr", None], [], [None, None], ["zh"]]
    english, german = 4 * len(SENTENCES["en"]), len(SENTENCES["de"])
    assert found["main_language_share"] == [pytest.approx(english / (english + german)), 1.0, None, None, 1.0]
    scores = found["paragraph_language_scores"]
    assert [len(one) for one in scores] == [3, 2, 0, 2, 1]
    assert scores[1][1] is None


PIECES = [*SENTENCES.values(), "\n", "\n\n", "\r\n", " ", "\t", "x"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=4))
def test_paragraphs_are_those_of_a_plain_split(identifier, texts):
    found = columns(texts, identifier)
    for row, text in enumerate(texts):
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        paragraphs = [part.strip("\n") for part in re.split(r"\n{2,}", "\n".join(lines)) if part.strip("\n")]
        alone = pa.array(paragraphs, pa.large_string())
        assert found["paragraph_languages"][row] == identifier.identify(alone)[0].to_pylist()


def test_the_option_adds_the_columns(context, make_pool):
    pool = make_pool("web", TEXTS)
    plain, more = (
        measure(context, pool, Measure(minhash="off", language=Language(paragraphs=paragraphs)))
        for paragraphs in (False, True)
    )
    without, table = (pq.read_table(one.shards()[0]) for one in (plain, more))
    assert not set(COLUMNS) & set(without.column_names)
    assert table["paragraph_languages"].to_pylist()[0] == ["en", "de", "en"]
    assert table.drop_columns(list(COLUMNS)).equals(without)
