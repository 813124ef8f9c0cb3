"""CWE and REX: sections that are the text, counts that a recount confirms, blocks that can be taken out again."""

from __future__ import annotations

import json
import re
from collections import Counter
from pydoc_data.topics import topics

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.config import ConfigError
from curation.derive import cwe, rex
from curation.derive import weave as station
from curation.derive.config import Cwe, Rex
from curation.derive.draws import Draws
from curation.derive.sections import SHORTEST, partitions, power_of_two, sections, size_range
from curation.derive.weave import Slot, weave, woven
from curation.derive.words import noun_counts, words_of
from curation.synthesis.generation import Completion
from tests.synthetic import write_model

BOOK = "\n\n".join(text for _, text in sorted(topics.items()))[:150_000]


def document(number: int) -> str:
    return f"{number:032x}"


# Sections


@settings(deadline=None)
@given(
    st.text("ab.: \n$-1\\{}", max_size=3000)
    | st.lists(st.sampled_from(["x" * 300, "- y", "see:", "\n\n"])).map("\n\n".join)
)
def test_sections_are_the_whole_text(text):
    spans = sections(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(end - start >= SHORTEST for start, end in spans[1:])
    for size in (1, 700, 5000):
        parts = partitions(spans, size) if spans else []
        assert "".join(text[start:end] for start, end in parts) == text
        assert all(end - start >= size for start, end in parts[:-1])


def test_sections_end_where_a_reader_would_pause():
    long = "word " * 120
    assert len(sections(f"{long}\n\n{long}")) == 2
    assert len(sections(f"{long}\r\n\r\n{long}")) == 2
    for joined in (
        f"{long}:\n\n{long}",
        f"{long}\n\n- an item\n{long}",
        f"{long}\n\n2. an item\n{long}",
        f"{long}\n\n$$x$$ {long}",
        f"{long}\\begin{{equation}}\n\n{long}",
        f"{long}\n\n\\[ x {long}",
    ):
        assert len(sections(joined)) == 1, joined[-700:]
    # What stands around a whole paper binds nothing together.
    assert len(sections(f"\\begin{{document}}\n{long}\n\n{long}\n\\end{{document}}")) == 2


def test_partitions_are_of_the_published_sizes():
    for characters in (20_000, 65_536, 400_000, 3_000_000):
        low, high = size_range(characters)
        assert low == min(16_384, characters // 4)
        assert high == min(262_144, characters // 2)
        drawn = {power_of_two(characters, Draws(document(n), "size")) for n in range(60)}
        assert all(low <= size <= high and size & (size - 1) == 0 for size in drawn)
        assert drawn == {1 << n for n in range(30) if low <= 1 << n <= high}


# CWE


def recount(text: str) -> Counter:
    """Words by splitting at what belongs to none, not by matching them."""
    pieces = re.split(r"[^\w'’-]|[\d_]", text)
    words = []
    for piece in pieces:
        words += [part for part in re.split(r"^['’-]+|['’-]+$|['’-]{2,}", piece) if part]
    return Counter(words)


def test_counts_are_those_of_a_recount():
    found = cwe.counted(BOOK, Draws(document(1), "cwe"), None)
    assert 2 <= len(found) <= 10
    checked = 0
    for part in found:
        plain = recount(BOOK[part.start : part.end])
        for noun, count in part.counts.items():
            assert plain[noun] == count, noun
            checked += 1
        order = list(part.counts.items())
        assert order == sorted(order, key=lambda item: (-item[1], item[0]))
    assert checked >= 20


def test_nouns_are_told_by_articles_or_by_a_list():
    text = (
        "The ship left the old harbour. Ships came, a ship went; it quickly went. Bristol's harbour! Ship-shape."
    )
    counts = noun_counts(text)
    assert counts == {"ship": 2, "Ships": 1, "old": 1, "Bristol's": 1, "Ship-shape": 1}
    assert noun_counts(text, frozenset({"harbour"})) == {"harbour": 2, "Ships": 1, "Bristol's": 1, "Ship-shape": 1}
    assert words_of("it's 3 o'clock—now") == ["it's", "o'clock", "now"]


def test_own_questions_state_the_count():
    for part in cwe.counted(BOOK, Draws(document(2), "cwe"), None):
        for number in range(40):
            cards = cwe.written(part, 5, Draws(document(number), "x"))
            assert len(cards) == len({card.noun for card in cards}) == min(5, len(part.counts))
            for card in cards:
                assert card.count == part.counts[card.noun]
                assert f'"{card.noun}"' in card.question
                said = re.findall(r"\d+", card.answer)
                assert said == [str(card.count)] or (
                    card.count == 1 and "one" in card.answer.lower().replace("once", "one")
                )


def test_a_models_questions_are_kept_if_they_are_right():
    part = cwe.Counted(0, 100, {"harbour": 4, "ship": 2, "Anna": 2})
    response = """```json
{"question": "How many times is the harbour mentioned?", "answer": "4"}
{"question": "How often does Anna come up?", "answer": "She comes up 2 times."}
{"question": "How often is a ship mentioned?", "answer": "3"}
{"question": "How often is a whale mentioned?", "answer": "2"}
{"question": "What is the count of ship?", "answer": "2"}
{"question": "How often is the ship seen?", "answer": "1 or 2"}
nonsense
```"""
    cards, wrong = cwe.checked(part, response)
    assert [(card.noun, card.count, card.answer) for card in cards] == [("harbour", 4, "4"), ("Anna", 2, "2")]
    assert wrong == [
        "the answer is not the count",
        "the question names none of the nouns",
        "the question says word or count",
        "the answer is not the count",
        "no card: JSONDecodeError",
    ]
    prompt = cwe.prompt(part, "It was a dark night.", 5)
    assert "harbour: 4\nship: 2\nAnna: 2" in prompt
    assert "Write 3 different questions" in prompt


# REX


def occurrences(text: str, phrase: str) -> int:
    """A phrase as words in a row, by plain Python over lower-case words and the blanks between them."""
    pattern = r"[ \t]*\r?\n?[ \t]*".join(map(re.escape, phrase.split()))
    letter = r"[^\W\d_]"
    before, after = rf"(?<!{letter})(?<!{letter}['’-])", rf"(?!{letter})(?!['’-](?!s(?!{letter})){letter})"
    return len(re.findall(rf"{before}{pattern}{after}", text.lower()))


def test_phrases_stand_in_their_partition():
    found = rex.found(BOOK, Draws(document(3), "rex"), 10, 10)
    assert len(found) >= 2
    for part in found:
        text = BOOK[part.start : part.end]
        assert 1 <= len(part.snippets) <= 10
        phrases = [one.phrase for one in part.snippets]
        assert not any(one != other and f" {one} " in f" {other} " for one in phrases for other in phrases)
        for one in part.snippets:
            words = one.phrase.split()
            assert 2 <= len(words) <= 5
            assert all(len(word) >= 4 for word in words)
            assert 1 <= one.times <= occurrences(text, one.phrase)
            flat = " ".join(text.split())
            for sentence in one.sentences:
                assert sentence in flat
                assert rex._pattern(one.phrase).search(sentence)


def test_telling_phrases_come_before_common_ones():
    section = "It was said that the general meeting took place again and again in that hall. " * 8
    special = "The copper kettle whistled; the copper kettle sang. " * 12
    text = "\n\n".join([section, special, section, section, section])
    (first, *_) = rex._best(rex.phrases(special), Counter(["copper kettle", "kettle whistled"]), 5, 1)
    assert first == "copper kettle"
    counts = rex.phrases(text)
    assert counts["copper kettle"] == 24
    assert "meeting took place" not in counts  # took is a stop word
    assert rex.phrases("Anna's copper kettle") == {"copper kettle": 1}


@pytest.mark.parametrize("name", sorted(rex.VIGNETTES))
def test_vignettes_quote_the_text(name):
    for number in range(4):
        for part in rex.found(BOOK, Draws(document(number), "rex"), 6, 3):
            block = rex.VIGNETTES[name](part, Draws(document(number), name))
            assert all(one.phrase in block.lower() or name in ("exercise",) for one in part.snippets)
            assert rex.checked(part, block) is None


def test_a_models_vignette_must_hold_the_phrases():
    snippets = tuple(
        rex.Snippet(phrase, (f"The {phrase} stood.",), 1) for phrase in ("copper kettle", "garden wall")
    )
    part = rex.Found(0, 10, snippets)
    assert rex.checked(part, "A Copper kettle was there.") is None
    assert rex.checked(part, "Nothing.") == "it holds 0 of 2 phrases"
    assert "The **copper kettle** stood." in rex.prompt(part, "eli5")


# Blocks in a document


@given(
    st.text("ab \n", min_size=1, max_size=200),
    st.lists(st.integers(0, 200), max_size=4),
    st.text("xy\n", min_size=1),
)
def test_a_document_less_its_blocks_is_its_parent(text, ends, block):
    slots = [Slot(0, min(end, len(text)), "cwe", "", None, None, text=block) for end in sorted(ends)]
    made, places = woven(text, slots)
    rest, done = "", 0
    for at, characters in places:
        assert block in made[at : at + characters]
        rest += made[done:at]
        done = at + characters
    assert rest + made[done:] == text


class Answering:
    """A model that gives, for every prompt, what `answer` makes of it."""

    def __init__(self, answer):
        self._answer = answer
        self.identity = {"model": "echo", "kind": "test"}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def answer(self, requests):
        for place in reversed(range(len(requests))):  # in any order
            yield place, Completion(self._answer(requests[place].prompt), "stop")


def build(stations, config, **more):
    for source in config.parents:
        stations.pools.get(source) or stations.pool(source, [BOOK, BOOK[::-1], "short", BOOK[40_000:]], shards=2)
    arguments = {
        "holdouts": dict.fromkeys(config.parents, 0.0),
        "seed": 1,
        "folder": stations.ctx.workspace,
    } | more
    output = weave(stations.ctx, config, stations.pools, stations.measured, [], **arguments)
    rows = [row for path in output.shards() for row in pq.read_table(path).to_pylist()]
    return output, rows, pq.read_table(output.folder / "woven.parquet").to_pylist()


def parents_of(stations, source: str) -> dict[str, str]:
    tables = [pq.read_table(path) for path in stations.pools[source].shards()]
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}


@pytest.mark.parametrize("how", ["cwe", "rex"])
def test_a_derived_source_is_a_pool_with_an_audit(make_stations, how):
    config = {"cwe": Cwe, "rex": Rex}[how].model_validate({"name": "long", "how": how, "from": ["books"]})
    stations = make_stations()
    output, rows, audit = build(stations, config)
    counts = output.counts
    assert counts["skipped_by_reason"]["too few sections"] >= 1
    assert counts["records_read"] == 4 == counts["documents_out"] + counts["skipped"]
    assert len(rows) == counts["documents_out"] >= 2
    parents = parents_of(stations, "books")
    by_document = {row["id"]: [one for one in audit if one["id"] == row["id"]] for row in rows}
    for row in rows:
        about, blocks = json.loads(row["metadata"]), by_document[row["id"]]
        parent = parents[about["parent"]]
        assert row["origin"] == f"books#{about['parent']}"
        assert len(blocks) == about["blocks"]
        text, done, rest = row["text"], 0, ""
        for block in blocks:
            rest += text[done : block["at"]]
            done = block["at"] + block["characters"]
            piece, section = text[block["at"] : done], parent[block["start"] : block["end"]]
            assert rest.endswith(section)  # a block stands right after what it is about
            facts = json.loads(block["facts"])
            assert facts
            for name, count in facts.items():
                if how == "cwe":
                    assert recount(section)[name] == count
                    assert f'"{name}"' in piece
                else:
                    assert 1 <= count <= occurrences(section, name)
        assert rest + text[done:] == parent
        if how == "rex":
            assert 4 <= len(blocks) <= 8
    # The same bytes in another workspace, with two workers.
    again = make_stations("again", workers=2)
    assert build(again, config)[0].content == output.content


def test_a_model_words_what_is_counted_here(stations, monkeypatch):
    def answer(prompt: str) -> str:
        counts = re.findall(r"^(\S+): (\d+)$", prompt, re.MULTILINE)
        cards = [{"question": f"How often is {noun} named?", "answer": count} for noun, count in counts[:3]]
        cards.append({"question": f"How often is {counts[3][0]} named?", "answer": "999999"})
        return "\n".join(json.dumps(card) for card in cards)

    generator = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1/chat/completions", "model": "echo"}
    config = Cwe.model_validate({"name": "long", "how": "cwe", "from": ["books"], "generator": generator})
    monkeypatch.setattr(station, "open_generator", lambda *_: Answering(answer))
    output, rows, audit = build(stations, config)
    assert output.counts["rejected"] == len(audit)  # of each block one card was wrong
    for block in audit:
        assert block["writer"] == "echo"
        assert json.loads(block["rejected"]) == ["the answer is not the count"]
        text = next(row["text"] for row in rows if row["id"] == block["id"])
        piece = text[block["at"] : block["at"] + block["characters"]]
        assert "999999" not in piece
        assert piece.count("How often is") == len(json.loads(block["facts"])) == 3
    assert json.loads(rows[0]["metadata"])["model"] == "echo"


def test_a_local_model_is_asked_for_real(stations, tmp_path):
    """A random model says nothing of use: each answer is refused, and no document is made."""
    generator = {"kind": "transformers", "model": str(write_model(tmp_path / "model", positions=2048))}
    settings = {"name": "long", "how": "cwe", "from": ["books"], "generator": generator}
    config = Cwe.model_validate({**settings, "sampling": {"max_tokens": 12}})
    output, rows, audit = build(stations, config)
    assert output.counts["rejected"] > 0
    assert output.counts["skipped_by_reason"] == {"no block was right": 3, "too few sections": 1}
    assert rows == audit == []
    assert list((stations.ctx.workspace / "cache" / "generations").rglob("*"))  # what was said is kept


def test_held_out_parents_are_not_used_and_a_missing_list_is_named(stations):
    config = Cwe.model_validate({"name": "long", "how": "cwe", "from": ["books"]})
    output, rows, _ = build(stations, config, holdouts={"books": 1.0})
    assert rows == []
    assert "none of 0 parents" in output.record["alarms"][0]
    config = Cwe.model_validate({"name": "long", "how": "cwe", "from": ["books"], "nouns": "nouns.txt"})
    with pytest.raises(ConfigError, match=r"nouns .*nouns.txt: no such file"):
        build(stations, config)
