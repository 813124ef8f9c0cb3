"""Write the data of spaCy's English tokenizer and of datatrove that `curation.measure.spacy_english` reads.

    .peers/datatrove/bin/python tests/parity/datatrove/export.py > curation/measure/spacy_english.json

Runs in the peer's environment (`make parity` builds it). The file holds data only: which characters belong to
which class of the tokenizer's patterns, found by asking its compiled patterns; its special cases; and datatrove's
two sets of punctuation. Run it again when the pinned versions change.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import version

import spacy
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
from spacy.lang import char_classes
from spacy.symbols import ORTH
from spacy.tokenizer import Tokenizer

NEUTRAL = "@"  # a character of no class


def ranges(belongs: Callable[[str], object]) -> list[int]:
    """The first and last code points of each run of characters for which `belongs` is true."""
    found: list[int] = []
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000 and belongs(chr(code)):
            if found and found[-1] == code - 1:
                found[-1] = code
            else:
                found += [code, code]
    return found


def pieces(alternatives: str) -> list[str]:
    """The strings of a pattern that is an alternation of literals."""
    return [re.sub(r"\\(.)", r"\1", piece) for piece in alternatives.split("|") if piece]


def main() -> None:
    english = spacy.blank("en")
    tokenizer = english.tokenizer
    plain = Tokenizer(
        english.vocab,
        rules={},
        prefix_search=tokenizer.prefix_search,
        suffix_search=tokenizer.suffix_search,
        infix_finditer=tokenizer.infix_finditer,
        url_match=tokenizer.url_match,
    )

    def class_of(characters: str) -> Callable[[str], object]:
        return re.compile(f"[{characters}]").match

    special = {text: [token[ORTH] for token in tokens] for text, tokens in sorted(tokenizer.rules.items())}
    affixed = [
        text
        for text in special
        if tokenizer.find_prefix(text) or tokenizer.find_suffix(text) or tokenizer.find_infix(text)
    ]
    phrases = {text: [token.text for token in plain(text)] for text in affixed}
    assert all(special[text] == phrase for text, phrase in phrases.items() if len(phrase) == 1)
    data = {
        "source": f"spaCy {version('spacy')} (MIT), blank English tokenizer and sentencizer; "
        f"datatrove {version('datatrove')} (Apache-2.0), utils/text.py. Made by tests/parity/datatrove/export.py.",
        "alpha": ranges(class_of(char_classes.ALPHA)),
        "lower": ranges(class_of(char_classes.ALPHA_LOWER)),
        "upper": ranges(class_of(char_classes.ALPHA_UPPER)),
        "quote": ranges(class_of(char_classes.CONCAT_QUOTES)),
        "prefix": ranges(lambda c: tokenizer.find_prefix(c + "a") == 1),
        "suffix": ranges(lambda c: tokenizer.find_suffix(NEUTRAL + c) == 1),
        "infix": ranges(lambda c: tokenizer.find_infix(NEUTRAL + c + NEUTRAL)),
        "before_full_stop": ranges(lambda c: c != "." and tokenizer.find_suffix(c + ".") == 1),
        "after_digit": ["+", *pieces(char_classes.CURRENCY), *pieces(char_classes.UNITS)],
        "special": special,
        "phrases": {text: phrase for text, phrase in phrases.items() if len(phrase) > 1},
        "sentence_ends": "".join(sorted(english.add_pipe("sentencizer").punct_chars)),
        "punctuation": "".join(sorted(PUNCTUATION_SET)),
        "terminal": "".join(sorted(TERMINAL_PUNCTUATION)),
    }
    json.dump(data, sys.stdout, indent=0, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
