"""Fields of JSON lines, found by a kernel that checks the whole line and builds nothing.

`find` gives, of each line, where the values of some names of its object lie. A line that it is not sure of is
left to a parser that can say what is wrong with it: anything that is no JSON, and what is rare (a name with an
escape, a lone surrogate, NaN, more than 64 levels of brackets). Of a name that occurs twice the last value counts,
as in `json` and orjson. UTF-8 is not checked here.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import line_end_mask, move64, string_mask, trailing_zeros

STRING, NUMBER, INTEGER, OBJECT, OTHER = 1, 2, 3, 4, 5  # kinds of values; 0: the name does not occur
LEVELS = 64
_LANES = 64
_QUOTE, _BACKSLASH, _COMMA, _COLON = 0x22, 0x5C, 0x2C, 0x3A
_NAME, _VALUE, _AFTER = 0, 1, 2
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))
_ESCAPES = np.zeros(256, np.uint8)  # what a letter after a backslash stands for, but u
_ESCAPES[np.frombuffer(b'"\\/bfnrt', np.uint8)] = np.frombuffer(b'"\\/\b\f\n\r\t', np.uint8)


def line_bounds(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the lines of uint8[n] that are not blank, blanks around them left out. int64 each."""
    lines = _line_bounds(data, np.empty(0, np.int64), np.empty(0, np.int64))
    starts, ends = np.empty(lines, np.int64), np.empty(lines, np.int64)
    _line_bounds(data, starts, ends)
    return starts, ends


def find(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, names: list[str]) -> tuple[np.ndarray, ...]:
    """(sure, kinds, firsts, lasts) of the values of `names` in the objects data[starts[i] : ends[i]].

    `sure` bool[n]: the line is an object, and sound. The others are int64[n, names]: the kind of a value and where
    it lies; a string without its quotes, escapes and all.
    """
    encoded = [name.encode() for name in names]
    letters = np.frombuffer(b"".join(encoded) or b" ", np.uint8)
    bounds = np.cumsum([0, *map(len, encoded)])
    sure = np.zeros(len(starts), np.bool_)
    kinds, firsts, lasts = (np.zeros((len(starts), len(names)), np.int64) for _ in range(3))
    _find(data, starts, ends, letters, bounds, sure, kinds, firsts, lasts)
    return sure, kinds, firsts, lasts


