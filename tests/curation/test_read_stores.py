"""Remote stores: S3 as moto's server speaks it, any other scheme as fsspec does."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curation.config import ConfigError
from curation.executor import LocalExecutor
from curation.files import file_hash
from curation.ingest import Source, ingest
from curation.read import inventory as inventory_module
from curation.read import stores
from curation.read.stores import RemotePath, StoreError, remote_files
from curation.steps import Context

PAGE = b"<html><title>T</title><main><p>A paragraph that is long enough to be the main content of it.</p></main>"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
WARC = (
    b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.com/\r\n"
    b"Content-Type: application/http\r\nWARC-Date: 2020-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:0>\r\n"
    b"Content-Length: %d\r\n\r\n%s\r\n\r\n"
)


@pytest.fixture(scope="module")
def s3():
    """A bucket on a server of its own: a function (key, bytes) that puts an object there."""
    server = pytest.importorskip("moto.server", reason="the extra 'test' is not installed")
    import boto3

    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield lambda key, data: client.put_object(Bucket="bucket", Key=key, Body=data)
    started.stop()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Records as JSONL, zstd and Parquet, some broken, and a name that must be quoted."""
    root = tmp_path / "in"
    (root / "deep er").mkdir(parents=True)
    lines = b"".join(json.dumps({"text": f"document {number}"}).encode() + b"\n" for number in range(500))
    (root / "a+b.jsonl").write_bytes(lines + b"{broken\n")
    (root / "deep er/c é.jsonl.zst").write_bytes(
        zstandard.ZstdCompressor().compress(lines.replace(b"doc", b"Doc"))
    )
    (root / "cut.jsonl.gz").write_bytes(gzip.compress(lines * 9)[:-40])
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(100)]}), root / "d.parquet", row_group_size=30)
    return root


def content(output) -> list[tuple[str, str]]:
    files = [*output.shards(), output.folder / "quarantine.parquet", output.folder / "files.parquet"]
    return [(path.name, file_hash(path)) for path in files]


def test_s3_gives_the_bytes_that_a_folder_gives(tmp_path, folder, s3, monkeypatch):
    for path in folder.rglob("*"):
        if path.is_file():
            s3(f"raw/data/{path.relative_to(folder).as_posix()}", path.read_bytes())
    s3("raw/other/x.jsonl", b'{"text": "not below the root"}\n')
    pools = {}
    for name, root in (("local", str(folder)), ("remote", "s3://bucket/raw/data")):
        monkeypatch.setattr("curation.read.division.PART", 2000)
        with LocalExecutor(2) as executor:
            source = Source(name="s", reader="records", root=root, include=["**/*.jsonl*", "*.parquet"])
            pools[name] = ingest(Context(tmp_path / name, executor), source)
    assert content(pools["local"]) == content(pools["remote"])
    assert pools["local"].record["fingerprint"] == pools["remote"].record["fingerprint"]
    assert pools["remote"].counts["documents_out"] > 1100
    assert pools["remote"].counts["quarantined"] == 2


def test_web_archives_are_read_from_s3(tmp_path, s3):
    s3("web/a.warc.gz", gzip.compress(WARC % (len(HEAD + PAGE), HEAD + PAGE)))
    output = ingest(Context(tmp_path / "ws"), Source(name="s", reader="warc", root="s3://bucket/web"))
    (row,) = pq.read_table(output.shards()[0]).to_pylist()
    assert row["text"] == "A paragraph that is long enough to be the main content of it."
    assert row["origin"] == "a.warc.gz#0@0"


def test_a_second_look_reads_nothing_and_a_changed_object_is_seen(tmp_path, s3, monkeypatch):
    s3("again/a.jsonl", b'{"text": "one"}\n')
    monkeypatch.setattr(inventory_module, "SETTLED_REMOTE", -(10**18))
    context, source = Context(tmp_path / "ws"), Source(name="s", reader="records", root="s3://bucket/again")
    first = ingest(context, source)
    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "open", lambda *_: pytest.fail("read again"))
        assert ingest(context, source).folder == first.folder
    s3("again/a.jsonl", b'{"text": "changed"}\n')
    assert pq.read_table(ingest(context, source).shards()[0])["text"].to_pylist() == ["changed"]


