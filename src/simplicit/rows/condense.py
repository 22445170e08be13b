r"""Row problems are condensed to a few of their columns: the others follow from these by one factorisation a row.

The columns A of a row's base have signs s, and c is the curvature of the piece of the penalty on which each of them is.
With H = G_AA + C, C the curvatures and a tiny proximal term, the normal n = s·a of the ball and the residual ρ of
stationarity, a move Δ from the present point is optimal if

    H Δ_A + B Δ_N + n δμ − E ν = t·ρ_A

where B = G_AN belongs to watched columns N outside the base and E to watched columns in it, which a force ν may hold at
zero. Elimination of Δ_A leaves the tableau of the watched variables,

    T = K − DᵀH⁻¹D,   r = ρ − DᵀH⁻¹ρ_A,   D = [n, 0, −E, B],   K = G_NN + C_N on N, else 0,

from which Δ_A = H⁻¹(t·ρ_A − D z) comes back. D is kept *encoded*, in the form in which the factor takes it, so that T
costs one triangular solve and one product. All rows are side by side, filled up with columns that are not there;
vectors on a base lie along the last axis, so that Dᵀ is what is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simplicit.rows.batch import Batch, fill_up, padded
from simplicit.rows.design import Design
from simplicit.rows.factor import Factor, factorise, proximal_of


@dataclass
class Bases(Batch):
    """The bases of r rows have the borders D of their watched variables, in the order of their q slots.

    The ball and the spare slot are watched in every base; nothing is where there is no base yet.
    """

    design: Design
    factors: list[Factor]  # H of every row
    columns: Tensor = field(metadata=padded(0))  # A, an (r, n) index
    real: Tensor = field(metadata=padded(False))  # what of it is there, an (r, n) mask
    normal: Tensor = field(metadata=padded(0.0))  # n, (r, n)
    watched: Tensor  # how many variables are watched, (r,)
    outside: Tensor = field(metadata=padded(-1))  # N at its slots, else −1, an (r, q) index
    border: Tensor = field(metadata=padded(0.0))  # D, encoded, (r, q, n)

    @classmethod
    def of(cls, design: Design, active: Tensor, normal: Tensor, curvature: Tensor) -> Bases:
        """Factorise the columns ``active`` (r, k), with n and c (r, k)."""
        counts = active.sum(1)
        columns, real = compressed(active, counts)
        normal = torch.where(real, normal.gather(1, columns), 0.0)
        curvature = curvature.gather(1, columns)
        factors = [
            factorise(design, chosen[:n], c[:n])
            for chosen, c, n in zip(columns, curvature, counts.tolist(), strict=True)
        ]
        border, watched = torch.stack([normal, torch.zeros_like(normal)], dim=1), torch.full_like(counts, 2)
        outside = torch.full((len(counts), 2), -1, dtype=torch.int64, device=counts.device)
        bases = cls(design, factors, columns, real, normal, watched, outside, border)
        bases.border = bases.encode(border)
        return bases

    @classmethod
    def none(cls, design: Design, rows: int) -> Bases:
        """Make what stands for the bases of rows that have none yet."""
        columns = torch.zeros(rows, 0, dtype=torch.int64, device=design.device)
        watched, outside = columns.new_zeros(rows), columns.new_full((rows, 2), -1)
        nothing = columns.double()
        border = nothing[:, None].expand(-1, 2, -1)
        return cls(design, [Factor()] * rows, columns, columns.bool(), nothing, watched, outside, border)

    def encode(self, right: Tensor) -> Tensor:
        """Encode right-hand sides (r, q, n)."""
        return self._each([factor.encode for factor in self.factors], right)

    def decode(self, right: Tensor) -> Tensor:
        """Return H⁻¹ times what is encoded, (r, q, n)."""
        return self._each([factor.decode for factor in self.factors], right)

    def _each(self, changes: list[Callable[[Tensor], Tensor]], right: Tensor) -> Tensor:
        result = torch.zeros_like(right)
        for factor, change, theirs, out in zip(self.factors, changes, right, result, strict=True):
            out[:, : factor.size] = change(theirs[:, : factor.size].T).T
        return result

    def inner(self, left: Tensor, right: Tensor) -> Tensor:
        """Return DᵀH⁻¹E, (r, q, f), from the encoded D (r, q, n) and E (r, f, n)."""
        return left @ self._partner(right)

    def _partner(self, right: Tensor) -> Tensor:
        """Return what the encoded D is multiplied by for DᵀH⁻¹E, (r, n, f)."""
        unsymmetric = [i for i, factor in enumerate(self.factors) if not factor.symmetric]
        if unsymmetric:
            right = right.clone()
        for i in unsymmetric:
            factor = self.factors[i]
            right[i, :, : factor.size] = factor.decode(right[i, :, : factor.size].T).T
        return right.transpose(1, 2)

    def first_table(self) -> Tensor:
        """Return T of the ball and the spare slot, (r, 2, 2)."""
        table = -self.inner(self.border, self.border)
        table[:, 1, 1] = 1.0
        return table

    def watch(self, column: Tensor, place: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Watch columns of the bases and outside: (r, f) columns of the design, −1 for none after the others.

        ``place`` (r, f) is where they are in the base, −1 outside, and ``curvature`` (r, f) what those outside have of
        it from zero on. Their slots (r, f) are returned, 1, the spare one, for none; and their columns of the first
        tableau, at the variables that were watched before (r, q, f), and among themselves (r, f, f).
        """
        real = column >= 0
        new = self._bordering(column, place)
        fresh = torch.where(place >= 0, -1, column)
        partner = self._partner(new)
        entries = torch.baddbmm(self._gram(self.outside, fresh), self.border, partner, alpha=-1)
        among = self._gram(fresh, fresh)
        among.diagonal(dim1=1, dim2=2).mul_(1 + proximal_of(self.design)).add_(torch.where(fresh >= 0, curvature, 0.0))
        corner = torch.baddbmm(among, new, partner, alpha=-1)
        at = torch.where(real, self.watched[:, None] + real.cumsum(1) - 1, 1)
        most = max(int(at.max()) + 1, self.outside.shape[1])
        self.border = fill_up(self.border, [most, self.border.shape[2]], 0.0)
        self.outside = fill_up(self.outside, [most], -1)
        for i, (first, count) in enumerate(zip(self.watched.tolist(), real.sum(1).tolist(), strict=True)):
            self.border[i, first : first + count] = new[i, :count]
            self.outside[i, first : first + count] = fresh[i, :count]
        self.watched = self.watched + real.sum(1)
        return at, entries, corner

    def _bordering(self, column: Tensor, place: Tensor) -> Tensor:
        """Return the columns of D that belong to watched ones, encoded, (r, f, n)."""
        new = self.border.new_zeros(*column.shape, self.border.shape[2])
        for i, (factor, out) in enumerate(zip(self.factors, new, strict=True)):
            n, inside = factor.size, place[i] >= 0
            outside = torch.nonzero((column[i] >= 0) & ~inside)[:, 0]
            right = new.new_zeros(len(column[i]), n)
            if len(outside) and n:
                right[outside] = self.design.block(column[i, outside], self.columns[i, :n])
            within = torch.nonzero(inside)[:, 0]
            right[within, place[i, within]] = -1.0
            out[:, :n] = factor.encode(right.T).T
        return new

    def _gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Return G on columns (r, a) and (r, b) of the design, 0 where one of them is −1."""
        result = self.border.new_zeros(*left.shape, right.shape[1])
        for i in torch.nonzero((right >= 0).any(1) & (left >= 0).any(1))[:, 0].tolist():
            there, mine = torch.nonzero(right[i] >= 0)[:, 0], torch.nonzero(left[i] >= 0)[:, 0]
            result[i, mine[:, None], there] = self.design.block(left[i, mine], right[i, there])
        return result


def compressed(mask: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the true columns of every row of a mask (r, k), filled up with 0, and which of them are real.

    Both have the shape (r, most), where ``most`` is the largest of the counts (r,) of the rows.
    """
    most = int(counts.max()) if len(counts) else 0
    real = torch.arange(most, device=mask.device) < counts[:, None]
    columns = torch.zeros(real.shape, dtype=torch.int64, device=mask.device)
    columns[real] = torch.nonzero(mask)[:, 1]
    return columns, real
