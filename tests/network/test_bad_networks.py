"""What cannot be represented, and bad input: one clear error each, and the network left as it is."""

from __future__ import annotations

import copy
import re
import threading
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn import functional

from network.networks import Function, mlp
from simplicit.errors import InputError, UnsupportedOperationError
from simplicit.network import capture, extract_states, from_torch, weight_count
from simplicit.network.graph import capture_graph, module_path
from simplicit.network.reader import read_model
from simplicit.network.registry import REGISTRY
from simplicit.network.rules import Linear

torch.manual_seed(2)
VECTOR = torch.randn(4)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, u):
        return u - self.gate(u).mean(0)


UNSUPPORTED = {
    "division by zero": (lambda u: u / torch.zeros(4), "div", "its result is infinite"),
    "infinite constant": (lambda u: u + torch.tensor(torch.inf), "add", "its result is infinite"),
    "wide complex": (lambda u: (u.to(torch.complex128) * 1j).imag, "_to_copy", "computes in complex128"),
    "by a mask": (lambda u: u + u[u > 0].sum(), "index", "write torch.where"),
    "mean of batch": (lambda u: u - u.mean(0, keepdim=True), "mean", "takes the samples of a batch together"),
    "sum of all": (lambda u: u / 2 + u.sum(), "sum", "takes the samples of a batch together"),
    "samples cut by three": (lambda u: u.triu(-3), "triu", "mixes the samples of a batch"),
    "samples shifted by three": (lambda u: u.roll(3, 0), "roll", "mixes the samples of a batch"),
    "samples cut": (lambda u: u.triu(-20), "triu", "mixes the samples of a batch"),
    "samples cut below": (lambda u: u.tril(20), "tril", "mixes the samples of a batch"),
    "samples shifted far": (lambda u: u.roll(132, 0), "roll", "mixes the samples of a batch"),
    "all shifted": (lambda u: u.roll(132 * 4), "roll", "mixes the samples of a batch"),
    "diagonal of samples": (lambda u: u.diagonal(), "diagonal", "mixes the samples of a batch"),
    "features by samples": (lambda u: u.roll(u.shape[0] // 20, 1), "floordiv", "depends on the number of samples"),
    "cumulative over batch": (lambda u: u.cumsum(0), "cumsum", "mixes the samples of a batch"),
    "samples reversed": (lambda u: u.flip(0), "flip", "mixes the samples of a batch"),
    "samples shifted": (lambda u: u.roll(1, 0), "roll", "mixes the samples of a batch"),
    "first sample": (lambda u: u + u[:1], "slice", "takes some of them"),
    "number of samples": (lambda u: u / u.shape[0], "div", "mixes the samples of a batch"),
    "filled with it": (lambda u: torch.full_like(u, u.shape[0]) + u, "full_like", "mixes the samples of a batch"),
    "shifted by it": (lambda u: u.roll(u.shape[0], 1), "roll", "mixes the samples of a batch"),
    "random": (lambda u: functional.dropout(u, 0.5), "native_dropout", "random also in evaluation mode"),
    "random constant": (lambda u: u + torch.randn(4), "randn", "it is random"),
    "batch beside feature": (lambda u: u + u[:, None], "add", "mixes the samples of a batch"),
    "random slope": (lambda u: functional.rrelu(u, training=True), "rrelu", "random also in evaluation mode"),
    "largest of all": (lambda u: u + u.max(), "max", "mixes the samples of a batch"),
    "batch statistics": (
        lambda u: functional.batch_norm(u, None, None, training=True),
        "_native_batch_norm_legit",
        "statistics of the batch",
    ),
}


class AllUnsupported(nn.Module):
    """Every function as a module of its own, so that the graph is captured only once."""

    def __init__(self):
        super().__init__()
        for name, (function, _, _) in UNSUPPORTED.items():
            self.add_module(name, Function(function))

    def forward(self, u):
        return u + sum(module(u).sum().float() for module in self.children())


@cache
def everything():
    return capture_graph(AllUnsupported().eval(), torch.rand(4, 4))


def graph_of(name):
    """The part of the whole graph that computes one function."""
    whole = everything()
    part = GraphModule(whole.module, copy.deepcopy(whole.module.graph))
    (output,) = part.graph.find_nodes(op="output")
    nodes = [node for node in part.graph.nodes if node.op == "call_function" and module_path(node)[0] == name]
    output.args = (nodes[-1],)
    for node in reversed(part.graph.nodes):
        if node.op == "call_function" and not node.users:
            part.graph.erase_node(node)
    return replace(whole, module=part)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operation(name):
    _, operation, reason = UNSUPPORTED[name]
    with pytest.raises(UnsupportedOperationError, match=re.escape(reason)) as caught:
        read_model(graph_of(name))
    message = str(caught.value)
    assert caught.value.operation == operation
    assert f"operation {operation!r} (in module {name!r}, a Function" in message
    assert message.endswith("simplicit.network.registry.supported() lists all that goes in")
    assert "\n" not in message


def test_wider_dtype_inside():
    u = torch.randn(4, 4)
    function = Function(lambda u: (u.double().relu() / 3).float()).eval()
    np.testing.assert_allclose(from_torch(function, u).predict(u), function(u), atol=1e-6)


def test_operation_that_fails_on_its_own(monkeypatch):
    def failing(_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setitem(REGISTRY, "sin", Linear(failing))
    with pytest.raises(UnsupportedOperationError, match=r"'sin'.*: torch says: first line\. Similar"):
        from_torch(Function(torch.sin).eval(), torch.rand(4, 4))


def test_error_says_where():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Centred())).eval()
    with pytest.raises(UnsupportedOperationError) as caught:
        from_torch(net, torch.rand(2, 4))
    assert caught.value.where.startswith("in module '1.1', a Centred, at `return u - self.gate(u).mean(0)` (test_")
    assert caught.value.where in str(caught.value)
    with pytest.raises(UnsupportedOperationError, match=r"cumsum"):
        from_torch(Function(lambda u: torch.cumsum(u, 0)).eval(), torch.rand(2, 3, 4))


def conditional(u):
    return torch.cond(u.sum() > 0, lambda x: x + 1, lambda x: x - 1, (u,))


def test_captures_say_nothing_beside_the_error(capfd):
    for function in (conditional, branching):
        with pytest.raises(UnsupportedOperationError):
            from_torch(Function(function).eval(), torch.rand(2, 4))
    assert capfd.readouterr() == ("", "")


def test_fixed_number_of_samples_says_how_to_write_it():
    with pytest.raises(UnsupportedOperationError, match=r"fixes the number of samples.*write x\.shape\[0\]"):
        from_torch(Function(lambda u: u.view(len(u), -1)).eval(), torch.rand(2, 4))


@pytest.mark.parametrize(("bias", "what"), [(0.0, "from 'input' to 'output' compose to weights"), (1e20, "to a bias")])
def test_overflow_names_the_layers(bias, what):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.fill_(1.0 if bias else 1e30)
        net[0].bias.fill_(bias)
        net[1].weight.fill_(1e30)
    with pytest.raises(InputError, match=rf"{what} beyond the range of float32"):
        from_torch(net, torch.zeros(2, 4))
    deep = nn.Sequential(*(nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(3))).eval()
    for layer in deep:
        nn.init.constant_(layer.weight, 1e150)
    with pytest.raises(UnsupportedOperationError, match=r"in module '2', a Linear.*composed with the layers before it"):
        from_torch(deep, torch.zeros(2, 1, dtype=torch.float64))


def branching(u):
    return u if u.sum() > 0 else -u


def test_control_flow_and_fixed_numbers_of_samples():
    for function in (branching, lambda u: u.reshape(2, 4)):
        with pytest.raises(UnsupportedOperationError, match=r"cannot be captured as one graph") as caught:
            from_torch(Function(function).eval(), torch.rand(2, 4))
        assert "\n" not in str(caught.value)


class Translating(nn.Module):
    def __init__(self, **said):
        super().__init__()
        self.net, self.said = nn.Transformer(4, 2, 1, 1, 8, batch_first=True), said

    def forward(self, u):
        return self.net(u, u, tgt_mask=torch.full((3, 3), -torch.inf).triu(1), **self.said)


@pytest.mark.parametrize(
    ("net", "remedy", "mended"),
    [
        (Translating(), "tgt_is_causal=", Translating(tgt_is_causal=True)),
        (
            Function(lambda u: torch.cdist(u[:, 0], VECTOR.diag())),
            'compute_mode="donot_use_mm_for_euclid_dist"',
            Function(lambda u: torch.cdist(u[:, 0], VECTOR.diag(), compute_mode="donot_use_mm_for_euclid_dist")),
        ),
    ],
)
def test_what_torch_asks_for_itself_has_a_remedy_that_works(net, remedy, mended):
    u = torch.rand(2, 3, 4)
    with pytest.raises(UnsupportedOperationError, match=r"at `.*`.*" + re.escape(remedy)):
        from_torch(net.eval(), u)
    from_torch(mended.eval(), u)


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


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, u):
        self.calls += 1
        return self.calls * u


