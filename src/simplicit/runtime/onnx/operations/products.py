"""Products of matrices."""

from __future__ import annotations

import string

from simplicit.runtime.onnx.operations.calls import Call, Held
from simplicit.runtime.onnx.operations.registry import Entry


def _operands(call: Call, *names: str) -> list[str]:
    return [call.tensor(call[name], call.result.dtype) for name in names]


def _product(*names: str) -> Entry:
    return lambda call: call.node("MatMul", *_operands(call, *names))


def transposed(call: Call, value: Held) -> str:
    """Write a tensor with its last two dimensions exchanged; a constant is exchanged here."""
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    if value.constant is not None:
        constant = value.constant.transpose(-1, -2)
        return call.tensor(Held(tuple(constant.shape), value.dtype, constant=constant), call.result.dtype)
    return call.node("Transpose", call.tensor(value, call.result.dtype), perm=order)


def _linear(call: Call) -> str:
    weight, bias = call["weight"], call["bias"]
    turned = call.tensor(weight, call.result.dtype) if weight.rank == 1 else transposed(call, weight)
    y = call.node("MatMul", call.x(), turned)
    return y if bias is None else call.node("Add", y, call.tensor(bias, call.result.dtype))


def _added_to(*names: str) -> Entry:
    """beta · self + alpha · (the product of two)."""

    def written(call: Call) -> str:
        y, x = call.node("MatMul", *_operands(call, *names)), call.x()
        y = y if call["alpha"] == 1 else call.node("Mul", y, float(call["alpha"]))
        if call["beta"] == 0:  # which torch takes for the absence of self
            return y
        return call.node("Add", x if call["beta"] == 1 else call.node("Mul", x, float(call["beta"])), y)

    return written


def _einsum(call: Call) -> str:
    operands = [call.tensor(held, call.result.dtype) for held in call["tensors"]]
    return call.node("Einsum", *operands, equation=call["equation"].replace(" ", ""))


def _outer(call: Call) -> str:
    a, b = _operands(call, *list(call.arguments)[:2])
    column = call.node("Unsqueeze", a, call.numbers([1]))
    return call.node("Mul", column, b)


def _inner(call: Call) -> str:
    a, b = call["self"], call["other"]
    if a.rank < 2 or b.rank != 2:
        call.refuse(b.rank > 1 or a.rank == 0, "has operands of these dimensions")
        return call.node("MatMul", *_operands(call, "self", "other"))
    return call.node("MatMul", call.x(), transposed(call, b))


def _tensordot(call: Call) -> str:
    a, b = call["self"], call["other"]
    letters = iter(string.ascii_lowercase)
    first, second = ([next(letters) for _ in range(held.rank)] for held in (a, b))
    for i, j in zip(call["dims_self"], call["dims_other"], strict=True):
        second[j % b.rank] = first[i % a.rank]
    shared = set(first) & set(second)
    left = [letter for letter in first + second if letter not in shared]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(left)}"
    return call.node("Einsum", *_operands(call, "self", "other"), equation=equation)


def _bilinear(call: Call) -> str:
    operands = _operands(call, "input1", "weight", "input2")
    y = call.node("Einsum", *operands, equation="...i,oij,...j->...o")
    return y if call["bias"] is None else call.node("Add", y, call.tensor(call["bias"], call.result.dtype))


def _distances(call: Call) -> str:
    """All distances between rows, by differences."""
    a, b = _operands(call, "x1", "x2")
    rank = call["x1"].rank
    first, second = (
        call.node("Unsqueeze", a, call.numbers([rank - 1])),
        call.node("Unsqueeze", b, call.numbers([rank - 2])),
    )
    apart = call.node("Sub", first, second)
    call.refuse(call["p"] not in (1.0, 2.0), f"is a distance in the {call['p']}-norm")
    return call.node(f"ReduceL{int(call['p'])}", apart, axes=[rank], keepdims=0)


PRODUCTS: dict[str, Entry] = {
    "matmul": _product("self", "other"),
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "inner": _inner,
    "outer": _outer,
    "ger": _outer,
    "linear": _linear,
    "addmm": _added_to("mat1", "mat2"),
    "addmv": _added_to("mat", "vec"),
    "baddbmm": _added_to("batch1", "batch2"),
    "einsum": _einsum,
    "tensordot": _tensordot,
    "bilinear": _bilinear,
    "cdist": _distances,
}
