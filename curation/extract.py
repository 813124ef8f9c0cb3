"""The main text of a web page, through resiliparse, in a helper process that may hang or crash.

The parser is compiled code: no Python timer or signal handler can interrupt it, and a fault in it ends its
process. So pages are extracted in a child of each worker, which is ended when a page takes too long and started
anew; such a page goes to the quarantine and costs nothing else. The exchange is length-prefixed bytes and JSON.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import selectors
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import orjson

MEMORY = 4 << 30  # address space of the helper process
_HEADER = struct.Struct("<II")  # lengths of charset and page
_LENGTH = struct.Struct("<I")

# Where pages say when they were published, the most reliable first.
_DATE_TAGS = (
    "article:published_time",
    "datepublished",
    "date",
    "dc.date",
    "dcterms.created",
    "dc.date.issued",
    "pubdate",
    "parsely-pub-date",
)
_ISO_DATE = re.compile(
    r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?:T\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:?\d\d)?)?"
)


class ExtractionError(Exception):
    """A page cannot be extracted."""


class Page(NamedTuple):
    """What is kept of a web page."""

    text: str  # main content, block formatting kept as line breaks
    title: str
    created: str | None  # ISO 8601, from the page's own meta tags


def decode(data: bytes, declared: str | None) -> str:
    """A page's bytes as text: UTF-8 where they are valid UTF-8, whatever is declared (text in another encoding
    hardly ever is); else by the encoding that the HTTP header declares, if they are valid in it; else by the
    page's meta tag; else as uchardet guesses. Never fails: what is invalid in the end is replaced.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    if b"\x1b" not in data:  # ISO-2022 switches character sets by escapes and is valid UTF-8 all the same
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8").removeprefix("\ufeff")
    if declared and (encoding := map_encoding_to_html5(declared, fallback_utf8=False)):
        with contextlib.suppress(UnicodeDecodeError, LookupError):  # a wrong header is common: look at the page
            return data.decode(encoding).removeprefix("\ufeff")
    encoding = detect_encoding(data, html5_compatible=True, from_html_meta=True)
    return bytes_to_str(data, encoding, errors="replace")


def extract_html(data: bytes, charset: str | None = None) -> Page:
    """The main content of a page, without navigation, links' targets, scripts and forms; "" if there is none."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(decode(data, charset))
    text = extract_plain_text(
        tree, main_content=True, links=False, alt_texts=False, form_fields=False, noscript=False
    )
    return Page(text.strip(), " ".join((tree.title or "").split()), _published(tree))


def _published(tree) -> str | None:
    found: dict[str, str] = {}
    for tag in tree.document.query_selector_all("meta[content]"):
        name = (tag.getattr("property") or tag.getattr("name") or tag.getattr("itemprop") or "").lower()
        found.setdefault(name, tag.getattr("content") or "")
    for name in _DATE_TAGS:
        if match := _ISO_DATE.match(found.get(name, "").strip()):
            return match[0]
    return None


class Extractor:
    """Extracts pages in a helper process. Use as a context manager; one thread at a time."""

    def __init__(self, seconds: float):
        self.seconds = seconds  # for one page
        self._child: subprocess.Popen | None = None

    def extract(self, data: bytes, charset: str | None = None) -> Page:
        """As `extract_html`. Raises ExtractionError where that takes over `seconds`, fails or crashes."""
        child = self._start()
        label = (charset or "").encode("utf-8", "replace")[:100]
        try:
            child.stdin.write(_HEADER.pack(len(label), len(data)) + label)
            child.stdin.write(data)
            child.stdin.flush()
            deadline = time.monotonic() + self.seconds
            (size,) = _LENGTH.unpack(self._read(child, _LENGTH.size, deadline))
            answer = orjson.loads(self._read(child, size, deadline))
        except TimeoutError:
            self.close()
            raise ExtractionError(f"extraction took over {self.seconds:g} s (page_seconds)") from None
        except (BrokenPipeError, EOFError):
            child.wait()
            code, self._child = child.returncode, None
            raise ExtractionError(f"extraction crashed (exit code {code})") from None
        if "error" in answer:
            raise ExtractionError(answer["error"])
        return Page(answer["text"], answer["title"], answer["created"])

    def _start(self) -> subprocess.Popen:
        if self._child is None:
            paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            self._child = subprocess.Popen(
                [sys.executable, "-m", "curation.extract", str(math.ceil(self.seconds) + 1)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                bufsize=1 << 16,
            )
            self._read(
                self._child, _LENGTH.size, time.monotonic() + 120
            )  # it is ready: imports are not a page's time
        return self._child

    @staticmethod
    def _read(child: subprocess.Popen, size: int, deadline: float) -> bytes:
        handle, data = child.stdout.fileno(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while len(data) < size:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(handle, min(size - len(data), 1 << 20))
                if not chunk:
                    raise EOFError
                data += chunk
        return bytes(data)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child.stdin.close()
            self._child.stdout.close()
            self._child = None

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def serve(seconds: int) -> None:
    """The helper process: pages in on standard input, JSON out on standard output, until the input ends.

    Should its parent be killed while a page hangs here, the alarm, which nothing handles, ends it too.
    """
    import resource

    import resiliparse.extract.html2text  # noqa: F401 (loaded before the first page)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets into the answers
    sink.write(_LENGTH.pack(0))
    sink.flush()
    while header := source.read(_HEADER.size):
        label, size = _HEADER.unpack(header)
        charset, data = source.read(label).decode(), source.read(size)
        signal.alarm(seconds)
        try:
            answer = orjson.dumps(extract_html(data, charset or None)._asdict())
        except Exception as error:
            answer = orjson.dumps({"error": f"{type(error).__name__}: {error}"})
        signal.alarm(0)
        sink.write(_LENGTH.pack(len(answer)) + answer)
        sink.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
