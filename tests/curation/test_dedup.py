"""Exact and fuzzy deduplication against brute force in plain Python, and under changes that must not matter."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from pydantic import ValidationError

from curation.dedup import candidates, documents, exact, fuzzy, ranking, similar, verify
from curation.dedup.exact import dedup_exact
from curation.dedup.fuzzy import dedup_fuzzy
from curation.dedup.minhash import Scheme, signatures
from curation.dedup.settings import Dedup, Keep
from curation.dedup.shingles import shingles
from curation.executor import LocalExecutor
from curation.files import remove
from curation.ledger import alive, ledger_path, write_ledger
from curation.measure.render import rendered_text
from curation.schema import DOCUMENT, LEDGER, document_id, require_columns
from curation.steps import Context, step

SCHEME = Scheme(ngram=3, bands=20, rows=3)
CONFIG = Dedup(scheme=SCHEME, verify_ngram=3, threshold=0.6, alarm_share=1.0)
VOCABULARY = [f"word{i}" for i in range(4000)]


def measure(ctx, pool, scheme=SCHEME):
    """The columns of the measuring pass that deduplication needs, made without it."""

    def work(build):
        for path in pool.shards():
            table = pq.read_table(path)
            text = rendered_text(table)
            values, has = signatures(text, scheme)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), scheme.permutations)
            columns = {
                "id": table["id"],
                "bytes": pa.array([len(t.as_py().encode()) for t in text], pa.int64()),
                "content_hash": pa.array([xxhash.xxh3_128_hexdigest(t.as_py().encode()) for t in text]),
                "minhash": pa.array(
                    [row if flag else None for row, flag in zip(lists.to_pylist(), has, strict=True)], lists.type
                ),
            }
            build.write_table(f"shards/{path.name}", pa.table(columns))

    return step(ctx, f"measure/{pool.source}", 1, {"minhash": scheme.model_dump()}, {"pool": pool.content}, work)


def ledger_rows(output, source):
    """id + origin-free view of a ledger: every row of a source, shards in order."""
    files = sorted((output.folder / "ledger" / source).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def kept_documents(output, pools):
    """(source, id, origin) of what is kept: independent of shards."""
    kept = set()
    for source, pool in pools.items():
        for path in pool.shards():
            table = pq.read_table(path, columns=["id", "origin"])
            flags = alive([output], source, path.stem, len(table))
            rows = itertools.compress(table.to_pylist(), flags)
            kept |= {(source, row["id"], row["origin"]) for row in rows}
    return kept


def random_text(generator, words):
    return " ".join(generator.choices(VOCABULARY, k=words))


def edited(generator, text, share):
    """A copy of the text with a share of its words replaced, one by one, at random places."""
    found = text.split(" ")
    for at in generator.sample(range(len(found)), max(1, int(share * len(found)))):
        found[at] = generator.choice(VOCABULARY)
    return " ".join(found)


def families(seed=5, count=12):
    """Texts of many lengths, each with copies that are edited more and more, and chains of edits of edits."""
    generator = random.Random(seed)
    texts = []
    for number in range(count):
        original = random_text(generator, generator.choice([40, 80, 200]))
        texts.append(original)
        texts += [edited(generator, original, share) for share in (0.01, 0.03, 0.06, 0.10, 0.2)]
        chain = original
        for _ in range(number % 4):
            chain = edited(generator, chain, 0.06)
            texts.append(chain)
    texts += ["too short", "", "世界", random_text(generator, 30)]
    return texts


@pytest.fixture
def world(context, make_pool):
    """Two sources of edited copies, mixed, with an exact copy across them and one within."""
    texts = families()
    random.Random(1).shuffle(texts)
    pools = {
        "web": make_pool("web", [*texts[:60], texts[0]], 3),
        "books": make_pool("books", texts[60:] + texts[:2], 2),
    }
    return context, pools, {name: measure(context, pool) for name, pool in pools.items()}


def rank(source, text, origin, keep=CONFIG.keep):
    """The keep policy, written down again for text documents without dates."""
    place = keep.sources.index(source) if source in keep.sources else len(keep.sources)
    return (place, -len(text.encode()), xxhash.xxh3_128_hexdigest(f"{source}\0{text}".encode()), origin)


def all_documents(pools):
    for source, pool in sorted(pools.items()):
        for path in pool.shards():
            for row, document in enumerate(pq.read_table(path).to_pylist()):
                yield source, path.stem, row, document


def brute_force(pools, config):
    """(dropped, pairs): the pairs that share a band, verified with Python sets, and the greedy rule over them."""
    documents = sorted(
        (
            (rank(source, d["text"], d["origin"], config.keep), source, d)
            for source, _, _, d in all_documents(pools)
        ),
        key=lambda entry: entry[0],
    )
    texts = [d["text"] for _, _, d in documents]
    values, has = signatures(pa.array(texts, pa.large_string()), config.scheme)
    banded = values.reshape(len(texts), config.scheme.bands, config.scheme.rows)
    sets = [set(shingles(text, config.verify_ngram)) for text in texts]
    dropped, pairs = {}, {}
    for later, earlier in itertools.combinations(reversed(range(len(texts))), 2):
        if has[later] and has[earlier] and (banded[later] == banded[earlier]).all(1).any():
            similarity = len(sets[later] & sets[earlier]) / len(sets[later] | sets[earlier])
            if similarity >= config.threshold:
                pairs[later, earlier] = similarity
    for later, earlier in sorted(pairs):
        if earlier not in dropped and pairs[later, earlier] > dropped.get(later, (0, 0))[0]:
            dropped[later] = (pairs[later, earlier], earlier)
    name = [(source, d["id"], d["origin"]) for _, source, d in documents]
    return {name[k]: (similarity, documents[t][2]["id"]) for k, (similarity, t) in dropped.items()}, pairs


def dropped_documents(output, pools):
    dropped = {}
    for source, shard, row, document in all_documents(pools):
        entry = pq.read_table(ledger_path(output.folder, source, shard)).to_pylist()
        entry = {line["row"]: line for line in entry}.get(row)
        if entry and not entry["keep"]:
            dropped[source, document["id"], document["origin"]] = (entry["value"], entry["twin"])
    return dropped


def test_fuzzy_is_what_brute_force_gives(world):
    context, pools, measured = world
    output = dedup_fuzzy(context, pools, measured, [], CONFIG)
    dropped, pairs = brute_force(pools, CONFIG)
    assert dropped_documents(output, pools) == dropped
    assert 20 < len(dropped) < output.counts["documents_in"] - 12
    assert output.counts["pairs_verified"] == len(pairs)
    assert output.counts["pairs_left_out"] == 0
    assert output.counts["documents_out"] == output.counts["documents_in"] - len(dropped)
    assert output.counts["without_signature"] == 3
    assert not (output.folder / "scratch").exists()


def test_removed_documents_have_a_kept_twin_above_the_threshold(world):
    """Precision by construction, also along chains; recomputed from the texts."""
    context, pools, measured = world
    output = dedup_fuzzy(context, pools, measured, [], CONFIG)
    kept = {identity for _, identity, _ in kept_documents(output, pools)}
    text = {d["id"]: d["text"] for _, _, _, d in all_documents(pools)}
    checked = 0
    for source in pools:
        for row in ledger_rows(output, source):
            assert row["stage"] == "fuzzy"
            if row["keep"]:
                assert (row["rule"], row["value"], row["twin"]) == (None, None, None)
                continue
            mine, twin = set(shingles(text[row["id"]], 3)), set(shingles(text[row["twin"]], 3))
            assert row["value"] == len(mine & twin) / len(mine | twin) >= row["threshold"] == 0.6
            assert row["twin"] in kept
            assert row["rule"] == "near_duplicate"
            checked += 1
    assert checked > 20


def test_without_verification_the_precision_test_would_fail(world, monkeypatch):
    """The planted twin: trusting LSH alone removes documents that are not similar enough."""
    context, pools, measured = world
    monkeypatch.setattr(verify, "compare", lambda located, later, earlier, threshold: np.ones(len(later)))
    output = dedup_fuzzy(context, pools, measured, [], CONFIG)
    text = {d["id"]: d["text"] for _, _, _, d in all_documents(pools)}
    wrong = 0
    for (_, identity, _), (_, twin) in dropped_documents(output, pools).items():
        a, b = set(shingles(text[identity], 3)), set(shingles(text[twin], 3))
        wrong += len(a & b) / len(a | b) < CONFIG.threshold
    assert wrong > 0


def test_dropping_whole_components_would_remove_dissimilar_documents(world):
    """The planted twin of the keep rule: one document for each connected component keeps too few."""
    context, pools, measured = world
    output = dedup_fuzzy(context, pools, measured, [], CONFIG)
    clusters = pq.read_table(output.folder / "clusters.parquet").to_pylist()
    by_cluster = [list(rows) for _, rows in itertools.groupby(clusters, key=lambda row: row["cluster"])]
    assert max(sum(row["kept"] for row in rows) for rows in by_cluster) > 1


def test_clusters_are_largest_first_and_agree_with_the_ledger(world):
    context, pools, measured = world
    output = dedup_fuzzy(context, pools, measured, [], CONFIG)
    clusters = pq.read_table(output.folder / "clusters.parquet").to_pylist()
    sizes = [len(list(rows)) for _, rows in itertools.groupby(clusters, key=lambda row: row["cluster"])]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) > 1
    assert (len(sizes), sizes[0]) == (output.counts["clusters"], output.counts["largest_cluster"])
    for row in clusters:
        line = pq.read_table(ledger_path(output.folder, row["source"], row["shard"])).to_pylist()[row["row"]]
        found = (line["id"], line["keep"], line["value"], line["twin"])
        assert found == (row["id"], row["kept"], row["similarity"], row["twin"])


def test_exact_keeps_one_of_each_content(world):
    context, pools, measured = world
    output = dedup_exact(context, pools, measured, {}, CONFIG)
    best = {}
    for source, _, _, d in all_documents(pools):
        mine = (rank(source, d["text"], d["origin"]), (source, d["id"], d["origin"]))
        best[d["text"]] = min(best.get(d["text"], mine), mine)
    assert kept_documents(output, pools) == {name for _, name in best.values()}
    assert output.counts["documents_out"] == len(best)
    dropped = dropped_documents(output, pools)
    assert len(dropped) == 3
    text = {(s, d["id"], d["origin"]): d["text"] for s, _, _, d in all_documents(pools)}
    for name, (value, twin) in dropped.items():
        assert (value, twin) == (1.0, best[text[name]][1][1])


def test_a_record_that_is_there_twice_is_decided_by_origin(context, make_pool):
    """Same id, same everything but the origin: in whatever order they come, the smallest origin stays."""
    same = [
        {"text": "the very same record", "origin": origin} for origin in ("b.jsonl#3", "a.jsonl#9", "c.jsonl#1")
    ]
    for order in itertools.islice(itertools.permutations(same), 0, None, 2):
        for shards in (1, 3):
            pools = {"web": make_pool("web", list(order), shards)}
            measured = {"web": measure(context, pools["web"])}
            exact = dedup_exact(context, pools, measured, {}, CONFIG)
            assert [origin for _, _, origin in kept_documents(exact, pools)] == ["a.jsonl#9"]
            twins = {row["twin"] for row in ledger_rows(exact, "web") if not row["keep"]}
            assert twins == {row["id"] for row in ledger_rows(exact, "web")}


def test_chats_and_pairs_are_compared_by_their_rendered_text(context, make_pool):
    """Two conversations of the same words, one with another role; pairs that differ in one answer alone."""
    generator = random.Random(8)
    question, answer, wrong = (random_text(generator, 40) for _ in range(3))

    def turn(role, content):
        return [{"role": role, "content": content}]

    asked = turn("user", question)
    chats = [{"messages": asked + turn(role, answer)} for role in ("assistant", "tool")]
    pairs = [{"messages": asked, "chosen": turn("assistant", answer), "rejected": turn("assistant", wrong)}]
    pairs.append(pairs[0] | {"rejected": turn("assistant", wrong + " really")})
    pairs.append(pairs[0] | {"rejected": turn("assistant", random_text(generator, 80))})
    pools = {"chat": make_pool("chat", chats), "pairs": make_pool("pairs", pairs)}
    measured = {name: measure(context, pool) for name, pool in pools.items()}
    exact = dedup_exact(context, pools, measured, {}, CONFIG)
    assert exact.counts["by_source"]["chat"] == {"documents_in": 2, "documents_out": 1}
    near = dedup_fuzzy(context, pools, measured, [exact], CONFIG)
    assert near.counts["by_source"]["pairs"] == {"documents_in": 3, "documents_out": 2}


def texts_with_dates():
    generator = random.Random(3)
    base = random_text(generator, 60)
    return [
        {"text": base, "created": "2020-01-01"},
        {"text": base + " and a tail", "created": None},
        {"text": edited(generator, base, 0.02), "created": "2024-05-01T12:00:00+02:00"},
    ]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (Keep(), ("web", 1)),
        (Keep(then=("newest",)), ("web", 2)),
        (Keep(sources=("books",)), ("books", 0)),
        (Keep(sources=("books", "web"), then=("newest", "longest")), ("books", 0)),
    ],
)
def test_keep_policy_chooses(context, make_pool, keep, expected):
    documents = texts_with_dates()
    pools = {"web": make_pool("web", documents[1:] + documents[:1]), "books": make_pool("books", documents[:1])}
    measured = {name: measure(context, pool) for name, pool in pools.items()}
    config = Dedup(scheme=SCHEME, threshold=0.5, keep=keep)
    output = dedup_fuzzy(context, pools, measured, [], config)
    ((source, identity, _),) = kept_documents(output, pools)
    text = {d["id"]: d["text"] for _, _, _, d in all_documents(pools)}[identity]
    assert (source, text) == (expected[0], documents[expected[1]]["text"])


def test_the_best_is_kept_by_a_field_or_a_measured_column(context, make_pool):
    base = random_text(random.Random(3), 60)
    scores = ['{"a": {"score": 2}}', '{"a": {"score": 7.5}}', "{}", '{"a": {"score": "9"}}']
    documents = [{"text": base + " and more" * number, "metadata": score} for number, score in enumerate(scores)]
    pools = {"web": make_pool("web", documents)}
    measured = {"web": measure(context, pools["web"])}
    for name, expected in (("a.score", 1), ("bytes", 3)):
        keep = Keep(then=("best", "longest"), score=name)
        config = Dedup(scheme=SCHEME, threshold=0.4, keep=keep, alarm_share=1.0)
        ((_, identity, _),) = kept_documents(dedup_fuzzy(context, pools, measured, [], config), pools)
        text = {d["id"]: d["text"] for _, _, _, d in all_documents(pools)}[identity]
        assert text == documents[expected]["text"]
    config = Dedup(scheme=SCHEME, keep=Keep(then=("best",), score="content_hash"))
    with pytest.raises(ValueError, match="expected numbers"):
        dedup_exact(context, pools, measured, {}, config)
    with pytest.raises(ValidationError, match="go together"):
        Keep(then=("best",))


def test_exact_duplicates_by_a_field_and_of_texts_made_alike(context, make_pool):
    rows = [
        ("Cafe\u0301, at  noon!", '{"url": "u/1"}'),
        ("caf\u00e9 at noon", '{"url": "u/2"}'),
        ("caf\u00e9 at noon ", '{"url": "u/1"}'),
        ("something else", "{}"),
        ("and else again", "{}"),
    ]
    pools = {"web": make_pool("web", [{"text": text, "metadata": field} for text, field in rows])}
    measured = {"web": measure(context, pools["web"])}

    def kept(**exact):
        config = Dedup(scheme=SCHEME, exact=exact, keep=Keep(then=("longest",)), alarm_share=1.0)
        output = dedup_exact(context, pools, measured, {}, config)
        rules = {row["rule"] for row in ledger_rows(output, "web") if not row["keep"]}
        ids = {identity for _, identity, _ in kept_documents(output, pools)}
        return [at for at, (_, _, _, d) in enumerate(all_documents(pools)) if d["id"] in ids], rules

    assert kept() == ([0, 1, 2, 3, 4], set())
    assert kept(white_space=True) == ([0, 2, 3, 4], {"same_text"})
    everything = {"unicode": True, "case": True, "punctuation": True, "white_space": True}
    assert kept(**everything) == ([0, 3, 4], {"same_text"})
    for name in everything:  # without any one of them the first stays apart, or the spaces do
        assert len(kept(**everything | {name: False})[0]) > 3
    assert kept(by="url") == ([0, 1, 3, 4], {"same_url"})


def near_copies(count):
    """Pages of one template: each a long common text and a number, and a few that share only half of it."""
    generator = random.Random(7)
    base = random_text(generator, 400)
    half = base[: len(base) // 2] + random_text(generator, 200)
    return [f"{base} number {number}" for number in range(count)] + [half, half + " again"]


@pytest.mark.parametrize("max_bucket", [5, 100])
def test_a_cluster_of_thousands_leaves_what_comparing_all_would_leave(context, make_pool, max_bucket):
    """3,000 near-identical pages in every bucket: one is left, and one of two others; the work is bounded."""
    texts = near_copies(3000)
    pools = {"web": make_pool("web", texts, 3)}
    scheme = Scheme(ngram=3, bands=4, rows=2)
    measured = {"web": measure(context, pools["web"], scheme)}
    config = Dedup(scheme=scheme, threshold=0.8, max_bucket=max_bucket, alarm_share=1)
    output = dedup_fuzzy(context, pools, measured, [], config)
    assert output.counts["documents_out"] == 2
    assert output.counts["kept_pairs_left_out"] == 0
    assert output.counts["pairs_compared"] < 3 * max_bucket * len(texts) * scheme.bands


def chained(count):
    """Each text is like its neighbours and unlike those further away; all share a band of one row."""
    words = [f"w{i}" for i in range(count * 4 + 60)]
    return ["common words here " * 3 + " ".join(words[4 * i : 4 * i + 60]) for i in range(count)]


def test_rounds_give_what_comparing_all_gives_and_no_rounds_would_not(context, make_pool, monkeypatch):
    """A bucket whose members are kept in part: the bound alone would leave pairs of kept near-duplicates."""
    texts = chained(120)
    pools = {"web": make_pool("web", texts)}
    scheme = Scheme(ngram=1, bands=2, rows=1, seed=5)
    measured = {"web": measure(context, pools["web"], scheme)}

    def kept(max_bucket):
        config = Dedup(scheme=scheme, verify_ngram=1, threshold=0.8, max_bucket=max_bucket, alarm_share=1)
        output = dedup_fuzzy(context, pools, measured, [], config)
        return kept_documents(output, pools), output.counts

    whole, counts = kept(1000)
    assert counts["rounds"] == 1
    for max_bucket in (1, 2, 3):
        bound, counts = kept(max_bucket)
        assert counts["rounds"] > 1
        assert bound == whole or counts["kept_pairs_left_out"]
    monkeypatch.setattr(similar, "ROUNDS_COST", 1000)
    assert kept(4)[0] == whole
    monkeypatch.setattr(similar, "ROUNDS_COST", 0)
    without, counts = kept(5)
    assert without != whole
    assert counts["kept_pairs_left_out"] > 0


def text_documents(source, texts):
    """DOCUMENT rows whose origin is of the text, not of its place."""
    rows = [
        {
            "id": document_id(source, text.encode()),
            "source": source,
            "text": text,
            "origin": xxhash.xxh3_64_hexdigest(text.encode()),
            "metadata": "{}",
        }
        for text in texts
    ]
    return pa.Table.from_pylist(rows, schema=DOCUMENT)


def outcome(context, texts, shards=2, sources=("web", "books"), config=CONFIG):
    """What is kept of texts split over two sources, by exact and then fuzzy deduplication, whatever the shards."""
    pools = {}
    for name in sources:
        part = texts[:60] if name == "web" else texts[60:]

        def work(build, name=name, part=part):
            table = text_documents(name, part)
            for number in range(shards):
                build.write_table(
                    f"shards/{name}-{number}.parquet", table.take(np.arange(number, len(table), shards))
                )

        pools[name] = step(context, f"ingest/{name}", 1, {"texts": part, "shards": shards}, {}, work)
    measured = {name: measure(context, pool) for name, pool in pools.items()}
    exact = dedup_exact(context, pools, measured, {}, config)
    near = dedup_fuzzy(context, pools, measured, [exact], config)
    return kept_documents(exact, pools) & kept_documents(near, pools), exact, near


def test_nothing_but_the_documents_matters(tmp_path, monkeypatch):
    """Shards, order of sources and documents, workers, partitions and ranges: the same documents are kept."""
    texts = families(seed=9)
    texts += texts[:5]
    expected, _, near = outcome(Context(tmp_path / "a"), texts)
    assert near.counts["documents_in"] == len(texts) - 5
    generator = random.Random(2)
    for number, shards in enumerate((1, 3)):
        shuffled = generator.sample(texts[:60], 60) + generator.sample(texts[60:], len(texts) - 60)
        got, _, _ = outcome(Context(tmp_path / f"b{number}"), shuffled, shards, sources=("books", "web"))
        assert got == expected
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "PARTITION", 100)
        patch.setattr(verify, "RANGE", 7)
        patch.setattr(ranking, "RANKED", 16)
        patch.setattr(exact, "RANKED", 2)
        got, of_exact, small = outcome(Context(tmp_path / "c", LocalExecutor(workers=2)), texts)
    assert got == expected
    assert small.content == near.content
    _, exact_again, near_again = outcome(Context(tmp_path / "d", LocalExecutor(workers=1)), texts)
    assert (of_exact.content, small.content) == (exact_again.content, near_again.content)


def test_a_policy_by_position_would_be_noticed(tmp_path, monkeypatch):
    """The planted twin: preferring documents by their place in the files depends on the files."""
    halves = ("high", "low")
    monkeypatch.setattr(
        ranking,
        "wishes",
        lambda keep, columns: [np.arange(len(columns["low"])), *(columns[one] for one in halves)],
    )
    texts = families(seed=9)
    shuffled = random.Random(2).sample(texts[:60], 60) + texts[60:]
    assert outcome(Context(tmp_path / "a"), texts)[0] != outcome(Context(tmp_path / "b"), shuffled)[0]


@pytest.fixture
def small_units(monkeypatch):
    """Many partitions and ranges, so that there is a middle to stop in, and few sets at once."""
    monkeypatch.setattr(candidates, "PARTITION", 50)
    monkeypatch.setattr(verify, "RANGE", 5)
    monkeypatch.setattr(verify, "LOADED", 2000)
    monkeypatch.setattr(ranking, "RANKED", 16)
    monkeypatch.setattr(exact, "RANKED", 2)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """The texts of the tests that cut a run off, and what fuzzy deduplication gives if nobody does."""
    texts = families(seed=4, count=6)
    texts += texts[:6]  # something to decide on for exact deduplication
    return texts, outcome(Context(tmp_path_factory.mktemp("uncut")), texts)[2]


@pytest.mark.parametrize(
    ("module", "unit"),
    [
        (candidates, "_write_bands"),
        (ranking, "_gather"),
        (exact, "_decide"),
        (ranking, "_rank"),
        (ranking, "_number"),
        (candidates, "_write_pairs"),
        (verify, "_write_sets"),
        (verify, "_verify_range"),
        (documents, "_write_ledger"),
    ],
)
def test_a_run_that_is_cut_off_resumes_with_the_same_result(
    context, monkeypatch, small_units, uncut, module, unit
):
    """Stop in the middle of each phase and run again: the same bytes and counts."""
    texts, whole = uncut
    honest, calls = getattr(module, unit), itertools.count()

    def cut(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(module, unit, cut)
    with pytest.raises(KeyboardInterrupt):
        outcome(context, texts)
    resumed = outcome(context, texts)[2]
    assert (resumed.content, resumed.counts) == (whole.content, whole.counts)


def half_removed(moment):
    """Removes like `remove`, but is stopped half-way through the `moment`-th removal."""
    calls = itertools.count()

    def removal(path):
        if next(calls) == moment:
            for child in sorted(path.iterdir())[::2]:
                remove(child)
            raise KeyboardInterrupt
        remove(path)

    return removal


@pytest.mark.parametrize("moment", [0, 1, 2, 3])
def test_a_run_that_is_cut_off_while_it_tidies_up_resumes(context, monkeypatch, small_units, uncut, moment):
    """Exact removes its journal and its scratch, then fuzzy does: four moments."""
    texts, whole = uncut
    monkeypatch.setattr(documents, "remove", half_removed(moment))
    with pytest.raises(KeyboardInterrupt):
        outcome(context, texts)
    resumed = outcome(context, texts)[2]
    assert (resumed.content, resumed.counts) == (whole.content, whole.counts)


def test_tidying_up_in_the_wrong_order_would_be_noticed(context, monkeypatch, small_units, uncut):
    """The planted twin: partial results removed before the journal that vouches for them."""

    def discard(build):
        documents.remove(build.folder / "scratch")
        documents.remove(build.folder / ".units")

    monkeypatch.setattr(fuzzy, "discard", discard)
    monkeypatch.setattr(documents, "remove", half_removed(2))
    with pytest.raises(KeyboardInterrupt):
        outcome(context, uncut[0])
    with pytest.raises(FileNotFoundError):
        outcome(context, uncut[0])


def test_documents_that_a_ledger_dropped_take_no_part(world):
    context, pools, measured = world

    def work(build):
        path = pools["web"].shards()[0]
        table = pq.read_table(path, columns=["id"])
        rows = np.arange(len(table), dtype=np.uint32)
        write_ledger(
            build.folder,
            "web",
            path.stem,
            stage="rules",
            ids=table["id"],
            rows=rows,
            keep=np.zeros(len(rows), bool),
        )

    rules = step(context, "rules/web", 1, {}, {}, work)
    gone = len(pq.read_table(pools["web"].shards()[0]))
    output = dedup_exact(context, pools, measured, {"web": rules}, CONFIG)
    assert (
        output.counts["documents_in"]
        == sum(len(pq.read_table(p)) for s in pools.values() for p in s.shards()) - gone
    )
    near = dedup_fuzzy(context, pools, measured, [rules, output], CONFIG)
    assert near.counts["documents_in"] == output.counts["documents_out"]
    for result in (output, near):
        for source, pool in pools.items():
            for path in pool.shards():
                table = pq.read_table(ledger_path(result.folder, source, path.stem))
                require_columns(table, LEDGER, str(path))
                assert table["row"].to_pylist() == sorted(table["row"].to_pylist())
                assert len(table) == 0 or path != pools["web"].shards()[0]


def test_large_buckets_are_bounded_and_counted(context, make_pool):
    """40 documents in one bucket: with a bound each is compared with the first 4 alone, and the count says so."""
    generator = random.Random(7)
    base = random_text(generator, 3000)
    texts = [f"{base} {random_text(generator, 3)}" for _ in range(40)]
    pools = {"web": make_pool("web", texts)}
    scheme = Scheme(ngram=3, bands=1, rows=1)
    measured = {"web": measure(context, pools["web"], scheme)}
    whole = dedup_fuzzy(context, pools, measured, [], Dedup(scheme=scheme, alarm_share=1))
    bound = dedup_fuzzy(context, pools, measured, [], Dedup(scheme=scheme, alarm_share=1, max_bucket=4))
    assert (whole.counts["pairs_compared"], whole.counts["pairs_left_out"]) == (780, 0)
    assert (bound.counts["pairs_compared"], bound.counts["pairs_left_out"]) == (150, 630)
    assert whole.counts["documents_out"] == bound.counts["documents_out"] == 1


def test_a_source_that_loses_too_much_raises_an_alarm(context, make_pool):
    pools = {"web": make_pool("web", [{"text": "same words again", "origin": f"f#{i}"} for i in range(5)])}
    pools["books"] = make_pool("books", ["a book", "and another"])
    measured = {name: measure(context, pool) for name, pool in pools.items()}
    output = dedup_exact(context, pools, measured, {}, Dedup(scheme=SCHEME))
    (alarm,) = output.record["alarms"]
    assert "'web' loses 4 of 5 (80.0%)" in alarm
    assert not dedup_exact(context, pools, measured, {}, Dedup(scheme=SCHEME, alarm_share=0.8)).record["alarms"]
    assert output.counts["by_source"]["books"] == {"documents_in": 2, "documents_out": 2}


def test_empty_pools(context, make_pool):
    pools = {"web": make_pool("web", []), "books": make_pool("books", ["one two three four"])}
    measured = {name: measure(context, pool) for name, pool in pools.items()}
    exact = dedup_exact(context, pools, measured, {}, CONFIG)
    near = dedup_fuzzy(context, pools, measured, [exact], CONFIG)
    assert near.counts["documents_out"] == 1
    nothing = dedup_fuzzy(context, {}, {}, [], CONFIG)
    assert nothing.counts["documents_in"] == 0
    assert len(pq.read_table(nothing.folder / "clusters.parquet")) == 0


def test_what_does_not_fit_is_refused(world):
    context, pools, measured = world
    with pytest.raises(ValueError, match=r"'measure/web' made signatures by .*'bands': 20"):
        dedup_fuzzy(context, pools, measured, [], Dedup(scheme="dolma3"))
    with pytest.raises(ValueError, match="expected the same sources"):
        dedup_exact(context, pools, {"web": measured["web"]}, {}, CONFIG)
    swapped = measured | {"web": replace(measured["web"], place=measured["books"].folder)}
    with pytest.raises(ValueError, match="missing"):
        dedup_exact(context, pools, swapped, {}, CONFIG)
    with pytest.raises(ValidationError, match="verify_ngram"):
        Dedup(scheme=SCHEME, verify_ngram=4)
    with pytest.raises(ValidationError, match="twice"):
        Keep(sources=("web", "web"))
    with pytest.raises(ValidationError, match="expected a scheme of dolma3, fineweb"):
        Dedup(scheme="dolma2")


def test_recall_follows_the_detection_curve(context, make_pool):
    """Planted copies of known similarity: all that LSH should surely find are removed, few of the dissimilar."""
    generator = random.Random(11)
    scheme = Scheme(ngram=3, bands=14, rows=4)
    originals = [random_text(generator, 400) for _ in range(60)]
    copies = [edited(generator, text, 0.01 + 0.09 * (i / 60)) for i, text in enumerate(originals)]
    pools = {"web": make_pool("web", originals), "copies": make_pool("copies", copies)}
    measured = {name: measure(context, pool, scheme) for name, pool in pools.items()}
    config = Dedup(scheme=scheme, threshold=0.8, keep=Keep(sources=("web",)), alarm_share=1)
    output = dedup_fuzzy(context, pools, measured, [], config)
    gone = {identity for source, identity, _ in dropped_documents(output, pools)}
    expected, removed = 0.0, 0
    copy_ids = {d["text"]: d["id"] for source, _, _, d in all_documents(pools) if source == "copies"}
    for original, copy in zip(originals, copies, strict=True):
        a, b = set(shingles(original, 3)), set(shingles(copy, 3))
        similarity = len(a & b) / len(a | b)
        if similarity >= 0.8:
            expected += scheme.detection(similarity)
            removed += copy_ids[copy] in gone
        else:
            assert copy_ids[copy] not in gone
    assert expected > 15
    assert abs(removed - expected) < 3
