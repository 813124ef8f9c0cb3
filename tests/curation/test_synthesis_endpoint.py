"""An endpoint as a source, over a real socket: retries, time limits, broken answers, keys, kill and resume."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.config import ConfigError
from curation.executor import LocalExecutor
from curation.steps import Context, StrictError
from curation.synthesis.config import Synthesis
from curation.synthesis.generation import Generations
from curation.synthesis.station import synthesise
from tests.synthetic import PARENTS, Server

SECRET = "sk-Geheim/9f8e7d6c"


@pytest.fixture
def inputs(context, make_pool):
    from curation.measure.station import Measure, measure

    pool = make_pool("web", PARENTS, shards=2)
    return {"web": pool}, {"web": measure(context, pool, Measure(minhash=None, language=None))}


def config_of(server: Server, path: str = "/v1/chat/completions", **changes) -> Synthesis:
    generator = {"kind": "endpoint", "url": server.address + path, "model": "m", "timeout": 60, "backoff": 0.001}
    generator |= {"retries": 2, "concurrency": 4} | changes.pop("generator", {})
    base = {"name": "made", "from": ["web"], "template": "{{ text }}", "generator": generator}
    return Synthesis(**{**base, "sampling": {"temperature": 0.7}, **changes})


def make(context, inputs, config):
    pools, measured = inputs
    folder = context.workspace
    return synthesise(context, config, pools, measured, [], holdouts={"web": 0.0}, seed=1, folder=folder)


def table(output, name: str) -> list[dict]:
    return pq.read_table(output.folder / f"{name}.parquet").to_pylist()


def documents(output) -> list[dict]:
    return [row for path in output.shards() for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize(("path", "field"), [("/v1/chat/completions", "messages"), ("/v1/completions", "prompt")])
def test_both_forms_of_the_protocol(context, inputs, path, field):
    with Server() as server:
        output = make(context, inputs, config_of(server, path))
    assert len(server.requests) == len(PARENTS)
    assert all(field in body and body["model"] == "m" and body["max_tokens"] == 512 for body in server.requests)
    assert len({body["seed"] for body in server.requests}) == len(PARENTS)
    assert set(server.paths) == {path}
    assert 1 < server.most_at_once <= 4
    rows = documents(output)
    assert [row["text"].split(":")[0].removeprefix("On ") for row in rows] == PARENTS  # in the parents' order
    said = json.loads(rows[0]["metadata"])
    assert (said["endpoint"], said["model"]) == (server.address + path, "m")
    assert (said["endpoint_model"], said["endpoint_fingerprint"]) == ("served-1", "fp_7")


def broken(prompt: str, attempt: int):
    """By the parent's number: what goes wrong at the first attempts, or always."""
    number = int(prompt.split()[1])
    passing = {0: (500, b"oops"), 1: "stall", 2: (200, b'{"choices": [{"mess'), 3: (429, b"slow"), 4: (200, b"[]")}
    lasting = {10: (500, b"for ever"), 11: "stall", 12: (400, b'{"error": "too long"}'), 13: (200, b"<html>")}
    lasting |= {14: (302, b"go on"), 15: (200, b'{"choices": [{"message": {"content": 7}}]}')}
    lasting |= {16: (200, b'{"choices": [{"message": {"content": "\\ud800"}}]}'), 17: (200, b"[" * 100_000)}
    if number in lasting:
        return lasting[number]
    return passing.get(number) if attempt <= 2 else None


