"""The command: exit codes, messages, JSON; each on a real workspace."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows import doctor
from flows.cli import main
from flows.execute import Options
from tests.mini import write_pipeline


def mixwright(*arguments: str | Path) -> subprocess.CompletedProcess:
    """`run`, which has signals, workers and a server, in a process of its own; what only reads in this one, where
    all is loaded."""
    words = [*map(str, arguments)]
    if words[0] == "run":
        command = [sys.executable, "-m", "flows.cli", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["mixwright", *words])
        with pytest.raises(SystemExit) as end:
            main()
    told = [stream.flush() or stream.buffer.getvalue().decode() for stream in (out, err)]
    return subprocess.CompletedProcess(words, end.value.code or 0, *told)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print([m for m in ('torch', 'prefect', 'polars', 'pyarrow', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_nothing_to_do(project):
    done = mixwright("run", project[0] / "pipeline.yaml", "-w", project[1])
    assert done.returncode == 0
    assert "nothing to do" in done.stdout


def test_dry_run_does_nothing(project, tmp_path):
    done = mixwright("run", project[0] / "pipeline.yaml", "-w", tmp_path / "none", "--dry-run")
    assert done.returncode == 0
    assert "ingest/topics" in done.stdout
    assert not (tmp_path / "none" / "steps").exists()


def test_unknown_key_names_file_and_line(project, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nseeds: 3\nsources: []\n", encoding="utf-8")
    done = mixwright("run", broken, "-w", tmp_path)
    assert done.returncode == 2
    assert "broken.yaml:2" in done.stderr.replace("\n", "")


def test_plan_before_curation_says_what_to_run(project, tmp_path):
    done = mixwright("plan", project[0] / "pretrain.yaml", "-w", tmp_path / "none")
    assert done.returncode == 2
    assert "--until" in done.stderr


def test_a_mix_is_exported_once(project, tmp_path):
    """The count of the manifest, of the tokens on disk and of the rows on disk is one."""
    shown = json.loads(mixwright("show", "pretrain", "-w", project[1], "--json", "-n", 0).stdout)["totals"]
    raw = ("export", "pretrain", tmp_path / "raw", "--as", "olmo-core", "--part-size", "4KiB", "-w", project[1])
    record = json.loads(mixwright(*raw, "--json").stdout)
    assert record["counts"]["tokens"] == shown["tokens"]
    files = sorted((tmp_path / "raw").glob("part-*.npy"))
    whole = sum(path.stat().st_size for path in files) // 2
    assert (len(files), whole) == (record["parts"], shown["tokens"] + record["counts"]["added_end_of_text"])
    written = [path.stat().st_mtime_ns for path in files]
    again = mixwright(*raw)
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in files] == written
    text = ("export", "pretrain", tmp_path / "text", "--as", "jsonl", "-w", project[1])
    assert mixwright(*text).returncode == 0
    lines = (tmp_path / "text" / "data" / "train-00000-of-00001.jsonl").read_text("utf-8").split("\n")[:-1]
    assert len(lines) == shown["occurrences"]
    assert sum(json.loads(line)["tokens"] for line in lines) == shown["tokens"]
    none = mixwright("export", "nosuch", tmp_path / "none", "--as", "parquet", "-w", project[1])
    assert none.returncode == 4
    assert "pretrain" in none.stderr


def test_plan_and_mix_agree(project):
    planned = json.loads(mixwright("plan", project[0] / "pretrain.yaml", "-w", project[1], "--json").stdout)
    assert planned["problems"] == []
    done = mixwright("mix", project[0] / "pretrain.yaml", "-w", project[1])
    assert done.returncode == 0, done.stderr
    assert f"{planned['totals']['tokens']:,} tokens" in done.stdout.replace("\n", " ")


def test_diff_of_a_mix_with_a_smaller_one(project):
    small = mixwright("mix", project[0] / "pretrain.yaml", "-w", project[1], "--set", "budget=9K")
    assert small.returncode == 0, small.stderr
    folder = small.stdout.replace("\n", "").rpartition(": ")[2].strip()
    found = json.loads(mixwright("diff", "pretrain", folder, "-w", project[1], "--json").stdout)
    assert {line["reason"] for line in found["reasons"]} == {"recipe"}
    assert all(line["change"] == "went" for line in found["reasons"])
    told = mixwright("diff", "pretrain", folder, "-w", project[1])
    assert "went: recipe" in told.stdout
    assert mixwright("diff", "pretrain", "none", "-w", project[1]).returncode == 4


def test_plan_that_cannot_be_met_has_exit_code_3(project):
    settings = ["--set", "budget=10B", "--set", "on_shortage=error"]
    done = mixwright("plan", project[0] / "pretrain.yaml", "-w", project[1], *settings)
    assert done.returncode == 3
    assert "topics" in done.stdout


def test_verify_finds_a_flipped_byte(project, tmp_path):
    import shutil

    from flows.run import load_run

    folder = load_run(project[1]).step("mix/pretrain").folder
    assert mixwright("verify", "pretrain", "-w", project[1]).returncode == 0
    copy = tmp_path / "manifest"
    shutil.copytree(folder, copy)
    part = next(copy.glob("part-*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    done = mixwright("verify", copy, "-w", project[1], "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["problems"]


def test_why_tells_a_kept_a_dropped_and_an_unknown_document(project):
    import pyarrow.parquet as pq

    from flows.run import load_run

    run = load_run(project[1])
    ledger = next((run.step("dedup-fuzzy").folder / "ledger" / "topics").glob("*.parquet"))
    dropped = next(row for row in pq.read_table(ledger).to_pylist() if not row["keep"])
    told = json.loads(mixwright("why", dropped["id"], "-w", project[1], "--json").stdout)
    assert dropped["twin"] in json.dumps(told)
    told = mixwright("why", dropped["twin"][:12], "-w", project[1])
    assert told.returncode == 0
    assert "topics" in told.stdout
    assert mixwright("why", "0" * 32, "-w", project[1]).returncode == 4


def test_show_samples_documents(project):
    done = mixwright("show", "instruction", "-w", project[1], "-n", "1")
    assert done.returncode == 0, done.stderr
    assert "What does the manual say" in done.stdout.replace("\n", " ")


def test_report_is_written_again(project):
    done = mixwright("report", "-w", project[1])
    assert done.returncode == 0
    assert Path(done.stdout.replace("\n", "").strip()).is_file()


def test_no_run_yet_has_exit_code_4(tmp_path):
    assert mixwright("report", "-w", tmp_path).returncode == 4


def test_doctor_answers():
    done = mixwright("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert findings["polars"]["state"] == "ok"
    assert findings["engine local"]["state"] == "ok"


def test_finding_a_finished_pipeline_imports_no_torch():
    """What names the steps is read without the libraries that do the work: a rerun takes a second, not ten."""
    code = (
        "import sys; import flows.execute, flows.line, training.station; "
        "print([m for m in ('torch', 'transformers', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_reading_a_manifest_compiles_nothing(project):
    """`show` and `verify` answer in half a second, of which loading numba alone would be as much again."""
    manifest = next((project[1] / "steps" / "mix").glob("*/*/mix.json")).parent
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app; "
        "assert not CliRunner().invoke(app, sys.argv[1:]).exit_code; "
        "print([m for m in ('torch', 'transformers', 'prefect', 'numba') if m in sys.modules])"
    )
    for command in (["verify", manifest], ["show", manifest, "-w", project[1]]):
        call = [sys.executable, "-c", code, *map(str, command)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "[]", (command, done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "seed=[1"], 2, "--set seed=[1"),
        (["--engine", "slurm"], 2, "engine"),
        (["--strict"], 1, "quarantine"),  # one of the notes is broken; all steps are there
    ],
)
def test_a_wrong_call_of_run_is_told_without_a_traceback(project, arguments, code, words):
    done = mixwright("run", project[0] / "pipeline.yaml", "-w", project[1], *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_cannot_be_used_are_told_without_a_traceback(project, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in (["run", tmp_path], ["run", project[0] / "pipeline.yaml", "-w", tmp_path / "file"]):
        done = mixwright(*arguments)
        assert done.returncode in (1, 2)
        assert str(tmp_path) in done.stderr
        assert "Traceback" not in done.stderr


def test_a_pipeline_of_rubbish_is_reported(tmp_path):
    """No source gives a document: every station has nothing to do, and the report says where the records are."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rubbish.jsonl").write_bytes(b"\xff\xfe\n{\n")
    source = "{name: rubbish, type: Text, reader: records, root: " + str(tmp_path / "raw") + "}"
    (tmp_path / "pipeline.yaml").write_text(f"name: rubbish\nseed: 1\nsources:\n- {source}\n")
    done = mixwright("run", tmp_path / "pipeline.yaml", "-w", tmp_path / "work", "--no-orchestrator")
    assert done.returncode == 0, done.stderr
    assert "none of 2 records gave a document" in done.stdout + done.stderr
    assert len(list((tmp_path / "work").glob("runs/*/report.html"))) == 1


