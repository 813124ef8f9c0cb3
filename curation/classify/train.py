"""The station `classifier/<name>`: a fastText model trained as the pipeline says, its figures and its account.

For quality the idea and the classes are those of DCLM (Li et al. 2024, section 4.4) and of Dolma 3, for topics
those of WebOrganizer as Dolma 3 distils them; fastText is Joulin et al. 2016.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.classify.examples import Example, Outputs, examples_of, held_out
from curation.classify.figures import evaluate
from curation.classify.models import LABEL, Applied, KernelModel
from curation.classify.prepare import prepared_texts
from curation.classify.settings import Classifier, ExampleFile
from curation.files import TEMPORARY, atomic, file_hash, json_hash
from curation.measure.fasttext_model import read_model
from curation.steps import Build, Context, StepOutput, step

MODEL, REPORT = "model.bin", "report.json"
APPLIED = {"sources", "max_tokens"}  # settings that say nothing of training


def train_classifier(
    ctx: Context,
    name: str,
    settings: Classifier,
    pools: Outputs,
    measured: Outputs,
    ledgers: list[StepOutput],
) -> StepOutput:
    """The step `classifier/<name>`: `model.bin` of fastText, `report.json` on the examples kept out of training.

    One thread gives the same bytes for the same examples; more do not, which raises an alarm. Raises ValueError
    for an unknown source, or too few examples.
    """
    named = settings.training_sources()
    if unknown := [source for source in named if source not in pools]:
        there = ", ".join(sorted(pools))
        raise ValueError(f"classifiers.{name}: no source named {', '.join(unknown)}; there are {there}")
    inputs = {f"pool/{source}": pools[source].content for source in named}
    inputs |= {f"measured/{source}": measured[source].content for source in named}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}

    def work(build: Build) -> None:
        examples = examples_of(name, settings, pools, measured, ledgers)
        held = held_out(examples, settings)
        taught = [one for one, out in zip(examples, held, strict=True) if not out]
        with atomic(build.folder / MODEL) as temporary:
            _train(taught, settings, temporary)
        if settings.threads > 1:
            build.alarm(f"trained with {settings.threads} threads: another run gives another model file")
        build.write_json(REPORT, _report(build.folder / MODEL, examples, held, settings))
        build.counts = {
            "documents_in": len(examples),
            "documents_out": len(taught),
            "holdout_documents": int(held.sum()),
        }

    return step(ctx, f"classifier/{name}", 3, _literals(settings), inputs, work)


def trained(name: str, settings: Classifier, model: StepOutput) -> Applied:
    """The classifier of the step `classifier/<name>`, ready to be applied."""
    return Applied(name, model.place / MODEL, model.record["files"][MODEL]["hash"], settings, model)


def _literals(settings: Classifier) -> dict:
    """What decides the model. A file of examples counts by its bytes, not by its path."""
    literals = settings.model_dump(mode="json", exclude=APPLIED)

    def entries(one: list[str | ExampleFile]) -> list:
        return [entry if isinstance(entry, str) else {"file": file_hash(Path(entry.file))} for entry in one]

    literals |= {side: entries(getattr(settings, side)) for side in ("positives", "negatives")}
    return literals | {"classes": {label: entries(one) for label, one in settings.classes.items()}}


def _report(path: Path, examples: list[Example], held: np.ndarray, settings: Classifier) -> dict:
    """Figures on what was held out, and the account of what was not."""
    taught = [one for one, out in zip(examples, held, strict=True) if not out]
    unseen = [one for one, out in zip(examples, held, strict=True) if out]
    model = KernelModel(read_model(path), settings.prefix, *settings.normalised())
    by_class: dict[str, Counter] = {}
    for one in taught:
        by_class.setdefault(one.label, Counter())[one.source] += 1
    account = {
        "model_hash": file_hash(path),
        "labels": model.labels,
        "examples": {label: dict(sorted(counts.items())) for label, counts in sorted(by_class.items())},
        "examples_hash": json_hash([[one.id, one.label] for one in taught]),
        "settings": settings.model_dump(mode="json", exclude=APPLIED | {"positives", "negatives", "classes"}),
    }
    positive = settings.score_label()
    head = {"train": len(taught), "prefix": settings.prefix, "account": account}
    return head | evaluate(model, unseen, positive)


def _train(examples: list[Example], settings: Classifier, path: Path) -> None:
    """Write the model of fastText to `path`. Its examples pass through a temporary file beside it."""
    import fasttext

    texts = pa.array([one.text for one in examples], pa.large_string())
    seen = prepared_texts(texts, settings.prefix, *settings.normalised())
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
        lines = Path(folder) / "examples.txt"
        with open(lines, "w", encoding="utf-8") as file:
            file.writelines(f"{LABEL}{one.label} {text}\n" for one, text in zip(examples, seen, strict=True))
        model = fasttext.train_supervised(
            str(lines),
            epoch=settings.epochs,
            dim=settings.dim,
            lr=settings.lr,
            wordNgrams=settings.word_ngrams,
            minn=settings.subwords[0],
            maxn=settings.subwords[1],
            bucket=settings.buckets,
            seed=settings.seed,
            thread=settings.threads,
            verbose=0,
        )
        model.save_model(str(path))
