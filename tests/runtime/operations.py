"""Small programs, at least one for every operation that has a form in ONNX."""

from __future__ import annotations

import math

import numpy as np

from runtime.opened_operations import EXTRA
from runtime.programs import IMAGE, PAIR, TOKENS, Case, M, X, Y, case, numbers
from runtime.simple_operations import ELEMENTWISE, LOGIC, MAKING, MOVING
from simplicit.implicit.groups.program import GETITEM, Kind, Samples, Value

ALL_MASKED_ONCE = np.array([[True, False, True, False, True]] * 4 + [[False] * 5])

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
    *(*PRODUCTS, *ATTENTION, *CONVOLUTIONS, *INDEXING, *RECURRENCES, *EXTRA),
]
