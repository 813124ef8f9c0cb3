"""Kernels that an earlier process has compiled, loaded before they are called.

A kernel is read from numba's cache when it is first called, under one lock: at the start of each station one core
would do that while the others wait.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher


@contextlib.contextmanager
def loading_kernels() -> Iterator[None]:
    """Meanwhile a thread loads every kernel of the modules of this package that are imported: 127 in a second."""
    stop = threading.Event()
    thread = threading.Thread(target=load_kernels, args=(stop,), name="kernels")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def load_kernels(stop: threading.Event | None = None) -> int:
    """Load what is in the cache and as the code is now; nothing is compiled. Returns how many, until `stop`."""
    loaded = 0
    for module in [one for name, one in list(sys.modules.items()) if name.startswith(__package__ + ".")]:
        for kernel in list(vars(module).values()):
            if not isinstance(kernel, Dispatcher) or not isinstance(kernel._cache, FunctionCache):
                continue
            for key in kernel._cache._cache_file._load_index():
                if stop is not None and stop.is_set():
                    return loaded
                signature = key[0]
                if key == kernel._cache._index_key(signature, kernel.targetctx.codegen()):
                    loaded += signature not in kernel.overloads
                    kernel.compile(signature)
    return loaded
