"""The resident memory of a process and its children, and its peak while steps are under way."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import psutil

EVERY = 0.25  # seconds between samples: of a step that takes less, the last sample is the peak


class Resident:
    """The resident memory of a process and its children, in bytes.

    Memory that several of them share, as that of workers forked from one server, is counted once, where the system
    tells (Linux). To tell costs it 10 ms for each GB, in which the process itself waits: it is asked rarely.
    """

    LISTED = 2.0  # seconds after which children are listed anew: that reads a file of every process there is
    LOOK = 0.02  # of the time: what they share is looked for no longer than that

    def __init__(self, process: psutil.Process):
        self.process = process
        self._list_at = float("-inf")  # when the family is to be listed
        self._family: list[tuple[psutil.Process, int]] = []  # and what others have of its memory, in bytes

    def now(self) -> int:
        total, now = 0, time.monotonic()
        if now >= self._list_at:
            with contextlib.suppress(psutil.Error):  # one that has just ended
                children = self.process.children(recursive=True)
                self._family = [(one, _shared(one) if children else 0) for one in (self.process, *children)]
                self._list_at = now + max(self.LISTED, (time.monotonic() - now) / self.LOOK)
        for member, shared in self._family:
            with contextlib.suppress(psutil.Error):
                total += max(0, member.memory_info().rss - shared)
        return total


def _shared(process: psutil.Process) -> int:
    """The bytes of a process's resident memory that are others' share of it; 0 where the system does not tell."""
    with contextlib.suppress(psutil.Error):
        memory = process.memory_full_info()
        return memory.rss - getattr(memory, "pss", memory.rss)
    return 0


class Peaks:
    """Samples the memory of this process and its children for all who watch, by one thread."""

    def __init__(self) -> None:
        self._watching: list[list[int]] = []  # for each the highest sum seen, in bytes
        self._changed = threading.Condition()
        self._resident: Resident | None = None
        self._last = (float("-inf"), 0)  # when a sample was taken, and what it was

    @contextlib.contextmanager
    def peak(self) -> Iterator[list[int]]:
        """[0] is the highest sum seen meanwhile, in bytes."""
        with self._changed:
            if self._resident is None or self._resident.process.pid != os.getpid():
                self._resident = Resident(psutil.Process())
                threading.Thread(target=self._sample, daemon=True).start()
            if time.monotonic() - self._last[0] > EVERY:
                self._last = (time.monotonic(), self._resident.now())
            peak = [self._last[1]]
            self._watching.append(peak)
            self._changed.notify()
        try:
            yield peak
        finally:
            with self._changed:
                self._watching = [one for one in self._watching if one is not peak]

    def _sample(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watching)
            total = self._resident.now()
            with self._changed:
                self._last = (time.monotonic(), total)
                for peak in self._watching:
                    peak[0] = max(peak[0], total)
            time.sleep(EVERY)


peak = Peaks().peak
