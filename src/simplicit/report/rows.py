"""Pictures of solved rows: how far each is proved, and which coefficients are not zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.report.canvas import COLOURS, PALETTE, clean, dashed_line, legend_outside, one_panel, two_panels
from simplicit.report.patterns import draw_entries
from simplicit.rows import Solution

Array = npt.NDArray[np.float64]

# Logarithmic axes have no zero: a gap below this, which is rounding, is drawn on it.
_LEAST_GAP = 1e-16
# The pattern of a larger matrix is drawn in so many cells a side, so that single coefficients can still be seen.
_CELLS = 400


def draw_solution(path: Path, solution: Solution, *, tol: float) -> None:
    """Write a PNG with two panels: the relative gap of every row under the tolerance, and the pattern of non-zeros."""
    rows, columns = solution.coefficients.shape
    with two_panels(path, (1, 1.15)) as (left, right):
        shown, proved = _drawn(solution.relative_gap), solution.converged
        for at, colour, marker in ((proved, COLOURS[0], "o"), (~proved, COLOURS[1], "X")):
            if at.any():  # an empty line would claim room in the layout
                style = {"color": colour, "markersize": 4, "markeredgewidth": 0, "clip_on": False}
                left.plot(np.flatnonzero(at), shown[at], marker, **style)
        _gap_axis(left, shown, tol)
        left.set(xlabel="row", xlim=(-0.5, rows - 0.5), title=f"{int(proved.sum()):,} of {rows:,} rows certified")
        draw_entries(right, solution.coefficients, _CELLS)
        nnz = solution.coefficients.nnz
        title = f"{nnz:,} non-zeros, {100 * nnz / (rows * columns):.3g} %"
        right.set(xlabel="column", ylabel="row", title=title)
        for axis in (left.xaxis, right.xaxis, right.yaxis):
            axis.get_major_locator().set_params(integer=True)


def draw_path(path: Path, strengths: Sequence[float], solutions: Sequence[Solution], *, tol: float, label: str) -> None:
    """Write a PNG with two panels over the strength: the largest relative gap, and the non-zeros of the rows.

    There is one strength > 0, called by the ``label``, for each solution; the gap is drawn under the tolerance.
    """
    line = {"color": COLOURS[0], "markersize": 4, "clip_on": False}
    with two_panels(path, (1, 1.15)) as (left, right):
        shown = np.array([_drawn(solution.relative_gap).max() for solution in solutions])
        left.plot(strengths, shown, "-o", **line)
        _gap_axis(left, shown, tol)
        left.set_title("Largest relative gap of a row")
        counts = np.array([solution.nnz for solution in solutions])
        low, middle, high = np.quantile(counts, (0, 0.5, 1), axis=1)
        right.fill_between(strengths, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        right.plot(strengths, middle, "-o", **line)
        clean(right)
        right.set_ylim(bottom=0)
        right.set_title("Non-zeros of a row: median and range")
        for axes in (left, right):
            axes.set(xscale="log", xlabel=label)
            axes.invert_xaxis()


def draw_gaps(path: Path, gaps: Mapping[str, Array], tol: float) -> None:
    """Write a PNG: the relative duality gaps of all rows of each run, from the smallest to the largest."""
    with one_panel(path) as axes:
        drawn = {name: np.sort(_drawn(values)) for name, values in gaps.items()}
        for number, (name, shown) in enumerate(drawn.items()):
            share = 100 * (np.arange(len(shown)) + 1) / len(shown)
            axes.step(share, shown, where="pre", color=PALETTE[number % len(PALETTE)], linewidth=2, label=name)
        _gap_axis(axes, np.concatenate([*drawn.values()]), tol)
        axes.set(xlim=(0, 100), xlabel="rows, %")
        legend_outside(axes)


def _drawn(gaps: Array) -> Array:
    """Return relative gaps with something to draw for zero, and for rows without any certificate."""
    return np.clip(np.nan_to_num(gaps, nan=1.0, posinf=1.0), _LEAST_GAP, 1.0)


def _gap_axis(axes: Any, shown: Array, tol: float) -> None:
    clean(axes)
    limits = min(shown.min(), tol) / 10, max(shown.max(), tol) * 10
    axes.set(yscale="log", ylabel="relative duality gap", ylim=limits)
    dashed_line(axes, tol, f"tolerance {tol:g}")
