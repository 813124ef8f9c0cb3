"""How much of a document is markup: what a browser would show of it, and whether it begins as XML."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit

COUNTS = (
    "visible_chars",  # characters outside tags, comments, scripts and styles; references such as &amp; as written
    "xml_header",  # 1 where "<?xml version=" begins within the first 100 characters (StarCoder, Li et al. 2023)
)
LESS, GREATER, SLASH, DASH = 0x3C, 0x3E, 0x2F, 0x2D
HEADER_WITHIN = 100  # characters


def _bytes(text: str) -> np.ndarray:
    array = np.frombuffer(text.encode("ascii"), np.uint8).copy()
    array.flags.writeable = False
    return array


XML_HEADER, SCRIPT, STYLE = _bytes("<?xml version="), _bytes("script"), _bytes("style")


def markup_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The int64 counts named in COUNTS, each of shape (n,).

    "<" begins markup where a letter, "/", "!" or "?" follows, as in HTML; a tag ends at ">" outside quotes.
    """
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count(data, offsets, XML_HEADER, SCRIPT, STYLE, out)
    return dict(zip(COUNTS, out, strict=True))


@njit(nogil=True)
def _is(data, at, end, word):
    """Whether ASCII letters go on at `at` as `word`, in any case."""
    if at + len(word) > end:
        return False
    for place in range(len(word)):
        byte = data[at + place]
        if (byte | 0x20 if np.uint8(byte - 0x41) < 26 else byte) != word[place]:
            return False
    return True


@njit(nogil=True)
def _after_tag(data, at, end):
    """The place after the ">" of a tag; one within a quoted attribute does not end it."""
    quote, previous = np.uint8(0), np.uint8(0)
    while at < end:
        byte = data[at]
        if quote != 0:
            if byte == quote:
                quote = np.uint8(0)
        elif byte == GREATER:
            return at + 1
        elif (byte == 0x22 or byte == 0x27) and previous == 0x3D:
            quote = byte
        if byte != 0x20 and byte != 0x0A:
            previous = byte
        at += 1
    return end


@njit(nogil=True)
def _after_comment(data, at, end):
    while at + 2 < end:
        if data[at] == DASH and data[at + 1] == DASH and data[at + 2] == GREATER:
            return at + 3
        at += 1
    return end


@njit(nogil=True)
def _after_element(data, at, end, name):
    """The place of the "</name" that ends a script or a style."""
    while at < end:
        if data[at] == LESS and at + 1 < end and data[at + 1] == SLASH and _is(data, at + 2, end, name):
            return at
        at += 1
    return end


@njit(nogil=True)
def _after_markup(data, at, end, script, style):
    """The place after the markup that begins with the "<" at `at`, or `at` if none does."""
    if at + 1 >= end:
        return at
    byte = data[at + 1]
    if byte == 0x21:
        comment = at + 3 < end and data[at + 2] == DASH and data[at + 3] == DASH
        return _after_comment(data, at + 4, end) if comment else _after_tag(data, at + 2, end)
    if byte != SLASH and byte != 0x3F and np.uint8((byte | 0x20) - 0x61) >= 26:
        return at
    after = _after_tag(data, at + 1, end)
    if _is(data, at + 1, end, script):
        return _after_element(data, after, end, script)
    if _is(data, at + 1, end, style):
        return _after_element(data, after, end, style)
    return after


@njit(nogil=True)
def _has_header(data, at, end, header):
    chars = 0
    while at < end and chars < HEADER_WITHIN:
        if data[at] == LESS and _is(data, at, end, header):
            return True
        chars += (data[at] & 0xC0) != 0x80
        at += 1
    return False


@njit(nogil=True, cache=True)
def _count(data, offsets, header, script, style, out):
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        out[1, document] = _has_header(data, at, end, header)
        visible = 0
        while at < end:
            if data[at] == LESS:
                after = _after_markup(data, at, end, script, style)
                if after > at:
                    at = after
                    continue
            visible += (data[at] & 0xC0) != 0x80
            at += 1
        out[0, document] = visible
