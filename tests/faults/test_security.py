"""What data, files and names from outside cannot do.

Here: nothing is unpickled in a whole run, and no call in the code could; YAML is loaded safely; the code of a
model folder is not run; what an archive calls its pages reaches no file name; secrets of the environment are in no
file and no line of output; the embedded server listens on loopback alone; a report carries a policy that lets
nothing be loaded or run, and no markup of a document.

Elsewhere: bombs of gzip, zstd, Arrow and WARC are bounded (`test_bad_input`, `curation/test_read_streams`,
`curation/test_read_columnar`, `curation/test_read_web`); views of the report escape hostile text
(`flows/test_report`, `flows/test_whatif`, `flows/test_decontaminate_line`); terminals get no control codes
(`flows/test_cli`); the address of a webhook is in no message (`flows/test_nightly`); keys of endpoints are named,
not given (`curation/test_synthesis_endpoint`); clusters listen on loopback (`flows/test_engines`); no checkpoint
holds a pickle (`training/test_train`); a store's credentials are in no object, file or message, a URL that holds
one is refused, and no record of a store names a file outside of its folder (`curation/test_remote`, `test_store`).
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from curation.config import ConfigError
from curation.files import read_json
from curation.ingest import Source, ingest
from flows.execute import Options, execute
from flows.pipeline import load_pipeline
from flows.server import embedded_server
from tests.mini import write_inputs, write_pipeline

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("curation", "training", "flows") for path in (ROOT / package).rglob("*.py"))
SECRET = "s3cr3t-0f-the-env1r0nment"


def calls(path: Path) -> list[tuple[int, str, dict[str, ast.expr]]]:
    """(line, dotted name, keywords) of every call in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            found.append((node.lineno, ast.unparse(node.func), keywords))
    return found


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_no_call_in_the_code_can_run_what_it_reads():
    wrong = []
    for path in MODULES:
        for line, name, keywords in calls(path):
            last = name.rpartition(".")[2]
            bad = (
                name.startswith(("pickle.", "dill.", "joblib.", "marshal.", "shelve."))
                or (name == "torch.load" and not is_true(keywords.get("weights_only")))
                or (last == "load" and is_true(keywords.get("allow_pickle")))
                or name in ("eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load")
                or is_true(keywords.get("trust_remote_code"))
                or is_true(keywords.get("shell"))
            )
            if name == "yaml.load":  # a loader of our own must be a safe one
                module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                loader = ast.unparse(keywords["Loader"])
                chosen = eval(loader, vars(module))
                bad = not issubclass(chosen, yaml.SafeLoader | getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            wrong += [f"{path}:{line}: {name}"] if bad else []
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_nothing_is_unpickled_from_first_to_last(tmp_path):
    """The whole line, training and evaluation included: Python tells a hook of every name that a pickle asks for.

    numba pickles its cache of compiled kernels, beside the code: what it reads there is left out.
    """
    write_inputs(tmp_path / "inputs")
    pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs")
    program = f"""
import sys
seen = []
def hook(event, arguments):
    if event == "pickle.find_class":
        frame, files = sys._getframe(1), []
        while frame is not None:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        if not any("/numba/" in file or "importlib" in file for file in files):
            seen.append((".".join(map(str, arguments[-2:])), files))
from pathlib import Path
from flows.execute import Options, execute
sys.addaudithook(hook)
run = execute(Options(Path({str(pipeline)!r}), Path({str(tmp_path / "w")!r}), engine="inline"))
import pickle, collections
before = list(seen)
pickle.loads(pickle.dumps(collections.OrderedDict))
assert len(seen) == len(before) + 1, "the hook does not hear"
print("run", run.name, "unpickled", before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("unpickled []"), done.stdout


@pytest.mark.parametrize("key", ["seed", "name"])
def test_yaml_runs_nothing(tmp_path, key):
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(f"{key}: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    with pytest.raises(ConfigError, match=r"pipeline\.yaml:1"):
        load_pipeline(pipeline)
    assert not (tmp_path / "made").exists()


def test_the_code_of_a_model_folder_is_not_run(tmp_path):
    """As transformers would with trust_remote_code: the folder's `auto_map` names a file that leaves a mark."""
    from curation.synthesis.local import SAFE

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Evil: pass\n")
    mapped = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(mapped))
    from transformers import AutoModelForCausalLM

    with pytest.raises(ValueError):
        AutoModelForCausalLM.from_pretrained(folder, **SAFE)
    assert not (tmp_path / "mark").exists()


