r"""Interval images of products of tensors: matrix products, convolutions, attention.

For centres c and radii r of two operands, every bilinear ⊗ has

    |x ⊗ y - c_x ⊗ c_y| <= |c_x| ⊗ r_y + r_x ⊗ |c_y| + r_x ⊗ r_y,

and a sum of k products errs by at most γ_k times the sum of their sizes. Attention is a convex combination of the
values, Σⱼ pⱼ vⱼ = t + Σⱼ pⱼ (vⱼ - t) for any t: with t the middle of the values that product is small, and the result
lies between the least and the greatest of them as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from simplicit.implicit.groups.images import interval as iv
from simplicit.implicit.groups.images.elementwise import Rule
from simplicit.implicit.groups.images.interval import Interval, Rounding, real
from simplicit.implicit.groups.images.reductions import softmax


def bilinear(at: Rounding, product: Callable[[Tensor, Tensor], Tensor], x: Interval, y: Interval) -> Interval:
    """Return the image of a bilinear product."""
    (c, r), (d, s) = x.centred, y.centred
    middle = product(c, d)
    sizes = product(x.largest, y.largest)
    radius = torch.zeros_like(middle)
    for first, second in ((c.abs(), s), (r, d.abs()), (r, s)):
        if bool(first.any()) and bool(second.any()):
            radius = radius + product(first, second)
    terms = float(product(torch.ones_like(c), torch.ones_like(d)).max()) if middle.numel() else 0.0
    return at.out(middle - radius, middle + radius, sizes, 32.0 + 2.0 * terms)


def _product(at: Rounding, call: Rule, x: Any, y: Any) -> Interval:
    return bilinear(at, call, real(x, at), real(y, at))


def _einsum(at: Rounding, call: Rule, equation: str, operands: Any, *_: Any, **__: Any) -> Interval | None:
    if len(operands) != 2:
        return None
    return bilinear(at, lambda a, b: torch.einsum(equation, a, b), *(real(one, at) for one in operands))


def _tensordot(at: Rounding, call: Rule, x: Any, y: Any, first: Any, second: Any) -> Interval:
    return bilinear(at, lambda a, b: call(a, b, first, second), real(x, at), real(y, at))


def _linear(at: Rounding, call: Rule, x: Any, weight: Any, bias: Any = None) -> Interval:
    found = bilinear(at, torch.nn.functional.linear, real(x, at), real(weight, at))
    return found if bias is None else iv.add(at, found, real(bias, at))


def _convolution(
    at: Rounding, call: Rule, x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any
) -> Interval:
    z = real(x, at)
    found = bilinear(at, lambda a, b: call(a, b, None, *args, **kwargs), z, real(weight, at))
    if bias is None:
        return found
    spatial = weight_dimensions(weight) - 2
    return iv.add(at, found, real(bias, at).moved(lambda end: end.reshape(-1, *[1] * spatial)))


def weight_dimensions(weight: Any) -> int:
    """Return how many dimensions a tensor or an interval has."""
    return (weight.lower if isinstance(weight, Interval) else weight).ndim


def _added_product(at: Rounding, call: Rule, start: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Interval:
    found = bilinear(at, torch.matmul, real(x, at), real(y, at))
    found = found if alpha == 1 else iv.multiply(at, found, real(alpha, at))
    first = real(start, at)
    return iv.add(at, first if beta == 1 else iv.multiply(at, first, real(beta, at)), found)


def attention(
    at: Rounding,
    call: Rule,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Interval | None:
    """Return the image of softmax(q kᵀ · scale + mask) v."""
    if dropout_p:
        return None
    q, k, v = (real(one, at) for one in (query, key, value))
    if enable_gqa:
        times = q.lower.shape[-3] // k.lower.shape[-3]
        k, v = (one.moved(lambda end: end.repeat_interleave(times, -3)) for one in (k, v))
    factor = 1.0 / math.sqrt(q.lower.shape[-1]) if scale is None else scale
    scores = bilinear(at, lambda a, b: a @ b.mT, q, k)
    # The factor is applied to the scores, or its root to both operands.
    scores = iv.multiply(at, scores, at.out(*[torch.tensor(factor, dtype=torch.float64)] * 2))
    mask = _mask(at, attn_mask, is_causal, scores)
    scores = scores if mask is None else iv.add(at, scores, mask)
    weights = softmax(at, torch.ops.aten._safe_softmax.default, scores, -1)
    found = convex(at, weights, v)
    if mask is None:
        return found
    # A row without any score gives 0 in torch.
    empty = torch.isneginf(mask.lower).all(-1, keepdim=True)
    with_zero = Interval(found.lower.clamp(max=0.0), found.upper.clamp(min=0.0))
    return Interval(*(torch.where(empty, a, b) for a, b in _pairs(with_zero, found)))


def _pairs(x: Interval, y: Interval) -> list[tuple[Tensor, Tensor]]:
    return [(x.lower, y.lower), (x.upper, y.upper)]


def _mask(at: Rounding, given: Any, causal: bool, scores: Interval) -> Interval | None:
    """Return a mask as what is added to scores."""
    if causal:
        length, width = scores.lower.shape[-2:]
        given = torch.ones(length, width, dtype=torch.bool).tril()
    if given is None:
        return None
    allowed = given if isinstance(given, Interval) else Interval(given, given)
    if allowed.lower.dtype != torch.bool:
        return real(given, at)
    zero = torch.zeros(allowed.lower.shape, dtype=torch.float64)
    return allowed.moved(lambda end: torch.where(end, zero, -math.inf))


def convex(at: Rounding, weights: Interval, v: Interval) -> Interval:
    """Return the image of Σⱼ pⱼ vⱼ for weights p (…, i, j) that sum to 1 and values v (…, j, d)."""
    middle = v.centred[0].mean(-2, keepdim=True).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    shifted = at.out(v.lower - middle, v.upper - middle, v.largest, 4.0)
    found = bilinear(at, torch.matmul, weights, shifted)
    most = v.largest.amax(-2, keepdim=True)
    tokens = v.lower.shape[-2]
    # Weights as computed sum to 1 up to the rounding of their sum.
    found = at.out(found.lower + middle, found.upper + middle, most, 64.0 + 4.0 * tokens)
    between = Interval(v.lower.amin(-2, keepdim=True), v.upper.amax(-2, keepdim=True))
    between = at.out(between.lower, between.upper, most, 64.0 + 4.0 * tokens)
    between = between.moved(lambda end: end.expand(found.lower.shape))
    return iv.met(found, between)


#: One entry for each product.
PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(["matmul", "mm", "bmm", "mv", "dot", "inner", "outer", "ger"], _product),
    **dict.fromkeys(["addmm", "baddbmm", "addmv"], _added_product),
    **dict.fromkeys(
        ["convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"],
        _convolution,
    ),
    "einsum": _einsum,
    "tensordot": _tensordot,
    "linear": _linear,
    "scaled_dot_product_attention": attention,
}
