"""Lines below and above every activation, on intervals of every size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplicit.implicit import Activation
from simplicit.robustness.certificates.lines import extremes, standard_slopes
from victims import ACTIVATIONS

SHARES = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)


def grid(lower: float, upper: float) -> torch.Tensor:
    return torch.lerp(torch.tensor(lower, dtype=torch.float64), torch.tensor(upper, dtype=torch.float64), SHARES)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
@given(lower=st.floats(-30, 30), width=st.one_of(st.floats(0, 1e-6), st.floats(0, 40)), slope=st.floats(-2, 2))
def test_any_slope_gives_lines_that_hold(phi: Activation, lower: float, width: float, slope: float) -> None:
    ends = torch.tensor([lower, lower + width], dtype=torch.float64)
    low, high = extremes(phi, ends[:1], ends[1:], slope)
    z = grid(*ends.tolist())
    rest = phi(z) - slope * z
    assert low.item() <= rest.min().item()
    assert rest.max().item() <= high.item()
    # … and hardly more than they must: by the curvature between the points, and rounding.
    slack = 2.0 * phi.curvature * (width / 16) ** 2 / 8 + 4.0 * phi.jump + 1e-11
    assert low.item() >= rest.min().item() - slack - 2 * width / 2000
    assert high.item() <= rest.max().item() + slack + 2 * width / 2000


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
def test_slope_zero_gives_the_image(phi: Activation) -> None:
    low, high = extremes(phi, torch.tensor([-3.0]).double(), torch.tensor([2.0]).double(), 0.0)
    image = phi(grid(-3.0, 2.0))
    bend = phi.curvature * (5 / 16) ** 2 / 8 + 4.0 * phi.jump
    assert image.min() - bend - 1e-9 <= low.item() <= image.min()
    assert image.max() <= high.item() <= image.max() + bend + 1e-9


def test_relu_has_the_lines_of_the_papers() -> None:
    relu = Activation("relu")
    lower = torch.tensor([-1.0, -3.0, 1.0, -2.0], dtype=torch.float64)
    upper = torch.tensor([3.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    low_slope, high_slope = standard_slopes(relu, lower, upper)
    assert low_slope.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert high_slope.tolist() == [0.75, 0.25, 1.0, 0.0]
    low, high = extremes(relu, lower, upper, low_slope)[0], extremes(relu, lower, upper, high_slope)[1]
    torch.testing.assert_close(low, torch.zeros(4).double(), atol=1e-13, rtol=0)
    torch.testing.assert_close(high, torch.tensor([0.75, 0.75, 0.0, 0.0]).double(), atol=1e-13, rtol=0)


def test_a_homogeneous_function_that_is_concave_has_its_chord_below() -> None:
    phi = Activation.of("leaky_relu", negative_slope=1.5)
    low, high = standard_slopes(phi, torch.tensor([-1.0]).double(), torch.tensor([3.0]).double())
    assert low.item() == pytest.approx((3.0 + 1.5) / 4)
    assert high.item() == 1.0


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
def test_infinite_bounds_give_no_finite_lines(phi: Activation) -> None:
    infinite = torch.tensor([torch.inf], dtype=torch.float64)
    slopes = standard_slopes(phi, -infinite, infinite)
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    low, high = extremes(phi, -infinite, infinite, 0.5)
    assert not low.item() > -1e308
    assert not high.item() < 1e308


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
def test_offsets_follow_the_slope(phi: Activation) -> None:
    lower, upper = torch.tensor([-1.3, -0.2, 0.5]).double(), torch.tensor([0.8, 2.0, 0.9]).double()
    slope = torch.tensor([0.3, 0.6, 0.9]).double().requires_grad_()
    (gradient,) = torch.autograd.grad(extremes(phi, lower, upper, slope)[0].sum(), slope)
    h = 1e-6
    ahead, behind = (extremes(phi, lower, upper, slope.detach() + step)[0] for step in (h, -h))
    torch.testing.assert_close(gradient, (ahead - behind) / (2 * h), atol=1e-6, rtol=1e-6)
