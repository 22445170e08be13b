r"""Programs: a function of several tensors as a list of operations of torch, by name and numbers.

A program has values v₀, v₁, …: first its operands, then its constants, then the result of each step, of which the last
one is what it returns. A step names an operation, such as ``"softmax.int"``, and its arguments: numbers, texts, lists,
and references to earlier values. It is data, never code: only the operations in :data:`OPERATIONS` are known, all of
them pure functions of torch's own library ``aten``, so that a program from a file does nothing but compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from simplicit.errors import InputError


@dataclass(frozen=True)
class Value:
    """A reference to a value of the program, by its number."""

    number: int


@dataclass(frozen=True)
class Samples:
    """The integer ``slope`` · m + ``offset``, where m is the number of samples."""

    slope: int
    offset: int = 0


@dataclass(frozen=True)
class Kind:
    """A dtype by torch's name; ``"own"``: that of the numbers it is given; ``"complex"``: that of pairs of these."""

    name: str

    def resolved(self, own: torch.dtype) -> torch.dtype:
        """Return torch's dtype."""
        if self.name == "complex":
            return own.to_complex()
        return own if self.name == "own" else _DTYPES[self.name]


_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}
_NAMES = """
    __and__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _conj _fused_rms_norm _log_softmax
    _native_batch_norm_legit _native_batch_norm_legit_no_training _safe_softmax _softmax _to_copy _unsafe_view
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm
    addmv addr affine_grid_generator alias all amax amin aminmax angle any arange arccos arcsin arctan arctan2
    argmax argmin argsort asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear
    binary_cross_entropy binary_cross_entropy_with_logits bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor bmm bucketize cat cdist ceil celu chain_matmul channel_shuffle chunk clamp
    clamp_max clamp_min clip clone col2im complex concat concatenate conj_physical constant_pad_nd contiguous conv1d
    conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copy copysign cos cosh
    cosine_similarity count_nonzero cross cummax cummin cumprod cumsum cumulative_trapezoid deg2rad detach
    diag_embed diagonal diff digamma dist div divide dot dstack einsum elu embedding embedding_bag eq erf erfc
    erfinv exp exp2 expand expand_as expm1 eye feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_hfft
    fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
    fft_rfftn fill flatten flip fliplr flipud floor floor_divide fmax fmin fmod frac frexp full full_like gather gcd
    ge gelu ger glu greater greater_equal grid_sampler grid_sampler_2d group_norm gru gru_cell gt hardshrink
    hardsigmoid hardswish hardtanh heaviside hstack huber_loss hypot i0 im2col imag index index_add index_copy
    index_fill index_put index_select inner instance_norm isfinite isin isinf isnan istft kthvalue layer_norm lcm
    ldexp le leaky_relu lerp less less_equal lgamma lift_fresh_copy linalg_cholesky linalg_cross linalg_det
    linalg_eigvalsh linalg_inv linalg_matrix_exp linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve
    linalg_solve_triangular linalg_svdvals linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
    log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor logit
    logsumexp lstm lstm_cell lt masked_fill masked_scatter masked_select matmul max max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
    maximum mean median min minimum mish mm mode movedim mse_loss msort mul multiply mv mvlgamma nan_to_num
    nanmedian nanquantile nansum narrow native_batch_norm native_group_norm native_layer_norm ne neg negative
    new_full new_ones new_zeros nextafter norm not_equal one_hot ones ones_like outer pad pairwise_distance permute
    pixel_shuffle pixel_unshuffle polar polygamma pow prelu prod quantile rad2deg real reciprocal reflection_pad1d
    reflection_pad2d relu relu6 remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d
    reshape resolve_conj resolve_neg rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round rsqrt
    rsub scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select
    select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh slice slice_scatter smooth_l1_loss
    soft_margin_loss softmax softplus softshrink sort special_entr special_erf special_erfcx special_expit
    special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_log_softmax special_ndtri
    special_softmax special_xlog1py special_zeta split split_with_sizes sqrt square squeeze stack std std_mean stft
    sub subtract sum sum_to_size swapaxes t take_along_dim tan tanh tensordot threshold tile to topk transpose tril
    tril_indices triu triu_indices true_divide trunc type_as unbind unflatten unfold unsafe_chunk unsafe_split
    unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_trilinear3d vander var var_mean view view_as view_as_complex view_as_real vstack where xlogy zeros
    zeros_like
"""
#: The operations that programs may have, by their names in ``aten`` without overload.
OPERATIONS: frozenset[str] = frozenset(_NAMES.split())
#: Not of ``aten``: picks one of several results.
GETITEM = "getitem"


