"""Values, derivatives, slopes and homogeneity of every activation, each against an independent source."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplicit.errors import InputError
from simplicit.implicit import Activation

ALL = [
    Activation("relu"),
    Activation("leaky_relu"),
    Activation.of("leaky_relu", negative_slope=-1.7),
    Activation("abs"),
    Activation("identity"),
    Activation("tanh"),
    Activation("sigmoid"),
    Activation("hardtanh"),
    Activation.of("hardtanh", min_val=0.0, max_val=6.0),
    Activation("softplus"),
    Activation.of("softplus", beta=2.5, threshold=15.0),
    Activation("elu"),
    Activation.of("elu", alpha=1.6),
    Activation.of("elu", alpha=0.0),
    Activation("gelu"),
    Activation("gelu_tanh"),
    Activation("silu"),
]
MODULES = {
    Activation("relu"): torch.nn.ReLU(),
    Activation.of("leaky_relu", negative_slope=-1.7): torch.nn.LeakyReLU(-1.7),
    Activation("tanh"): torch.nn.Tanh(),
    Activation("sigmoid"): torch.nn.Sigmoid(),
    Activation.of("hardtanh", min_val=0.0, max_val=6.0): torch.nn.ReLU6(),
    Activation.of("softplus", beta=2.5, threshold=15.0): torch.nn.Softplus(2.5, 15.0),
    Activation.of("elu", alpha=1.6): torch.nn.ELU(1.6),
    Activation("gelu"): torch.nn.GELU(),
    Activation("gelu_tanh"): torch.nn.GELU("tanh"),
    Activation("silu"): torch.nn.SiLU(),
}
GRID = torch.linspace(-12.0, 12.0, 240_001, dtype=torch.float64)
KINKS = torch.tensor([-1.0, 0.0, 1.0, 6.0, 20.0, -1e4, 1e4], dtype=torch.float64)


@pytest.mark.parametrize("phi", MODULES, ids=str)
def test_value_is_that_of_torch(phi: Activation) -> None:
    assert torch.equal(phi(GRID), MODULES[phi](GRID))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("phi", ALL, ids=str)
def test_derivative_is_that_of_autograd_also_at_kinks(phi: Activation, dtype: torch.dtype) -> None:
    z = torch.cat([GRID[::97], KINKS]).to(dtype).requires_grad_()
    (expected,) = torch.autograd.grad(phi(z).sum(), z)
    actual = phi.derivative(z.detach())
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("phi", ALL, ids=str)
def test_slope_is_the_smallest_bound(phi: Activation) -> None:
    quotients = phi(GRID).diff().abs() / GRID.diff()
    assert quotients.max() <= phi.slope * (1.0 + 1e-9)
    assert quotients.max() >= phi.slope * (1.0 - 1e-4)  # some reach it only at infinity or at 0-
    assert phi.derivative(GRID).abs().max() <= phi.slope * (1.0 + 1e-15)


@pytest.mark.parametrize("phi", ALL, ids=str)
def test_homogeneous_is_what_the_numbers_say(phi: Activation) -> None:
    homogeneous = all(torch.allclose(phi(c * GRID), c * phi(GRID), rtol=1e-12, atol=0.0) for c in (0.3, 2.0, 7.0))
    assert phi.homogeneous == homogeneous


@pytest.mark.parametrize("phi", ALL, ids=str)
def test_curvature_bounds_the_second_derivative_away_from_the_kinks(phi: Activation) -> None:
    h = 1e-4
    z = GRID[::20]
    for kink in (*phi.kinks, 20.0 / 2.5, 15.0 / 2.5, 20.0):  # torch's softplus jumps at threshold / beta
        z = z[(z - kink).abs() > 2 * h]
    second = ((phi(z + h) - 2.0 * phi(z) + phi(z - h)) / h**2).abs()
    assert second.max() <= phi.curvature + 1e-6
    assert second.max() >= phi.curvature * (1.0 - 5e-3) - 1e-6


@pytest.mark.parametrize("phi", ALL, ids=str)
def test_steepest_bounds_the_slope_on_every_interval(phi: Activation) -> None:
    ends = torch.tensor([[-3.0, -1.0], [-1.0, 0.5], [0.5, 2.0], [-2.0, -0.1], [0.0, 1.0], [-1.0, 0.0]]).double()
    bounds = phi.steepest(ends[:, 0], ends[:, 1])
    for (low, high), bound in zip(ends.tolist(), bounds.tolist(), strict=True):
        inside = phi(torch.linspace(low, high, 5001, dtype=torch.float64))
        steepest = float(inside.diff().abs().max()) / ((high - low) / 5000)
        assert steepest <= bound + 1e-9
        assert bound <= phi.slope
        assert not phi.homogeneous or steepest >= bound - 1e-9


def test_half_lines() -> None:
    assert Activation("relu").half_lines == (0.0, 1.0)
    assert Activation("abs").half_lines == (-1.0, 1.0)
    assert Activation.of("leaky_relu", negative_slope=-1.7).half_lines == (-1.7, 1.0)
    with pytest.raises(InputError, match="'tanh' is not made of two half-lines"):
        _ = Activation("tanh").half_lines


def test_jump_of_softplus_is_the_one_at_its_threshold() -> None:
    phi = Activation.of("softplus", beta=2.0, threshold=12.0)
    below, above = phi(torch.tensor([6.0, np.nextafter(6.0, 7.0)], dtype=torch.float64))
    assert phi.jump == pytest.approx((below - above).item(), rel=1e-6)
    assert Activation("silu").jump == 0.0


@pytest.mark.parametrize("phi", ALL, ids=str)
def test_returns_a_new_tensor(phi: Activation) -> None:
    z = torch.tensor([0.5, 2.0])
    phi(z).fill_(9.0)
    phi.derivative(z).fill_(9.0)
    assert torch.equal(z, torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("phi", ALL, ids=str)
def test_config_round_trip(phi: Activation) -> None:
    assert Activation.from_config(json.loads(json.dumps(phi.to_config()))) == phi


def test_is_a_value() -> None:
    assert Activation("elu") == Activation.of("elu", alpha=1)
    assert hash(Activation("elu")) == hash(Activation.of("elu", alpha=1))
    assert Activation("elu") != Activation.of("elu", alpha=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Activation("swish"), "'swish' is unknown; known are: relu, "),
        (lambda: Activation.of("elu", beta=1.0), "no parameter 'beta'; its parameters are: alpha"),
        (lambda: Activation.of("relu", inplace=1.0), "its parameters are: none"),
        (lambda: Activation.of("elu", alpha=float("nan")), "alpha = nan must be a finite number"),
        (lambda: Activation.of("elu", alpha="1"), "alpha = '1' must be a finite number"),
        (lambda: Activation.of("elu", alpha=True), "alpha = True must be a finite number"),
        (lambda: Activation.of("hardtanh", min_val=2.0), "min_val = 2.0 must be below max_val = 1.0"),
        (lambda: Activation.of("softplus", beta=0.0), "beta = 0.0 must be positive"),
        (lambda: Activation.of("softplus", threshold=1.0), "threshold of at least 10"),
        (lambda: Activation.from_config({"parameters": {}}), "an activation is"),
        (lambda: Activation.from_config("relu"), "an activation is"),
        (lambda: Activation.from_config({"name": "elu", "parameters": [1]}), "an activation is"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@given(
    name=st.sampled_from(
        ["relu", "leaky_relu", "abs", "tanh", "sigmoid", "hardtanh", "softplus", "elu", "gelu", "silu"]
    ),
    z=st.floats(-40, 40),
    radius=st.floats(0, 40),
    share=st.floats(-1, 1),
)
def test_spread_bounds_what_lies_within(name: str, z: float, radius: float, share: float) -> None:
    phi = Activation(name)
    middle, other = torch.tensor([z, z + share * radius], dtype=torch.float64).split(1)
    bound = phi.spread(middle, torch.tensor([radius], dtype=torch.float64))
    assert (phi(other) - phi(middle)).abs() <= bound + phi.jump + 1e-14 * (abs(z) + radius)
    assert bound <= phi.slope * radius


def test_activations_that_fall_are_not_monotone() -> None:
    falling = [Activation("abs"), Activation("gelu"), Activation.of("leaky_relu", negative_slope=-0.1)]
    assert not any(phi.monotone for phi in [*falling, Activation.of("elu", alpha=-1.0)])
    assert all(Activation(name).monotone for name in ("relu", "leaky_relu", "tanh", "softplus", "elu", "identity"))
