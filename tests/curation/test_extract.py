"""Extraction of web pages: main content, encodings, and a helper process that may hang or crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from curation import extractor as extractor_module
from curation.extract import DEEPEST, ExtractionError, decode, extract_html, nested
from curation.extractor import Extractor, HelperError

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


SLOW = b"<p " + b" ".join(b"a%d" % number for number in range(100_000)) + b">text"  # seconds for 0.7 MB


def test_a_page_that_takes_too_long_is_an_error_and_the_next_is_read():
    with Extractor(0.3) as own:
        with pytest.raises(ExtractionError, match=r"over 0.3 s of processor time \(page_seconds\)"):
            own.extract(SLOW)
        assert own.extract(ARTICLE.encode()) == extract_html(ARTICLE.encode())


def test_time_that_other_work_takes_does_not_count_against_a_page():
    """A helper that is stopped for three times its limit, as by a machine under load, gives the page yet."""
    with Extractor(0.3) as own:
        own.extract(b"<p>warm</p>")
        stopped = own._child
        os.kill(stopped.pid, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (stopped.pid, signal.SIGCONT)).start()
        assert own.extract(ARTICLE.encode()) == extract_html(ARTICLE.encode())
        assert own._child is stopped


def test_a_helper_that_gets_no_time_at_all_is_an_error_of_the_run(monkeypatch):
    monkeypatch.setattr(extractor_module, "START", 0.2)
    monkeypatch.setattr(extractor_module, "PATIENCE", 0)
    with Extractor(30.0) as own:
        with monkeypatch.context() as patch:
            patch.setattr(extractor_module, "START", 120.0)
            own.extract(b"<p>warm</p>")
        os.kill(own._child.pid, signal.SIGSTOP)
        with pytest.raises(HelperError, match="gets no processor time"):
            own.extract(ARTICLE.encode())


def test_a_helper_that_does_not_start_is_an_error_of_the_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Extractor(30.0) as own, pytest.raises(HelperError, match=r"does not start \(exit code 1\)"):
        own.extract(ARTICLE.encode())


def test_a_helper_that_is_killed_from_outside_costs_no_page():
    with Extractor(30.0) as own:
        own.extract(b"<p>warm</p>")
        os.kill(own._child.pid, signal.SIGKILL)
        assert own.extract(ARTICLE.encode()).title == "A title"


def test_a_page_that_crashes_the_parser_is_an_error_and_the_next_is_read(tmp_path, monkeypatch):
    """The helper here is one whose parser faults on pages with a certain word."""
    helper = tmp_path / "faulty.py"
    helper.write_text(
        "import ctypes, sys\n"
        "from curation import extractor\n"
        "sound = extractor.extract_html\n"
        "extractor.extract_html = lambda data, *rest, **names: (\n"
        "    ctypes.string_at(0) if b'fatal' in data else sound(data, *rest, **names))\n"
        "extractor.serve(float(sys.argv[-2]), sys.argv[-1])\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{helper}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with Extractor(30.0) as own:
        with pytest.raises(ExtractionError, match=r"crashed twice \(exit code -11\)"):
            own.extract(b"<p>fatal</p>")
        assert own.extract(ARTICLE.encode()).title == "A title"


def test_a_page_nested_so_deep_that_its_extraction_takes_minutes_is_refused_by_its_text(extractor):
    for page in (b"<div>" * 200_000 + b"text", b"<a><div>x" * 20_000):
        with pytest.raises(ExtractionError, match=f"nested too deep: .* at most {DEEPEST}"):
            extractor.extract(page)


@pytest.mark.parametrize(
    "page",
    [
        "<table>" + "<tr><td>cell" * 30_000,  # no closing tags, which these do not need
        "<ul>" + "<li>entry<br>" * 30_000,
        "<div><div><p>word <b>bold</b> <img></p></div></div>" * 10_000,
        "<div>" * 4_000 + "text" + "</div>" * 4_000,
    ],
)
def test_pages_that_are_large_but_not_deep_are_read(page):
    assert nested(page) < DEEPEST / 10
    extract_html(page.encode())


def test_trafilatura_is_the_other_extractor():
    pytest.importorskip("trafilatura", reason="the extra 'trafilatura' is not installed")
    with Extractor(30.0, "trafilatura") as own:
        page = own.extract(ARTICLE.encode())
    assert "The first paragraph of the article" in page.text
    assert "Home page" not in page.text
    assert (page.title, page.created) == ("A title", "2021-03-04T05:06:07Z")


def test_the_helper_does_not_outlive_a_killed_parent():
    script = (
        "import os, sys\n"
        "from curation.extractor import Extractor\n"
        "own = Extractor(1.0)\n"
        "print(own._start().pid, flush=True)\n"
        "own.extract(b'<p ' + b' '.join(b'a%d' % n for n in range(1_000_000)) + b'>')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        helper = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)
        parent.kill()
    helper.wait(timeout=30)
