"""Kernels that an earlier process has compiled, loaded before they are called: when this module is imported.

A kernel is read from numba's cache when it is first called, in each process. The server that worker processes are
forked from (`curation.executor`) imports this module last, so that they all have what it has loaded.
"""

from __future__ import annotations

import sys

from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher


def load_kernels() -> int:
    """Load the kernels of the modules of this package that are imported: what is in the cache and as the code is
    now, 127 in a second; nothing is compiled. Returns how many."""
    loaded = 0
    for module in [one for name, one in list(sys.modules.items()) if name.startswith(__package__ + ".")]:
        for kernel in list(vars(module).values()):
            if not isinstance(kernel, Dispatcher) or not isinstance(kernel._cache, FunctionCache):
                continue
            for key in kernel._cache._cache_file._load_index():
                signature = key[0]
                if key == kernel._cache._index_key(signature, kernel.targetctx.codegen()):
                    loaded += signature not in kernel.overloads
                    kernel.compile(signature)
    return loaded


load_kernels()
