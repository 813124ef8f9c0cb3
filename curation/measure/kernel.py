"""Compiling kernels that allocate no array: without numba's counting of references to arrays.

numba counts an array's references at every call that takes it, atomically, unless it can prove that it need not:
of helpers that loop or return early it cannot. A helper called for every character or word pays for that more than
for its work. Kernels that get all their arrays from outside need no counts: these decorators leave them out, and a
kernel that does allocate fails to compile. What such a kernel calls is compiled in the same way.
"""

from __future__ import annotations

from curation.compiled import njit

kernel = njit(nogil=True, _nrt=False)
inlined = njit(nogil=True, _nrt=False, forceinline=True)  # for helpers of a line or two: no call is left
entry = njit(nogil=True, _nrt=False, cache=True)  # what Python calls
