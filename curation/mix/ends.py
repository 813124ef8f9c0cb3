"""Where the draw of each cell of a line ends: after which document, in the order of their keyed hashes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from curation.chat import CUT
from curation.mix.pool import Cell

LAST = (1 << 64) - 1
SPREAD = 8.0  # standard deviations of the expected end that a window reaches
MARGIN = 32  # and documents more, of the size that a token is likely to be in
WIDER = 16  # times, where the end was not within

NEAR = np.dtype(
    [
        ("cell", np.int32),
        ("shard", np.int32),
        ("hash", np.uint64),
        ("high", np.uint64),
        ("low", np.uint64),
        ("row", np.uint32),
        ("tokens", np.int64),
        ("changed", np.bool_),
    ]
)
COUNTS = ("documents", "occurrences", "fragments", "tokens")


@dataclass
class CellDraw:
    """A cell that something is taken of, and where its draw ends."""

    cell: Cell
    tokens: int  # to take
    rate: float  # at which its line draws from it
    full: int  # whole rounds over its documents; the draw ends in the next
    rest: int  # tokens of that round
    capped: bool  # nothing more may be taken
    transform: str
    width: float = 1.0  # of its window, times the expected
    low: int = 0
    high: int = LAST
    all: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))  # documents, tokens, pieces
    below: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    near: np.ndarray = field(default_factory=lambda: np.zeros(0, NEAR))
    taken: int = 0  # of `near`, from the front
    cut: int = 0  # the first tokens of one more document: near[cut_at]
    cut_at: int = -1

    def set_window(self) -> None:
        share = self.rest / self.cell.tokens
        spread = SPREAD * math.sqrt(share * (1 - share) * self.cell.squares) / self.cell.tokens
        spread = self.width * (spread + MARGIN * self.cell.squares / self.cell.tokens**2)
        self.low = max(0, int((share - spread) * 2**64))
        self.high = min(LAST, int((share + spread) * 2**64))

    @property
    def whole(self) -> bool:
        """The window reaches the last document of the cell."""
        return self.high == LAST

    def counts(self, sequence: int) -> dict[str, int]:
        """What is taken: documents, occurrences, fragments, tokens."""
        near = self.near[: self.taken]
        pieces_of = _pieces(near["tokens"], sequence)
        rest = self.below + np.array([len(near), near["tokens"].sum(), pieces_of.sum()], np.int64)
        documents, tokens, fragments = (self.full * self.all + rest).tolist()
        unique = int(self.all[0]) if self.full else int(rest[0])
        if self.cut:
            documents, tokens, unique = documents + 1, tokens + self.cut, unique + (not self.full)
            fragments += int(_pieces(np.array([self.cut]), sequence)[0])
        return dict(zip(COUNTS, (unique, documents, fragments, tokens), strict=True))

    @property
    def rows(self) -> int:
        """Rows of the manifest."""
        return int(self.all[0] if self.full else self.below[0] + self.taken) + bool(self.cut)

    @property
    def limit(self) -> tuple[int, bool]:
        """The hash below which a document is of the last round, and whether all are."""
        if self.capped:
            return 0, False
        return (int(self.near["hash"][self.taken]), False) if self.taken < len(self.near) else (LAST, True)


def _pieces(tokens: np.ndarray, sequence: int) -> np.ndarray:
    return (tokens + sequence - 1) // sequence if sequence else np.ones(len(tokens), np.int64)


def end_lines(lines: list[list[CellDraw]], exact: bool) -> list[CellDraw]:
    """Find where the draws of lines end that divide one line. Returns the cells whose window does not show it.

    Each ends before or after the document that its target lies in, whichever brings them all nearer to theirs:
    what they are rounded by does not add up.
    """
    unseen, carried = [], 0
    for cells in lines:
        carried += _end_line(cells, exact, carried, unseen)
    return unseen


def _end_line(cells: list[CellDraw], exact: bool, carried: int, unseen: list[CellDraw]) -> int:
    """End one line; its tokens above its target. `carried`: those of the lines before it."""
    if exact:
        unseen += [cell for cell in cells if not _end_to_the_token(cell)]
        return 0
    open_cells = [cell for cell in cells if not cell.capped]
    levels, tokens, owner = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, cell in enumerate(open_cells):
        doubled = 2 * (int(cell.below[1]) + np.cumsum(cell.near["tokens"])) - cell.near["tokens"]
        levels.append((cell.full + doubled / (2 * cell.cell.tokens)) / cell.rate)
        tokens.append(cell.near["tokens"])
        owner.append(np.full(len(cell.near), number))
    order = np.argsort(np.concatenate(levels), kind="stable")
    wanted = sum(cell.rest - int(cell.below[1]) for cell in open_cells)
    count, over = nearest_prefix(np.concatenate(tokens)[order], wanted, carried)
    taken = np.bincount(np.concatenate(owner)[order[:count]], minlength=len(open_cells))
    for cell, own in zip(open_cells, taken.tolist(), strict=True):
        cell.taken = own
        if (cell.low and not own) or (own == len(cell.near) and not cell.whole):
            unseen.append(cell)
    return over


def nearest_prefix(tokens: np.ndarray, target: int, carried: int = 0) -> tuple[int, int]:
    """How many items from the front come nearest to `target` tokens less what is `carried`, one of the two counts
    on either side of the target; and what they have above the target. `tokens`: shape (n,), all above 0.
    """
    if target <= 0:
        return 0, -target
    ends = np.cumsum(tokens)
    count = int(np.searchsorted(ends, target, side="right"))
    over = (int(ends[count - 1]) if count else 0) - target
    if count < len(tokens) and over and abs(carried + over + int(tokens[count])) <= abs(carried + over):
        return count + 1, over + int(tokens[count])
    return count, over


def _end_to_the_token(cell: CellDraw) -> bool:
    """Take what fits, and the missing tokens of the next document that may be cut; whether the window shows it."""
    cell.cut, cell.cut_at = 0, -1
    missing = cell.rest - int(cell.below[1])
    if missing < 0:
        return False
    ends = np.cumsum(cell.near["tokens"])
    cell.taken = int(np.searchsorted(ends, missing, side="right"))
    if cell.taken == len(cell.near) and not cell.whole:
        return False
    missing -= int(ends[cell.taken - 1]) if cell.taken else 0
    if not missing:
        return True
    for place in range(cell.taken, len(cell.near)):
        near = cell.near[place]
        if near["tokens"] > missing and transform_of(cell, near) in CUT:
            cell.cut, cell.cut_at = missing, place
            return True
    return cell.whole


def transform_of(cell: CellDraw, near: np.void) -> str:
    return cell.transform if near["changed"] else "none"
