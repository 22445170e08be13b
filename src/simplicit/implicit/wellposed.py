r"""Well-posedness: one equilibrium for every input.

With slope bounds L of the activations and N = diag(L)|A|, λ_pf(N) < 1 suffices (Theorem 2.3). It holds exactly if some
s > 0 and ρ < 1 have N s <= ρ s.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from simplicit.checks import as_array
from simplicit.errors import InputError
from simplicit.implicit.groups import INPUT, OUTPUT, first_block
from simplicit.implicit.maps import Csr, LinearMap, canonical_csr
from simplicit.implicit.model import ImplicitModel
from simplicit.implicit.spectral import PerronFrobenius, contraction, dominating, ratios, spectral_bounds

SquareMatrix: TypeAlias = ArrayLike | sp.sparray | sp.spmatrix | LinearMap


def perron_frobenius(A: SquareMatrix | ImplicitModel) -> PerronFrobenius:
    """Return λ_pf(|A|), the Perron-Frobenius eigenvalue, with Collatz-Wielandt bounds on both sides.

    It is right for reducible, periodic, nilpotent (all zero) and empty matrices: the bounds are those of the strongly
    connected classes of states, and a class of one state has its diagonal entry. They agree to about 1e-12 of their
    size where floating point allows it, and always hold. (Entries smaller than 1e-120 times the largest of their class
    loosen the lower bound.)

    Parameters
    ----------
    A : matrix (n, n), dense or sparse, or ImplicitModel
        For a model, λ_pf(diag(L)|A|) with the slope bounds L of its activations. Where cycles go through blocks it is
        the least ρ for which a step is proved to contract, blocks taken as a whole: at most λ_pf of N_kl = L_k‖A_kl‖∞
        (:mod:`simplicit.implicit.blockwise`).

    Raises
    ------
    InputError
        A is not square, not real, or not finite.
    NotWellPosedError
        A model has a cycle through a block without a Lipschitz constant, which the error names.
    """
    if not isinstance(A, ImplicitModel):
        return spectral_bounds(_dominating(A))
    parts = [cycle.bounds for cycle in A.state_equation.cycles]
    return max(parts, key=lambda part: part.upper, default=PerronFrobenius(0.0, 0.0, 0.0))


def collatz_wielandt(A: SquareMatrix | ImplicitModel, v: ArrayLike) -> tuple[float, float]:
    """Return minᵢ and maxᵢ of (|A| v)ᵢ/vᵢ, between which λ_pf(|A|) lies, widened by the rounding of the sums.

    They are (0, inf), which is always true, where these numbers leave the range of float64.

    Parameters
    ----------
    A : as in :func:`perron_frobenius`
    v : array, shape (n,)
        Positive.

    Raises
    ------
    InputError
        ``A`` is none, as in :func:`perron_frobenius`; ``v`` has another length, or is not positive and finite.
    """
    N = _dominating(A)
    vector = as_array("v", v).astype(np.float64)
    if vector.shape != (N.shape[0],):
        shape = f"({N.shape[0]},), one entry for each row of A"
        raise InputError(f"v must have shape {shape}, got {vector.shape}", argument="v")
    wrong = ~(np.isfinite(vector) & (vector > 0))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise InputError(f"v must be positive and finite, got {vector[place]} at position {place}", argument="v")
    return ratios(N, vector)


def contraction_vector(A: SquareMatrix | ImplicitModel) -> tuple[NDArray[np.float64], float]:
    """Return s > 0, (n,), and ρ < 1 with |A| s <= ρ s: in max|eᵢ|/sᵢ the model contracts by ρ.

    Among several such pairs it is the one that promises the fewest iterations; max s = 1. For a model, |A| is
    diag(L)|A|.

    Raises
    ------
    InputError
        ``A`` is none, as in :func:`perron_frobenius`.
    NotWellPosedError
        λ_pf >= 1, or it could not be shown to be below 1.
    ConvergenceError
        λ_pf < 1, but no such pair was found in floating point.
    """
    found = contraction(_dominating(A))
    return found.s, found.rho


def row_norm(model: ImplicitModel) -> float:
    """Return ‖A‖∞, the largest sum of |entries| over a row of A, block by block, so that A is never written down."""
    sums = np.zeros(model.n_pre)
    for (row, column), block in model.blocks.items():
        if row != OUTPUT and column != INPUT:
            sums[model.pre_slices[row]] += block.row_sums()
    return float(sums.max(initial=0.0))


def _dominating(A: SquareMatrix | ImplicitModel) -> Csr:
    if isinstance(A, ImplicitModel):
        if (block := first_block(A.groups)) is not None:
            message = f"group {block.name!r} is a block ({block.activation.name}), so that A is not square"
            raise InputError(f"{message}; simplicit.perron_frobenius takes such models", argument="A")
        return dominating(A.A, A.state_equation.slopes)
    matrix = canonical_csr(A.to_csr() if isinstance(A, LinearMap) else A, "A")
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"A must be square, got shape {matrix.shape}", argument="A")
    return dominating(matrix)
