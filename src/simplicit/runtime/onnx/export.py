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
from simplicit.implicit.model import ImplicitModel, as_model
from simplicit.runtime.onnx.build import build

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
    model: ImplicitModel, path: str | os.PathLike[str], *, check: bool = True, overwrite: bool = False
) -> OnnxFile:
    """Write a model whose A is triangular as one ONNX file, all of it or nothing.

    The graph takes ``inputs`` (batch, *input_shape) and gives ``outputs`` (batch, *output_shape), in the model's dtype,
    for any number of samples. Convolutions and gathers are written as such, other linear maps as dense matrices with
    their zeros; one that repeats a smaller matrix is written with that. Blocks are written operation by operation.

    Parameters
    ----------
    model : ImplicitModel
    path : path
    check : bool
        Whether the graph is run on a few random samples, with onnxruntime if it can, and compared with
        ``model.predict`` before the file appears: to 1e-5 in float32 and 1e-12 in float64, relative to the largest
        output. Where onnxruntime has no kernel in float64, ONNX's own reference stands in, to 1e-6.
    overwrite : bool
        Whether a file that is there is replaced.

    Raises
    ------
    InputError
        A has cycles, so that the states are found by iteration; a block has an operation that has no form in ONNX
        here; or the matrices take more than 2 GiB.
    DataError
        ``path`` exists and ``overwrite`` is False, it cannot be written, or outputs differ.
    MissingExtraError
        onnx, or for the check onnxruntime, is not installed.
    """
    onnx = check_onnx()
    target = _target(path, overwrite)
    document = build(as_model(model), onnx)
    onnx.checker.check_model(document, full_check=True)
    payload = document.SerializeToString()
    checked_by, difference = _checked(model, payload, onnx, target) if check else (None, float("nan"))
    with writing(target):
        write_bytes(target, payload)
    return OnnxFile(target, len(payload), checked_by, difference)


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
        U = _inputs_of(model, samples, rng)
        expected = model.predict(U)
        found: NDArray[Any] = session.run(None, {"inputs": U.reshape(samples, *model.input_shape)})[0]
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


def _inputs_of(model: ImplicitModel, samples: int, rng: np.random.Generator) -> NDArray[Any]:
    """Random samples: numbers from 0 to 1, and of integers 0 and 1, which every embedding and every mask takes.

    The first of these is 1, so that no mask is zero all over.
    """
    U = rng.random((samples, model.n_inputs))
    if model.inputs is not None:
        for spec, columns in zip(model.inputs.specs, model.inputs.columns.values(), strict=True):
            if not spec.floating:
                U[:, columns] = rng.integers(0, 2, (samples, spec.size))
                U[:, columns.start] = 1
    return U.astype(model.dtype)


def _session(payload: bytes, onnx: Any) -> tuple[Any, str]:
    """What runs the graph, and its name."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "checking the ONNX file needs onnxruntime: pip install 'simplicit[onnx]', or pass check=False"
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