def test_a_message_neither_wraps_nor_steers_the_terminal(project, tmp_path):
    """In a pipe a path stays in one piece, with brackets in it; a control code does not get through."""
    workspace = tmp_path / ("[red]" + "long-name-" * 12)
    done = mixwright("why", "abcdef", "-w", workspace)
    assert f"{workspace}: no run yet" in done.stderr
    done = mixwright("run", tmp_path / "a\x1b[31m.yaml", "-w", workspace)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_json_is_ascii(project):
    for arguments in (["show", "pretrain"], ["plan", project[0] / "pretrain.yaml"], ["verify", "pretrain"]):
        assert mixwright(*arguments, "-w", project[1], "--json").stdout.isascii()


def test_a_run_without_its_report_is_not_called_finished(project, tmp_path):
    import shutil

    from flows.run import load_run

    workspace = tmp_path / "workspace"
    shutil.copytree(project[1], workspace)
    (load_run(workspace).folder / "report.html").unlink()
    done = mixwright("run", project[0] / "pipeline.yaml", "-w", workspace, "--no-orchestrator")
    assert done.returncode == 0, done.stderr
    assert "nothing to do" not in done.stdout
    assert (load_run(workspace).folder / "report.html").is_file()
    assert "nothing to do" in mixwright("run", project[0] / "pipeline.yaml", "-w", workspace).stdout


