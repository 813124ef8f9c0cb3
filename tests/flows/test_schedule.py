"""Against real servers: a served pipeline runs when it is due, shows what it did, and ends without a trace;
`prefect.yaml` deploys to a work pool."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from curation.files import read_json
from flows.run import load_run
from flows.server import embedded_server, quiet_environment
from tests.mini import write_inputs, write_pipeline
from tests.processes import files_in_use, free_port, wait_for_no_survivors

ROOT = Path(__file__).parents[2]


def wait_for(what, seconds: float = 240):
    """What it returns that is not false; a server without an answer, or a late one, is asked again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if found := what():
                return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} seconds: {what.__doc__ or what}")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A pipeline served every four seconds with a hook for failures: (API, folder, pipeline file, process)."""
    folder = tmp_path_factory.mktemp("served")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs", training=False)
    data = yaml.safe_load(pipeline.read_text())
    program = f"import os; open({str(folder / 'told')!r}, 'a').write(os.environ['MIXWRIGHT_ERROR'] + chr(10))"
    data["on_failure"] = {"command": f'{sys.executable} -c "{program}"'}
    pipeline.write_text(yaml.safe_dump(data))
    port = free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", str(pipeline), "-w", str(folder / "workspace")]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--interval", "4s", "--until", "mix", "--port", str(port)], stdout=log, stderr=log
        )
        try:
            api = f"http://127.0.0.1:{port}/api"
            wait_for(lambda: process.poll() is not None or runs_of(api, "COMPLETED"))
            assert process.poll() is None, (folder / "log").read_text()
            yield api, folder, pipeline, process
        finally:
            process.terminate()
            process.wait(60)


def runs_of(api: str, state: str) -> list[dict]:
    chosen = {"flow_runs": {"state": {"type": {"any_": [state]}}}, "sort": "START_TIME_ASC"}
    return httpx.post(f"{api}/flow_runs/filter", json=chosen, timeout=30).json()


def _ended(run: dict) -> str | None:
    """The final state that a run has reached."""
    return run["state_type"] if run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED") else None


@pytest.mark.cluster
def test_a_night_runs_when_it_is_due_and_shows_what_it_did(served):
    api, folder, _, process = served
    (first, second) = wait_for(
        lambda: runs_of(api, "COMPLETED")[:2] if len(runs_of(api, "COMPLETED")) > 1 else None
    )
    assert process.poll() is None
    assert first["end_time"] <= second["start_time"]  # never two at once
    assert len(list((folder / "workspace" / "runs").iterdir())) == 1  # the second found nothing new
    of_first = {"flow_runs": {"id": {"any_": [first["id"]]}}}
    tasks = httpx.post(f"{api}/task_runs/filter", json=of_first, timeout=60).json()
    assert {"ingest", "measure", "rules", "dedup-fuzzy", "catalog", "mix/pretrain"} <= {
        one["name"] for one in tasks
    }
    found = httpx.post(f"{api}/artifacts/filter", json=of_first, timeout=60).json()
    shown = {artifact["key"]: artifact for artifact in found}
    assert set(shown) == {"mini-stations", "mini-mixes", "mini-changes", "mini-report"}
    rows = json.loads(shown["mini-stations"]["data"])
    assert {"ingest/topics", "mix/pretrain"} <= {row["station"] for row in rows}
    assert "| topics, notes |" in shown["mini-mixes"]["data"] or "| topics |" in shown["mini-mixes"]["data"]
    assert "report.html" in shown["mini-report"]["data"]


@pytest.mark.cluster
def test_parameters_are_a_form_of_the_typed_config(served):
    api = served[0]
    (deployment,) = wait_for(lambda: httpx.post(f"{api}/deployments/filter", json={}, timeout=30).json())
    schema = deployment["parameter_openapi_schema"]
    assert deployment["enforce_parameter_schema"]
    assert schema["properties"]["engine"]["enum"] == ["local", "inline", "dask", "ray"]
    assert {"threshold", "scheme", "keep"} <= set(schema["definitions"]["Dedup"]["properties"])
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    create = f"{api}/deployments/{deployment['id']}/create_flow_run"
    wrong = {"parameters": {"changes": {"seed": "high"}}}
    assert httpx.post(create, json=wrong, timeout=60).status_code == 409
    right = {"parameters": {"changes": {"dedup": {"threshold": 0.75}}, "until": "curate"}}

    def completed():
        """A run of one's own, asked for until no scheduled one is in its way: two never overlap."""
        made = httpx.post(create, json=right, timeout=30).json()
        url = f"{api}/flow_runs/{made['id']}"
        return wait_for(lambda: _ended(httpx.get(url, timeout=30).json())) == "COMPLETED"

    wait_for(completed)
    latest = max(
        (served[1] / "workspace" / "runs").iterdir(), key=lambda run: read_json(run / "run.json")["started"]
    )
    assert read_json(latest / "run.json")["config"]["dedup"]["threshold"] == 0.75


