"""The station: planted items found in real text and shown; the same for any workers, shards and order."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from curation.config import ConfigError
from curation.decontaminate import station
from curation.decontaminate.benchmarks import Benchmark, raw_files, read_items
from curation.decontaminate.settings import Decontaminate
from curation.decontaminate.station import decontaminate, index_benchmarks
from curation.dedup.shingles import words
from curation.ledger import alive
from curation.steps import Build, Context
from tests.curation.decontamination import inserted, manual, recased, repunctuated


@pytest.fixture(scope="module")
def paragraphs() -> list[str]:
    return manual()


@pytest.fixture(scope="module")
def items(paragraphs) -> list[dict]:
    """Questions and answers cut from every seventh paragraph of the manual; the others are documents."""
    out = []
    for number, text in enumerate([text for text in paragraphs[::7] if len(text.split()) > 40]):
        found = text.split()
        half = len(found) * 2 // 3
        out.append({"id": f"q{number}", "question": " ".join(found[:half]), "answer": " ".join(found[half:])})
    return out


@pytest.fixture
def benchmark(tmp_path, items) -> Benchmark:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    data = "".join(json.dumps(item) + "\n" for item in items).encode()
    (folder / "set.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    keys = {"question": "question", "answer": "answer", "item": "id"}
    return Benchmark(name="set", root=str(folder), include=["*.gz"], **keys)


def clean_documents(paragraphs: list[str]) -> list[str]:
    """Documents of a few paragraphs each, none of which an item was cut from."""
    left = [text for number, text in enumerate(paragraphs) if number % 7]
    return ["\n\n".join(left[at : at + 3]) for at in range(0, len(left), 3)]


def matches_of(output) -> list[dict]:
    return pq.read_table(output.folder / "matches.parquet").to_pylist()


def run(stations, config: Decontaminate, ledgers: tuple = ()):
    return decontaminate(stations.ctx, stations.pools, stations.measured, list(ledgers), config)


# Between which shares of the planted items are found, (decon, ngram_share). To "decon" neither an answer alone nor
# a question without it is contamination (0.75 of the score at most, unless the answer repeats the question); to
# "ngram_share" an answer is from 20 words on.
RATES = {
    "verbatim": ((1, 1), (1, 1)),
    "recased": ((1, 1), (1, 1)),
    "repunctuated": ((1, 1), (1, 1)),
    "inserted": ((0.3, 1), (0.8, 1)),
    "question only": ((0, 0.06), (1, 1)),
    "answer only": ((0, 0), (0.55, 1)),
}
FALSE = (0, 2)  # of 187 clean documents: the manual words str.rsplit and rpartition as split and partition


@pytest.mark.parametrize("method", ["decon", "ngram_share"])
def test_planted_items_are_found_at_these_rates(stations, paragraphs, items, benchmark, method):
    """Each way of hiding is a source; each document of it hides one item between clean paragraphs."""
    chance = random.Random(3)
    hide = {
        "verbatim": lambda item: f"{item['question']} {item['answer']}",
        "recased": lambda item: recased(f"{item['question']} {item['answer']}", chance),
        "repunctuated": lambda item: repunctuated(f"{item['question']} {item['answer']}", chance),
        "inserted": lambda item: inserted(f"{item['question']} {item['answer']}", chance),
        "question only": lambda item: item["question"],
        "answer only": lambda item: item["answer"],
    }
    clean = clean_documents(paragraphs)
    for name, change in hide.items():
        documents = [f"{clean[2 * n]}\n\n{change(item)}\n\n{clean[2 * n + 1]}" for n, item in enumerate(items)]
        stations.pool(name.replace(" ", "-"), documents)
    stations.pool("clean", clean)
    output = run(stations, Decontaminate(benchmarks=[benchmark], method=method))
    by_source = output.counts["by_source"]
    assert by_source["clean"]["documents_in"] == len(clean) > 180
    assert by_source["clean"]["documents_hit"] <= FALSE[method == "ngram_share"]
    compared = output.counts["by_benchmark"]["set"][method]["compared"]
    assert compared == len(items) > 50
    for name, rates in RATES.items():
        found = by_source[name.replace(" ", "-")]["documents_hit"] / compared
        low, high = rates[method == "ngram_share"]
        assert low <= found <= high, f"{name}: {found:.3f}"
    own = {f"{row['source']}/{row['row']}": row for row in matches_of(output)}
    for name in ("verbatim", "recased"):
        hit = {row["item"] for row in own.values() if row["source"] == name}
        assert len(hit) == compared


def test_a_match_shows_its_place_and_both_texts(stations, items, benchmark):
    item = next(item for item in items if len(item["question"]) < station.EXCERPT)
    before = "Ünïcode 七 before it. "
    planted = item["question"] + " " + item["answer"]
    stations.pool("text", ["nothing of it in here", before + planted + " And words after it."])
    output = run(stations, Decontaminate(benchmarks=[benchmark]))
    (match,) = matches_of(output)
    assert (match["row"], match["benchmark"], match["item"], match["method"]) == (1, "set", item["id"], "decon")
    document = before + planted + " And words after it."
    assert match["start"] == document.index(re.search(r"\w+", item["question"])[0], len(before))
    assert document[match["start"] : match["end"]] == match["text"]
    assert words(match["text"]) == words(item["question"])
    assert match["item_text"] == item["question"][: station.EXCERPT]
    assert match["item_answer"] == item["answer"][: station.EXCERPT]
    assert match["score"] == match["question"] == match["answer"] == 1
    assert match["passage"] is None
    ledger = pq.read_table(next((output.folder / "ledger/text").glob("*.parquet"))).to_pylist()
    assert [row["keep"] for row in ledger] == [True, False]
    assert (ledger[1]["stage"], ledger[1]["rule"], ledger[1]["value"]) == ("decontaminate", "set", 1.0)
    assert ledger[1]["threshold"] == match["threshold"]
    assert ledger[0]["rule"] is None


def test_mark_keeps_the_document_and_names_it(stations, items, benchmark):
    stations.pool("text", [f"{items[0]['question']} {items[0]['answer']}", "clean"])
    output = run(stations, Decontaminate(benchmarks=[benchmark], action="mark"))
    ledger = pq.read_table(next((output.folder / "ledger/text").glob("*.parquet"))).to_pylist()
    assert [(row["keep"], row["rule"]) for row in ledger] == [(True, "set"), (True, None)]
    assert output.counts["documents_out"] == 2
    assert output.counts["documents_hit"] == 1
    assert len(matches_of(output)) == 1


def test_dropped_documents_are_not_looked_at(stations, items, benchmark):
    planted = [f"{item['question']} {item['answer']}" for item in items[:2]]
    stations.pool("text", planted)
    before = stations.drop("text", lambda text: text == planted[0])
    output = run(stations, Decontaminate(benchmarks=[benchmark]), (before,))
    assert [row["row"] for row in matches_of(output)] == [1]
    assert output.counts["documents_in"] == 1
    shard = stations.pools["text"].shards()[0].stem
    assert not alive([before, output], "text", shard, 2).any()


def test_methods_by_kind_and_source(stations, items, benchmark):
    """A question without its answer: found by n-gram share alone. In chat and pairs all text is looked at."""
    question, clean = items[3]["question"], "Nothing of it."
    stations.pool("text", [question])
    stations.pool("shared", [question])
    stations.pool("left-out", [question])
    stations.pool("chat", [[("user", "Tell me."), ("assistant", question)]])
    stations.pool("pairs", [([("user", "?")], [("assistant", clean)], [("assistant", question)])])
    chosen = {"shared": "ngram_share", "left-out": "none", "chat": "ngram_share", "pairs": "ngram_share"}
    output = run(stations, Decontaminate(benchmarks=[benchmark], by_source=chosen))
    assert [row["source"] for row in matches_of(output)] == ["chat", "pairs", "shared"]
    assert "left-out" not in output.counts["by_source"]
    config = Decontaminate(benchmarks=[benchmark], by_kind={"chat": "none"}, by_source={"one": "ngram_share"})
    methods = [config.method_for(*one) for one in (("one", "chat"), ("two", "chat"), ("two", "text"))]
    assert methods == ["ngram_share", "none", "decon"]


def planted_pools(stations, paragraphs, items, shards: int, order: int = 1) -> None:
    clean = clean_documents(paragraphs)[:60]
    documents = [f"{clean[n]}\n{items[n]['question']} {items[n]['answer']}" for n in range(12)] + clean[12:]
    stations.pool("one", documents[::order], shards)
    stations.pool("two", [f"{items[0]['question']} {items[0]['answer']}", *clean[:9]][::order], shards)


@pytest.mark.parametrize("method", ["decon", "ngram_share"])
def test_workers_shards_and_order_change_nothing(make_stations, paragraphs, items, benchmark, method):
    config = Decontaminate(benchmarks=[benchmark], method=method)
    outputs = {}
    for name, workers, shards, order in (("a", 1, 4, 1), ("b", 2, 4, 1), ("c", 2, 1, 1), ("d", 1, 3, -1)):
        stations = make_stations(name, workers)
        planted_pools(stations, paragraphs, items, shards, order)
        outputs[name] = run(stations, config)
    assert outputs["a"].content == outputs["b"].content
    expected = content(outputs["a"])
    assert len(expected) >= 13
    assert all(content(output) == expected for output in outputs.values())
    assert expected != content(outputs["a"], wrong=True)


def content(output, wrong: bool = False) -> list[tuple]:
    """The matches without their place, in an order of their own. `wrong`: the planted bug, one score is off."""
    rows = matches_of(output)
    names = ("id", "source", "benchmark", "item", "score", "question", "answer", "start", "end", "text")
    if wrong:
        rows[0]["score"] -= 1e-9
    return sorted(tuple(str(row[name]) for name in names) for row in rows)


def test_units_find_the_indexes_in_files(stations, paragraphs, items, benchmark, monkeypatch):
    """A cluster sends a unit's arguments with each: they hold no index, which can be large."""
    planted_pools(stations, paragraphs, items, 4)
    true_map, sizes = Build.map, []

    def weighs(build, function, units, kind):
        sizes.extend(len(pickle.dumps(unit)) for unit in units.values())
        return true_map(build, function, units, kind)

    monkeypatch.setattr(Build, "map", weighs)
    config = Decontaminate(benchmarks=[benchmark])
    run(stations, config)
    assert index_benchmarks(stations.ctx, {"text": "text"}, config).record["bytes"] > 10 * max(sizes)


