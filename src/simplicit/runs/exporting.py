"""A finished fit for other programs: an ONNX file, or the weights of the network that was fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from simplicit.errors import InputError
from simplicit.files import drafted, writing
from simplicit.implicit import load
from simplicit.runs.fitting import WEIGHTS
from simplicit.runs.folder import read_manifest
from simplicit.runs.weights import read_state, write_state
from simplicit.runtime.onnx import export_onnx

ONNX, STATE = SUFFIXES = ".onnx", ".safetensors"


def check_target(output: Path, *, overwrite: bool) -> None:
    """Refuse a file of another kind, or one that is there.

    Raises
    ------
    InputError
        Naming the file.
    """
    if output.suffix not in SUFFIXES:
        raise InputError(
            f"output {output}: name a file that ends in {ONNX} (the implicit model) or {STATE} (the state_dict of the "
            "network that was fitted, with its new weights)"
        )
    if output.is_dir() or (output.exists() and not overwrite):
        raise InputError(f"output {output}: exists already; choose another --output, or replace it with --overwrite")


def export_run(run: Path, output: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write `output` from a folder of ``simplicit fit``; its suffix says what: see :func:`check_target`.

    Returns
    -------
    dict
        ``file``, ``bytes``; for ONNX ``checked_by`` and the ``difference`` of outputs; for weights ``non_zeros`` and
        ``entries`` of all tensors with two dimensions or more.

    Raises
    ------
    InputError
        `output` is of another kind or there; the model has cycles; the network has no parameters for it
        (:meth:`simplicit.FitResult.network`).
    DataError
        A file is missing, damaged, or cannot be written.
    MissingExtraError
        For ONNX, if the extra is not installed.
    """
    check_target(output, overwrite=overwrite)
    read_manifest(run, "fit")
    if output.suffix == ONNX:
        written = export_onnx(load(run), output, overwrite=overwrite)
        facts = {"checked_by": written.checked_by, "difference": written.difference}
        return {"file": output, "bytes": written.size} | facts
    state = _state(run)
    _save(state, output)
    weights = [value for value in state.values() if value.ndim >= 2]
    return {
        "file": output,
        "bytes": output.stat().st_size,
        "non_zeros": sum(int(value.count_nonzero()) for value in weights),
        "entries": sum(value.numel() for value in weights),
    }


def _state(run: Path) -> dict[str, Tensor]:
    """The state_dict of the network with the weights of the run."""
    if not (run / WEIGHTS).is_file():
        raise InputError(
            f"{run}: has no {WEIGHTS}, for the network has no parameters of its own for all that its model has: "
            f"weights of another structure than baseline, or constants in a layer without biases; export it to {ONNX}"
        )
    return read_state(run / WEIGHTS)


def _save(state: dict[str, Tensor], output: Path) -> None:
    with writing(f"output {output}"), drafted(output) as draft:
        write_state(state, draft)
