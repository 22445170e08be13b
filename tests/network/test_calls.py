"""Networks of several inputs and outputs, of integers, wrapped ones and such in half precision, captured exactly."""

from __future__ import annotations

import copy
import re
import warnings
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.data import DataLoader, TensorDataset

from network.networks import Function, mlp
from simplicit.errors import InputError, UnsupportedOperationError
from simplicit.network import capture, extract_states, from_torch, gathered, weight_count
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.training.channels.samples import batches_of, samples_of
from simplicit.training.channels.walk import Walk

Pair = namedtuple("Pair", ["first", "second"])


class Two(nn.Module):
    """Of a vector and an image, with a flag that changes what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.of_vector, self.of_image, self.head = nn.Linear(4, 3), nn.Linear(6, 3), nn.Linear(3, 2)

    def forward(self, vector: Tensor, image: Tensor, negative: bool = False, scale: float | None = None) -> Tensor:
        hidden = torch.relu(self.of_vector(vector) + self.of_image(image.flatten(1)))
        result: Tensor = self.head(hidden) * (2.0 if scale is None else scale)
        return -result if negative else result


class Tokens(nn.Module):
    """Of token ids and a mask of truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        states = self.embedding(ids)
        states = states + torch.relu(self.layer(states))
        result: Tensor = self.head((states if mask is None else states * mask.unsqueeze(-1)).mean(1))
        return result


def seeded(make: Any) -> Any:
    torch.manual_seed(0)
    return make().eval()


def samples(m: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m)
    return torch.randn(m, 4, generator=generator), torch.randn(m, 2, 3, generator=generator)


def tokens(m: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m)
    return torch.randint(20, (m, 5), generator=generator), torch.rand(m, 5, generator=generator) > 0.3


def test_several_inputs_in_order_and_by_name() -> None:
    net = seeded(Two)
    one = from_torch(net, samples(3))
    assert one.n_inputs == 10
    named = from_torch(net, UserDict(image=samples(1)[1], vector=samples(1)[0], negative=True, scale=0.5))
    assert list(named.inputs.columns) == ["image", "vector"]  # type: ignore[union-attr]
    for m in (1, 2, 7):
        vector, image = samples(m)
        with torch.no_grad():
            torch.testing.assert_close(one.predict((vector, image)), net(vector, image))
            negative = net(vector, image, True, scale=0.5)
        torch.testing.assert_close(named.predict({"vector": vector, "image": image}), negative)


def test_states_of_several_inputs() -> None:
    net, (vector, image) = seeded(Two), samples(5)
    captured = capture(net, (vector, image))
    found = captured.states((vector.numpy(), image.numpy()), batch_size=2)
    U = torch.cat([vector, image.flatten(1)], 1)
    np.testing.assert_array_equal(found.U, U)
    np.testing.assert_array_equal(found.Y, captured.states(U).Y)
    outputs = captured.model.output_equation.outputs(torch.from_numpy(found.X), U)
    np.testing.assert_allclose(found.Y, outputs, rtol=1e-5, atol=1e-6)


def test_a_single_array_is_the_same_in_any_form() -> None:
    net, (vector, _) = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU())), samples(5)
    plain = from_torch(net, vector)
    assert plain.inputs is None
    for form in ((vector,), [vector], {"input": vector}, (batch for batch in [vector]), DataLoader(vector)):
        other = from_torch(net, form)
        assert other.input_shape == plain.input_shape
        assert torch.equal(other.predict(vector), plain.predict(vector))
        assert [group.name for group in other.groups] == [group.name for group in plain.groups]


