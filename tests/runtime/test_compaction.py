"""Compaction: what is left computes what the network or the model does, and is as small as it can be."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import simplicit as sp
from dead_nets import NETS, made, zeroed
from simplicit.network.outputs import tensors_of


def called(net: nn.Module, inputs: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return tensors_of(net(**inputs) if isinstance(inputs, dict) else net(inputs))


def check_same(net: nn.Module, other: nn.Module, inputs: Any, tolerance: float = 1e-5) -> None:
    wanted, found = called(net, inputs), called(other, inputs)
    assert list(wanted) == list(found)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)


def size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", NETS)
def test_dead_units_of_every_kind_go(name: str) -> None:
    net, inputs = made(name)
    small = sp.compact(net, inputs)
    assert size(small) == NETS[name][2]
    for samples in (1, 4, 7):
        check_same(net, small, NETS[name][1](samples))
    names = {*net.state_dict()}
    assert {*small.state_dict()} - names <= {"2.bias"}  # of the layer that had none
    assert {*small.compaction.removed} <= names
    if name == "joined":  # nothing is left to go
        assert size(sp.compact(small, inputs)) == size(small)


def test_a_compacted_network_is_a_module_like_others() -> None:
    net, inputs = made("encoder")
    small = sp.compact(net.double(), inputs | {"scale": inputs["scale"].double()})
    inputs["scale"] = inputs["scale"].double()
    check_same(net, small, inputs, 1e-12)
    buffer = io.BytesIO()
    torch.save(small, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(small), torch.load(buffer, weights_only=False)):
        other.load_state_dict(small.state_dict())
        check_same(small, other, inputs, 0.0)
    scale = inputs["scale"].clone().requires_grad_()
    for each in (net, small):
        each(inputs["ids"], scale=scale)["scores"].square().sum().backward()
    grads = torch.autograd.grad(net(inputs["ids"], scale=scale)["scores"].sum(), scale)
    torch.testing.assert_close(torch.autograd.grad(small(inputs["ids"], scale=scale)["scores"].sum(), scale), grads)
    with pytest.raises(sp.InputError, match=r"in_proj_weight.*\(24, 8\).* removed 4, 5, .* and 4 more of axis 0"):
        small.load_state_dict(net.state_dict())
    with pytest.raises(sp.InputError, match="compact the network with another example"):
        small(inputs["ids"], mask=None)
    with pytest.raises(sp.InputError, match="give a tensor for 'scale'"):
        small(inputs["ids"])


def test_sizes_that_are_computed() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bags, self.layer = nn.EmbeddingBag(9, 4), nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.layer(self.bags(tokens))  # type: ignore[no-any-return]

    tokens = torch.randint(9, (6, 3), generator=torch.Generator().manual_seed(0))
    net = Bags().eval()
    check_same(net, sp.compact(net, tokens[:2]), tokens)


def test_what_is_frozen_stays_so() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0.0, 1.0  # type: ignore[index]
    net[2].requires_grad_(False)
    compact = sp.compact(net, torch.randn(2, 4))
    check_same(net, compact, torch.randn(5, 4))
    frozen = {name for name, parameter in compact.named_parameters() if not parameter.requires_grad}
    assert frozen == {"2.weight", "2.bias"}  # which it got


def test_constants_of_arguments_are_fixed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor, power: int) -> tuple[Tensor, Tensor]:
            return self.layer(x) ** power, x

    small = sp.compact(Twice().eval(), (torch.ones(2, 3), 2))
    assert [value.shape for value in small(torch.ones(5, 3), 2)] == [(5, 2), (5, 3)]
    with pytest.raises(sp.InputError, match="'power' was 2 in the example"):
        small(torch.ones(5, 3), 3)


def test_where_a_border_or_a_norm_sees_a_unit_it_stays() -> None:
    torch.manual_seed(0)
    padded = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Sigmoid(), nn.Conv1d(4, 3, 3, padding=1)).eval()
    zeroed(padded[0].weight, 0, [1])  # sigmoid(b) inside, zeros beside it
    assert size(sp.compact(padded, torch.randn(2, 2, 9))) == size(padded)
    normed = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    zeroed(normed[0].weight, 0, [1])
    zeroed(normed[2].weight, 1, [3])
    assert size(sp.compact(normed, torch.randn(2, 3))) == size(normed)


def test_nothing_to_remove_leaves_all_as_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    small = sp.compact(net, torch.randn(2, 1, 6, 6))
    assert {name: value.shape for name, value in small.state_dict().items()} == {
        name: value.shape for name, value in net.state_dict().items()
    }
    assert not small.compaction.removed
    model = sp.from_torch(net, torch.randn(2, 1, 6, 6))
    assert sp.compact(model) is model


def test_parts_of_a_network_have_any_name() -> None:
    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.removed = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.removed(torch.relu(self.code(x)))

    net = Coder().eval()
    check_same(net, sp.compact(net, torch.ones(2, 3)), torch.randn(5, 3))


def test_a_branch_of_zeros_is_gone() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            return x + self.two(torch.relu(self.one(x)))

    net = Branch().eval()
    zeroed(net.two.weight, 0, range(4))
    zeroed(net.two.bias, 0, range(4))
    small = sp.compact(net, torch.randn(3, 3))
    assert {*small.state_dict()} == {"into.weight", "into.bias"}
    assert "one.weight" in small.compaction.dropped
    check_same(net, small, torch.randn(5, 3))


def test_a_tied_weight_that_is_left_is_not_called_dropped() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    net[2].weight = net[0].weight
    small = sp.compact(net, torch.randn(2, 4))
    assert len(small.state_dict()) == 3
    assert small.compaction.dropped == ()
    check_same(net, small, torch.randn(5, 4))


def test_what_does_not_fit_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(sp.InputError, match="changes its own buffer 'count'"):
        sp.compact(Counting().eval(), torch.ones(2, 3))

    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(2)

    with pytest.raises(sp.InputError, match="other numbers each time, by randn, so it is not a function"):
        sp.compact(Noisy(3, 2).eval(), torch.ones(2, 3))
    net = nn.Linear(3, 2).eval()
    with pytest.raises(sp.InputError, match="does not accept example"):
        sp.compact(net, torch.ones(2, 4))
    with pytest.raises(sp.InputError, match="example: give samples"):
        sp.compact(net)  # type: ignore[call-overload]
    with pytest.raises(sp.InputError, match="example: a model says itself"):
        sp.compact(sp.from_torch(net, torch.ones(2, 3)), torch.ones(2, 3))  # type: ignore[call-overload]
    with pytest.raises(sp.InputError, match=r"must be a torch\.nn\.Module"):
        sp.compact(3, torch.ones(2, 3))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["sigmoid", "images", "joined", "encoder"])
def test_models_become_as_small(name: str) -> None:
    net, inputs = made(name)
    model = sp.from_torch(net.double(), inputs)
    small = sp.compact(model)
    assert small.n_states < model.n_states
    assert (small.n_inputs, small.input_shape, small.output_shape, small.dtype) == (
        model.n_inputs,
        model.input_shape,
        model.output_shape,
        model.dtype,
    )
    U = NETS[name][1](5)
    torch.testing.assert_close(torch.as_tensor(small.predict(U)), torch.as_tensor(model.predict(U)), rtol=0, atol=1e-12)
    assert sp.compact(small) is small


def test_cycles_and_constants_of_a_model() -> None:
    A = torch.tensor([[0.2, 0.3, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0], [0.0, 0.2, 0.0, 0.4], [0.0, 0.0, 0.0, 0.1]])
    B, C = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    b = torch.tensor([0.5, 0.2, 0.1, 0.3])
    model = sp.ImplicitModel.from_matrices(A, B, C, torch.zeros(1, 1), activation="tanh", state_bias=b)
    small = sp.compact(model)  # the first two are a cycle of constants
    assert small.n_states == 2
    U = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(small.predict(U), model.predict(U), rtol=0, atol=1e-6)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.data())
def test_random_zeros(data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    layers: list[nn.Module] = []
    for before, after in zip([3, *widths], [*widths, 2], strict=True):
        layer = nn.Linear(before, after, bias=data.draw(st.booleans()))
        for axis, length in ((0, after), (1, before)):
            zeroed(layer.weight, axis, data.draw(st.sets(st.integers(0, length - 1))))
        layers += [layer, data.draw(st.sampled_from([nn.ReLU(), nn.Tanh(), nn.Sigmoid()]))]
    net = nn.Sequential(*layers).eval().double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    check_same(net, sp.compact(net, inputs), inputs, 1e-12)
    model = sp.from_torch(net, inputs)
    torch.testing.assert_close(sp.compact(model).predict(inputs), model.predict(inputs), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch says it once in a process
def test_networks_of_the_census(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from networks.small import ENTRIES

    refused = []
    for number, (name, make) in enumerate(ENTRIES.items()):
        net, inputs = make()[:2]
        generator = torch.Generator().manual_seed(number)
        for parameter in net.eval().parameters():
            for axis in range(min(2, parameter.ndim) if parameter.ndim > 1 else 0):
                gone = torch.rand(parameter.shape[axis], generator=generator) < 0.25
                zeroed(parameter, axis, gone.nonzero().flatten().tolist())
        try:
            sp.compact(net, inputs)  # which compares the two on three samples
        except sp.SimplicitError:
            refused.append(name)
    assert len(refused) < 0.1 * len(ENTRIES), refused