@dataclass(frozen=True)
class Step:
    """One call of an operation: its name with its overload, positional arguments and keywords."""

    operation: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    @property
    def packet(self) -> str:
        """The name without its overload."""
        return self.operation.partition(".")[0]


@cache
def operation(name: str) -> Callable[..., Any]:
    """Return the operation of a name such as ``"softmax.int"``; InputError where programs may not have it."""
    packet, _, overload = name.partition(".")
    if name == GETITEM:
        return lambda values, place: values[place]
    found = getattr(torch.ops.aten, packet, None) if packet in OPERATIONS else None
    if found is None or overload not in found.overloads():
        raise InputError(f"a block has the unknown operation {name!r}; the model is of another version, or damaged")
    function: Callable[..., Any] = getattr(found, overload)
    if function._schema.is_mutable:  # type: ignore[attr-defined]
        raise InputError(f"a block has the operation {name!r}, which changes what it is given")
    return function


def execute(steps: Sequence[Step], values: list[Any], samples: int, own: torch.dtype) -> Any:
    """Run the steps on operands and constants, which ``values`` holds in turn, and return the last result."""
    for step in steps:
        arguments = [resolved(argument, values, samples, own) for argument in step.arguments]
        keywords = {name: resolved(argument, values, samples, own) for name, argument in step.keywords}
        values.append(operation(step.operation)(*arguments, **keywords))
    return values[-1]


def resolved(argument: Any, values: Sequence[Any], samples: int, own: torch.dtype) -> Any:
    """Return an argument with values, numbers of samples and dtypes in the place of what stands for them."""
    if isinstance(argument, Value):
        return values[argument.number]
    if isinstance(argument, Samples):
        return argument.slope * samples + argument.offset
    if isinstance(argument, Kind):
        return argument.resolved(own)
    if isinstance(argument, tuple):
        return [resolved(one, values, samples, own) for one in argument]
    return argument


def to_config(argument: Any) -> Any:
    """Return an argument of a step as JSON has it."""
    if isinstance(argument, Value):
        return {"value": argument.number}
    if isinstance(argument, Samples):
        return {"samples": [argument.slope, argument.offset]}
    if isinstance(argument, Kind):
        return {"dtype": argument.name}
    if isinstance(argument, tuple):
        return [to_config(one) for one in argument]
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"number": str(argument)}
    return argument


def from_config(config: Any) -> Any:
    """Return the argument that :func:`to_config` gave ``config`` for; InputError if it is none."""
    if config is None or isinstance(config, bool | int | float | str):
        return config
    if isinstance(config, list):
        return tuple(from_config(one) for one in config)
    if isinstance(config, Mapping) and len(config) == 1:
        ((key, value),) = config.items()
        if key == "value" and type(value) is int and value >= 0:
            return Value(value)
        if key == "samples" and isinstance(value, list) and [type(one) for one in value] == [int, int]:
            return Samples(*value)
        if key == "dtype" and value in ("own", "complex", *_DTYPES):
            return Kind(value)
        if key == "number" and value in ("inf", "-inf", "nan"):
            return float(value)
    raise InputError(f"{config!r:.80} is no argument of a block's step")


def kind_of(dtype: torch.dtype, own: torch.dtype) -> Kind:
    """Return what stands for a dtype in a program of a network in the dtype ``own``; InputError where nothing does."""
    name = str(dtype).removeprefix("torch.")
    if dtype == own.to_complex():
        return Kind("complex")
    if name not in _DTYPES:
        raise InputError(f"it computes in {name}, while the network is in {str(own).removeprefix('torch.')}")
    return Kind("own" if dtype == own else name)


def as_tensor(value: Any) -> Tensor:
    """Return the result of a program, which has to be one tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"a block must return one tensor, its last step gives a {type(value).__name__}")
    return value
