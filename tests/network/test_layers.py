"""Every operation of the registry and every rewriting, against torch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import simplicit as sp
from network.networks import Function
from simplicit.errors import UnsupportedOperationError
from simplicit.implicit import Activation, Block, CsrMap
from simplicit.implicit.groups import ACTIVATIONS as ACTIVATIONS_BY_NAME
from simplicit.implicit.groups import Definition
from simplicit.network import capture
from simplicit.network.registry import REGISTRY, summary, supported
from simplicit.network.rewrites import REFUSALS, REWRITES
from simplicit.network.rules import Elementwise, Linear, Moving

SHAPE = (4, 4, 6)
torch.manual_seed(1)
MATRIX = torch.randn(6, 5, dtype=torch.float64)
SAMPLE = torch.randn(4, 4, 6, dtype=torch.float64)
MASK = torch.randn(4, 6) > 0
PLACES = torch.tensor([2, 0, 0, 3])


def in_place_index(u):
    x = u.clone()
    x[:, PLACES[:2], 1] = 5.0
    return x


def in_place_slice(u):
    x = u.clone()
    x[:, 1:3] += 1.5
    x[:, 0] = u[:, 1]
    x[:, 3, 0].fill_(0.25)
    return x


def in_place_zero(u):
    x = 2 * u
    x[:, :2].zero_()
    return x


# Each function of u (m, 4, 4, 6) exercises the operation it is called after.
OPERATIONS = {
    "cat": lambda u: torch.cat([u, 2 * u, u.new_zeros(u.shape[0], 4, 1, 6)], 2),
    "clone": lambda u: u.permute(0, 3, 1, 2).contiguous(),
    "diag_embed": torch.diag_embed,
    "diagonal": lambda u: u.diagonal(0, 1, 2),
    "detach": lambda u: u.detach(),
    "expand": lambda u: u[:, :1].expand(-1, 5, 4, 6),
    "expand constant": lambda u: u + SAMPLE[:1, :1, :1].expand(u.shape[0], 4, 4, 6),
    "expand_as": lambda u: u[:, :, :1].expand_as(u),
    "flatten": lambda u: u.flatten(2),
    "flip": lambda u: u.flip(1, 3),
    "hstack": lambda u: torch.hstack([u, u.neg()]),
    "index": lambda u: u[:, PLACES, 1:],
    "index mask": lambda u: u[:, MASK.any(1)],
    "index_put": in_place_index,
    "index_select": lambda u: u.index_select(2, PLACES),
    "masked_fill": lambda u: u.masked_fill(MASK, 0.1),
    "movedim": lambda u: u.movedim(3, 1),
    "narrow": lambda u: u.narrow(2, 1, 2),
    "pad": lambda u: functional.pad(u, (1, 2, 0, 1), value=0.1),
    "pad zeros": lambda u: functional.pad(u, (0, 0, 2, 0)),
    "pad reflect": lambda u: functional.pad(u, (1, 2, 2, 1), mode="reflect"),
    "pad replicate": lambda u: functional.pad(u, (1, 2, 2, 1), mode="replicate"),
    "pixel_shuffle": lambda u: functional.pixel_shuffle(u, 2),
    "pixel_unshuffle": lambda u: functional.pixel_unshuffle(u, 2),
    "repeat": lambda u: u.repeat(1, 2, 1, 2),
    "repeat_interleave": lambda u: u.repeat_interleave(2, 1),
    "repeat_interleave tensor": lambda u: u.repeat_interleave(torch.tensor([1, 0, 2, 1]), 2, output_size=4),
    "reshape": lambda u: u.reshape(-1, 8, 12),
    "reshape sizes": lambda u: u.reshape(u.shape[0], u.shape[1] * 2, -1),
    "reshape_as": lambda u: u.flatten(1).reshape_as(u),
    "roll": lambda u: u.roll((1, 2), (1, 3)),
    "select": lambda u: u[:, 2, :, -1],
    "slice": lambda u: u[..., 1:6:2],
    "slice_scatter": in_place_slice,
    "split": lambda u: u.split(3, 3)[1],
    "split_with_sizes": lambda u: u.split([1, 3], 2)[1],
    "squeeze": lambda u: u[:, :1].squeeze(),
    "squeeze dims": lambda u: u[:, :1, :1].squeeze((1, 2)),
    "stack": lambda u: torch.stack([u, u.abs()], 2),
    "t": lambda u: u.mT,
    "take": lambda u: u.swapaxes(1, 3).unsqueeze(2),
    "tensor_split": lambda u: u.tensor_split(4, 3)[0],
    "tile": lambda u: u.tile(1, 1, 2, 1),
    "transpose": lambda u: u.transpose(1, -1),
    "tril": torch.tril,
    "triu": lambda u: u.triu(1),
    "unbind": lambda u: u.unbind(1)[3],
    "unflatten": lambda u: u.unflatten(3, (2, 3)),
    "unfold": lambda u: u.unfold(3, 3, 2),
    "upsample_nearest1d": lambda u: functional.interpolate(u.flatten(2), scale_factor=2),
    "upsample_nearest2d": lambda u: functional.interpolate(u, scale_factor=2),
    "upsample_nearest3d": lambda u: functional.interpolate(u[:, None], (2, 6, 5)),
    **{
        f"upsample_nearest_exact{rank}d": lambda u, form=form: functional.interpolate(form(u), 5, mode="nearest-exact")
        for rank, form in ((1, lambda u: u.flatten(2)), (2, lambda u: u), (3, lambda u: u[:, None]))
    },
    "view": lambda u: u.view(u.size(0), 96),
    "view by arithmetic": lambda u: u.view(u.shape[0], u.numel() // u.shape[0]),
    "all samples": lambda u: 2 * u[: u.shape[0]][:],
    "view_as": lambda u: u.view(-1, 96).view_as(u),
    "where": lambda u: torch.where(MASK, u, SAMPLE),
    "where numbers": lambda u: torch.where(MASK, 0.1, u),
    "channel shuffle": lambda u: u.view(-1, 2, 2, 4, 6).transpose(1, 2).flatten(1, 2),
    "add": lambda u: u + 0.1 + SAMPLE[0] + torch.add(SAMPLE[:1], u, alpha=0.3) + u[:, :1, :, :1],
    "sub": lambda u: torch.sub(u, SAMPLE, alpha=2) - u.flip(1) - 0.1,
    "rsub": lambda u: 1 - u + torch.rsub(u, SAMPLE, alpha=0.7),
    "sub names": lambda u: torch.subtract(u, SAMPLE) - torch.negative(u),
    "neg": lambda u: -u,
    "mul": lambda u: 0.1 * u * SAMPLE * MASK,
    "mul ones": lambda u: u * torch.ones_like(u) * u.new_full((6,), 0.3) * torch.full((u.shape[0], 4, 4, 6), 2.0),
    "mul names": lambda u: torch.multiply(torch.divide(u, SAMPLE[0]), 2) + torch.true_divide(u, 3),
    "div": lambda u: u / 0.3 / SAMPLE[0, 0],
    "sum": lambda u: u.sum(-1, keepdim=True) + u.sum((1, 2)).reshape(-1, 1, 1, 6) + u.sum(3).sum(1)[:, None, :, None],
    "mean": lambda u: u.mean((-1, -2), keepdim=True) + u.mean((1, 3), keepdim=True),
    "linear": lambda u: functional.linear(u, MATRIX.T, MATRIX[0]),
    "matmul": lambda u: u @ MATRIX,
    "matmul vector": lambda u: u @ MATRIX[:, 0],
    "matmul left": lambda u: torch.matmul(SAMPLE[0, :, :4], u),
    "mm": lambda u: torch.mm(u.flatten(1)[:, :6], MATRIX),
    "bmm": lambda u: torch.bmm(u[:, 0], MATRIX.expand(u.shape[0], 6, 5)),
    "einsum": lambda u: torch.einsum("bchw,wk->bkh", u, MATRIX),
    "einsum constant": lambda u: u + torch.einsum("bw,wk->bk", u.new_ones(u.shape[0], 6), MATRIX)[:, None, None, :1],
    "mv": lambda u: torch.mv(u[:, 0, 0], MATRIX[:, 0])[:, None],
    "inner": lambda u: torch.inner(u, MATRIX.T) + torch.inner(u, MATRIX[:, 0])[..., None],
    "tensordot": lambda u: torch.tensordot(u, SAMPLE, dims=([2, 3], [1, 2])),
    "tensordot left": lambda u: torch.tensordot(MATRIX[:, 0], u[:, 0, 0], dims=([0], [1]))[:, None],
    "cumsum": lambda u: u.cumsum(2),
    "diff": lambda u: torch.diff(u, dim=3),
    "dropout": lambda u: functional.dropout(u, 0.5, training=False),
    "converted": lambda u: u.to(torch.float64, copy=True).to(u).type_as(u),
    "zeros": lambda u: torch.cat([u.flatten(1), torch.zeros(u.shape[0], 3), u.new_zeros(u.shape[0], 1)], 1),
    "ones": lambda u: torch.cat([u[:, 0, 0], torch.ones(u.shape[0], 1), u.new_ones(u.shape[0], 1)], 1),
    "full": lambda u: u + torch.full_like(u, 0.1) + torch.zeros_like(u),
    "full in float32": lambda u: u + torch.full((u.shape[0], 4, 4, 6), 0.1),
    "mask": lambda u: u * torch.ones_like(u, dtype=torch.bool) + torch.full_like(u, 2.5, dtype=torch.long),
    "maximum": lambda u: torch.maximum(u, SAMPLE) + torch.max(u, u.flip(1)),
    "minimum": lambda u: torch.minimum(u, SAMPLE) + torch.min(u, u.flip(1)),
    "clamp": lambda u: u.clamp(-0.5, 0.5) + u.clamp(min=0) + u.clamp(max=0.3) + u.clamp(min=0.2) + u.clamp(1, -1),
    "clamp tensors": lambda u: torch.clamp(u, SAMPLE, SAMPLE + 1) + u.clamp_min(0.1) + u.clamp_max(0.1),
    "clamp_min tensor": lambda u: torch.clamp_min(u, SAMPLE) + torch.clamp_max(u, SAMPLE),
    "clip": lambda u: u.clip(-0.5, 0.5) + torch.clip(u, SAMPLE, SAMPLE + 1) + u.clip(min=0.1),
    "clamp without bound": lambda u: u.clamp(-torch.inf, 1) + u.clamp(-1, torch.inf) + u.clamp(-torch.inf, torch.inf),
    "threshold": lambda u: functional.threshold(u, 0.0, 0.0) + functional.threshold(u, 0.5, 0.5),
    "relu6": functional.relu6,
    "prelu": lambda u: functional.prelu(u, MATRIX[0, :4]) + functional.prelu(u, MATRIX[:1, 0]),
    "celu": lambda u: functional.celu(u, 0.6),
    "selu": functional.selu,
    "logsigmoid": functional.logsigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "tanhshrink": functional.tanhshrink,
    "addmm": lambda u: torch.addmm(MATRIX[0], u[:, 0, 0], MATRIX, beta=0.5, alpha=2),
    "addcmul": lambda u: torch.addcmul(u, u, SAMPLE, value=0.5),
    "addcdiv": lambda u: torch.addcdiv(u, u, SAMPLE, value=0.5),
    "rrelu": lambda u: functional.rrelu(u, 0.1, 0.5),
    "zero": in_place_zero,
    "lerp": lambda u: torch.lerp(u, SAMPLE, 0.3) + torch.lerp(SAMPLE, u, SAMPLE),
}
KERNEL = torch.randn(6, 4, 3, 2, dtype=torch.float64)
BIAS = torch.randn(6, dtype=torch.float64)
STATISTICS = [torch.randn(4, dtype=torch.float64), 0.5 + torch.rand(4, dtype=torch.float64)]


def volume(u):
    return u.reshape(-1, 2, 2, 4, 6)


def series(u):
    return u.flatten(1, 2)[:, :8]


# u is 4 channels of 4 x 6 pixels to them.
IMAGES = {
    "conv1d": lambda u: functional.conv1d(series(u), KERNEL[:, :, 0].repeat(1, 2, 1), BIAS, 2, 1, 2),
    "conv2d": lambda u: functional.conv2d(u, KERNEL, BIAS, (2, 1), (1, 2), (1, 3)),
    "conv2d in groups": lambda u: functional.conv2d(u, KERNEL[:, :2], None, 1, 1, groups=2),
    "conv2d by channel": lambda u: functional.conv2d(u, KERNEL[:4, :1], BIAS[:4], padding="same", dilation=2, groups=4),
    "conv2d same": lambda u: functional.conv2d(u, KERNEL[..., :1], BIAS, padding="same"),
    "conv2d valid": lambda u: functional.conv2d(u, KERNEL, padding="valid"),
    "conv3d": lambda u: functional.conv3d(volume(u), KERNEL[:2, :2, None].repeat(1, 1, 2, 1, 1), padding=1),
    "convolution": lambda u: torch.convolution(u, KERNEL, BIAS, (1, 1), (0, 1), (1, 1), False, (0, 0), 1),
    "convolution back": lambda u: torch.convolution(u, KERNEL[:4], None, (2, 1), (0, 1), (1, 1), True, (1, 0), 1),
    "conv_transpose1d": lambda u: functional.conv_transpose1d(series(u), KERNEL[:2, :, 0].repeat(4, 1, 1), stride=2),
    "conv_transpose2d": lambda u: functional.conv_transpose2d(u, KERNEL[:4], BIAS[:4], 2, 1, (1, 0)),
    "conv_transpose3d": lambda u: functional.conv_transpose3d(volume(u), KERNEL[:2, :, None]),
    "batch_norm": lambda u: functional.batch_norm(u, *STATISTICS, BIAS[:4], BIAS[2:]),
    "batch_norm bare": lambda u: functional.batch_norm(series(u)[:, :4], *STATISTICS),
    "avg_pool1d": lambda u: functional.avg_pool1d(series(u), 2, padding=1),
    "avg_pool2d": lambda u: functional.avg_pool2d(u, (2, 3), (1, 2), 1),
    "avg_pool2d borders": lambda u: functional.avg_pool2d(u, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d divisor": lambda u: functional.avg_pool2d(u, 3, 2, divisor_override=5),
    "avg_pool3d": lambda u: functional.avg_pool3d(volume(u), 2),
    "adaptive_avg_pool1d": lambda u: functional.adaptive_avg_pool1d(series(u), 4),
    "adaptive_avg_pool2d": lambda u: functional.adaptive_avg_pool2d(u, (3, 4)),
    "adaptive_avg_pool3d": lambda u: functional.adaptive_avg_pool3d(volume(u), (1, 3, 4)),
    "max_pool1d": lambda u: functional.max_pool1d(series(u), 3, 2, 1),
    "max_pool2d": lambda u: functional.max_pool2d(u, (2, 3), (1, 2), (1, 1)),
    "max_pool2d ceil": lambda u: functional.max_pool2d(u, 3, 3, ceil_mode=True),
    "max_pool2d dilated": lambda u: functional.max_pool2d(u - 5, 2, 2, 1, dilation=(2, 3), ceil_mode=True),
    "max_pool3d": lambda u: functional.max_pool3d(volume(u), 2, padding=1),
    "max_pool2d_with_indices": lambda u: functional.max_pool2d_with_indices(u, 2)[0],
    "adaptive_max_pool1d": lambda u: functional.adaptive_max_pool1d(series(u), 4),
    "adaptive_max_pool2d": lambda u: functional.adaptive_max_pool2d(u, (3, 4)),
    "adaptive_max_pool3d": lambda u: functional.adaptive_max_pool3d(volume(u), (1, 3, 4)),
    "amax": lambda u: u.amax((1, -1), keepdim=True),
    "amin": lambda u: u.amin(2),
    "max": lambda u: u.max(1).values,
    "min": lambda u: u.min(3, keepdim=True)[0],
    "upsample_linear1d": lambda u: functional.interpolate(series(u), 9, mode="linear"),
    "upsample_bilinear2d": lambda u: functional.interpolate(u, scale_factor=(2, 1.5), mode="bilinear"),
    "upsample_bicubic2d": lambda u: functional.interpolate(u, (5, 7), mode="bicubic", align_corners=True),
    "upsample_trilinear3d": lambda u: functional.interpolate(volume(u), (3, 5, 7), mode="trilinear"),
    "channel_shuffle": lambda u: functional.channel_shuffle(u, 2),
    "reflected": lambda u: functional.conv2d(functional.pad(u, (1, 1, 1, 1), mode="reflect"), KERNEL),
    "repeated": lambda u: functional.conv2d(functional.pad(u, (2, 0, 0, 1), mode="replicate"), KERNEL),
    "around": lambda u: functional.conv2d(functional.pad(u, (1, 1, 1, 1), mode="circular"), KERNEL),
    "padded by a number": lambda u: functional.conv2d(functional.pad(u, (1, 2, 0, 1), value=0.5), KERNEL),
    "no activation between": lambda u: functional.conv2d(
        functional.conv2d(u, KERNEL, BIAS, padding=1), KERNEL[..., :1].repeat(1, 2, 1, 1)[:, :6]
    ),
    "shortcut of option A": lambda u: (
        functional.pad(u[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)) + functional.conv2d(u, KERNEL, None, 2, 1)[..., :3]
    ),
}
ACTIVATIONS = {
    "abs": torch.abs,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "hardtanh": functional.hardtanh,
    "leaky_relu": functional.leaky_relu,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
}
CASES = OPERATIONS | IMAGES | ACTIVATIONS


class AllOperations(nn.Module):
    """The results of all functions side by side, so that the graph is captured only once."""

    def forward(self, u):
        return torch.cat([function(u).flatten(1) for function in CASES.values()], dim=1)


@cache
def everything():
    u = 2 * torch.randn(5, *SHAPE, dtype=torch.float64)
    captured = capture(AllOperations().eval(), u)
    return u, captured, captured.model.predict(u)


@pytest.mark.parametrize("name", CASES)
def test_operation(name):
    u, _, predicted = everything()
    widths = [function(u[:2]).flatten(1).shape[1] for function in CASES.values()]
    start = sum(widths[: list(CASES).index(name)])
    expected = CASES[name](u).flatten(1)
    found = predicted[:, start : start + expected.shape[1]]
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_padding_that_is_wider_at_the_end():
    net = nn.Conv2d(4, 4, (2, 4), padding="same", groups=2).double().eval()
    u = torch.randn(3, *SHAPE, dtype=torch.float64)
    np.testing.assert_allclose(capture(net, u).model.predict(u), net(u).flatten(1).detach(), rtol=0.0, atol=1e-12)


def test_states_of_rewritten_operations():
    u, captured, _ = everything()
    states, model = captured.states(u, batch_size=2), captured.model
    np.testing.assert_allclose(states.X @ model.A.T + states.U @ model.B.T + model.state_bias, states.Z, atol=1e-10)


def test_every_entry_is_exercised():
    _, captured, _ = everything()
    seen = {node.target for node in captured.graph.module.graph.nodes}
    names = {str(getattr(target, "overloadpacket", target)).removeprefix("aten.") for target in seen}
    # `t` of a value with samples always moves the samples; it is known so as to say that. The others are taken apart
    # where a graph is decomposed.
    assert set(REGISTRY) - names == {"t", "chunk", "flatten", "dropout", "feature_dropout", "alpha_dropout"}
    # Scatters of real numbers stay what they are.
    assert seen & set(REWRITES) <= {torch.ops.aten.slice_scatter.default, torch.ops.aten.select_scatter.default}
    assert set(REFUSALS) <= set(REWRITES)


def test_a_graph_of_known_operations_is_read_as_it_is():
    net = Function(lambda x: torch.relu(x.flatten(1) @ torch.ones(12, 3)).reshape(-1, 3, 1)).eval()
    graph = capture(net, torch.rand(2, 3, 4)).graph
    names = {str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"}
    assert {"aten.flatten.using_ints", "aten.reshape.default"} <= names
    x = torch.rand(5, 3, 4)
    np.testing.assert_allclose(sp.from_torch(net, x).predict(x), net(x).numpy().reshape(5, 3), rtol=1e-5)


def test_supported_names_every_public_entry():
    listed = supported()
    assert all(name in listed for name in REGISTRY if name[0] != "_")
    assert "maximum" in listed
    assert {name for name, rule in REGISTRY.items() if isinstance(rule, Elementwise)} == set(ACTIVATIONS)


def test_summary_is_short_and_names_what_is_close():
    assert all(name in supported() for name in ACTIVATIONS)
    assert "Similar and supported: leaky_relu" in summary("leaky_relu6")
    assert len(summary("sin")) < 150


def test_a_new_operation_is_one_entry(monkeypatch):
    def rotated(value, k=1, dims=(0, 1)):
        assert (k, dims) == (1, [1, 2])
        places = np.rot90(np.arange(6).reshape(2, 3))
        return value.through(CsrMap(np.eye(6)[places.ravel()]), (3, 2))

    net = Function(lambda u: torch.relu(torch.rot90(u, 1, (1, 2)))).eval()
    u = torch.randn(4, 2, 3, dtype=torch.float64)
    assert capture(net, u).model.n_states == 12  # a block, and the activation
    monkeypatch.setitem(REGISTRY, "rot90", Linear(rotated))
    assert capture(net, u).model.n_states == 6
    np.testing.assert_allclose(capture(net, u).model.predict(u), net(u).flatten(1), atol=1e-12)


@torch.library.custom_op("simplicit_tests::mirrored", mutates_args=())
def mirrored(u: torch.Tensor) -> torch.Tensor:
    """An operation of another library than torch's own."""
    return u.flip(1).clone()


