"""Programs of operations on single numbers, and of those that move numbers."""

from __future__ import annotations

import math

import numpy as np

from runtime.programs import IMAGE, PAIR, M, X, Y, case, numbers
from simplicit.implicit.groups.program import GETITEM, Kind, Samples, Value

UNARY = """
    neg exp abs sign erf special_erf erfc sin cos tan atan sinh cosh asinh sinc floor ceil round trunc frac square expm1
    exp2 relu relu6 tanh sigmoid silu mish hardsigmoid hardswish selu log_sigmoid clone isnan isinf isfinite logical_not
    alias detach
"""
POSITIVE = "log sqrt rsqrt reciprocal log1p log2 log10"

ELEMENTWISE = [
    *[case(f"{name}.default", X) for name in UNARY.split()],
    *[case(f"{name}.default", X, span=(0.1, 3.0)) for name in POSITIVE.split()],
    *[case(f"{name}.default", X, span=(-0.9, 0.9)) for name in ("asin", "acos", "atanh")],
    case("acosh.default", X, span=(1.1, 3.0)),
    case("logit.default", X, 1e-3, span=(0.0, 1.0)),
    *[case(f"{name}.Tensor", X, Y, shapes=PAIR) for name in ("add", "sub", "rsub", "mul", "div")],
    case("add.Tensor", X, Y, shapes=PAIR, alpha=2.5),
    case("rsub.Scalar", X, 2, 3),
    case("mul.Tensor", X, Y, shapes=((3, 1), (1, 4))),
    case("div.Tensor_mode", X, 0.3, rounding_mode="floor"),
    case("div.Tensor_mode", X, 0.3, rounding_mode="trunc"),
    case("floor_divide.default", X, Y, shapes=PAIR),
    case(
        ("_to_copy.default", X),
        ("to.dtype", Value(1), Kind("int64")),
        ("floor_divide.default", Value(2), 3),
        span=(-9, 9),
    ),
    case(("to.dtype", X, Kind("int64")), ("div.Scalar_mode", Value(1), 3), span=(-9, 9), rounding_mode="trunc"),
    case(("to.dtype", X, Kind("int64")), ("remainder.Scalar", Value(1), 3), span=(-9, 9)),
    case(("to.dtype", X, Kind("int64")), ("add.Tensor", Value(1), 0.5), span=(-9, 9)),
    case(("to.dtype", X, Kind("int64")), ("relu.default", Value(1)), span=(-9, 9)),
    case(("to.dtype", X, Kind("int64")), ("mean.dim", Value(1), (-1,)), span=(-9, 9), dtype=Kind("own")),
    case("remainder.Scalar", X, 0.7),
    case("remainder.Tensor", X, Y, shapes=PAIR),
    case("fmod.Tensor", X, Y, shapes=PAIR),
    *[case("pow.Tensor_Scalar", X, power, span=(0.2, 2.0)) for power in (2, 3, 0.5, -0.5, -1.5)],
    case("pow.Tensor_Scalar", X, 3),
    case("pow.Tensor_Tensor", X, Y, shapes=PAIR, span=(0.2, 2.0)),
    case("pow.Scalar", 2.0, X),
    *[case(f"{name}.default", X, Y, shapes=PAIR) for name in ("maximum", "minimum", "logaddexp")],
    case("xlogy.Tensor", X, Y, shapes=PAIR, span=(0.0, 2.0)),
    case("nan_to_num.default", X, 0.0),
    case(("log.default", X), ("nan_to_num.default", Value(1), 3.0)),
    case("clamp.default", X, -0.5, 1.0),
    case("clamp.Tensor", X, None, Y, shapes=PAIR),
    case("clamp_min.default", X, 0.5),
    case("clamp_max.default", X, 0.5),
    case("addcmul.default", X, X, Y, shapes=PAIR, value=0.3),
    case("addcdiv.default", X, X, Y, shapes=PAIR, span=(1.0, 2.0), value=2),
    case("lerp.Scalar", X, Y, 0.3, shapes=PAIR),
    case("gelu.default", X),
    case("gelu.default", X, approximate="tanh"),
    case("softplus.default", X, 2.0, 10.0),
    case("leaky_relu.default", X, 0.2),
    case("elu.default", X, 0.7),
    case("celu.default", X, 0.7),
    case("hardtanh.default", X, -0.5, 0.7),
    case("softshrink.default", X, 0.4),
    case("hardshrink.default", X, 0.4),
    case("threshold.default", X, 0.4, 0.1),
    case("prelu.default", X, Y, constants=(numbers(3),)),
    case("glu.default", X, -1),
]
LOGIC = [
    *[case(f"{name}.Tensor", X, Y, shapes=PAIR) for name in ("eq", "ne", "lt", "le", "gt", "ge")],
    *[case(f"{name}.Scalar", X, 0.5) for name in ("eq", "gt")],
    case(("gt.Scalar", X, 0), ("lt.Scalar", X, 1), ("eq.Tensor", Value(1), Value(2))),
    *[
        case(("gt.Scalar", X, 0), ("lt.Scalar", X, 1), (f"{name}", Value(1), Value(2)))
        for name in (
            *(f"logical_{kind}.default" for kind in ("and", "or", "xor")),
            *(f"bitwise_{kind}.Tensor" for kind in ("and", "or", "xor")),
            *(f"__{kind}__.Tensor" for kind in ("and", "or", "xor")),
            *("mul.Tensor", "add.Tensor", "maximum.default", "gt.Tensor"),
        )
    ],
    case(("gt.Scalar", X, 0), ("bitwise_not.default", Value(1))),
    case(("gt.Scalar", X, 0), ("where.self", Value(2), X, Y), shapes=PAIR),
    case(("gt.Scalar", X, 0), ("where.ScalarOther", Value(1), X, -1.5)),
    case(("gt.Scalar", X, 0), ("lt.Scalar", X, 1), ("where.self", Value(1), Value(2), Value(1))),
    case(
        ("gt.Scalar", X, 1.7),
        ("masked_fill.Scalar", X, Value(1), -math.inf),
        ("softmax.int", Value(2), 1),
        shapes=((9, 2),),
    ),
    case("tril.default", X, 1),
    case("triu.default", X),
]
MOVING = [
    case("reshape.default", X, (M, 12)),
    case("view.default", X, (-1, 2, 6)),
    case("reshape.default", X, (Samples(3), 4)),
    case("_unsafe_view.default", X, (Samples(1), 2, 6)),
    case("flatten.using_ints", X, 1),
    case("unflatten.int", X, -1, (2, 2)),
    case(("sum.dim_IntList", X, (1,)), ("reshape.default", X, (M, 4, 3)), ("view_as.default", X, Value(2))),
    case("squeeze.dim", X, 1, shapes=((1, 4),)),
    case("squeeze.default", X, shapes=((1, 4),)),
    case("unsqueeze.default", X, 1),
    case(("to.dtype", X, Kind("int32")), ("type_as.default", Value(1), X)),
    case("feature_dropout.default", X, 0.5, False),
    case("permute.default", X, (0, 2, 1)),
    case("transpose.int", X, -1, -2),
    case(("reshape.default", X, (Samples(3), 4)), ("t.default", Value(1)), ("t.default", Value(2))),
    case("movedim.int", X, 1, 2),
    case("swapaxes.default", X, 1, 2),
    case("expand.default", X, (M, 5, 4), shapes=((1, 4),)),
    case("expand.default", X, (-1, 3, 4)),
    case(("expand.default", X, (M, 4)), ("add.Tensor", Value(2), Y), shapes=((4,),), constants=(numbers(4),)),
    case(("expand.default", Y, (M, 3)), ("cat.default", (X, Value(2)), 1), shapes=((4,),), constants=(numbers(1, 3),)),
    case(("unsqueeze.default", X, 1), ("expand_as.default", Value(2), Y), shapes=((4,), (3, 4))),
    case("select.int", X, 1, -1),
    case("slice.Tensor", X, 2, 1, 9223372036854775807),
    case("slice.Tensor", X, 2, 0, -1, 2),
    case("narrow.default", X, 1, -2, 2),
    case(("split.Tensor", X, 3, 2), (GETITEM, Value(1), 1)),
    case(("split_with_sizes.default", X, (1, 3), 2), (GETITEM, Value(1), 1)),
    case(("unsafe_split.Tensor", X, 2, 2), (GETITEM, Value(1), 0)),
    case(("chunk.default", X, 2, -1), (GETITEM, Value(1), 1)),
    case(("unsafe_chunk.default", X, 2, -1), (GETITEM, Value(1), 1)),
    case(("unbind.int", X, 1), (GETITEM, Value(1), 2)),
    case("cat.default", (X, Y), -1, shapes=((3, 4), (3, 2))),
    case("concat.default", (X, Y), 1, shapes=PAIR),
    case("concatenate.default", (X, Y), 1, shapes=PAIR),
    case("stack.default", (X, Y), -1, shapes=PAIR),
    case("hstack.default", (X, Y), shapes=PAIR),
    case("repeat.default", X, (1, 2, 1, 3)),
    case("tile.default", X, (2,)),
    case(
        ("slice.Tensor", Y, 0, 0, 1), ("repeat.default", Value(2), (M, 1)), shapes=((4,),), constants=(numbers(2, 3),)
    ),
    case("repeat_interleave.self_int", X, 2, 1),
    case("roll.default", X, (1, -2), (1, 2)),
    case("flip.default", X, (1, -1)),
    case("pad.default", X, (1, 2, 0, 1)),
    case("pad.default", X, (1, 2), "circular"),
    case("constant_pad_nd.default", X, (1, -1), 0.5),
    case("reflection_pad1d.default", X, (1, 2)),
    case("reflection_pad2d.default", X, (1, 2, 0, 3), shapes=IMAGE),
    case("replication_pad1d.default", X, (1, 2)),
    case("replication_pad2d.default", X, (1, 2, 0, 3), shapes=IMAGE),
    case("diagonal.default", X, 1, 1, 2),
    case("pixel_shuffle.default", X, 2, shapes=IMAGE),
    case("pixel_unshuffle.default", X, 2, shapes=IMAGE),
    case("channel_shuffle.default", X, 2, shapes=IMAGE),
    case("unfold.default", X, 2, 2, 1),
]
MAKING = [
    *[case((f"{name}.default", X), ("add.Tensor", Value(1), X)) for name in ("zeros_like", "ones_like")],
    *[
        case((f"{name}.default", (M, 2)), ("cat.default", (Value(1), X), 1), shapes=((4,),))
        for name in ("zeros", "ones")
    ],
    *[
        case((f"{name}.default", X, (M, 2)), ("cat.default", (Value(1), X), 1), shapes=((4,),))
        for name in ("new_zeros", "new_ones")
    ],
    case(("full.default", (M, 2), 0.5), ("cat.default", (Value(1), X), 1), shapes=((4,),)),
    case(("new_full.default", X, (M, 2), 0.5), ("cat.default", (Value(1), X), 1), shapes=((4,),)),
    case("full_like.default", X, 2.5),
    case("fill.Scalar", X, 2.5),
    case(("scalar_tensor.default", M), ("mul.Tensor", Value(1), 0.0), ("add.Tensor", Value(2), X)),
    case(
        ("arange.default", M),
        ("to.dtype", Value(2), Kind("int64")),
        ("index.Tensor", X, (Value(3), Value(1))),
        shapes=((4,),),
        constants=(np.array(2),),
    ),
]
