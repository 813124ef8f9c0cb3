"""A large corpus out of real text, for benchmarks: web pages, code and papers, with planted duplicates.

    MIXWRIGHT_DATA=... python -m tests.benchmarks.corpus FOLDER --megabytes 1000

Real documents are cut into units (sentences; of code, blocks between blank lines). A new document has the length
of a real one of its kind and is made of short runs of units from many documents of that kind, so that words, lines
and repetition are those of real text, while two documents share only a run here and there. One document in ten
repeats an earlier one exactly, one in ten with a few units exchanged. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import zstandard

SHARES = {"web": 0.6, "code": 0.2, "papers": 0.2}  # of the bytes
RUN = 4  # units at most that stay together
EXACT, NEAR = 0.1, 0.1  # shares of the documents that repeat an earlier one
FILES = 8  # of each kind
SENTENCE, BLOCK = re.compile(r"(?<=[.!?])\s+|\n+"), re.compile(r"\n\n+")
SENTENCES_A_LINE = {"web": 3, "papers": 5}


def data_folder() -> Path:
    """The folder of real data. Raises SystemExit where MIXWRIGHT_DATA is not set."""
    if not os.environ.get("MIXWRIGHT_DATA"):
        raise SystemExit("MIXWRIGHT_DATA is not set: it names the folder of real data that the corpus is made of")
    return Path(os.environ["MIXWRIGHT_DATA"])


def real_texts(kind: str, data: Path) -> Iterator[str]:
    """The real documents of a kind: extracted pages and C4, source files, papers."""
    if kind == "web":
        yield from _web(data)
    elif kind == "code":
        for row in json_lines(data / "code" / "code.jsonl.zst"):
            yield row["text"]
    else:
        yield from paper_texts(data)


def paper_texts(data: Path) -> list[str]:
    """The texts of the papers."""
    return pq.read_table(data / "text" / "papers-acl.parquet", columns=["text"])["text"].to_pylist()


def _web(data: Path) -> Iterator[str]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    for path in sorted((data / "web").glob("*.warc.gz")):
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                page = record.reader.read()
                if page:
                    html = bytes_to_str(page, detect_encoding(page))
                    yield extract_plain_text(html, main_content=True, links=False)
    for row in json_lines(data / "text" / "c4-sample.jsonl.gz"):
        yield row["text"]


def json_lines(path: Path) -> Iterator[dict]:
    """The records of a file, plain, gz or zst."""
    import gzip

    opened = {".gz": gzip.open, ".zst": zstandard.open}.get(path.suffix, open)
    with opened(path, "rb") as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):
            yield json.loads(line)


class Maker:
    """New documents of one kind."""

    def __init__(self, kind: str, data: Path, rng: random.Random):
        self.kind, self.rng = kind, rng
        unit = BLOCK if kind == "code" else SENTENCE
        cut = [[one for one in unit.split(text) if one.strip()] for text in real_texts(kind, data)]
        self.documents = [units for units in cut if units]
        self.earlier: list[list[str]] = []

    def document(self) -> str:
        """The next one: new, a repeat, or a repeat with a few units exchanged."""
        draw = self.rng.random()
        if self.earlier and draw < EXACT + NEAR:
            units = list(self.rng.choice(self.earlier))
            if draw < NEAR:
                for _ in range(1 + len(units) // 50):
                    units[self.rng.randrange(len(units))] = self.rng.choice(self.rng.choice(self.documents))
        else:
            units = self._new()
            if len(self.earlier) < 2000:
                self.earlier.append(units)
            else:
                self.earlier[self.rng.randrange(2000)] = units
        return self._joined(units)

    def _new(self) -> list[str]:
        wanted, units = len(self.rng.choice(self.documents)), []
        while len(units) < wanted:
            source = self.rng.choice(self.documents)
            start = self.rng.randrange(len(source))
            units += source[start : start + self.rng.randint(1, RUN)]
        return units[:wanted]

    def _joined(self, units: list[str]) -> str:
        if self.kind == "code":
            return "\n\n".join(units)
        every = SENTENCES_A_LINE[self.kind]
        return "\n".join(" ".join(units[at : at + every]) for at in range(0, len(units), every))


def write_corpus(folder: Path, megabytes: float, seed: int = 1) -> dict[str, int]:
    """Write `<kind>/<kind>-<n>.jsonl`, about so many MB (10^6 bytes) of text in all; bytes of text by kind."""
    data, written = data_folder(), {}
    for kind, share in SHARES.items():
        maker = Maker(kind, data, random.Random(f"{seed}/{kind}"))
        target, total = int(share * megabytes * 1e6), 0
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(FILES):
            with open(folder / kind / f"{kind}-{number}.jsonl", "w", encoding="utf-8") as file:
                while total < target * (number + 1) / FILES:
                    text = maker.document()
                    total += len(text.encode("utf-8", "replace"))
                    file.write(json.dumps({"text": text, "url": f"https://{kind}.invalid/{total}"}) + "\n")
        written[kind] = total
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for kind, size in write_corpus(options.folder, options.megabytes, options.seed).items():
        print(f"{kind:8} {size / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
