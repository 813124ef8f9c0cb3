"""The tokenizer of a pipeline, trained on its pools or given, and the token counts of every document."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from curation.chat import DOCUMENT_COLUMNS, KIND_TRANSFORM, kind_of, plain_texts, segments
from curation.encoder import CHOICE, FOLDER, Encoder, load_encoder
from curation.executor import StoppedError
from curation.files import write_json, write_parquet
from curation.mix.manifest import load_manifest, require_verified
from curation.preference.facts import FACTS, pair_facts
from curation.shards import batches, in_order
from curation.steps import Build, Context, StepOutput, step
from curation.tokenizer.bpe import folder_hash, take_given, train_bpe, write_folder
from curation.tokenizer.config import TRAINING, Tokenizer
from curation.tokenizer.proof import prove
from curation.tokenizer.report import REPORT, measure_fit, pick_shown
from curation.tokenizer.sample import Outputs, Sample, Texts, alive_bytes, choose, choose_from_mix

Item = TypeVar("Item")
READERS = 4  # threads that read samples ahead, at most
PROOF_BYTES = 1 << 18  # of each source, about, on which fastokens and our counter are compared with tokenizers


def train_tokenizer(
    ctx: Context,
    pools: Outputs,
    measured: Outputs,
    ledgers: list[StepOutput],
    config: Tokenizer,
) -> StepOutput:
    """The step `tokenizer`: `tokenizer/`, a folder that AutoTokenizer loads, `encoder.json` and `report.json`.

    `encoder.json` says which library encodes: fastokens if it gives the ids of tokenizers on a sample of every
    pool; and whether our own kernels count, on the same terms. `report.json` has the bytes per token of every
    source. Neither is part of the step's content, which is that of `tokenizer/` alone (tokenizer.json and the chat
    template): what token ids depend on, and what mixes record as `tokenizer_hash`. Raises FileNotFoundError for a
    folder without a tokenizer, ManifestError for a mix that does not verify, ValueError for one of other pools and
    for weights of unknown sources.
    """
    inputs = {f"pool/{source}": pool.content for source, pool in sorted(pools.items())}
    inputs |= {f"measured/{source}": output.content for source, output in sorted(measured.items())}
    inputs |= {f"ledger/{ledger.name}": ledger.content for ledger in ledgers}
    excluded = {"path", "mix", "reference"}
    if config.path is not None:
        inputs["given"] = folder_hash(Path(config.path), "tokenizer.path")
        excluded |= set(TRAINING)
    if config.mix is not None:
        inputs["mix"] = load_manifest(Path(config.mix)).hash
    if config.reference is not None:
        inputs["reference"] = folder_hash(Path(config.reference), "tokenizer.reference")

    def work(build: Build) -> None:
        sample, settings, threads = Sample([]), {}, min(READERS, ctx.executor.workers)
        names, held = sorted(pools), Texts()
        picked = in_order(lambda one: pick_shown(one, pools, measured, ledgers, config), names, threads)
        shown = dict(zip(names, picked, strict=True))
        if config.path is not None:
            tokenizer, settings = take_given(Path(config.path), config.special_tokens)
        elif config.mix is not None:
            sample = choose_from_mix(require_verified(Path(config.mix)), pools, measured, config)
        else:
            sample = choose(pools, measured, ledgers, config)
        others = list(chain.from_iterable(shown.values()))
        texts = _until_stopped(ctx, sample.texts(threads, others, held))
        if config.path is None:
            tokenizer = train_bpe(texts, config)
        else:
            deque(texts, maxlen=0)  # there are none to train on, but those that are held
        folder = build.folder / FOLDER
        write_folder(folder, tokenizer, settings)
        samples = ((one, _spread(held.get(one, []))) for one in names)
        choice = prove(folder, _until_stopped(ctx, samples), threads)
        write_json(build.scratch(CHOICE), choice)
        encoder = load_encoder(build.folder)
        sizes = in_order(lambda one: alive_bytes(pools[one], measured[one], ledgers), names, threads)
        alive = dict(zip(names, sizes, strict=True))
        report = measure_fit(encoder, alive, shown, held, config, sample.picks, threads)
        trained = {"documents": sample.documents, "bytes": sample.bytes}
        write_json(build.scratch(REPORT), {**report, "trained_on": trained if config.path is None else None})
        build.counts |= {
            "vocab_size": encoder.vocab_size,
            "sample_documents": sum(sample.documents.values()),
            "sample_bytes": sum(sample.bytes.values()),
            "proof_texts": choice["texts"],
            "proof_tokens": choice["tokens"],
        }

    return step(ctx, "tokenizer", 2, config.model_dump(mode="json", exclude=excluded), inputs, work)


def count_tokens(ctx: Context, pool: StepOutput, tokenizer: StepOutput) -> StepOutput:
    """The step `tokens/<source>`: for every document of the pool `id, tokens, tokens_plain` (uint32).

    tokens: as trained by default: text + end-of-text; chat by the template; pairs prompt + chosen and prompt +
    rejected, so the prompt counts twice. tokens_plain: as one text + end-of-text (of pairs prompt and chosen).
    Of pairs also the columns of `curation.preference.facts.FACTS`.
    """

    def work(build: Build) -> None:
        shards = pool.shards()
        threads = ctx.executor.threads(len(shards))
        units = {path.stem: (str(path), str(tokenizer.folder), threads) for path in shards}
        encoder = load_encoder(tokenizer)
        kind = encoder.kind_of_units(len(units), ctx.executor.workers, count=True)
        results = build.map(count_shard, units, kind).values()
        totals = {name: sum(result[name] for result in results) for name in COUNTED}
        build.counts = {
            **totals,
            "documents_out": totals["documents_in"],
            "counted_by": {encoder.counts_by: len(units)},
        }

    inputs = {"pool": pool.content, "tokenizer": tokenizer.content}
    return step(ctx, f"tokens/{pool.source}", 2, {}, inputs, work)


COUNTED = ("documents_in", "tokens", "tokens_plain", "tokens_in_loss", "without_loss")
COUNTS = pa.schema([("id", pa.string()), ("tokens", pa.uint32()), ("tokens_plain", pa.uint32())])


def count_shard(folder: Path, key: str, shard: str, tokenizer: str, threads: int) -> dict[str, int]:
    """Count one shard. `without_loss` documents have no token to learn from, such as a chat without an answer."""
    encoder = load_encoder(Path(tokenizer))
    parts = list(in_order(partial(_counted, encoder), batches(Path(shard), DOCUMENT_COLUMNS), threads))
    counted = pa.concat_tables([table for table, _ in parts] or [COUNTS.empty_table()])
    write_parquet(folder / "shards" / f"{key}.parquet", counted.combine_chunks())
    totals = {name: sum(loss[name] for _, loss in parts) for name in ("tokens_in_loss", "without_loss")}
    totals["documents_in"] = len(counted)
    totals |= {name: int(counted[name].to_numpy().sum(dtype=np.int64)) for name in ("tokens", "tokens_plain")}
    return totals


def _counted(encoder: Encoder, batch: tuple[np.ndarray, pa.Table]) -> tuple[pa.Table, dict[str, int]]:
    """COUNTS of some documents, of pairs FACTS too; and what they have in the loss."""
    _, table = batch
    kind, facts = kind_of(table), []
    if kind == "text":  # its end-of-text token is in the loss too
        tokens = plain = in_loss = encoder.lengths(plain_texts(table)) + 1
    else:
        rendered = segments(table, KIND_TRANSFORM[kind], encoder.specials)
        counted = encoder.count(rendered)
        tokens, in_loss = counted.lengths, counted.in_loss
        plain = encoder.lengths(plain_texts(table)) + 1
        if kind == "pairs":
            facts = pair_facts(table, rendered, counted, encoder.specials).columns
    columns = [table["id"].cast(pa.string()), *(pa.array(one, pa.uint32()) for one in (tokens, plain))]
    schema = pa.schema([*COUNTS, *(FACTS if facts else ())])
    loss = {"tokens_in_loss": int(in_loss.sum()), "without_loss": int((in_loss == 0).sum())}
    return pa.table([*columns, *facts], schema=schema), loss


def _until_stopped(ctx: Context, items: Iterator[Item]) -> Iterator[Item]:
    """The items while the run goes on; else StoppedError: no interrupt reaches a thread beside the main one."""
    for item in items:
        if ctx.executor.closed:
            raise StoppedError("the run was stopped")
        yield item


def _spread(texts: list[str]) -> list[str]:
    """Every nth text, about PROOF_BYTES of them."""
    return texts[:: max(1, sum(map(len, texts)) // PROOF_BYTES)]
