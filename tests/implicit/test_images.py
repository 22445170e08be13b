"""Interval images of blocks: every value on a box lies in them, and closed forms are the extremes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from simplicit.implicit import Block
from simplicit.implicit.groups.program import GETITEM, Kind, Step, Value

X, Y = Value(0), Value(1)


def block(shapes: Any, size: int, *steps: tuple[Any, ...], constants: Any = ()) -> Block:
    """A block of steps (name, arguments, keywords?)."""
    made = tuple(Step(name, tuple(args), tuple((more[0] if more else {}).items())) for name, args, *more in steps)
    return Block(tuple(shapes), made, size, tuple(constants))


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).numpy()


V = (3, 4)
SINGLE = [
    "exp.default",
    "expm1.default",
    "tanh.default",
    "sigmoid.default",
    "relu.default",
    "erf.default",
    "erfc.default",
    "atan.default",
    "sinh.default",
    "cosh.default",
    "sin.default",
    "cos.default",
    "abs.default",
    "square.default",
    "gelu.default",
    "silu.default",
    "mish.default",
    "hardswish.default",
    "hardsigmoid.default",
    "softplus.default",
    "log_sigmoid.default",
    "elu.default",
    "selu.default",
    "neg.default",
    "leaky_relu.default",
    "sign.default",
    "relu6.default",
    "asinh.default",
    "exp2.default",
]
POSITIVE = ["log.default", "log1p.default", "log2.default", "sqrt.default", "rsqrt.default", "reciprocal.default"]
CASES: dict[str, Block] = {
    **{name: block([V], 12, (name, [X])) for name in SINGLE},
    **{
        f"of squares: {name}": block([V], 12, ("square.default", [X]), ("add.Tensor", [Y, 0.1]), (name, [Value(2)]))
        for name in POSITIVE
    },
    "gelu tanh": block([V], 12, ("gelu.default", [X], {"approximate": "tanh"})),
    "power 3": block([V], 12, ("pow.Tensor_Scalar", [X, 3])),
    "power 4": block([V], 12, ("pow.Tensor_Scalar", [X, 4])),
    "power 1.5": block([V], 12, ("exp.default", [X]), ("pow.Tensor_Scalar", [Y, 1.5])),
    "2 to the": block([V], 12, ("pow.Scalar", [2.5, X])),
    "clamp": block([V], 12, ("clamp.default", [X, -0.1, 0.7])),
    "product": block([V, V], 12, ("mul.Tensor", [X, Y])),
    "difference": block([V, V], 12, ("sub.Tensor", [X, Y], {"alpha": 0.3})),
    "quotient": block([V, V], 12, ("exp.default", [Y]), ("div.Tensor", [X, Value(2)])),
    "maximum": block([V, V], 12, ("maximum.default", [X, Y])),
    "where": block([V, V], 12, ("gt.Tensor", [X, Y]), ("where.self", [Value(2), X, Y])),
    "silu in steps": block([V], 12, ("sigmoid.default", [X]), ("mul.Tensor", [X, Y])),
    "softmax": block([V], 12, ("softmax.int", [X, -1])),
    "softmax, middle": block([(3, 2, 2)], 12, ("softmax.int", [X, 1])),
    "log softmax": block([V], 12, ("log_softmax.int", [X, -1])),
    "masked softmax": block(
        [V],
        12,
        ("masked_fill.Scalar", [X, Y, -math.inf]),
        ("softmax.int", [Value(2), -1]),
        constants=[(numbers(3, 4) > 0.5)],
    ),
    "logsumexp": block([V], 3, ("logsumexp.default", [X, [-1]])),
    "layer norm": block(
        [V], 12, ("layer_norm.default", [X, (4,), Y, Value(2), 1e-5, False]), constants=[numbers(4), numbers(4, seed=1)]
    ),
    "rms norm": block([V], 12, ("rms_norm.default", [X, (4,), Y, 1e-6]), constants=[numbers(4)]),
    "group norm": block([(4, 3)], 12, ("group_norm.default", [X, 2, Y, Y, 1e-5]), constants=[numbers(4)]),
    "sum": block([V], 3, ("sum.dim_IntList", [X, (-1,)])),
    "mean": block([V], 4, ("mean.dim", [X, (1,), True])),
    "var": block([V], 3, ("var.correction", [X, (-1,)], {"correction": 1})),
    "largest": block([V], 3, ("max.dim", [X, -1]), (GETITEM, [Y, 0])),
    "topk": block([V], 6, ("topk.default", [X, 2]), (GETITEM, [Y, 0])),
    "sort": block([V], 12, ("sort.default", [X]), (GETITEM, [Y, 0])),
    "amax": block([V], 3, ("amax.default", [X, (-1,)])),
    "matmul": block([V, (4, 2)], 6, ("matmul.default", [X, Y])),
    "einsum": block([V, (4, 2)], 6, ("einsum.default", ["bij,bjk->bik", (X, Y)])),
    "linear": block([V], 6, ("linear.default", [X, Y, Value(2)]), constants=[numbers(2, 4), numbers(2)]),
    "conv": block([V], 8, ("conv1d.default", [X, Y, Value(2), (1,), (0,)]), constants=[numbers(4, 3, 3), numbers(4)]),
    "attention": block([(2, 3, 2)] * 3, 12, ("scaled_dot_product_attention.default", [X, Y, Value(2)])),
    "causal attention": block(
        [(2, 3, 2)] * 3, 12, ("scaled_dot_product_attention.default", [X, Y, Value(2), None, 0.0, True])
    ),
    "glu": block([V], 6, ("glu.default", [X])),
    "moves": block(
        [V],
        12,
        ("permute.default", [X, (0, 2, 1)]),
        ("reshape.default", [Y, (-1, 12)]),
        ("flip.default", [Value(2), (1,)]),
    ),
    "pieces": block(
        [V],
        12,
        ("split.Tensor", [X, 2, 2]),
        (GETITEM, [Y, 0]),
        (GETITEM, [Y, 1]),
        ("cat.default", [(Value(3), Value(2)), 2]),
    ),
}


def box(size: int, radius: float, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = 1.5 * torch.randn(2, size, generator=generator, dtype=torch.float64)
    r = radius * torch.rand(2, size, generator=generator, dtype=torch.float64)
    lower, upper = (z - r).to(dtype), (z + r).to(dtype)
    return lower, upper


def points(lower: Tensor, upper: Tensor, count: int) -> Tensor:
    """Points of a box, (count, *shape), half of them vertices."""
    share = torch.rand(count, *lower.shape, generator=torch.Generator().manual_seed(1), dtype=lower.dtype)
    share[::2] = share[::2].round()
    return torch.minimum(torch.maximum(lower + share * (upper - lower), lower), upper)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_values_on_a_box_lie_in_its_image(name: str, dtype: torch.dtype) -> None:
    phi = CASES[name]
    for seed, radius in enumerate((0.0, 1e-6, 0.1, 2.0)):
        lower, upper = box(phi.pre_size, radius, seed, dtype)
        low, high = phi.image(lower.double(), upper.double(), dtype)
        assert low.shape == (2, phi.size)
        assert torch.isfinite(low).all(), "no rule took it"
        assert torch.isfinite(high).all()
        inside = points(lower, upper, 100)
        values = torch.stack([phi(point) for point in inside]).double()
        assert bool(((values >= low) & (values <= high)).all())
        width = 1e-8 if dtype == torch.float64 else 1e-1
        if radius == 0.0 and "where" not in name:
            assert float((high - low).max()) < width


def test_softmax_and_products_are_the_extremes_over_vertices() -> None:
    generator = torch.Generator().manual_seed(3)
    for name, scale in (("softmax", 3.0), ("product", 1.0)):
        phi = CASES["product"] if name == "product" else block([(4,)], 4, ("softmax.int", [X, -1]))
        z = scale * torch.randn(2, phi.pre_size, generator=generator, dtype=torch.float64)
        r = scale * torch.rand(2, phi.pre_size, generator=generator, dtype=torch.float64)
        low, high = phi.image(z - r, z + r)
        if name == "product":
            corners = [(z[:, :12] + a * r[:, :12]) * (z[:, 12:] + b * r[:, 12:]) for a in (-1, 1) for b in (-1, 1)]
        else:
            signs = itertools.product((-1.0, 1.0), repeat=4)
            corners = [phi(z + torch.tensor(sign, dtype=torch.float64) * r) for sign in signs]
        values = torch.stack(corners)
        assert torch.allclose(values.amin(dim=0), low, rtol=1e-11, atol=1e-12)
        assert torch.allclose(values.amax(dim=0), high, rtol=1e-11, atol=1e-12)


def test_layer_norms_stay_below_the_root_of_their_length() -> None:
    phi = block([(9,)], 9, ("layer_norm.default", [X, (9,)]))
    low, high = phi.image(torch.full((2, 9), -1e6).double(), torch.full((2, 9), 1e6).double())
    assert float(high.max()) <= math.sqrt(8) + 1e-3
    assert float(low.min()) >= -math.sqrt(8) - 1e-3
    # One number far above the others reaches it.
    assert float(phi(torch.eye(9, dtype=torch.float64) * 1e6).max()) > math.sqrt(8) - 1e-6


def test_what_is_not_known_is_infinite_and_never_nan() -> None:
    phi = block([V], 12, ("fmod.Scalar", [X, 2.0]))
    low, high = phi.image(torch.zeros(2, 12), torch.ones(2, 12))
    assert bool(torch.isneginf(low).all() & torch.isposinf(high).all())
    for phi in CASES.values():
        for lower, upper in ((-math.inf, math.inf), (math.nan, 0.0), (-1e300, 1e300), (math.inf, math.inf)):
            ends = (torch.full((2, phi.pre_size), end, dtype=torch.float64) for end in (lower, upper))
            low, high = phi.image(*ends)
            assert bool((low <= high).all())


def test_a_quotient_is_infinite_where_its_divisor_may_vanish() -> None:
    phi = block([(1,), (1,)], 1, ("div.Tensor", [X, Y]))
    low, high = phi.image(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[2.0, 1.0], [2.0, 4.0]]))
    assert low[0].item() == -math.inf
    assert high[0].item() == math.inf
    assert low[1].item() == pytest.approx(0.25)
    assert high[1].item() == pytest.approx(2.0)


def test_rows_of_a_table_are_known_where_the_number_is() -> None:
    table = numbers(5, 3)
    phi = block(
        [(2,)],
        6,
        ("round.default", [X]),
        ("_to_copy.default", [Value(2)], {"dtype": Kind("int64")}),
        ("embedding.default", [Y, Value(3)]),
        constants=[table],
    )
    ids = torch.tensor([[1.0, 4.0], [0.0, 3.0]])
    low, high = phi.image(ids - 1e-9, ids + 1e-9)
    assert torch.equal(low, phi(ids.double()))
    assert torch.equal(high, low)
    low, high = phi.image(ids, ids + torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    assert torch.equal(low[1, :3], torch.from_numpy(table).amin(dim=0))
    assert torch.equal(low[1, 3:], torch.from_numpy(table)[3])


def test_pieces_sharpen_a_chain() -> None:
    phi, lower = CASES["silu in steps"], torch.full((2, 12), -2.0).double()
    low, _ = phi.image(lower, lower + 3.0)
    assert -0.2784 > float(low.min()) > -0.5  # in one piece it would be -2 sigmoid(1) = -1.46