@pytest.mark.cluster
def test_only_loopback_and_the_ui_is_there(served):
    api, folder, _, process = served
    wait_for(lambda: runs_of(api, "COMPLETED"))
    server = psutil.Process(read_json(folder / "workspace" / "prefect" / "server.json")["pid"])
    members = [
        process_ for top in (server, psutil.Process(process.pid)) for process_ in (top, *top.children(True))
    ]
    listening = [
        connection.laddr.ip
        for member in members
        for connection in member.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    page = httpx.get(api.removesuffix("/api"), follow_redirects=True, timeout=60)
    assert page.status_code == 200
    assert "<html" in page.text.lower()


@pytest.mark.cluster
def test_a_failed_night_is_told_and_the_end_leaves_nothing(served):
    """Last in this file: it breaks the input, then ends the server."""
    _, folder, _, process = served
    (folder / "inputs" / "pairs.jsonl").unlink()
    told = wait_for(lambda: (folder / "told").exists() and (folder / "told").read_text())
    assert "pairs.jsonl" in told
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, 130, -signal.SIGTERM)

    assert not wait_for_no_survivors(folder)
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.cluster
def test_prefect_yaml_deploys_to_a_work_pool_whose_worker_runs_and_tells_of_a_crash(tmp_path):
    with embedded_server(tmp_path / "prefect") as api:
        environment = os.environ | quiet_environment(tmp_path / "prefect") | {"PREFECT_API_URL": api}
        environment |= {"PYTHONPATH": str(ROOT)}

        def prefect(*arguments: str) -> None:
            command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr

        prefect("work-pool", "create", "mixwright", "--type", "process")
        prefect("deploy", "--all")
        found = httpx.post(f"{api}/deployments/filter", json={}, timeout=60).json()
        deployments = {one["name"]: one for one in found}
        assert set(deployments) == {"real", "demo-tiny"}
        (schedule,) = deployments["real"]["schedules"]
        assert schedule["schedule"]["cron"] == "0 3 * * *"
        for deployment in found:
            assert deployment["work_pool_name"] == "mixwright"
            assert deployment["global_concurrency_limit"]["limit"] == 1
            assert deployment["parameter_openapi_schema"]["properties"]["until"]["enum"][-1] == "train"
            assert (ROOT / deployment["parameters"]["pipeline"]).is_file()

        write_inputs(tmp_path / "inputs")
        pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs", training=False)
        data = yaml.safe_load(pipeline.read_text())
        program = f"import os; open({str(tmp_path / 'told')!r}, 'a').write(os.environ['MIXWRIGHT_STATUS'])"
        pipeline.write_text(yaml.safe_dump(data | {"on_failure": {"command": f'{sys.executable} -c "{program}"'}}))

        def ask_for_run(workspace: Path) -> str:
            asked = {"pipeline": str(pipeline), "workspace": str(workspace), "until": "ingest", "workers": 2}
            create = f"{api}/deployments/{deployments['demo-tiny']['id']}/create_flow_run"
            given = {"parameters": asked, "state": {"type": "SCHEDULED"}}

            def made():
                """The run, asked for again while the server is busy."""
                answer = httpx.post(create, json=given, timeout=30)
                assert answer.status_code in (200, 201, 503), answer.text
                return answer.is_success and answer.json()["id"]

            return f"{api}/flow_runs/{wait_for(made)}"

        def ended(url: str) -> str:
            return wait_for(lambda: _ended(httpx.get(url, timeout=30).json()))

        start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "mixwright", "--type", "process"]
        with open(tmp_path / "worker.log", "w") as log:
            worker = subprocess.Popen(start, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            assert ended(ask_for_run(tmp_path / "w")) == "COMPLETED", (tmp_path / "worker.log").read_text()
            assert load_run(tmp_path / "w").data["status"] == "completed"
            assert not (tmp_path / "told").exists()

            url = ask_for_run(tmp_path / "killed")
            wait_for(lambda: files_in_use(tmp_path / "killed" / "steps" / "ingest", ".lock"))
            for child in psutil.Process(worker.pid).children(recursive=True):
                child.kill()
            assert ended(url) == "CRASHED"
            assert wait_for(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text()) == "crashed"
        finally:
            worker.terminate()
            worker.wait(60)
