r"""Rows of a cell that share their weights: a convolution, a layer on tokens, at every position of a state.

An output channel c of such a layer has a row of M at every position p, all of them multiples of the same parameters,

    z_cp = Σ_k θ_ck f_pk,     f_pk = Σ_j S_pkj x_j,

S the places and factors at which parameter k stands, the same for all channels of a layer. One row problem over all
positions of all samples takes the place of theirs. With the ball Σ_j |A_ij| s_j <= t_p of each position p, taken over
the states of the loop, Σ_k |θ_k| max_p Σ_j |S_pkj| s_j <= min_p t_p is enough; it is sharp where s is the same at all
positions, so that s is looked for among those (:meth:`simplicit.implicit.blockwise.Cycle.vector_on`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from simplicit.checks import refused
from simplicit.network.probing import Traced
from simplicit.rows.batch import Array, Index, Mask


@dataclass(frozen=True, eq=False)
class Tie:
    """r rows at P positions each, ``rows`` (r, P) of M, with K weights; ``places`` is S, (P·K, n + p)."""

    rows: Index
    places: csr_array

    @property
    def slots(self) -> int:
        """K."""
        rows, positions = int(self.places.shape[0]), int(self.rows.shape[1])
        return rows // positions

    def features(self, X: Array) -> Array:
        """F (m·P, K), for values X (m, n + p)."""
        return np.asarray((self.places @ X.T).T.reshape(-1, self.slots))

    def targets(self, Z: Array) -> Array:
        """Targets (m·P, r), for Z (m, n_pre + q)."""
        return np.asarray(Z[:, self.rows.T].reshape(-1, len(self.rows)))

    def largest(self, columns: Array) -> Array:
        """Max over the positions of Σ_j |S_pkj| columns_j, (K,)."""
        return np.asarray((abs(self.places) @ columns).reshape(-1, self.slots).max(axis=0))

    def weights(self, M: csr_array) -> Array:
        """θ, (r, K), of a matrix M that is tied so."""
        first = self.places.tocoo()
        slot, kept = np.unique(first.row % self.slots, return_index=True)
        result = self.entries(M)
        result[:, slot] /= first.data[kept]
        return result

    def entries(self, M: csr_array) -> Array:
        """The entry of M at the first place of each weight, (r, K)."""
        first = self.places.tocoo()
        slot, kept = np.unique(first.row % self.slots, return_index=True)
        result = np.zeros((len(self.rows), self.slots))
        for number, rows in enumerate(self.rows):
            result[number, slot] = np.asarray(M[rows[first.row[kept] // self.slots], first.col[kept]]).ravel()
        return result

    def placed(self, theta: Array) -> coo_array:
        """The entries of M, (n_pre + q, n + p), of weights θ (r, K); rows of others are empty."""
        S = self.places.tocoo()
        position, slot = np.divmod(S.row, self.slots)
        rows = self.rows[:, position].ravel()
        values = (theta[:, slot] * S.data).ravel()
        columns = np.tile(S.col, len(self.rows))
        return coo_array((values, (rows, columns)), shape=(int(rows.max(initial=0)) + 1, S.shape[1]))


def ties_of(traced: Traced, parts: Sequence[tuple[str, slice]], width: int) -> dict[str, list[Tie]]:
    """The ties of the rows of each part of M that has any, by the part's name; ``width`` is n + p.

    InputError is raised where a weight stands in several parts.
    """
    found: dict[str, list[Tie]] = {}
    owner: dict[int, str] = {}
    for name, at in parts:
        inside = (traced.rows >= at.start) & (traced.rows < at.stop)
        entries = np.unique(traced.entries[inside])
        if twice := [owner[one] for one in entries.tolist() if one in owner]:
            raise refused(
                "net",
                f"a weight of the cell is used in {twice[0]!r} and in {name!r}, and rows of different groups of "
                "states are fitted one after the other; give each its own weights",
            )
        owner |= dict.fromkeys(entries.tolist(), name)
        mine = Traced(*(one[inside] for one in (traced.rows, traced.columns, traced.entries, traced.factors)))
        classes = _classes(mine)
        if any(len(np.unique(mine.rows[one])) > 1 for one in classes):
            found[name] = _bundled(mine, classes, width)
    return found


def _classes(traced: Traced) -> list[npt.NDArray[np.int64]]:
    """The entries of M in classes: those whose rows share weights, directly or through others."""
    rows, row = np.unique(traced.rows, return_inverse=True)
    entries, entry = np.unique(traced.entries, return_inverse=True)
    size = len(rows) + len(entries)
    edges = csr_array((np.ones(len(row)), (row, len(rows) + entry)), shape=(size, size))
    _, label = connected_components(edges, directed=False)
    order = np.argsort(label[row], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[row][order])) + 1)


def _bundled(traced: Traced, classes: Sequence[npt.NDArray[np.int64]], width: int) -> list[Tie]:
    """Classes with the same places side by side: the channels of one layer."""
    bundles: dict[Any, tuple[list[Index], csr_array]] = {}
    for one in classes:
        rows, position = np.unique(traced.rows[one], return_inverse=True)
        # Slots in the order in which the rows name them, which channels have in common.
        entries, first, slot = np.unique(traced.entries[one], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))[slot]
        at = position * len(entries) + rank
        S = csr_array((traced.factors[one], (at, traced.columns[one])), shape=(len(rows) * len(entries), width))
        S.sort_indices()
        key = (len(rows), len(entries), S.indptr.tobytes(), S.indices.tobytes(), np.round(S.data, 12).tobytes())
        bundles.setdefault(key, ([], S))[0].append(rows)
    return [Tie(np.array(rows), S) for rows, S in bundles.values()]


def state_classes(ties: Sequence[Tie], states: Index, size: int) -> npt.NDArray[np.int64]:
    """A number for each of ``size`` states, the same where their rows are one channel's.

    ``states`` holds the state of every row of M, or -1.
    """
    result = np.arange(size)
    for tie in ties:
        for rows in tie.rows:
            own = states[rows]
            if (own >= 0).all():
                result[own] = own.min()
    return np.unique(result, return_inverse=True)[1]


def in_loop(tie: Tie, loop: Mask) -> Mask:
    """Which of the K weights multiply a state of a loop."""
    return np.asarray((abs(tie.places) @ loop.astype(np.float64)).reshape(-1, tie.slots).max(axis=0) > 0)
