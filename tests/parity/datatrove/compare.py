"""Hold the profile `datatrove-0.10` against datatrove itself: `make parity`.

    MIXWRIGHT_DATA=... python -m tests.parity.datatrove.compare --peer .peers/datatrove/bin/python

Runs datatrove's four filters, each alone, in the peer's own environment on documents of MIXWRIGHT_DATA and on
random texts, and compares verdict and reason of every document, and the text that C4 leaves. Every difference is
written to a file. Fails if fewer than 99.5 % of the documents agree for any filter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from curation.edits import apply_edits
from curation.measure.c4_lines import c4_spans
from curation.measure.columns import text_columns
from curation.measure.datatrove import GROUP
from curation.rules.profile import apply, load_profile
from tests.benchmarks.kernels import DATA_FILES, _texts

FILTERS = ("GopherRepetitionFilter", "GopherQualityFilter", "FineWebQualityFilter", "C4QualityFilter")
NEEDED = 0.995
PEER = Path(__file__).with_name("peer.py")
WORDS = """
the The to be of and that have with don't dont cannot I'm it's It’s Mr. U.S.A. U.S. a.m. 10a.m. 5km 5 3.14 1,000
$5 5$ US$5 € °C. 10°C. :) :-) :)) (x) [1] [edit] { } " '' ' ’ ‘ “ ” ... .. … …… . , ; : ! ? - -- --- – — ~ a/b
and/or w/o foo Bar naïve straße пример Москва. 你好 。 世界！ العربية हिन्दी। https://a.bc/d?e=f foo.com x@y.zz
8.8.8.8 192.168.1.1 # #tag @ & &amp; * **bold** _em_ + C++ = <b> </b> x=y a:b \\n | % 50% km/h 60km/h 5m² 😀 © ™ §
· • e.g. Ph.D. 's ’s 'em y'all gonna ma'am rock-n-roll a-b 1-2 2^3 lower.Upper a,b ° K A$ ಠ_ಠ xD <3 0.0 \x00 İ ß.
ﬁ lorem ipsum javascript use cookies terms of use
"""
PIECES = WORDS.split()
GAPS = [" "] * 8 + ["", "", "\n", "\n", "\n\n", "  ", "\t", "\r\n", "\xa0", "\u2028", "\x0b", ". ", ".\n", ".\n"]


def real_texts(each: int) -> list[str]:
    """Up to `each` documents of every file of MIXWRIGHT_DATA that the benchmarks read, spread over it."""
    root = os.environ.get("MIXWRIGHT_DATA")
    if not root:
        return []
    texts = []
    for path in sorted(
        path for patterns in DATA_FILES.values() for one in patterns for path in Path(root).glob(one)
    ):
        found = [text for text in itertools.islice(_texts(path), 10 * each) if text]
        texts += found[:: max(1, len(found) // each)][:each]
    return [text[:200_000] for text in texts]


def random_texts(count: int, seed: int = 11) -> list[str]:
    """Texts of words and marks that tokenizers treat in odd ways, of any characters, and repetitive ones."""
    draw = random.Random(seed)
    texts = []
    for number in range(count):
        if number % 4 == 3:
            codes = [draw.choice([32, 46, 97, draw.randrange(0x250), draw.randrange(0xD800)]) for _ in range(60)]
            texts.append("".join(map(chr, codes)))
            continue
        pieces = PIECES if number % 4 else draw.sample(PIECES, 12) + PIECES[:9]
        length = draw.choice([5, 40, 120, 400])
        texts.append("".join(draw.choice(pieces) + draw.choice(GAPS) for _ in range(length)))
    return [text for text in texts if text]


def by_peer(python: str, texts: list[str]) -> list[dict]:
    """What datatrove says of each text."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    run = subprocess.run([python, str(PEER)], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()][:-1]


def by_us(texts: list[str]) -> list[dict]:
    """What the profile says of each text."""
    array = pa.array(texts, pa.large_string())
    measured = pa.table({**GROUP.measure(None, array), "chars": text_columns(array)["chars"]})
    profile = load_profile("datatrove-0.10")
    columns = {"text": apply_edits(array, c4_spans(array)).to_pylist()}
    for name in FILTERS:
        rules = tuple(rule for rule in profile.rules if name in rule.source)
        reasons = apply(profile.model_copy(update={"rules": rules}), measured)[1].to_pylist()
        columns[name] = ["empty" if reason == "fineweb_empty" else reason for reason in reasons]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".peers/datatrove/bin/python", help="Python of the peer's environment")
    parser.add_argument("--each", type=int, default=150, help="documents of each file of MIXWRIGHT_DATA")
    parser.add_argument("--random", type=int, default=6000, help="random texts")
    parser.add_argument("--differences", type=Path, default=Path("parity-datatrove.jsonl"), help="file to write")
    options = parser.parse_args()
    failed = False
    with options.differences.open("w") as file:
        for kind, texts in {"real": real_texts(options.each), "random": random_texts(options.random)}.items():
            if not texts:
                print(f"{kind}: no documents (MIXWRIGHT_DATA is not set)")
                continue
            pairs = list(zip(texts, by_peer(options.peer, texts), by_us(texts), strict=True))
            for name in (*FILTERS, "text"):
                looked = [pair for pair in pairs if name != "text" or pair[1]["C4QualityFilter"] is None]
                apart = [pair for pair in looked if pair[1][name] != pair[2][name]]
                share = 1 - len(apart) / max(1, len(looked))
                kept = sum(theirs[name] is None for _, theirs, _ in looked)
                print(f"{kind:7} {name:24} {len(looked):6} documents, {kept:6} kept, {share:.4%} agree")
                failed |= share < NEEDED
                for text, theirs, ours in apart:
                    row = {
                        "kind": kind,
                        "filter": name,
                        "theirs": theirs[name],
                        "ours": ours[name],
                        "document": text,
                    }
                    file.write(json.dumps(row) + "\n")
    print(f"differences: {options.differences}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