def test_runs_of_the_same_second_have_names_of_their_own(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from flows.run import Recorder, recorded_runs

    with ThreadPoolExecutor(8) as pool:
        names = {recorder.name for recorder in pool.map(lambda _: Recorder(tmp_path, "p", {}, ""), range(8))}
    assert len(names) == len(recorded_runs(tmp_path)) == 8


def test_a_cut_record_counts_as_not_there(project, tmp_path):
    import shutil

    from flows.execute import missing_step
    from flows.run import load_run

    workspace = tmp_path / "workspace"
    shutil.copytree(project[1], workspace)
    record = load_run(workspace).step("mix/pretrain").folder / "step.json"
    record.write_bytes(record.read_bytes()[:200])
    assert missing_step(Options(project[0] / "pipeline.yaml", workspace)).name == "mix/pretrain"
    run = load_run(workspace).folder / "run.json"
    run.write_bytes(run.read_bytes()[:50])
    assert mixwright("report", "-w", workspace).returncode == 4


def test_a_server_that_does_not_answer_is_told(project, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = mixwright("run", project[0] / "pipeline.yaml", "-w", tmp_path / "new", "--until", "ingest")
    assert done.returncode == 1
    assert "PREFECT_API_URL=http://127.0.0.1:9/api" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("file", "before", "after", "named"),
    [
        ("pipeline.yaml", "profile: plain", "profile: plane", "plane"),
        ("pretrain.yaml", "- topics", "- topisc", "topisc"),
    ],
)
def test_a_name_that_is_not_there_is_told_before_any_work(project, tmp_path, file, before, after, named):
    write_pipeline(tmp_path, project[0].parent / "inputs", training=False)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert before in text
    (tmp_path / file).write_text(text.replace(before, after, 1), encoding="utf-8")
    done = mixwright("run", tmp_path / "pipeline.yaml", "-w", tmp_path / "none")
    assert done.returncode == 2
    assert named in done.stderr
    assert not (tmp_path / "none" / "steps").exists()


def test_a_manifest_from_elsewhere_is_shown_without_a_run(project, tmp_path):
    from flows.run import load_run

    folder = load_run(project[1]).step("mix/instruction").folder
    done = mixwright("show", folder, "-w", tmp_path / "none", "-n", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("s3://key:se/c@ret@bucket/prefix", "s3://***@bucket/prefix"),
        ("https://user:pass@prefect.example/api", "https://***@prefect.example/api"),
        ("http://127.0.0.1:4200/api?token=abc", "http://127.0.0.1:4200/api?***"),
        ("/data/a@b/work?space", "/data/a@b/work?space"),
    ],
)
def test_doctor_shows_no_password(monkeypatch, value, shown):
    for name in ("MIXWRIGHT_WORKSPACE", "PREFECT_API_URL"):
        monkeypatch.setenv(name, value)
    found = {finding.subject: finding.detail for finding in doctor._variables()}
    assert found["MIXWRIGHT_WORKSPACE"] == found["PREFECT_API_URL"] == shown
