r"""Backward elimination and exchange where samples are few: with k × k matrices in place of d × d ones.

It is what :mod:`~simplicit.training.support.elimination` does, in the terms of
:mod:`~simplicit.training.factor`: H = δ(I + FᵀF) with F (k, d). A column of the support S goes at the price

    wⱼ²/Pⱼⱼ = gⱼ²/(δ(1 − qⱼ)),

and a block B takes F_B F_Bᵀ from K and leaves K': it costs (‖g_B‖² + vᵀK'⁻¹v)/δ with v = F_B g_B, a sum without
cancellation. Prices of all columns take k² products each, and no matrix of columns by columns is ever made. K is formed
anew from the columns that are left whenever a fifth of them, or half of its trace, has gone, so that what downdates
lose does not add up. The last columns, when they are no more than twice the rows of F, go by the inverse of their own
small Gram matrix: 1 − q would have fewer digits than that.

An exchange takes a column in and another out of K by updates of rank one of K⁻¹ and of q.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.factor import LowRank
from simplicit.training.support.elimination import (
    LEAST_GAIN,
    MAX_EXCHANGES,
    REFRESHED,
    SINGLY,
    TRIED,
    EliminationPath,
    cheapest,
    eliminate,
    inverse,
    shared,
)

#: Rows are eliminated together as long as their parts of F take so many bytes, which stay in the cache.
CACHE = 2**22
#: Columns are gathered anew when this share of them, or of the trace of K, has gone.
GONE, TRACE_GONE = 0.2, 0.5
#: After an exchange with a 1 − q below this all is computed anew.
LEAST_LEFT = 1e-4
#: No 1 − q is less than that of rounding, which is also what columns without a place in K have.
LEAST = np.finfo(np.float64).eps


def eliminate_rows(H: LowRank, cross: Array, columns: Index) -> Iterator[EliminationPath]:
    """The paths of rows with c (r, d), one after another, from these ``columns`` to none."""
    thin = H.on(columns)
    together = max(1, CACHE // (8 * max(1, thin.factor.size)))
    for first in range(0, len(cross), together):
        yield from _Eliminated.of(thin, cross[first : first + together, columns]).paths(columns)


@dataclass(eq=False)
class _Eliminated:
    """r rows in the middle of their elimination, n columns of each gathered, of which the last ones to go are marked.

    ``left`` (r, n) are the columns' places, ``gone`` (r, n) says which went since they were gathered, ``F`` (r, k, n),
    ``c`` (r, n), ``K`` (r, k, k) and ``u`` = F_S c_S (r, k) are those of the columns left; ``trace`` (r,) is that of K
    when it was formed.
    """

    H: LowRank
    cross: Array
    left: Index
    count: int
    order: list[Index] = field(default_factory=list)
    costs: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, H: LowRank, cross: Array) -> _Eliminated:
        r, d = cross.shape
        return cls(H, cross, np.broadcast_to(np.arange(d), (r, d)), d)

    def paths(self, columns: Index) -> list[EliminationPath]:
        """Eliminate all, and name the columns."""
        self._gather(np.zeros(self.left.shape, dtype=bool))
        last = max(SINGLY, 2 * len(self.H.factor))
        while self.count > last:
            self._step(last)
        self._gather(self.gone)
        tails = [self._tail(row) for row in range(len(self.left))]
        orders, costs = np.concatenate([*self.order, np.empty((len(tails), 0), int)], axis=1), [*self.costs]
        spent = np.concatenate([*costs, np.empty((len(tails), 0))], axis=1)
        return [
            EliminationPath(columns[np.concatenate([order, tail.order])], np.concatenate([cost, tail.cost]))
            for order, cost, tail in zip(orders, spent, tails, strict=True)
        ]

    def _gather(self, gone: Mask) -> None:
        """Take the columns that are left together, and form K and u of them."""
        r = len(self.left)
        self.left = self.left[~gone].reshape(r, -1)
        self.gone = np.zeros(self.left.shape, dtype=bool)
        self.F = np.ascontiguousarray(self.H.factor[:, self.left].transpose(1, 0, 2))
        self.c = np.take_along_axis(self.cross, self.left, axis=1)
        self.K = self.F @ self.F.transpose(0, 2, 1)
        self.trace = np.trace(self.K, axis1=1, axis2=2)
        self.K += np.eye(self.K.shape[1])
        self.u = (self.F @ self.c[:, :, None])[:, :, 0]

    def _step(self, last: int) -> None:
        """Let the block of the cheapest columns of every row go."""
        A = np.linalg.inv(np.linalg.cholesky(self.K))
        T = A @ self.F
        g = self.c - (np.einsum("rij,rj->ri", A, self.u)[:, None] @ T)[:, 0]
        price = np.square(g) / np.maximum(1 - np.einsum("rin,rin->rn", T, T), LEAST) / self.H.ridge
        price[self.gone] = np.inf
        block = np.array([cheapest(one, self.count) for one in price])
        F_B = np.take_along_axis(self.F, block[:, None], axis=2)
        g_B, own = np.take_along_axis(g, block, axis=1), np.take_along_axis(price, block, axis=1)
        self.order.append(np.take_along_axis(self.left, block, axis=1))
        np.put_along_axis(self.gone, block, True, axis=1)
        self.count -= block.shape[1]
        self.K -= F_B @ F_B.transpose(0, 2, 1)
        self.u -= (F_B @ np.take_along_axis(self.c, block, axis=1)[:, :, None])[:, :, 0]
        falls = np.trace(self.K, axis1=1, axis2=2) - self.K.shape[1] < TRACE_GONE * self.trace
        if self.count <= (1 - GONE) * self.left.shape[1] or falls.any():
            self._gather(self.gone)
        v = F_B @ g_B[:, :, None]
        raised = np.square(g_B).sum(axis=1) + (v * np.linalg.solve(self.K, v)).sum(axis=(1, 2))
        together = raised / self.H.ridge
        self.costs.append(np.array([shared(one, float(cost)) for one, cost in zip(own, together, strict=True)]))

    def _tail(self, row: int) -> EliminationPath:
        """The last columns of a row, by their own Gram matrix."""
        F = self.F[row]
        gram = self.H.ridge * (np.eye(F.shape[1]) + F.T @ F)
        return eliminate(inverse(gram), self.c[row], self.left[row])


def exchange_low_rank(H: LowRank, c: Array, support: Index, candidates: Index) -> Index:
    """What :func:`~simplicit.training.support.elimination.exchange` gives, of a Gram matrix of low rank."""
    columns = np.union1d(candidates, support)
    inside = np.isin(columns, support)
    if not inside.any() or inside.all():
        return np.sort(support)
    now = _Kernel(H.factor[:, columns], c[columns], inside)
    for number in range(MAX_EXCHANGES):
        if number % REFRESHED == 0 or now.worn:
            now.refresh()
        pair = now.best_pair()
        if pair is None:
            break
        now.replace(*pair)
    return np.sort(columns[now.inside])


@dataclass(eq=False)
class _Kernel:
    """A support in the middle of its exchanges: F (k, n), c (n,) and which columns are ``inside`` (n,).

    K⁻¹ (k, k), ``u`` = F_S c_S (k,) and ``q`` (n,) are kept up to date; they are ``worn`` where digits went.
    """

    F: Array
    c: Array
    inside: Mask
    worn: bool = False

    def refresh(self) -> None:
        """Compute all from nothing, in O(k²n)."""
        F = self.F[:, self.inside]
        A = np.linalg.inv(np.linalg.cholesky(np.eye(len(F)) + F @ F.T))
        self.inverse, self.u = A.T @ A, F @ self.c[self.inside]
        self.q = np.square(A @ self.F).sum(axis=0)
        self.worn = False

    def best_pair(self) -> tuple[int, int] | None:
        """The column that is given up and the one that comes in; None if no pair gains. All is in units of 1/δ."""
        g = self.c - (self.inverse @ self.u) @ self.F
        within, outside = np.flatnonzero(self.inside), np.flatnonzero(~self.inside)
        schur = 1 + self.q[outside]
        gain = np.square(g[outside]) / schur
        tried = np.argsort(-gain, kind="stable")[:TRIED]
        w, left = g[within], np.maximum(1 - self.q[within], LEAST)
        solved = (self.inverse @ self.F[:, outside[tried]]).T @ self.F[:, within]
        best, pair = LEAST_GAIN * abs(float(w @ self.c[within])), None
        for entering, u in zip(tried, solved, strict=True):
            s = schur[entering]
            price = np.square(w - u * (g[outside[entering]] / s)) / (left + np.square(u) / s)
            place = int(np.argmin(price))
            if gain[entering] - price[place] > best:
                best, pair = float(gain[entering] - price[place]), (int(within[place]), int(outside[entering]))
        return pair

    def replace(self, leaving: int, entering: int) -> None:
        """Let a column come in, and then another go, in O(kn)."""
        self._update(entering, 1.0)
        self._update(leaving, -1.0)

    def _update(self, column: int, sign: float) -> None:
        """K ± ffᵀ of a column, and what follows for K⁻¹ and q."""
        f = self.F[:, column]
        v, left = self.inverse @ f, 1 + sign * self.q[column]
        self.worn |= bool(left < LEAST_LEFT)
        left = sign * max(left, LEAST)
        self.inverse -= np.outer(v / left, v)
        self.q -= np.square(v @ self.F) / left
        self.u += sign * self.c[column] * f
        self.inside[column] = sign > 0
