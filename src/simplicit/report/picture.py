"""One picture: sparsity against clean and attacked accuracy, and the pattern of a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.implicit import ImplicitModel
from simplicit.report.canvas import COLOURS, EDGE, INK, clean, pattern_colours, two_panels

__all__ = ["Curve", "draw_frontier", "draw_pattern"]

_MARKERS = ("o", "s")
_CELLS = 4096  # on a side: more than any picture has pixels


@dataclass(frozen=True)
class Curve:
    """Accuracies, in per cent, at the sparsities of the picture, and the baseline's."""

    label: str
    values: Sequence[float]
    baseline: float


def draw_frontier(
    path: Path, sparsities: Sequence[float], curves: Sequence[Curve], model: ImplicitModel, *, title: str
) -> None:
    """Write a PNG with two panels.

    Parameters
    ----------
    path : Path
    sparsities : sequence of float
        Per cent, one per fit.
    curves : sequence of one or two Curve
        Left panel: one line each, the baseline's value dashed.
    model : ImplicitModel
        Right panel: the non-zeros of M = [[A, B], [C, D]], its blocks outlined.
    title : str
        Above the right panel.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    with two_panels(path, (1.15, 1)) as (left, right):
        _draw_curves(left, sparsities, curves)
        draw_pattern(right, model, title)


def _draw_curves(axes: Any, sparsities: Sequence[float], curves: Sequence[Curve]) -> None:
    order = np.argsort(sparsities)
    x = np.asarray(sparsities)[order]
    for curve, colour, marker in zip(curves, COLOURS, _MARKERS, strict=False):
        axes.axhline(curve.baseline, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, alpha=0.8)
        y = np.asarray(curve.values)[order]
        axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=2, clip_on=False)
        rises = len(y) > 1 and y[1] > y[0] + 2  # then the label goes below, off the line
        axes.annotate(
            curve.label,
            (x[0], y[0]),
            xytext=(0, -9 if rises else 9),
            textcoords="offset points",
            va="top" if rises else "bottom",
            color=colour,
            fontweight="bold",
        )
        at_floor = curve.baseline < 8  # then the label goes above, off the axis
        axes.annotate(
            "baseline",
            (1.0, curve.baseline),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 4 if at_floor else -4),
            textcoords="offset points",
            ha="right",
            va="bottom" if at_floor else "top",
            color=colour,
            fontsize=9,
        )
    axes.set_title("Accuracy on test samples")
    axes.set_xlabel("sparsity, % of the baseline's weights")
    axes.set_ylabel("accuracy, %")
    axes.set_xticks(x, [f"{value:.0f}" for value in x])
    axes.set_ylim(0, 105)
    axes.set_yticks(range(0, 101, 20))
    clean(axes)


def draw_pattern(axes: Any, model: ImplicitModel, title: str) -> None:
    """Draw the non-zeros of M, its blocks outlined, on some axes."""
    n, p, q = model.n_states, model.n_inputs, model.n_outputs
    whole, cell = _pattern(model)
    # In units of states, whatever the size of the cells.
    extent = (-0.5, whole.shape[1] * cell - 0.5, whole.shape[0] * cell - 0.5, -0.5)
    axes.imshow(
        whole,
        cmap=pattern_colours(),
        vmin=0,
        vmax=1,
        interpolation_stage="rgba",
        zorder=1,
        aspect="auto",
        extent=extent,
    )
    # True to scale as far as the panel allows; a very wide or tall M is squeezed rather than shrunk to a strip.
    axes.set_box_aspect(min(max(whole.shape[0] / whole.shape[1], 0.7), 1.0))
    edges = [0]
    for group in model.groups:
        edges.append(edges[-1] + group.size)
    for edge in edges[1:-1]:
        axes.axhline(edge - 0.5, color=EDGE, linewidth=0.8)
        axes.axvline(edge - 0.5, color=EDGE, linewidth=0.8)
    axes.axhline(n - 0.5, color=INK, linewidth=1)
    axes.axvline(n - 0.5, color=INK, linewidth=1)
    axes.set_anchor("N")
    axes.set_xticks([n / 2 - 0.5, n + p / 2 - 0.5], [f"A, C: {n} states", f"B, D: {p} inputs"])
    axes.set_yticks([n / 2 - 0.5, n + q / 2 - 0.5], [f"A, B: {n} states", f"C, D: {q} outputs"])
    axes.tick_params(length=0)
    axes.set_title(title)
    for spine in axes.spines.values():
        spine.set_color(INK)


def _pattern(model: ImplicitModel) -> tuple[npt.NDArray[np.bool_], int]:
    """Which cells of M hold non-zeros, and the side of a cell: 1, unless M has more rows or columns than ``_CELLS``."""
    n, p, q = model.n_states, model.n_inputs, model.n_outputs
    cell = -(-max(n + p, n + q) // _CELLS)
    held = np.zeros((-(-(n + q) // cell), -(-(n + p) // cell)), dtype=bool)
    starts = {name: columns.start for name, columns in model.slices.items()} | {"output": n, "input": n}
    for (row, column), block in model.blocks.items():  # one at a time: a convolution's entries take room
        entries = block.to_csr().tocoo()
        rows, columns = entries.coords
        held[(rows.astype(np.int64) + starts[row]) // cell, (columns.astype(np.int64) + starts[column]) // cell] = True
    return held, cell
