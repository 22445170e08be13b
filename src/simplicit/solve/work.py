r"""From the input to blocks that can be solved anywhere, and back.

The path of the data: check what comes in (:mod:`simplicit.solve.input`) → gather rows with the same support on one
design → sort them by how hard they are, cut them into blocks → write the arrays that the blocks need, Φᵀ in units and
its Gram matrix once per design → solve the blocks, wherever (:mod:`simplicit.solve.block`) → put the rows back in the
order of the targets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.executors import Arrays, Block, Result, Spec, Work
from simplicit.rows import PiecewiseQuadratic
from simplicit.rows.active_set import ADMM_COLUMNS
from simplicit.solve.block import PENALTY_PARTS, MemberSettings, RowSettings, open_rows
from simplicit.solve.cut import cut_rows
from simplicit.solve.sources import Source

__all__ = ["Group", "Problem", "RowWork", "block_rows", "make_works"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

#: Rows per block, at most: enough for matrix products to be fast, few enough to share out. The split must not depend on
#: the executor or the number of workers, or the rounding would.
BLOCK_ROWS = 32
#: Without ADMM the supports of all rows of a block grow at once, each with a factorisation of its own to remember.
WIDE_ROWS = 8
#: Entries of a block's coefficients, at most: a dozen arrays of this size are in use at a time.
BLOCK_ENTRIES = 2**18
#: Designs are prepared together, so that their blocks share the workers, while they take no more bytes than this.
BATCH_BYTES = 2**30
#: Rows that a message lists.
LISTED = 6


def block_rows(n_columns: int) -> int:
    """Rows per block for so many columns, at most."""
    usual = BLOCK_ROWS if n_columns <= ADMM_COLUMNS else WIDE_ROWS
    return min(usual, max(8, BLOCK_ENTRIES // max(1, n_columns)))


@dataclass(frozen=True)
class Problem:
    """The input in one form: every parameter spread over the r rows and d columns."""

    source: Source
    shape: tuple[int, int]  # (r, d)
    penalty: PiecewiseQuadratic
    weight: Array
    in_ball: Mask
    radius: Array
    support: Mask | None
    warm_start: csr_array | None
    device: str

    def groups(self, wanted: int | None = None) -> list[Group]:
        """The rows gathered on designs and cut into blocks, of so many rows if a number is ``wanted``."""
        hardness = self._hardness()
        return [self._group(rows, columns, hardness[rows], wanted) for rows, columns in self._gathered()]

    def _group(self, rows: Index, columns: Index, hardness: Array, wanted: int | None) -> Group:
        own = self.support is not None and self.support.ndim == 2
        masked = own and not bool(self.support[np.ix_(rows, columns)].all())  # type: ignore[index]
        live = self.source.live(columns)
        # Blocks of like difficulty, so that one ρ of ADMM suits a block, and the hardest first.
        order = np.argsort(-hardness, kind="stable")
        if wanted is None:
            sizes = cut_rows(hardness[order], block_rows(len(live)))
        else:
            sizes = [len(part) for part in np.array_split(order, -(-len(rows) // wanted))]
        return Group(rows[order], live, tuple(sizes), masked)

    def _gathered(self) -> list[tuple[Index, Index]]:
        """Rows by support; where nearly every row has its own, all on one design, with masks."""
        r, d = self.shape
        if self.support is None:
            return [(np.arange(r), np.arange(d))]
        if self.support.ndim == 1:
            return [(np.arange(r), np.flatnonzero(self.support))]
        patterns, group = np.unique(np.packbits(self.support, axis=1), axis=0, return_inverse=True)
        # A Gram matrix of its own pays for four rows or more; a few small groups do no harm.
        if 4 * len(patterns) > r + 4:
            return [(np.arange(r), np.flatnonzero(self.support.any(axis=0)))]
        members = [np.flatnonzero(group.ravel() == g) for g in range(len(patterns))]
        return [(rows, np.flatnonzero(self.support[rows[0]])) for rows in members]

    def _hardness(self) -> Array:
        """How far from w = 0 a row's solution is likely to be: 2λ‖z‖ in units of its mean kink."""
        kink = self.penalty.kink.cpu().numpy().mean(axis=1)
        return np.broadcast_to(
            2 * self.weight * np.sqrt(self.source.energies()) / np.maximum(kink, 1e-200), len(self.weight)
        )


@dataclass(frozen=True)
class Group:
    """Rows on one design.

    Attributes
    ----------
    rows : (n,) index array
        In the order of the blocks.
    columns : (k,) index array
        Those of the design, none of them zero.
    sizes : tuple of int
        Rows of each block.
    masked : bool
        Whether the rows differ in their support.
    """

    rows: Index
    columns: Index
    sizes: tuple[int, ...]
    masked: bool


def make_works(
    problems: Sequence[Problem], *, tol: float, rounds: int = 1, solver: str = "active-set", rows: int | None = None
) -> list[RowWork]:
    """The blocks of problems that differ in penalty and ball alone, in as few works as fit in memory together.

    Parameters
    ----------
    problems : sequence of Problem
        The members of a path.
    tol, rounds, solver
        As for :func:`simplicit.solve_rows`.
    rows : int, optional
        Rows per block.
    """
    source = problems[0].source
    batches: list[list[Group]] = [[]]
    size = 0
    for group in problems[0].groups(rows):
        need = sum(spec.nbytes for spec in source.design_specs(len(group.columns)).values())
        if batches[-1] and size + need > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(group)
        size += need
    works: list[RowWork] = []
    for groups in batches:
        settings = RowSettings(
            members=tuple(MemberSettings(p.penalty.equality, p.penalty.cardinality) for p in problems),
            masked=tuple(group.masked for group in groups),
            n_columns=problems[0].shape[1],
            rounds=rounds,
            tol=tol,
            solver=solver,
            device=problems[0].device,
        )
        works.append(RowWork(problems, groups, settings, sum(len(work.blocks) for work in works)))
    return works


