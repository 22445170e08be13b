"""What cannot be represented, and bad input: one clear error each, and the network left as it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from baseline.networks import Function, mlp
from simplicit.baseline import capture, extract_states, from_torch, weight_count
from simplicit.baseline.layers import REGISTRY
from simplicit.baseline.rules import Linear
from simplicit.errors import InputError, UnsupportedOperationError

torch.manual_seed(2)
VECTOR = torch.randn(4)


class Attention(nn.Module):
    def forward(self, u):
        weights = u @ u.transpose(1, 2)
        return weights @ u


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, u):
        return u * torch.sigmoid(self.gate(u))


UNSUPPORTED = {
    "softmax": (lambda u: functional.softmax(u, 1), "softmax", "drop it at the end of the network"),
    "product": (lambda u: u * torch.relu(u), "mul", "both depend on the input"),
    "product in einsum": (lambda u: torch.einsum("bi,bj->bij", u, u), "einsum", "both depend on the input"),
    "division": (lambda u: u / (1 + u.abs()), "div", "divides by a value that depends on the input"),
    "division by zero": (lambda u: u / torch.zeros(4), "div", "divides by zero"),
    "rounding": (lambda u: torch.div(u, 2, rounding_mode="floor"), "div", "rounds"),
    "places by number": (
        lambda u: torch.where(torch.zeros_like(u, dtype=torch.bool), u, 0.1),
        "where",
        "where its elements go depends",
    ),
    "infinite constant": (lambda u: u + torch.tensor(torch.inf), "add", "a constant of the network is not finite"),
    "half precision": (lambda u: u.half().float(), "_to_copy", "converts to torch.float16"),
    "square": (lambda u: u**2, "pow", "no entry for it in the registry"),
    "sine": (torch.sin, "sin", "no entry for it in the registry"),
    "comparison": (lambda u: torch.where(u > 0, u, 0.1), "gt", "no entry for it in the registry"),
    "sorting": (lambda u: u.sort(1)[0], "sort", "no entry for it in the registry"),
    "mean of batch": (lambda u: u - u.mean(0, keepdim=True), "mean", "takes the samples of a batch together"),
    "sum of all": (lambda u: u / 2 + u.sum(), "sum", "takes the samples of a batch together"),
    "cumulative over batch": (lambda u: u.cumsum(0), "cumsum", "mixes the samples of a batch"),
    "samples reversed": (lambda u: u.flip(0), "flip", "mixes the samples of a batch"),
    "samples shifted": (lambda u: u.roll(1, 0), "roll", "mixes the samples of a batch"),
    "samples as features": (lambda u: u.reshape(-1, 2).relu().reshape(-1, 4), "view", "batch dimension"),
    "samples last": (lambda u: (VECTOR.diag() @ u.t()).t(), "t", "batch dimension"),
    "first sample": (lambda u: u + u[:1], "slice", "batch dimension"),
    "number of samples": (lambda u: u / u.shape[0], "div", "depends on the number of samples"),
    "filled with it": (lambda u: torch.full_like(u, u.shape[0]) + u, "full_like", "depends on the number of samples"),
    "shifted by it": (lambda u: u.roll(u.shape[0], 1), "roll", "depends on the number of samples"),
    "random": (lambda u: functional.dropout(u, 0.5), "native_dropout", "random also in evaluation mode"),
    "random constant": (lambda u: u + torch.randn(4), "randn", "it is random"),
    "batch beside feature": (lambda u: u + u[:, None], "add", "broadcast"),
    "jumping softplus": (lambda u: functional.softplus(u, 1, 0.5), "softplus", "threshold"),
    "no activation slope": (lambda u: functional.threshold(u, 1.0, 0.0), "threshold", "no entry"),
    "nothing left": (lambda u: torch.cat([u, 2 * u[:, 4:]], 1), "mul", "applied to an empty tensor"),
    "vector as weight": (lambda u: functional.linear(u, VECTOR)[:, None], "linear", "its weight has 1 dimensions"),
    "convolution": (lambda u: functional.conv1d(u[:, None], VECTOR[None, None, :3]), "conv1d", "no entry"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operation(name):
    function, operation, reason = UNSUPPORTED[name]
    with pytest.raises(UnsupportedOperationError, match=re.escape(reason)) as caught:
        from_torch(Function(function).eval(), torch.rand(4, 4))
    message = str(caught.value)
    assert caught.value.operation == operation
    assert repr(operation) in message
    assert "activations: abs, elu" in message
    assert "\n" not in message


def test_operation_that_fails_on_its_own(monkeypatch):
    def failing(_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setitem(REGISTRY, "sin", Linear(failing))
    with pytest.raises(UnsupportedOperationError, match=r"'sin'.*: torch says: first line\. Supported"):
        from_torch(Function(torch.sin).eval(), torch.rand(4, 4))


def test_error_says_where():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Block())).eval()
    with pytest.raises(UnsupportedOperationError) as caught:
        from_torch(net, torch.rand(2, 4))
    assert caught.value.where.startswith("in module '1.1', a Block, at `return u * torch.sigmoid(self.gate(u))` (test_")
    assert caught.value.where in str(caught.value)
    with pytest.raises(UnsupportedOperationError, match=r"matmul.*in the network's own forward, at `weights = u @"):
        from_torch(Attention().eval(), torch.rand(2, 3, 4))


def branching(u):
    return u if u.sum() > 0 else -u


def test_control_flow_and_fixed_numbers_of_samples():
    for function in (branching, lambda u: u.reshape(2, 4)):
        with pytest.raises(UnsupportedOperationError, match=r"cannot be captured as one graph") as caught:
            from_torch(Function(function).eval(), torch.rand(2, 4))
        assert "\n" not in str(caught.value)


class TwoInputs(nn.Module):
    def forward(self, u, v):
        return u + v


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, u):
        self.calls += 1
        return u + self.calls


def returning(function):
    return Function(function).eval()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (TwoInputs().eval(), r"net must take one input.*missing a required argument: 'v'"),
        (returning(lambda u: (u, u)), r"net must return one tensor.*returns a tuple"),
        (returning(lambda u: {"logits": u}), r"net must return one tensor.*returns a dict"),
        (returning(lambda u: u.sum()), r"net must return one output per sample.*shape \(\)"),
        (returning(lambda u: u.mean(0)), r"net must return one output per sample.*shape \(4,\)"),
        (returning(lambda u: torch.zeros(2, 4)), r"output does not depend on the input"),
        (nn.Linear(5, 3).eval(), r"net does not accept example_input of shape \(m, 4\): .*"),
        (Counting().eval(), r"changes its own buffer 'calls'"),
        (nn.Linear(4, 2).half().eval(), r"parameter 'weight' has dtype torch.float16; float32 and float64"),
        (nn.Linear(4, 2, dtype=torch.complex64).eval(), r"parameter 'weight' has dtype torch.complex64"),
        (nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2).double()).eval(), r"mixes dtypes.*'0.bias'.*'1.bias'"),
        (nn.LazyLinear(3).eval(), r"parameter 'weight' has no shape yet; run the network once"),
        (torch.relu, r"net must be a torch.nn.Module, got builtin_function_or_method"),
    ],
)
def test_bad_network(net, message):
    with pytest.raises(InputError, match=message) as caught:
        from_torch(net, torch.rand(2, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    net = mlp(bias=True).eval()
    with torch.no_grad():
        net[2].weight[1, 1] = value
    for call in (lambda: from_torch(net, torch.rand(2, 5)), lambda: weight_count(net)):
        with pytest.raises(InputError, match=r"parameter '2.weight' holds NaN or infinite values"):
            call()
    normed = nn.BatchNorm1d(5).eval()
    normed.running_mean[0] = value
    with pytest.raises(InputError, match=r"buffer 'running_mean' holds NaN"):
        from_torch(normed, torch.rand(2, 5))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.rand(5), r"example_input must have shape \(m, ...\), samples first and m >= 1, got \(5,\)"),
        (torch.rand(0, 5), r"example_input must have shape .* got \(0, 5\)"),
        (torch.rand(2, 4), r"does not accept example_input of shape \(m, 4\)"),
        (torch.full((2, 5), torch.nan), r"example_input must be finite.*sample 0"),
        (torch.rand(2, 5, dtype=torch.complex64), r"example_input must hold real numbers"),
        ([[1.0] * 5], r"example_input must be a NumPy array or a tensor, got list"),
    ],
)
def test_bad_example(example, message):
    with pytest.raises(InputError, match=message):
        from_torch(mlp(bias=True).eval(), example)


@pytest.mark.parametrize(
    ("inputs", "batch_size", "message"),
    [
        (np.zeros((3, 4)), 2, r"inputs must have shape \(m, 5\).*got \(3, 4\)"),
        (np.zeros(5), 2, r"inputs must have shape \(m, 5\)"),
        (np.zeros((0, 5)), 2, r"inputs must hold at least one sample"),
        (np.array([[0.0] * 5, [np.inf] * 5]), 2, r"inputs must be finite.*sample 1"),
        (np.zeros((3, 5)), 0, r"batch_size must be an integer of at least 1, got 0"),
        (np.zeros((3, 5)), 1.5, r"batch_size must be an integer of at least 1, got 1.5"),
        (np.zeros((3, 5)), True, r"batch_size must be an integer of at least 1, got True"),
    ],
)
def test_bad_inputs(inputs, batch_size, message):
    captured = capture(mlp(bias=True).eval(), torch.rand(1, 5))
    with pytest.raises(InputError, match=message):
        captured.states(inputs, batch_size=batch_size)


def test_extract_states_speaks_of_inputs():
    with pytest.raises(InputError, match=r"inputs must have shape"):
        extract_states(mlp(bias=True).eval(), torch.rand(5))
