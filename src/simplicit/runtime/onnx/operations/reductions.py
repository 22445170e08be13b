"""Sums, means, products, norms and extremes along dimensions."""

from __future__ import annotations

import math

import torch

from simplicit.runtime.onnx.operations.calls import Call
from simplicit.runtime.onnx.operations.registry import Entry, alike


def reduced(call: Call, operator: str, x: str, axes: list[int], keep: bool) -> str:
    """Write a reduction of a tensor along dimensions."""
    if not axes:
        return x
    if operator == "ReduceSum":  # whose dimensions are an input since opset 13
        return call.node(operator, x, call.numbers(axes), keepdims=int(keep))
    return call.node(operator, x, axes=axes, keepdims=int(keep))


def kept(call: Call) -> bool:
    """Whether the dimensions stay, with length 1; ``keepdim`` in torch."""
    return bool(call["keepdim"])


def _reduction(operator: str) -> Entry:
    return lambda call: reduced(call, operator, call.x(), call.dimensions(), kept(call))


def _of_truth_values(operator: str) -> Entry:
    """Whether any, or all, numbers are not 0."""

    def written(call: Call) -> str:
        x = call.cast(call.x(torch.bool), torch.int32)
        found = call.graph(torch.int32).node(operator, x, axes=call.dimensions(), keepdims=int(kept(call)))
        return call.cast(found, torch.bool)

    return written


def _count_nonzero(call: Call) -> str:
    x = call.cast(call.x(torch.bool), torch.int64)
    return reduced(call, "ReduceSum", x, call.dimensions(), keep=False)


def _extreme(operator: str, which: str) -> Entry:
    """``max`` and ``min`` of one tensor: of all numbers, or along a dimension together with their places."""

    def written(call: Call) -> str | list[str]:
        if call["other"] is not None:
            names = [call.tensor(call[name], call.result.dtype) for name in ("self", "other")]
            return call.node(operator.removeprefix("Reduce"), *names)
        x = call.x()
        if call["dim"] is None:
            return reduced(call, operator, x, call.dimensions(), keep=False)
        axis, keep = call.dimension(), kept(call)
        return [reduced(call, operator, x, [axis], keep), call.node(which, x, axis=axis, keepdims=int(keep))]

    return written


def _extremes(call: Call) -> list[str]:
    x, axes, keep = call.x(), call.dimensions(), kept(call)
    return [reduced(call, operator, x, axes, keep) for operator in ("ReduceMin", "ReduceMax")]


def _place(operator: str) -> Entry:
    def written(call: Call) -> str:
        x = call.x(call.first.dtype)
        if call["dim"] is None:
            call.refuse(call.first.rank != 1, "looks for a place among all numbers")
            return call.node(operator, x, axis=0, keepdims=0)
        return call.node(operator, x, axis=call.dimension(), keepdims=int(kept(call)))

    return written


def moments(call: Call, x: str, axes: list[int]) -> tuple[str, str, str]:
    """Write mean, what is left without it, and the mean of its squares, with dimensions kept."""
    mean = reduced(call, "ReduceMean", x, axes, keep=True)
    rest = call.node("Sub", x, mean)
    return mean, rest, reduced(call, "ReduceMean", call.node("Mul", rest, rest), axes, keep=True)


def _spread(root: bool, with_mean: bool) -> Entry:
    """Variances, or standard deviations, and with them the means."""

    def written(call: Call) -> str | list[str]:
        x, axes = call.x(), call.dimensions()
        count = math.prod(call.first.length(axis) for axis in axes)
        correction = call["correction"]
        if correction is None:
            correction = 1 if call["unbiased"] is None else int(call["unbiased"])
        _, _, variance = moments(call, x, axes)
        if correction:
            left = count - correction
            variance = call.node("Mul", variance, count / left if left > 0 else math.inf)
        spread = call.node("Sqrt", variance) if root else variance
        found = spread if kept(call) else call.node("Squeeze", spread, call.numbers(axes))
        return [found, reduced(call, "ReduceMean", x, axes, kept(call))] if with_mean else found

    return written


def _norm(call: Call) -> str:
    order = call["ord"] if "ord" in call.arguments else call["p"]
    x, axes, keep = call.x(), call.dimensions(), kept(call)
    call.refuse(not isinstance(order, int | float | None), "is a norm of matrices")
    order = 2 if order is None else order
    size = call.node("Abs", x)
    if abs(order) == math.inf:
        return reduced(call, "ReduceMax" if order > 0 else "ReduceMin", size, axes, keep)
    if order in (1, 2):
        return reduced(call, f"ReduceL{int(order)}", x, axes, keep)
    if order == 0:
        return reduced(call, "ReduceSum", call.cast(call.cast(x, torch.bool), call.result.dtype), axes, keep)
    total = reduced(call, "ReduceSum", call.node("Pow", size, float(order)), axes, keep)
    return call.node("Pow", total, 1.0 / order)