def test_what_passes_is_tried_again_and_what_lasts_is_quarantined(context, inputs):
    with Server(broken) as server:
        output = make(context, inputs, config_of(server, generator={"timeout": 1}))
    parents = {int(prompt.split()[1]): count for prompt, count in server.attempts.items()}
    assert {number: parents[number] for number in range(6)} == {0: 3, 1: 3, 2: 3, 3: 3, 4: 3, 5: 1}
    assert (parents[12], parents[14]) == (1, 1)  # what cannot pass is asked once, and a redirect is not followed
    assert parents[10] == parents[13] == parents[17] == 3
    wrong = {row["sample"].split()[1]: row["error"] for row in table(output, "quarantine")}
    assert sorted(wrong) == ["10", "11", "12", "13", "14", "15", "16", "17"]
    assert "3 attempts; the last: HTTP 500: for ever" in wrong["10"]
    assert "nothing came within 1 seconds" in wrong["11"]
    assert wrong["12"].startswith("HTTP 400")
    assert "not a completion of the OpenAI protocol" in wrong["13"]
    assert wrong["14"].startswith("HTTP 302")
    assert "surrogate" in wrong["16"]
    counts = output.counts
    assert counts["records_read"] == counts["documents_out"] + counts["quarantined"] == len(PARENTS)
    with pytest.raises(StrictError, match="8 of 40 parents gave no document"):
        make(Context(context.workspace, strict=True), inputs, config_of(server, generator={"timeout": 1}))


def test_nobody_there(context, inputs):
    with Server() as server:
        pass
    output = make(context, inputs, config_of(server, documents=3, generator={"retries": 0}))
    assert output.counts["quarantined"] == 3
    assert output.shards() == []
    assert all("ConnectError" in row["error"] for row in table(output, "quarantine"))


def test_killed_and_resumed_asks_nothing_twice(context, inputs, monkeypatch):
    """Raised while answers come in: those that were kept are not asked for again, and the bytes are the same."""
    with Server() as server:
        whole = make(context, inputs, config_of(server))
        server.requests.clear()
        killed = Context(context.workspace.parent / "killed")
        true_put, kept = Generations.put, []

        def put(self, key, completion):
            if len(kept) == 9:
                raise KeyboardInterrupt
            kept.append(key)
            true_put(self, key, completion)

        monkeypatch.setattr(Generations, "put", put)
        with pytest.raises(KeyboardInterrupt):
            make(killed, inputs, config_of(server))
        monkeypatch.undo()
        before = len(server.requests)
        assert 9 <= before <= 9 + 2 * 4  # no more than what was under way is lost
        resumed = make(killed, inputs, config_of(server))
        assert resumed.content == whole.content
        assert len(server.requests) - before == len(PARENTS) - 9
        more = make(killed, inputs, config_of(server, documents=20))
        assert len(server.requests) - before == len(PARENTS) - 9  # all of them are known
        assert more.counts["documents_out"] == 20


KILLED = """
import sys
from pathlib import Path
from curation.steps import Context, load
from curation.synthesis.config import Synthesis
from curation.synthesis.station import synthesise
workspace, pool, measured, config = sys.argv[1:]
synthesise(Context(Path(workspace)), Synthesis.model_validate_json(config), {"web": load(Path(pool))},
           {"web": load(Path(measured))}, [], holdouts={"web": 0.0}, seed=1, folder=Path(workspace))
"""


@pytest.mark.parametrize("at", [1, 13, 40])
def test_a_killed_process_loses_only_what_was_under_way(context, inputs, at):
    """Killed (SIGKILL) at its `at`-th request; what it had kept is found, and not asked for again."""
    process: list[subprocess.Popen] = []
    seen = {"count": 0, "dead": False}

    def behave(prompt, attempt):
        seen["count"] += 1
        if seen["count"] == at and not seen["dead"]:
            process[0].kill()
            seen["dead"] = True

    with Server() as server:
        config = config_of(server)
        whole = make(context, inputs, config)
        server.requests.clear()
        server.behave = behave
        workspace = context.workspace.parent / "killed"
        folders = [str(inputs[role]["web"].folder) for role in (0, 1)]
        command = [sys.executable, "-c", KILLED, str(workspace), *folders, config.model_dump_json(by_alias=True)]
        process.append(subprocess.Popen(command, cwd=Path(__file__).parents[2]))
        assert process[0].wait(timeout=120) == -9
        kept = len(list((workspace / "cache" / "generations").rglob("[0-9a-f]*.json")))
        assert kept >= at - 1 - 4 - 4  # answered and not yet kept, and under way: no more than concurrency each
        before = len(server.requests)
        assert make(Context(workspace), inputs, config).content == whole.content
        assert len(set(server.prompts()[before:])) == len(PARENTS) - kept


