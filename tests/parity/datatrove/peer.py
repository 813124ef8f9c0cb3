"""datatrove's four filters, each alone, on texts from standard input. Runs in the peer's own environment.

Reads a JSON string a line, a text. Writes a JSON object a line: for each filter its reason, null where the
document is kept, and the text that C4 leaves; the same for C4 without its rule for ends of lines, and FineWeb's
filter on what that leaves; the first reason of FineWeb's filters one after another; the text with addresses
replaced. With `--values` also a hash of the words, and the characters that datatrove counts of top and duplicate
n-grams. The time that the four filters took (processor seconds) is the last line.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_top_duplicate, get_n_grams
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.utils.text import split_into_words

FILTERS = [GopherRepetitionFilter(), GopherQualityFilter(), FineWebQualityFilter(), C4QualityFilter()]

FINEWEB = [*FILTERS[:2], C4QualityFilter(filter_no_terminal_punct=False), FILTERS[2]]


def fineweb(text: str) -> dict[str, str | None]:
    """What FineWeb's filters say one after another, and its last ones whatever the first ones say."""
    reasons = (one.filter(Document(text=text, id="")) for one in FINEWEB[:2])
    first = next((result[1] for result in reasons if result is not True), None)
    document = Document(text=text, id="")
    any_end = FINEWEB[2].filter(document)
    left = FINEWEB[3].filter(document) if any_end is True else any_end
    last = None if left is True else left[1]
    return {
        "any_end": None if any_end is True else any_end[1],
        "any_end_text": document.text,
        "left": last,
        "fineweb": first or last,
        "addresses": PIIFormatter().format(text),
    }


def judge(text: str) -> tuple[dict[str, str | None], str]:
    """The reasons of the filters and the text that C4 leaves."""
    reasons = {}
    for one in FILTERS:
        document = Document(text=text, id="")
        try:
            result = one.filter(document)
        except ZeroDivisionError:
            result = False, "division by zero"
        reasons[type(one).__name__] = None if result is True else result[1]
    return reasons, document.text


def values(text: str) -> dict[str, str | list[int]]:
    """The words, hashed, and what the repetition filter counts of their n-grams."""
    words = split_into_words(text)
    top = [find_top_duplicate(get_n_grams(words, n)) if len(words) >= n else 0 for n in (2, 3, 4)]
    return {
        "words": hashlib.sha1("\n".join(words).encode()).hexdigest(),
        "ngrams": top + [find_all_duplicate(words, n) for n in range(5, 11)],
    }


def main() -> None:
    judge("Warm up. The caches of the tokenizer are empty.")
    texts = [json.loads(line) for line in sys.stdin]
    start = time.process_time()
    results = [judge(text) for text in texts]
    seconds = time.process_time() - start
    for text, (reasons, left) in zip(texts, results, strict=True):
        print(
            json.dumps(reasons | {"text": left} | fineweb(text) | (values(text) if "--values" in sys.argv else {}))
        )
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
