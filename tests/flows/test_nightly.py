"""A night does what is new and no more; it trains when the pipeline file says that enough has changed."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow.parquet as pq
import pytest
import yaml

from curation.files import read_json
from flows.execute import Options
from flows.nightly import CHANGES, run_night
from flows.notify import Failure, tell
from flows.pipeline import OnFailure, as_settings, load_pipeline
from flows.run import recorded_runs
from tests.mini import write_inputs, write_pipeline

REAL_CHANGE = 0.15


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Five nights: the first; nothing new; a note more; a third of another text; the same with another setting."""
    folder = tmp_path_factory.mktemp("nights")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs")
    data = yaml.safe_load(pipeline.read_text())
    data["train"] = {"pretrain": data["train"]["pretrain"]}
    data["retrain"] = {"min_changed": REAL_CHANGE}
    pipeline.write_text(yaml.safe_dump(data))
    options = Options(pipeline, folder / "workspace", workers=1)
    runs, seconds = [], []

    def night(chosen: Options = options) -> None:
        started = time.process_time()  # of this machine others may take the half
        runs.append(run_night(chosen))
        seconds.append(time.process_time() - started)

    night()
    night()
    lines = (folder / "inputs" / "topics-a.jsonl").read_text().splitlines()
    some = [json.loads(line)["text"].split() for line in lines[10:25]]
    page = " ".join(word for words in some for word in words[20:45])
    (folder / "inputs" / "topics-c.jsonl").write_text(json.dumps({"text": page}) + "\n")
    night()
    night()
    half = [json.dumps({"text": json.loads(line)["text"][::-1]}) for line in lines]
    (folder / "inputs" / "topics-d.jsonl").write_text("\n".join(half) + "\n")
    night()
    night(replace(options, until="mix"))
    return runs, seconds, options


def found(run):
    return read_json(run.folder / CHANGES)


@pytest.mark.slow
def test_the_first_night_trains(nights):
    first = nights[0][0]
    assert found(first)["trains"]
    assert found(first)["before"] is None
    assert set(first.steps("train/")) == {"pretrain"}


@pytest.mark.slow
def test_a_night_without_news_is_the_night_before(nights):
    runs, seconds, options = nights
    assert runs[1].name == runs[0].name
    assert runs[3].name == runs[2].name  # that one did not train: it is not made up for
    assert runs[5].name == runs[4].name
    assert len(recorded_runs(options.workspace)) == 3
    assert seconds[1] < 15
    assert seconds[3] < 15


@pytest.mark.slow
def test_a_little_news_changes_the_mixes_and_not_the_models(nights):
    first, second = nights[0][0], nights[0][2]
    assert 0 < found(second)["largest_change"] < REAL_CHANGE
    assert found(second)["before"] == found(second)["trained"] == first.name
    assert not second.steps("train/")
    mix = found(second)["mixes"]["pretrain"]
    (line,) = [line for line in mix["sources"] if line["source"] == "topics"]
    documents = pq.read_table(second.folder / "changes" / "pretrain.parquet")
    assert line["came"] + line["went"] + line["copies"] == len(documents) > 0
    assert found(second)["mixes"]["preference"]["changed"] == 0.0
    assert second.step("ingest/chat").content == first.step("ingest/chat").content
    reused = {entry["name"] for entry in second.data["steps"] if entry["reused"]}
    assert {"ingest/chat", "measure/chat", "ingest/pairs", "ingest/notes"} <= reused
    assert not {"ingest/topics", "measure/topics", "mix/pretrain"} & reused


@pytest.mark.slow
def test_much_news_trains(nights):
    last = nights[0][4]
    assert found(last)["largest_change"] >= REAL_CHANGE
    assert found(last)["trained"] == nights[0][0].name
    assert found(last)["before"] == nights[0][2].name
    assert set(last.steps("train/")) == {"pretrain"}


@pytest.mark.slow
def test_settings_of_a_form_are_laid_over_the_file(nights):
    options = nights[2]
    values = {"seed": 7, "dedup": {"threshold": 0.75, "keep": {"then": ["newest"]}}, "retrain": {}}
    settings = as_settings(values)
    assert settings == ["seed=7", "dedup.threshold=0.75", "dedup.keep.then=[newest]", "retrain={}"]
    loaded = load_pipeline(options.pipeline, settings[:-1])[0]
    assert (loaded.seed, loaded.dedup.threshold, loaded.dedup.alarm_share) == (7, 0.75, 0.5)


class Receiver(BaseHTTPRequestHandler):
    """Keeps what is posted; says no to what comes to /closed."""

    posted: list[dict] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(403 if self.path.startswith("/closed") else 200)
        self.end_headers()

    def log_message(self, *_) -> None:
        """Nothing."""


@pytest.fixture
def receiver():
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_failure_is_told_to_a_command_and_a_webhook(receiver, tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK", f"{receiver}/hooks/secret-1234")
    told = tmp_path / "told"
    program = f"import os; open({str(told)!r}, 'w').write(os.environ['MIXWRIGHT_ERROR'])"
    failure = Failure("real", "/w", "failed", "DiskFull: no space; $(touch x)")
    to = OnFailure(command=f'{sys.executable} -c "{program}"', webhook="HOOK")
    assert tell(to, failure) == []
    assert told.read_text() == failure.error
    assert Receiver.posted[-1]["text"] == "mixwright: real failed in /w: DiskFull: no space; $(touch x)"
    assert Receiver.posted[-1]["pipeline"] == "real"


def test_what_goes_wrong_with_a_hook_is_said_without_the_secret(receiver, monkeypatch):
    failure = Failure("real", "/w", "failed", "x")
    for address in (f"{receiver}/closed/secret-1234", "http://127.0.0.1:9/secret-1234", "no address secret-1234"):
        monkeypatch.setenv("HOOK", address)
        (problem,) = tell(OnFailure(webhook="HOOK"), failure)
        assert "HOOK" in problem
        assert "secret-1234" not in problem
    monkeypatch.delenv("HOOK")
    assert "HOOK is not set" in tell(OnFailure(webhook="HOOK"), failure)[0]
    assert "on_failure.command" in tell(OnFailure(command="/no/such/program"), failure)[0]
    with pytest.raises(ValueError):
        OnFailure(webhook="https://hooks.example/secret")
