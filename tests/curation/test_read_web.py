"""Web archives made byte by byte from their specifications, and those of other tools where the data is there."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from curation.extractor import Extractor
from curation.read import web as web_module
from curation.read.http import decoded_body, unchunked
from curation.read.record import BadRecordError, Document, Limits, Problem, RawFile, Skipped
from curation.read.web import WebOptions, html_files, warc

PARAGRAPH = "A paragraph that is long enough to be the main content of this page, and more words."
PAGE = f"<html><head><title>T</title></head><body><main><p>{PARAGRAPH}</p></main></body></html>".encode()
ZIPPED = gzip.compress(PAGE, mtime=0)


@pytest.fixture(scope="module")
def limits():
    with Extractor(30.0) as extractor:
        yield Limits(document_bytes=100_000, extractor=extractor)


def record(
    kind: str, body: bytes, url: str = "http://example.com/a", content_type: str = "application/http"
) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
    head += f"WARC-Record-ID: <urn:uuid:0>\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


def http(body: bytes, headers: str = "Content-Type: text/html", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body


def read(folder: Path, data: bytes, limits: Limits, name: str = "a.warc"):
    path = folder / name
    path.write_bytes(data)
    return list(warc(RawFile(path, name, ""), limits, WebOptions()))


def test_what_is_read_and_what_is_skipped(tmp_path, limits):
    items = read(
        tmp_path,
        record("warcinfo", b"software: x", content_type="application/warc-fields")
        + record("request", b"GET / HTTP/1.1\r\n\r\n")
        + record("response", http(PAGE), url="<http://example.com/../../etc/passwd>")
        + record("response", http(b"plain text", "Content-Type: text/plain; charset=utf-8"))
        + record("response", http(b"\x89PNG", "Content-Type: image/png"))
        + record("response", http(PAGE, status="404 Not Found"))
        + record("response", http(b"")),
        limits,
    )
    reasons = [item.reason if isinstance(item, Skipped) else None for item in items]
    assert reasons == [
        "warcinfo record",
        "request record",
        None,
        None,
        "content type image/png",
        "status 404",
        "empty body",
    ]
    assert items[2].text == PARAGRAPH
    assert items[2].metadata == {
        "url": "http://example.com/../../etc/passwd",
        "crawled": "2020-01-01T00:00:00Z",
        "title": "T",
    }
    assert (items[3].text, items[3].place) == ("plain text", "3")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)),
        ("Transfer-Encoding: chunked", PAGE),  # stored decoded, with the headers of the wire
        ("Content-Encoding: gzip", gzip.compress(PAGE)),
        ("Content-Encoding: gzip", PAGE),
        (
            "Content-Encoding: gzip\r\nTransfer-Encoding: chunked",
            b"%x;x=y\r\n%s\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED),
        ),
    ],
)
def test_encodings_of_the_body(tmp_path, limits, headers, body):
    (item,) = read(tmp_path, record("response", http(body, f"Content-Type: text/html\r\n{headers}")), limits)
    assert item.text == PARAGRAPH


def test_a_body_that_is_too_large_or_corrupt_is_a_problem_and_the_next_is_read(tmp_path, limits):
    bomb = gzip.compress(bytes(10_000_000))
    items = read(
        tmp_path,
        record("response", http(b"x" * 200_000))
        + record("response", http(bomb, "Content-Type: text/html\r\nContent-Encoding: gzip"))
        + record("response", http(bomb[:100] + b"x" * 100, "Content-Type: text/html\r\nContent-Encoding: gzip"))
        + record("response", http(PAGE, "Content-Type: text/html\r\nContent-Encoding: magic"))
        + record("response", http(PAGE)),
        limits,
    )
    assert [type(item) for item in items[:2]] == [Problem, Problem]
    assert all("max_document_bytes" in item.error for item in items[:2])
    assert "'magic' is not supported" in items[3].error
    assert items[4].text == PARAGRAPH


def test_chunks_that_are_cut_off():
    assert unchunked(b"5\r\nhello\r\n6\r\n wor") == b"hello wor"
    assert unchunked(b"not chunked") == b"not chunked"
    with pytest.raises(BadRecordError):
        decoded_body(b"\x1f\x8bxxxxxxxxxxxx", {"content-encoding": "gzip"}, 100)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_archive_keeps_the_records_before(tmp_path, limits, share):
    members = [gzip.compress(record("response", http(PAGE + b" " * number)), mtime=0) for number in range(20)]
    whole = b"".join(members)
    cut = whole[: int(len(whole) * share)]
    items = read(tmp_path, cut, limits, "a.warc.gz")
    sound = sum(1 for number in range(20) if len(b"".join(members[: number + 1])) <= len(cut))
    documents = [item for item in items if isinstance(item, Document)]
    assert len(documents) >= sound
    assert all(item.text == PARAGRAPH for item in documents[:sound])


def test_arc(tmp_path, limits):
    def entry(url: str, body: bytes, kind: str = "text/html") -> bytes:
        return f"{url} 127.0.0.1 20140216050221 {kind} {len(body)}\n".encode() + body + b"\n"

    version = entry(
        "filedesc://a.arc", b"1 0 x\nURL IP-address Archive-date Content-type Archive-length\n", "text/plain"
    )
    data = (
        version
        + entry("http://example.com/", http(PAGE))
        + entry("http://example.com/b", http(b"x", status="500 No"))
    )
    for name, stored in (("a.arc", data), ("a.arc.gz", gzip.compress(data))):
        items = read(tmp_path, stored, limits, name)
        assert [type(item) for item in items] == [Skipped, Document, Skipped]
        assert items[1].text == PARAGRAPH
        assert items[1].metadata["crawled"] == "2014-02-16T05:02:21Z"
    assert "cut off" in read(tmp_path, data[:-20], limits)[-1].error


def test_html_files(tmp_path, limits):
    (tmp_path / "a.html").write_bytes(PAGE)
    (item,) = html_files(RawFile(tmp_path / "a.html", "a.html", ""), limits, WebOptions())
    assert (item.text, item.metadata) == (PARAGRAPH, {"title": "T"})


BOMB = http(b"<p>" + bytes(20 << 20))


@pytest.mark.parametrize(
    ("record_bytes", "error"),
    [
        (lambda: record("response", BOMB), "grows over 100 times its size (max_ratio)"),
        (lambda: record("request", BOMB), "grows over 100 times its size (max_ratio)"),
        (lambda: b"WARC/1.0\r\nX: " + b"a" * (20 << 20) + b"\r\n\r\n", "Maximum header length exceeded"),
    ],
)
def test_a_member_that_is_a_bomb_is_stopped(tmp_path, limits, record_bytes, error, monkeypatch):
    """What came before it is kept."""
    monkeypatch.setattr(web_module, "RATIO_FROM", 1 << 20)
    members = [record("response", http(PAGE)), record_bytes(), record("response", http(PAGE))]
    data = b"".join(gzip.compress(member, mtime=0) for member in members)
    assert len(data) < 300_000
    before, problem = read(tmp_path, data, limits._replace(ratio=100), "bomb.warc.gz")
    assert before.text == PARAGRAPH
    assert error in problem.error
    assert problem.offset in (len(gzip.compress(members[0], mtime=0)), -1)  # -1: no record begins there


def test_a_broken_page_in_the_middle_costs_itself_alone(tmp_path, limits):
    broken = http(b"\x1f\x8bnonsense", "Content-Type: text/html\r\nContent-Encoding: gzip")
    members = [record("response", http(PAGE)), record("response", broken), record("response", http(PAGE))]
    data = b"".join(gzip.compress(member, mtime=0) for member in members)
    first, problem, last = read(tmp_path, data, limits, "a.warc.gz")
    assert first.text == last.text == PARAGRAPH
    assert "compressed HTTP body" in problem.error
    assert (problem.place, problem.offset) == ("1", len(gzip.compress(members[0], mtime=0)))


def test_wet_gives_its_text_with_the_address_and_the_date_of_the_page(tmp_path, limits):
    text = "Text that a crawl made of a page. Größe\n"
    entry = record("conversion", text.encode(), "http://example.com/page", "text/plain")
    for name, data in (("a.wet", entry), ("a.wet.gz", gzip.compress(entry, mtime=0))):
        (item,) = read(tmp_path, data, limits, name)
        assert item.text == text
        assert item.metadata == {"url": "http://example.com/page", "crawled": "2020-01-01T00:00:00Z"}


SAMPLES = {  # (documents, problems) of the archives of other tools
    "commoncrawl-one.warc.gz": (1, 0),
    "warcio-example.warc.gz": (1, 0),
    "warcio-example.arc.gz": (1, 0),
    "warcio-example-iana.org-chunked.warc": (1, 0),
    "warcio-example-trunc.warc": (1, 1),
    "warcio-example-wget-bad-target-uri.warc.gz": (1, 0),
}


@pytest.mark.skipif(
    "MIXWRIGHT_DATA" not in os.environ, reason="MIXWRIGHT_DATA does not name the folder of real data"
)
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_other_tools(limits, name):
    path = Path(os.environ["MIXWRIGHT_DATA"]) / "web/samples" / name
    items = list(warc(RawFile(path, name, ""), limits, WebOptions()))
    found = [sum(isinstance(item, kind) for item in items) for kind in (Document, Problem)]
    assert tuple(found) == SAMPLES[name]
    assert all(
        item.text.strip() and item.metadata["url"].startswith("http")
        for item in items
        if isinstance(item, Document)
    )
