"""What the measuring pass is shown to find out whether any input breaks it; also run with bounds checks.

`python -m tests.curation.robustness SEED` measures documents of arbitrary bytes with every group and edit.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import random
import sys

import numpy as np
import pyarrow as pa

from curation.dedup.minhash import Scheme
from curation.measure.editors import EDITORS, edit_texts
from curation.measure.station import Measure, measure_table
from curation.schema import DOCUMENT

CONFIG = Measure(minhash=Scheme(bands=2, rows=2), language="off", gzip_prefix_bytes=64)
EDITS = (*EDITORS, *EDITORS)  # each twice: on what it has left itself, too

# Beginnings and ends of what kernels look for, so that random texts reach deep into them.
PIECES = (
    "", "a", "A", "é", "東", "😀", "\u0301", "\x00", "\ufffd", "\u2028", "\x85", "\u00a0", " ", "\n", "\r",
    "\r\n", "\t", ".", "...", "…", ". . .", "!", "?", "'", "’", ",", "·", "_", "#", "- ", "• ", "* ", "|",
    "`", "{", "}", "<", ">", "@", "a@b", "a@b.co", "+49", "+1 ", "(212) 555-", "212-555-0123", "89.1.1.",
    "2607:f8b0::", ":", "::", "1", "4111 ", "4111111111111111", "GB82", "WEST", "DE89370400440532013000",
    "items in cart", "Read more...", "Sign-in", "7 likes", "the ", "of ", "Title ", "HEAD\n",
    "abc abc abc ", "lorem ipsum", "javascript", "terms of use", "[1]", "http://x.y/z", "def f():\n", "# ",
    "//", "/*", "*/", '"""', "AKIA", "-----BEGIN ", "0x", "don't", "can not", "1,234.5", "e.g.", "$5",
)  # fmt: skip


def texts_of(draw: random.Random, count: int, most: int) -> list[str]:
    """Texts of up to `most` pieces, some of them any characters but surrogates."""

    def character() -> str:
        code = draw.choice([draw.randrange(0x80), draw.randrange(0x3000), draw.randrange(0x110000)])
        return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"

    def piece() -> str:
        return draw.choice(PIECES) if draw.random() < 0.8 else character()

    return ["".join(piece() for _ in range(draw.randrange(most))) for _ in range(count)]


def before_a_wall(data: bytes) -> pa.Buffer:
    """A buffer that ends where its page does; nothing after it can be read, which wide loads do not check.

    It may be written to, as a pool's may: kernels are compiled anew for one that may not.
    """
    size = -(-len(data) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + size), mmap.PAGESIZE, 0):
        raise OSError("mprotect failed")
    memory[size - len(data) : size] = data
    return pa.py_buffer(memoryview(memory)[size - len(data) : size])


def documents_of(texts: list[str], bytes_of: list[bytes] | None = None, buffer=pa.py_buffer) -> pa.Table:
    """DOCUMENT rows; with `bytes_of` their texts are these bytes, UTF-8 or not. Some metadata is no clean JSON."""
    urls = ["https://www.example.org/a/b-c.html?x=1", "http://[", "//", "\ud800", "a" * 300, "http://é.東/%zz"]
    rows = []
    for place, text in enumerate(texts):
        metadata = json.dumps({"url": urls[place % len(urls)]})
        rows.append(
            {"id": f"{place:032x}", "source": "s", "text": text, "metadata": metadata, "origin": f"f#{place}"}
        )
    table = pa.Table.from_pylist(rows, schema=DOCUMENT)
    if bytes_of is not None:
        offsets = np.concatenate([[0], np.cumsum([len(data) for data in bytes_of])]).astype(np.int64)
        raw = pa.LargeStringArray.from_buffers(len(bytes_of), pa.py_buffer(offsets), buffer(b"".join(bytes_of)))
        table = table.set_column(table.schema.get_field_index("text"), DOCUMENT.field("text"), raw)
    return table


def measured(documents: pa.Table) -> pa.Table:
    """All measurements, with all edits."""
    return measure_table(documents, CONFIG, None, edit_texts(documents, EDITS))


def main(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        texts = texts_of(draw, 40, 60)
        sound = [text.encode() for text in texts]
        measured(documents_of(texts, sound, before_a_wall))
        broken = [bytearray(data) for data in sound]
        for data in broken:
            for _ in range(len(data) // 8):
                data[draw.randrange(len(data))] = draw.randrange(256)
        pieces = [bytes(data[: draw.randrange(len(data) + 1)]) for data in broken]
        measured(documents_of(texts, pieces, before_a_wall))
        for text, data in zip(texts, sound, strict=True):
            measured(documents_of([text], [data], before_a_wall))


if __name__ == "__main__":
    main(int(sys.argv[1]))
