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

from simplicit.rows.batch import Array, Index

#: Share of the columns left that go together, and how many columns are eliminated one by one at the end.
BLOCK, SINGLY = 0.05, 40
#: Columns that :func:`exchange` tries, and the least share of f's range that an exchange must gain.
TRIED, LEAST_GAIN = 6, 1e-5
#: Exchanges of a row at most, each at the cost of an inverse. A perceptron on Fashion-MNIST took 3 a row, 17 at most.
MAX_EXCHANGES = 100


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
    P = cho_solve(cho_factor(H, lower=True), np.eye(len(H)))
    return np.asarray((P + P.T) / 2)


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
        gone = _cheapest(price)
        stay = np.ones(len(left), dtype=bool)
        stay[gone] = False
        across = P[gone]
        solved = np.linalg.solve(across[:, gone], np.column_stack([across, w[gone]]))
        order.append(left[gone])
        costs.append(_shared(price[gone], float(w[gone] @ solved[:, -1])))
        w = (w - solved[:, -1] @ across)[stay]
        P = P[np.ix_(stay, stay)] - across[:, stay].T @ solved[:, :-1][:, stay]
        left = left[stay]
    if not order:
        return EliminationPath(columns[:0], np.zeros(0))
    return EliminationPath(columns[np.concatenate(order)], np.concatenate(costs))


def _cheapest(price: Array) -> Index:
    """The columns that go next, from the cheapest."""
    count = 1 if len(price) <= SINGLY else max(1, min(int(BLOCK * len(price)), len(price) - SINGLY))
    if count == 1:
        return np.array([np.argmin(price)])
    gone = np.argpartition(price, count)[:count]
    return gone[np.argsort(price[gone], kind="stable")]


def _shared(price: Array, together: float) -> Array:
    """What a block costs, spread over its members in proportion to their prices."""
    total = float(price.sum())
    return price * (together / total) if total > 0 else np.full(len(price), together / len(price))


def exchange(H: Array, c: Array, support: Index, candidates: Index) -> Index:
    """A support of the same size with a lower f, in increasing order, of H (d, d) and c (d,).

    ``candidates`` come in and others go out, one pair at a time, while that gains, :data:`MAX_EXCHANGES` at most.
    """
    support = support.copy()
    outside = np.setdiff1d(candidates, support)
    for _ in range(MAX_EXCHANGES if len(support) and len(outside) else 0):
        P = inverse(H[np.ix_(support, support)])
        w = P @ c[support]
        pair = _best_pair(H, c, support, outside, P, w)
        if pair is None:
            break
        place, entering = pair
        support[place], outside[entering] = outside[entering], support[place]
    return np.sort(support)


def _best_pair(H: Array, c: Array, support: Index, outside: Index, P: Array, w: Array) -> tuple[int, int] | None:
    """The place in the support that is given up and the place outside that comes in; None if no pair gains."""
    across = H[np.ix_(support, outside)]
    solved = P @ across
    schur = H.diagonal()[outside] - np.einsum("ij,ij->j", across, solved)
    schur = np.maximum(schur, 1e-12 * H.diagonal()[outside])
    gradient = c[outside] - w @ across
    gain = np.square(gradient) / schur
    best, pair = LEAST_GAIN * abs(float(w @ c[support])), None
    for entering in np.argsort(-gain, kind="stable")[:TRIED]:
        u, s = solved[:, entering], schur[entering]
        price = np.square(w - u * (gradient[entering] / s)) / (P.diagonal() + np.square(u) / s)
        place = int(np.argmin(price))
        if gain[entering] - price[place] > best:
            best, pair = float(gain[entering] - price[place]), (place, int(entering))
    return pair
