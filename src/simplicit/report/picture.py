"""One picture: sparsity against clean and attacked accuracy, and the pattern of a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.implicit import ImplicitModel
from simplicit.report.canvas import COLOURS, EDGE, INK, clean, pattern_colours, two_panels

__all__ = ["Curve", "draw_frontier", "draw_pattern"]

_MARKERS = ("o", "s")
# More than a picture has pixels: a larger M is drawn by cells of several entries.
_CELLS = 1500


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


def _pattern(model: ImplicitModel) -> Any:
    """Where M is not zero, (n + q, n + p); of a large one, which of some 1,500 x 1,500 cells have a non-zero."""
    entries = model.matrix.tocoo()
    steps = [max(1, -(-length // _CELLS)) for length in entries.shape]
    pattern = np.zeros([-(-length // step) for length, step in zip(entries.shape, steps, strict=True)], dtype=bool)
    pattern[entries.row // steps[0], entries.col // steps[1]] = True
    return pattern


def draw_pattern(axes: Any, model: ImplicitModel, title: str) -> None:
    """Draw the non-zeros of M, its blocks outlined, on some axes."""
    n, p, q = model.n_states, model.n_inputs, model.n_outputs
    whole = _pattern(model)
    rows, columns = n + q, n + p
    axes.imshow(
        whole,
        cmap=pattern_colours(),
        vmin=0,
        vmax=1,
        interpolation_stage="rgba",
        zorder=1,
        aspect="auto",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )
    # True to scale as far as the panel allows; a very wide or tall M is squeezed rather than shrunk to a strip.
    axes.set_box_aspect(min(max(rows / columns, 0.7), 1.0))
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
