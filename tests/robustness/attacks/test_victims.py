"""Networks and models as victims: outputs, gradients, and that they are left as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from simplicit.errors import InputError
from simplicit.robustness import accuracy, fgsm, pgd
from simplicit.robustness.attacks.victims import ImplicitVictim, NetworkVictim, VictimModule, as_victim
from victims import P, model_of


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(3 * 4 * 4, 5)
    )


def test_a_network_takes_its_own_form_of_samples() -> None:
    net = convolutional()
    U = torch.rand(7, 1, 6, 6)
    victim = NetworkVictim(net, (1, 6, 6))
    flat = U.flatten(1)
    assert (victim.n_inputs, victim.n_outputs, victim.dtype) == (36, 5, np.float32)
    net.eval()
    assert torch.equal(victim.outputs(flat), net(U))
    Y, pull_back = victim.linearise(flat)
    direction = torch.rand(7, 5)
    leaf = U.clone().requires_grad_()
    (expected,) = torch.autograd.grad((net(leaf) * direction).sum(), leaf)
    torch.testing.assert_close(Y, net(U).detach())
    torch.testing.assert_close(pull_back(direction), expected.flatten(1))


def test_attacks_leave_a_network_as_it_was() -> None:
    net = convolutional().train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    U, labels = torch.rand(20, 1, 6, 6), torch.randint(0, 5, (20,))
    attacked = pgd(net, U, labels, 0.1, steps=3)
    assert attacked.shape == U.shape
    assert (attacked - U).abs().max() <= 0.1
    assert accuracy(net, attacked, labels) <= accuracy(net, U, labels)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_networks_take_numpy_and_float64() -> None:
    net = convolutional().double()
    U, labels = np.random.default_rng(0).uniform(size=(6, 1, 6, 6)), np.arange(6) % 5
    attacked = fgsm(net, U, labels, 0.05)
    assert isinstance(attacked, np.ndarray)
    assert attacked.dtype == np.float64
    assert attacked.shape == U.shape


def test_attacks_work_where_gradients_are_switched_off() -> None:
    net = convolutional().eval().requires_grad_(requires_grad=False)
    U, labels = torch.rand(6, 1, 6, 6), torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        attacked = fgsm(net, U, labels, 0.05)
    assert ((attacked - U).abs() > 0.01).any()


@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_the_module_of_a_victim_has_its_gradient(kind: str) -> None:
    victim = ImplicitVictim(model_of(kind))
    module = VictimModule(victim, low=-1.0, width=2.0)
    v = torch.rand(4, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (v,), atol=1e-5)
    torch.testing.assert_close(module(v).detach(), victim.outputs(2.0 * v.detach().flatten(1) - 1.0))
    padded = torch.cat([v.detach().flatten(1), torch.rand(4, 5)], dim=1)
    assert torch.equal(module(padded), module(v).detach())


def test_what_is_no_victim() -> None:
    with pytest.raises(InputError, match=r"model must be an ImplicitModel or a torch\.nn\.Module, got str"):
        as_victim("model", torch.rand(2, 3))
    with pytest.raises(InputError, match="at least one sample, samples first, got shape"):
        as_victim(nn.Linear(3, 2), torch.rand(3))
    with pytest.raises(InputError, match=r"U must have shape \(m, 12\) or"):
        accuracy(model_of("full"), np.zeros((2, P + 1)), [0, 0])
