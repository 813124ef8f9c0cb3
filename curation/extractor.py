"""Extraction in a helper process, since a page may hang or crash the parser.

The parser is compiled code: no Python timer or signal handler can interrupt it, and a fault in it ends its
process. So pages are extracted in a child of each worker, which is ended when a page takes too long and started
anew; such a page goes to the quarantine and costs nothing else. The exchange is length-prefixed bytes and JSON.

What a page may take is *processor time*, which the kernel counts and at whose end it ends the helper: other work
on the machine does not count against a page, and what decides on pages that nest too deep is their text
(`curation.extract.nested`). A helper that cannot start, or that gets no processor time, is an error of the run
and of no page.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import orjson

from curation.extract import Engine, ExtractionError, Page, extract_html

MEMORY = 4 << 30  # address space of the helper process
START = 300.0  # seconds that a helper may take to start, on a machine under load
PATIENCE = 60  # times its processor time that a page may take by the clock, at least START
MODULES = {"resiliparse": "resiliparse.extract.html2text", "trafilatura": "trafilatura"}
_HEADER = struct.Struct("<II")  # lengths of charset and page
_LENGTH = struct.Struct("<I")


class HelperError(Exception):
    """The helper process does not work on this machine; no page is to blame."""


class _EndedError(Exception):
    """The helper ended before it answered."""


class Extractor:
    """Extracts pages in a helper process. Use as a context manager; one thread at a time."""

    def __init__(self, seconds: float, engine: Engine = "resiliparse"):
        self.seconds = seconds  # of processor time, for one page
        self.engine = engine
        self._child: subprocess.Popen | None = None

    def extract(self, data: bytes, charset: str | None = None) -> Page:
        """As `extract_html`. Raises ExtractionError where that takes over `seconds` of processor time, fails, or
        crashes twice; HelperError where the helper cannot work at all."""
        try:
            answer = self._answer(data, charset)
        except _EndedError:  # perhaps for want of memory, and not for this page
            try:
                answer = self._answer(data, charset)
            except _EndedError as error:
                raise ExtractionError(f"extraction crashed twice ({error})") from None
        if "error" in answer:
            raise ExtractionError(answer["error"])
        return Page(answer["text"], answer["title"], answer["created"])

    def _answer(self, data: bytes, charset: str | None) -> dict:
        child = self._start()
        label = (charset or "").encode("utf-8", "replace")[:100]
        try:
            child.stdin.write(_HEADER.pack(len(label), len(data)) + label)
            child.stdin.write(data)
            child.stdin.flush()
            deadline = time.monotonic() + max(START, PATIENCE * self.seconds)
            (size,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
            return orjson.loads(self._read(size, deadline))
        except (BrokenPipeError, EOFError):
            code = self._end()
        if code == -signal.SIGPROF:
            raise ExtractionError(f"extraction took over {self.seconds:g} s of processor time (page_seconds)")
        raise _EndedError(f"exit code {code}")

    def _start(self) -> subprocess.Popen:
        if self._child is None:
            paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            self._child = subprocess.Popen(
                [sys.executable, "-m", "curation.extractor", str(self.seconds), self.engine],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                bufsize=1 << 16,
            )
            try:
                self._read(_LENGTH.size, time.monotonic() + START)  # it is ready: imports are not a page's time
            except EOFError:
                raise HelperError(
                    f"the helper process for web pages does not start (exit code {self._end()}); run "
                    f"'{sys.executable} -m curation.extractor 1 {self.engine} </dev/null' to see why"
                ) from None
        return self._child

    def _read(self, size: int, deadline: float) -> bytes:
        handle, data = self._child.stdout.fileno(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while len(data) < size:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise HelperError(
                        "the helper process for web pages is stopped or gets no processor time; look at the load "
                        "and the memory of the machine and run again"
                    )
                chunk = os.read(handle, min(size - len(data), 1 << 20))
                if not chunk:
                    raise EOFError
                data += chunk
        return bytes(data)

    def _end(self) -> int:
        """Wait for a child that has closed its output; its exit code."""
        code = self._child.wait()
        self.close()
        return code

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # from a page that it had not read to its end
            child.stdin.close()

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def serve(seconds: float, engine: Engine) -> None:
    """The helper process: pages in on standard input, JSON out on standard output, until the input ends.

    The timer counts processor time of this process and ends it by SIGPROF, which nothing handles: also where a
    page hangs here after the parent was killed.
    """
    import resource

    importlib.import_module(MODULES[engine])  # before the first page
    extract_html(b"<p>", engine=engine)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets into the answers
    sink.write(_LENGTH.pack(0))
    sink.flush()
    while header := source.read(_HEADER.size):
        label, size = _HEADER.unpack(header)
        charset, data = source.read(label).decode(), source.read(size)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            answer = orjson.dumps(extract_html(data, charset or None, engine)._asdict())
        except ExtractionError as error:
            answer = orjson.dumps({"error": str(error)})
        except Exception as error:
            answer = orjson.dumps({"error": f"{type(error).__name__}: {error}"})
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(_LENGTH.pack(len(answer)) + answer)
        sink.flush()


if __name__ == "__main__":
    serve(float(sys.argv[1]), sys.argv[2])