def test_what_an_archive_calls_its_pages_reaches_no_file_name(tmp_path, context):
    """The same page under an honest address and under ones that climb out of the folder: the same files."""
    page = (
        b"<html><body><p>"
        + b"A paragraph that is long enough to be the content of this page. " * 5
        + b"</p></body>"
    )
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    written = []
    addresses = [
        "http://a.example/",
        "file:///../../../../tmp/x",
        f"{tmp_path}/stolen",
        "../../up",
        "http://a/%00/..",
    ]
    for number, address in enumerate(addresses):
        folder = tmp_path / f"in{number}"
        folder.mkdir()
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {address}\r\n"
        head += "WARC-Date: 2020-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:0>\r\n"
        head += f"Content-Type: application/http\r\nContent-Length: {len(answer)}\r\n\r\n"
        (folder / "a.warc").write_bytes(head.encode() + answer + b"\r\n\r\n")
        before = set(tmp_path.rglob("*"))
        output = ingest(context, Source(name=f"s{number}", reader="warc", root=str(folder)))
        written.append(sorted(output.record["files"]))
        new = set(tmp_path.rglob("*")) - before
        assert all(path.is_relative_to(context.workspace) for path in new), new
    assert any("shards/" in name for name in written[0])
    own = re.compile(r"files\.parquet|quarantine\.parquet|shards/[0-9a-f]{16}-[0-9]{5}\.parquet")
    assert not [name for names in written for name in names if not own.fullmatch(name)]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A run whose environment is full of secrets and whose documents are hostile; what it printed and wrote."""
    folder = tmp_path_factory.mktemp("told")
    write_inputs(folder / "inputs")
    hostile = (
        "<script>alert(1)</script><img src=x onerror=alert(2)> " * 3 + "A note that goes on for a while. " * 9
    )
    with (folder / "inputs" / "notes.jsonl").open("a") as file:
        file.write(json.dumps({"text": hostile}) + "\n")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs", training=False)
    data = yaml.safe_load(pipeline.read_text()) | {"on_failure": {"webhook": "MY_WEBHOOK"}}
    pipeline.write_text(yaml.safe_dump(data))
    names = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "MY_WEBHOOK", "OPENAI_API_KEY")
    names += ("HF_TOKEN", "PREFECT_API_KEY", "GOOGLE_API_KEY")
    environment = os.environ | dict.fromkeys(names, SECRET)
    command = [sys.executable, "-m", "flows.cli", "run", str(pipeline), "-w", str(folder / "w"), "--until", "mix"]
    done = subprocess.run(
        [*command, "--no-orchestrator"], env=environment, capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return folder / "w", done.stdout + done.stderr


def test_secrets_of_the_environment_are_in_no_file_and_no_output(told):
    workspace, said = told
    assert SECRET not in said
    files = [path for path in workspace.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    run = read_json(next((workspace / "runs").glob("*/run.json")))
    assert run["config"]["on_failure"] == {"command": None, "webhook": "MY_WEBHOOK"}


def test_a_report_lets_nothing_be_loaded_and_holds_no_markup_of_a_document(told):
    (report,) = told[0].glob("runs/*/report.html")
    text = report.read_text()
    head = text[: text.index("</head>")]
    assert "Content-Security-Policy" in head
    assert "default-src 'none'" in head
    assert "script-src" not in head
    assert "<script" not in text.lower()
    assert "onerror=" not in text.replace("&lt;img src=x onerror=alert(2)&gt;", "")


def test_the_embedded_server_listens_on_loopback_alone(tmp_path):
    with embedded_server(tmp_path / "prefect"):
        server = psutil.Process(read_json(tmp_path / "prefect" / "server.json")["pid"])
        listening = [
            connection.laddr.ip
            for process in (server, *server.children(recursive=True))
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_options_of_a_run_take_no_secret(tmp_path):
    """A webhook is given by the name of its variable; an address in the file is refused before any work."""
    pipeline = write_pipeline(tmp_path / "pipeline", tmp_path / "inputs", training=False)
    with pytest.raises(ConfigError, match=r"on_failure\.webhook"):
        execute(Options(pipeline, tmp_path / "w", settings=[f"on_failure.webhook=https://hooks.example/{SECRET}"]))
    assert not (tmp_path / "w").exists() or not list((tmp_path / "w").rglob("run.json"))