def with_lock():
    net = nn.Linear(4, 2).eval()
    net.lock = threading.Lock()
    return net


def raising(error):
    def function(_):
        raise error

    return Function(function).eval()


def returning(function):
    return Function(function).eval()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            TwoInputs().eval(),
            r"net does not take example.*missing a required argument: 'v'; its forward takes \(u, v\)",
        ),
        (returning(lambda u: ("u", None)), r"net must return a tensor.*returns a tuple"),
        (
            returning(lambda u: {"loss": u.sum()}),
            r"net must return one output per sample.*\(\); that is of output 'loss'",
        ),
        (returning(lambda u: u > 0), r"net must return floating-point numbers; it returns torch.bool"),
        (returning(lambda u: u.sum()), r"net must return one output per sample.*shape \(\)"),
        (returning(lambda u: u.mean(0)), r"net must return one output per sample.*shape \(4,\)"),
        (returning(lambda u: torch.zeros(2, 4)), r"output does not depend on the input"),
        (nn.Linear(5, 3).eval(), r"net does not accept example of shape \(m, 4\): .*"),
        (Counting().eval(), r"changes its own buffer 'calls'"),
        (nn.Linear(4, 2).to(torch.float8_e4m3fn).eval(), r"parameter 'weight' has dtype torch.float8_e4m3fn; float32"),
        (nn.Linear(4, 2, dtype=torch.complex64).eval(), r"parameter 'weight' has dtype torch.complex64"),
        (nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2).double()).eval(), r"mixes dtypes.*'0.bias'.*'1.bias'"),
        (Growing().eval(), r"gives another output when it is called again"),
        (with_lock(), r"net cannot be copied \(cannot pickle '_thread.lock' object\); remove attributes"),
        (
            raising(AssertionError("four only")),
            r"does not accept example of shape \(m, 4\): AssertionError: four",
        ),
        (raising(KeyError("x")), r"\(m, 4\): KeyError: 'x'"),
        (raising(AttributeError()), r"\(m, 4\): AttributeError: AttributeError"),
        (raising(ZeroDivisionError("division by zero")), r"\(m, 4\): ZeroDivisionError: division"),
        (nn.Linear(4, 2, device="meta").eval(), r"parameter 'weight' has no values \(device meta\)"),
        (nn.LazyLinear(3).eval(), r"parameter 'weight' has no shape yet; run the network once"),
        (torch.relu, r"net must be a torch.nn.Module, got builtin_function_or_method"),
    ],
)
def test_bad_network(net, message):
    with pytest.raises(InputError, match=message) as caught:
        from_torch(net, torch.rand(2, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript():
    with pytest.raises(InputError, match=r"net is a TorchScript module; give the nn.Module"):
        from_torch(torch.jit.script(nn.ReLU().eval()), torch.rand(2, 4))


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
        (torch.rand(5), r"example must have shape \(m, ...\), samples first and m >= 1, got \(5,\)"),
        (torch.rand(0, 5), r"example must have shape .* got \(0, 5\)"),
        (torch.rand(2, 4), r"does not accept example of shape \(m, 4\)"),
        (torch.full((2, 5), torch.nan), r"example must be finite.*sample 0"),
        (torch.rand(2, 5, dtype=torch.complex64), r"example must hold real numbers"),
        ([[1.0] * 5], r"example must be a NumPy array or a tensor, .* got a list of numbers; give np\.array"),
        (np.full((2, 5), None), r"example must hold real numbers, got dtype object"),
        (torch.eye(5).to_sparse(), r"example must be a dense tensor, got a torch.sparse_coo one"),
        (torch.rand(2, 5, device="meta"), r"example must have values"),
    ],
)
def test_bad_example(example, message):
    with pytest.raises(InputError, match=message):
        from_torch(mlp(bias=True).eval(), example)


