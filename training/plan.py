"""What is fed, and when: the order of a run, its steps and micro-batches, as pure functions of data and settings.

A *unit* is a fragment of a document, or a pair. Units come in the order of the manifest: epoch by epoch, sorted
by the occurrence's key. A step takes units in that order up to its token budget, so the loader's whole state is
the number of the step. Within a step, best-fit decreasing puts the units into micro-batches; nothing is padded.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from curation.keys import occurrence_key
from curation.order import boundaries, occurrences
from training.config import TrainConfig
from training.data import Data, DataError
from training.runs import last_turn

FRAGMENT = np.uint64(32)  # the bits above hold the fragment's number where its key is derived


@dataclass(frozen=True)
class Plan:
    """The units of a run in their order. Arrays have a length of n units; spans are positions in tokens.bin."""

    row: np.ndarray  # int64, the document's row of the index
    start: np.ndarray  # int64, of the fragment, or of prompt + chosen
    length: np.ndarray  # int64
    prompt: np.ndarray  # int64, tokens at the start of both sequences that are never in the loss
    other_start: np.ndarray  # int64, of prompt + rejected
    other_length: np.ndarray  # int64, 0 where the data holds no pairs
    truncated: np.ndarray  # int64, tokens of the pair beyond the sequence length
    in_loss: np.ndarray  # int64
    chosen_in_loss: np.ndarray  # int64, of these, the chosen answer's; 0 where the data holds no pairs
    skipped: np.ndarray  # int64, rows (repeated by copy and epoch) left out: too long, or cut to the prompt
    over: np.ndarray  # int64, rows (repeated by copy and epoch) longer than sequence_length, fed or not
    steps: np.ndarray  # int64 (steps + 1,): the units of step s are steps[s] to steps[s + 1]
    longest: int  # sequence_length: no sequence has more tokens

    @property
    def tokens(self) -> np.ndarray:
        """Tokens that each unit brings into a micro-batch, int64 (n,)."""
        return self.length + self.other_length

    def answer_tokens(self, unit: int) -> float:
        """The mean number of tokens in the loss of a chosen answer, over all pairs of the unit's step."""
        step = int(np.searchsorted(self.steps, unit, "right")) - 1
        return float(self.chosen_in_loss[self.steps[step] : self.steps[step + 1]].mean())

    def micro_batches(self, step: int, capacity: int) -> list[np.ndarray]:
        """The units of one step by micro-batch, each of at most `capacity` tokens or of one unit."""
        first, last = self.steps[step], self.steps[step + 1]
        bins = best_fit_decreasing(self.tokens[first:last], capacity)
        return [first + np.array(members, np.int64) for members in bins]


def make_plan(data: Data, config: TrainConfig) -> Plan:
    """The plan of a stage. Raises DataError for data without a token in the loss, or a step without one."""
    if (config.method == "causal") != (data.rejected_start is None):
        wanted = "documents" if config.method == "causal" else "pairs"
        raise DataError(f"{data.folder}: method {config.method} trains on {wanted}, and this data holds none")
    units = _fragments(data, config) if config.method == "causal" else _pairs(data, config)
    if not units.in_loss.any():
        raise DataError(f"{data.folder}: not one token is in the loss; check the transform of the mix")
    steps = boundaries(units.tokens, config.batch_tokens)
    if config.max_steps is not None:
        steps = steps[: config.max_steps + 1]
    in_loss = np.add.reduceat(units.in_loss, steps[:-1]) if len(units.row) else np.zeros(0, np.int64)
    if steps[-1] < len(units.row):  # reduceat runs the last step to the end
        in_loss[-1] = units.in_loss[steps[-2] : steps[-1]].sum()
    if not in_loss.all():
        step = int(np.flatnonzero(in_loss == 0)[0])
        rows = units.row[steps[step] : steps[step + 1]]
        raise DataError(
            f"{data.folder}: step {step + 1} would hold no token in the loss (documents {data.names(rows)}); "
            f"raise batch_tokens above {config.batch_tokens} or keep such documents out of the mix"
        )
    return Plan(**{**vars(units), "steps": steps})


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Items put into bins, the largest item first, each into the fullest bin that still takes it.

    An item above the capacity has a bin of its own. Equal sizes keep their order.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free, bin), sorted
    for item in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        size = int(sizes[item])
        place = bisect_left(room, (size, -1))
        if place == len(room):
            bins.append([item])
            free, target = capacity - size, len(bins) - 1
        else:
            free, target = room.pop(place)
            bins[target].append(item)
            free -= size
        if free > 0:
            insort(room, (free, target))
    return bins


def pair_bins(data: Data, rows: np.ndarray, longest: int, capacity: int) -> list[np.ndarray]:
    """Places in `rows` of pairs by micro-batch, both sides cut to `longest` tokens."""
    sizes = np.minimum(data.length[rows], longest) + np.minimum(data.rejected_length[rows], longest)
    return [np.array(members) for members in best_fit_decreasing(sizes, capacity)]


