"""What captures keep: no map larger than the network, no numbers longer than they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

import simplicit as sp
from simplicit.errors import UnsupportedOperationError
from simplicit.implicit import ConvMap, CsrMap, GatheredMap, ImplicitModel, RepeatedMap, TransposedMap
from simplicit.network import estimate, reader
from simplicit.network.capture import capture

onnxruntime = pytest.importorskip("onnxruntime")


class Of(nn.Module):
    """A function of the input and of weights."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        self.weights, self.function = nn.ParameterList(weights), function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(torch.relu(x), *self.weights)


def inputs(*shape: int) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def kinds(model: ImplicitModel) -> set[type]:
    return {type(block) for block in model.blocks.values()}


def identities(model: ImplicitModel) -> int:
    return sum(group.activation.name == "identity" for group in model.groups)


def check_exact(net: nn.Module, model: ImplicitModel, u: Tensor) -> None:
    expected = net(u).detach().numpy().reshape(3, -1)
    assert_allclose(model.predict(u).reshape(3, -1), expected, atol=1e-11)
    assert_allclose(model.evaluate(u.reshape(3, -1)).Y, model.predict(u.reshape(3, -1)), atol=1e-12)


LAYERS: dict[str, tuple[nn.Module, Tensor, type]] = {
    "linear on tokens": (Of(nn.functional.linear, (6, 4)), inputs(5, 4), RepeatedMap),
    "einsum": (Of(lambda x, w: torch.einsum("bthd,hde->bte", x, w), (3, 4, 6)), inputs(5, 3, 4), RepeatedMap),
    "einsum the other way": (Of(lambda x, w: torch.einsum("de,btd->bet", w, x), (4, 6)), inputs(5, 4), GatheredMap),
    "einsum in places": (Of(lambda x, w: torch.einsum("btd,td->bt", x, w), (5, 4)), inputs(5, 4), CsrMap),
    "matrix before": (Of(lambda x, w: w @ x, (7, 5)), inputs(2, 5, 4), RepeatedMap),
    "one token": (Of(lambda x, w: nn.functional.linear(x, w)[:, 1], (6, 4)), inputs(5, 4), GatheredMap),
    "heads": (
        Of(lambda x, w: nn.functional.linear(x, w)[..., 2:].reshape(-1, 5, 2, 2).transpose(1, 2), (6, 4)),
        inputs(5, 4),
        GatheredMap,
    ),
    "transposed": (
        Of(lambda x, w: nn.functional.conv_transpose2d(x, w, None, 2, 1, 1, 2), (4, 3, 3, 3)),
        inputs(4, 4, 5),
        TransposedMap,
    ),
    "upsampled": (
        Of(lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear")),
        inputs(2, 3, 3),
        RepeatedMap,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_is_kept_once(name: str, tmp_path: Path) -> None:
    net, u, kind = LAYERS[name]
    model = sp.from_torch(net, u)
    check_exact(net, model, u)
    assert kind in kinds(model)
    sp.save(model, tmp_path / "model")
    loaded = sp.load(tmp_path / "model")
    assert kinds(loaded) == kinds(model)
    np.testing.assert_array_equal(loaded.predict(u), model.predict(u))
    sp.export_onnx(model.astype("float32"), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: u.float().numpy()})
    assert_allclose(found.reshape(3, -1), model.predict(u).reshape(3, -1), atol=1e-4)


@pytest.mark.slow
def test_parts_of_a_layer_keep_their_own_rows() -> None:
    def parts(x: Tensor, w: Tensor) -> Tensor:
        first, second = nn.functional.linear(x, w).chunk(2, dim=-1)
        return torch.softmax(first, -1) * second

    model = sp.from_torch(Of(parts, (8, 4)), inputs(5, 4))
    cores = [getattr(block, "core", block) for block in model.blocks.values()]
    assert [core.weight.shape for core in cores if isinstance(core, RepeatedMap)] == [(4, 4), (4, 4)]


def test_two_linear_maps_stay_two_where_one_would_be_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.implicit.maps.algebra._SMALL_PRODUCT", 0)
    narrow = Of(lambda x, a, b: x @ a.T @ b.T, (2, 9), (9, 2))
    on_tokens = Of(lambda x, a, b: x @ a.T @ b.T, (2, 9), (9, 2))
    pair = Of(lambda x, a, b: nn.functional.conv2d(nn.functional.conv2d(x, a), b), (3, 3, 3, 3), (3, 3, 3, 3))
    pooled = Of(lambda x, a: nn.functional.avg_pool2d(x, 2).flatten(1) @ a.T, (10, 12))
    for net, u in ((narrow, inputs(9)), (on_tokens, inputs(5, 9)), (pair, inputs(3, 7, 7)), (pooled, inputs(3, 4, 4))):
        model = sp.from_torch(net, u)
        check_exact(net, model, u)
        assert identities(model) == 1
    wide = Of(lambda x, a, b: x @ a.T @ b.T, (9, 2), (2, 9))  # the product is smaller
    assert identities(sp.from_torch(wide, inputs(2))) == 0


@pytest.mark.slow
def test_what_is_used_again_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def residual(x: Tensor, *weights: Tensor) -> Tensor:
        for weight in weights:
            x = x + torch.tanh(x) @ weight.T
        return x

    net, u = Of(residual, *[(4, 4)] * 5), inputs(3, 4)
    before = sp.from_torch(net, u)
    monkeypatch.setattr(reader, "_WORK_AGAIN", 0)
    model = sp.from_torch(net, u)
    for one in (before, model):
        check_exact(net, one, u)
    assert (identities(before), identities(model)) == (0, 4)
    assert sum(isinstance(block, RepeatedMap) for block in model.blocks.values()) == 5


def test_a_value_of_several_parts_is_put_together_where_each_would_take_all_products() -> None:
    """A pooled value is a sum over the same channels; what stands side by side takes its products once as it is."""
    pooled = Of(lambda x, a: nn.functional.conv2d(nn.functional.max_pool2d(x, 3, 2), a), (64, 32, 3, 3))
    beside = Of(lambda x, a: nn.functional.conv2d(torch.cat([x, torch.tanh(x)], 1), a), (64, 64, 3, 3))
    for net, expected in ((pooled, 1), (beside, 0)):
        model = sp.from_torch(net, u := inputs(32, 15, 15))
        check_exact(net, model, u)
        assert identities(model) == expected
        products = sum(block.work for block in model.blocks.values() if isinstance(block, ConvMap | GatheredMap))
        conv = 64 * 9 * (32 * 5 * 5 if expected else 64 * 13 * 13)
        assert products == conv


def test_a_product_that_is_too_large_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Of(lambda x, a: nn.functional.conv2d(nn.functional.avg_pool2d(x, 6, 2), a), (20, 40, 1, 1))
    written = []
    monkeypatch.setattr(ConvMap, "to_csr", lambda block: written.append(block))
    model = sp.from_torch(net, u := inputs(40, 8, 8))
    check_exact(net, model, u)
    assert identities(model) == 1
    assert not written


def test_weights_are_not_copied_for_the_model() -> None:
    net = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Conv1d(1, 2, 3)).eval()
    net = nn.Sequential(net[0], net[1], nn.Unflatten(1, (1, 400)), net[2]).eval()
    captured = capture(net, torch.zeros(2, 300))
    own = {parameter.data_ptr() for parameter in captured.graph.network.parameters()}
    weights = [block.weight for block in captured.model.blocks.values() if isinstance(block, RepeatedMap | ConvMap)]
    assert len(weights) == 2
    assert all(weight.ctypes.data in own for weight in weights)


def test_a_capture_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, u = Of(lambda x: x.cumsum(1) * 2.0), inputs(200)
    check_exact(net, sp.from_torch(net, u), u)
    monkeypatch.setattr(estimate, "ALWAYS", 0)
    message = (
        r"'cumsum'.*would take 1 MB of the 1 MB.*three times the weights and the states of 3 samples.*smaller inputs"
    )
    with pytest.raises(UnsupportedOperationError, match=message):
        sp.from_torch(net, u)


def test_einsums_are_estimated() -> None:
    """Those without a map of their own, by how many products they take for a sample; b is the batch, which is free."""
    value, weight = torch.zeros(2, 30, 20, device="meta"), torch.zeros(30, 20, 7, device="meta")
    assert estimate._terms("btd,tde->bte", [value, weight]) == 2 * 30 * 20 * 7
    assert estimate._terms("btd,tde->be", [value, weight]) == 0
    assert estimate._terms("tde,btd->be", [weight, value]) == 0
    assert estimate._terms("...d,de->...e", [value, weight]) == 0
