"""Parts of URLs and block lists: against the standard library, a plain search, and the step's identity."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.config import ConfigError
from curation.measure import url as urls
from curation.measure.station import Measure, measure
from curation.measure.url import HITS, PARTS, UrlLists, group, parse, registered_domain
from curation.rules.profile import apply, load_profile
from tests.conftest import documents_table

LISTS = Path(__file__).parent / "url_lists"
FILES = {
    "domains": "domains.txt",
    "urls": "urls.txt",
    "hard_words": "hard-words.txt",
    "soft_words": "soft-words.txt",
    "substrings": "substrings.txt",
}
PATHS = {name: [LISTS / file] for name, file in FILES.items()}


def measured(addresses: list[str | None], files=PATHS) -> list[dict]:
    documents = documents_table(
        "web", [{"text": str(n), "metadata": json.dumps({"url": a} if a else {})} for n, a in enumerate(addresses)]
    )
    columns = group(files).measure(documents, documents["text"].combine_chunks())
    assert {name: column.type for name, column in columns.items()} == {**PARTS, **HITS}
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*(c.to_pylist() for c in columns.values()), strict=True)
    ]


def hits(address: str) -> dict[str, int]:
    [row] = measured([address])
    return {name: row[name] for name in HITS if row[name]}


def test_the_parts_of_a_url():
    [row] = measured(["HTTPS://User:pw@WWW.News.BBC.co.uk:8080/a//B%20c/index.html?q=/x#y/z"])
    assert {name: row[name] for name in PARTS} == {
        "url_host": "www.news.bbc.co.uk",
        "url_domain": "bbc.co.uk",
        "url_path": "/a//B%20c/index.html",
        "url_path_parts": 3,
        "url_characters": 68,
    }


@pytest.mark.parametrize("address", [None, "", "http://", "not a url", "https:///path", "  "])
def test_what_has_no_host_has_no_parts(address):
    [row] = measured([address])
    assert set(row.values()) == {None}


labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?", fullmatch=True)


@given(
    st.sampled_from(["http", "https", "ftp"]),
    st.one_of(st.just(""), st.just("user@"), st.just("u:p@")),
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["", ":80"]),
    st.from_regex(r"(/[a-z0-9%._~-]{0,4}){0,4}", fullmatch=True),
    st.sampled_from(["", "?a=b/c", "?"]),
    st.sampled_from(["", "#x/y?z"]),
)
def test_parts_are_those_of_the_standard_library(scheme, user, host, port, path, query, fragment):
    text = f"{scheme}://{user}{host}{port}{path}{query}{fragment}"
    expected = urlsplit(text)
    assert parse(text)[:2] == (expected.hostname, expected.path)


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("www.gov.uk", "www.gov.uk"),
        ("shop.acme.com.au", "acme.com.au"),
        ("a.acme.de", "acme.de"),
        ("localhost", "localhost"),
        ("192.168.0.1", "192.168.0.1"),
        ("[2001:db8::1]", "[2001:db8::1]"),
    ],
)
def test_registered_domains(host, domain):
    assert registered_domain(host) == domain


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("http://casino.example/x", {"url_blocked_domain": 1}),
        ("http://de.casino.example/x", {"url_blocked_domain": 1}),
        ("http://www.pills.example", {"url_blocked_domain": 1}),
        ("http://mycasino.example/x", {}),
        ("http://co.uk/spam", {}),
        ("https://forum.example/thread/7?page=2#top", {"url_blocked_url": 1}),
        ("https://forum.example/thread/7", {}),
        ("http://NEWS.example/ads", {"url_blocked_url": 1}),
        ("http://a.example/JACKPOT-today", {"url_hard_words": 1}),
        ("http://a.example/jackpots", {}),
        ("http://a.example/freespins_jackpot", {"url_hard_words": 2}),
        ("http://a.example/bonus/bonus/win", {"url_soft_words": 2}),
        ("http://cheap-pi.lls.example/", {"url_blocked_substrings": 1}),
        ("http://a.example/axqb/cheap_pills", {"url_blocked_substrings": 2}),
        ("http://a.example/good/page", {}),
    ],
)
def test_each_list_is_looked_into_in_its_own_way(address, found):
    assert hits(address) == found


def test_without_a_list_its_column_is_null():
    [row] = measured(["http://casino.example/"], {"domains": PATHS["domains"]})
    assert [row[name] for name in HITS] == [1, None, None, None, None]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abx.-/", min_size=1, max_size=6), max_size=8), st.text("abx.-/", max_size=30))
def test_substrings_are_those_that_a_plain_search_finds(tmp_path_factory, entries, rest):
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_text("\n".join(entries), encoding="utf-8")
    [row] = measured([f"http://h{rest}"], {"substrings": [path]})
    text = re.sub("[^a-z0-9]", "", parse(f"http://h{rest}").bare)
    listed = {re.sub("[^a-z0-9]", "", entry) for entry in entries} - {""}
    assert row["url_blocked_substrings"] == sum(string in text for string in listed)


def test_the_plain_search_can_fail(tmp_path_factory, monkeypatch):
    """The planted twin: words are cut out of the address with their punctuation."""
    monkeypatch.setattr(urls, "NO_WORD", re.compile("never"))
    with pytest.raises(AssertionError):
        test_each_list_is_looked_into_in_its_own_way("http://cheap-pi.lls.example/", {"url_blocked_substrings": 1})


def config(folder: Path, **more) -> Measure:
    return Measure(minhash="off", language="off", groups=["url"], url_lists=UrlLists(**{**FILES, **more}))


def test_lists_are_part_of_the_step_s_identity_by_their_bytes(context, make_pool, tmp_path):
    pool = make_pool("web", [{"text": "x", "metadata": '{"url": "http://a.casino.example/win/deal"}'}])
    first = measure(context, pool, config(LISTS), folder=LISTS)
    [row] = pq.read_table(first.shards()[0]).to_pylist()
    assert (row["url_blocked_domain"], row["url_soft_words"], row["url_domain"]) == (1, 2, "casino.example")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(LISTS, elsewhere)
    assert measure(context, pool, config(elsewhere), folder=elsewhere).reused
    with open(elsewhere / "domains.txt", "a") as file:
        file.write("other.example\n")
    assert not measure(context, pool, config(elsewhere), folder=elsewhere).reused


def test_the_profile_of_url_lists_says_which_list_dropped_a_page(context, make_pool):
    addresses = ["a.casino.example", "x.example/jackpot", "x.example/win", "x.example/win/deal", "y.example/axqb"]
    pool = make_pool("web", [{"text": a, "metadata": json.dumps({"url": f"http://{a}"})} for a in addresses])
    table = pq.read_table(measure(context, pool, config(LISTS), folder=LISTS).shards()[0])
    rules = apply(load_profile("url-lists"), table)[1].to_pylist()
    assert rules == ["blocked_domain", "hard_word", None, "soft_words", "blocked_substring"]


def test_a_list_that_is_not_there_is_named(context, make_pool):
    with pytest.raises(ConfigError, match=r"measure.url_lists.domains: .*none.txt: no such file"):
        measure(context, make_pool("web", ["x"]), config(LISTS, domains="none.txt"), folder=LISTS)


def test_lists_without_the_group_are_an_error(context, make_pool):
    wrong = Measure(minhash="off", language="off", groups=[], url_lists=UrlLists(**FILES))
    with pytest.raises(ConfigError, match="the group 'url' is not among `groups`"):
        measure(context, make_pool("web", ["x"]), wrong, folder=LISTS)
