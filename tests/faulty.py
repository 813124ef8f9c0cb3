"""A store on a bad day: an HTTP proxy before an S3 server, which fails on a schedule that the test gives."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from curation import remote
from curation.read import stores

Fault = Literal["error", "denied", "slow", "cut", "short", "flip", "drop"] | None
SECRET = "s3cr3t-0f-the-st0re"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
HOP = ("connection", "transfer-encoding", "keep-alive", "content-length")


class Asked(NamedTuple):
    """A request: its number, from 0; method; the key in the bucket; the query; bytes of its body."""

    number: int
    method: str
    key: str
    query: str
    size: int


class Faulty:
    """`fault(asked)` says what becomes of a request; `asked` are those that came.

    error: 500 Internal Server Error. denied: 403 Forbidden. slow: the answer comes after `pause` seconds. cut: the
    connection ends in the middle of the body. short: half the body, with a length that says so. flip: a bit of the
    body is another. drop: the connection ends before any answer.
    """

    def __init__(self, url: str, bucket: str):
        self.target, self.bucket = urlsplit(url).netloc, bucket
        self.asked: list[Asked] = []
        self.fault: Callable[[Asked], Fault] = lambda asked: None
        self.pause = 0.0
        self._lock = threading.Lock()

    def note(self, method: str, path: str, size: int) -> Asked:
        parts = urlsplit(path)
        key = unquote(parts.path).removeprefix(f"/{self.bucket}").lstrip("/")
        with self._lock:
            asked = Asked(len(self.asked), method, key, parts.query, size)
            self.asked.append(asked)
        return asked

    def keys(self, method: str, since: int = 0) -> list[str]:
        return [one.key for one in self.asked[since:] if one.method == method and one.key]


class S3(NamedTuple):
    """A bucket behind the proxy, and the machines that look at it."""

    bucket: str
    proxy: Faulty
    client: Any  # of boto3, past the proxy
    folder: Path  # where the mirrors of the machines lie
    known: dict[str, bytes]  # what was read, by checksum

    def workspace(self, machine: str, prefix: str = "ws") -> Path:
        """The mirror of s3://bucket/ws on a machine: each has a cache of its own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MIXWRIGHT_CACHE", str(self.folder / machine))
            return remote.open_workspace(f"s3://{self.bucket}/{prefix}")

    def objects(self) -> dict[str, bytes]:
        """The bytes of every object by key, without the empty ones that stand for folders."""
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        found = {one["Key"]: one["ETag"] for one in listed if not one["Key"].endswith("/")}
        for key, tag in found.items():
            if tag not in self.known:
                self.known[tag] = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return {key: self.known[tag] for key, tag in found.items()}

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)


@contextlib.contextmanager
def s3_bucket(folder: Path) -> Iterator[S3]:
    """A bucket of moto's server behind the proxy, which the environment names. Requests are repeated at once."""
    server = pytest.importorskip("moto.server", reason="the extra 'test' is not installed")
    import boto3

    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    bucket = f"bucket-{uuid.uuid4().hex}"
    try:
        with faulty(f"http://{host}:{port}", bucket) as (proxy, url), pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
            client.create_bucket(Bucket=bucket)
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setattr(stores, "PAUSE", 0.01)
            patch.setattr(stores, "ATTEMPTS", 3)
            patch.setattr(stores, "S3_ATTEMPTS", 2)
            patch.setattr(stores, "SILENCE", 1)
            yield S3(bucket, proxy, client, folder, {})
    finally:
        started.stop()


@contextlib.contextmanager
def faulty(url: str, bucket: str) -> Iterator[tuple[Faulty, str]]:
    """The proxy and its address."""
    state = Faulty(url, bucket)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def handle_one_request(self):
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle_one_request()
                return
            self.close_connection = True

        def forward(self):
            body = self.body()
            asked = state.note(self.command, self.path, len(body))
            fault = state.fault(asked)
            if fault == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if fault == "error":
                self.reply(500, [], b"<Error><Code>InternalError</Code><Message>We failed</Message></Error>")
                return
            if fault == "denied":
                self.reply(403, [], b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
                return
            if fault == "slow":
                time.sleep(state.pause)
            connection = http.client.HTTPConnection(state.target, timeout=30)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                if "Transfer-Encoding" in self.headers:
                    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
                connection.endheaders(body)
                answer = connection.getresponse()
                data = answer.read()
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
                if self.command == "HEAD":
                    kept.append(("Content-Length", answer.getheader("Content-Length", "0")))
            finally:
                connection.close()
            if fault == "flip" and data:
                data = data[:-1] + bytes([data[-1] ^ 1])
            if fault == "short":
                data = data[: len(data) // 2]
            self.reply(answer.status, kept, data, cut=fault == "cut")

        def body(self) -> bytes:
            if "Transfer-Encoding" not in self.headers:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def reply(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False):
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.wfile.flush()
            if cut:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.forward)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
