"""Derivatives stage by stage are those of the whole network at once, and take no more memory for more stages."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.nn import functional

from fitting import Subject
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels import channel_layers
from simplicit.training.channels.derivatives import PROBES, Scaled, _probes, squared_derivatives
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.sensitivity import Sensitivity, output_sensitivities
from simplicit.training.channels.stages import Stages, _Chain
from simplicit.training.channels.store import Store
from tied_nets import subject

WHOLE, PART = (f"simplicit.training.channels.stages.{name}" for name in ("WHOLE", "PART"))


class Encoder(nn.Module):
    """Attention and a feed-forward part around a residual stream, twice with the same weights, and once flattened.

    The output reads from every stage, and a mask that the input decides goes to all of them.
    """

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.depth, self.norm = depth, nn.LayerNorm(8)
        self.qkv, self.out = nn.utils.parametrizations.weight_norm(nn.Linear(8, 24)), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.flat, self.head = nn.Linear(8, 8), nn.Linear(8, 13)
        self.vector, self.of_constants = nn.Parameter(torch.randn(8)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        seen = (x.sum(-1, keepdim=True) > 0).to(x.dtype)
        total = x.mean(1)
        for _ in range(self.depth):
            q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
            x = x + seen * self.out(functional.scaled_dot_product_attention(q, k, v))
            x = x + self.down(functional.gelu(self.up(x)))
            total = total + x.mean(1)
        flat = self.flat(x.reshape(-1, 8)).reshape(x.shape) + self.of_constants(self.vector)
        result: Tensor = self.head(total + (flat * seen).mean(1))
        return result


class Recurrent(nn.Module):
    """A cell, whose weights all steps share."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.cell(x)[0][:, -1])
        return result


