"""A finished fit for other programs: an ONNX file, or the weights of the network that was fitted."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from simplicit.errors import DataError, InputError
from simplicit.implicit import load
from simplicit.network import NetworkTemplate
from simplicit.runs.fitting import WEIGHTS, capture_task
from simplicit.runs.folder import MANIFEST, read_manifest
from simplicit.runs.settings import read_config, read_fit, tied_weights
from simplicit.runs.task import check_unchanged, open_task
from simplicit.runs.weights import read_state, write_state
from simplicit.runtime.onnx import export_onnx

__all__ = ["SUFFIXES", "check_target", "export_run"]

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


def export_run(
    run: Path, output: Path, *, overwrite: bool = False, data_dir: Path | None = None, trust_pt2: bool = False
) -> dict[str, Any]:
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
        (:meth:`simplicit.FitResult.to_baseline`).
    DataError
        A file is missing, damaged, changed since the fit, or cannot be written.
    MissingExtraError
        For ONNX, if the extra is not installed.
    """
    check_target(output, overwrite=overwrite)
    manifest = read_manifest(run, "fit")
    if output.suffix == ONNX:
        written = export_onnx(load(run), output, overwrite=overwrite)
        facts = {"checked_by": written.checked_by, "difference": written.difference}
        return {"file": output, "bytes": written.size} | facts
    state = _state(run, manifest, data_dir, trust_pt2)
    _save(state, output)
    weights = [value for value in state.values() if value.ndim >= 2]
    return {
        "file": output,
        "bytes": output.stat().st_size,
        "non_zeros": sum(int(value.count_nonzero()) for value in weights),
        "entries": sum(value.numel() for value in weights),
    }


def _state(run: Path, manifest: dict[str, Any], data_dir: Path | None, trust_pt2: bool) -> dict[str, Tensor]:
    """The state_dict of the network with the weights of the run."""
    if (run / WEIGHTS).is_file():
        return read_state(run / WEIGHTS)
    if tied_weights(run) is not None:
        raise DataError(f"{run}: its {WEIGHTS} is missing, without which tied rows are not taken apart; fit again")
    settings = read_fit(run, data_dir=data_dir)
    if settings.structure != "baseline":
        raise InputError(
            f"{run}: fitted with structure {settings.structure!r}, which has weights where the network has none; "
            f"export it to {ONNX}, or fit with --structure baseline"
        )
    task = open_task(settings, trust_pt2=trust_pt2)
    check_unchanged(read_config(run)[1], task.inputs, run / MANIFEST)
    captured, results = capture_task(task), manifest.get("results")
    rescaled = isinstance(results, dict) and results.get("rescaled") is True
    units = captured.model.astype(np.float64) if rescaled else None
    return dict(NetworkTemplate(captured, units).network(load(run)).state_dict())


def _save(state: dict[str, Tensor], output: Path) -> None:
    """All of the file or nothing."""
    draft = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_state(state, draft)
        draft.replace(output)
    except OSError as error:
        raise DataError(f"output {output}: cannot be written ({error.strerror or error})") from error
    finally:
        if draft.exists():
            draft.unlink()
