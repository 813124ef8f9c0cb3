"""Words of English prose: how they are told apart, the commonest ones, and which of a text's words are nouns."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # letters, with apostrophes and hyphens inside
LETTERS = 3  # of a noun at least

_ARTICLES = "a an the this that these those my your his her its our their each every some any no"
# Too common to be asked for: pronouns, prepositions, conjunctions, auxiliaries, adverbs of degree, speech tags.
_COMMON = """
i me mine myself you yours yourself yourselves he him himself she hers herself it itself we us ours ourselves
they them theirs themselves one ones who whom whose which what whatever whoever somebody someone something
anybody anyone anything nobody none nothing everybody everyone everything other others another such same both
either neither all few many much more most several own
about above across after against along amid among around as at before behind below beneath beside besides
between beyond by despite down during except for from in inside into like near of off on onto out outside over
past per round since through throughout till to toward towards under underneath until unto up upon via with
within without
and but or nor so yet because although though if unless while whereas when whenever where wherever whether than
be am is are was were been being have has had having do does did doing done can could may might must shall
should will would ought need dare let
not never ever always often sometimes soon now then once again already still just only even also too very
quite rather almost perhaps maybe here there how why thus hence therefore however indeed else instead away back
ago yes oh mr mrs miss dr said says say went come came made make take took get got go see saw seen etc
"""
ARTICLES = frozenset(_ARTICLES.split())
STOP_WORDS = ARTICLES | frozenset(_COMMON.split())


def words_of(text: str) -> list[str]:
    """The words of a text in order, as they are written."""
    return WORD.findall(text)


@functools.lru_cache(maxsize=1 << 16)
def is_common(word: str) -> bool:
    """Whether a word, in any case, is a stop word or a contraction of one."""
    stem, _, ending = word.lower().replace("’", "'").partition("'")
    return stem in STOP_WORDS or ending in ("t", "ll", "ve", "re", "d", "m")


def noun_counts(text: str, nouns: frozenset[str] | None = None) -> Counter[str]:
    """How often each noun stands in a text, as a whole word in that very case.

    `nouns`: what a noun is, in lower case. Without it a word is taken for one where an article or its like stands
    before it somewhere in the text: an adjective may pass, but the count is right whatever the word is.
    Capitalised words count too.
    """
    found = words_of(text)
    counts = Counter(found)
    if nouns is None:
        pairs = itertools.pairwise(found)
        nouns = frozenset(word.lower() for article, word in pairs if article.lower() in ARTICLES)
    return Counter(
        {
            word: count
            for word, count in counts.items()
            if len(word) >= LETTERS and not is_common(word) and (word[0].isupper() or word.lower() in nouns)
        }
    )