def test_a_killed_run_goes_on_with_the_shards_left(make_stations, paragraphs, items, benchmark, monkeypatch):
    config = Decontaminate(benchmarks=[benchmark])
    whole, killed = make_stations("whole"), make_stations("killed")
    for stations in (whole, killed):
        planted_pools(stations, paragraphs, items, 4)
    expected = run(whole, config).content
    true_scan, calls = station.scan_shard, []

    def dies(*arguments):
        calls.append(arguments[1])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return true_scan(*arguments)

    monkeypatch.setattr(station, "scan_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(killed, config)
    output = run(killed, config)
    assert output.content == expected
    assert len(calls) == 8 + 1  # one was under way
    assert not (output.folder / station.FOUND).exists()


def test_fingerprint_is_of_content(stations, items, benchmark, tmp_path):
    """Another folder of the same files is the same step; another item, or a setting in use, is another one."""
    stations.pool("text", ["clean"])
    first = run(stations, Decontaminate(benchmarks=[benchmark]))
    (tmp_path / "evaluation").rename(tmp_path / "moved")
    moved = benchmark.model_copy(update={"root": str(tmp_path / "moved")})
    assert run(stations, Decontaminate(benchmarks=[moved])).reused
    unused = Decontaminate(benchmarks=[moved], ngram_share={"ngram": 13})
    assert run(stations, unused).folder == first.folder
    assert run(stations, Decontaminate(benchmarks=[moved], decon={"threshold": "90%"})).folder != first.folder
    more = json.dumps({**items[0], "id": "new"}).encode() + b"\n"
    with open(tmp_path / "moved/set.jsonl.gz", "ab") as file:
        file.write(gzip.compress(more, mtime=0))
    changed = run(stations, Decontaminate(benchmarks=[moved]))
    assert changed.counts["by_benchmark"]["set"]["items"] == len(items) + 1
    assert changed.counts["by_benchmark"]["set"]["decon"]["ignored"] == {"duplicate": 1}


def test_forms_of_evaluation_files(tmp_path):
    """JSON lines, a JSON array, TSV and Parquet, compressed or not, give the same items."""
    rows = [{"q": "What is it?", "a": 26.0, "p": ["one", "two"]}, {"q": "And now?", "a": None, "p": []}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.tsv").write_text("q\ta\tp\nWhat is it?\t26\tone two\nAnd now?\t\t\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    context, found = Context(tmp_path / "workspace"), []
    for name in ("a.jsonl.zst", "b.json", "c.tsv", "d.parquet"):
        one = Benchmark(name="x", root=str(tmp_path), include=[name], question="q", answer="a", passage="p")
        items, problems = read_items(one, raw_files(context, one))
        assert not problems
        found.append([(item.question, item.answer, " ".join(item.passage.split())) for item in items])
    assert found == [[("What is it?", "26", "one two"), ("And now?", "", "")]] * 4
    both = Benchmark(name="x", root=str(tmp_path), include=["b.json"], question=["p", "q"])
    assert read_items(both, raw_files(context, both))[0][0].question == "one\ntwo\n\nWhat is it?"


def test_what_cannot_be_read_is_counted_and_told(stations, tmp_path, items):
    folder = tmp_path / "broken"
    folder.mkdir()
    good = json.dumps(items[0])
    (folder / "set.jsonl").write_text(f'{good}\n{{"question": broken\n{{"other": 1}}\n{{"question": {{}}}}\n')
    stations.pool("text", ["clean"])
    broken = Benchmark(name="set", root=str(folder), include=["*"], question="question")
    config = Decontaminate(benchmarks=[broken])
    output = run(stations, config)
    alarm = index_benchmarks(stations.ctx, {"text": "text"}, config).record["alarms"][0]
    assert output.counts["by_benchmark"]["set"] | {"decon": None} == {
        "items": 1,
        "unreadable": 3,
        "items_hit": 0,
        "documents_hit": 0,
        "decon": None,
    }
    assert "3 records cannot be read: set.jsonl, record 1: not JSON" in alarm
    assert "'question' is missing; the record has: other" in alarm
    wrong = broken.model_copy(update={"question": ("text",)})
    with pytest.raises(ValueError, match="none of 4 records can be read"):
        run(stations, Decontaminate(benchmarks=[wrong]))
    with pytest.raises(ConfigError, match="matches no file"):
        run(stations, Decontaminate(benchmarks=[broken.model_copy(update={"include": ("*.zip",)})]))


def test_settings_are_checked(benchmark):
    with pytest.raises(ValidationError, match="names must be unique"):
        Decontaminate(benchmarks=[benchmark, benchmark])
    with pytest.raises(ValidationError, match="must be below full_words"):
        Decontaminate(benchmarks=[benchmark], decon={"perfect_words": 50})
    with pytest.raises(ValidationError, match="would have no n-gram"):
        Decontaminate(benchmarks=[benchmark], decon={"short_answer": 1})


@pytest.mark.skipif(
    "MIXWRIGHT_DATA" not in os.environ, reason="MIXWRIGHT_DATA is not set: no evaluation sets here"
)
def test_evaluation_sets_in_real_text(stations):
    """HumanEval and word problems hidden in speeches: all found, none where none was hidden."""
    root = os.environ["MIXWRIGHT_DATA"]
    sets = [
        Benchmark(
            name="humaneval",
            root=f"{root}/benchmarks",
            include=["HumanEval.jsonl.gz"],
            question="prompt",
            answer="canonical_solution",
            item="task_id",
        ),
        Benchmark(
            name="svamp",
            root=f"{root}/benchmarks",
            include=["svamp.test.jsonl.gz"],
            question=["Body", "Question"],
            answer="Answer",
            item="ID",
        ),
    ]
    with zstandard.open(f"{root}/text/speeches-state-union.jsonl.zst", "rt", encoding="utf-8") as file:
        speeches = [json.loads(line)["text"][:20000] for line in file]
    planted, hidden = [], set()
    for one in sets:
        items, _ = read_items(one, raw_files(stations.ctx, one))
        for number, item in enumerate(items[: 2 * len(speeches) : 2]):
            text = speeches[number % len(speeches)]
            planted.append(f"{text[:3000]}\n\n{item.question}\n{item.answer}\n\n{text[3000:9000]}")
            hidden.add(item.name)
    stations.pool("planted", planted)
    stations.pool("clean", speeches)
    for method in ("decon", "ngram_share"):
        output = run(stations, Decontaminate(benchmarks=sets, method=method))
        found = {row["item"] for row in matches_of(output) if row["source"] == "planted"}
        assert len(hidden & found) >= 0.97 * len(hidden)
        assert output.counts["by_source"]["clean"]["documents_hit"] == 0
