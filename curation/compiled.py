"""numba's `njit`, with a cache on disk that forgets a kernel when code that it may call has changed.

numba looks at a kernel's own file alone. A kernel whose callee lies in another module, changed since, would then
be taken from the cache as it was: after an update the same command would go on computing what the old version did.
Here the key covers the content of the kernel's module and of all modules of this package that it imports, directly
or not.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from numba import njit
from numba.core import caching

__all__ = ["njit"]

PACKAGE = Path(__file__).parent
IMPORTS = re.compile(rb"^\s*(?:from|import) +(curation[.\w]*)(?: +import +([^#\n]*))?", re.MULTILINE)


def sources(path: Path) -> list[Path]:
    """The file, and the files of this package that it imports, directly or not; sorted."""
    found, waiting = {path}, [path]
    while waiting:
        for module in _imported(waiting.pop()) - found:
            found.add(module)
            waiting.append(module)
    return sorted(found)


@cache
def _imported(path: Path) -> set[Path]:
    modules = set()
    for module, names in IMPORTS.findall(path.read_bytes()):
        parent = PACKAGE.joinpath(*module.decode().split(".")[1:])
        modules |= {parent.with_suffix(".py"), parent / "__init__.py"}
        modules |= {parent / f"{name}.py" for name in re.findall(r"\w+", names.decode())}  # from a import b
    return {module for module in modules if module.is_file()}


@cache
def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@cache
def stamp(path: Path) -> bytes:
    """A hash over the content of `sources`."""
    return hashlib.sha256(b"".join(_digest(source) for source in sources(path))).digest()


class _OfAllSources:
    """For a locator of numba's caches: where is up to the locator, which code is up to `stamp`."""

    def get_source_stamp(self):
        path = Path(getattr(self, "_py_file", ""))
        return stamp(path) if path.is_relative_to(PACKAGE) else super().get_source_stamp()


caching.CacheImpl._locator_classes = [
    type(f"{locator.__name__}OfAllSources", (_OfAllSources, locator), {})
    for locator in caching.CacheImpl._locator_classes
]