def test_a_broken_generation_is_named(context, inputs):
    with Server() as server:
        output = make(context, inputs, config_of(server))
        broken_file = next((context.workspace / "cache" / "generations").rglob("*.json"))
        broken_file.write_text('{"text": "half')
        shutil.rmtree(output.folder)
        with pytest.raises(ValueError, match=f"{broken_file.name}: not a generation"):
            make(context, inputs, config_of(server))


def test_failures_are_asked_for_again_once_the_step_is_removed(context, inputs):
    down = {"now": True}
    with Server(lambda prompt, attempt: (500, b"") if down["now"] and " 7 " in prompt else None) as server:
        first = make(context, inputs, config_of(server))
        assert first.counts["quarantined"] == 1
        down["now"] = False
        shutil.rmtree(first.folder)
        server.requests.clear()
        again = make(context, inputs, config_of(server))
        assert again.counts["quarantined"] == 0
        assert len(server.requests) == 1


def test_workers_and_concurrency_change_no_byte(context, inputs):
    with Server() as server:
        one = make(context, inputs, config_of(server, generator={"concurrency": 1}))
        other = Context(context.workspace.parent / "two", LocalExecutor(2))
        two = make(other, inputs, config_of(server, generator={"concurrency": 8}))
        assert one.content == two.content
        third = Context(context.workspace.parent / "three")
        assert (
            make(third, inputs, config_of(server, sampling={"temperature": 0.7, "seed": 5})).content != one.content
        )


def test_equal_prompts_are_asked_once_at_temperature_0(context, inputs):
    with Server() as server:
        output = make(context, inputs, config_of(server, template="The same.", sampling={"temperature": 0}))
    assert len(server.requests) == 1
    assert "seed" not in server.requests[0]
    assert output.counts["documents_out"] == len(PARENTS)


def test_the_key_is_in_no_file(context, inputs, monkeypatch):
    """Not even when the server says it back, in an answer, an error or a header's echo."""
    monkeypatch.setenv("TEST_ENDPOINT_KEY", SECRET)
    echo = {3: (500, SECRET.encode()), 4: (401, f"bad key {SECRET}".encode()), 5: (200, SECRET.encode())}
    config = {"generator": {"api_key_env": "TEST_ENDPOINT_KEY"}}
    with Server(lambda p, attempt: echo.get(int(p.split()[1])), lambda p, seed: f"{p} {SECRET}") as server:
        output = make(context, inputs, config_of(server, **config))
        assert all(headers["Authorization"] == f"Bearer {SECRET}" for headers in server.headers)
    assert output.counts["quarantined"] == 3
    assert "[key]" in documents(output)[0]["text"]
    assert files_with(context.workspace, SECRET) == []
    leak = context.workspace / "leak.json"
    leak.write_text(f'{{"key": "{SECRET}"}}')
    assert files_with(context.workspace, SECRET) == [leak]  # the search can find one
    monkeypatch.delenv("TEST_ENDPOINT_KEY")
    with pytest.raises(ConfigError, match="TEST_ENDPOINT_KEY is not set"):
        make(context, inputs, config_of(server, documents=2, **config))


def files_with(folder, needle: str) -> list:
    """Files that hold a string: in their bytes, or in the cells of their Parquet tables (which are compressed)."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".parquet":
                data += json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
            if needle.encode() in data:
                found.append(path)
    return found


def test_the_environment_leads_nowhere_else(context, inputs, monkeypatch):
    """A proxy in the environment would see every prompt."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Server() as server:
        assert make(context, inputs, config_of(server, documents=2)).counts["documents_out"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "http://user:pw@host/v1/completions"}, "no user, password"),
        ({"url": "http://host/v1/completions?key=abc"}, "no query"),
        ({"url": "http://host/v1"}, "ends in"),
        ({"url": "ftp://host/v1/completions"}, "http"),
        ({"api_key_env": "sk-abc"}, "pattern"),
    ],
)
def test_addresses_that_could_hold_a_secret_are_refused(changes, message):
    generator = {"kind": "endpoint", "url": "http://host/v1/completions", "model": "m"} | changes
    with pytest.raises(ValueError, match=message):
        Synthesis(**{"name": "made", "from": ["web"], "template": "x", "generator": generator})