def ran(graph: NetworkGraph, U: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = graph.module(*graph.constants.values(), U.reshape(-1, *graph.input_shape))[0]
    return result


@pytest.mark.parametrize("form", ["ids", "tuple", "mapping", "arrays"])
def test_integers_and_truth_values(form: str) -> None:
    net, (ids, mask) = seeded(Tokens), tokens(7)
    given: Any = {"ids": ids, "tuple": (ids, mask), "mapping": {"mask": mask, "ids": ids}}.get(form)
    if form == "arrays":
        given = {"ids": ids.numpy().astype(np.int32), "mask": mask.numpy()}
    graph = capture_graph(net, given)
    U = graph.batch(given)
    assert U.shape == (7, 5 if form == "ids" else 10)
    assert U.dtype == torch.float32
    with torch.no_grad():
        expected = net(ids) if form == "ids" else net(ids, mask)
    walk = Walk(graph, batches_of(samples_of(graph, given), 3))
    torch.testing.assert_close(torch.cat([*walk.baseline(graph.output)]), expected)
    assert graph.parameters == {name for name, _ in net.named_parameters()}


def test_integers_that_the_network_does_not_take_are_numbers() -> None:
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 2)))
    image = torch.randint(256, (5, 2, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(from_torch(net, image).predict(image), net(image.float()))


def several(u: Tensor) -> Any:
    a, b = torch.relu(u[:, :2]), 2 * u
    return (u > 0, {"first": a, "pair": Pair(b, None), "loss": b.sum()}, OrderedDict(last=a.sum(1)))


@pytest.mark.parametrize(
    ("output", "name", "expected"),
    [
        (None, "1.first", lambda a, b: a),
        ("1.first", "1.first", lambda a, b: a),
        ("pair.first", "1.pair.first", lambda a, b: b),
        (2, "1.pair.first", lambda a, b: b),
        ("last", "2.last", lambda a, b: a.sum(1, keepdim=True)),
        ("all", "all", lambda a, b: torch.cat([a, b, a.sum(1, keepdim=True)], 1)),
    ],
)
def test_one_of_several_outputs(output: Any, name: str, expected: Any) -> None:
    u = samples(6)[0]
    one = capture(Function(several).eval(), u, output=output)
    assert one.graph.output_name == name
    assert one.graph.choice.names == ("0", "1.first", "1.pair.first", "1.loss", "2.last")
    torch.testing.assert_close(one.model.predict(u), expected(torch.relu(u[:, :2]), 2 * u))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("logits", r"output 'logits' does not exist; net returns '0' \(2, 4\), '1.first' \(2, 2\),.*give a name"),
        (5, r"output 5 does not exist"),
        (True, r"output True does not exist"),
        ("0", r"output: for '0', net must return floating-point.*torch.bool; take one of '1.first', '1.pair.first'"),
        ("loss", r"output: for '1.loss', net must return one output per sample"),
    ],
)
def test_an_output_that_does_not_exist(output: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_torch(Function(several).eval(), samples(3)[0], output=output)
    assert caught.value.argument == "output"


class Handing(nn.Module):
    """Hands on whatever it is called with."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


def test_wrapped_networks_are_read_inside() -> None:
    net, u = mlp(bias=True).eval(), torch.rand(4, 5)
    inner = copy.deepcopy(net)
    inner[0] = torch.compile(inner[0], backend="eager")  # type: ignore[call-overload]
    in_place = copy.deepcopy(net)
    in_place.compile(backend="eager")
    wrapped = (torch.compile(net, backend="eager"), nn.DataParallel(net).eval(), Handing(net).eval(), inner, in_place)
    for one in wrapped:
        assert torch.equal(from_torch(one, u).predict(u), from_torch(net, u).predict(u))  # type: ignore[arg-type]
    assert list(capture(inner, u).graph.network.state_dict()) == list(net.state_dict())
    assert type(inner[0]).__name__ == "OptimizedModule"


def test_arguments_that_are_handed_on() -> None:
    net, (vector, image) = Handing(seeded(Two)).eval(), samples(5)
    with torch.no_grad():
        expected = net(vector, image)
    torch.testing.assert_close(from_torch(net, (vector, image)).predict((vector, image)), expected)
    named = {"image": image, "vector": vector}
    torch.testing.assert_close(from_torch(net, named).predict(named), expected)


def pruned() -> nn.Module:
    net = mlp(bias=True)
    for layer in (net[0], net[2]):
        prune.l1_unstructured(layer, "weight", amount=0.4)
        prune.random_unstructured(layer, "weight", amount=0.2)
    prune.random_unstructured(net[0], "bias", amount=0.3)
    return net


def old_norms() -> nn.Module:
    net = mlp(bias=True)
    with warnings.catch_warnings(action="ignore"):  # torch would rather see the new ones
        nn.utils.weight_norm(net[0])
        nn.utils.spectral_norm(net[2])
    return net


def new_norms() -> nn.Module:
    net = mlp(bias=True)
    nn.utils.parametrizations.weight_norm(net[0])
    nn.utils.parametrizations.spectral_norm(net[2])
    return net


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def tied() -> nn.Module:
    """One parameter, which a layer takes as it is and the others through something."""
    net = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    net[2].weight = net[4].weight = net[0].weight
    prune.random_unstructured(net[4], "weight", amount=0.4)
    parametrize.register_parametrization(net[2], "weight", Scaled())
    return net


@pytest.mark.parametrize("make", [pruned, old_norms, new_norms, tied])
def test_computed_weights_are_plain_in_the_copy(make: Any) -> None:
    torch.manual_seed(0)
    net = make()
    net(torch.rand(4, 5)).sum().backward()  # after which hooks hold tensors of a graph of gradients
    net, u = net.eval(), torch.rand(7, 5)
    with torch.no_grad():
        expected, before = net(u), copy.deepcopy(net.state_dict())
    one = capture(net, u)
    assert torch.equal(torch.from_numpy(one.states(u).Y), expected)
    torch.testing.assert_close(one.model.predict(u), expected)
    with torch.no_grad():
        assert torch.equal(one.graph.network(u), expected)
        assert torch.equal(net(u), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    kinds = {type(module) for module in one.graph.network.modules()}
    assert kinds == {nn.Sequential, nn.Linear, nn.ReLU}
    names = {name for name, _ in one.graph.network.named_parameters(remove_duplicate=False)}
    assert names == {f"{layer}.{part}" for layer in range(0, len(net), 2) for part in ("weight", "bias")}
    assert weight_count(net) == sum(layer.weight.numel() for layer in net[::2])


class Noise(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight)


def test_a_random_parametrisation_is_refused() -> None:
    net = nn.Linear(4, 2)
    parametrize.register_parametrization(net, "weight", Noise())
    net.eval()
    with pytest.raises(UnsupportedOperationError, match=r"randn_like.*random"):
        from_torch(net, torch.rand(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_in_float32(dtype: torch.dtype) -> None:
    net, u = mlp(bias=True).eval().to(dtype), torch.rand(6, 5)
    one = capture(net, u)
    assert one.model.dtype == np.float32
    assert set(one.graph.halves.values()) == {dtype}
    with torch.no_grad():
        torch.testing.assert_close(one.model.predict(u), copy.deepcopy(net).float()(u))
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}
    assert capture(copy.deepcopy(net).float(), u).graph.halves == {}


def branches(u: Tensor) -> Tensor:
    return u if u.sum() > 0 else -u


def leaves_torch(u: Tensor) -> Tensor:
    return torch.from_numpy(u.numpy() * 2)


def takes_a_number(u: Tensor) -> Tensor:
    scale = u.mean().item()
    return u / float(scale)


def fixes_samples(u: Tensor) -> Tensor:
    return u.view(len(u), -1)


@pytest.mark.parametrize(
    ("function", "code", "remedy"),
    [
        (branches, "return u if u.sum() > 0 else -u", "then write torch.where"),
        (takes_a_number, "return u / float(scale)", "a number that leaves torch"),
        (leaves_torch, "return torch.from_numpy(u.numpy() * 2)", "compute with torch's operations alone"),
        (fixes_samples, "return u.view(len(u), -1)", r"write x.shape[0]"),
    ],
)
def test_what_torch_cannot_trace_is_named_by_its_line(function: Any, code: str, remedy: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), Function(lambda u: 2 * function(u)), nn.Linear(4, 2)).eval()
    line = function.__code__.co_firstlineno + (2 if function is takes_a_number else 1)
    for given in (samples(3)[0], {"input": samples(3)[0]}):
        with pytest.raises(UnsupportedOperationError, match=re.escape(remedy)) as caught:
            from_torch(net, given)
        assert f", at `{code}` (test_calls.py, line {line}):" in str(caught.value)
        assert caught.value.where == f"at `{code}` (test_calls.py, line {line})"


VECTOR, IMAGE = samples(4)
IDS = tokens(4)[0]


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (
            Two,
            {"vector": VECTOR, "picture": IMAGE},
            r"net does not take example.*'picture'|image.*forward takes \(vector",
        ),
        (
            Two,
            (VECTOR,),
            r"missing a required argument: 'image'; its forward takes \(vector.*give a tuple, or a mapping",
        ),
        (
            Two,
            (VECTOR, IMAGE[:3]),
            r"example must hold as many samples in every array, got 4 in 'vector' and 3 in 'image'",
        ),
        (Two, [torch.rand(5), torch.rand(7)], r"as many samples.*pad sequences of unequal length"),
        (Two, (VECTOR, torch.rand(4, 5)), r"does not accept example with 'vector' of shape \(m, 4\), 'image' of shape"),
        (Two, (VECTOR, IMAGE, [1, 2]), r"example must be.* got tuple that holds a list, which is neither"),
        (Two, (VECTOR, IMAGE, torch.tensor(1.0)), r"'negative' must have shape \(m,\) or \(m, ...\).*value.item\(\)"),
        (Two, {}, r"example must be a NumPy array or a tensor, or a tuple or mapping of them, got dict"),
        (Two, {1: VECTOR}, r"example must have names of arguments as its keys, got \[1\]"),
        (Two, "text", r"example must be a NumPy array or a tensor.* got str"),
        (Two, (VECTOR, IMAGE.to("meta")), r"example: 'image' must have values"),
        (Two, (VECTOR, IMAGE * torch.nan), r"example: 'image' must be finite in float32"),
        (Tokens, IDS.float(), r"shape \(m, 5\): it looks numbers up by one of its inputs, such as token ids: give"),
        (Tokens, IDS + 100, r"does not accept example of shape \(m, 5\): IndexError"),
        (Tokens, IDS + 2**25, r"'ids' holds integers beyond 16,777,216"),
        (Tokens, iter([]), r"example must hold at least one batch"),
    ],
)
def test_bad_input_is_one_clear_error(make: Any, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        capture_graph(seeded(make), given)
    assert "\n" not in str(caught.value)


def test_other_samples_than_the_example_are_refused() -> None:
    graph = capture_graph(seeded(Tokens), {"ids": IDS})
    longer = torch.zeros(2, 9, dtype=torch.long)
    for given in ({"ids": longer}, (longer,), longer):
        with pytest.raises(InputError, match=r"'ids' must have shape \(m, 5\), as the example had, got \(2, 9\)"):
            graph.batch(given)
    with pytest.raises(InputError, match=r"inputs has no input 'ids'; the network was captured with 'ids'"):
        graph.batch({"tokens": IDS})
    with pytest.raises(InputError, match=r"'ids' must hold integers"):
        graph.batch({"ids": IDS.float()})


def loader(*arrays: Tensor) -> Any:
    return DataLoader(TensorDataset(*arrays), batch_size=3)


def test_batches_are_put_together_without_their_labels() -> None:
    net, labels = seeded(Two), torch.arange(4)
    one = nn.Linear(4, 2)
    assert torch.equal(gathered(one, loader(VECTOR), "inputs"), VECTOR)
    assert torch.equal(gathered(one, loader(VECTOR, labels), "inputs"), VECTOR)
    assert torch.equal(gathered(nn.DataParallel(one), iter([(VECTOR, labels)]), "inputs"), VECTOR)
    np.testing.assert_array_equal(gathered(one, ([part] for part in VECTOR.numpy()[:, None]), "inputs"), VECTOR)
    for found, expected in zip(gathered(net, loader(VECTOR, IMAGE), "inputs"), (VECTOR, IMAGE), strict=True):
        assert torch.equal(found, expected)
    named = gathered(net, ({"vector": v, "image": i, "negative": True} for v, i in loader(VECTOR, IMAGE)), "inputs")
    assert torch.equal(named["image"], IMAGE)
    assert named["negative"] is True
    paired = gathered(net, iter([({"vector": VECTOR}, labels)]), "inputs")
    assert torch.equal(paired["vector"], VECTOR)
    np.testing.assert_array_equal(extract_states(one.eval(), loader(VECTOR, labels)).U, VECTOR)


@pytest.mark.parametrize(
    ("make", "batches", "message"),
    [
        (Tokens, [(IDS, IDS[:, 0])], r"batches of 2 arrays, and net's forward takes 1 or more: it is not clear"),
        (Two, [(VECTOR, IMAGE, IDS)], r"batches of 3 arrays, and net's forward takes 2 or more: it is not clear"),
        (Tokens, [(IDS, IDS, IDS)], r"batches of 3 arrays"),
        (Tokens, [IDS, IDS[:, :3]], r"samples of one shape, got \(3,\) and \(5,\); pad or cut"),
        (Tokens, [{"ids": IDS}, {"tokens": IDS}], r"batches of one form"),
        (Tokens, [{"ids": IDS}, IDS], r"batches of one form"),
        (Two, [{"flag": True}, {"flag": False}], r"the same constants in every batch, got True"),
        (Two, [], r"at least one batch, got none"),
    ],
)
def test_batches_that_do_not_fit_together(make: Any, batches: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gathered(seeded(make), iter(batches), "inputs")
