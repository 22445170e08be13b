r"""Orders of substitution, in which states can be computed one after the other.

State i depends on state j where A[i, j] is not zero. If no state depends on itself through a chain, A is strictly
triangular after a permutation, and the equilibrium is exact after one substitution in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from simplicit.implicit.maps import Csr

Indices = NDArray[np.int64]


def dependency_order(dependencies: Mapping[str, Iterable[str]]) -> tuple[str, ...] | None:
    """The keys in an order in which each comes after all that it depends on; None where there is a cycle."""
    try:
        return tuple(TopologicalSorter(dependencies).static_order())
    except CycleError:
        return None


def cycles_in_order(dependencies: Mapping[str, Iterable[str]]) -> tuple[tuple[tuple[str, ...], bool], ...]:
    """The keys in parts that come after all that they depend on, each with whether it is a cycle.

    A part is one key, or keys that depend on each other, directly or through others, in the order of the mapping: a
    strongly connected component.
    """
    names = [*dependencies]
    place = {name: k for k, name in enumerate(names)}
    pairs = [(k, place[source]) for k, name in enumerate(names) for source in dependencies[name]]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    links = csr_array((np.ones(len(pairs)), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(links, directed=True, connection="strong")
    members: dict[int, list[str]] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        members.setdefault(label, []).append(name)
    before: dict[int, set[int]] = {label: set() for label in members}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if labels[row] != labels[column]:
            before[int(labels[row])].add(int(labels[column]))
    parts = [tuple(members[label]) for label in TopologicalSorter(before).static_order()]
    return tuple((part, len(part) > 1 or part[0] in dependencies[part[0]]) for part in parts)


def state_levels(A: Csr) -> Indices | None:
    """The level of every state, (n,): 0 if it depends on no state, else one more than the highest it depends on.

    All states whose dependencies are known are peeled off, level after level, in O(nnz) operations and one round of
    vectorised calls for each level. A (n, n) is canonical. None is returned where some state depends on itself,
    directly or through others.
    """
    columns = A.tocsc()
    open_dependencies = np.diff(A.indptr).astype(np.int64)
    levels = np.zeros(A.shape[0], dtype=np.int64)
    ready = np.flatnonzero(open_dependencies == 0)
    level = peeled = 0
    while ready.size:
        levels[ready] = level
        peeled += ready.size
        level += 1
        dependants = columns.indices[_ranges(columns.indptr[ready], columns.indptr[ready + 1])]
        np.subtract.at(open_dependencies, dependants, 1)
        ready = np.unique(dependants[open_dependencies[dependants] == 0])
    return levels if peeled == A.shape[0] else None


def _ranges(starts: NDArray[np.integer], stops: NDArray[np.integer]) -> Indices:
    """The numbers of ``range(start, stop)`` for all pairs, one range after the other."""
    lengths = (stops - starts).astype(np.int64)
    offsets = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return np.asarray(np.arange(lengths.sum(), dtype=np.int64) + offsets)
