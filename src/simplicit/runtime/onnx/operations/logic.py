"""Comparisons, truth values, and choices by them."""

from __future__ import annotations

import torch

from simplicit.runtime.onnx.operations.calls import Call, Held, common
from simplicit.runtime.onnx.operations.registry import Entry


def _compared(operator: str, inverse: bool = False) -> Entry:
    def written(call: Call) -> str:
        dtype = common(call["self"], call["other"])
        if dtype == torch.bool and operator != "Equal":  # which has no order in ONNX
            dtype = torch.int64
        found = call.graph(dtype).node(operator, call.tensor(call["self"], dtype), call.tensor(call["other"], dtype))
        return call.node("Not", found) if inverse else found

    return written


def _logical(operator: str) -> Entry:
    def written(call: Call) -> str:
        operands = [call.tensor(call[name], torch.bool) for name in ("self", "other") if call[name] is not None]
        return call.node(operator, *operands)

    return written


def _last_bits(call: Call, operator: str) -> str:
    """x & (2ᵏ - 1), which is a remainder; opset 17 has no operators for bits."""
    mask = call["other"]
    known = operator == "And" and isinstance(mask, int) and mask > 0 and mask & (mask + 1) == 0
    call.refuse(not known, "acts on the bits of integers")
    return call.node("Mod", call.x(), call.tensor(mask + 1, call.result.dtype))


def _bitwise(operator: str) -> Entry:
    def written(call: Call) -> str:
        if call.result.dtype != torch.bool:
            return _last_bits(call, operator)
        return _logical(operator)(call)  # type: ignore[return-value]

    return written


def chosen(call: Call, condition: Held, then: Held | float, other: Held | float) -> str:
    """Write one of two values, number by number, by truth values."""
    dtype = call.result.dtype
    held = torch.uint8 if dtype == torch.bool else dtype  # truth values are chosen as integers
    branches = [call.tensor(value, dtype) for value in (then, other)]
    if held != dtype:
        branches = [call.cast(branch, held) for branch in branches]
    found = call.node("Where", call.tensor(condition, torch.bool), *branches)
    return found if held == dtype else call.cast(found, dtype)


def _where(call: Call) -> str:
    call.refuse(call["self"] is None, "gives places, whose number depends on the input")
    return chosen(call, call["condition"], call["self"], call["other"])


def _masked_fill(call: Call) -> str:
    return chosen(call, call["mask"], call["value"], call["self"])


def _triangle(lower: bool) -> Entry:
    def written(call: Call) -> str:
        rows, columns = (call.first.length(axis) for axis in (-2, -1))
        whole = torch.ones(rows, columns, dtype=torch.bool)
        kept = torch.tril(whole, call["diagonal"]) if lower else torch.triu(whole, call["diagonal"])
        return chosen(call, Held((rows, columns), torch.bool, constant=kept), call.first, 0)

    return written


def _is_finite(call: Call) -> str:
    x = call.x(call.first.dtype)
    return call.node("Not", call.node("Or", call.node("IsNaN", x), call.node("IsInf", x)))


LOGIC: dict[str, Entry] = {
    "eq": _compared("Equal"),
    "ne": _compared("Equal", inverse=True),
    "lt": _compared("Less"),
    "le": _compared("LessOrEqual"),
    "gt": _compared("Greater"),
    "ge": _compared("GreaterOrEqual"),
    "logical_and": _logical("And"),
    "logical_or": _logical("Or"),
    "logical_xor": _logical("Xor"),
    "logical_not": _logical("Not"),
    "bitwise_and": _bitwise("And"),
    "bitwise_or": _bitwise("Or"),
    "bitwise_xor": _bitwise("Xor"),
    "bitwise_not": _bitwise("Not"),
    "__and__": _bitwise("And"),
    "__or__": _bitwise("Or"),
    "__xor__": _bitwise("Xor"),
    "where": _where,
    "masked_fill": _masked_fill,
    "tril": _triangle(lower=True),
    "triu": _triangle(lower=False),
    "isnan": lambda call: call.node("IsNaN", call.x(call.first.dtype)),
    "isinf": lambda call: call.node("IsInf", call.x(call.first.dtype)),
    "isfinite": _is_finite,
}
