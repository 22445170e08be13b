"""What blocks of rows read and what comes of them, as records of arrays.

m samples, d columns of Φ and k of a design, r row problems in all and n in a work or a block; a member is one penalty
and ball of a path. A block's slices of :class:`RowArrays` and :class:`Entries` are such records again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "BlockResult",
    "DesignArrays",
    "Entries",
    "Figures",
    "Index",
    "Mask",
    "MemberArrays",
    "MemberResult",
    "PenaltyArrays",
    "RowArrays",
    "RowMemberArrays",
    "SharedArrays",
    "TargetArrays",
]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class DesignArrays:
    """Some columns of Φ, each in units in which its norm is near 1.

    Attributes
    ----------
    columns : (k,) index array
        Which they are, none of them zero.
    units : (k,) array
        What each is multiplied by.
    transposed : (k, m) array, optional
        Φᵀ in units, where the samples are known.
    gram : (k, k) array, optional
        ΦᵀΦ in units, where the solver reads it.
    """

    columns: Index
    units: Array
    transposed: Array | None = None
    gram: Array | None = None


@dataclass(frozen=True, eq=False)
class PenaltyArrays:
    """The arrays of a :class:`~simplicit.rows.PiecewiseQuadratic`, but for those that are kept elsewhere."""

    kink: Array | None
    curvature: Array | None
    threshold: Array | None


@dataclass(frozen=True, eq=False)
class MemberArrays:
    """What all rows have in common under a member.

    Attributes
    ----------
    in_ball : (d,) boolean array
    penalty : PenaltyArrays
        (1, 1) or (1, d); None where rows differ.
    """

    in_ball: Mask
    penalty: PenaltyArrays


@dataclass(frozen=True, eq=False)
class SharedArrays:
    """What every block reads.

    Attributes
    ----------
    designs : tuple of DesignArrays
    members : tuple of MemberArrays
    norms : (d,) array, optional
        ‖Φⱼ‖, for re-weighted rounds.
    feature_mean : (d,) array, optional
        For intercepts.
    """

    designs: tuple[DesignArrays, ...]
    members: tuple[MemberArrays, ...]
    norms: Array | None
    feature_mean: Array | None


@dataclass(frozen=True, eq=False)
class TargetArrays:
    """Targets, as samples or by their products with Φ.

    Attributes
    ----------
    samples : (n, m) array, optional
        z, one per row; or else
    cross, energy : (n, d) and (n,) arrays, optional
        Φᵀz and ‖z‖².
    mean : (n,) array, optional
        Of each target, for intercepts.
    """

    samples: Array | None = None
    cross: Array | None = None
    energy: Array | None = None
    mean: Array | None = None


@dataclass(frozen=True, eq=False)
class RowMemberArrays:
    """What each row has for itself under a member.

    Attributes
    ----------
    radius : (n,) array
        Of the ball.
    penalty : PenaltyArrays
        (n, 1) or (n, d); None where rows do not differ.
    """

    radius: Array
    penalty: PenaltyArrays


@dataclass(frozen=True, eq=False)
class RowArrays:
    """What each row has for itself, in the order of the blocks.

    Attributes
    ----------
    row : (n,) index array
        Its number among the targets.
    weight : (n,) array
        λ.
    members : tuple of RowMemberArrays
    support : (n, d) boolean array, optional
        Its admissible columns, where rows of a design differ in them.
    starts : (n,) index array, optional
        How many entries its coefficients to begin from have.
    targets : TargetArrays
    """

    row: Index
    weight: Array
    members: tuple[RowMemberArrays, ...]
    support: Mask | None
    starts: Index | None
    targets: TargetArrays


@dataclass(frozen=True, eq=False)
class Entries:
    """The non-zeros of sparse rows, one after another.

    Attributes
    ----------
    columns : (nnz,) index array
        Among the d of Φ.
    values : (nnz,) array
    """

    columns: Index
    values: Array


@dataclass(frozen=True, eq=False)
class Figures:
    """What is known of each row's solution; (n,) arrays, as in :class:`simplicit.Solution`."""

    objective: Array
    dual_gap: Array
    relative_gap: Array
    cardinality_gap: Array
    multiplier: Array
    residual: Array
    seconds: Array


@dataclass(frozen=True, eq=False)
class MemberResult:
    """The solutions of a block's rows under a member, or after a re-weighted round, in the units of the input.

    Attributes
    ----------
    counts : (n,) index array
        How many non-zeros each row has.
    coefficients : Entries
    intercepts : (n,) array
    status : (n,) int8 array
    figures : Figures
    timings : array
        Processor seconds of the block, in the order of ``STAGES``.
    """

    counts: Index
    coefficients: Entries
    intercepts: Array
    status: npt.NDArray[np.int8]
    figures: Figures
    timings: Array


@dataclass(frozen=True, eq=False)
class BlockResult:
    """What comes of a block.

    Attributes
    ----------
    rows : (n,) index array
        Which rows of the input these are.
    members : tuple of MemberResult
        One for each member of a path, or for each round.
    """

    rows: Index
    members: tuple[MemberResult, ...]
