"""Whether a run of characters is a URL to spaCy's tokenizer: such a run is one token, whatever stands inside.

A URL is an optional scheme ("http://": two or more of letters, digits, _ + - . before "://"), an optional user
part up to an "@", a host, an optional port of 2 to 5 digits, and an optional rest from a / ? or # on. A host
is a public IPv4 address, or labels of 1 to 64 host characters (- and _ inside only), each with a full stop behind
it, and a last label of 2 to 63 lowercase or uncased letters.
"""

from __future__ import annotations

from curation.compiled import njit
from curation.measure.spacy_english import HOST, IS_DIGIT, IS_WORD, LOWER

LONGEST_LABEL = 64
LONGEST_TOP_LEVEL = 63


@njit(nogil=True, _nrt=False)
def is_url(codes, classes, low, high):
    """Whether the characters [low, high), given as code points and their classes, are a URL as a whole."""
    if _host_follows(codes, classes, low, high):
        return True
    start = low
    at = low
    while at < high and (classes[at] & IS_WORD or codes[at] == 0x2B or codes[at] == 0x2D or codes[at] == 0x2E):
        at += 1
    scheme = at - low >= 2 and at + 2 < high and codes[at] == 0x3A
    if scheme and codes[at + 1] == 0x2F and codes[at + 2] == 0x2F:
        start = at + 3
        if _host_follows(codes, classes, start, high):
            return True
    found = False
    for at in range(low + 1, high):  # a user part is anything that is not empty; it may hold the scheme too
        found |= codes[at] == 0x40 and _host_follows(codes, classes, at + 1, high)
    return found


@njit(nogil=True, _nrt=False)
def _host_follows(codes, classes, at, high):
    after_address = _after_address(codes, at, high)
    if after_address >= 0 and _ends_well(codes, classes, after_address, high):
        return True
    labels = 0
    while at < high:
        start = at
        while at < high and (classes[at] & HOST or codes[at] == 0x2D or codes[at] == 0x5F):
            at += 1
        if at < high and codes[at] == 0x2E:
            length = at - start
            if length == 0 or length > LONGEST_LABEL or not (classes[start] & classes[at - 1] & HOST):
                return False
            labels += 1
            at += 1
            continue
        end = start
        while end < high and classes[end] & LOWER:
            end += 1
        fits = labels > 0 and 2 <= end - start <= LONGEST_TOP_LEVEL
        return fits and _ends_well(codes, classes, end, high)
    return False


@njit(nogil=True, _nrt=False)
def _ends_well(codes, classes, at, high):
    """Whether only a port and a path, a query or a fragment follow."""
    if at < high and codes[at] == 0x3A:
        digits = at + 1
        while digits < high and classes[digits] & IS_DIGIT:
            digits += 1
        if not 2 <= digits - at - 1 <= 5:
            return False
        at = digits
    return at == high or codes[at] == 0x2F or codes[at] == 0x3F or codes[at] == 0x23


@njit(nogil=True, _nrt=False)
def _after_address(codes, at, high):
    """The place behind a public IPv4 address that begins at `at`, -1 if there is none."""
    first, second = 0, 0
    for octet in range(4):
        value, digits, leading_zero = 0, 0, False
        while at < high and digits < 4 and 0x30 <= codes[at] <= 0x39:
            leading_zero |= digits == 0 and codes[at] == 0x30
            value = 10 * value + codes[at] - 0x30
            digits += 1
            at += 1
        if digits == 0 or digits > 3 or value > 255:
            return -1
        if octet == 0:
            first = value
            if leading_zero or value > 223:
                return -1
        elif octet == 1:
            second = value
        elif octet == 3 and (leading_zero or value > 254):
            return -1
        if octet < 3:
            if at >= high or codes[at] != 0x2E:
                return -1
            at += 1
    local = first == 10 or first == 127 or (first == 169 and second == 254) or (first == 192 and second == 168)
    return -1 if local or (first == 172 and 16 <= second <= 31) else at
