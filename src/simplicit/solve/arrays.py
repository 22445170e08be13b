"""What blocks of rows read and what comes of them, as records of arrays.

m samples, d columns of Φ and k of a design, n row problems, nnz entries; a member is one penalty and ball of a path. A
block's slices of :class:`RowArrays` and :class:`Entries` are such records again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simplicit.rows.batch import Array, Index, Mask
from simplicit.rows.outcome import Figures


@dataclass(frozen=True, eq=False)
class DesignArrays:
    """Some columns of Φ, none of them zero, each in units in which its norm is near 1."""

    columns: Index  # (k,), which of the d
    units: Array  # (k,), what each is multiplied by
    transposed: Array | None = None  # (k, m), Φᵀ in units, where the samples are known
    gram: Array | None = None  # (k, k), ΦᵀΦ in units, where the solver reads it


@dataclass(frozen=True, eq=False)
class PenaltyArrays:
    """The arrays of a :class:`~simplicit.rows.PiecewiseQuadratic`, (1 or n, 1 or d); None for those kept elsewhere."""

    kink: Array | None
    curvature: Array | None
    threshold: Array | None


@dataclass(frozen=True, eq=False)
class MemberArrays:
    """What all rows have in common under a member."""

    in_ball: Mask  # (d,)
    penalty: PenaltyArrays  # its arrays that have a single line


@dataclass(frozen=True, eq=False)
class SharedArrays:
    """What every block reads."""

    designs: tuple[DesignArrays, ...]
    members: tuple[MemberArrays, ...]
    norms: Array | None  # (d,), ‖Φⱼ‖ for re-weighted rounds
    feature_mean: Array | None  # (d,), for intercepts


@dataclass(frozen=True, eq=False)
class TargetArrays:
    """Targets z as samples, or by their products with Φ."""

    samples: Array | None = None  # (n, m), or else
    cross: Array | None = None  # (n, d), Φᵀz
    energy: Array | None = None  # (n,), ‖z‖²
    mean: Array | None = None  # (n,), for intercepts


@dataclass(frozen=True, eq=False)
class RowMemberArrays:
    """What each row has for itself under a member."""

    radius: Array  # (n,), of the ball
    penalty: PenaltyArrays  # its arrays that have a line per row


@dataclass(frozen=True, eq=False)
class RowArrays:
    """What each row has for itself, in the order of the blocks."""

    row: Index  # (n,), its number among the targets
    weight: Array  # (n,), λ
    members: tuple[RowMemberArrays, ...]
    support: Mask | None  # (n, d), where rows of a design differ in it
    starts: Index | None  # (n,), how many entries its coefficients to begin from have
    targets: TargetArrays


@dataclass(frozen=True, eq=False)
class Entries:
    """The non-zeros of sparse rows, one after another."""

    columns: Index  # (nnz,), among the d of Φ
    values: Array  # (nnz,)


@dataclass(frozen=True, eq=False)
class MemberResult:
    """The rows of a block under a member, or after a re-weighted round, in the units of the input."""

    counts: Index  # (n,), non-zeros of each row
    coefficients: Entries
    intercepts: Array  # (n,)
    status: npt.NDArray[np.int8]  # (n,)
    figures: Figures
    timings: Array  # processor seconds of the block by :class:`Stage`


@dataclass(frozen=True, eq=False)
class BlockResult:
    """What comes of a block."""

    rows: Index  # (n,), which rows of the input these are
    members: tuple[MemberResult, ...]  # one for each member of a path, or for each round
