"""ρ(G + ρI)⁻¹ and ridge solutions, through G and through the samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simplicit.rows.design import KEPT_BY_SAMPLES, SampleDesign, by_samples


def design_of(m: int, k: int, seed: int = 0) -> SampleDesign:
    features = np.random.default_rng(seed).normal(size=(m, k))
    return SampleDesign.of_features(features, np.arange(k), None)


@pytest.mark.parametrize(("m", "k"), [(40, 30), (20, 39), (20, 40), (5, 40), (1, 7)])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
@pytest.mark.parametrize("rho", [1e-8, 1e-2, 1.0, 30.0])
def test_both_ways_are_the_dense_one(m: int, k: int, dtype: torch.dtype, digits: float, rho: float) -> None:
    design = design_of(m, k)
    assert design.by_samples == by_samples(m, k) == (2 * m <= k)
    digits = max(digits, 1e-15 / rho)  # G + ρI has the condition 1/ρ, or thereabouts
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(6, k)))
    exact = torch.linalg.solve(design.gram + rho * torch.eye(k, dtype=torch.float64), rows, left=False)
    found = design.resolvent(rho, dtype).apply(rows.to(dtype), out=torch.empty(6, k, dtype=dtype))
    torch.testing.assert_close(found.double(), rho * exact, rtol=0, atol=digits * float(rows.abs().max()))
    digits = max(digits, 2e-4)  # only sets a scale: float32
    ridge = design.ridge(rho, rows.to(dtype))
    assert ridge.dtype == dtype
    torch.testing.assert_close(ridge.double(), exact, rtol=0, atol=digits * float(rows.abs().max()) / rho)


def test_rhos_are_kept_for_the_next_block_and_no_more_than_a_few() -> None:
    design = design_of(10, 40)
    kept = design.resolvent(1.0, torch.float32)
    assert design.resolvent(1.0, torch.float32) is kept
    for power in range(1, 8):
        design.resolvent(10.0**power, torch.float32)
    assert len(design._resolvents) == KEPT_BY_SAMPLES
    assert design.resolvent(1.0, torch.float32) is not kept
