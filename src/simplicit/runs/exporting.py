"""A finished fit for other programs: an ONNX file, or the weights of the network that was fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.files import drafted, writing
from simplicit.implicit.storage import ARRAYS
from simplicit.runs.fitting import WEIGHTS
from simplicit.runs.folder import MANIFEST, read_manifest
from simplicit.runs.hf.folder import load_pretrained
from simplicit.runs.networks import NETWORK, open_model
from simplicit.runs.weights import read_state, write_state
from simplicit.runtime.compaction import compact
from simplicit.runtime.onnx import export_onnx

ONNX, STATE = ".onnx", ".safetensors"


def check_target(output: Path, *, overwrite: bool) -> None:
    """Refuse a file of another kind, or one that is there."""
    if output.suffix not in (ONNX, STATE):
        network = "the state_dict of the network that was fitted, with its new weights"
        raise refused("output", f"name a file that ends in {ONNX} (the implicit model) or {STATE} ({network})", output)
    if output.is_dir() or (output.exists() and not overwrite):
        raise refused("output", "exists already; choose another --output, or replace it with --overwrite", output)
    if output.name in (ARRAYS, WEIGHTS) and output.with_name(MANIFEST).exists():
        raise refused("output", f"belongs to the run in {output.parent}; choose another --output", output)


def export_run(
    run: Path, output: Path, *, dtype: str | None = None, smaller: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Write `output` from a folder of ``simplicit fit``; its suffix says what: see :func:`check_target`.

    An ONNX file has numbers in ``dtype``, by default in that of the network's weights, or of the model where these are
    not in the folder; it is of a ``smaller`` model with the same outputs if :func:`simplicit.compact` is asked for.
    Returned are ``file`` and ``bytes``, for ONNX ``dtype``, ``checked_by`` and the ``difference`` of outputs, and for a
    smaller model how many ``states`` it had and has, for weights ``non_zeros`` and ``entries`` of all tensors with two
    dimensions or more. InputError is raised where the model has cycles, the network no parameters for it
    (:meth:`simplicit.FitResult.network`), or weights are asked for smaller, or in another dtype than their own.
    """
    check_target(output, overwrite=overwrite)
    read_manifest(run, "fit")
    if output.suffix == ONNX:
        model = open_model(run)
        taken = dtype or _network_dtype(run) or str(model.dtype)
        left = compact(model) if smaller else model
        written = export_onnx(left, output, dtype=taken, overwrite=overwrite)
        facts: dict[str, Any] = {"dtype": taken, "checked_by": written.checked_by, "difference": written.difference}
        facts |= {"states": [model.n_states, left.n_states]} if smaller else {}
        return {"file": output, "bytes": written.size} | facts
    if smaller:
        raise refused("compact", f"is for {ONNX} files; weights are those of the class that came in, leave it out")
    if dtype is not None:
        raise refused("dtype", f"is for {ONNX} files; weights are written in the network's own, leave it out", dtype)
    if not (run / WEIGHTS).is_file() and not (run / NETWORK).is_dir():
        raise InputError(
            f"{run}: has no {WEIGHTS}, for the network has no parameters of its own for all that its model has: "
            f"weights of another structure than baseline, or constants in a layer without biases; export it to {ONNX}"
        )
    state = read_state(run / WEIGHTS) if (run / WEIGHTS).is_file() else load_pretrained(run / NETWORK).state_dict()
    with writing(f"output {output}"), drafted(output) as draft:
        write_state(state, draft)
    weights = [value for value in state.values() if value.ndim >= 2]
    return {
        "file": output,
        "bytes": output.stat().st_size,
        "non_zeros": sum(int(value.count_nonzero()) for value in weights),
        "entries": sum(value.numel() for value in weights),
    }


def _network_dtype(run: Path) -> str | None:
    """Which of the dtypes of models the weights of a run's network have; float32 where theirs is narrower."""
    if not (run / WEIGHTS).is_file():
        return None
    dtypes = {value.dtype for value in read_state(run / WEIGHTS).values() if value.is_floating_point()}
    return "float64" if torch.float64 in dtypes else "float32" if dtypes else None
