"""Hold the profile `datatrove-0.10` against datatrove itself: `make parity`.

    MIXWRIGHT_DATA=... python -m tests.parity.datatrove.compare --peer .peers/datatrove/bin/python

Runs datatrove's four filters, each alone, in the peer's own environment on documents of MIXWRIGHT_DATA and on
random texts (`tests.parity.datatrove.texts`), and compares verdict and reason of every document, the text that C4
leaves, the words, and the characters of repeated n-grams. Every difference is written to a file. Fails if fewer
than 99.5 % of the documents agree on anything of these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.measure.columns import text_columns
from curation.measure.datatrove import GROUP
from curation.measure.editors import edit_texts
from curation.measure.spacy_chunk import chunk_scratch
from curation.measure.spacy_english import english
from curation.measure.spacy_tokens import COUNTS, TOKENS, token_scratch, tokenise
from curation.rules.profile import Profile, apply, load_profile
from tests.parity.datatrove.texts import KINDS, random_texts, real_texts

FILTERS = ("GopherRepetitionFilter", "GopherQualityFilter", "FineWebQualityFilter", "C4QualityFilter")
FINEWEB = {"any_end": FILTERS[3:], "left": FILTERS[2:], "fineweb": FILTERS}
TEXTS = {"text": "C4QualityFilter", "any_end_text": "any_end"}  # compared where this filter keeps the document
NGRAMS = [*(f"top_{n}" for n in (2, 3, 4)), *(f"dup_{n}" for n in range(5, 11))]
NEEDED = 0.995
PEER = Path(__file__).with_name("peer.py")


def by_peer(python: str, texts: list[str]) -> list[dict]:
    """What datatrove says of each text."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    command = [python, str(PEER), "--values"]
    run = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()][:-1]


def words_hash(text: str) -> str:
    """The hash of the words that our kernel finds, as `peer.values` makes it."""
    data = np.frombuffer(text.encode() + bytes(8), np.uint8)
    size = len(data) - 8
    tokens, counts = token_scratch(size, size), np.zeros(COUNTS, np.int64)
    tokenise(data, 0, size, english(), tokens, chunk_scratch(size), counts)
    ends = [0, *tokens.ends[: counts[TOKENS]].tolist()]
    squeezed = tokens.text.tobytes()
    return hashlib.sha1(b"\n".join(squeezed[start:end] for start, end in pairwise(ends))).hexdigest()


def edited(texts: pa.LargeStringArray, edits: tuple[str, ...]) -> list[str]:
    """The texts that the edits of a profile leave."""
    chats = {name: pa.nulls(len(texts)) for name in ("messages", "chosen", "rejected")}
    return edit_texts(pa.table({"text": texts, **chats}), edits).after.to_pylist()


def reasons(profile: Profile, filters: list[str], measured: pa.Table) -> list[str | None]:
    """The first reason of each document by the rules whose source names one of these filters."""
    rules = tuple(rule for rule in profile.rules if any(name in rule.source for name in filters))
    found = apply(profile.model_copy(update={"rules": rules}), measured)[1].to_pylist()
    return ["empty" if reason == "fineweb_empty" else reason for reason in found]


def by_us(texts: list[str]) -> list[dict]:
    """What the profile says of each text."""
    array = pa.array(texts, pa.large_string())
    measured = pa.table({**GROUP.measure(None, array), "chars": text_columns(array)["chars"]})
    profile = load_profile("datatrove-0.10")
    columns = {
        "text": edited(array, profile.edits),
        "any_end_text": edited(array, ("c4_lines_any_end",)),
        "addresses": edited(array, ("datatrove_pii",)),
        "words": list(map(words_hash, texts)),
    }
    fineweb = load_profile("fineweb")
    for name, filters in FINEWEB.items():
        columns[name] = reasons(fineweb, [f"as datatrove 0.10.1, {one}" for one in filters], measured)
    shares = [measured[f"gopher_{kind}gram_char_share"].to_numpy() for kind in NGRAMS]
    chars = measured["chars"].to_numpy()
    columns["ngrams"] = [[round(share[row] * chars[row]) for share in shares] for row in range(len(texts))]
    for name in FILTERS:
        columns[name] = reasons(profile, [name], measured)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".peers/datatrove/bin/python", help="Python of the peer's environment")
    parser.add_argument("--each", type=int, default=150, help="documents of each file of MIXWRIGHT_DATA")
    parser.add_argument("--random", type=int, default=1500, help="random texts of each kind")
    parser.add_argument("--seed", type=int, default=11, help="what the random texts are made from")
    parser.add_argument("--differences", type=Path, default=Path("parity-datatrove.jsonl"), help="file to write")
    options = parser.parse_args()
    failed = False
    with options.differences.open("w") as file:
        real = real_texts(options.each)
        for kind in ("real", *KINDS):
            texts = real if kind == "real" else random_texts(kind, options.random, options.seed, real)
            if not texts:
                print(f"{kind}: no documents (MIXWRIGHT_DATA is not set)")
                continue
            pairs = list(zip(texts, by_peer(options.peer, texts), by_us(texts), strict=True))
            for name in pairs[0][2]:
                kept = [pair for pair in pairs if pair[1][TEXTS.get(name, name)] is None]
                looked = kept if name in TEXTS else pairs
                apart = [pair for pair in looked if pair[1][name] != pair[2][name]]
                share = 1 - len(apart) / max(1, len(looked))
                print(f"{kind:10} {name:24} {len(looked):6} documents, {len(kept):6} kept, {share:.4%} agree")
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
