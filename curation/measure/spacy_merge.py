"""The last step of spaCy's tokenizer: neighbouring tokens that spell a special case become its tokens.

Of the runs that spell one, the longest is chosen first, of equals the first one. A run that shares its first or
last token with an earlier one is left, and yet keeps others from its tokens. So does a run with a blank inside: it
is found as if the blank were not there, and then is no special case. White space of more than a blank ends a run.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.spacy_english import IS_LETTER, IS_PUNCTUATION, NOT_SYMBOL, SENTENCE_END
from curation.measure.spacy_strings import find_string, hash_bytes, special_case, stop_word
from curation.measure.utf8 import decode

LONGEST_STRING = 12  # characters of the longest special case
LONGEST_PHRASE = 11  # tokens that the longest one is without its rule

# What is known of a token: bits of `Tokens.kinds`.
ENDS_SENTENCE = 1  # one character, of those that end a sentence
ALL_PUNCTUATION = 2
AFTER_BLANK_TOKEN = 4  # white space that is more than one blank stands before it: a token to spaCy
FIRST_OF_CHUNK = 8
WORD = 16  # has a character that is not in datatrove's PUNCTUATION_SET
WITH_LETTER = 32

_TOUCHED, _CHOSEN = 1, 2


@njit(nogil=True, _nrt=False)
def kinds_of(any_class, all_class, length):
    """The bits that follow from the classes of a token's characters, taken together by "or" and by "and"."""
    kinds = ALL_PUNCTUATION if all_class & IS_PUNCTUATION else 0
    kinds |= ENDS_SENTENCE if length == 1 and all_class & SENTENCE_END else 0
    kinds |= WORD if any_class & NOT_SYMBOL else 0
    return kinds | (WITH_LETTER if any_class & IS_LETTER else 0)


@njit(nogil=True, _nrt=False)
def merge_special_cases(tokens, count, pairs, lines, tables):
    """Merge in place, `count` tokens on `lines` lines.

    Returns how many tokens there are then, and whether stop words may have come or gone.

    A run that is merged lies within a chunk, so it begins at one of the first `pairs` of `tokens.pairs`, which
    are all tokens that begin a phrase with the next one of their chunk. Only runs about those are looked for.
    """
    growth = merged = at = 0
    while at < pairs:
        first = last = tokens.pairs[at]
        while at < pairs and tokens.pairs[at] - last <= 2 * LONGEST_PHRASE:
            last = tokens.pairs[at]
            at += 1
        first, stop = max(0, first - LONGEST_PHRASE), min(count, last + 2 * LONGEST_PHRASE)
        growth += _choose_runs(tokens, first, stop, tables.strings)
        for k in range(first, stop):
            if tokens.marks[k] >= _CHOSEN:
                tokens.pairs[merged] = k
                merged += 1
    if merged == 0:
        return count, False
    return _rewrite(tokens, count, lines, merged, growth, tables)


@njit(nogil=True, _nrt=False)
def _choose_runs(tokens, first, stop, strings):
    """Set the marks of the tokens [first, stop) by the runs among them; returns by how many tokens they grow."""
    growth = 0
    sizes = _find_runs(tokens, first, stop, strings)
    for size in range(LONGEST_PHRASE, 1, -1):
        if not sizes & np.uint16(1 << size):
            continue
        for k in range(first, stop - size + 1):
            if not tokens.runs[k] & np.uint16(1 << size):
                continue
            free = not (tokens.marks[k] or tokens.marks[k + size - 1])
            for token in range(k, k + size):
                tokens.marks[token] = max(tokens.marks[token], _TOUCHED)
            if free and not _crosses_chunks(tokens, k, size):
                tokens.marks[k] = max(size, _CHOSEN)
                growth += max(0, _rule_of(tokens, k, size, strings)[1] - size)
    return growth


@njit(nogil=True, _nrt=False)
def _start_of(tokens, k):
    return tokens.ends[k - 1] if k else 0


