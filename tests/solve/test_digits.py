"""Digits that float64 has: tiny columns, designs near dependence, tiny strengths, and what may be called converged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import simplicit as sp


@pytest.mark.parametrize("kind", ["dense", "sparse", "gram"])
@pytest.mark.parametrize("intercept", [False, True])
def test_a_column_too_small_to_be_squared_counts_as_zero(kind: str, intercept: bool) -> None:
    rng = np.random.default_rng(0)
    phi, z = rng.normal(size=(50, 6)), rng.normal(size=(50, 3))
    wide = np.c_[phi, 1e-70 * rng.normal(size=50), np.full(50, 1e-200)]
    given: Any = csr_array(wide) if kind == "sparse" else wide
    arguments = (sp.Gram.from_batches([(wide[:20], z[:20]), (wide[20:], z[20:])]),) if kind == "gram" else (given, z)
    found = sp.solve_rows(*arguments, penalty=sp.L1(1.0), intercept=intercept)
    plain = sp.solve_rows(phi, z, penalty=sp.L1(1.0), intercept=intercept)
    assert not found.coefficients.toarray()[:, 6:].any()
    np.testing.assert_allclose(found.coefficients.toarray()[:, :6], plain.coefficients.toarray(), atol=1e-7)
    np.testing.assert_allclose(found.objective, plain.objective, rtol=1e-9)
