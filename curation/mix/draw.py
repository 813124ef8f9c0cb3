"""Which documents of a source a mix takes, and how often: two passes over its catalog, in bounded memory.

Every cell takes its documents in the order of their keyed hash. The first pass adds up what lies below a window
of hashes around the expected end, and keeps the rows within it: there the draw ends, to the document. The second
pass writes the rows before the end. The cells of a line end together: in the order in which a growing line would
come to them, rows are taken until the line has its tokens, so that what each cell is rounded by does not add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from curation.chat import CUT
from curation.compiled import njit
from curation.keys import key_of, keyed_hash_of, split_ids
from curation.mix.ends import NEAR, CellDraw, transform_of
from curation.mix.pool import Pool, changed_by
from curation.mix.rows import Piece, Profiles, each, pieces
from curation.mix.targets import Target

RECORD = np.dtype(
    [
        ("cell", np.int32),
        ("shard", np.int32),
        ("high", np.uint64),
        ("low", np.uint64),
        ("order", np.uint64),
        ("row", np.uint32),
        ("tokens", np.uint32),
        ("copies", np.uint16),
        ("transform", np.uint8),
    ]
)
TRANSFORMS = {}  # of records, by code: filled by `transform_code`


class Draw:
    """The draw of one source."""

    def __init__(self, pool: Pool, kind: str, seed: int, sequence: int | None):
        self.pool, self.seed, self.sequence = pool, seed, sequence or 0
        self.key = key_of(seed, f"select/{kind}")
        self.cells: list[CellDraw] = []
        self._columns: list[str] = []  # that each cell counts by
        self._names: dict[str, int] = {}  # shards, by number
        self._profiles: Profiles | None = None

    def add(self, target: Target, place: str) -> list[CellDraw]:
        """Draw what a line takes of this source; its cells, in their order."""
        transform, column, added = self.pool.transforms[place], self.pool.tokens[place], []
        wanted = zip(target.cells, target.by_cell(), target.caps, target.rates(), strict=True)
        for cell, tokens, cap, rate in wanted:
            if cell.source == self.pool.source and cell.documents and tokens:
                full, rest = divmod(tokens, cell.tokens)
                capped = not rest and tokens >= cap
                added.append(CellDraw(cell, tokens, rate, full, rest, capped, transform))
        self.cells += added
        self._columns += [column] * len(added)
        return added

    def weigh(self) -> None:
        """The pass for the ends: sums below each window, the rows within."""
        pairs = [(profile, n) for n, cell in enumerate(self.cells) for profile in cell.cell.profiles]
        self._profiles = Profiles(self.pool.axes, [one for one, _ in pairs], [n for _, n in pairs])
        for cell in self.cells:
            cell.set_window()
        low = np.array([cell.low for cell in self.cells], np.uint64)
        high = np.array([cell.high for cell in self.cells], np.uint64)
        sums = np.zeros((len(self.cells), 3), np.int64), np.zeros((len(self.cells), 3), np.int64)

        def work(piece: Piece):
            cells, tokens, halves, table = self._read(piece)
            hashes, near = keyed_hash_of(*halves, self.key), np.empty(len(cells), np.int64)
            own = np.zeros_like(sums[0]), np.zeros_like(sums[0])
            found = near[: _weigh(cells, hashes, tokens, low, high, self.sequence, *own, near)]
            return *own, self._near(found, cells, tokens, hashes, halves, table)

        kept = [np.zeros(0, NEAR)]
        for everything, below, (near, shards) in each(work, pieces(self.pool.catalog)):
            sums[0][:] += everything
            sums[1][:] += below
            near["shard"] = self.numbers(shards)[near["shard"]]
            kept.append(near)
        near = np.concatenate(kept)
        near = near[np.lexsort((near["hash"], near["cell"]))]
        if ((near["hash"][1:] == near["hash"][:-1]) & (near["cell"][1:] == near["cell"][:-1])).any():
            ranks = self._shard_ranks()
            keys = (near["row"], ranks[near["shard"]], near["low"], near["high"], near["hash"], near["cell"])
            near = near[np.lexsort(keys)]
        edges = np.searchsorted(near["cell"], np.arange(len(self.cells) + 1))
        for number, cell in enumerate(self.cells):
            cell.all, cell.below = sums[0][number], sums[1][number]
            cell.near = near[edges[number] : edges[number + 1]]

    def records(self) -> Iterator[np.ndarray]:
        """The pass that writes: the rows that are taken, as arrays of RECORD, in the order of the catalog."""
        if not self.cells:
            return
        limits = [cell.limit for cell in self.cells]
        limit, every = np.array([one for one, _ in limits], np.uint64), np.array([one for _, one in limits])
        full = np.array([cell.full for cell in self.cells], np.int64)
        codes = np.array([transform_code(cell.transform) for cell in self.cells], np.uint8)
        ties = self._ties()
        order = key_of(self.seed, "order")

        def work(piece: Piece) -> tuple[np.ndarray, list[str]]:
            cells, tokens, (high, low), table = self._read(piece)
            hashes = keyed_hash_of(high, low, self.key)
            copies = _copies(cells, hashes, full, limit, every)
            if ties:
                self._add_ties(ties, copies, cells, hashes, limit, table)
            rows = np.flatnonzero(copies)
            shards, names = _dictionary(table["shard"])
            found = np.empty(len(rows), RECORD)
            found["cell"], found["shard"] = cells[rows], shards[rows]
            found["high"], found["low"] = high[rows], low[rows]
            found["order"] = keyed_hash_of(found["high"].copy(), found["low"].copy(), order)
            found["row"], found["tokens"] = table["row"].to_numpy()[rows], tokens[rows]
            found["copies"] = copies[rows]
            found["transform"] = codes[cells[rows]]
            found["transform"][~self._changed(table, cells)[rows]] = transform_code("none")
            return found, names

        for found, names in each(work, pieces(self.pool.catalog)):
            found["shard"] = self.numbers(names)[found["shard"]]
            yield found
        yield self._cuts(order)

    @property
    def shards(self) -> list[str]:
        """Names of shards, by the number that records have."""
        return list(self._names)

    def _read(self, piece: Piece) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], pa.Table]:
        """Of each row of a piece: its cell (-1: none), its tokens there, the halves of its id; and the piece."""
        table, passed = self.pool.rows(piece, ["id", "shard", "row"])
        cells = self._profiles.cells(table, passed)
        names = sorted(set(self._columns))
        tokens = np.zeros(len(table), np.int64)
        for name in names:
            own = cells >= 0
            if len(names) > 1:
                own &= np.array([column == name for column in self._columns] + [False])[cells]
            tokens[own] = table[name].to_numpy()[own]
        cells[self.pool.held(table) | (tokens == 0)] = -1
        return cells, tokens, split_ids(table["id"]), table

    def _changed(self, table: pa.Table, cells: np.ndarray) -> np.ndarray:
        """Which rows the transform of their cell changes. One that only renders counts as changing all."""
        changed = np.ones(len(table), bool)
        for name in sorted({one for cell in self.cells if (one := changed_by(cell.transform))}):
            own = np.array([changed_by(cell.transform) == name for cell in self.cells] + [False])[cells]
            changed[own] = table[name].to_numpy()[own]
        return changed

    def _near(self, rows, cells, tokens, hashes, halves, table) -> tuple[np.ndarray, list[str]]:
        shards, names = _dictionary(table["shard"])
        near = np.empty(len(rows), NEAR)
        near["cell"], near["shard"], near["hash"] = cells[rows], shards[rows], hashes[rows]
        near["high"], near["low"] = halves[0][rows], halves[1][rows]
        near["row"], near["tokens"] = table["row"].to_numpy()[rows], tokens[rows]
        near["changed"] = self._changed(table, cells)[rows]
        return near, names

    def _ties(self) -> dict[int, set[tuple[str, int]]]:
        """By cell: (shard, row) of documents of the very hash that ends the draw, and still taken."""
        found, names = {}, self.shards
        for number, cell in enumerate(self.cells):
            limit, every = cell.limit
            if not every:
                tied = cell.near[: cell.taken]
                tied = tied[tied["hash"] == limit]
                if len(tied):
                    found[number] = {(names[one["shard"]], int(one["row"])) for one in tied}
        return found

    def _add_ties(self, ties, copies, cells, hashes, limit, table) -> None:
        for row in np.flatnonzero((cells >= 0) & (hashes == limit[cells])):
            key = table["shard"][int(row)].as_py(), table["row"][int(row)].as_py()
            copies[row] += key in ties.get(int(cells[row]), ())

    def _cuts(self, order: int) -> np.ndarray:
        """Of each cell that is cut to the token, the row of the document that is."""
        cut = [(number, cell) for number, cell in enumerate(self.cells) if cell.cut]
        found = np.zeros(len(cut), RECORD)
        for place, (number, cell) in enumerate(cut):
            near = cell.near[cell.cut_at]
            found[place]["cell"], found[place]["shard"] = number, near["shard"]
            found[place]["high"], found[place]["low"], found[place]["row"] = near["high"], near["low"], near["row"]
            found[place]["tokens"], found[place]["copies"] = cell.cut, 1
            found[place]["transform"] = transform_code(CUT[transform_of(cell, near)])
        found["order"] = keyed_hash_of(found["high"].copy(), found["low"].copy(), order)
        return found

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """The numbers of shards, new ones where they are new."""
        return np.array([self._names.setdefault(name, len(self._names)) for name in names] or [0], np.int32)

    def _shard_ranks(self) -> np.ndarray:
        return np.argsort(np.argsort(np.array(self.shards or [""], object), kind="stable"), kind="stable")


def transform_code(name: str) -> int:
    """The number of a transform in records. Raises ValueError where a process has met 256 others."""
    return TRANSFORMS.setdefault(name, len(TRANSFORMS))


def _dictionary(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        return np.zeros(0, np.int64), []
    return array.indices.to_numpy().astype(np.int64), array.dictionary.to_pylist()


@njit(nogil=True, cache=True)
def _weigh(cells, hashes, tokens, low, high, sequence, everything, below, near):
    """Add up documents, tokens and pieces of each cell, in all and below its window; note the rows within."""
    found = 0
    for i in range(len(cells)):
        cell = cells[i]
        if cell < 0:
            continue
        pieces_of = (tokens[i] + sequence - 1) // sequence if sequence else 1
        everything[cell, 0] += 1
        everything[cell, 1] += tokens[i]
        everything[cell, 2] += pieces_of
        if hashes[i] < low[cell]:
            below[cell, 0] += 1
            below[cell, 1] += tokens[i]
            below[cell, 2] += pieces_of
        elif hashes[i] <= high[cell]:
            near[found] = i
            found += 1
    return found


@njit(nogil=True, cache=True)
def _copies(cells, hashes, full, limit, every):
    copies = np.zeros(len(cells), np.int64)
    for i in range(len(cells)):
        cell = cells[i]
        if cell >= 0:
            copies[i] = full[cell] + (every[cell] or hashes[i] < limit[cell])
    return copies
