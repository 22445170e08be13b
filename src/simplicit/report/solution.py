"""Pictures of solved rows: how far each is proved, and which coefficients are not zero."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from simplicit.report.canvas import COLOURS, INK, QUIET, clean, pattern_colours, two_panels
from simplicit.rows import Solution

__all__ = ["draw_path", "draw_solution"]

Array = npt.NDArray[np.float64]

#: A gap below this is drawn on it: logarithmic axes have no zero.
LEAST_GAP = 1e-17
#: The pattern of a larger matrix is drawn in so many cells at most, each filled if anything in it is.
CELLS = 400


def draw_solution(path: Path, solution: Solution, *, tol: float) -> None:
    """Write a PNG with two panels: the relative gap of every row under the tolerance, and the pattern of non-zeros.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    rows, columns = solution.coefficients.shape
    with two_panels(path, (1, 1.15)) as (left, right):
        shown = _finite_gaps(solution)
        proved = solution.converged
        for at, colour, marker in ((proved, COLOURS[0], "o"), (~proved, COLOURS[1], "X")):
            if at.any():  # an empty line would claim room in the layout
                left.plot(
                    np.flatnonzero(at), shown[at], marker, color=colour, markersize=4, markeredgewidth=0, clip_on=False
                )
        _gap_axis(left, shown, tol)
        left.set_xlabel("row")
        left.set_xlim(-0.5, rows - 0.5)
        left.set_title(f"{int(solution.converged.sum()):,} of {rows:,} rows certified")
        filled = _filled(solution.coefficients)
        right.imshow(
            filled,
            cmap=pattern_colours(),
            vmin=0,
            vmax=1,
            aspect="auto",
            interpolation_stage="rgba",
            extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
        )
        right.tick_params(length=0)
        right.set_xlabel("column")
        right.set_ylabel("row")
        share = 100 * solution.coefficients.nnz / (rows * columns)
        right.set_title(f"{solution.coefficients.nnz:,} non-zeros, {share:.3g} %")
        for spine in right.spines.values():
            spine.set_color(INK)


def draw_path(path: Path, strengths: Sequence[float], solutions: Sequence[Solution], *, tol: float, label: str) -> None:
    """Write a PNG with two panels over the strength: the largest relative gap, and the non-zeros of the rows.

    Parameters
    ----------
    path : Path
    strengths : sequence of float
        One > 0 for each solution.
    solutions : sequence of Solution
    tol : float
    label : str
        What the strength is called.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    with two_panels(path, (1, 1.15)) as (left, right):
        shown = np.array([_finite_gaps(solution).max() for solution in solutions])
        left.plot(strengths, shown, "-o", color=COLOURS[0], markersize=4, clip_on=False)
        _gap_axis(left, shown, tol)
        left.set_title("Largest relative gap of a row")
        counts = np.array([solution.nnz for solution in solutions])
        low, middle, high = np.quantile(counts, (0, 0.5, 1), axis=1)
        right.fill_between(strengths, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        right.plot(strengths, middle, "-o", color=COLOURS[0], markersize=4, clip_on=False)
        clean(right)
        right.set_ylim(bottom=0)
        right.set_title("Non-zeros of a row: median and range")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.invert_xaxis()
            axes.set_xlabel(label)


def _finite_gaps(solution: Solution) -> Array:
    """The relative gaps with something to draw for zero, and for rows without any certificate."""
    return np.clip(np.nan_to_num(solution.relative_gap, nan=1.0, posinf=1.0), LEAST_GAP, 1.0)


def _gap_axis(axes: Any, shown: Array, tol: float) -> None:
    clean(axes)
    axes.set_yscale("log")
    axes.set_ylabel("relative duality gap")
    axes.set_ylim(min(shown.min(), tol) / 10, max(shown.max(), tol) * 10)
    axes.axhline(tol, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2)
    axes.annotate(
        f"tolerance {tol:g}",
        (1.0, tol),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=QUIET,
        fontsize=9,
    )


def _filled(coefficients: csr_array) -> npt.NDArray[np.bool_]:
    """The pattern of the non-zeros, reduced to at most CELLS by CELLS cells."""
    rows, columns = coefficients.shape
    height, width = min(rows, CELLS), min(columns, CELLS)
    entries = coefficients.tocoo()
    pattern = np.zeros((height, width), dtype=bool)
    row, column = (index.astype(np.int64) for index in entries.coords)
    pattern[row * height // rows, column * width // columns] = True
    return pattern
