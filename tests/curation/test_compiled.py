"""A compiled kernel is forgotten when what it calls has changed, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import curation
from curation import compiled

KERNEL = """from curation.{0} import njit
from curation.planted_callee import add


@njit(cache=True)
def kernel(x):
    return add(x)


print(kernel(1), sum(kernel.stats.cache_hits.values()))
"""


def test_a_change_of_a_callee_is_seen(tmp_path):
    """Each call in a process of its own, on a copy of the package. The bug: numba's key, of the kernel alone."""
    package = tmp_path / "curation"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "compiled.py").write_bytes(Path(compiled.__file__).read_bytes())
    (package / "plain.py").write_text("from numba import njit\n")

    def call(kind: str, added: int) -> list[str]:
        callee = f"from curation.{kind} import njit\n\n\n@njit\ndef add(x):\n    return x + {added}\n"
        (package / "planted_callee.py").write_text(callee)
        (package / f"planted_{kind}.py").write_text(KERNEL.format(kind))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        call = [sys.executable, "-B", "-m", f"curation.planted_{kind}"]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert [call("compiled", added) for added in (1, 1, 20)] == [["2", "0"], ["2", "1"], ["21", "0"]]
    assert [call("plain", added) for added in (1, 1, 20)] == [["2", "0"], ["2", "1"], ["2", "1"]]


def test_every_kernel_is_compiled_by_it():
    for path in Path(curation.__file__).parent.rglob("*.py"):
        if path.name != "compiled.py":
            assert "from numba import njit" not in path.read_text(), path


def test_sources_are_all_modules_that_a_kernel_reaches():
    package = Path(curation.__file__).parent
    found = compiled.sources(package / "measure" / "repetition.py")
    assert {package / "key_kernels.py", package / "keys.py", package / "measure" / "hashing.py"} < set(found)
    assert package / "mix" / "plan.py" not in found
