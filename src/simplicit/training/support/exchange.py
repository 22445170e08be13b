r"""Exchanges: a support of the same size with a lower error, and least squares on it, for many rows at once.

Of a row with the support S let P = (H_SS)⁻¹ and w = P c_S, as in
:mod:`~simplicit.training.support.elimination`. Bringing column e in lowers f by gₑ²/sₑ with the gradient g = c − Hw and
the Schur complement s = Hₑₑ − uᵀH_Se, u = P H_Se, and leaves w − u gₑ/s and diag P + u²/s for the others, of which the
one is taken out that is the cheapest then. Every exchange lowers f. Few columns are tried at a time, those with the
largest gains, and the best pair is exchanged:

    P ← P − q qᵀ/q_p + v vᵀ/s'     q = P·p,   v = u − q u_p/q_p with v_p = −1,   s' = s + u_p²/q_p

where e comes in at the place of p. With a = q + u u_p/s, which is column p of P with e in, and π = a_p,

    sⱼ ← sⱼ − rⱼ²/s + tⱼ²/π,   g ← g − r gₑ/s + t w_p/π     r = Hₑ − uᵀH_S,   t = aᵀH_S − (u_p/s)Hₑ

for the others, with the w_p that would be at p with e in: products with H that all rows have at once, as they have
those with P. So nothing but P is ever as large as a support squared, and it is kept from exchange to exchange, in
float32 while the columns are not too dependent (:data:`MOST_INFLATION`), and is computed anew now and then.

Values are in float64, whatever P is: the residual q = c_S − H_SS w is, and w + P q is nearer the solution by as many
digits as P has, until there are no more to gain.

Under a pattern columns are exchanged within their groups (:mod:`~simplicit.training.support.within`).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.support.elimination import FEW, MOST_INFLATION, least_squares
from simplicit.training.support.factored import Factored, Inner
from simplicit.training.support.pattern import Groups
from simplicit.training.support.within import Gains, Within

#: Columns that are tried, and the least share of f's range that an exchange must gain.
TRIED, LEAST_GAIN = 6, 1e-5
#: Exchanges of a row at most, and after how many all is computed anew instead of being updated. A perceptron on
#: Fashion-MNIST took 3 a row, 17 at most; layers of MiniLM 2 to 25.
MAX_EXCHANGES, REFRESHED = 100, 25
#: Bytes of what rows of a batch keep, rows at most, and the least support of a batch as a share of the largest.
CACHE, MOST_ROWS, ALIKE = 2**25, 32, 0.8
#: Steps that refine the values at most, and the residual that is wanted, in units of c.
REFINED, RESIDUAL = 20, 1e-15
#: A residual that is larger than this says that P was not good enough.
WORST = 1e-11


@dataclass(frozen=True, eq=False)
class Exchange:
    """Rows on H (d, d) in units of the columns' norms ``units`` (d,), in float64 and in float32."""

    units: Array
    H: Tensor
    single: Tensor

    @classmethod
    def of(cls, gram: Array) -> Exchange:
        units = np.sqrt(gram.diagonal())
        H = torch.from_numpy(gram / np.outer(units, units))
        return cls(units, H, H.float() if len(H) > FEW else H)

    def batches(self, sizes: Index) -> list[Index]:
        """Rows with supports of such ``sizes`` (r,), in batches of nearly equal ones that depend on nothing else."""
        order, found, first = np.argsort(-sizes, kind="stable"), [], 0
        while first < len(order):
            largest, d = max(1, int(sizes[order[first]])), len(self.units)
            most = min(MOST_ROWS, max(1, CACHE // (4 * largest * (d + largest))))
            batch = order[first : first + most]
            found.append(batch[sizes[batch] >= ALIKE * sizes[batch[0]]])
            first += len(found[-1])
        return found

    def supports(
        self, cross: Array, start: Mask, allowed: Mask, *, exchanged: bool = True, groups: Groups | None = None
    ) -> tuple[Mask, Array]:
        """Supports (n, d) and least squares on them (n, d) of a batch with c (n, d), after exchanges if wanted.

        Columns that are ``allowed`` (n, d) may come in, and supports stay in the pattern of ``groups``.
        """
        if not start.any():
            return start, np.zeros(start.shape)
        c = cross / self.units
        scale = np.abs(c).max(axis=1, initial=0.0)
        scale[scale == 0] = 1.0
        exact = torch.from_numpy(c / scale[:, None])
        masks = torch.from_numpy(start), torch.from_numpy(allowed)
        support, w = self._found(exact, *masks, groups, exchanged=exchanged)
        values = w.numpy() * scale[:, None] / self.units
        residual = torch.where(support, exact - w @ self.H, 0.0).abs().amax(1)
        chosen = support.numpy()
        for row in np.flatnonzero((residual > WORST).numpy()):
            values[row] = least_squares(self.H.numpy(), c[row], np.flatnonzero(chosen[row])) / self.units
        return chosen, values

    def _found(
        self, c: Tensor, start: Tensor, allowed: Tensor, groups: Groups | None, *, exchanged: bool
    ) -> tuple[Tensor, Tensor]:
        """Supports and values (n, d), in units of the columns."""
        if not exchanged:
            return start, self._refined(Factored.of(self.single, start) or Factored.of(self.H, start), c, start)
        support, made = start, 0
        while True:
            rows = _Rows.of(self.single, c, support, allowed) or _Rows.of(self.H, c, support, allowed)
            assert rows is not None
            rows.groups = groups
            most = min(REFRESHED, MAX_EXCHANGES - made)
            done = _exchanged(rows, most)
            made, support = made + done, rows.support
            if done < most or made == MAX_EXCHANGES:
                return support, self._refined(rows, c, support)

    def _refined(self, factor: _Rows | Factored | None, c: Tensor, support: Tensor) -> Tensor:
        """Least squares on the supports, in float64, (n, d)."""
        w = best = torch.zeros_like(c)
        before = rest = torch.full((len(c),), torch.inf, dtype=torch.float64)
        if factor is None:
            return w
        for _ in range(REFINED):
            q = torch.where(support, c - w @ self.H, 0.0)
            size = q.abs().amax(1)
            better = size < rest
            best, rest = torch.where(better[:, None], w, best), torch.where(better, size, rest)
            if not bool(((size > RESIDUAL) & (size < before / 2)).any()):
                break
            before = size
            # In units of what is left, which float32 may not have the range for.
            unit = torch.where(size > 0, size, 1.0)[:, None]
            w = w + factor.solution((q / unit).to(factor.H.dtype)).double() * unit
        return best


class _Rows:
    """n rows with supports at ``places`` (n, m), of which those that are ``real`` are any.

    ``P`` (n, m, m) is that of the identity elsewhere; ``w`` (n, d), ``g`` (n, d), and ``s`` (n, d) of the columns
    outside. Supports stay in the pattern of ``groups``.
    """

    groups: Groups | None = None

    def __init__(self, H: Tensor, c: Tensor, support: Tensor, outside: Tensor, inner: Inner) -> None:
        self.H, self.c, self.support, self.outside = H, c, support, outside
        self.places, self.real = inner.places, inner.real
        self.P = torch.cholesky_inverse(inner.root)
        # L⁻¹H_S·, transposed.
        solved = torch.linalg.solve_triangular(inner.root.mT, inner.lines.mT, upper=True, left=False)
        explained = (solved.square_() @ self.real[:, :, None].to(H.dtype))[:, :, 0]
        self.s = torch.where(support, 1.0, 1 - explained)
        inflation = float(self.P.diagonal(dim1=1, dim2=2).max())
        self.enough = float(self.s.min()) >= self.least and inflation <= MOST_INFLATION
        self.s.clamp_(min=self.least)
        self.w = self.solution(self.c)
        self.w = self.w + self.solution(self.c - self.w @ H)
        self.g = self.c - self.w @ H

    @classmethod
    def of(cls, H: Tensor, c: Tensor, support: Tensor, allowed: Tensor) -> _Rows | None:
        """Compute P and the rest from nothing; None where float32 has not the digits for it."""
        inner = Inner.of(H, support)
        if inner is None:
            return None
        rows = cls(H, c.to(H.dtype), support.clone(), allowed & ~support, inner)
        return rows if rows.enough or H.dtype == torch.float64 else None

    @property
    def least(self) -> float:
        """No Schur complement is less, up to rounding."""
        return 1 / MOST_INFLATION if self.H.dtype == torch.float32 else 1e-12

    def _inside(self, full: Tensor) -> Tensor:
        """Numbers of all columns at the support, (n, m)."""
        return full.gather(1, self.places) * self.real

    def _spread(self, inner: Tensor) -> Tensor:
        """Numbers of the support at all columns, (n, d)."""
        return torch.zeros_like(self.c).scatter_add_(1, self.places, inner * self.real)

    def solution(self, c: Tensor) -> Tensor:
        """P c_S, (n, d)."""
        return self._spread((self.P @ self._inside(c)[:, :, None])[:, :, 0])

    def only(self, rows: Tensor) -> _Rows:
        """Some of the rows, as they are now."""
        found = copy(self)
        for name in ("c", *_OF_ROWS):
            setattr(found, name, getattr(self, name)[rows])
        return found

    def take_back(self, rows: Tensor, found: _Rows) -> None:
        """What has become of some of the rows."""
        for name in _OF_ROWS:
            getattr(self, name)[rows] = getattr(found, name)

    def exchange(self) -> Tensor:
        """Exchange the best pair of every row that gains by one, and say which do, (n,)."""
        n, m = len(self.c), self.places.shape[1]
        if not m or not bool(self.outside.any()):
            return torch.zeros(n, dtype=torch.bool)
        gain = torch.where(self.outside, self.g.square() / self.s, -1.0)
        within = None if self.groups is None else Within.of(self.groups, self.support)
        gains, tried = self._tried(gain, within)
        u = (self.H[tried[:, :, None], self.places[:, None, :]] * self.real[:, None, :]) @ self.P
        s = self.s.gather(1, tried)[:, :, None]
        step = self.g.gather(1, tried)[:, :, None] / s
        diagonal = self.P.diagonal(dim1=1, dim2=2)[:, None, :] + u.square() / s
        moved = self._inside(self.w)[:, None, :] - u * step
        real = self.real[:, None, :] if within is None else self.real[:, None, :] & within.partners(tried, self.places)
        price = torch.where(real, moved.square() / diagonal, torch.inf)
        least, leaving = price.min(2)
        won, best = (gains - least).max(1)
        enough = LEAST_GAIN * (self.w * self.c).sum(1).abs()
        gains_any = (won > enough) & (gains.gather(1, best[:, None])[:, 0] > 0)
        if not bool(gains_any.any()):
            return gains_any if within is None else self._exchange_within(within, enough)
        at = torch.arange(n)
        self._replace(
            _Pair(
                rows=gains_any,
                entering=tried[at, best],
                place=leaving[at, best],
                u=u[at, best],
                s=s[at, best, 0],
                step=step[at, best, 0],
            )
        )
        # Rows in groups wait for each other: what is not tried here may gain within a group.
        return gains_any if within is None else torch.ones_like(gains_any)

    def _tried(self, gain: Tensor, within: Within | None) -> tuple[Tensor, Tensor]:
        """The gains (n, k) of the columns that are tried, and these."""
        count = min(TRIED, gain.shape[1])
        if within is None:
            return gain.topk(count, 1)
        price = self._spread(self._inside(self.w).square() / self.P.diagonal(dim1=1, dim2=2))
        net = gain - within.cheapest(torch.where(self.support, price, torch.inf))
        tried = torch.where(self.outside, net, -torch.inf).topk(count, 1).indices
        return gain.gather(1, tried), tried

    def _exchange_within(self, within: Within, enough: Tensor) -> Tensor:
        """Exchange the best pair of all within groups in every row that gains ``enough`` (n,), and say which rows go
        on, (n,): all, or none if none gains."""
        n, d = self.c.shape
        leaving, entering = within.pairs(self.outside)
        if not leaving.numel() or not entering.numel():
            return torch.zeros_like(enough, dtype=torch.bool)
        places = torch.zeros(n, d + 1, dtype=torch.int64)
        places.scatter_(1, torch.where(self.real, self.places, d), torch.arange(self.places.shape[1]).expand(n, -1))
        rows = torch.arange(n)[:, None]
        lines = self.P[rows, places.gather(1, leaving.flatten(1))].view(*leaving.shape, -1)
        across = self.H[entering.flatten(1).clamp(max=d - 1)[:, :, None], self.places[:, None, :]]
        across = (across * self.real[:, None, :]).view(*entering.shape, -1)
        diagonal = self._spread(self.P.diagonal(dim1=1, dim2=2))
        gains = Gains(self.w, self.g, self.s, diagonal)
        won, out, into = gains.best(leaving, entering, lines @ across.mT)
        wins = won > enough
        if not bool(wins.any()):
            return wins
        out, into = out.clamp(max=d - 1), into.clamp(max=d - 1)  # of rows without a pair, which do not exchange
        at = torch.arange(n)
        u = ((self.H[into[:, None], self.places] * self.real)[:, None, :] @ self.P)[:, 0]
        s = self.s[at, into]
        self._replace(_Pair(wins, into, places[at, out], u, s, self.g[at, into] / s))
        return torch.ones_like(wins)

    def _replace(self, pair: _Pair) -> None:
        """Let columns come in at the places of others."""
        at, p, e = torch.arange(len(self.c)), pair.place, pair.entering
        q = self.P[at, :, p]
        u_p, q_p = pair.u[at, p], q[at, p]
        q_p = torch.where(pair.rows, q_p, 1.0)
        a = q + pair.u * (u_p / pair.s)[:, None]
        pivot = torch.where(pair.rows, a[at, p], 1.0)
        left_w = self._inside(self.w)[at, p] - u_p * pair.step
        # Of a row that does not exchange nothing moves.
        moves = pair.rows.to(self.c.dtype)
        r, t = self._across(pair, a, u_p)
        self.g = self.g - (moves * pair.step)[:, None] * r + (moves * left_w / pivot)[:, None] * t
        s = self.s - (moves / pair.s)[:, None] * r.square() + (moves / pivot)[:, None] * t.square()
        inner = self._inside(self.w) - moves[:, None] * (pair.u * pair.step[:, None] + a * (left_w / pivot)[:, None])
        inner[at, p] = torch.where(pair.rows, pair.step + u_p / pair.s * left_w / pivot, inner[at, p])
        self._update_inverse(pair, q, q_p, moves)
        out = self.places[at, p]
        rows = pair.rows.nonzero()[:, 0]
        s[at, out] = torch.where(pair.rows, 1 / pivot, s[at, out])
        self.s = s.clamp_(min=self.least)
        self.support[rows, out[rows]], self.support[rows, e[rows]] = False, True
        self.outside[rows, out[rows]], self.outside[rows, e[rows]] = True, False
        self.places[rows, p[rows]] = e[rows]
        self.w = self._spread(inner)

    def _across(self, pair: _Pair, a: Tensor, u_p: Tensor) -> tuple[Tensor, Tensor]:
        """r and t, (n, d)."""
        at = torch.arange(len(a))
        entering, removed = self._spread(pair.u), self._spread(a)
        entering[at, pair.entering] -= 1.0
        removed[at, pair.entering] -= u_p / pair.s
        both = torch.cat([-entering, removed]) @ self.H
        return both[: len(a)], both[len(a) :]

    def _update_inverse(self, pair: _Pair, q: Tensor, q_p: Tensor, moves: Tensor) -> None:
        at, p = torch.arange(len(q)), pair.place
        u_p = pair.u[at, p]
        v = pair.u - q * (u_p / q_p)[:, None]
        v[at, p] = -1.0
        schur = pair.s + u_p.square() / q_p
        left = torch.stack([-q * (moves / q_p)[:, None], v * (moves / schur)[:, None]], 2)
        self.P.baddbmm_(left, torch.stack([q, v], 1))
        # What is left of p there is rounding.
        line = torch.where(pair.rows[:, None], -v / schur[:, None], self.P[at, p])
        self.P[at, p] = line
        self.P[at, :, p] = line


#: What exchanges change of rows.
_OF_ROWS = ("support", "outside", "places", "real", "P", "w", "g", "s")


def _exchanged(rows: _Rows, most: int) -> int:
    """Exchange columns of rows until none gains, or so many times, and say how many times it was.

    Most rows need a few exchanges and some need many: when half of those that are left gain no more, they leave.
    """
    part, at = rows, torch.arange(len(rows.c))
    for done in range(most):
        going = part.exchange()
        count = int(going.count_nonzero())
        if count and 2 * count > len(at):
            continue
        if part is not rows:
            rows.take_back(at, part)
        if not count:
            return done
        at = at[going]
        part = rows.only(at)
    if part is not rows:
        rows.take_back(at, part)
    return most


@dataclass(frozen=True, eq=False)
class _Pair:
    """What is exchanged in the ``rows`` (n,) that are marked: the column ``entering`` and the ``place`` it takes, (n,),
    with u (n, m), s (n,) and gₑ/s, the ``step`` (n,)."""

    rows: Tensor
    entering: Tensor
    place: Tensor
    u: Tensor
    s: Tensor
    step: Tensor