def logsumexp(call: Call, x: str, axes: list[int], keep: bool) -> str:
    """Write log Σ exp(x), without overflow."""
    top = reduced(call, "ReduceMax", x, axes, keep=True)
    top = call.node("Where", call.node("IsInf", top), 0.0, top)
    total = reduced(call, "ReduceSum", call.node("Exp", call.node("Sub", x, top)), axes, keep=True)
    found = call.node("Add", call.node("Log", total), top)
    return found if keep else call.node("Squeeze", found, call.numbers(axes))


def _cumulative(call: Call) -> str:
    return call.node("CumSum", call.x(), call.numbers(call.dimension()))


def _running_product(call: Call) -> str:
    """Each product from the one before it, for there is no operator of that kind."""
    axis, x = call.dimension(), call.x()
    parts = [call.node("Gather", x, call.numbers([i]), axis=axis) for i in range(call.first.length(axis))]
    for number in range(1, len(parts)):
        parts[number] = call.node("Mul", parts[number - 1], parts[number])
    return call.node("Concat", *parts, axis=axis)


def _running_extreme(operator: str) -> Entry:
    """The largest or smallest number so far, and where it is, from those before."""

    def written(call: Call) -> list[str]:
        axis, x = call.dimension(), call.x()
        parts = [call.node("Gather", x, call.numbers([i]), axis=axis) for i in range(call.first.length(axis))]
        places = [call.node("Mul", call.cast(call.node("Equal", parts[0], parts[0]), torch.int64), call.numbers([0]))]
        for number in range(1, len(parts)):
            newer = call.node(operator, parts[number], parts[number - 1])
            parts[number] = call.node("Where", newer, parts[number], parts[number - 1])
            places.append(call.node("Where", newer, call.numbers([number]), places[-1]))
        return [call.node("Concat", *some, axis=axis) for some in (parts, places)]

    return written


def _running_logsumexp(call: Call) -> str:
    axis, x = call.dimension(), call.x()
    parts = [call.node("Gather", x, call.numbers([i]), axis=axis) for i in range(call.first.length(axis))]
    for number in range(1, len(parts)):
        both = call.node("Concat", parts[number - 1], parts[number], axis=axis)
        parts[number] = logsumexp(call, both, [axis], keep=True)
    return call.node("Concat", *parts, axis=axis)


def _difference(call: Call) -> str:
    call.refuse(call["n"] != 1 or call["prepend"] is not None or call["append"] is not None, "takes more than one step")
    axis, x = call.dimension(), call.x()
    length = call.first.length(axis)
    later, earlier = (
        call.node("Slice", x, call.numbers([start]), call.numbers([start + length - 1]), call.numbers([axis]))
        for start in (1, 0)
    )
    return call.node("Sub", later, earlier)


def _cosine(call: Call) -> str:
    dtype = call.result.dtype
    a, b = call["x1"], call["x2"]
    rank = max(a.rank, b.rank)
    axes, eps = [call["dim"] % rank], float(call["eps"])
    parts = []
    for one in (a, b):
        x = call.tensor(one, dtype)
        parts.append(call.node("Div", x, call.node("Max", reduced(call, "ReduceL2", x, axes, keep=True), eps)))
    return reduced(call, "ReduceSum", call.node("Mul", *parts), axes, keep=False)


def _summed_to(call: Call) -> str:
    """Sums over all dimensions that broadcasting to this shape would have made."""
    sizes, new = call.first.sizes, call.result.sizes
    missing = len(sizes) - len(new)
    axes = [at for at, size in enumerate(sizes) if at < missing or size != new[at - missing]]
    return call.reshape(reduced(call, "ReduceSum", call.x(), axes, keep=False), new)


REDUCTIONS: dict[str, Entry] = {
    "sum": _reduction("ReduceSum"),
    "mean": _reduction("ReduceMean"),
    "prod": _reduction("ReduceProd"),
    "amax": _reduction("ReduceMax"),
    "amin": _reduction("ReduceMin"),
    "any": _of_truth_values("ReduceMax"),
    "all": _of_truth_values("ReduceMin"),
    "count_nonzero": _count_nonzero,
    "max": _extreme("ReduceMax", "ArgMax"),
    "min": _extreme("ReduceMin", "ArgMin"),
    "aminmax": _extremes,
    "argmax": _place("ArgMax"),
    "argmin": _place("ArgMin"),
    "var": _spread(root=False, with_mean=False),
    "std": _spread(root=True, with_mean=False),
    "var_mean": _spread(root=False, with_mean=True),
    "std_mean": _spread(root=True, with_mean=True),
    **alike("norm linalg_norm linalg_vector_norm", _norm),
    "logsumexp": lambda call: logsumexp(call, call.x(), call.dimensions(), kept(call)),
    "cumsum": _cumulative,
    "cumprod": _running_product,
    "cummax": _running_extreme("GreaterOrEqual"),
    "cummin": _running_extreme("LessOrEqual"),
    "logcumsumexp": _running_logsumexp,
    "diff": _difference,
    "cosine_similarity": _cosine,
    "sum_to_size": _summed_to,
}
