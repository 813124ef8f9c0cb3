"""datatrove's four filters, each alone, on texts from standard input. Runs in the peer's own environment.

Reads a JSON string a line, a text. Writes a JSON object a line: for each filter its reason, null where the
document is kept, and the text that C4 leaves. The time that the four took (processor seconds) is the last line.
"""

from __future__ import annotations

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

FILTERS = [GopherRepetitionFilter(), GopherQualityFilter(), FineWebQualityFilter(), C4QualityFilter()]


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


def main() -> None:
    judge("Warm up. The caches of the tokenizer are empty.")
    texts = [json.loads(line) for line in sys.stdin]
    start = time.process_time()
    results = [judge(text) for text in texts]
    seconds = time.process_time() - start
    for reasons, text in results:
        print(json.dumps(reasons | {"text": text}))
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
