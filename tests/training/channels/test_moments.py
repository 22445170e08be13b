"""Sums over patches against the matrix of all patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fitting import Subject
from simplicit.training.channels import channel_layers
from simplicit.training.channels.moments import Moments, sums_of
from simplicit.training.channels.patches import channels_first, patches
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.statistics import Gathering, Statistics
from simplicit.training.channels.walk import Walk
from simplicit.training.problem import LeastSquares, Ridge
from tied_nets import NETS, subject


@pytest.mark.parametrize("name", NETS)
def test_sums_are_those_of_the_matrix_of_all_patches(name: str) -> None:
    graph, inputs = subject(name).graph, subject(name).inputs
    walk = Walk(graph, batches_of(inputs, 7))
    for layer in channel_layers(graph):
        walk.run_until(layer.node)
        statistics = Gathering(walk, layer, propagated=False).statistics()
        R = patches(torch.cat([*walk.baseline(layer.source)]), layer.geometry).numpy()
        assert statistics.count == R.shape[2]
        expected = R @ R.transpose(0, 2, 1)
        shifted = R - statistics.offset[:, :, None]
        assert abs(statistics.products - shifted @ shifted.transpose(0, 2, 1)).max() <= 1e-10 * abs(expected).max()
        for group in range(layer.groups):
            plain = sums_of(statistics, group, constant=False)
            assert abs(plain.gram - expected[group]).max() <= 1e-10 * abs(expected).max()
        centred = R - R.mean(axis=2, keepdims=True)
        for group, part in enumerate(centred):
            sums = sums_of(statistics, group, constant=True)
            assert abs(sums.gram - part @ part.T).max() <= 1e-10 * abs(expected).max()
            z = statistics.weights[group] @ part
            assert abs(sums.cross - z @ part.T).max() <= 1e-9 * abs(sums.cross).max()
            assert abs(sums.energy - (z * z).sum(axis=1)).max() <= 1e-9 * sums.energy.max()
        moments = Moments.of(statistics, statistics.weights)
        assert abs(moments.variance - moments.target_variance).max() <= 1e-10 * moments.variance.max()


def test_columns_that_are_large_and_hardly_vary_keep_their_variance_in_float32() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    inputs = 0.7 + 0.01 * torch.randn(60, 3, 8, 8)
    inputs[:, 1] = 0.3  # a channel that is constant
    graph = Subject(net, inputs).graph
    walk = Walk(graph, batches_of(inputs, 7))
    layer = channel_layers(graph)[0]
    walk.run_until(layer.node)
    statistics = Gathering(walk, layer, propagated=False).statistics()
    R = patches(inputs, layer.geometry).double().numpy()[0]
    centred = R - R.mean(axis=1, keepdims=True)
    sums = sums_of(statistics, 0, constant=True)
    expected = centred @ centred.T
    assert abs(sums.gram - expected).max() <= 1e-6 * expected.diagonal().max()
    assert not sums.gram[9:18].any()
    plain = sums_of(statistics, 0, constant=False)
    assert abs(plain.gram - R @ R.T).max() <= 1e-6 * (R @ R.T).max()


@pytest.mark.parametrize("name", NETS)
def test_weighted_sums_are_those_of_patches_that_stand_as_often_as_they_weigh(name: str) -> None:
    graph = subject(name).graph
    layers, batches = channel_layers(graph), batches_of(subject(name).inputs, 7)
    walk = Walk(graph, batches)
    no_skips = frozenset(node.name for node in graph.module.graph.nodes)  # the errors of none are answered for
    for layer in layers:
        walk.run_until(layer.node)
        shape = walk.baseline_on(layer.node, layer.source, 0, slice(None)).shape
        channel = len(shape) - 1 if layer.geometry is None else 1
        sizes = [layer.groups if axis == channel else size for axis, size in enumerate(shape)]
        counts = [torch.randint(0, 3, (len(batch), *sizes[1:])) for batch in batches]
        inputs_of_layer = torch.cat([*walk.student(layer.source)])
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
                sums = sums_of(weighted, group, constant=constant)
                phi, t = repeated, target
                if constant:
                    phi, t = phi - phi.mean(1, keepdims=True), t - t.mean(1, keepdims=True)
                scale = abs(repeated @ repeated.T).max()
                assert abs(sums.gram - phi @ phi.T).max() <= 1e-10 * scale
                assert abs(sums.cross - t @ phi.T).max() <= 1e-9 * max(1.0, abs(t).max() * n)
                assert abs(sums.energy - (t * t).sum(1)).max() <= 1e-9 * max(1.0, (t * t).sum())
            rows = slice(group * len(W), (group + 1) * len(W))
            np.testing.assert_allclose(moments.target_mean[rows], target.mean(1), atol=1e-9)
            np.testing.assert_allclose(moments.mean[rows], (W @ repeated).mean(1), atol=1e-9)
            np.testing.assert_allclose(moments.target_variance[rows], target.var(1), atol=1e-9)
            np.testing.assert_allclose(moments.variance[rows], (W @ repeated).var(1), atol=1e-9)
        walk.change({layer.weight: 0.9 * graph.constants[layer.weight]})


def test_what_rounding_leaves_of_columns_far_from_their_offset_is_no_direction() -> None:
    """The offset is that of the first batch; here another one has all of the weight but for a little."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 25, 3)).eval()
    inputs = torch.randn(12, 1, 5, 5)
    inputs[:6] *= 1e-3
    graph = Subject(net, inputs).graph
    walk = Walk(graph, batches_of(inputs, 6))
    layer = channel_layers(graph)[0]
    omega = torch.full((2, 6, 1, 5, 5), 1e-9)
    omega[1, 3, :, 2, 2] = 300.0
    walk.run_until(layer.node)
    statistics = Gathering(walk, layer, propagated=False, omega=list(omega)).statistics()
    sums = sums_of(statistics, 0, constant=True)
    problem = LeastSquares.of(sums, statistics.weights[0], statistics.weights[0] != 0, Ridge(0.01, anchor=1.0))
    scale = np.sqrt(problem.gram.diagonal())
    assert np.linalg.eigvalsh(problem.gram / np.outer(scale, scale)).min() > 0
    assert sums.rounding >= statistics.rounding


