"""Patches against torch's own convolution and unfold; sums against the matrix of all patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from simplicit.network.graph import capture_graph
from simplicit.training.channels.layers import tied_layers
from simplicit.training.channels.patches import Geometry, channels_first, patches
from simplicit.training.channels.rows import Moments, TiedProblem
from simplicit.training.channels.statistics import Gathering
from simplicit.training.channels.walk import Walk, batches_of
from tied_nets import NETS, made


@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize("padding", [0, (1, 2), "same", "valid"])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_is_its_kernel_times_the_patches(
    stride: object, padding: object, dilation: object, groups: int
) -> None:
    if padding == "same" and stride != 1:
        pytest.skip("torch has no such convolution")
    kernel = (3, 5) if padding == "same" else (3, 2)  # torch warns of even sizes
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias=False).double()
    x = torch.rand(3, 4, 9, 8, dtype=torch.float64)
    geometry = Geometry.of(kernel, stride, padding, dilation, groups)
    R = patches(x, geometry)
    with torch.no_grad():
        z = conv(x)
    assert z.shape[2:] == geometry.positions(x.shape[2:])
    torch.testing.assert_close(conv.weight.detach().reshape(groups, 8 // groups, -1) @ R, channels_first(z, geometry))


def test_patches_are_those_of_unfold() -> None:
    x = torch.rand(3, 4, 9, 8, dtype=torch.float64)
    R = patches(x, Geometry.of((3, 2), (2, 1), (1, 0), (1, 3), 1))
    expected = functional.unfold(x, (3, 2), dilation=(1, 3), padding=(1, 0), stride=(2, 1))
    torch.testing.assert_close(R[0], expected.transpose(0, 1).reshape(24, -1), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 5, 11), (2, 5, 6, 5, 7)])
def test_one_and_three_dimensions(shape: tuple[int, ...]) -> None:
    k = len(shape) - 2
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[k](5, 3, 3, stride=2, padding=1).double()
    x = torch.rand(shape, dtype=torch.float64)
    geometry = Geometry.of((3,) * k, 2, 1, 1, 1)
    with torch.no_grad():
        z = channels_first(conv(x), geometry)
        torch.testing.assert_close(conv.weight.reshape(1, 3, -1) @ patches(x, geometry) + conv.bias[:, None], z)


@pytest.mark.parametrize("name", NETS)
def test_sums_are_those_of_the_matrix_of_all_patches(name: str) -> None:
    net, inputs = made(name)
    graph = capture_graph(net, inputs)
    walk = Walk(graph, batches_of(inputs, 7))
    for layer in tied_layers(graph):
        walk.run_until(layer.node)
        statistics = Gathering(walk, layer, own=False).statistics()
        R = patches(torch.cat(walk.baseline(layer.source)), layer.geometry).numpy()
        assert statistics.count == R.shape[2]
        expected = R @ R.transpose(0, 2, 1)
        shifted = R - statistics.offset[:, :, None]
        assert abs(statistics.products - shifted @ shifted.transpose(0, 2, 1)).max() <= 1e-10 * abs(expected).max()
        for group in range(layer.groups):
            plain = TiedProblem.of(statistics, group, constant=False)
            assert abs(plain.gram - expected[group]).max() <= 1e-10 * abs(expected).max()
        centred = R - R.mean(axis=2, keepdims=True)
        for group, part in enumerate(centred):
            problem = TiedProblem.of(statistics, group, constant=True)
            assert abs(problem.gram - part @ part.T).max() <= 1e-10 * abs(expected).max()
            z = statistics.weights[group] @ part
            assert abs(problem.cross - z @ part.T).max() <= 1e-9 * abs(problem.cross).max()
            assert abs(problem.energy - (z * z).sum(axis=1)).max() <= 1e-9 * problem.energy.max()
        moments = Moments.of(statistics, statistics.weights)
        assert abs(moments.variance - moments.target_variance).max() <= 1e-10 * moments.variance.max()


@pytest.mark.parametrize("name", NETS)
def test_a_walk_computes_what_the_network_does(name: str) -> None:
    net, inputs = made(name)
    graph = capture_graph(net, inputs)
    walk = Walk(graph, batches_of(inputs, 9))
    layers = tied_layers(graph)
    changed = {layer.weight: 0.9 * graph.constants[layer.weight] for layer in layers}
    walk.change(changed)
    own, theirs = torch.cat(walk.student(graph.output)), torch.cat(walk.baseline(graph.output))
    with torch.no_grad():
        torch.testing.assert_close(theirs, net(inputs))
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter *= 0.9
        torch.testing.assert_close(own, net(inputs))


@pytest.mark.parametrize(
    ("m", "size", "sizes"), [(1, 5, [2]), (6, 5, [6]), (11, 5, [5, 6]), (4, 1, [2, 2]), (3, 1, [3])]
)
def test_no_batch_has_a_single_sample(m: int, size: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in batches_of(torch.rand(m, 2), size)] == sizes


def test_columns_that_are_large_and_hardly_vary_keep_their_variance_in_float32() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    inputs = 0.7 + 0.01 * torch.randn(60, 3, 8, 8)
    inputs[:, 1] = 0.3  # a channel that is constant
    graph = capture_graph(net, inputs)
    walk = Walk(graph, batches_of(inputs, 7))
    layer = tied_layers(graph)[0]
    walk.run_until(layer.node)
    statistics = Gathering(walk, layer, own=False).statistics()
    R = patches(inputs, layer.geometry).double().numpy()[0]
    centred = R - R.mean(axis=1, keepdims=True)
    problem = TiedProblem.of(statistics, 0, constant=True)
    expected = centred @ centred.T
    assert abs(problem.gram - expected).max() <= 1e-6 * expected.diagonal().max()
    assert not problem.gram[9:18].any()
    plain = TiedProblem.of(statistics, 0, constant=False)
    assert abs(plain.gram - R @ R.T).max() <= 1e-6 * (R @ R.T).max()


@pytest.mark.parametrize("name", NETS)
def test_weighted_sums_are_those_of_patches_that_stand_as_often_as_they_weigh(name: str) -> None:
    net, inputs = made(name)
    graph = capture_graph(net, inputs)
    layers, batches = tied_layers(graph), batches_of(inputs, 7)
    walk = Walk(graph, batches)
    no_skips = frozenset(node.name for node in graph.module.graph.nodes)  # the errors of none are answered for
    for layer in layers:
        walk.run_until(layer.node)
        shape = walk.baseline_on(layer.node, layer.source, 0, slice(None)).shape
        channel = len(shape) - 1 if layer.geometry is None else 1
        sizes = [layer.groups if axis == channel else size for axis, size in enumerate(shape)]
        counts = [torch.randint(0, 3, (len(batch), *sizes[1:])) for batch in batches]
        inputs_of_layer = torch.cat(walk.student(layer.source))
        omega = [part.double() for part in counts]
        weighted = Gathering(walk, layer, no_skips, omega=omega).statistics()
        often = channels_first(torch.cat(counts), layer.geometry)[:, 0]
        R = patches(inputs_of_layer, layer.geometry)
        theirs = torch.cat([walk.baseline_on(layer.node, layer.source, k, slice(None)) for k in range(len(batches))])
        z = channels_first(theirs, layer.geometry)
        moments = Moments.of(weighted, weighted.weights)
        bias = 0.0 if layer.bias is None else graph.constants[layer.bias].reshape(layer.groups, -1, 1)
        for group in range(layer.groups):
            repeated = R[group].repeat_interleave(often[group], dim=1).numpy()
            target = (z - bias)[group].repeat_interleave(often[group], dim=1).numpy()
            n, W = repeated.shape[1], weighted.weights[group]
            assert weighted.mass[group] == n
            for constant in (False, True):
                problem = TiedProblem.of(weighted, group, constant=constant)
                phi, t = repeated, target
                if constant:
                    phi, t = phi - phi.mean(1, keepdims=True), t - t.mean(1, keepdims=True)
                scale = abs(repeated @ repeated.T).max()
                assert abs(problem.gram - phi @ phi.T).max() <= 1e-10 * scale
                assert abs(problem.cross - t @ phi.T).max() <= 1e-9 * max(1.0, abs(t).max() * n)
                assert abs(problem.energy - (t * t).sum(1)).max() <= 1e-9 * max(1.0, (t * t).sum())
            rows = slice(group * len(W), (group + 1) * len(W))
            np.testing.assert_allclose(moments.target_mean[rows], target.mean(1), atol=1e-9)
            np.testing.assert_allclose(moments.mean[rows], (W @ repeated).mean(1), atol=1e-9)
            np.testing.assert_allclose(moments.target_variance[rows], target.var(1), atol=1e-9)
            np.testing.assert_allclose(moments.variance[rows], (W @ repeated).var(1), atol=1e-9)
            np.testing.assert_allclose(moments.error[rows], (target - W @ repeated).var(1), atol=1e-9)
        walk.change({layer.weight: 0.9 * graph.constants[layer.weight]})