class Deep(nn.Module):
    """As many residual blocks as one likes."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(6, 30) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(30, 6) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.tanh(functional.gelu(torch.sin(up(x)))))
        return x


@cache
def traced(name: str) -> Subject:
    torch.manual_seed(0)
    if name == "residual":
        return subject(name)
    if name == "encoder":
        return Subject(Encoder().eval(), torch.randn(11, 5, 8))
    return Subject(Recurrent().double().eval(), torch.randn(11, 4, 3, dtype=torch.float64))


def cut(graph: NetworkGraph, share: float) -> Stages:
    """Stages that end wherever they can, or where so many times more is computed than crosses."""
    layers = channel_layers(graph)
    found = Stages.of(graph, layers, PROBES, 0)
    chain = _Chain(graph, found.results)
    ends = chain.ends(share)
    crossing, working = chain.needs(ends, PROBES)
    return Stages(chain.stages(ends), found.results, found.moved, crossing, working, found.axes)


class Probed(Interpreter):
    """Runs the whole graph with an offset of zero on the result of every layer, to differentiate by."""

    def __init__(self, graph: NetworkGraph, nodes: frozenset[Node]) -> None:
        super().__init__(graph.module)
        self._nodes = nodes
        self.offsets: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._nodes:
            self.offsets[n] = torch.zeros_like(result, requires_grad=True)
            result = result + self.offsets[n]
        return result


def at_once(graph: NetworkGraph, nodes: frozenset[Node], inputs: Tensor, first: int) -> dict[Node, Scaled]:
    """The derivative of the whole network at once."""
    probed = Probed(graph, nodes)
    outputs = probed.run(*graph.constants.values(), inputs)
    outputs = outputs.reshape(len(outputs), -1)
    found = {node: Scaled(offset) for node, offset in probed.offsets.items()}
    for probe in _probes(outputs.detach(), first):
        moved, offsets = (outputs * probe).sum(), [*probed.offsets.values()]
        gradients = torch.autograd.grad(moved, offsets, retain_graph=True, allow_unused=True)
        for squares, gradient in zip(found.values(), gradients, strict=True):
            if gradient is not None:
                squares.add(gradient)
    return found


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *(("residual", share) for share in (math.inf, 5, 1, 0)),
        *(("encoder", share) for share in (5, 0)),
        *(("recurrent", share) for share in (math.inf, 1)),
    ],
)
def test_stages_do_not_change_a_bit(tmp_path: Path, name: str, share: float) -> None:
    own = traced(name)
    stages = cut(own.graph, share)
    assert len(stages.stages) > (0 if share else 5)
    wanted = at_once(own.graph, stages.results, own.inputs, 7)
    for store in (Store(), Store(tmp_path, 0)):
        found = dict(squared_derivatives(own.graph, stages, own.inputs, 7, store))
        assert found.keys() == wanted.keys()
        for node, one in found.items():
            assert (node.name, one.scale) == (node.name, wanted[node].scale)
            assert torch.equal(one.sums, wanted[node].sums), node.name
        assert store.held == store.written == 0  # nothing stays
        assert (stages.crossing > 0) == (store.most_held + store.most_written > 0) == (len(stages.stages) > 1)
        assert store.most_held <= len(own.inputs) * stages.crossing


@pytest.mark.parametrize("name", ["residual", "encoder", "recurrent"])
def test_every_value_is_of_one_stage_and_what_it_reads_is_kept(name: str) -> None:
    graph = traced(name).graph
    for share in (0, 1, 10):
        stages, given = cut(graph, share).stages, set[Node]()
        for stage in stages:
            inside = {*stage.nodes, *stage.reads}
            assert {one for node in stage.nodes for one in node.all_input_nodes if one.op != "placeholder"} <= inside
            assert given.issuperset(stage.reads)
            given.update(stage.gives)
        assert graph.output in stages[-1].nodes


# --- memory -----------------------------------------------------------------------------------------------------------


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """The most bytes that autograd has kept of values that are no weights."""

    def __init__(self, graph: NetworkGraph) -> None:
        super().__init__(self.pack, lambda box: box[0])
        self._weights = {one.untyped_storage().data_ptr() for one in graph.constants.values()}
        self._alive: Counter[int] = Counter()
        self.now = self.most = 0

    def pack(self, value: Tensor) -> Any:
        class Box(list[Tensor]):
            pass

        box, storage = Box([value.detach()]), value.untyped_storage()  # a result that is saved must not hold itself
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._weights:
            self.now += 0 if self._alive[address] else size
            self._alive[address] += 1
            self.most = max(self.most, self.now)
            weakref.finalize(box, self._drop, address, size).atexit = False
        return box

    def _drop(self, address: int, size: int) -> None:
        self._alive[address] -= 1
        self.now -= 0 if self._alive[address] else size


def test_what_autograd_keeps_does_not_grow_with_the_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WHOLE, 0)
    found = []
    for depth in (3, 9):
        torch.manual_seed(0)
        own = Subject(Deep(depth).double().eval(), torch.randn(20, 6, dtype=torch.float64))
        stages, store = Stages.of(own.graph, channel_layers(own.graph), 6, 20), Store(tmp_path, 0)
        assert len(stages.stages) >= depth // 2
        parts, whole = Saved(own.graph), Saved(own.graph)
        with parts:
            dict(squared_derivatives(own.graph, stages, own.inputs, 0, store))
        with whole:
            at_once(own.graph, stages.results, own.inputs, 0)
        assert store.most_held == 0
        assert 0 < parts.most <= len(own.inputs) * stages.working
        found.append((parts.most, whole.most, stages.working, stages.crossing))
    assert found[1][0] == found[0][0]
    assert found[1][2] == found[0][2]
    assert found[1][1] > 2.5 * found[0][1]
    assert found[1][1] > 4 * found[1][0]


@pytest.mark.parametrize("name", ["residual", "encoder", "recurrent"])
def test_stages_are_cut_where_they_spare_memory_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    graph = traced(name).graph
    layers, whole = channel_layers(graph), cut(graph, math.inf)
    assert (len(whole.stages), whole.crossing) == (1, 0)
    assert len(Stages.of(graph, layers, PROBES, 50).stages) == 1
    monkeypatch.setattr(WHOLE, 0)
    chosen = Stages.of(graph, layers, PROBES, 50)
    assert chosen.crossing + chosen.working <= whole.working


# --- parts of a batch -------------------------------------------------------------------------------------------------


def compared(one: dict[str, Sensitivity], other: dict[str, Sensitivity]) -> None:
    for name, found in one.items():
        np.testing.assert_allclose(found.channels, other[name].channels, rtol=1e-12, err_msg=name)
        mine, yours = found.positions, other[name].positions
        assert (mine is None) == (yours is None)
        for a, b in zip(mine or (), yours or (), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


class Tokens(nn.Module):
    """Linear layers on tokens, apart and side by side with the samples, and with the tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.apart, self.flat, self.first, self.head = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.apart(x))
        x = torch.tanh(self.flat(x.reshape(-1, 4)).reshape(x.shape))
        x = torch.tanh(self.first(x.transpose(0, 1))).transpose(0, 1)
        result: Tensor = self.head(x.mean(1))
        return result


def test_parts_of_a_batch_change_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    own = Subject(Tokens().double().eval(), torch.randn(13, 3, 4, dtype=torch.float64))
    layers, batches = channel_layers(own.graph), [own.inputs[:8], own.inputs[8:]]
    kept = torch.rand(13, 3) > 0.3
    masks = Masks(own.graph, [kept[:8], kept[8:]])
    whole = [output_sensitivities(own.graph, layers, batches, one) for one in (None, masks)]
    assert Stages.of(own.graph, layers, PROBES, 8).at_a_time(8) == 8
    monkeypatch.setattr(PART, 0)
    assert Stages.of(own.graph, layers, PROBES, 8).at_a_time(8) == 2
    for one, mask in zip(whole, (None, masks), strict=True):
        compared(output_sensitivities(own.graph, layers, batches, mask), one)


def test_a_batch_is_not_parted_where_a_layer_does_not_know_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of constants errs for all samples at once."""
    own = traced("encoder")
    monkeypatch.setattr(PART, 0)
    stages = Stages.of(own.graph, channel_layers(own.graph), PROBES, 11)
    assert stages.axes is None
    assert stages.at_a_time(11) == 11


def test_probes_are_orthonormal_and_of_their_sample() -> None:
    outputs = torch.empty(5, 30)
    probes = _probes(outputs, 3)
    assert probes.shape == (PROBES, 5, 30)
    gram = torch.einsum("pbq,rbq->bpr", probes, probes) / 3
    torch.testing.assert_close(gram, torch.eye(PROBES).expand(5, -1, -1), atol=1e-5, rtol=0)
    assert torch.equal(probes[:, 2:], _probes(outputs[2:], 5))
