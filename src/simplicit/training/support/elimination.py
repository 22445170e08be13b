r"""Backward elimination and exchange on one least-squares problem: which columns a row can do without.

For a row with the positive definite Gram matrix H and the cross-correlations c, the least of

    f(w) = wᵀHw − 2cᵀw   over w that are zero off a support S

is at w = P c_S with P = (H_SS)⁻¹. Taking column j out of S and refitting the others raises f by exactly wⱼ²/Pⱼⱼ, the
price of an *optimal brain surgeon* (Hassibi and Stork, *Second order derivatives for network pruning*, 1993); taking a
whole block B out raises it by w_Bᵀ(P_BB)⁻¹w_B. Both P and w follow by a downdate, so that a whole path from all columns
to none costs little more than the one inverse it starts from. Where many are left they go in blocks, one in twenty at
a time; the last :data:`SINGLY` go one by one, which is the exact greedy path.

Elimination never looks back. :func:`exchange` does: bringing column j in lowers f by gⱼ²/sⱼ with the gradient
g = c − Hw and the Schur complement s = Hⱼⱼ − H_jS P H_Sj, and the column that is then cheapest goes out. Every exchange
lowers f.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpotri

from simplicit.rows.batch import Array, Index

#: Share of the columns left that go together, and how many columns are eliminated one by one at the end.
BLOCK, SINGLY = 0.05, 40
#: Columns that :func:`exchange` tries, and the least share of f's range that an exchange must gain.
TRIED, LEAST_GAIN = 6, 1e-5
#: Exchanges of a row at most, and after how many the inverse is computed anew instead of being updated. A perceptron on
#: Fashion-MNIST took 3 a row, 17 at most.
MAX_EXCHANGES, REFRESHED = 100, 25


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


def eliminate(P: Array, c: Array, columns: Index) -> EliminationPath:
    """The path from these ``columns`` (k,) to none, with P (k, k) the inverse of their Gram matrix and their c (k,)."""
    w, left = P @ c, np.arange(len(c))
    order: list[Index] = []
    costs: list[Array] = []
    while len(left):
        price = np.square(w) / P.diagonal()
        gone = cheapest(price, len(price))
        stay = np.ones(len(left), dtype=bool)
        stay[gone] = False
        across = P[gone]
        solved = np.linalg.solve(across[:, gone], np.column_stack([across, w[gone]]))
        order.append(left[gone])
        costs.append(shared(price[gone], float(w[gone] @ solved[:, -1])))
        w = (w - solved[:, -1] @ across)[stay]
        P = P[np.ix_(stay, stay)] - across[:, stay].T @ solved[:, :-1][:, stay]
        left = left[stay]
    if not order:
        return EliminationPath(columns[:0], np.zeros(0))
    return EliminationPath(columns[np.concatenate(order)], np.concatenate(costs))


def cheapest(price: Array, left: int) -> Index:
    """The columns that go next where so many are left, from the cheapest."""
    count = 1 if left <= SINGLY else max(1, min(int(BLOCK * left), left - SINGLY))
    if count == 1:
        return np.array([np.argmin(price)])
    gone = np.argpartition(price, count)[:count]
    return gone[np.argsort(price[gone], kind="stable")]


def shared(price: Array, together: float) -> Array:
    """What a block costs, spread over its members in proportion to their prices."""
    total = float(price.sum())
    return price * (together / total) if total > 0 else np.full(len(price), together / len(price))


def exchange(H: Array, c: Array, support: Index, candidates: Index) -> Index:
    """A support of the same size with a lower f, in increasing order, of H (d, d) and c (d,).

    ``candidates`` come in and others go out, one pair at a time, while that gains, :data:`MAX_EXCHANGES` at most.
    """
    columns = np.union1d(candidates, support)
    places = np.searchsorted(columns, support)
    outside = np.searchsorted(columns, np.setdiff1d(candidates, support))
    if not len(places) or not len(outside):
        return np.sort(support)
    H, c = H[np.ix_(columns, columns)], c[columns]
    for number in range(MAX_EXCHANGES):
        if number % REFRESHED == 0:
            inverted = _Inverted.of(H, places)
        pair = _best_pair(H, c, inverted, outside)
        if pair is None:
            break
        place, entering = pair
        leaving = inverted.support[place]
        inverted.replace(H, place, outside[entering])
        outside[entering], places = leaving, inverted.support
    return np.sort(columns[places])


@dataclass(eq=False)
class _Inverted:
    """A ``support`` S (k,), P = (H_SS)⁻¹ (k, k), ``rows`` H_S· (k, d) and ``solved`` T = P H_S· (k, d)."""

    support: Index
    P: Array
    rows: Array
    solved: Array

    @classmethod
    def of(cls, H: Array, support: Index) -> _Inverted:
        """Compute P and T from nothing, in O(k²d)."""
        rows = H[support]
        P = inverse(rows[:, support])
        return cls(support.copy(), P, rows, P @ rows)

    def replace(self, H: Array, place: int, entering: int) -> None:
        """Let a column come in at the place of another, by two updates of rank one of P and of T, in O(kd).

        Without column p, P is P − P·p Pp·/Ppp, and zero in row and column p. With column e in that place it is that
        + vvᵀ/s, with v = T·e but v_p = −1 and s = Hee − H_eS T·e; T is P H_S·, and so T + v(vᵀH_S·)/s.
        """
        column = self.P[:, place].copy()
        self.solved -= np.outer(column, self.solved[place] / column[place])
        self.P -= np.outer(column / column[place], column)
        self.P[place] = self.P[:, place] = self.solved[place] = 0.0
        v = self.solved[:, entering].copy()
        schur = max(H[entering, entering] - self.rows[:, entering] @ v, 1e-12 * H[entering, entering])
        v[place], self.support[place], self.rows[place] = -1.0, entering, H[entering]
        self.P += np.outer(v / schur, v)
        self.solved += np.outer(v / schur, v @ self.rows)


def _best_pair(H: Array, c: Array, now: _Inverted, outside: Index) -> tuple[int, int] | None:
    """The place in the support that is given up and the place outside that comes in; None if no pair gains."""
    across, solved = now.rows[:, outside], now.solved[:, outside]
    w = now.P @ c[now.support]
    schur = H.diagonal()[outside] - np.einsum("ij,ij->j", across, solved)
    schur = np.maximum(schur, 1e-12 * H.diagonal()[outside])
    gradient = c[outside] - w @ across
    gain = np.square(gradient) / schur
    best, pair = LEAST_GAIN * abs(float(w @ c[now.support])), None
    for entering in np.argsort(-gain, kind="stable")[:TRIED]:
        u, s = solved[:, entering], schur[entering]
        price = np.square(w - u * (gradient[entering] / s)) / (now.P.diagonal() + np.square(u) / s)
        place = int(np.argmin(price))
        if gain[entering] - price[place] > best:
            best, pair = float(gain[entering] - price[place]), (place, int(entering))
    return pair
