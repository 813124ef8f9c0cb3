"""Processes and their workspace, seen from outside while they are at work."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import psutil

from curation.files import TEMPORARY, below


def files_in_use(folder: Path, ending: str) -> list[Path]:
    """The files below a folder in use whose names end so, without those that are still being written."""
    found = [path for path in below(folder) if path.name.endswith(ending)]
    return [
        path for path in found if path.is_file() and not any(part.startswith(TEMPORARY) for part in path.parts)
    ]


def survivors(folder: Path) -> list[str]:
    """Command lines of processes that still work for the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def wait_for_no_survivors(folder: Path, seconds: float = 60) -> list[str]:
    """Those that are left after so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := survivors(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
