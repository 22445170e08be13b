"""Which coefficients each structure admits, and what that means for well-posedness."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import simplicit as sp
from simplicit.training.states.structure import KAPPA, STRUCTURES, ball_of, structure_of


@cache
def residual_model() -> sp.ImplicitModel:
    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = torch.nn.Linear(4, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(u))
            return self.last(x + torch.relu(self.second(x)))

    return sp.from_torch(Residual().eval(), torch.rand(2, 4))


def masks(model: sp.ImplicitModel) -> dict[str, np.ndarray]:
    return {name: structure.admissible(model) for name, structure in STRUCTURES.items()}


def test_from_loosest_to_tightest() -> None:
    mask = masks(residual_model())
    assert mask["dense"].all()
    for tight, loose in (("no-self", "dense"), ("feedforward", "no-self"), ("baseline", "feedforward")):
        assert not (mask[tight] & ~mask[loose]).any()
        assert mask[tight].sum() < mask[loose].sum()


def test_no_self_only_lacks_the_diagonal() -> None:
    mask = masks(residual_model())["no-self"]
    assert (~mask).sum() == 6
    assert not mask[np.arange(6), np.arange(6)].any()


def test_feedforward_is_strictly_block_upper_triangular() -> None:
    model = residual_model()
    A = masks(model)["feedforward"][:6, :6]
    assert A.tolist() == np.kron([[0, 1], [0, 0]], np.ones((3, 3))).astype(bool).tolist()
    assert masks(model)["feedforward"][:, 6:].all()


def test_baseline_has_exactly_its_weights() -> None:
    model = residual_model()
    mask = masks(model)["baseline"]
    M = np.block([[model.A.toarray(), model.B.toarray()], [model.C.toarray(), model.D.toarray()]])
    np.testing.assert_array_equal(mask, M != 0)


def test_triangular_structures_are_nilpotent_whatever_the_values() -> None:
    model, rng = residual_model(), np.random.default_rng(0)
    for name, structure in STRUCTURES.items():
        A = rng.normal(size=(6, 6)) * 100 * structure.admissible(model)[:6, :6]
        assert (float(sp.perron_frobenius(A)) == 0.0) == structure.triangular, name


def test_unknown_structures_are_named() -> None:
    for bad in ("full", ["dense"], None):
        with pytest.raises(sp.InputError, match=r"structure: .* is unknown; choose one of 'baseline'") as caught:
            structure_of(bad)
        assert caught.value.argument == "structure"


def test_a_ball_where_the_structure_needs_one() -> None:
    model = residual_model()
    for name, structure in STRUCTURES.items():
        assert ball_of(name, None, model) == (None if structure.triangular else KAPPA)
        assert ball_of(name, 0.5, model) == 0.5
    assert ball_of("baseline", 7.0, model) == 7.0
    with pytest.raises(sp.InputError, match="kappa: structure 'no-self' needs 0 < kappa < 1") as caught:
        ball_of("no-self", 1.0, model)
    assert caught.value.argument == "kappa"