def _fragments(data: Data, config: TrainConfig) -> Plan:
    """Units of documents, each cut into the fewest fragments that fit, of lengths that differ by one at most.

    The first token of a fragment has no target: it is counted as masked.

    Fragments of a document are spread over the run, like documents; fragment 0 keeps the occurrence's key. With
    `over_length` cut or drop, a document is one fragment of its first tokens or none; one that keeps no token in
    the loss that it had is left out.
    """
    row, epoch, key = occurrences(data.order, data.copies, config.epochs)
    over = row[data.length[row] > config.sequence_length]
    prompts = _last_turns(data) if config.loss_on == "last" else np.zeros(data.rows, np.int64)
    kept, lengths = _within(data, config, prompts)
    skipped, taken = row[~kept[row]], kept[row]
    row, epoch, key = row[taken], epoch[taken], key[taken]
    count = -(-lengths[row] // config.sequence_length)
    fragment = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    row, epoch, key, count = (np.repeat(values, count) for values in (row, epoch, key, count))
    key = occurrence_key(key, fragment.astype(np.uint64) << FRAGMENT)
    base, longer = lengths[row] // count, lengths[row] % count
    length = base + (fragment < longer)
    offset = fragment * base + np.minimum(fragment, longer)
    order = np.lexsort((fragment, row, key, epoch))
    nothing = np.zeros(len(row), np.int64)
    row, offset, length = row[order], offset[order], length[order]
    start, prompt = data.start[row] + offset, np.clip(prompts[row] - offset, 0, length)
    return Plan(
        row=row,
        start=start,
        length=length,
        prompt=prompt,
        other_start=nothing,
        other_length=nothing,
        truncated=(data.length - lengths)[row],
        in_loss=_count_in_loss(data, start + np.maximum(1, prompt), start + length),
        chosen_in_loss=nothing,
        skipped=skipped,
        over=over,
        steps=nothing[:0],
        longest=config.sequence_length,
    )


def _within(data: Data, config: TrainConfig, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which documents are fed, bool (rows,), and how many of their tokens, int64 (rows,), by `over_length`."""
    everything, over = np.ones(data.rows, bool), data.length > config.sequence_length
    if config.over_length in (None, "split"):
        return everything, data.length
    _refuse(data, over, config)
    if config.over_length == "drop":
        return ~over, data.length
    lengths = np.minimum(data.length, config.sequence_length)
    first = data.start + np.maximum(1, prompts)
    emptied = _count_in_loss(data, first[over], (data.start + lengths)[over]) == 0
    had = _count_in_loss(data, first[over], (data.start + data.length)[over]) > 0
    everything[np.flatnonzero(over)[emptied & had]] = False
    return everything, lengths


def _refuse(data: Data, over: np.ndarray, config: TrainConfig) -> None:
    if config.over_length == "raise" and over.any():
        rows = np.flatnonzero(over)
        raise DataError(
            f"{data.folder}: {len(rows)} documents are longer than sequence_length {config.sequence_length}: "
            f"{data.names(rows)}; raise it, or set over_length to cut or drop"
        )


def _pairs(data: Data, config: TrainConfig) -> Plan:
    """Units of pairs, each side cut to its first `sequence_length` tokens; with `over_length` drop, left out.

    A pair of which one side keeps no token in the loss cannot be compared: it is left out, and its tokens count
    as truncated.
    """
    row, epoch, key = occurrences(data.order, data.copies, config.epochs)
    row = row[np.lexsort((row, key, epoch))]
    length = np.minimum(data.length, config.sequence_length)
    other = np.minimum(data.rejected_length, config.sequence_length)
    over = (length < data.length) | (other < data.rejected_length)
    _refuse(data, over, config)
    chosen_loss = _count_in_loss(data, data.start + np.maximum(1, data.prompt), data.start + length)
    rejected_loss = _count_in_loss(
        data, data.rejected_start + np.maximum(1, data.prompt), data.rejected_start + other
    )
    usable = (chosen_loss > 0) & (rejected_loss > 0) & ~(over & (config.over_length == "drop"))
    too_long = row[over[row]]
    skipped, row = row[~usable[row]], row[usable[row]]
    return Plan(
        row=row,
        start=data.start[row],
        length=length[row],
        prompt=data.prompt[row],
        other_start=data.rejected_start[row],
        other_length=other[row],
        truncated=(data.length + data.rejected_length - length - other)[row],
        in_loss=(chosen_loss + rejected_loss)[row],
        chosen_in_loss=chosen_loss[row],
        skipped=skipped,
        over=too_long,
        steps=row[:0],
        longest=config.sequence_length,
    )


def _last_turns(data: Data) -> np.ndarray:
    """Where the last turn in the loss begins, in tokens from each document's start, int64 (rows,)."""
    mask = np.asarray(data.mask)
    spans = zip(data.start.tolist(), data.length.tolist(), strict=True)
    return np.fromiter((last_turn(mask[start : start + length]) for start, length in spans), np.int64, data.rows)


def _count_in_loss(data: Data, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """How many tokens of each span [first, last) the mask puts into the loss. An empty span counts none."""
    mask = np.asarray(data.mask)
    spans = zip(first.tolist(), last.tolist(), strict=True)
    return np.fromiter((np.count_nonzero(mask[a:b]) for a, b in spans), np.int64, len(first))