def test_a_store_that_fails_stops_the_run_and_blames_no_record(tmp_path, s3, monkeypatch):
    s3("fail/a.jsonl", b'{"text": "one"}\n' * 10)
    (path,) = remote_files("s3://bucket/fail")
    monkeypatch.setattr(stores, "PAUSE", 0)
    attempts = []

    class Failing:
        def read_at(self, size, place):
            attempts.append(place)
            raise OSError("connection reset")

        def close(self):
            pass

    opened = stores._Remote.__init__

    def fail(self, path):
        opened(self, path)
        self._file = Failing()

    monkeypatch.setattr(stores._Remote, "__init__", fail)
    with pytest.raises(StoreError, match=r"s3://bucket/fail/a.jsonl: connection reset \(4 attempts\)"):
        path.open().read()
    assert len(attempts) == stores.ATTEMPTS
    with pytest.raises(StoreError):
        ingest(Context(tmp_path / "ws"), Source(name="s", reader="records", root="s3://bucket/fail"))


def test_an_answer_that_is_cut_is_no_end_of_a_file(s3, monkeypatch):
    s3("cut/a.jsonl", b"0123456789")
    (path,) = remote_files("s3://bucket/cut")
    monkeypatch.setattr(stores, "PAUSE", 0)
    answers = [b"", b"0123", b"0123456789"]

    class Cut:
        def read_at(self, size, place):
            return answers.pop(0)[:size]

        def close(self):
            pass

    opened = stores._Remote.__init__

    def cut(self, path):
        opened(self, path)
        self._file = Cut()

    monkeypatch.setattr(stores._Remote, "__init__", cut)
    assert path.open().read() == b"0123456789"
    answers += [b"0123"] * stores.ATTEMPTS
    with pytest.raises(StoreError, match="4 of 10 bytes came"):
        path.open().read()


def test_any_scheme_of_fsspec_is_read(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    root = f"memory://{uuid.uuid4().hex}"
    with fsspec.open(f"{root}/x/a.jsonl.gz", "wb") as file:
        file.write(gzip.compress(b'{"text": "one"}\n'))
    pq_bytes = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["two"]}), pq_bytes)
    with fsspec.open(f"{root}/b.parquet", "wb") as file:
        file.write(pq_bytes.getvalue().to_pybytes())
    output = ingest(Context(tmp_path / "ws"), Source(name="s", reader="records", root=root))
    rows = [row for path in output.shards() for row in pq.read_table(path).to_pylist()]
    assert {(row["text"], row["origin"]) for row in rows} == {("one", "x/a.jsonl.gz#0@0"), ("two", "b.parquet#0")}


def test_a_root_that_is_not_there_is_an_error_of_the_set_up(tmp_path, s3):
    def source(root: str, **fields) -> Source:
        return Source(name="s", reader="records", root=root, **fields)

    s3("there/a.jsonl", b'{"text": "one"}\n')
    with pytest.raises(ConfigError, match="cannot be listed"):
        ingest(Context(tmp_path / "ws"), source("s3://no-such-bucket/x"))
    with pytest.raises(ConfigError, match="no store of this kind"):
        ingest(Context(tmp_path / "ws"), source("nosuch://x/y"))
    with pytest.raises(ConfigError, match=r"the pattern '\*.parquet' matches no file"):
        ingest(Context(tmp_path / "ws"), source("s3://bucket/there", include=["*.parquet"]))


def test_a_remote_file_can_be_sought_in(s3):
    data = bytes(range(256)) * 100
    s3("seek/a", data)
    (path,) = remote_files("s3://bucket/seek")
    with path.open() as file:
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        file.seek(300)
        assert file.read(5) == data[300:305]
        assert file.tell() == 305


def test_what_does_not_answer_is_given_up_in_seconds_and_said_as_it_is(monkeypatch):
    monkeypatch.setattr(stores, "SILENCE", 1)
    with pytest.raises(ConfigError, match="cannot be listed"):
        remote_files("gs://anonymous@bucket/x?scheme=http&endpoint_override=127.0.0.1:1")

    def no_network(*_):
        raise OSError("Could not resolve host")

    monkeypatch.setattr(stores, "_s3", no_network)
    with pytest.raises(ConfigError, match=r"Could not resolve host; check the address and the network"):
        stores.file_system(f"s3://{uuid.uuid4().hex}/x")
