"""Fill-in-the-middle: pieces that are the text again, uniform draws, tokens counted as they are written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from curation.encoder import FOLDER, load_encoder
from curation.keys import key_of, keyed_hash
from curation.materialise import materialise
from curation.mix.build import mix
from curation.mix.manifest import load_manifest
from curation.mix.plan import plan
from curation.mix.pool import RecipeError
from curation.mix.recipe import Recipe
from curation.transforms.count import transformed
from curation.transforms.fim import Fim, cut, fim_of, fim_segments, pieces

SEPARATOR = "<|file_sep|>"
PREFIX, MIDDLE, SUFFIX = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"


def restored(made: list[tuple[str, str | None]]) -> tuple[str, list[str]]:
    """The document that pieces were made of, told by their tokens alone, and the order of each file rearranged."""
    text, orders, place = "", [], 0
    contents, tokens = [content for content, _ in made], [token for _, token in made]
    while tokens[place] is not None:
        first, second, third = tokens[place : place + 3]
        assert {first, second} == {PREFIX, SUFFIX}
        assert third == MIDDLE
        one, other = contents[place + 1], contents[place + 2]
        prefix, suffix = (one, other) if first == PREFIX else (other, one)
        orders.append("PSM" if first == PREFIX else "SPM")
        # The middle runs up to the end of the file; what follows it is the next file's.
        middle, separator, rest = contents[place + 3].partition(SEPARATOR)
        contents[place + 3] = separator + rest
        text += contents[place] + prefix + middle + suffix
        place += 3
    assert place == len(made) - 1
    return text + contents[place], orders


@settings(deadline=None)  # the first draw compiles
@given(st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=60), st.integers(0, 2**64 - 1))
def test_pieces_are_the_text_again(text, hashed):
    made = pieces(text, Fim(rate=1, spm=0.5, files=SEPARATOR), np.uint64(hashed))
    back, orders = restored(made)
    assert back == text
    assert len(orders) == (len(text) >= 4)  # shorter texts stay as they are
    if orders:
        assert all(content for content, _ in made[1:])  # nothing is cut at the first or the last character


@settings(deadline=None)  # the first draw compiles
@given(st.lists(st.text("aé🎉\n", max_size=9), min_size=1, max_size=5), st.integers(0, 2**64 - 1))
def test_files_of_a_document_are_cut_one_by_one(files, hashed):
    text = SEPARATOR.join(files)
    back, orders = restored(pieces(text, Fim(rate=1, files=SEPARATOR), np.uint64(hashed)))
    assert back == text
    assert len(orders) == sum(len(file) >= 4 for file in files)


def test_every_pair_of_places_is_as_likely():
    rng = np.random.default_rng(3)
    n, draws = 9, 21_000
    found = Counter()
    for first, second in rng.integers(0, 2**64, (draws, 2), np.uint64).tolist():
        prefix, middle, suffix = cut("x" * n, first, second)
        found[len(prefix), len(prefix) + len(middle)] += 1
        assert len(prefix) + len(middle) + len(suffix) == n
    pairs = [(low, high) for low in range(1, n - 1) for high in range(low + 1, n - 1)]
    assert sorted(found) == pairs
    expected = draws / len(pairs)
    chi_square = sum((found[pair] - expected) ** 2 / expected for pair in pairs)
    assert chi_square < 45.3  # 99.9 % of chi square with 20 degrees of freedom


@pytest.mark.parametrize(("rate", "spm"), [(0.5, 0.5), (0.2, 0.9), (0, 0.5), (1, 0), (1, 1)])
def test_the_shares_are_those_asked_for(rate, spm):
    hashes = keyed_hash([f"{n:032x}" for n in range(4000)], key_of(0, "fim"))
    orders = [restored(pieces("some text", Fim(rate=rate, spm=spm), hashed))[1] for hashed in hashes]
    taken = [one[0] for one in orders if one]
    deviation = 4 * (rate * (1 - rate) / 4000) ** 0.5
    assert abs(len(taken) / 4000 - rate) <= deviation
    if taken:
        assert abs(taken.count("SPM") / len(taken) - spm) <= 4 * (spm * (1 - spm) / len(taken)) ** 0.5


def test_a_name_tells_the_settings():
    for fim in (Fim(), Fim(rate="12.5%", spm=1), Fim(files="\n= next file =\n")):
        assert fim_of(fim.name) == fim
    assert fim_of("none") is None
    assert fim_of("chat") is None


def code(n: int) -> str:
    return f"def f{n}(x):\n    return x + {n}  # é {'and so on ' * (n % 7)}\n"


RECIPE = {
    "kind": "midtrain",
    "name": "mid",
    "seed": 3,
    "lines": [{"source": "code", "tokens": 900, "transform": {"fim": {"rate": "60%", "files": SEPARATOR}}}],
}


@pytest.fixture
def built(stations, tokenizer):
    """A mix of code under FIM, its catalogs and its token data."""
    stations.pool("code", [code(n) if n % 5 else code(n) + SEPARATOR + code(n + 50) for n in range(60)], shards=2)
    recipe = Recipe.model_validate(RECIPE)
    catalog = stations.catalog("code", tokenizer)
    counted = {
        source: transformed(stations.ctx, source, catalog, stations.pools[source], tokenizer, names)
        for source, names in recipe.transforms().items()
    }
    arguments = stations.ctx, recipe, {"code": catalog}, stations.pools, tokenizer
    return mix(*arguments, transformed=counted), counted["code"], recipe


def test_the_manifest_counts_the_tokens_that_are_written(stations, tokenizer, built):
    manifest, _, recipe = built
    rows = load_manifest(manifest.folder).rows()
    name = recipe.lines[0].transform.name
    assert set(rows["transform"].to_pylist()) == {"none", name}
    output = materialise(stations.ctx, "mid", manifest, stations.pools, tokenizer)
    assert output.counts["tokens"] == output.counts["in_loss"] == pc.sum(rows["tokens"]).as_py()

    # The same by the tokenizer's own reading of special tokens, from a text that spells them.
    peer = AutoTokenizer.from_pretrained(tokenizer.folder / FOLDER, local_files_only=True)
    tokens = np.fromfile(output.folder / "tokens.bin", "<u2")
    texts = {}
    for path in stations.pools["code"].shards():
        table = pq.read_table(path)
        texts |= dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    fim = fim_of(name)
    rearranged = 0
    for row, transform in zip(
        pq.read_table(output.folder / "index.parquet").to_pylist(), rows["transform"].to_pylist(), strict=True
    ):
        text = texts[row["id"]]
        made = pieces(text, fim, keyed_hash([row["id"]], key_of(0, "fim"))[0])
        assert (len(made) > 1) == (transform == name)
        rearranged += transform == name
        spelled = "".join(content + (token or "<|endoftext|>") for content, token in made)
        ids = tokens[row["start"] : row["start"] + row["length"]].tolist()
        # What stands between files is text in our data: spelled, it is no special token of this tokenizer.
        assert ids == peer(spelled, add_special_tokens=False)["input_ids"]
        assert row["bytes"] == len(text.encode())
    assert rearranged > 5


def test_the_same_document_is_cut_the_same_wherever_it_lies(make_stations, tokenizer):
    texts = [code(n) for n in range(12)]
    found = []
    for name, documents in (("forward", texts), ("backward", texts[::-1])):
        stations = make_stations(name)
        stations.pool("code", documents)
        table = pq.read_table(stations.pools["code"].shards()[0])
        encoder = load_encoder(tokenizer)
        rendered, changed = fim_segments(table, Fim(), encoder.specials)
        spans = zip(rendered.starts[:-1], rendered.starts[1:], strict=True)
        contents = [tuple(rendered.contents[first:last]) for first, last in spans]
        found.append(dict(zip(table["id"].to_pylist(), contents, strict=True)))
        assert 0 < changed.sum() < len(texts)
    assert found[0] == found[1]


def test_what_does_not_fit_is_said(stations, tokenizer):
    table_specials = replace(load_encoder(tokenizer).specials, others={PREFIX: 1})
    stations.pool("code", [code(1)])
    table = pq.read_table(stations.pools["code"].shards()[0])
    with pytest.raises(ValueError, match=r"no single token for <\|fim_middle\|>, <\|fim_suffix\|>"):
        fim_segments(table, Fim(), table_specials)
    catalog = stations.catalog("code", tokenizer).folder / "catalog.parquet"
    with pytest.raises(RecipeError, match=r"its tokens under 'fim rate=0.6 .*' have not been counted"):
        plan(Recipe.model_validate(RECIPE), {"code": catalog})
    stations.pool("talk", [[("user", "a"), ("assistant", "b")]])
    talk = stations.catalog("talk", tokenizer).folder / "catalog.parquet"
    lines = [{**RECIPE["lines"][0], "source": "talk"}]
    with pytest.raises(RecipeError, match="source 'talk' holds chat"):
        plan(Recipe.model_validate({**RECIPE, "lines": lines}), {"talk": talk})


def test_exact_cuts_what_is_not_rearranged(stations, tokenizer, built):
    _, counted, recipe = built
    exact = recipe.model_copy(update={"exact": True})
    planned = plan(exact, {"code": counted.folder / "catalog.parquet"})
    assert planned.totals["tokens"] == 900
    assert set(planned.rows["transform"]) == {"none", "head", recipe.lines[0].transform.name}
