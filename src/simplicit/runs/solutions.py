"""Solved rows as a folder: coefficients, certificates, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError
from scipy.sparse import csr_array

from simplicit.errors import DataError
from simplicit.files import file_hash, write_json
from simplicit.report import can_draw, draw_path, draw_solution
from simplicit.rows import RowStatus
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.solving import SolveRun, numbers_of

COEFFICIENTS, ROWS, PICTURE = "coefficients.safetensors", "rows.json", "picture.png"
_FIGURES = ("objective", "dual_gap", "relative_gap", "cardinality_gap", "multiplier", "residual", "nnz", "seconds")
_PARTS = ("values", "indices", "indptr", "intercepts")


def save_solve(
    run: SolveRun,
    folder: Path,
    *,
    command: list[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write coefficients, ``rows.json``, ``run.json`` and, with the extra ``report``, ``picture.png`` into a folder."""
    settings = run.settings
    with run_folder(folder, overwrite=overwrite, kind="solve", inputs=settings.files.values()) as draft:
        (draft / COEFFICIENTS).write_bytes(safetensors.numpy.save(_arrays(run)))
        write_json(draft / ROWS, _row_table(run))
        if can_draw():
            _draw(run, draft / PICTURE)
        Manifest(
            "solve",
            command=command or [],
            settings=settings.to_config(folder),
            inputs=run.inputs,
            seconds=run.seconds,
            results=run.results() | {"hashes": {COEFFICIENTS: file_hash(draft / COEFFICIENTS)}},
            packages=("cvxpy", "clarabel") if settings.solver == "reference" else (),
        ).write(draft)


def _draw(run: SolveRun, path: Path) -> None:
    solutions, tol = [member.solution for member in run.members], run.settings.running.tol
    if len(solutions) == 1:
        draw_solution(path, solutions[0], tol=tol)
        return
    label = "2√(αγ), slope of the penalty at 0" if "gamma" in numbers_of(run.settings.penalty) else "beta"
    draw_path(path, [member.kink for member in run.members], solutions, tol=tol, label=label)


def _arrays(run: SolveRun) -> dict[str, npt.NDArray[Any]]:
    """Compressed sparse rows, indices in the narrowest unsigned integers that hold them, as in saved models."""
    arrays: dict[str, npt.NDArray[Any]] = {"shape": np.array(run.shape, dtype=np.int64)}
    for number, member in enumerate(run.members):
        csr = member.solution.coefficients
        arrays |= {
            f"{number}.values": csr.data,
            f"{number}.indices": csr.indices.astype(np.min_scalar_type(csr.shape[1] - 1)),
            f"{number}.indptr": csr.indptr.astype(np.min_scalar_type(csr.nnz)),
            f"{number}.intercepts": member.solution.intercepts,
        }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _row_table(run: SolveRun) -> dict[str, Any]:
    """Columns of equal length, one entry per member and row."""
    rows, solutions = run.shape[0], [member.solution for member in run.members]
    table: dict[str, Any] = {
        "member": np.repeat(np.arange(len(solutions)), rows),
        "row": np.tile(np.arange(rows), len(solutions)),
        "status": [RowStatus(int(value)).name.lower() for solution in solutions for value in solution.status],
    }
    return table | {name: np.concatenate([getattr(solution, name) for solution in solutions]) for name in _FIGURES}


def load_coefficients(folder: Path) -> list[tuple[csr_array, npt.NDArray[np.float64]]]:
    """Coefficients (r, d) and intercepts (r,) of every member that `simplicit solve` wrote to `folder`.

    DataError is raised for a file that is missing, damaged or truncated.
    """
    path = folder / COEFFICIENTS
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        shape = tuple(arrays["shape"].tolist())
        found = []
        for number in range((len(arrays) - 1) // len(_PARTS)):
            values, indices, indptr, intercepts = (arrays[f"{number}.{part}"] for part in _PARTS)
            csr = csr_array((values, indices.astype(np.int64), indptr.astype(np.int64)), shape=shape)
            csr.check_format(full_check=True)
            found.append((csr, intercepts))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected what `simplicit solve` wrote") from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged or truncated ({error})") from error
    return found
