"""``export_onnx``: a triangular model as one ONNX file, checked against the model before it is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import as_path
from simplicit.errors import DataError, MissingExtraError, first_line
from simplicit.files import write_bytes, writing
from simplicit.implicit.checks import float_dtype
from simplicit.implicit.model import ImplicitModel, as_model
from simplicit.runtime.onnx.build import build
from simplicit.runtime.onnx.inputs import as_given, drawn

# Outputs may differ by so much, relative to the largest. ONNX's reference has the error function in float32 only.
_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
_REFERENCE_TOLERANCE = 1e-6
_SAMPLES = (3, 1)
_RUNTIME, _REFERENCE = "onnxruntime", "onnx.reference"


@dataclass(frozen=True)
class OnnxFile:
    """The file that :func:`export_onnx` wrote.

    Attributes
    ----------
    path : Path
    size : int
        Its bytes.
    checked_by : str or None
        What ran the graph: ``"onnxruntime"``, ``"onnx.reference"`` where that has no kernel in the model's dtype
        (GELU, convolutions and average pooling in float64), or None without a check.
    difference : float
        The largest one between its outputs and the model's, relative to the largest output; NaN without a check.
    """

    path: Path
    size: int
    checked_by: str | None
    difference: float


def export_onnx(
    model: ImplicitModel,
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> OnnxFile:
    """Write a model whose A is triangular as one ONNX file, all of it or nothing.

    The graph takes ``inputs`` (batch, *input_shape) and gives ``outputs`` (batch, *output_shape), in the model's dtype,
    for any number of samples. Of a model of several inputs, or of integers, it takes the network's own by their names,
    in their own shapes and dtypes (int64 ids, a bool mask), as ``model.inputs`` lists them. Convolutions and gathers
    are written as such, other linear maps as dense matrices with their zeros; one that repeats a smaller matrix is
    written with that. Blocks are written operation by operation.

    Parameters
    ----------
    model : ImplicitModel
    path : path
    dtype : str, optional
        ``"float32"`` or ``"float64"``, that of floating-point inputs, outputs and weights. Default: the dtype of the
        network's floating-point inputs where ``model.inputs`` knows it, else that of the model.
    check : bool
        Whether the graph is run on a few random samples, with onnxruntime if it can, and compared with
        ``model.predict`` before the file appears: to 1e-5 in float32 and 1e-12 in float64, relative to the largest
        output. Where onnxruntime has no kernel in float64, ONNX's own reference stands in, to 1e-6.
    overwrite : bool
        Whether a file that is there is replaced.

    Raises
    ------
    InputError
        ``dtype`` is another; A has cycles, so that the states are found by iteration; a block has an operation that has
        no form in ONNX here; the matrices take more than 2 GiB; or the check finds no integers that the model takes.
    DataError
        ``path`` exists and ``overwrite`` is False, it cannot be written, or outputs differ.
    MissingExtraError
        onnx, or for the check onnxruntime, is not installed.
    """
    onnx = check_onnx()
    target = _target(path, overwrite)
    model = _in_dtype(as_model(model), dtype)
    document = build(model, onnx)
    onnx.checker.check_model(document, full_check=True)
    payload = document.SerializeToString()
    checked_by, difference = _checked(model, payload, onnx, target) if check else (None, float("nan"))
    with writing(target):
        write_bytes(target, payload)
    return OnnxFile(target, len(payload), checked_by, difference)


def _in_dtype(model: ImplicitModel, dtype: str | None) -> ImplicitModel:
    """The model in the dtype of its file."""
    floats = [] if model.inputs is None else [spec.dtype for spec in model.inputs.specs if spec.floating]
    wanted = np.dtype(floats[0] if dtype is None and floats else model.dtype if dtype is None else float_dtype(dtype))
    return model if wanted == model.dtype else model.astype(wanted)


def check_onnx() -> Any:
    """The package ``onnx``; MissingExtraError where it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingExtraError("ONNX export needs onnx: pip install 'simplicit[onnx]'") from error
    return onnx


def _target(path: object, overwrite: bool) -> Path:
    target = as_path("path", path)
    if target.is_dir():
        raise DataError(f"{target}: is a folder; name a file, such as {target / 'model.onnx'}")
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists already; choose another name or pass overwrite=True")
    return target


def _checked(model: ImplicitModel, payload: bytes, onnx: Any, target: Path) -> tuple[str, float]:
    """Who ran the graph, and how far its outputs are from the model's."""
    session, checked_by = _session(payload, onnx)
    rng = np.random.default_rng(0)
    allowed, difference = _TOLERANCE[str(model.dtype)], 0.0
    if checked_by != _RUNTIME:
        allowed = max(allowed, _REFERENCE_TOLERANCE)
    for samples in _SAMPLES:
        inputs = drawn(model, samples, rng)
        U = as_given(model, inputs)
        expected = model.predict(U)
        found: NDArray[Any] = session.run(None, inputs)[0]
        if found.shape != (samples, *model.output_shape) or found.dtype != model.dtype:
            raise DataError(
                f"{target}: not written, {checked_by} gives outputs of shape {found.shape} in {found.dtype}, the model "
                f"{(samples, *model.output_shape)} in {model.dtype}; please report this"
            )
        scale = float(np.abs(expected).max()) or 1.0
        difference = max(difference, float(np.abs(found.reshape(expected.shape) - expected).max()) / scale)
        if model.dtype == np.float32:  # what float32 itself loses in this model may be more
            exact = model.astype(np.float64).predict(U)
            allowed = max(allowed, 4.0 * float(np.abs(expected - exact).max()) / scale)
    if not difference <= allowed:
        raise DataError(
            f"{target}: not written, outputs of {checked_by} differ by {difference:.1e} from the model's, relative to "
            f"the largest, {allowed:.1e} is allowed; please report this"
        )
    return checked_by, difference


def _session(payload: bytes, onnx: Any) -> tuple[Any, str]:
    """What runs the graph, and its name."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "checking the ONNX file needs onnxruntime: pip install 'simplicit[onnx]', or, in Python, pass check=False"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say comes as an error
    try:
        return onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"]), _RUNTIME
    except Exception as error:  # its classes of errors are private
        if "NOT_IMPLEMENTED" not in str(error):
            raise DataError(f"onnxruntime refuses the graph ({first_line(error)})") from error
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(onnx.load_from_string(payload)), _REFERENCE