class RowWork(Work):
    """Blocks of row problems on some designs; the names of its arrays are those that ``RowSolver`` reads.

    Parameters
    ----------
    problems : sequence of Problem
        The members of a path.
    groups : sequence of Group
    settings : RowSettings
    first : int
        The number of the first block.

    Attributes
    ----------
    fill_seconds : float
        How long it took to fill the arrays, once that is done.
    """

    opener = staticmethod(open_rows)

    def __init__(self, problems: Sequence[Problem], groups: Sequence[Group], settings: RowSettings, first: int) -> None:
        self.groups, self.settings = groups, settings
        self.source, self.device = problems[0].source, problems[0].device
        self.order: Index = np.concatenate([group.rows for group in groups])
        start = problems[0].warm_start
        self.start = None if start is None else csr_array(start[self.order])
        self._whole, self._by_row = self._tables(problems)
        self.shared = {name: Spec(array.shape, array.dtype.str) for name, array in self._whole.items()}
        for number, group in enumerate(groups):
            specs = self.source.design_specs(len(group.columns))
            self.shared |= {f"{number}/{name}": spec for name, spec in specs.items()}
        n = len(self.order)
        self.rows = {name: Spec((n, *array.shape[1:]), array.dtype.str) for name, array in self._by_row.items()}
        self.rows |= self.source.row_specs(n)
        self.entries = {}
        if self.start is not None:
            self.rows["start/counts"] = Spec((n,), "<i8")
            self.entries = {"start/columns": Spec((self.start.nnz,), "<i8"), "start/values": Spec((self.start.nnz,))}
        self.blocks = list(self._cut(first))
        self.fill_seconds = 0.0

    def _tables(self, problems: Sequence[Problem]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The small arrays that are at hand: those that blocks share, and those with an entry for every row."""
        whole: dict[str, Any] = {f"{number}/columns": group.columns for number, group in enumerate(self.groups)}
        by_row: dict[str, Any] = {"row": np.arange(problems[0].shape[0]), "weight": problems[0].weight}
        for number, problem in enumerate(problems):
            whole[f"{number}/in_ball"], by_row[f"{number}/radius"] = problem.in_ball, problem.radius
            for name in PENALTY_PARTS:
                part = getattr(problem.penalty, name).cpu().numpy().astype(np.float64, copy=False)
                # What is common to all rows stays so: a single row of problems has it in every block.
                (whole if part.shape[0] == 1 else by_row)[f"{number}/{name}"] = part
        if any(self.settings.masked):
            by_row["support"] = problems[0].support
        if self.settings.rounds > 1:
            whole["norms"] = self.source.norms()
        if self.source.feature_mean is not None:
            whole["feature_mean"] = self.source.feature_mean
        return whole, by_row

    def _cut(self, first: int) -> Iterator[Block]:
        """The blocks, those of the widest designs first."""
        ends = np.zeros(len(self.order) + 1, dtype=np.int64) if self.start is None else self.start.indptr
        place, blocks = 0, list[Block]()
        for number, group in enumerate(self.groups):
            for size in group.sizes:
                rows = (place, place + size)
                entries = (int(ends[rows[0]]), int(ends[rows[1]]))
                blocks.append(Block(first + len(blocks), number, rows, entries))
                place += size
        yield from sorted(blocks, key=lambda block: -len(self.groups[block.group].columns))

    def fill(self, arrays: Arrays, threads: int) -> None:
        begun = time.perf_counter()
        for name, array in self._whole.items():
            arrays[name][...] = array
        for number, group in enumerate(self.groups):
            own = {name: arrays[f"{number}/{name}"] for name in self.source.design_specs(len(group.columns))}
            self.source.fill_design(group.columns, own, self.device, threads)
        for name, array in self._by_row.items():
            np.take(array, self.order, axis=0, out=arrays[name], mode="clip")
        self.source.fill_rows(self.order, arrays)
        if self.start is not None:
            arrays["start/counts"][...] = np.diff(self.start.indptr)
            arrays["start/columns"][...], arrays["start/values"][...] = self.start.indices, self.start.data
        self.fill_seconds = time.perf_counter() - begun

    def numbers(self, block: Block) -> Index:
        """The rows of a block, as the targets count them."""
        return self.order[slice(*block.rows)]

    def fits(self, block: Block, result: Result) -> bool:
        """Whether a result, from a journal, is of this block."""
        return np.array_equal(result.get("rows", np.zeros(0)), self.numbers(block))

    def describe(self, block: Block) -> str:
        rows = np.sort(self.numbers(block)).tolist()
        listed = ", ".join(map(str, rows[:LISTED])) + (f" and {len(rows) - LISTED} more" if len(rows) > LISTED else "")
        return f"row{'s' if len(rows) > 1 else ''} {listed}"