def first_sums(inputs: torch.Tensor, **options: Any) -> Statistics:
    """Of the first layer of a small network on batches of six."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * (inputs.shape[-1] - 2) ** 2, 3)
    ).eval()
    graph = Subject(net, inputs).graph
    batches = batches_of(inputs, 6)
    return Gathering(Walk(graph, batches), channel_layers(graph)[0], propagated=False, **options).statistics()


def test_the_number_of_workers_changes_no_bit() -> None:
    inputs = torch.randn(30, 2, 8, 8)
    one, three = (first_sums(inputs, workers=workers) for workers in (1, 3))
    assert np.array_equal(one.products, three.products)
    assert np.array_equal(one.features, three.features)


def test_some_batches_stand_for_all_where_patches_are_many() -> None:
    inputs = torch.randn(6, 2, 12, 12).repeat(5, 1, 1, 1)
    whole, thinned = (first_sums(inputs, thinned=thinned) for thinned in (False, True))
    assert (whole.settled, thinned.settled) == (True, False)
    assert whole.count == thinned.count
    np.testing.assert_allclose(thinned.products, whole.products, rtol=1e-5)


def test_no_batch_stands_for_others_where_it_does_not_count() -> None:
    inputs = torch.randn(30, 2, 12, 12)
    omega = [torch.full((6, 1, 10, 10), float(place == 1)) for place in range(5)]
    whole, thinned = (first_sums(inputs, omega=omega, thinned=thinned) for thinned in (False, True))
    assert np.array_equal(whole.products, thinned.products)
    assert thinned.settled