@njit(nogil=True, _nrt=False)
def _find_runs(tokens, first, stop, strings):
    """Set `runs`: for each token, by bits, of how many the runs are that begin there. Returns all bits."""
    sizes = np.uint16(0)
    piece = False
    for k in range(first, stop):
        tokens.marks[k] = tokens.runs[k] = 0
        before, number = piece, find_string(tokens.hashes[k], strings)
        piece = number >= 0 and strings.piece[number]
        if not (before and piece) or tokens.kinds[k] & AFTER_BLANK_TOKEN:
            continue
        # Every run has its second token somewhere: the one that begins a token before this one.
        start, chars = _start_of(tokens, k - 1), tokens.chars[k - 2] if k > 1 else 0
        for last in range(k, min(stop, k - 1 + LONGEST_PHRASE)):
            if tokens.chars[last] - chars > LONGEST_STRING or (
                last > k and tokens.kinds[last] & AFTER_BLANK_TOKEN
            ):
                break
            if _spells(tokens, start, k - 1, last, strings):
                tokens.runs[k - 1] |= np.uint16(1 << (last - k + 2))
        sizes |= tokens.runs[k - 1]
    return sizes


@njit(nogil=True, _nrt=False)
def _spells(tokens, start, first, last, strings):
    number = find_string(hash_bytes(tokens.text, start, tokens.ends[last]), strings)
    if number < 0 or strings.phrase_from[number + 1] - strings.phrase_from[number] != last - first + 1:
        return False
    for token in range(first, last + 1):
        if tokens.ends[token] - start != strings.phrase_ends[strings.phrase_from[number] + token - first]:
            return False
    return True


@njit(nogil=True, _nrt=False)
def _crosses_chunks(tokens, k, size):
    chunks = 0
    for token in range(k + 1, k + size):
        chunks += (tokens.kinds[token] & FIRST_OF_CHUNK) != 0
    return chunks > 0


@njit(nogil=True, _nrt=False)
def _rule_of(tokens, k, size, strings):
    """The place of the first end and the number of tokens of the special case that a run spells."""
    number = special_case(hash_bytes(tokens.text, _start_of(tokens, k), tokens.ends[k + size - 1]), strings)
    return strings.rule_from[number], strings.rule_from[number + 1] - strings.rule_from[number]


@njit(nogil=True, _nrt=False)
def _rewrite(tokens, count, lines, merged, growth, tables):
    """Write the tokens anew, with the `merged` runs replaced; where they grow, from a copy moved to the right."""
    if growth:
        for k in range(count - 1, -1, -1):
            _copy(tokens, k, k + growth)
    at, written, line, stop_words = 0, 0, 1, 0
    for number in range(merged + 1):
        start = tokens.pairs[number] if number < merged else count
        while line < lines and tokens.lines_tokens[line] <= start:
            tokens.lines_tokens[line] += written - at
            line += 1
        if written == at + growth:
            written, at = written + start - at, start
        while at < start:
            _copy(tokens, at + growth, written)
            written += 1
            at += 1
        if number < merged:
            size = np.int64(tokens.marks[at + growth])
            begin = tokens.ends[written - 1] if written else 0
            kinds = tokens.kinds[at + growth] & (AFTER_BLANK_TOKEN | FIRST_OF_CHUNK)
            hashed = hash_bytes(tokens.text, begin, tokens.ends[at + growth + size - 1])
            rule = special_case(hashed, tables.strings)
            for k in range(at + growth, at + growth + size):
                stop_words |= stop_word(tokens.hashes[k], tables.strings)
            for k in range(tables.strings.rule_from[rule], tables.strings.rule_from[rule + 1]):
                _set(tokens, written, begin + tables.strings.rule_ends[k], kinds, tables.classes)
                stop_words |= stop_word(tokens.hashes[written], tables.strings)
                written += 1
                kinds = 0
            at += size
    return written, stop_words != 0


@njit(nogil=True, _nrt=False)
def _copy(tokens, at, to):
    tokens.ends[to], tokens.chars[to] = tokens.ends[at], tokens.chars[at]
    tokens.hashes[to], tokens.kinds[to], tokens.marks[to] = tokens.hashes[at], tokens.kinds[at], tokens.marks[at]


@njit(nogil=True, _nrt=False)
def _set(tokens, k, end, kinds, classes):
    """Make token k of the bytes from the end of the one before it up to `end`."""
    start = at = _start_of(tokens, k)
    any_class, all_class, length = np.uint32(0), np.uint32(0xFFFFFFFF), 0
    while at < end:
        code, at = decode(tokens.text, at, end)
        any_class |= classes[code]
        all_class &= classes[code]
        length += 1
    tokens.ends[k], tokens.chars[k] = end, (tokens.chars[k - 1] if k else 0) + length
    tokens.hashes[k] = hash_bytes(tokens.text, start, end)
    tokens.kinds[k] = kinds | kinds_of(any_class, all_class, length)
