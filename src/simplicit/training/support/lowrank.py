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

A pattern is kept as it is there (:mod:`~simplicit.training.support.pattern`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.factor import LowRank
from simplicit.training.support.elimination import SINGLY, Eliminated, EliminationPath, block_size
from simplicit.training.support.exchange import LEAST_GAIN, MAX_EXCHANGES, REFRESHED, TRIED
from simplicit.training.support.pattern import Groups, Quota
from simplicit.training.support.within import Within

#: Rows are eliminated together as long as their parts of F take so many bytes, which stay in the cache.
CACHE = 2**23
#: Rows whose columns are exchanged by one thread after another.
ROWS = 16
#: Columns are gathered anew when this share of them, or of the trace of K, has gone.
GONE, TRACE_GONE = 0.2, 0.5
#: After an exchange with a 1 − q below this all is computed anew.
LEAST_LEFT = 1e-4
#: No 1 − q is less than that of rounding, which is also what columns without a place in K have.
LEAST = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class LowRankElimination:
    """What :class:`~simplicit.training.support.elimination.Elimination` is, of a Gram matrix H on ``columns`` (k,)."""

    H: LowRank
    columns: Index
    groups: Groups | None = None

    def batches(self, rows: int) -> list[slice]:
        """So many rows, in batches that depend on nothing else."""
        together = max(1, CACHE // (8 * max(1, len(self.H.factor)) * max(1, len(self.columns))))
        return [slice(first, first + together) for first in range(0, rows, together)]

    def paths(self, cross: Array, *, priced: bool = True) -> list[EliminationPath]:
        """The paths of a batch of rows with c (r, d), to none; not ``priced`` as they are there."""
        quota = None if self.groups is None else Quota(self.groups, len(cross))
        forced = 0 if quota is None else quota.count
        begin = _Eliminated.of(self.H.on(self.columns), cross[:, self.columns], quota)
        order, cost = (one[:, forced:] for one in begin.to_none(priced=priced))
        return [EliminationPath(self.columns[places], costs) for places, costs in zip(order, cost, strict=True)]


@dataclass(eq=False)
class _Eliminated:
    """r rows in the middle of their elimination, with n columns of each gathered, some of which went since.

    ``left`` (r, n) are the columns' places, ``stay`` (r, n) says which are left, ``count`` in every row, ``F``
    (r, k, n) and ``c`` (r, n) are those of the columns, and K (r, k, k) and ``u`` = F_S c_S (r, k) those of the columns
    left; ``trace`` (r,) was that of K − I when it was formed. ``columns`` (d, k) is Fᵀ of all. A ``quota`` says which
    may go at first.
    """

    ridge: float
    columns: Array
    left: Index
    stay: Mask
    F: Array
    c: Array
    count: int
    quota: Quota | None = None
    order: list[Index] = field(default_factory=list)
    costs: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, H: LowRank, cross: Array, quota: Quota | None = None) -> _Eliminated:
        """All rows with all columns, c (r, d)."""
        (r, d), k = cross.shape, len(H.factor)
        left, F = np.broadcast_to(np.arange(d), (r, d)), np.broadcast_to(H.factor, (r, k, d))
        stay = np.ones((r, d), dtype=bool)
        return cls(H.ridge, np.ascontiguousarray(H.factor.T), left, stay, np.ascontiguousarray(F), cross, d, quota)

    def to_none(self, *, priced: bool = True) -> tuple[Index, Array]:
        """Order and costs, (r, d); if not ``priced`` no column goes that need not, and costs nothing."""
        self._form()
        last = max(SINGLY, 2 * self.columns.shape[1])
        while self.count > last and (priced or (self.quota is not None and self.quota.count)):
            self._step()
        self._gather()
        if priced or (self.quota is not None and self.quota.count):
            order, cost = self._tail(priced=priced)
        else:
            order, cost = self.left, np.zeros(self.left.shape)
        return np.concatenate([*self.order, order], axis=1), np.concatenate([*self.costs, cost], axis=1)

    def _gather(self) -> None:
        """Take the columns that are left together."""
        r = len(self.left)
        self.F = np.stack([F.compress(stay, axis=1) for F, stay in zip(self.F, self.stay, strict=True)])
        self.left, self.c = self.left[self.stay].reshape(r, -1), self.c[self.stay].reshape(r, -1)
        self.stay = np.ones(self.left.shape, dtype=bool)

    def _form(self) -> None:
        """Form K and u of the columns gathered."""
        self.K = self.F @ self.F.transpose(0, 2, 1)
        self.trace = np.trace(self.K, axis1=1, axis2=2)
        self.K += np.eye(self.K.shape[1])
        self.u = (self.F @ self.c[:, :, None])[:, :, 0]

    def _step(self) -> None:
        """Let the block of the cheapest columns of every row go."""
        A = np.linalg.inv(np.linalg.cholesky(self.K))
        T = A @ self.F
        g = self.c - (np.einsum("rij,rj->ri", A, self.u)[:, None] @ T)[:, 0]
        price = np.square(g) / np.maximum(1 - np.einsum("rin,rin->rn", T, T), LEAST) / self.ridge
        price[~self.stay] = np.inf
        block = self._block(price)
        gone, g_B, c_B, own = (np.take_along_axis(one, block, axis=1) for one in (self.left, g, self.c, price))
        np.put_along_axis(self.stay, block, False, axis=1)
        self.count -= block.shape[1]
        F_B = self.columns.take(gone, axis=0).transpose(0, 2, 1)
        self.K -= F_B @ F_B.transpose(0, 2, 1)
        self.u -= (F_B @ c_B[:, :, None])[:, :, 0]
        fallen = np.trace(self.K, axis1=1, axis2=2) - self.K.shape[1] <= (1 - TRACE_GONE) * self.trace
        if self.count <= (1 - GONE) * self.left.shape[1] or fallen.any():
            self._gather()
            self._form()
        v = F_B @ g_B[:, :, None]
        raised = np.square(g_B).sum(axis=1) + (v * np.linalg.solve(self.K, v)).sum(axis=(1, 2))
        self.order.append(gone)
        self.costs.append(np.array([_shared(*one) for one in zip(own, raised / self.ridge, strict=True)]))

    def _block(self, price: Array) -> Index:
        """The places of the columns that go next, (r, b)."""
        count, quota = block_size(self.count), self.quota
        if quota is None or not quota.count:
            return np.array([_cheapest(one, count) for one in price])
        names, count = torch.from_numpy(np.ascontiguousarray(self.left)), min(count, quota.count)
        free = quota.priced(names, torch.from_numpy(price)).numpy()
        block = np.array([_cheapest(one, count) for one in free])
        quota.take(names.gather(1, torch.from_numpy(block)))
        return block

    def _tail(self, *, priced: bool) -> tuple[Index, Array]:
        """The last columns of all rows, by their own Gram matrices: order and costs."""
        scale = np.abs(self.c).max(axis=1, keepdims=True, initial=0.0)
        scale[scale == 0] = 1.0
        P = torch.from_numpy(np.linalg.inv(np.eye(self.count) + self.F.transpose(0, 2, 1) @ self.F))
        w = torch.from_numpy(self.c / scale)[:, None] @ P
        names = torch.from_numpy(np.ascontiguousarray(self.left))
        order, cost = Eliminated(P, w[:, 0], self.quota, names).to_none(priced=priced)
        return order, cost * scale * (scale / self.ridge)


def _cheapest(price: Array, count: int) -> Index:
    """So many columns, from the cheapest."""
    gone = np.argpartition(price, count)[:count]
    return gone[np.argsort(price[gone], kind="stable")]


def _shared(price: Array, together: float) -> Array:
    """What a block costs, spread over its members in proportion to their prices."""
    total = float(price.sum())
    return price * (together / total) if total > 0 else np.full(len(price), together / len(price))


@dataclass(frozen=True, eq=False)
class LowRankExchange:
    """What :class:`~simplicit.training.support.exchange.Exchange` is, of a Gram matrix H."""

    H: LowRank

    def batches(self, sizes: Index) -> list[Index]:
        """Rows with supports of such ``sizes`` (r,), in batches that depend on nothing else."""
        rows = np.arange(len(sizes))
        return [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]

    def supports(
        self, cross: Array, start: Mask, allowed: Mask, *, exchanged: bool = True, groups: Groups | None = None
    ) -> tuple[Mask, Array]:
        """Supports (n, d) and least squares on them (n, d) of a batch with c (n, d), after exchanges if wanted.

        Columns that are ``allowed`` (n, d) may come in, and supports stay in the pattern of ``groups``.
        """
        support, values = start.copy(), np.zeros(start.shape)
        for row, c in enumerate(cross):
            chosen = np.flatnonzero(start[row])
            if exchanged:
                own = None if groups is None else groups.of_rows([row])
                chosen = exchange_low_rank(self.H, c, chosen, np.flatnonzero(allowed[row]), own)
                support[row] = False
                support[row, chosen] = True
            values[row] = self.H.least_squares(c, chosen)
        return support, values


def exchange_low_rank(H: LowRank, c: Array, support: Index, candidates: Index, groups: Groups | None = None) -> Index:
    """A support (k,) of the same size with a lower f, in increasing order, of H and c (d,).

    ``candidates`` come in and others go out, one pair at a time, while that gains, ``MAX_EXCHANGES`` at most, and while
    the pattern of ``groups`` holds.
    """
    used, inside = np.zeros((2, len(c)), dtype=bool)
    used[candidates] = used[support] = inside[support] = True
    columns, inside = np.flatnonzero(used), inside[used]
    if not inside.any() or inside.all():
        return np.sort(support)
    now = _Kernel(H.factor.compress(used, axis=1), c[used], inside, None if groups is None else groups.on(columns))
    for number in range(MAX_EXCHANGES):
        if number % REFRESHED == 0 or now.worn:
            now.refresh()
        pair = now.best_pair()
        if pair is None:
            break
        now.replace(*pair)
    return np.sort(columns[now.inside])


def _largest(gain: Array, count: int) -> Index:
    """The places of the largest, from the largest; of equal ones the first come first."""
    count = min(count, len(gain))
    places = np.flatnonzero(gain >= np.partition(gain, len(gain) - count)[len(gain) - count])
    return places[np.argsort(-gain[places], kind="stable")][:count]


@dataclass(eq=False)
class _Kernel:
    """A support in the middle of its exchanges: F (k, n), c (n,) and which columns are ``inside`` (n,).

    K⁻¹ (k, k), ``u`` = F_S c_S (k,) and ``q`` (n,) are kept up to date; they are ``worn`` where digits went.
    """

    F: Array
    c: Array
    inside: Mask
    groups: Groups | None = None
    worn: bool = False

    def refresh(self) -> None:
        """Compute all from nothing, in O(k²n)."""
        F = self.F.compress(self.inside, axis=1)
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
        w, left = g[within], np.maximum(1 - self.q[within], LEAST)
        least = LEAST_GAIN * abs(float(w @ self.c[within]))
        for tried in self._tried(gain, np.square(w) / left, outside):
            solved = (self.inverse @ self.F[:, outside[tried]]).T @ self.F.compress(self.inside, axis=1)
            s, step = schur[tried, None], (g[outside[tried]] / schur[tried])[:, None]
            price = np.square(w - solved * step) / (left + np.square(solved) / s)
            price = np.where(self._partners(outside[tried], within), price, np.inf)
            won = gain[tried] - price.min(axis=1)
            best = int(np.argmax(won))
            if won[best] > least:
                return int(within[np.argmin(price[best])]), int(outside[tried[best]])
        return None

    def _within(self) -> Within | None:
        return None if self.groups is None else Within.of(self.groups, torch.from_numpy(self.inside)[None])

    def _tried(self, gain: Array, price: Array, outside: Index) -> Iterator[Index]:
        """Which columns outside are tried: the first few, and, under a pattern, all where none of these gains."""
        pattern = self._within()
        if pattern is None:
            yield _largest(gain, TRIED)
            return
        prices = np.full((1, len(self.inside)), np.inf)
        prices[0, self.inside] = price
        cheapest = pattern.cheapest(torch.from_numpy(prices)).numpy()[0, outside]
        yield _largest(gain - cheapest, TRIED)
        yield np.arange(len(outside))

    def _partners(self, entering: Index, leaving: Index) -> Mask:
        """Which columns may leave for which, of each of those that come in."""
        pattern = self._within()
        if pattern is None:
            return np.ones((len(entering), len(leaving)), dtype=bool)
        pair = (torch.from_numpy(one)[None] for one in (entering, leaving))
        return np.asarray(pattern.partners(*pair)[0].numpy())

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
