"""Kernels loaded ahead: those of the cache, by what they are called with, and none that is not there."""

import subprocess
import sys

KERNEL = """
from curation.compiled import njit

@njit(cache=True)
def twice(x):
    return 2 * x
"""

TRY = """
import sys, types
sys.path.insert(0, {folder!r})
import numba_try
sys.modules["curation.numba_try"] = numba_try
import curation.preload
before = len(numba_try.twice.overloads)
{call}
print(before, len(numba_try.twice.overloads), sum(numba_try.twice.stats.cache_hits.values()))
"""


def test_what_an_earlier_process_compiled_is_loaded(tmp_path):
    (tmp_path / "numba_try.py").write_text(KERNEL)

    def process(call: str) -> str:
        code = TRY.format(folder=str(tmp_path), call=call)
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert process("numba_try.twice(1)").split() == ["0", "1", "0"]
    assert process("").split() == ["1", "1", "1"]
    assert process("numba_try.twice(1.5)").split() == ["1", "2", "1"]
    assert process("").split() == ["2", "2", "2"]