@cache
def captured_mlp():
    return capture(mlp(bias=True).eval(), torch.rand(1, 5))


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "example",
    [np.ones((2, 5))[::-1, ::-1], np.ones((2, 5), ">f8"), np.ones((2, 5), np.longdouble), frozen(np.ones((2, 5)))],
    ids=["negative strides", "big-endian", "longdouble", "read-only"],
)
def test_unusual_arrays_are_good_examples(example):
    net = Function(torch.relu).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = capture(net, example)
    assert one.model.dtype == np.float64
    np.testing.assert_array_equal(one.states(example).Y, 1.0)


@pytest.mark.parametrize(
    ("inputs", "batch_size", "message"),
    [
        (np.zeros((3, 4)), 2, r"inputs must have shape \(m, 5\).*got \(3, 4\)"),
        (np.zeros(5), 2, r"inputs must have shape \(m, 5\)"),
        (np.zeros((0, 5)), 2, r"inputs must hold at least one sample"),
        (np.array([[0.0] * 5, [np.inf] * 5]), 2, r"inputs must be finite.*sample 1"),
        (torch.eye(5).to_sparse(), 2, r"inputs must be a dense tensor"),
        (np.zeros((3, 5)), 0, r"batch_size must be an integer of at least 1, got 0"),
        (np.zeros((3, 5)), 1.5, r"batch_size must be an integer of at least 1, got 1.5"),
        (np.zeros((3, 5)), True, r"batch_size must be an integer of at least 1, got True"),
    ],
)
def test_bad_inputs(inputs, batch_size, message):
    with pytest.raises(InputError, match=message):
        captured_mlp().states(inputs, batch_size=batch_size)


def test_extract_states_speaks_of_inputs():
    with pytest.raises(InputError, match=r"inputs must have shape"):
        extract_states(mlp(bias=True).eval(), torch.rand(5))


def test_batches_and_nested_inputs_say_what_to_give():
    net, u = nn.Linear(4, 2).eval(), torch.rand(3, 4)
    with pytest.raises(InputError, match=r"got TensorDataset; give batches of it, torch\.utils\.data\.DataLoader"):
        from_torch(net, torch.utils.data.TensorDataset(u))
    with pytest.raises(InputError, match=r"holds a dict.*; wrap the network in a module that takes the arrays"):
        from_torch(net, {"input": {"inner": u}})
