"""Scaled dot product attention, which torch has as one operation."""

from __future__ import annotations

import math

import numpy as np
import torch

from simplicit.runtime.onnx.operations.calls import Call, Held
from simplicit.runtime.onnx.operations.logic import chosen
from simplicit.runtime.onnx.operations.moving import picked
from simplicit.runtime.onnx.operations.norms import safe_softmax
from simplicit.runtime.onnx.operations.products import transposed
from simplicit.runtime.onnx.operations.registry import Entry


def _attention(call: Call) -> str:
    call.refuse(bool(call["dropout_p"]), "is random")
    query, key, value = (call[name] for name in ("query", "key", "value"))
    if call["enable_gqa"]:
        key, value = (_shared(call, one, query) for one in (key, value))
    scale = call["scale"]
    scale = 1.0 / math.sqrt(query.length(-1)) if scale is None else scale
    scores = call.node("Mul", call.node("MatMul", call.x(), transposed(call, key)), float(scale))
    mask = call["attn_mask"]
    if call["is_causal"]:
        rows, columns = query.length(-2), key.length(-2)
        mask = _constant(torch.ones(rows, columns, dtype=torch.bool).tril())
    weights = _weights(call, scores, mask)
    return call.node("MatMul", weights, call.tensor(value, call.result.dtype))


def _weights(call: Call, scores: str, mask: Held | None) -> str:
    axis, dtype = call.result.rank - 1, call.result.dtype
    if mask is None:
        return call.node("Softmax", scores, axis=axis)
    if mask.dtype == torch.bool:
        scores = chosen(call, mask, Held((), dtype, scores), -math.inf)
    else:
        scores = call.node("Add", scores, call.tensor(mask, dtype))
    if mask.constant is not None and _leaves_some(mask.constant):
        return call.node("Softmax", scores, axis=axis)
    return safe_softmax(call, scores, axis)


def _leaves_some(mask: torch.Tensor) -> bool:
    """Whether every row has a place that is not masked out."""
    seen = mask if mask.dtype == torch.bool else mask > -math.inf
    return bool(seen.any(dim=-1).all())


def _constant(tensor: torch.Tensor) -> Held:
    return Held(tuple(tensor.shape), tensor.dtype, constant=tensor)


def _shared(call: Call, held: Held, query: Held) -> Held:
    """Keys or values of heads that several heads of queries share, once for each of them."""
    axis = held.rank - 3
    heads = held.length(axis)
    times = query.length(axis) // heads
    name = picked(call, call.tensor(held, call.result.dtype), axis, np.repeat(np.arange(heads), times))
    return Held((*held.sizes[:axis], heads * times, *held.sizes[axis + 1 :]), call.result.dtype, name)


ATTENTION: dict[str, Entry] = {"scaled_dot_product_attention": _attention}
