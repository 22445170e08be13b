"""Certificates through loops, with blocks and without, against sampled inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import simplicit as sp
from cells import made
from simplicit.implicit import ImplicitModel
from simplicit.robustness.box import OuterBox
from simplicit.robustness.certificates.interval import Neighbourhood
from simplicit.robustness.certificates.prepared import PreparedModel
from simplicit.robustness.certificates.quantities import sensitivity

EPS, DRAWS = 0.05, 40


def near(u: torch.Tensor) -> torch.Tensor:
    """Inputs in the box of each sample, (draws, m, p): corners and inner points."""
    shift = 2.0 * torch.rand(DRAWS, *u.shape, generator=torch.Generator().manual_seed(0), dtype=u.dtype) - 1.0
    shift[::2] = shift[::2].sign()
    return u + EPS * shift


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [
        ("tanh", "float32", "linear"),
        ("two", "float64", "interval"),
        ("softmax", "float64", "interval"),
        ("softmax", "float32", "linear"),
        ("normed", "float64", "interval"),
    ],
)
def test_boxes_and_margins_hold_for_every_sampled_input(name: str, dtype: str, method: str) -> None:
    cell, state, u = made(name)
    model: ImplicitModel = sp.from_cell(cell, state, u)
    model, kind = model.astype(dtype), getattr(torch, dtype)
    found = Neighbourhood(PreparedModel(model), u, OuterBox.around(u, EPS, None)).enclosure()
    certificates = sp.certify(model, u.to(kind), None, EPS, clip=None, method=method)
    labels = torch.from_numpy(certificates.labels).repeat(DRAWS)
    v = near(u).flatten(0, 1).to(kind)
    X, Y = sp.equilibrium(model, v).states.double(), model.predict(v).double()
    slack = 1e-9 if dtype == "float64" else 1e-3
    assert bool((found.x_lower.repeat(DRAWS, 1) - slack <= X).all())
    assert bool((found.x_upper.repeat(DRAWS, 1) + slack >= X).all())
    own = Y.gather(1, labels[:, None])[:, 0]
    margin = own - Y.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    worst = margin.reshape(DRAWS, -1).amin(dim=0)
    proved = [torch.from_numpy(one[0]) for one in certificates.margins.values()]
    for one in proved:
        assert bool((one <= worst).all())
    assert bool((proved[0] <= proved[1]).all())
    assert bool((proved[-1] > worst - (2.0 if name == "normed" else 0.5)).all())


@pytest.mark.parametrize("name", ["two", "softmax", "normed"])
def test_no_output_feels_more_of_a_pre_activation_than_is_said(name: str) -> None:
    cell, state, u = made(name)
    model = sp.from_cell(cell, state, u)
    S, plan = sensitivity(model), model.state_equation.plan
    slopes = plan.derivative(model.state_equation.solve(u).Z)
    for k in range(model.n_outputs):
        direction = torch.eye(model.n_outputs, dtype=torch.float64)[k].repeat(len(u), 1)
        Z_bar = model.state_equation.pull_back_(slopes, model.output_equation.pull_back(direction)[0])
        assert (Z_bar.abs().amax(dim=0).numpy() <= S[k] * (1 + 1e-9)).all()


def test_attacks_go_through_the_loop() -> None:
    cell, state, u = made("softmax")
    model = sp.from_cell(cell, state, u)
    labels = model.predict(u).argmax(dim=1)
    for attack, options in ((sp.fgsm, {}), (sp.pgd, {"steps": 8})):
        moved = torch.as_tensor(attack(model, u, labels, 0.3, clip=None, **options))
        assert float((moved - u).abs().max()) <= 0.3 + 1e-12
        own = [model.predict(v).gather(1, labels[:, None]) for v in (u, moved)]
        assert float(own[1].mean()) < float(own[0].mean())
    assert np.isfinite(np.asarray(moved)).all()
