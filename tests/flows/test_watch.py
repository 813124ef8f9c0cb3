"""`plan --watch`: a new plan after each save, errors in place, Ctrl-C ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.watch import files_of

RECIPE = "base: base.yaml\nkind: pretrain\nname: mine\nlines: [{source: web, remainder: true}]\n"


def until(found: Callable[[], bool], process: subprocess.Popen, told: Path) -> None:
    end = time.monotonic() + 60
    while not found():
        assert process.poll() is None, told.read_text(encoding="utf-8")
        assert time.monotonic() < end, told.read_text(encoding="utf-8")
        time.sleep(0.05)


def test_each_save_is_a_plan_and_ctrl_c_the_end(tmp_path):
    (tmp_path / "pool.csv").write_text("source,documents,tokens\nweb,10,1000\n", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    base = tmp_path / "base.yaml"
    base.write_text("budget: 500\n", encoding="utf-8")
    told = tmp_path / "told"
    command = [sys.executable, "-m", "flows.cli", "plan", tmp_path / "recipe.yaml", "--watch"]

    def count(words: str) -> int:
        return told.read_text(encoding="utf-8").count(words)

    with open(told, "wb") as file:
        process = subprocess.Popen(
            [*map(str, command), "--pool", str(tmp_path / "pool.csv")],
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        until(lambda: count("watching") == 1, process, told)
        assert (count("Mix mine"), count(", 500 tokens")) == (1, 1)
        base.write_text("budget: 750\n", encoding="utf-8")
        until(lambda: count(", 750 tokens") == 1, process, told)
        base.write_text("budget: [\n", encoding="utf-8")
        until(lambda: count("error:") == 1, process, told)
        base.write_text("budget: 2000\n", encoding="utf-8")  # cannot be met: told, and no end
        until(lambda: count("1,000 short") == 1, process, told)
        (tmp_path / "other").write_text("budget: 900\n", encoding="utf-8")
        (tmp_path / "other").replace(base)  # as many editors save
        until(lambda: count(", 900 tokens") == 1, process, told)
        time.sleep(1)
        assert count("watching") == 5  # no plan without a save
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()


def test_what_a_recipe_is_made_of(project, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: none.yaml\npipeline: {project[0] / 'pipeline.yaml'}\n", encoding="utf-8")
    names = [path.name for path in files_of(mine)]
    expected = ["mine.yaml", "none.yaml", "pipeline.yaml", "pretrain.yaml", "instruction.yaml", "preference.yaml"]
    assert names == expected
    assert set(files_of(project[0] / "pipeline.yaml")) == {project[0] / name for name in expected[2:]}


@pytest.mark.parametrize(
    "text", ["base: mine.yaml\n", "a: [", "- 1\n", "base: 3\nmixes: {a: 3, b: {recipe: []}}\n"]
)
def test_a_file_that_is_broken_is_watched_alone(text, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(text, encoding="utf-8")
    assert files_of(mine) == [mine]
