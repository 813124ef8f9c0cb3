"""Files are complete or absent, after a power cut too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from curation.files import atomic, below, remove, write_bytes


def test_what_is_written_is_on_the_disk_before_it_has_its_name_and_the_name_follows(tmp_path, monkeypatch):
    told, replace = [], os.replace

    def watched(old, new):
        told.append(("renamed", os.stat(old).st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda handle: told.append(("synced", os.fstat(handle).st_ino)))
    monkeypatch.setattr(os, "replace", watched)
    write_bytes(tmp_path / "a", b"data")
    made, place = os.stat(tmp_path / "a").st_ino, os.stat(tmp_path).st_ino
    assert told == [("synced", made), ("renamed", made), ("synced", place)]
    told.clear()
    with atomic(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "b").write_bytes(b"data")
    inside, made = os.stat(tmp_path / "folder" / "b").st_ino, os.stat(tmp_path / "folder").st_ino
    assert told == [("synced", inside), ("synced", made), ("renamed", made), ("synced", place)]


def test_what_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a", b"before")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_bytes(tmp_path / "a", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_a_search_bears_with_a_folder_that_moves_under_it(tmp_path, monkeypatch):
    """Which rglob does not before Python 3.13."""
    for name in ("a/b/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    look = os.scandir

    def meanwhile(path):
        if os.fspath(path).endswith("b"):
            os.rename(tmp_path / "a", tmp_path / "e")
        return look(path)

    assert sorted(below(tmp_path)) == [tmp_path / name for name in ("a", "a/b", "a/b/c", "d")]
    monkeypatch.setattr(os, "scandir", meanwhile)
    assert sorted(below(tmp_path)) == [tmp_path / name for name in ("a", "a/b", "d")]


def test_two_may_remove_a_folder(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/c").write_bytes(b"")
    honest = Path.iterdir

    def after_another(folder):
        found = list(honest(folder))
        shutil.rmtree(folder)
        return found

    monkeypatch.setattr(Path, "iterdir", after_another)
    remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()
