"""Extraction of web pages: main content, encodings, and a helper process that may hang or crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curation.extract import ExtractionError, Extractor, decode, extract_html

ROOT = Path(__file__).parents[2]
ARTICLE = """<!doctype html><html><head><title> A  title </title>
<meta property="article:published_time" content="2021-03-04T05:06:07Z"><meta name="date" content="1999-01-01">
<script>var hidden = 1;</script></head><body>
<nav class="menu"><ul><li><a href="/">Home page</a></li><li><a href="/about">About us</a></li></ul></nav>
<main><article><h1>Heading</h1><p>The first paragraph of the article, which is long enough to be one. {word}</p>
<p>The second paragraph links to <a href="http://example.com/secret-target">somewhere</a>.</p></article></main>
<footer class="footer">Copyright notice</footer></body></html>"""


@pytest.fixture(scope="module")
def extractor():
    with Extractor(30.0) as shared:
        yield shared


def test_main_content_title_and_date_are_kept_and_the_rest_is_not():
    page = extract_html(ARTICLE.encode())
    assert "The first paragraph" in page.text
    assert "somewhere" in page.text
    for boilerplate in ("Home page", "Copyright notice", "secret-target", "hidden"):
        assert boilerplate not in page.text
    assert page.title == "A title"
    assert page.created == "2021-03-04T05:06:07Z"


@pytest.mark.parametrize(
    ("encoding", "declared", "word"),
    [
        ("utf-8", None, "Größe naïve"),
        ("utf-8", "iso-8859-1-wrong-label", "Größe"),
        ("cp1252", "windows-1252", "Größe “quoted”"),
        ("shift_jis", "Shift_JIS", "日本語のテキスト"),
        ("utf-8", "ascii", "Größe"),
        ("utf-8", "iso-8859-1", "Größe"),
        ("iso2022_jp", "iso-2022-jp", "日本語のテキスト"),
    ],
)
def test_encodings_of_the_header(encoding, declared, word):
    assert word in extract_html(ARTICLE.replace("{word}", word).encode(encoding), declared).text


def test_an_encoding_that_is_not_declared_is_guessed():
    word = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 4
    assert word.strip() in extract_html(ARTICLE.replace("{word}", word).encode("koi8-r")).text


def test_the_encoding_of_the_meta_tag():
    page = ARTICLE.replace("<head>", '<head><meta charset="windows-1251">').replace("{word}", "Привет")
    assert "Привет" in extract_html(page.encode("cp1251")).text


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", bytes(range(256)) * 4])
def test_decoding_never_fails(data):
    decode(data, "utf-8").encode()


def test_the_helper_gives_what_the_function_gives(extractor):
    for data in (ARTICLE.encode(), b"", b"<html></html>", "<p>Größe".encode("cp1252"), bytes(range(256))):
        assert extractor.extract(data) == extract_html(data)


def test_a_page_that_takes_too_long_is_an_error_and_the_next_is_read(extractor):
    with Extractor(30.0) as own:
        own.extract(b"<p>warm</p>")
        os.kill(own._child.pid, signal.SIGSTOP)  # it hangs
        own.seconds = 0.2
        with pytest.raises(ExtractionError, match=r"over 0.2 s \(page_seconds\)"):
            own.extract(ARTICLE.encode())
        own.seconds = 30.0
        assert own.extract(ARTICLE.encode()) == extract_html(ARTICLE.encode())


def test_a_crash_of_the_parser_is_an_error_and_the_next_is_read():
    with Extractor(30.0) as own:
        own.extract(b"<p>warm</p>")
        os.kill(own._child.pid, signal.SIGSEGV)
        with pytest.raises(ExtractionError, match="crashed"):
            own.extract(ARTICLE.encode())
        assert own.extract(ARTICLE.encode()).title == "A title"


def test_a_page_nested_so_deep_that_parsing_it_takes_minutes():
    with Extractor(0.5) as own, pytest.raises(ExtractionError, match="page_seconds"):
        own.extract(b"<div>" * 200_000 + b"text")


def test_the_helper_does_not_outlive_a_killed_parent():
    script = (
        "import os, sys\n"
        "from curation.extract import Extractor\n"
        "own = Extractor(1.0)\n"
        "print(own._start().pid, flush=True)\n"
        "own.seconds = 60.0\n"  # the parent waits on while the helper hangs
        "own.extract(b'<div>' * 200_000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        helper = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)
        parent.kill()
    helper.wait(timeout=30)
