r"""Backward elimination of least-squares problems that share their columns: which ones each row can do without.

For a row with the positive definite Gram matrix H and the cross-correlations c, the least of

    f(w) = wᵀHw − 2cᵀw   over w that are zero off a support S

is at w = P c_S with P = (H_SS)⁻¹. Taking column j out of S and refitting the others raises f by exactly wⱼ²/Pⱼⱼ, the
price of an *optimal brain surgeon* (Hassibi and Stork, *Second order derivatives for network pruning*, 1993); taking a
whole block B out raises it by w_Bᵀ(P_BB)⁻¹w_B.

All rows start from the same inverse P₀ of H, and none needs one of its own. With the columns O gone, and the factor of
Cholesky LLᵀ of P₀ on them, in the order in which they went,

    P = P₀ − Z Zᵀ,   Z = P₀,·O L⁻ᵀ

so that a row keeps Z, w and the diagonal of P: a block B takes P_B· = P₀,B· − Z_B Zᵀ, and appends P·_B L_B⁻ᵀ to Z with
P_BB = L_B L_Bᵀ. It takes y = L_B⁻¹w_B, Z_new y from w, the squares of Z_new from the diagonal, and costs ‖y‖². A path
from all d columns to none is d³/6 products, nearly all of them in products of matrices, for many rows at once. When few
columns are left P is formed on them, and they go on from there.

Where many are left they go in blocks, one in twenty at a time; the last :data:`SINGLY` go one by one, which is the
exact greedy path. Columns are in units of their norms, in which Pⱼⱼ ≥ 1 says how much of a column the others explain;
while that is below :data:`MOST_INFLATION`, float32 has digits enough for the order and for prices, and else float64 is
used. No value of a weight comes from here.

Under a pattern (:mod:`~simplicit.training.support.pattern`) a group that is down to what it may have is frozen: first
the columns go that have to, the cheapest of those that are not frozen, and from then on any. A path is from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpotri
from torch import Tensor

from simplicit.rows.batch import Array, Index
from simplicit.training.support.pattern import Groups, Quota

#: Share of the columns left that go together, and how many columns are eliminated one by one at the end.
BLOCK, SINGLY = 0.05, 40
#: Up to so many times 1/Hⱼⱼ the diagonal of P may be in float32, whose rounding is 6e-8 of it; and up to so many
#: columns float64 takes no time worth saving.
MOST_INFLATION, FEW = 1e4, 64
#: Columns that are gone are dropped from what a row keeps when no more than this share of them is left; from this
#: number on P itself is kept. With shares from .5 to .9 rows of 384 and 1,536 columns took up to half as long again.
DROPPED, DENSE = 0.7, 64
#: Bytes of Z that rows of a batch have together: a few megabytes stay near the processor; and rows of a batch at most.
CACHE, MOST_ROWS = 2**26, 64


@dataclass(frozen=True, eq=False)
class EliminationPath:
    """The ``order`` (k,) in which the columns of a row go, and by how much each raises f, its ``cost`` (k,).

    The members of a block share what it costs together in proportion to their prices.
    """

    order: Index
    cost: Array

    def left(self, count: int) -> Index:
        """The last ``count`` columns, in increasing order."""
        return np.sort(self.order[len(self.order) - count :])

    @property
    def price(self) -> Array:
        """(k,): the least price at which each column goes, no less than those before it."""
        return np.maximum.accumulate(self.cost) if len(self.cost) else self.cost


def inverse(H: Array) -> Array:
    """H⁻¹, exactly symmetric; ``LinAlgError`` is raised if H is not positive definite in float64."""
    lower, _ = cho_factor(H, lower=True)
    # A third of the operations that solving for the identity takes.
    P, failed = dpotri(lower, lower=1) if len(H) else (np.zeros_like(H), 0)
    if failed:
        raise np.linalg.LinAlgError("the Gram matrix is singular")
    P = np.tril(P)
    return np.asarray(P + np.tril(P, -1).T)


def least_squares(H: Array, c: Array, support: Index) -> Array:
    """The minimiser of f on a support, (d,), zero elsewhere."""
    w = np.zeros(len(c))
    if len(support):
        w[support] = cho_solve(cho_factor(H[np.ix_(support, support)], lower=True), c[support])
    return w


@dataclass(frozen=True, eq=False)
class Elimination:
    """What rows with the same ``columns`` (k,) start from: P₀ (k, k) in units of the columns' norms (k,).

    The columns may be in ``groups``, whose pattern paths begin in.
    """

    columns: Index
    units: Array
    P: Tensor
    groups: Groups | None = None

    @classmethod
    def of(cls, H: Array, columns: Index, groups: Groups | None = None) -> Elimination:
        """On some columns of H (d, d), with the groups of all d."""
        units = np.sqrt(H.diagonal()[columns])
        P = inverse(H[np.ix_(columns, columns)] / np.outer(units, units))
        single = len(columns) > FEW and P.diagonal().max() <= MOST_INFLATION
        own = None if groups is None else groups.on(columns)
        return cls(columns, units, torch.from_numpy(P.astype(np.float32) if single else P), own)

    def batches(self, rows: int) -> list[slice]:
        """So many rows, in batches that depend on nothing else."""
        k = max(1, len(self.columns))
        size = min(MOST_ROWS, max(1, CACHE // (self.P.element_size() * k * k)))
        return [slice(first, first + size) for first in range(0, rows, size)]

    def paths(self, cross: Array, *, priced: bool = True) -> list[EliminationPath]:
        """The paths of a batch of rows with c (n, d), to none.

        Under a pattern they need not be ``priced``: all their costs are zero then.
        """
        c = cross[:, self.columns] / self.units
        scale = np.abs(c).max(axis=1, initial=0.0)
        scale[scale == 0] = 1.0
        w = torch.from_numpy(c / scale[:, None]).to(self.P.dtype) @ self.P
        if not len(self.columns):
            order, cost = np.zeros((len(c), 0), dtype=np.intp), np.zeros((len(c), 0))
        else:
            quota = None if self.groups is None else Quota(self.groups, len(c))
            forced = 0 if quota is None else quota.count
            order, cost = Eliminated(self.P, w, quota).to_none(priced=priced)
            order, cost = order[:, forced:], cost[:, forced:]
        found = zip(order, cost, scale, strict=True)
        return [EliminationPath(self.columns[places], costs * unit**2) for places, costs, unit in found]


def block_size(left: int) -> int:
    """How many columns go together where so many are left."""
    return 1 if left <= SINGLY else max(1, min(int(BLOCK * left), left - SINGLY))


class Eliminated:
    """n rows in the middle of their elimination, of which ``left`` columns each are there still.

    ``names`` (n, l) are the columns that are kept, with ``w`` (n, l), infinite where they are gone since, the
    ``diagonal`` of P (n, l), and Z as ``roots`` (n, g, l), whose first ``gone`` are in use. ``P`` is P₀, (k, k), or
    (n, l, l) where rows have one of their own. A ``quota`` says which may go at first.
    """

    def __init__(self, P: Tensor, w: Tensor, quota: Quota | None = None, names: Tensor | None = None) -> None:
        self.P, self.w, (rows, self.left), self.quota = P, w, w.shape, quota
        self.diagonal = P.diagonal(dim1=-2, dim2=-1).expand_as(w).clone()
        self.names = torch.arange(self.left).expand_as(w) if names is None else names
        self.roots, self.gone = w.new_empty(rows, 0, self.left), 0

    def to_none(self, *, priced: bool = True) -> tuple[Index, Array]:
        """Order and costs, (n, k); if not ``priced`` no column goes that need not by the quota, and costs nothing."""
        order: list[Tensor] = []
        costs: list[Tensor] = []
        while self.left and (priced or (self.quota is not None and self.quota.count)):
            places, cost = self._step()
            order.append(self.names.gather(1, places))
            costs.append(cost)
            self._drop(places)
        if self.left:
            staying = self.w.isfinite().nonzero()[:, 1].view(len(self.w), self.left)
            order.append(self.names.gather(1, staying))
            costs.append(self.w.new_zeros(staying.shape))
        return torch.cat(order, 1).numpy(), torch.cat(costs, 1).double().numpy()

    def _step(self) -> tuple[Tensor, Tensor]:
        """The places of the columns that go next, from the cheapest, and what they cost, (n, b)."""
        count, price = block_size(self.left), self.w.square() / self.diagonal
        if self.quota is not None and self.quota.count:
            count, price = min(count, self.quota.count), self.quota.priced(self.names, price)
        price, places = price.topk(count, largest=False)
        if self.quota is not None and self.quota.count:
            self.quota.take(self.names.gather(1, places))
        across = self._rows_of(places)
        going = self.w.gather(1, places)
        root = torch.linalg.cholesky_ex(_at(across, places))[0]
        solved = torch.linalg.solve_triangular(root, torch.cat([across, going[:, :, None]], 2), upper=False)
        new, y = solved[:, :, :-1], solved[:, :, -1]
        self.w = self.w - (y[:, None] @ new)[:, 0]
        self.diagonal = self.diagonal - new.square().sum(1)
        self._append(new)
        total, together = price.sum(1, keepdim=True), y.square().sum(1, keepdim=True)
        shares = torch.where(total > 0, price / total, 1 / count)
        return places, together * shares

    def _rows_of(self, places: Tensor) -> Tensor:
        """P_B·, (n, b, l)."""
        if self.P.ndim == 3:
            rows = self.P.gather(1, places[:, :, None].expand(-1, -1, self.w.shape[1]))
        else:
            names = self.names.gather(1, places)
            rows = self.P[names[:, :, None], self.names[:, None, :]]
        if not self.gone:
            return rows
        Z = self.roots[:, : self.gone]
        return torch.baddbmm(rows, _at(Z, places).transpose(1, 2), Z, alpha=-1)

    def _append(self, new: Tensor) -> None:
        """Rows of Zᵀ, (n, b, l)."""
        count = self.gone + new.shape[1]
        if count > self.roots.shape[1]:
            roots = new.new_empty(len(new), count + self.left, self.w.shape[1])
            roots[:, : self.gone] = self.roots[:, : self.gone]
            self.roots = roots
        self.roots[:, self.gone : count], self.gone = new, count

    def _drop(self, places: Tensor) -> None:
        """Let columns be gone, and gather those that are left where these are few."""
        self.w.scatter_(1, places, torch.inf)
        self.diagonal.scatter_(1, places, 1.0)
        self.left -= places.shape[1]
        own = self.P.ndim == 3
        if not self.left or (self.left > DROPPED * self.w.shape[1] and (own or self.left > DENSE)):
            return
        staying = self.w.isfinite().nonzero()[:, 1].view(len(self.w), self.left)
        self.names, self.w, self.diagonal = (one.gather(1, staying) for one in (self.names, self.w, self.diagonal))
        Z = _at(self.roots[:, : self.gone], staying)
        if not own and self.left > DENSE:
            self.roots = Z
            return
        if own:
            P = _at(self.P.gather(1, staying[:, :, None].expand(-1, -1, self.P.shape[2])), staying)
        else:
            P = self.P[self.names[:, :, None], self.names[:, None, :]]
        self.P = torch.baddbmm(P, Z.transpose(1, 2), Z, alpha=-1)
        self.roots, self.gone = Z[:, :0], 0


def _at(matrices: Tensor, places: Tensor) -> Tensor:
    """Some columns, (n, b), of matrices (n, m, l), as (n, m, b)."""
    return matrices.gather(2, places[:, None, :].expand(-1, matrices.shape[1], -1))
