"""Programs of operations that are opened into others before they are written to ONNX, and of some that were refused."""

from __future__ import annotations

import numpy as np

from runtime.programs import PAIR, Case, M, X, Y, case, numbers
from simplicit.implicit.groups.program import GETITEM, Kind, Samples, Step, Value

ROW = ((6,),)
LONG = Kind("int64")
#: Opened: names that are others', what is composite, and what torch has a decomposition of.
OPENED = [
    *[
        case(f"{name}.default", X, span=(-0.9, 0.9))
        for name in (
            "absolute",
            "arccos",
            "arcsin",
            "arctan",
            "negative",
            "special_expit",
            "special_log1p",
            "deg2rad",
        )
    ],
    *[case(f"{name}.default", X) for name in ("rad2deg", "fliplr", "real", "conj_physical")],
    case("diag_embed.default", X),
    *[
        case(("transpose.int", X, 0, 1), (f"{name}.default", Value(1)), ("transpose.int", Value(2), 0, 1))
        for name in ("msort", "flipud")
    ],
    case("nansum.default", X, (2,)),
    case("special_log_softmax.default", X, -1),
    *[
        case(f"{name}.default", X, Y, 0, shapes=PAIR)
        for name in ("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss")
    ],
    case("binary_cross_entropy_with_logits.default", X, Y, None, None, 0, shapes=PAIR, span=(0.1, 0.9)),
    case("binary_cross_entropy.default", X, Y, None, 0, shapes=PAIR, span=(0.1, 0.9)),
    case(("adaptive_max_pool1d.default", X, (2,)), (GETITEM, Value(1), 0), shapes=((2, 4),)),
    case(("linspace.default", 0.0, 1.0, 4), ("mul.Tensor", X, Value(1))),
    case(("eye.default", 4), ("to.dtype", Value(1), Kind("own")), ("matmul.default", X, Value(2))),
    *[
        case(
            (f"{name}_indices.default", 4, 4), ("select.int", Value(1), 0, 0), ("index_select.default", X, 2, Value(2))
        )
        for name in ("tril", "triu")
    ],
    case("renorm.default", X, 2, 0, 1.0),
    case(("max_pool1d_with_indices.default", X, (2,)), (GETITEM, Value(1), 0), shapes=((2, 4),)),
    case("clip.default", X, -0.5, 1.0),
    *[case(f"{name}.Tensor", X, Y, shapes=PAIR) for name in ("subtract", "multiply", "divide", "true_divide")],
    *[case(f"{name}.Scalar", X, 0.5) for name in ("greater", "greater_equal", "less", "less_equal", "not_equal")],
    case("special_softmax.default", X, -1, None),
    case("logaddexp2.default", X, Y, shapes=PAIR),
    case("special_xlog1py.default", X, Y, shapes=PAIR, span=(0.1, 2.0)),
    case("special_entr.default", X, span=(0.1, 2.0)),
    case("ldexp.Tensor", X, Y, constants=(np.array(2),)),
    case("isin.Tensor_Tensor", X, Y, constants=(numbers(2),)),
    case("vstack.default", (X, X)),
    case("dstack.default", (X, X)),
    case("rot90.default", X, 1, (1, 2)),
    case("cumulative_trapezoid.dx", X, dx=0.5, dim=-1),
    case("cross.default", X, Y, 2, shapes=((4, 3), (4, 3))),
    case("linalg_cross.default", X, Y, shapes=((4, 3), (4, 3))),
    case("pairwise_distance.default", X, Y, shapes=PAIR),
    case("pairwise_distance.default", X, Y, 1.0, shapes=PAIR),
    case("index_add.default", X, 2, Value(2), Y, shapes=((3, 4), (3, 3)), constants=(np.array([0, 2, 0]),)),
    case("index_copy.default", X, 2, Value(2), Y, shapes=((3, 4), (3, 2)), constants=(np.array([3, 1]),)),
    case("index_fill.int_Scalar", X, 2, Y, 0.5, constants=(np.array([3, 1]),)),
    case(("unsqueeze.default", X, 1), ("im2col.default", Value(1), (2, 2), (1, 1), (0, 0), (1, 1))),
    case("col2im.default", X, (3, 3), (2, 2), (1, 1), (0, 0), (1, 1), shapes=((4, 4),)),
    case(
        ("mul.Tensor", X, 0.5),
        ("affine_grid_generator.default", Value(1), (M, 1, 3, 4), False),
        shapes=((2, 3),),
    ),
    *[
        case(("tanh.default", Y), (f"{name}.default", X, Value(2), mode, padding, False), shapes=((2, 3, 4), (2, 2, 2)))
        for name in ("grid_sampler", "grid_sampler_2d")
        for mode, padding in ((0, 0), (0, 1), (0, 2), (1, 0))
    ],
    case(
        ("expand.default", Y, (M, 4, 3, 3)),
        ("max_unpool2d.default", X, Value(2), (6, 6)),
        shapes=((4, 3, 3),),
        constants=(np.array([0, 3, 5, 13, 14, 17, 25, 27, 34]).reshape(1, 1, 3, 3),),
    ),
    case("upsample_bilinear2d.vec", X, (5, 9), False, None, shapes=((2, 3, 4),)),
    case("upsample_bicubic2d.vec", X, (5, 9), True, None, shapes=((2, 3, 4),)),
    case("upsample_linear1d.vec", X, (9,), False, None),
    case("upsample_trilinear3d.vec", X, (3, 4, 5), False, None, shapes=((1, 2, 3, 2),)),
    case(
        ("abs.default", X),
        ("to.dtype", Value(2), LONG),
        ("reshape.default", Value(3), (Samples(6),)),
        ("arange.start_step", 0, Samples(6), 6),
        ("embedding_bag.padding_idx", Y, Value(4), Value(5), False, 1, False, None, False, None),
        (GETITEM, Value(6), 0),
        shapes=ROW,
        constants=(numbers(3, 4),),
    ),
]
#: Complex numbers, written as pairs.
COMPLEX = [
    *[case((f"fft_{name}.default", X), ("view_as_real.default", Value(1)), shapes=ROW) for name in ("fft", "rfft")],
    *[case((f"fft_{name}.default", X, None, (2,)), ("view_as_real.default", Value(1))) for name in ("fftn", "rfftn")],
    *[case((f"fft_{name}.default", X), ("real.default", Value(1))) for name in ("ifft", "ihfft")],
    case(("fft_ifftn.default", X, None, (2,)), ("real.default", Value(1))),
    *[case((f"fft_{name}.default", X), ("view_as_real.default", Value(1))) for name in ("fft2", "rfft2")],
    case(("fft_ifft2.default", X), ("real.default", Value(1))),
    *[
        case(("fft_rfft.default", X), (f"fft_{name}.default", Value(1), n), shapes=ROW)
        for name in ("irfft", "hfft")
        for n in (None, 5)
    ],
    case(("fft_rfft2.default", X), ("fft_irfft2.default", Value(1))),
    case(("fft_rfft2.default", X), ("fft_irfftn.default", Value(1), None, (1, 2))),
    *[case(f"fft_{name}.default", X, (2,)) for name in ("fftshift", "ifftshift")],
    case(
        ("stft.default", X, 4, 2, 4, Y, False, True, True),
        ("abs.default", Value(2)),
        shapes=ROW,
        constants=(numbers(4),),
    ),
    case(("polar.default", X, Y), ("imag.default", Value(2)), shapes=PAIR),
    case(
        ("complex.default", X, Y),
        ("mul.Tensor", Value(2), Value(2)),
        ("div.Tensor", Value(3), Value(2)),
        ("_conj.default", Value(4)),
        ("resolve_conj.default", Value(5)),
        ("view_as_real.default", Value(6)),
        shapes=PAIR,
        span=(0.5, 2.0),
    ),
    case(
        ("view_as_complex.default", X), ("exp.default", Value(1)), ("view_as_real.default", Value(2)), shapes=((3, 2),)
    ),
]
#: Of operations with entries of their own.
OWN = [
    *[case((f"{name}.default", X, 2), (GETITEM, Value(1), place)) for name in ("cummax", "cummin") for place in (0, 1)],
    case("logcumsumexp.default", X, 2),
    *[case(f"{name}.default", X, Y, shapes=PAIR) for name in ("atan2", "arctan2", "hypot", "fmax", "fmin")],
    case("copysign.Tensor", X, Y, shapes=PAIR),
    case("heaviside.default", X, Y, constants=(np.array(0.5),)),
    *[
        case(f"{name}.default", X)
        for name in ("sgn", "signbit", "contiguous", "resolve_conj", "resolve_neg", "lift_fresh_copy")
    ],
    *[case(f"{name}.scalar", X, 0.3, 2) for name in ("quantile", "nanquantile")],
    # Quantiles come first, before the samples.
    case(("quantile.default", X, Y, 2), ("transpose.int", Value(2), 0, 1), constants=(np.array([0.25, 0.5]),)),
    case("bucketize.Tensor", X, Y, constants=(np.array([-1.0, 0.0, 1.0]),)),
    case("searchsorted.Tensor", Y, X, constants=(np.array([-1.0, 0.0, 1.0]),)),
    case("index_put.default", X, (None, Y), Value(2), constants=(np.array([2, 0]), numbers(1, 2, 4))),
    case("index_put.default", X, (None, Y, Y), Value(2), True, constants=(np.array([2, 2]), numbers(1, 2))),
    case("index_put.default", X, (None, None, Y), Value(2), True, constants=(np.array([2, 2]), numbers(1, 3, 2))),
    case(("gt.Scalar", X, 0.5), ("index_put.default", X, (Value(2),), Y), constants=(np.array(0.25),)),
    case(("to.dtype", X, LONG), ("bitwise_and.Scalar", Value(1), 3), ("to.dtype", Value(2), Kind("own"))),
]
AMINMAX = [Case((Step("aminmax.default", (X,), (("dim", 2),)), Step(GETITEM, (Value(1), place)))) for place in (0, 1)]
EXTRA: list[Case] = [*OPENED, *COMPLEX, *OWN, *AMINMAX]
