"""Orders of substitution, found in permuted triangular matrices and in no others."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from simplicit.implicit.ordering import dependency_order, state_levels


@given(n=st.integers(1, 30), density=st.floats(0.0, 1.0), seed=st.integers(0, 2**32 - 1))
def test_a_permuted_triangular_matrix_has_levels(n: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    A = (np.triu(rng.random((n, n)) < density, 1) * 1.0)[order][:, order]
    levels = state_levels(sp.csr_array(A))
    assert levels is not None
    depth = np.zeros(n, dtype=int)
    for _ in range(n):  # longest chains, by brute force
        depth = np.array([max((depth[j] + 1 for j in np.flatnonzero(A[i])), default=0) for i in range(n)])
    np.testing.assert_array_equal(levels, depth)


@given(n=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_a_cycle_anywhere_is_found(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    A = np.triu(rng.random((n, n)) < 0.3, 1) * 1.0
    cycle = rng.permutation(n)[: rng.integers(1, n + 1)]
    A[cycle, np.roll(cycle, 1)] = 1.0
    assert state_levels(sp.csr_array(A[order][:, order])) is None


def test_no_states() -> None:
    levels = state_levels(sp.csr_array((0, 0)))
    assert levels is not None
    assert levels.size == 0


def test_a_long_chain_takes_linear_time() -> None:
    n = 20_000
    chain = sp.csr_array(sp.diags_array(np.ones(n - 1), offsets=1))
    start = time.perf_counter()
    levels = state_levels(chain)
    assert time.perf_counter() - start < 5.0
    np.testing.assert_array_equal(levels, np.arange(n)[::-1])


@pytest.mark.parametrize(
    ("dependencies", "acyclic"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, True),
        ({"a": [], "b": ["a"], "c": ["a", "b"]}, True),
        ({"a": ["a"]}, False),
        ({"a": ["b"], "b": ["a"], "c": []}, False),
        ({}, True),
    ],
)
def test_order_of_groups(dependencies: dict[str, list[str]], acyclic: bool) -> None:
    order = dependency_order(dependencies)
    assert (order is not None) is acyclic
    if order is not None:
        assert sorted(order) == sorted(dependencies)
        assert all(order.index(h) < order.index(g) for g, hs in dependencies.items() for h in hs)
