"""A run made by hand, station by station, small enough to know every number of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from curation.files import read_json, write_bytes
from curation.keys import key_of, keyed_hash
from curation.ledger import write_ledger
from curation.mix.manifest import MANIFEST, write_manifest
from curation.schema import CATALOG, DOCUMENT, QUARANTINE, document_id
from curation.steps import Context, StepOutput, load, step
from flows.execute import Options, execute
from flows.run import Recorder, Run
from tests.mini import write_inputs, write_pipeline

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>\'"&amp;\u202e\x00\x1b[31m'
HOSTILE_SOURCE = "we\"b<img src=x onerror='alert(1)'>"
LICENCE = " ".join(f"permission number {n} is granted to any person" for n in range(40))
PROFILE = {
    "name": "prose",
    "version": 1,
    "rules": [
        {
            "name": "too_<b>few</b>_words",
            "measurement": "words",
            "drop_below": 3,
            "drop_above": None,
            "keep_in": None,
            "source": "made up",
        },
        {
            "name": "symbols",
            "measurement": "symbol_word_ratio",
            "drop_below": None,
            "drop_above": 0.1,
            "keep_in": None,
            "source": "made up",
        },
    ],
}


class Fabricator:
    """Makes the steps of a run in a workspace, one station a method."""

    hostile, hostile_source = HOSTILE, HOSTILE_SOURCE

    def __init__(self, context: Context, sources: dict[str, list[str]]):
        self.context, self.sources = context, sources
        self.recorder = Recorder(
            context.workspace,
            "made",
            {"seed": 7, "sources": [{"name": source} for source in sources]},
            "mixwright run",
        )
        self.pools: dict[str, StepOutput] = {}
        self.tables: dict[str, pa.Table] = {}

    def step(
        self, name: str, work, inputs: dict[str, str] | None = None, config: dict | None = None
    ) -> StepOutput:
        output = step(self.context, name, 1, config or {"made": name}, inputs or {}, work)
        self.recorder.add(output)
        return output

    def ingest(self) -> None:
        for source, texts in self.sources.items():
            rows = [
                {
                    "id": document_id(source, text.encode()),
                    "source": source,
                    "text": text,
                    "origin": f"raw/{n}.jsonl#{n}",
                    "created": "2024-05-06",
                    "metadata": json.dumps({"n": n, "note": HOSTILE}),
                }
                for n, text in enumerate(texts)
            ]
            table = self.tables[source] = pa.Table.from_pylist(rows, schema=DOCUMENT)
            bad = [
                {"source": source, "origin": "raw/bad.gz#0", "offset": 12, "error": HOSTILE, "sample": "\\x00<b>"}
            ]

            def work(build, table=table, bad=bad):
                build.write_table("shards/s.parquet", table)
                build.write_table("quarantine.parquet", pa.Table.from_pylist(bad, schema=QUARANTINE))
                build.counts = {
                    "records_read": len(table) + 3,
                    "documents_out": len(table),
                    "quarantined": 1,
                    "skipped": 2,
                    "bytes_in": 1000,
                }

            self.pools[source] = self.step(
                f"ingest/{source}", work, {"files": "ab" * 32}, {"n": len(table), "s": source}
            )

    def curate(self) -> None:
        """Rule 1 drops texts of fewer than 3 words, rule 2 those with more symbols; then twins are dropped."""
        self.alive = {}
        for source, table in self.tables.items():
            texts = table["text"].to_pylist()
            words = np.array([len(text.split()) for text in texts])
            symbols = np.array([text.count("#") / max(len(text.split()), 1) for text in texts])
            self._measure(source, table["id"], words, symbols)
            self._rules(source, table["id"], words, symbols)
        self._dedup("exact", lambda text: text)
        self._dedup("fuzzy", lambda text: re.sub(r"\d+", "", text))
        for source in self.tables:
            self._tokens(source)
            self._catalog(source)

    def _measure(self, source, ids, words, symbols):
        def work(build):
            columns = {
                "id": ids,
                "words": pa.array(words, pa.uint32()),
                "symbol_word_ratio": symbols,
                "language": ["en"] * len(ids),
            }
            build.write_table("shards/s.parquet", pa.table(columns))

        self.step(f"measure/{source}", work)

    def _rules(self, source, ids, words, symbols):
        few, many = words < 3, symbols > 0.1
        rule = [
            PROFILE["rules"][0]["name"] if a else "symbols" if b else None for a, b in zip(few, many, strict=True)
        ]

        def work(build):
            write_ledger(
                build.folder,
                source,
                "s",
                stage="rules",
                ids=ids.combine_chunks(),
                rows=np.arange(len(ids)),
                keep=~(few | many),
                rule=pa.array(rule, pa.string()),
                value=np.where(few, words, np.where(many, symbols, np.nan)),
                threshold=np.where(few, 3, np.where(many, 0.1, np.nan)),
            )
            for name, fails in (
                ("dropped", [few, many & ~few]),
                ("failing", [few, many]),
                ("failing_alone", [few & ~many, many & ~few]),
            ):
                names = [one["name"] for one in PROFILE["rules"]]
                build.counts[name] = {rule: int(n.sum()) for rule, n in zip(names, fails, strict=True)}

        self.step(f"rules/{source}", work, {"measured": source}, PROFILE)
        self.alive[source] = ~(few | many)

    def _dedup(self, stage, form):
        groups: dict[str, list[tuple[str, int]]] = {}
        for source, table in self.tables.items():
            for row in np.flatnonzero(self.alive[source]):
                groups.setdefault(form(table["text"][int(row)].as_py()), []).append((source, int(row)))
        twins, clusters = {}, []
        for number, members in enumerate(group for group in groups.values() if len(group) > 1):
            for place, (source, row) in enumerate(members):
                if place:
                    first_source, first_row = members[0]
                    twins[source, row] = self.tables[first_source]["id"][first_row].as_py()
                identity = self.tables[source]["id"][row].as_py()
                clusters.append(
                    {
                        "twin": twins.get((source, row)),
                        "cluster": number,
                        "id": identity,
                        "source": source,
                        "shard": "s",
                        "row": row,
                        "kept": place == 0,
                        "similarity": 0.9,
                    }
                )

        def work(build):
            schema = pa.schema(
                [
                    ("cluster", pa.int64()),
                    ("id", pa.string()),
                    ("source", pa.string()),
                    ("shard", pa.string()),
                    ("row", pa.uint32()),
                    ("kept", pa.bool_()),
                    ("similarity", pa.float64()),
                    ("twin", pa.string()),
                ]
            )
            if stage == "fuzzy":
                build.write_table("clusters.parquet", pa.Table.from_pylist(clusters, schema=schema))
            for source, table in self.tables.items():
                rows = np.flatnonzero(self.alive[source])
                twin = [twins.get((source, int(row))) for row in rows]
                gone = np.array([one is not None for one in twin], bool)
                name = "duplicate" if stage == "exact" else "near_duplicate"
                write_ledger(
                    build.folder,
                    source,
                    "s",
                    stage=stage,
                    ids=table["id"].combine_chunks().take(pa.array(rows)),
                    rows=rows,
                    keep=~gone,
                    rule=pa.array([name if g else None for g in gone], pa.string()),
                    value=np.where(gone, 0.9, np.nan),
                    threshold=np.where(gone, 0.8, np.nan),
                    twin=pa.array(twin, pa.string()),
                )
            if stage == "fuzzy":
                build.alarm(f"a source lost much: {HOSTILE}")

        self.step(f"dedup-{stage}", work)
        for source, row in twins:
            self.alive[source][row] = False

    def _tokens(self, source):
        table = self.tables[source]
        tokens = pa.array([len(text.split()) + 1 for text in table["text"].to_pylist()], pa.uint32())
        self.step(
            f"tokens/{source}",
            lambda build: build.write_table(
                "shards/s.parquet", pa.table({"id": table["id"], "tokens": tokens, "tokens_plain": tokens})
            ),
        )

    def _catalog(self, source):
        table, rows = self.tables[source], np.flatnonzero(self.alive[source])
        lines = []
        for place, row in enumerate(rows):
            text = table["text"][int(row)].as_py()
            size = len(text.split()) + 1
            lines.append(
                {
                    "id": table["id"][int(row)].as_py(),
                    "source": source,
                    "kind": "text",
                    "shard": "s",
                    "row": int(row),
                    "tokens": size,
                    "tokens_plain": size,
                    "bytes": len(text.encode()),
                    "language": "en",
                    "quality": 0.5,
                    "vigintile": 1 + place % 20,
                    "length_bucket": "<1K",
                    "holdout": place == len(rows) - 1,
                    "gzip_ratio": 0.5,
                }
            )
        self.step(
            f"catalog/{source}",
            lambda build: build.write_table("catalog.parquet", pa.Table.from_pylist(lines, schema=CATALOG)),
        )

    def mix(self, name: str, copies: int, parents: dict[str, str] | None = None) -> StepOutput:
        rows, account = [], []
        for source in self.tables:
            catalog = self.catalog(source)
            taken = catalog.filter(pa.array([not held for held in catalog["holdout"].to_pylist()]))
            order = keyed_hash(taken["id"], key_of(7, name))
            rows += [
                {
                    "id": row["id"],
                    "source": source,
                    "bucket": "all",
                    "shard": "s",
                    "row": row["row"],
                    "tokens": row["tokens"],
                    "copies": copies,
                    "transform": "none",
                    "order": int(order[n]),
                }
                for n, row in enumerate(taken.to_pylist())
            ]
            total = sum(taken["tokens"].to_pylist())
            account.append(
                {
                    "source": source,
                    "type": "Web <b>pages</b>",
                    "bucket": "all",
                    "pool_documents": len(taken),
                    "pool_tokens": total,
                    "target_tokens": total * copies + 1,
                    "note": HOSTILE,
                }
            )
        head = {
            "kind": "pretrain",
            "name": name,
            "recipe": f"name: {name}\n# {HOSTILE}\n",
            "seed": 7,
            "tokenizer_hash": "cd" * 32,
            "pools": {source: pool.content for source, pool in self.pools.items()},
            "catalogs": dict.fromkeys(self.pools, "ef" * 32),
            "parents": parents or {},
            "account": account,
        }
        table = pa.Table.from_pylist(rows, schema=MANIFEST)
        return self.step(f"mix/{name}", lambda build: write_manifest(build.folder, table, head) and None)

    def heldout(self) -> None:
        """The held-out documents as a set for evaluation, less the last one, which the mixes are said to hold."""
        rows = []
        for source in self.tables:
            catalog = self.catalog(source)
            rows += [
                {
                    "id": row["id"],
                    "source": source,
                    "bucket": "all",
                    "shard": "s",
                    "row": row["row"],
                    "order": n,
                    "tokens": row["tokens"],
                    "copies": 1,
                    "transform": "none",
                }
                for n, row in enumerate(catalog.filter(catalog["holdout"]).to_pylist())
            ]
        gone = rows.pop()
        head = {
            "kind": "evaluation",
            "name": "heldout-text",
            "recipe": "heldout: text\n",
            "seed": 7,
            "tokenizer_hash": "cd" * 32,
            "parents": {},
            "catalogs": dict.fromkeys(self.pools, "ef" * 32),
            "pools": {source: pool.content for source, pool in self.pools.items()},
        }
        dropped = [
            {
                "id": gone["id"],
                "source": gone["source"],
                "share": 0.75,
                "ngrams": 8,
                "example": HOSTILE,
                "twin": "ab" * 16,
                "twin_source": HOSTILE_SOURCE,
            }
        ]

        def work(build):
            write_manifest(build.folder, pa.Table.from_pylist(rows, schema=MANIFEST), head)
            build.write_table("dropped.parquet", pa.Table.from_pylist(dropped))

        self.step("heldout/text", work, config={"ngram": 8, "max_share": 0.5})

    def tokenizer(self) -> None:
        """A word a token, so that the counts above hold."""
        words = sorted({word for texts in self.sources.values() for text in texts for word in text.split()})
        made = Tokenizer(WordLevel({word: n for n, word in enumerate(["<|endoftext|>", *words])}))
        made.pre_tokenizer = WhitespaceSplit()
        self.words = made
        self.step(
            "tokenizer",
            lambda build: write_bytes(build.folder / "tokenizer/tokenizer.json", made.to_str().encode()),
        )

    def materialise(self, name: str) -> None:
        """The mix as tokens; the loss leaves out the first word of each document."""
        head = read_json(self.folder(f"mix/{name}") / "mix.json")
        rows = pq.read_table(self.folder(f"mix/{name}") / "part-00000.parquet").to_pylist()
        tokens, mask, index = [], [], []
        for row in rows:
            text = self.tables[row["source"]]["text"][row["row"]].as_py()
            ids = [*self.words.encode(text).ids, 0]
            keys = ("id", "source", "bucket", "copies", "order")
            index.append({**{key: row[key] for key in keys}, "start": len(tokens), "length": len(ids)})
            tokens += ids
            mask += [0] + [1] * (len(ids) - 1)

        def work(build):
            write_bytes(build.folder / "tokens.bin", np.array(tokens, "<u2").tobytes())
            write_bytes(build.folder / "mask.bin", np.array(mask, np.uint8).tobytes())
            schema = pa.schema(
                [
                    ("id", pa.string()),
                    ("source", pa.string()),
                    ("bucket", pa.string()),
                    ("copies", pa.uint16()),
                    ("order", pa.uint64()),
                    ("start", pa.int64()),
                    ("length", pa.uint32()),
                ]
            )
            build.write_table("index.parquet", pa.Table.from_pylist(index, schema=schema))
            build.write_json("data.json", {"manifest_hash": head["hash"], "dtype": "uint16"})

        self.step(f"data/{name}", work, {"manifest": head["hash"]})

    def train(self, stage: str, mix: str, parent: str | None, method: str = "causal") -> None:
        """A stage that has trained for 40 steps, and its evaluation."""
        inputs = {"data": self.output(f"data/{mix}").content}
        inputs |= {"parent": self.output(f"train/{parent}").content} if parent else {}
        head = {
            "method": method,
            "parameters": 1234567,
            "totals": {"tokens": 4000, "in_loss": 3900, "masked": 100},
            "manifest_hash": read_json(self.folder(f"mix/{mix}") / "mix.json")["hash"],
        }
        extra = {} if method == "causal" else {"accuracy": 0.75, "margin": 0.2}
        steps = [
            {"step": n + 1, "tokens": 100, "count": 90, "loss": 5.0 - n / 20, "learning_rate": 1e-3, **extra}
            for n in range(40)
        ]
        by_source = [
            {"step": n + 1, "source": source, "count": 45, "loss_sum": 45 * (5 - n / 20)}
            for n in range(40)
            for source in self.sources
        ]

        def work(build):
            build.write_json("checkpoint.json", head)
            build.write_table("losses.parquet", pa.Table.from_pylist(steps))
            build.write_table("losses_by_source.parquet", pa.Table.from_pylist(by_source))

        self.step(f"train/{stage}", work, inputs)
        line = {"documents": 1, "bytes": 2000, "bits_per_byte": 2.345}
        pairs = {
            "pairs": 40,
            "correct": 30,
            "ties": 1,
            "accuracy": 0.75,
            "accuracy_low": 0.6,
            "accuracy_high": 0.88,
            "margin": 0.3,
        }
        found = {"method": method}
        if method != "reward":
            found["text"] = {"all": line, "by_source": dict.fromkeys(self.sources, line)}
            found["samples"] = [
                {
                    "id": "ab" * 16,
                    "source": "books",
                    "prompt": HOSTILE,
                    "greedy": HOSTILE,
                    "sampled": HOSTILE,
                    "temperature": 0.8,
                }
            ]
        if method != "causal":
            found["pairs"] = {"all": pairs, "by_source": dict.fromkeys(self.sources, pairs)}
        self.step(f"evaluate/{stage}", lambda build: build.write_json("evaluation.json", found), {"of": stage})

    def quality(self) -> None:
        mistake = {"id": "cd" * 16, "source": HOSTILE_SOURCE, "label": "positive", "score": 0.1, "text": HOSTILE}
        report = {
            "train": 90,
            "holdout": 10,
            "positive": "positive",
            "intervals": {"precision": [0.71, 0.91], "recall": [0.8, 0.95]},
            "precision": 0.8,
            "recall": 0.9,
            "f1": 0.85,
            "auc": 0.95,
            "true_positives": 4,
            "false_positives": 1,
            "false_negatives": 1,
            "true_negatives": 4,
            "by_source": {f"positive/{HOSTILE_SOURCE}": {"holdout": 5, "mean": 0.8}},
            "worst_false_positives": [],
            "worst_false_negatives": [mistake],
        }
        self.step("classifier/quality", lambda build: build.write_json("report.json", report))
        rates = {"holdout": 5, "precision": 0.4, "recall": None, "f1": 0.3}
        topic = {"train": 50, "holdout": 10, "classes": {HOSTILE: rates}, "worst_mistakes": [mistake]}
        self.step("classifier/topic", lambda build: build.write_json("report.json", topic))

    def output(self, name: str) -> StepOutput:
        return load(self.folder(name))

    def folder(self, name: str):
        entry = next(entry for entry in self.recorder.data["steps"] if entry["name"] == name)
        return self.context.workspace / entry["folder"]

    def catalog(self, source: str) -> pa.Table:
        return pq.read_table(self.folder(f"catalog/{source}") / "catalog.parquet")

    def finish(self) -> Run:
        return self.recorder.finish("completed")


def texts() -> dict[str, list[str]]:
    """Two sources: hostile text, a text of few words, one of symbols, an exact twin, near twins."""
    plain = [
        f"document {word} tells of {word} and of nothing else at all"
        for word in ("rivers", "stones", "birds", "clouds", "roads", "ships", "lamps", "songs")
    ]
    return {
        HOSTILE_SOURCE: [
            *plain,
            HOSTILE + " and some words more",
            "two words",
            "# # # # four signs",
            plain[0],
            LICENCE,
            LICENCE.replace("number 7 ", "number 7777 "),
            LICENCE.replace("20", "twenty 20"),
        ],
        "books": [plain[1], "a book of its own, with a long story in it", LICENCE.replace("3", "33")],
    }


@pytest.fixture
def fabricator(context: Context) -> Fabricator:
    return Fabricator(context, texts())


@pytest.fixture
def curated_run(fabricator: Fabricator) -> Run:
    """A run that stopped after curation."""
    fabricator.ingest()
    fabricator.curate()
    return fabricator.finish()


@pytest.fixture
def mixed_run(fabricator: Fabricator) -> Run:
    """A run that stopped after its two mixes; the second takes from the first."""
    fabricator.ingest()
    fabricator.curate()
    first = fabricator.mix("pretrain", 1)
    fabricator.mix("midtrain", 3, {"pretrain": read_json(first.folder / "mix.json")["hash"]})
    return fabricator.finish()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fabricator:
    """A run that went through every station, made once."""
    made = Fabricator(Context(tmp_path_factory.mktemp("whole") / "workspace"), texts())
    made.ingest()
    made.curate()
    made.quality()
    made.tokenizer()
    first = made.mix("pretrain", 1)
    made.mix("midtrain", 3, {"pretrain": read_json(first.folder / "mix.json")["hash"]})
    made.heldout()
    made.materialise("pretrain")
    made.materialise("midtrain")
    made.train("pretrain", "pretrain", None)
    made.train("midtrain", "midtrain", "pretrain")
    made.train("reward", "midtrain", "midtrain", "reward")
    made.train("dpo", "midtrain", "midtrain", "dpo")
    made.finish()
    return made


@pytest.fixture
def whole_run(fabricator: Fabricator, whole: Fabricator) -> Run:
    """The whole run in a workspace of the test's own, to change as it likes; `fabricator` knows its numbers."""
    workspace = fabricator.context.workspace
    shutil.rmtree(workspace)
    shutil.copytree(whole.context.workspace, workspace)
    fabricator.__dict__ |= {name: value for name, value in vars(whole).items() if name != "context"}
    return Run(workspace / "runs" / whole.recorder.name, read_json(whole.recorder.folder / "run.json"))


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> tuple[Path, Path]:
    """(folder of the pipeline, workspace), run up to the mixes."""
    folder = tmp_path_factory.mktemp("project")
    write_inputs(folder / "inputs")
    pipeline = write_pipeline(folder / "pipeline", folder / "inputs", training=False)
    execute(Options(pipeline, folder / "workspace", workers=1))
    return folder / "pipeline", folder / "workspace"
