"""Certificates, error bounds and attacks on models with blocks: sound, ordered, and of use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import simplicit as sp
from robustness.blocks import NETWORKS, made
from simplicit.implicit import adjoint, contraction_vector, linearise, scaling_vector
from simplicit.robustness.box import OuterBox
from simplicit.robustness.certificates.interval import Neighbourhood
from simplicit.robustness.certificates.linear import sharpened
from simplicit.robustness.certificates.prepared import PreparedModel
from simplicit.robustness.certificates.quantities import sensitivity

EPS = (1e-4, 1e-3, 1e-2, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_proved_is_never_broken(name: str, dtype: torch.dtype) -> None:
    _, model, U = made(name, dtype)
    labels = model(U).argmax(dim=1)
    found = sp.certify(model, U, labels, EPS)
    shares = [found.accuracy(method) for method in ("global", "interval", "linear")]
    attacked = []
    for number, eps in enumerate(EPS):
        points = sp.pgd(model, U, labels, eps, steps=15)
        Y = model(points).double()
        margins = (Y.gather(1, labels[:, None]) - Y).scatter(1, labels[:, None], torch.inf).amin(dim=1).numpy()
        for bounds in found.margins.values():
            assert (bounds[number] <= margins).all()
        attacked.append(float((margins > 0).mean()))
    for looser, tighter in zip([*shares], [*shares[1:], np.array(attacked)], strict=True):
        assert (looser <= tighter).all()
    assert shares[2][0] > 0.4
    if name == "softmax":
        assert shares[0][1] > 0.4
    else:
        assert (found.margins["global"] < -1e300).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_hold_states_and_linear_bounds_are_narrower(name: str) -> None:
    _, model, U = made(name, torch.float64, samples=3)
    prepared, eps = PreparedModel(model), 0.02
    flat = U.reshape(len(U), -1)
    neighbourhood = Neighbourhood(prepared, flat, OuterBox.around(flat, eps, None))
    found = neighbourhood.enclosure()
    narrower = sharpened(neighbourhood, found)
    share = 2.0 * torch.rand(200, *flat.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1.0
    share[::2] = share[::2].sign()
    for points in flat + eps * share:
        solution = prepared.system.solve(points)
        for one in (found, narrower):
            assert bool(((one.z_lower <= solution.Z) & (one.z_upper >= solution.Z)).all())
            assert bool(((one.x_lower <= solution.X) & (one.x_upper >= solution.X)).all())
    assert bool((narrower.x_upper - narrower.x_lower <= found.x_upper - found.x_lower).all())
    assert float((narrower.x_upper - narrower.x_lower).max()) < 6.0


@pytest.mark.slow
def test_slopes_are_climbed_around_blocks() -> None:
    _, model, U = made("encoder", torch.float64, samples=4)
    plain, climbed = (sp.certify(model, U, None, 0.003, steps=steps).margins["linear"] for steps in (0, 4))
    assert (climbed >= plain).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_attacks_take_the_gradient_of_the_network(name: str) -> None:
    net, model, U = made(name, torch.float64)
    labels = model(U).argmax(dim=1)
    points = U.clone().requires_grad_()
    Y = net(points)
    direction = torch.randn(Y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((direction * Y).sum(), points)
    assert torch.allclose(adjoint(model, U, direction), gradient.reshape(len(U), -1), atol=1e-11)
    assert torch.allclose(linearise(model, U).vjp(direction), gradient.reshape(len(U), -1), atol=1e-11)
    assert torch.equal(sp.fgsm(model, U, labels, 0.1), sp.fgsm(net, U, labels, 0.1))
    broken = [
        float((model(sp.pgd(one, U, labels, 0.3, steps=8)).argmax(1) != labels).double().mean()) for one in (model, net)
    ]
    assert abs(broken[0] - broken[1]) <= 0.25


@pytest.mark.slow
def test_all_attacks_run_through_blocks() -> None:
    _, model, U = made("encoder", torch.float64, samples=3)
    sp.attack(model, U, model(U).argmax(dim=1), 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_error_bounds_hold_the_states_in_double(name: str) -> None:
    _, model, U = made(name, torch.float32)
    found = sp.equilibrium(model, U)
    exact = sp.equilibrium(model.astype("float64"), U.double())
    off = (found.states.double() - exact.states).abs().amax(dim=1)
    assert bool((off <= found.error_bound + exact.error_bound).all())
    assert float(exact.error_bound.max()) < 1e-10
    assert float(found.error_bound.max()) < 1e-1


def test_sensitivities_bound_gradients_through_a_softmax() -> None:
    _, model, U = made("softmax", torch.float64)
    S = sensitivity(model)
    assert S.shape == (3, model.n_pre)
    for k in range(3):
        at = torch.zeros(len(U), 3, dtype=torch.float64)
        at[:, k] = 1.0
        gradient = adjoint(model, U, at).abs().amax(dim=0).numpy()
        assert (gradient <= S[k] @ abs(model.B.toarray()) + 1e-12).all()
    assert np.isinf(sensitivity(made("gated", torch.float64)[1])).any()


def test_what_needs_elementwise_activations_names_the_block() -> None:
    net, model, U = made("encoder", torch.float64)
    for refused in (scaling_vector, sp.rescale, contraction_vector, lambda one: sp.collatz_wielandt(one, np.ones(160))):
        with pytest.raises(sp.InputError, match=r"layer\.norm"):
            refused(model)
    for recipe in (sp.Robust(), sp.Certified()):
        with pytest.raises(sp.InputError, match=r"block .*simplicit\.Sparse"):
            sp.fit(net, U, recipe)
    assert sp.perron_frobenius(model).value == 0.0
