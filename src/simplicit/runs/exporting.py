"""A finished fit for other programs: an ONNX file, or the weights of the network that was fitted, dense or sparse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.files import drafted, writing
from simplicit.implicit.storage import ARRAYS
from simplicit.progress import phase
from simplicit.runs.cards import read_card
from simplicit.runs.folder import MANIFEST, read_manifest
from simplicit.runs.hf.folder import load_pretrained
from simplicit.runs.networks import NETWORK, WEIGHTS, open_model
from simplicit.runtime.compaction import compact
from simplicit.runtime.files.checkpoints import read_state, write_state
from simplicit.runtime.files.folder import save_state
from simplicit.runtime.onnx import export_onnx

ONNX, STATE, CARD_SUFFIX = ".onnx", ".safetensors", ".md"


def check_target(output: Path, *, overwrite: bool) -> None:
    """Refuse a file of another kind, or one that is there."""
    if output.suffix not in (ONNX, STATE, CARD_SUFFIX, ""):
        network = "the state_dict of the network that was fitted, with its new weights"
        sparse = "or a folder, without a suffix, for the same as small as it can be"
        files = f"{ONNX} (the implicit model), {STATE} ({network}) or {CARD_SUFFIX} (its model card), {sparse}"
        raise refused("output", f"name a file that ends in {files}", output)
    if output.name in (ARRAYS, WEIGHTS) and output.with_name(MANIFEST).exists():
        raise refused("output", f"belongs to the run in {output.parent}; choose another --output", output)
    if (output.is_dir() and output.suffix != "") or (output.exists() and not overwrite):
        raise refused("output", "exists already; choose another --output, or replace it with --overwrite", output)


def export_run(
    run: Path,
    output: Path,
    *,
    dtype: str | None = None,
    values: str = "exact",
    smaller: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write `output` from a folder of ``simplicit fit``; its suffix says what: see :func:`check_target`.

    A model card is made of the run's manifest. An ONNX file has numbers in ``dtype``, by default in that of the
    network's weights, or of the model where these are not in the folder; it is of a ``smaller`` model with the same
    outputs if :func:`simplicit.compact` is asked for. Returned are ``file`` and ``bytes``, for ONNX ``dtype``,
    ``checked_by`` and the ``difference`` of outputs, and for a smaller model how many ``states`` it had and has,
    for weights ``non_zeros`` and ``entries`` of all tensors with two dimensions or more; for a folder, which
    :func:`simplicit.load_weights` reads and whose weights are in ``values``, also ``dense_bytes``, ``zipped_bytes``
    and the largest ``change`` of a value. InputError is raised where the model has cycles, the network no
    parameters for it (:meth:`simplicit.FitResult.network`), or an option is for another kind of file.
    """
    check_target(output, overwrite=overwrite)
    if values != "exact" and output.suffix != "":
        raise refused("values", "is for a folder of sparse weights; leave it out, or name a folder", values)
    if smaller and output.suffix != ONNX:
        raise refused("compact", f"is for {ONNX} files; weights are those of the class that came in, leave it out")
    if dtype is not None and output.suffix != ONNX:
        raise refused("dtype", f"is for {ONNX} files; weights are written in the network's own, leave it out", dtype)
    read_manifest(run, "fit")
    if output.suffix == CARD_SUFFIX:
        return _card(run, output)
    if output.suffix == ONNX:
        return _model(run, output, dtype=dtype, smaller=smaller, overwrite=overwrite)
    return _weights(run, output, values=values, overwrite=overwrite)


def _model(run: Path, output: Path, *, dtype: str | None, smaller: bool, overwrite: bool) -> dict[str, Any]:
    """Write the implicit model of a fit as ONNX; what :func:`export_run` returns."""
    with phase(f"reading {run}"):
        model = open_model(run)
    taken = dtype or _network_dtype(run) or str(model.dtype)
    left = model
    if smaller:
        with phase("compacting"):
            left = compact(model)
    with phase("writing and checking"):
        written = export_onnx(left, output, dtype=taken, overwrite=overwrite)
    facts: dict[str, Any] = {"dtype": taken, "checked_by": written.checked_by, "difference": written.difference}
    facts |= {"states": [model.n_states, left.n_states]} if smaller else {}
    return {"file": output, "bytes": written.size} | facts


def _card(run: Path, output: Path) -> dict[str, Any]:
    """Write the model card of a fit; what :func:`export_run` returns."""
    text = read_card(run)
    with writing(f"output {output}"), drafted(output) as draft:
        draft.write_text(text, encoding="utf-8")
    return {"file": output, "bytes": output.stat().st_size}


def _weights(run: Path, output: Path, *, values: str, overwrite: bool) -> dict[str, Any]:
    """Write the weights of a fit as a safetensors file, or a folder of sparse ones; what :func:`export_run` returns."""
    check_weights(run)
    state = read_state(run / WEIGHTS) if (run / WEIGHTS).is_file() else load_pretrained(run / NETWORK).state_dict()
    if output.suffix == "":
        with phase("packing"):
            saved = save_state(state, output, overwrite=overwrite, values=values)
        sizes = {"bytes": saved.bytes, "dense_bytes": saved.dense_bytes, "zipped_bytes": saved.zipped_bytes}
        return {"file": output, **sizes, "change": saved.change, "non_zeros": saved.non_zeros, "entries": saved.entries}
    with writing(f"output {output}"), drafted(output) as draft:
        write_state(state, draft)
    weights = [value for value in state.values() if value.ndim >= 2]
    return {
        "file": output,
        "bytes": output.stat().st_size,
        "non_zeros": sum(int(value.count_nonzero()) for value in weights),
        "entries": sum(value.numel() for value in weights),
    }


def check_weights(run: Path) -> None:
    """Refuse, by an InputError, a fit whose network has no parameters for all that its model has."""
    if not (run / WEIGHTS).is_file() and not (run / NETWORK).is_dir():
        raise InputError(
            f"{run}: has no {WEIGHTS}, for the network has no parameters of its own for all that its model has: "
            f"weights of another structure than baseline, or constants in a layer without biases; export it to {ONNX}"
        )


def _network_dtype(run: Path) -> str | None:
    """Which of the dtypes of models the weights of a run's network have; float32 where theirs is narrower."""
    if not (run / WEIGHTS).is_file():
        return None
    dtypes = {value.dtype for value in read_state(run / WEIGHTS).values() if value.is_floating_point()}
    return "float64" if torch.float64 in dtypes else "float32" if dtypes else None