@mirrored.register_fake
def _(u: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(u)


def test_an_operation_that_is_registered_at_run_time(monkeypatch):
    net, u = (
        nn.Sequential(nn.Linear(5, 4), Function(lambda u: mirrored(torch.relu(u)))).double().eval(),
        torch.rand(3, 5),
    )
    with pytest.raises(
        UnsupportedOperationError, match=r"'simplicit_tests.mirrored'.*not one of torch's own operations"
    ):
        capture(net, u.double())
    monkeypatch.setitem(REGISTRY, "simplicit_tests.mirrored", Moving())
    model = capture(net, u.double()).model
    np.testing.assert_allclose(model.predict(u.double()), net(u.double()).detach(), atol=1e-14)
    assert "simplicit_tests.mirrored" in supported()


def test_an_activation_that_is_registered_at_run_time(monkeypatch, tmp_path):
    """One entry for the function and one for the operation: it is captured, evaluated, stored, trained and bounded."""
    arctan = Definition(torch.atan, lambda z: 1 / (1 + z * z), curvature=0.65)
    net = nn.Sequential(nn.Linear(5, 4), Function(torch.atan), nn.Linear(4, 3)).double().eval()
    u = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    assert isinstance(sp.from_torch(net, u).groups[0].activation, Block)  # without entries
    monkeypatch.setitem(ACTIVATIONS_BY_NAME, "atan", arctan)
    monkeypatch.setitem(REGISTRY, "atan", Elementwise(lambda: Activation("atan")))
    model = sp.from_torch(net, u)
    sp.save(model, tmp_path / "model")
    for same in (model, sp.load(tmp_path / "model")):
        np.testing.assert_allclose(same.predict(u), net(u).detach(), atol=1e-14)
    (ours,), (theirs,) = (torch.autograd.grad(module(u).sum(), u) for module in (sp.to_torch(model), net))
    np.testing.assert_allclose(ours, theirs, atol=1e-14)
    labels = net(u).argmax(dim=1)
    margins = sp.certify(model, u.detach(), eps=0.0, labels=labels).margins
    exact = net(u).detach().topk(2, dim=1).values
    for (found,) in margins.values():  # at the one radius
        np.testing.assert_allclose(found, exact[:, 0] - exact[:, 1], atol=1e-12)
