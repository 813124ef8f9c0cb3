"""The short way of the tokenizer: chunks of ASCII with blanks and newlines between them, 64 bytes at a time.

Most text is that. All else is left to `curation.measure.spacy_tokens`, which makes of these chunks what this makes
of them, only slower: what is not ASCII, chunks of 64 bytes and more, and what stands within 128 bytes of the end
of the buffer.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import (
    any_byte_mask,
    beyond_mask,
    letter_mask,
    line_end_mask,
    load64,
    move64,
    ones,
    space_mask,
    store64,
    trailing_zeros,
    white_mask,
)
from curation.measure.spacy_english import BYTE_MARK
from curation.measure.spacy_masks import between, chunk_masks, number_sign_mask, split_ascii
from curation.measure.spacy_merge import (
    AFTER_BLANK_TOKEN,
    ALL_PUNCTUATION,
    ENDS_SENTENCE,
    FIRST_OF_CHUNK,
    WITH_LETTER,
    WORD,
)
from curation.measure.spacy_strings import begins_phrase, hash_bytes, hash_short, special_case, stop_word
from curation.measure.utf8 import BLOCK

# Places in the counts of a document.
TOKENS, CHUNKS, CHARS, STOP_WORDS, LINES, NEWLINES, HASHES, ELLIPSES, PAIRS = range(9)
# A row of `lines`, in bytes from the document's start: LINE_FIRST and LINE_LAST bound the stripped line
# (LINE_FIRST is -1 if that is empty), LINE_STOP is where its line break begins and LINE_NEXT where the next line
# does; LINE_CHUNKS counts those before the line.
LINE_FIRST, LINE_LAST, LINE_CHUNKS, LINE_STOP, LINE_NEXT, LINE_FIELDS = range(6)

SHORT = 16  # bytes that two loads have
FULL_STOP, EXCLAMATION, QUESTION, LOWERCASE_A = 0x2E, 0x21, 0x3F, 0x61
_ALL, _0, _1, _2 = (np.uint64(number) for number in ((1 << 64) - 1, 0, 1, 2))
_simple_mask = any_byte_mask(b" \t\n")


@njit(nogil=True, inline="always", _nrt=False)
def end_line(tokens, number, first, last, stop, following, words, chunks):
    """Write the row of line `number`; that of the next one begins with the tokens and chunks there are by now."""
    line = tokens.lines[number]
    line[LINE_FIRST], line[LINE_LAST], line[LINE_STOP], line[LINE_NEXT] = first, last, stop, following
    tokens.lines_tokens[number + 1] = words
    tokens.lines[number + 1, LINE_CHUNKS] = chunks


@njit(nogil=True, forceinline=True, _nrt=False)
def ascii_chunks(data, at, begin, end, tables, tokens, chunk, counts, written, first, last, gap):
    """Read chunks, and blanks and newlines, from `at` on until something else comes.

    The state is that of `spacy_tokens.tokenise`: how many bytes of the squeezed text are written, where the first
    chunk of the line begins and the last one ends, whether white space that is a token stands before `at`. Returns
    it and the new place.
    """
    strings, text = tables.strings, tokens.text
    number, chars, chunks, stop_words = counts[TOKENS], counts[CHARS], counts[CHUNKS], counts[STOP_WORDS]
    safe = min(end, len(data) - 2 * BLOCK)
    blocked = False
    while at < safe and not blocked:
        inside = _ALL >> np.uint64(max(0, BLOCK - (end - at)))
        white = white_mask(data, at) | ~inside
        letters = letter_mask(data, at)
        beyond = beyond_mask(data, at) & inside
        lone = space_mask(data, at) & inside & ~(white << _1) & ~(white >> _1) & _ALL >> _1
        offset = 0
        while True:
            rest = white >> np.uint64(offset)
            length = trailing_zeros(rest)
            if length == 0:
                if lone >> np.uint64(offset) & _1:
                    gap = False
                    offset += 1
                    continue
                run = trailing_zeros(~rest)
                if offset + run >= BLOCK:
                    blocked = offset == 0
                    break
                blanks = between(offset, offset + run)
                if blanks & ~_simple_mask(data, at):
                    blocked = True
                    break
                newlines = blanks & line_end_mask(data, at)
                counts[NEWLINES] += ones(newlines)
                while newlines:
                    stop = at + trailing_zeros(newlines) - begin
                    newlines &= newlines - _1
                    end_line(tokens, counts[LINES], first, last, stop, stop + 1, number, chunks)
                    counts[LINES] += 1
                    first = -1
                gap = True
                offset += run
                continue
            if length == BLOCK:
                blocked = offset == 0
                break
            start = at + offset
            inner = _ALL >> np.uint64(BLOCK - length)
            of_letters = letters >> np.uint64(offset) & inner
            kinds = FIRST_OF_CHUNK | (AFTER_BLANK_TOKEN if gap else 0)
            plain = of_letters == inner
            mark = data[start + length - 1]
            marked = of_letters == inner >> _1 and tables.bytes[mark] == BYTE_MARK and length > 1
            if marked and mark == FULL_STOP:  # "USA." but not "A."
                marked = data[start + length - 2] >= LOWERCASE_A or (
                    length >= 3 and data[start + length - 3] < LOWERCASE_A
                )
            word, second = load64(data, start), load64(data, start + 8)
            short = (plain or marked) and length <= SHORT - marked
            size, hashed = length - marked, _0
            if short:
                hashed = hash_short(word, second, size)
                short = special_case(hashed, strings) < 0 and not (
                    marked and special_case(hash_short(word, second, length), strings) >= 0
                )
            if short:
                store64(text, written, word)
                store64(text, written + 8, second)
                stop_words |= stop_word(hashed, strings)
                tokens.ends[number], tokens.chars[number] = written + size, chars + size
                tokens.hashes[number] = hashed
                tokens.kinds[number] = kinds | WORD | WITH_LETTER
                number += 1
                if marked:
                    tokens.ends[number], tokens.chars[number] = written + length, chars + length
                    tokens.hashes[number] = hash_short(np.uint64(mark), _0, 1)
                    closing = mark in (FULL_STOP, EXCLAMATION, QUESTION)
                    tokens.kinds[number] = ALL_PUNCTUATION | (ENDS_SENTENCE if closing else 0)
                    number += 1
            elif beyond >> np.uint64(offset) & inner:
                blocked = True
                break
            else:
                move64(data, start, text, written)
                masks = chunk_masks(data, start, inner)
                ends = split_ascii(data, start, length, masks, tables, chunk)
                counts[HASHES] += ones(number_sign_mask(data, start) & inner)
                dots = masks.stops & masks.stops >> _1 & masks.stops >> _2
                while dots:
                    counts[ELLIPSES] += 1
                    dots &= ~(np.uint64(7) << np.uint64(trailing_zeros(dots)))
                low, before = 0, _0
                while ends:
                    high = trailing_zeros(ends)
                    ends &= ends - _1
                    begins, size, token = start + low, high - low, between(low, high)
                    if size <= SHORT:
                        hashed = hash_short(load64(data, begins), load64(data, begins + 8), size)
                    else:
                        hashed = hash_bytes(data, begins, begins + size)
                    stop_words |= stop_word(hashed, strings)
                    if low and begins_phrase(before, hashed, strings):
                        tokens.pairs[counts[PAIRS]] = number - 1
                        counts[PAIRS] += 1
                    before = hashed
                    kinds |= WORD if (masks.letters | masks.digits) & token else 0
                    kinds |= WITH_LETTER if masks.letters & token else 0
                    kinds |= 0 if token & ~masks.punctuation else ALL_PUNCTUATION
                    kinds |= ENDS_SENTENCE if size == 1 and masks.ends & token else 0
                    tokens.ends[number], tokens.chars[number] = written + high, chars + high
                    tokens.hashes[number], tokens.kinds[number] = hashed, kinds
                    number += 1
                    low, kinds = high, 0
            written += length
            chars += length
            chunks += 1
            first = start - begin if first < 0 else first
            last = start + length - begin
            gap = False
            offset += length
            if lone >> np.uint64(offset) & _1:
                offset += 1
        at += offset
    counts[TOKENS], counts[CHARS], counts[CHUNKS], counts[STOP_WORDS] = number, chars, chunks, stop_words
    return at, written, first, last, gap
