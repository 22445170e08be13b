"""Small programs of blocks, at least one for every operation that has a form in ONNX."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplicit.implicit.groups.program import GETITEM, Kind, Samples, Step, Value

X, Y = Value(0), Value(1)
M = Samples(1)


@dataclass(frozen=True)
class Case:
    """Steps, the shapes of the operands, constants, between which values the operands lie, and how they are shown."""

    steps: tuple[Step, ...]
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),)
    constants: tuple[np.ndarray, ...] = ()
    span: tuple[float, float] = (-2.0, 2.0)

    @property
    def name(self) -> str:
        """Its operations."""
        return "-".join(step.operation for step in self.steps)


def case(
    *calls: Any,
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),),
    constants: tuple[Any, ...] = (),
    span: tuple[float, float] = (-2.0, 2.0),
    **keywords: Any,
) -> Case:
    """One call, given as its name and arguments, or several as tuples; keywords are those of the last one."""
    several = calls if isinstance(calls[0], tuple) else (calls,)
    steps = [Step(name, tuple(rest)) for name, *rest in several]
    steps[-1] = Step(steps[-1].operation, steps[-1].arguments, tuple(keywords.items()))
    return Case(tuple(steps), shapes, tuple(np.asarray(one) for one in constants), span)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


PAIR = ((3, 4), (3, 4))
IMAGE = ((4, 6, 6),)
TOKENS = ((2, 5, 4),) * 3  # heads, tokens, numbers
ALL_MASKED_ONCE = np.array([[True, False, True, False, True]] * 4 + [[False] * 5])

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
BATCH = (numbers(3), numbers(3, seed=1), numbers(3, seed=2), numbers(3, seed=3) ** 2)
REDUCING = [
    *[case(f"{name}.dim_IntList" if name == "sum" else f"{name}.dim", X, (-1,), True) for name in ("sum", "mean")],
    case("sum.dim_IntList", X, (1, 2)),
    case("prod.dim_int", X, 1),
    *[case(f"{name}.default", X, (1,), True) for name in ("amax", "amin")],
    *[case((f"{name}.dim", X, 2), (GETITEM, Value(1), place)) for name in ("max", "min") for place in (0, 1)],
    case("max.other", X, Y, shapes=PAIR),
    *[case(f"{name}.default", X, 1, True) for name in ("argmax", "argmin")],
    *[case(("gt.Scalar", X, 1.0), (f"{name}.dim", Value(1), 2)) for name in ("any", "all")],
    case(("relu.default", X), ("count_nonzero.dim_IntList", Value(1), (2,))),
    *[case(f"{name}.correction", X, (2,)) for name in ("var", "std")],
    *[case(f"{name}.dim", X, (1, 2), False, True) for name in ("var", "std")],
    *[
        case((f"{name}.correction", X, (2,)), (GETITEM, Value(1), place))
        for name in ("var_mean", "std_mean")
        for place in (0, 1)
    ],
    *[case("norm.ScalarOpt_dim", X, order, (2,), True) for order in (None, 1, 2, 3, 0, math.inf, -math.inf)],
    case("linalg_norm.default", X, None, (2,)),
    case("linalg_vector_norm.default", X, 2, (1, 2)),
    case("logsumexp.default", X, (2,)),
    case("cumsum.default", X, 1),
    case("cumprod.default", X, -1),
    case("diff.default", X),
    case("cosine_similarity.default", X, Y, 2, shapes=PAIR),
    case(("unsqueeze.default", X, 2), ("sum_to_size.default", X, (M, 1, 4))),
]
SORTED = [
    *[case(("sort.default", X, 2, down), (GETITEM, Value(1), place)) for down in (False, True) for place in (0, 1)],
    case("argsort.default", X, 1, True),
    *[case(("topk.default", X, 2, -1, largest), (GETITEM, Value(1), 0)) for largest in (True, False)],
    case(("kthvalue.default", X, 2), (GETITEM, Value(1), 0)),
    case(("median.dim", X, 2, True), (GETITEM, Value(1), 0)),
]
NORMS = [
    case("softmax.int", X, -1),
    case("softmax.int", X, 1),
    case("_softmax.default", X, -1, False),
    case(("log.default", X), ("_safe_softmax.default", Value(1), -1), span=(0.0, 1.0)),
    case("log_softmax.int", X, 1),
    case("_log_softmax.default", X, 1, False),
    case("layer_norm.default", X, (4,)),
    case("layer_norm.default", X, (3, 4), Y, Value(2), 1e-6, constants=(numbers(3, 4), numbers(3, 4))),
    *[
        case(("native_layer_norm.default", X, (4,), Y, Y, 1e-5), (GETITEM, Value(2), place), constants=(numbers(4),))
        for place in (0, 1, 2)
    ],
    case("rms_norm.default", X, (4,)),
    case("rms_norm.default", X, (4,), Y, 1e-6, constants=(numbers(4),)),
    case(("_fused_rms_norm.default", X, (4,), Y, 1e-6), (GETITEM, Value(2), 0), constants=(numbers(4),)),
    case("group_norm.default", X, 2, Y, Value(2), shapes=IMAGE, constants=(numbers(4), numbers(4, seed=1))),
    case("group_norm.default", X, 2, shapes=IMAGE),
    *[
        case(("native_group_norm.default", X, None, None, M, 4, 36, 2, 1e-5), (GETITEM, Value(1), place), shapes=IMAGE)
        for place in (0, 1, 2)
    ],
    case("instance_norm.default", X, None, None, None, None, True, 0.1, 1e-5, False, shapes=IMAGE),
    case("batch_norm.default", X, *(Value(i) for i in range(1, 5)), False, 0.1, 1e-5, False, constants=BATCH),
    case(
        ("_native_batch_norm_legit_no_training.default", X, *(Value(i) for i in range(1, 5)), 0.1, 1e-5),
        (GETITEM, Value(5), 0),
        constants=BATCH,
    ),
    case(
        ("native_batch_norm.default", X, *(Value(i) for i in range(1, 5)), False, 0.1, 1e-5),
        (GETITEM, Value(5), 0),
        constants=BATCH,
    ),
]
PRODUCTS = [
    case("matmul.default", X, Y, shapes=((3, 4), (4, 2))),
    case("matmul.default", X, Y, constants=(numbers(4, 2),)),
    case("bmm.default", X, Y, shapes=((3, 4), (4, 2))),
    case(("reshape.default", X, (Samples(3), 4)), ("mm.default", Value(2), Y), constants=(numbers(4, 2),)),
    case("mv.default", X, Y, shapes=((4,),), constants=(numbers(4),)),
    case(
        ("select.int", Y, 0, 0),
        ("dot.default", Value(2), Value(2)),
        ("mul.Tensor", Value(3), X),
        constants=(numbers(2, 4),),
    ),
    case("inner.default", X, Y, constants=(numbers(2, 4),)),
    case(
        ("reshape.default", X, (Samples(4),)), ("outer.default", Value(2), Y), shapes=((4,),), constants=(numbers(2),)
    ),
    case(("reshape.default", X, (Samples(4),)), ("ger.default", Value(2), Y), shapes=((4,),), constants=(numbers(2),)),
    case("linear.default", X, Y, Value(2), constants=(numbers(2, 4), numbers(2))),
    case("linear.default", X, Y, constants=(numbers(2, 4),)),
    case("addmm.default", Y, X, Value(2), shapes=((4,),), constants=(numbers(3), numbers(4, 3)), beta=0.5, alpha=2),
    case("addmv.default", Y, X, Value(2), shapes=((4,),), constants=(numbers(1), numbers(4))),
    case("baddbmm.default", X, Y, Value(2), shapes=((3, 2), (3, 4), (4, 2)), beta=0),
    case("baddbmm.default", X, Y, Value(2), shapes=((3, 2), (3, 4), (4, 2)), alpha=0.5),
    case("einsum.default", "b i k, b k j -> b i j", (X, Y), shapes=((3, 4), (4, 2))),
    case("einsum.default", "bhid,bhjd->bhij", (X, Y), shapes=TOKENS[:2]),
    case("tensordot.default", X, Y, (2,), (1,), constants=(numbers(2, 4),)),
    case("bilinear.default", X, Y, Value(2), Value(3), shapes=((3,), (4,)), constants=(numbers(2, 3, 4), numbers(2))),
    case("cdist.default", X, Y, 2.0, shapes=PAIR),
    case("cdist.default", X, Y, 1.0, shapes=PAIR),
]
ATTENTION = [
    case("scaled_dot_product_attention.default", *(Value(i) for i in range(3)), shapes=TOKENS),
    case(
        "scaled_dot_product_attention.default", *(Value(i) for i in range(3)), None, 0.0, True, shapes=TOKENS, scale=0.3
    ),
    case(
        "scaled_dot_product_attention.default", *(Value(i) for i in range(4)), shapes=TOKENS, constants=(numbers(5, 5),)
    ),
    case(
        "scaled_dot_product_attention.default",
        *(Value(i) for i in range(4)),
        shapes=TOKENS,
        constants=(ALL_MASKED_ONCE,),
    ),
    case(
        ("gt.Scalar", Value(3), 0.0),
        ("scaled_dot_product_attention.default", *(Value(i) for i in (0, 1, 2, 4))),
        shapes=(*TOKENS, (1, 5, 5)),
    ),
    case(
        "scaled_dot_product_attention.default",
        *(Value(i) for i in range(3)),
        shapes=((4, 5, 4), (2, 5, 4), (2, 5, 4)),
        enable_gqa=True,
    ),
]
KERNEL = numbers(2, 4, 3, 3)
CONVOLUTIONS = [
    case("conv1d.default", X, Y, constants=(numbers(2, 3, 2),)),
    case("conv2d.default", X, Y, Value(2), (2, 1), (1, 1), shapes=IMAGE, constants=(KERNEL, numbers(2))),
    case("conv2d.default", X, Y, None, (1,), (0,), (2,), 2, shapes=IMAGE, constants=(numbers(2, 2, 3, 3),)),
    case("conv2d.padding", X, Y, None, (1,), "same", shapes=IMAGE, constants=(numbers(2, 4, 2, 3),)),
    case("conv3d.default", X, Y, shapes=((2, 3, 3, 3),), constants=(numbers(2, 2, 2, 2, 2),)),
    case(
        "convolution.default", X, Y, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, shapes=IMAGE, constants=(KERNEL,)
    ),
    case("conv_transpose1d.default", X, Y, None, (2,), (1,), (1,), constants=(numbers(3, 2, 3),)),
    case("conv_transpose2d.input", X, Y, None, (2, 2), shapes=IMAGE, constants=(numbers(4, 2, 3, 3),)),
    case("conv_transpose3d.input", X, Y, shapes=((2, 3, 3, 3),), constants=(numbers(2, 2, 2, 2, 2),)),
    case("max_pool1d.default", X, 2),
    case("max_pool2d.default", X, (3, 2), (2,), 1, shapes=IMAGE),
    case("max_pool3d.default", X, 2, shapes=((2, 4, 4, 4),)),
    case("avg_pool1d.default", X, (2,)),
    case("avg_pool2d.default", X, (3, 3), (2, 2), (1, 1), shapes=IMAGE),
    case("avg_pool2d.default", X, (3, 3), (2, 2), (1, 1), False, False, shapes=IMAGE),
    case("avg_pool3d.default", X, (2, 2, 2), shapes=((2, 4, 4, 4),)),
    case("adaptive_avg_pool1d.default", X, (2,)),
    case("adaptive_avg_pool2d.default", X, (1, 1), shapes=IMAGE),
    case("_adaptive_avg_pool2d.default", X, (3, 2), shapes=IMAGE),
    case("adaptive_avg_pool3d.default", X, (1, 1, 1), shapes=((2, 4, 4, 4),)),
]
WHOLE = ("to.dtype", X, Kind("int64"))
INDEXING = [
    case("index.Tensor", X, (None, Y), constants=(np.array([2, 0, -1, 0]),)),
    case("index.Tensor", X, (None, Y, Value(2)), constants=(np.array([2, 0, -1]), np.array([1, 1, 3]))),
    case(
        "index.Tensor",
        X,
        (None, None, Y, Value(2)),
        shapes=((3, 4, 2),),
        constants=(np.array([[2], [0]]), np.array([0, 1])),
    ),
    case(
        ("index.Tensor", X, (None, Y, None, Y)),
        ("movedim.int", Value(2), 0, 1),
        shapes=((3, 4, 2),),
        constants=(np.array([1, 0]),),
    ),
    case("index_select.default", X, 2, Y, constants=(np.array([2, 0]),)),
    case(("argsort.default", X, 2), ("gather.default", X, 2, Value(1))),
    case(("slice.Tensor", X, 2, 0, 1), ("argsort.default", Value(1), 1), ("take_along_dim.default", X, Value(2), 1)),
    case(("argsort.default", X, 2), ("scatter.src", X, 2, Value(2), Y), shapes=PAIR),
    case(("topk.default", X, 2), (GETITEM, Value(1), 1), ("scatter.value", X, 2, Value(2), 0.5)),
    case(("argmax.default", X, 2, True), ("scatter_add.default", X, 2, Value(2), Y), shapes=PAIR),
    case(("argmax.default", X, 2, True), ("scatter_reduce.two", X, 2, Value(2), Y, "sum"), shapes=PAIR),
    case(WHOLE, ("embedding.default", Value(1), Value(2)), shapes=((5,),), constants=(numbers(7, 3),), span=(0, 6)),
    case(WHOLE, ("one_hot.default", Value(1), 7), shapes=((5,),), span=(0, 6)),
    case("slice_scatter.default", X, Y, 2, 1, 3, shapes=((3, 4), (3, 2))),
    case("select_scatter.default", X, Y, 1, -1, shapes=((3, 4), (4,))),
]


def weights(gates: int, *widths: int, size: int = 2) -> tuple[np.ndarray, ...]:
    """Of layers with inputs of these widths, with biases."""
    shapes = [
        shape
        for width in widths
        for shape in ((gates * size, width), (gates * size, size), (gates * size,), (gates * size,))
    ]
    return tuple(numbers(*shape, seed=number) for number, shape in enumerate(shapes))


def recurrence(name: str, gates: int, *widths: int, layers: int, both: bool, first: bool, place: int = 0) -> Case:
    """Layers over three steps of four numbers, from states that are zero."""
    constants = weights(gates, *widths)
    n = 1 + len(constants)
    start = Value(n) if gates < 4 else (Value(n), Value(n))
    size = len(widths)
    params = tuple(Value(1 + number) for number in range(len(constants)))
    calls = [("new_zeros.default", X, (size, M, 2))]
    x = X
    if not first:
        calls.append(("transpose.int", X, 0, 1))
        x = Value(n + 1)
    calls.append((f"{name}.input", x, start, params, True, layers, 0.0, False, both, first))
    calls.append((GETITEM, Value(n + len(calls) - 1), place))
    if not first or place:
        calls.append(("transpose.int", Value(n + len(calls) - 1), 0, 1))
    return case(*calls, constants=constants)


RECURRENCES = [
    *[recurrence("lstm", 4, 4, layers=1, both=False, first=True, place=place) for place in (0, 1, 2)],
    recurrence("lstm", 4, 4, 4, 4, 4, layers=2, both=True, first=False),
    recurrence("gru", 3, 4, 4, 4, 4, layers=2, both=True, first=True),
    recurrence("gru", 3, 4, layers=1, both=False, first=True, place=1),
    recurrence("rnn_tanh", 1, 4, 2, layers=2, both=False, first=True),
    recurrence("rnn_relu", 1, 4, layers=1, both=False, first=False),
    *[
        case(
            (f"{name}.default", X, Y, *(Value(i) for i in range(2, 6))),
            shapes=((4,), (2,)),
            constants=weights(gates, 4),
        )
        for name, gates in (("rnn_tanh_cell", 1), ("rnn_relu_cell", 1), ("gru_cell", 3))
    ],
    *[
        case(
            ("lstm_cell.default", X, (Y, Value(2)), *(Value(i) for i in range(3, 7))),
            (GETITEM, Value(7), place),
            shapes=((4,), (2,), (2,)),
            constants=weights(4, 4),
        )
        for place in (0, 1)
    ],
]
CASES = [
    *(*ELEMENTWISE, *LOGIC, *MOVING, *MAKING, *REDUCING, *SORTED, *NORMS),
    *(*PRODUCTS, *ATTENTION, *CONVOLUTIONS, *INDEXING, *RECURRENCES),
]
