"""Zeros that are kept while a network is trained further, by any optimiser."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parametrizations, prune
from torch.optim.optimizer import _global_optimizer_post_hooks

import simplicit as sp
from simplicit.errors import InputError
from simplicit.network import KeptZeros

Make = Callable[[Any], torch.optim.Optimizer]


class Noisy(torch.optim.SGD):
    """It moves every entry, whatever its gradient."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(1e-3)
        return found


OPTIMISERS: dict[str, Make] = {
    "momentum": lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda own: torch.optim.Adam(own, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw": lambda own: torch.optim.AdamW(own, lr=0.01, weight_decay=0.5, foreach=True),
    "rmsprop": lambda own: torch.optim.RMSprop(own, lr=0.01, centered=True, momentum=0.5),
    "lbfgs": lambda own: torch.optim.LBFGS(own, lr=0.5, max_iter=4, line_search_fn="strong_wolfe"),
    "noisy": lambda own: Noisy(own, lr=0.1),
}


def made(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A network with many weights that are zero, and biases that begin at zero."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 3)).to(dtype)
    with torch.no_grad():
        for name in ("0.weight", "3.weight"):
            weight = net.get_parameter(name)
            weight.mul_(torch.rand(weight.shape) < 0.4)
            net.get_parameter(name.replace("weight", "bias")).zero_()
    return net


def losses(net: nn.Module, optimiser: torch.optim.Optimizer, steps: int = 5) -> list[float]:
    torch.manual_seed(1)
    dtype = next(net.parameters()).dtype
    inputs, labels = torch.randn(40, 8).to(dtype), torch.arange(40) % 3

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(net(inputs), labels)
        loss.backward()
        return loss.detach()

    return [float(optimiser.step(closure)) for _ in range(steps)]  # type: ignore[arg-type]


def zeros(net: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach() == 0 for name, one in net.named_parameters() if one.ndim > 1}


def kept(net: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(mask & now, mask) for mask, now in zip(before.values(), zeros(net).values(), strict=True))


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("early", [False, True])
def test_any_optimiser(name: str, early: bool) -> None:
    net = made()
    before, names = zeros(net), list(net.state_dict())
    optimiser = OPTIMISERS[name](net.parameters()) if early else None
    handle = sp.keep_zeros(net)
    found = losses(net, optimiser or OPTIMISERS[name](net.parameters()))
    assert found[-1] < found[0]
    assert kept(net, before)
    assert zeros(net)["0.weight"].sum() == before["0.weight"].sum()  # and all others moved
    assert net.get_parameter("0.bias").all()
    assert list(net.state_dict()) == names
    made().load_state_dict(net.state_dict())
    handle.remove()
    losses(net, OPTIMISERS[name](net.parameters()), 2)
    assert not kept(net, before)
    assert not _global_optimizer_post_hooks


def test_gradients_are_those_of_the_sparse_network() -> None:
    net, optimiser = made(), None
    with sp.keep_zeros(net):
        groups = [{"params": [one], "weight_decay": 0.1 * one.ndim} for one in net.parameters()]
        optimiser = torch.optim.AdamW(groups, lr=0.01)
        for _ in range(2):  # accumulated
            net(torch.randn(9, 8)).square().sum().backward()
        mask = zeros(net)["0.weight"]
        gradient = net.get_parameter("0.weight").grad
        assert gradient is not None
        assert not gradient[mask].any()
        alone = sum(float(one.grad[one != 0].square().sum()) for one in net.parameters() if one.ndim > 1)  # type: ignore[index]
        rest = sum(float(one.grad.square().sum()) for one in net.parameters() if one.ndim == 1)  # type: ignore[union-attr]
        assert float(clip_grad_norm_(net.parameters(), 0.1)) == pytest.approx((alone + rest) ** 0.5, rel=1e-5)
        optimiser.step()
        assert kept(net, {"0": mask, "3": zeros(made())["3.weight"]})
    losses(net, optimiser, 1)
    assert not zeros(net)["0.weight"].any()


def test_momentum_of_before_and_frozen_weights() -> None:
    net = made()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    start = copy.deepcopy(net.state_dict())
    losses(net, optimiser, 2)
    net.load_state_dict(start)
    before = zeros(net)
    net.get_parameter("3.weight").requires_grad_(False)
    sp.keep_zeros(net)
    net.get_parameter("3.weight").requires_grad_(True)
    losses(net, optimiser, 3)
    assert kept(net, before)


def test_copies_and_pickles_keep_their_own_zeros() -> None:
    net = made()
    before = zeros(net)
    handle = sp.keep_zeros(net)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    pickled = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(net), pickled):
        losses(other, torch.optim.Adam(other.parameters(), lr=0.1), 2)
        assert kept(other, before)
    assert torch.equal(net.get_parameter("0.weight"), made().get_parameter("0.weight"))
    handle.remove()
    after = copy.deepcopy(net)
    losses(after, torch.optim.Adam(after.parameters(), lr=0.1), 2)
    assert not kept(after, before)
    del net, other, pickled, after, handle
    gc.collect()
    sp.keep_zeros(made()).remove()
    assert not _global_optimizer_post_hooks


def test_half_precision_compiled_and_a_second_call() -> None:
    net = made(torch.bfloat16)
    sp.keep_zeros(net)
    compiled: Any = torch.compile(net, backend="eager")
    with torch.no_grad():
        net.get_parameter("0.weight")[:3] = 0
    before = zeros(net)
    handle = sp.keep_zeros(compiled)
    assert repr(handle) == f"KeptZeros({sum(int(one.sum()) for one in before.values())} of 132 weights in 2 parameters)"
    losses(compiled, torch.optim.AdamW(compiled.parameters(), lr=0.05), 3)
    assert kept(net, before)


def test_patterns_and_what_a_fit_returns() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = torch.rand(60, 8)
    found = sp.fit(net, inputs, sp.Sparse(50, pattern="2:4")).network()
    sp.keep_zeros(found)
    losses(found, torch.optim.AdamW(found.parameters(), lr=0.02), 4)
    for layer in (found[0], found[2]):  # type: ignore[index]
        assert ((layer.weight != 0).view(len(layer.weight), -1, 4).sum(-1) <= 2).all()
    # A fit places weights anew, so what comes back is free.
    again = sp.fit(found.eval(), inputs, sp.Sparse(60)).network()
    assert not any(isinstance(value, KeptZeros) for value in vars(again).values())


def test_some_parameters_and_what_is_refused() -> None:
    net = made()
    assert set(sp.keep_zeros(net, ["3.w*"]).zeros) == {"3.weight"}
    assert set(sp.keep_zeros(net, ["0.bias"]).zeros) == {"0.bias"}
    with pytest.raises(
        InputError, match=r"names: no parameter is called '0\.wieght'; the nearest of 6 are: '0\.weight'"
    ):
        sp.keep_zeros(net, ["0.wieght"])
    for wrong in (prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), parametrizations.weight_norm(nn.Linear(4, 4))):
        with pytest.raises(InputError, match="are computed by masks or a parametrisation; make them plain"):
            sp.keep_zeros(wrong)
    with pytest.raises(InputError, match=r"names: must be names of parameters or patterns, got 3"):
        sp.keep_zeros(nn.Linear(3, 2), 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"net must be a torch\.nn\.Module, got int"):
        sp.keep_zeros(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no values yet"):
        sp.keep_zeros(nn.LazyLinear(3))
