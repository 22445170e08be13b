"""What an entry of the registry of operations is."""

from __future__ import annotations

from collections.abc import Callable

from simplicit.runtime.onnx.operations.calls import Call

#: Writes the nodes of a call, and returns the name of its result or the names of its results.
Entry = Callable[[Call], str | list[str]]


def alike(names: str, entry: Entry) -> dict[str, Entry]:
    """Return the registry of several operations, their names with spaces between, that are written alike."""
    return dict.fromkeys(names.split(), entry)


_FUNCTIONS = """
    digamma erfinv frexp gcd i0 lcm lgamma mvlgamma nextafter polygamma special_erfcx special_i0e special_i1
    special_i1e special_log_ndtr special_ndtri special_zeta
"""
_MATRICES = """
    linalg_cholesky linalg_det linalg_eigvalsh linalg_inv linalg_matrix_exp linalg_pinv linalg_qr linalg_slogdet
    linalg_solve linalg_solve_triangular linalg_svdvals logdet
"""
_PLACES = "adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices"
_BITS = "__lshift__ __rshift__ bitwise_left_shift bitwise_right_shift"
#: Why operations have no form, where they are not refused for a setting alone; completes "its operation …".
WITHOUT_FORM: dict[str, str] = {
    **dict.fromkeys(_FUNCTIONS.split(), "is a function that ONNX has no operator for"),
    **dict.fromkeys(_MATRICES.split(), "factorises matrices, which ONNX has no operator for"),
    **dict.fromkeys(_PLACES.split(), "gives the places of maxima, which ONNX counts in another way"),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d"), "picks pixels; from_torch makes a gather of it"),
    "copy": "overwrites numbers; from_torch writes what they are instead",
    **dict.fromkeys(_BITS.split(), "acts on the bits of integers"),
    **dict.fromkeys(("masked_scatter", "masked_select"), "gives numbers whose places depend on the input"),
    **dict.fromkeys(
        ("mode", "nanmedian"), "counts numbers that are equal, or are none, which ONNX has no operator for"
    ),
    **dict.fromkeys(("addbmm", "addr", "chain_matmul", "dist", "vander"), "takes the samples of a batch together"),
    "_native_batch_norm_legit": "takes the statistics of the batch",
    "angle": "takes the angle of a complex number",
    "istft": "adds up windows that overlap; write torch.fft.irfft of the windows",
    **dict.fromkeys(
        ("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"), "smooths before it samples; pass antialias=False"
    ),
}