def strings(data: np.ndarray, firsts: np.ndarray, lasts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The strings that `find` found, without escapes: (uint8, offsets int64[n + 1])."""
    out = np.empty(int((lasts - firsts).sum()) + _LANES, np.uint8)
    offsets = np.zeros(len(firsts) + 1, np.int64)
    _strings(data, firsts, lasts, out, offsets)
    return out[: offsets[-1]], offsets


@njit(nogil=True, cache=True)
def _line_bounds(data, starts, ends):
    """Count the lines that are not blank; write their bounds if there is room."""
    count, start, at, size = 0, 0, 0, len(data)
    while start < size:
        end = size
        while at < size:
            if at + _LANES <= size:
                found = trailing_zeros(line_end_mask(data, at))
                at += found
                if found < _LANES:
                    end = at
                    break
            elif data[at] == 0x0A:
                end = at
                break
            else:
                at += 1
        first, last = start, end
        while first < last and (data[first] == 0x20 or data[first] == 0x09 or data[first] == 0x0D):
            first += 1
        while first < last and (data[last - 1] == 0x20 or data[last - 1] == 0x09 or data[last - 1] == 0x0D):
            last -= 1
        if first < last:
            if len(starts):
                starts[count], ends[count] = first, last
            count += 1
        start = at = end + 1
    return count


@njit(inline="always")
def _plain(data, at):
    """How many bytes from `at` on are plain ones of a JSON string, up to 64."""
    if at + _LANES <= len(data):
        return trailing_zeros(string_mask(data, at))
    run = 0
    while at + run < len(data) and run < _LANES:
        byte = data[at + run]
        if byte in (_QUOTE, _BACKSLASH) or byte < 0x20:
            break
        run += 1
    return run


@njit(inline="always")
def _four_hex(data, at, end):
    """The number that four hexadecimal digits at `at` give; -1 for none."""
    if at + 4 > end:
        return -1
    value = 0
    for place in range(at, at + 4):
        digit = np.int64(data[place])
        if 0x30 <= digit <= 0x39:
            digit -= 0x30
        elif 0x41 <= digit <= 0x46 or 0x61 <= digit <= 0x66:
            digit = (digit | 0x20) - 0x57
        else:
            return -1
        value = value << 4 | digit
    return value


@njit(nogil=True, cache=True)
def _after_string(data, at, end):
    """(place after the quote that closes the string which begins at `at`, is an escape in it); -1 if unsound."""
    escaped = False
    while at < end:
        run = _plain(data, at)
        at += run
        if run == _LANES:
            continue
        if at >= end or data[at] < 0x20:
            return -1, escaped
        if data[at] == _QUOTE:
            return at + 1, escaped
        escaped = True
        if at + 1 >= end:
            return -1, escaped
        mark = data[at + 1]
        at += 2
        if mark == 0x75:  # u
            point = _four_hex(data, at, end)
            at += 4
            if point < 0 or 0xDC00 <= point < 0xE000:
                return -1, escaped
            if 0xD800 <= point < 0xDC00:
                if at + 2 > end or data[at] != _BACKSLASH or data[at + 1] != 0x75:
                    return -1, escaped
                low = _four_hex(data, at + 2, end)
                at += 6
                if low < 0xDC00 or low >= 0xE000:
                    return -1, escaped
        elif _ESCAPES[mark] == 0:
            return -1, escaped
    return -1, escaped


@njit(inline="always")
def _digits(data, at, end):
    while at < end and 0x30 <= data[at] <= 0x39:
        at += 1
    return at


@njit(nogil=True, cache=True)
def _after_number(data, at, end):
    """(place after the number at `at`, NUMBER or INTEGER); -1 for none. An integer that may not be what other
    parsers make of it (-0, 19 digits and more) is unsure too: -1."""
    first = at
    at += data[at] == 0x2D
    start = at
    at = _digits(data, at, end)
    if at == start or (data[start] == 0x30 and at > start + 1):
        return -1, 0
    kind = INTEGER
    if at < end and data[at] == 0x2E:
        kind, start = NUMBER, at + 1
        at = _digits(data, start, end)
        if at == start:
            return -1, 0
    if at < end and data[at] | 0x20 == 0x65:
        kind = NUMBER
        at += 1
        at += at < end and (data[at] == 0x2B or data[at] == 0x2D)
        start = at
        at = _digits(data, at, end)
        if at == start:
            return -1, 0
    if kind == INTEGER and (at - first > 18 or (data[first] == 0x2D and data[first + 1] == 0x30)):
        return -1, 0
    return at, kind


@njit(inline="always")
def _after_blanks(data, at, end):
    while at < end and (data[at] == 0x20 or data[at] == 0x09 or data[at] == 0x0D or data[at] == 0x0A):
        at += 1
    return at


@njit(nogil=True, cache=True)
def _after_literal(data, at, end):
    """The place after true, false or null; -1 where there is none."""
    word = _FALSE if data[at] == 0x66 else _TRUE if data[at] == 0x74 else _NULL
    if at + len(word) > end:
        return -1
    for place in range(len(word)):
        if data[at + place] != word[place]:
            return -1
    return at + len(word)


@njit(nogil=True, cache=True)
def _named(data, first, last, letters, bounds):
    """Which of the names data[first:last] is; -1 for none."""
    for name in range(len(bounds) - 1):
        size = bounds[name + 1] - bounds[name]
        if size == last - first:
            same = True
            for at in range(size):
                if data[first + at] != letters[bounds[name] + at]:
                    same = False
                    break
            if same:
                return name
    return -1


@njit(nogil=True, cache=True)
def _find(data, starts, ends, letters, bounds, sure, kinds, firsts, lasts):
    for line in range(len(starts)):
        if data[starts[line]] == 0x7B:
            sure[line] = _object(
                data, starts[line], ends[line], letters, bounds, kinds[line], firsts[line], lasts[line]
            )


@njit(nogil=True, cache=True)
def _object(data, at, end, letters, bounds, kinds, firsts, lasts):
    """Find the names in the object that is data[at:end]. Returns whether it is sound."""
    level, objects = 1, np.uint64(1)  # brackets that are open, a bit each: is it an object's; the innermost lowest
    state, opened = _NAME, True  # what comes next; whether a bracket was opened just before
    wanted = -1
    at += 1
    while True:
        at = _after_blanks(data, at, end)
        if at >= end:
            return False
        byte, inside = data[at], objects & np.uint64(1)
        if (opened or state == _AFTER) and byte == (0x7D if inside else 0x5D):
            at += 1
            level -= 1
            objects >>= np.uint64(1)
            if level == 0:
                return at == end
            if level == 1 and wanted >= 0:
                lasts[wanted] = at
            state, opened = _AFTER, False
            continue
        opened = False
        if state == _AFTER:
            if byte != _COMMA:
                return False
            at += 1
            state = _NAME if inside else _VALUE
        elif state == _NAME:
            after, escaped = _after_string(data, at + 1, end) if byte == _QUOTE else (-1, False)
            if after < 0 or escaped:
                return False
            if level == 1:
                wanted = _named(data, at + 1, after - 1, letters, bounds)
            at = _after_blanks(data, after, end)
            if at >= end or data[at] != _COLON:
                return False
            at += 1
            state = _VALUE
        else:
            first, kind = at, OTHER
            if byte == _QUOTE:
                at, _ = _after_string(data, at + 1, end)
                kind = STRING
            elif byte == 0x2D or 0x30 <= byte <= 0x39:
                at, kind = _after_number(data, at, end)
            elif byte == 0x7B or byte == 0x5B:
                kind = OBJECT if byte == 0x7B else OTHER
                opened = True
                at += 1
            else:
                at = _after_literal(data, at, end)
            if at < 0 or (opened and level == LEVELS):
                return False
            if level == 1 and wanted >= 0:
                quote = kind == STRING
                kinds[wanted], firsts[wanted], lasts[wanted] = kind, first + quote, at - quote
            state = _AFTER
            if opened:
                objects = objects << np.uint64(1) | np.uint64(byte == 0x7B)
                level += 1
                state = _NAME if byte == 0x7B else _VALUE


@njit(nogil=True, cache=True)
def _strings(data, firsts, lasts, out, offsets):
    to = 0
    for row in range(len(firsts)):
        at, end = firsts[row], lasts[row]
        while at < end:
            run = _plain(data, at)
            if at + _LANES <= len(data):
                move64(data, at, out, to)
            else:
                for place in range(run):
                    out[to + place] = data[at + place]
            run = min(run, end - at)
            at += run
            to += run
            if at < end and run < _LANES:
                at, to = _escape(data, at, end, out, to)
        offsets[row + 1] = to


@njit(nogil=True, cache=True)
def _escape(data, at, end, out, to):
    """Write the character that the escape at `at` stands for. Returns the places after it."""
    mark = data[at + 1]
    if mark != 0x75:
        out[to] = _ESCAPES[mark]
        return at + 2, to + 1
    point = _four_hex(data, at + 2, end)
    at += 6
    if 0xD800 <= point < 0xDC00:
        point = 0x10000 + ((point - 0xD800) << 10) + (_four_hex(data, at + 2, end) - 0xDC00)
        at += 6
    if point < 0x80:
        out[to] = point
        return at, to + 1
    if point < 0x800:
        out[to] = 0xC0 | point >> 6
        to += 1
    else:
        if point < 0x10000:
            out[to] = 0xE0 | point >> 12
        else:
            out[to] = 0xF0 | point >> 18
            to += 1
            out[to] = 0x80 | (point >> 12 & 0x3F)
        to += 1
        out[to] = 0x80 | (point >> 6 & 0x3F)
        to += 1
    out[to] = 0x80 | (point & 0x3F)
    return at, to + 1
