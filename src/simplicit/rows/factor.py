r"""The polish factorises H = G_AA + C on a set A of columns.

C is a positive diagonal: the curvature of the penalty and a tiny proximal term, which keeps a singular G_AA harmless
without moving the fixed point. With at most about m columns H is factorised itself. With many more columns than samples
it is inverted by the identity of Woodbury, through a matrix of m × m:

    (C + ΦᵀΦ)⁻¹ = C⁻¹ − C⁻¹Φᵀ (I + ΦC⁻¹Φᵀ)⁻¹ ΦC⁻¹

G_AA squares the condition of Φ_A. A design that is asked for all its digits is factorised by a QR decomposition of Φ_A
instead, H = RᵀR with [Φ_A; C^½] = QR, whose proximal term can be much smaller. With a right-hand side that is computed
from the residual itself, as that of every iteration is, these are the corrected seminormal equations (Björck 1987).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.design import Design, SampleDesign

#: Relative size of the proximal term, multiplied by 100 until the factorisation succeeds: far above the 1e-16·n by
#: which a Cholesky factorisation of n columns rounds, and so small that one more iteration removes what it changes.
#: Woodbury's identity subtracts terms of its inverse size from each other, so that it must be larger there.
#: Of a QR decomposition a rounding of 1e-16 in the right-hand side moves dependent columns by no more than their norms.
PROXIMAL, WOODBURY_PROXIMAL, ORTHOGONAL_PROXIMAL = 1e-10, 1e-8, 1e-16
#: More columns than so many times the samples go by Woodbury's identity: of n columns its matrix takes nm² + m³/6
#: products, Cholesky's factor n³/6, which is as much at about n = 2.5m; and every right-hand side 2nm instead of n².
COLUMNS_PER_SAMPLE = 2
#: Where the penalty has no curvature, only more columns than this do: the factor takes 128 MiB a row then.
MOST_COLUMNS = 4096


class Factor:
    """The factorisation of no columns is the one that others override.

    Right-hand sides are *encoded* first, once, in the form in which their products cost least.
    """

    size: int = 0
    symmetric: bool = True  # whether DᵀH⁻¹E is the product of the encoded D and E, and not of D and the decoded E

    def encode(self, right: Tensor) -> Tensor:
        """Encode (n, q) right-hand sides D."""
        return right

    def decode(self, right: Tensor) -> Tensor:
        """Return H⁻¹D, (n, q), from the encoded D."""
        return right


def factorise(design: Design, columns: Tensor, curvature: Tensor) -> Factor:
    """Factorise G_AA + C + a proximal term, A (n,) and the diagonal of C (n,) ≥ 0, by whichever way is cheaper."""
    if not len(columns):
        return Factor()
    if isinstance(design, SampleDesign) and design.orthogonal:
        return _Orthogonal(design, columns, curvature)
    # Without curvature G_AA is singular and the identity loses digits: it is for what cannot be had otherwise.
    if (
        isinstance(design, SampleDesign)
        and len(columns) > COLUMNS_PER_SAMPLE * design.n_samples
        and (bool(curvature.all()) or len(columns) > MOST_COLUMNS)
    ):
        return _Woodbury(design, columns, curvature)
    return _Cholesky(design, columns, curvature)


class _Cholesky(Factor):
    def __init__(self, design: Design, columns: Tensor, curvature: Tensor) -> None:
        self.size = len(columns)
        matrix = design.block(columns, columns)
        diagonal = matrix.diagonal().clone()
        proximal = PROXIMAL
        while True:
            matrix.diagonal().copy_(diagonal * (1 + proximal) + curvature)
            self.factor, failed = _cholesky(matrix)
            # From proximal 1 on the matrix is far from singular: what is not finite then was not on entry.
            if not failed or proximal > 1:
                break
            proximal *= 100

    def encode(self, right: Tensor) -> Tensor:
        # Triangular solves: LAPACK's potrs is several times slower for few right-hand sides.
        return cast(Tensor, torch.linalg.solve_triangular(self.factor, right, upper=False))

    def decode(self, right: Tensor) -> Tensor:
        return cast(Tensor, torch.linalg.solve_triangular(self.factor.T, right, upper=True))


class _Orthogonal(_Cholesky):
    """H is factorised by a QR decomposition of the samples; the rest is as of Cholesky's factor, which is Rᵀ."""

    def __init__(self, design: SampleDesign, columns: Tensor, curvature: Tensor) -> None:
        self.size = len(columns)
        rows = design.transposed[columns]
        added = (ORTHOGONAL_PROXIMAL * (rows * rows).sum(1) + curvature).sqrt()
        triangle = torch.linalg.qr(torch.cat([rows, added.diag()], dim=1).T, mode="r").R
        self.factor = (triangle * triangle.diagonal().sign()[:, None]).T.contiguous()


def proximal_of(design: Design) -> float:
    """Return the relative size of the proximal term that the factorisations of a design have at first."""
    return ORTHOGONAL_PROXIMAL if isinstance(design, SampleDesign) and design.orthogonal else PROXIMAL


def _cholesky(matrix: Tensor) -> tuple[Tensor, bool]:
    """Return the factor, and whether there is none; the processor has two libraries for it, NumPy's is the faster."""
    if matrix.device.type != "cpu":
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return factor, bool(failed)
    try:
        return torch.from_numpy(np.linalg.cholesky(matrix.numpy())), False
    except np.linalg.LinAlgError:
        return matrix, True


class _Woodbury(Factor):
    symmetric = False

    def __init__(self, design: SampleDesign, columns: Tensor, curvature: Tensor) -> None:
        self.size = len(columns)
        self.rows = design.transposed[columns]  # Φ_Aᵀ, (n, m)
        norms = (self.rows * self.rows).sum(1)
        self.inverse = 1 / (curvature + WOODBURY_PROXIMAL * norms)
        kernel = self.rows.T @ (self.inverse[:, None] * self.rows)
        kernel.diagonal().add_(1.0)
        self.factor, _ = torch.linalg.cholesky_ex(kernel)

    def decode(self, right: Tensor) -> Tensor:
        weighted = self.inverse[:, None] * right
        inner = torch.cholesky_solve(self.rows.T @ weighted, self.factor)
        return weighted - self.inverse[:, None] * (self.rows @ inner)
