"""Pictures of which entries of a matrix are not zero."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from simplicit.implicit import ImplicitModel
from simplicit.report.canvas import COLOURS, EDGE, INK, is_narrow, panels

# A larger matrix is drawn by so many cells a side: of a model more than a panel has pixels, so that it keeps its look.
_MODEL_CELLS = 1500


def draw_patterns(path: Path, models: Mapping[str, ImplicitModel]) -> None:
    """Write a PNG: the non-zeros of M = [[A, B], [C, D]] of each model."""
    with panels(path, len(models), 2, (5.2, 3.3), height=2.9 if is_narrow() else None) as found:
        for axes, (name, model) in zip(found, models.items(), strict=True):
            draw_pattern(axes, model, f"{name}: {model.nnz:,} non-zeros")


def draw_pattern(axes: Any, model: ImplicitModel, title: str) -> None:
    """Draw the non-zeros of M, its blocks outlined, on some axes."""
    n, p, q = model.n_states, model.n_inputs, model.n_outputs
    draw_entries(axes, model.matrix, _MODEL_CELLS)
    # True to scale as far as the panel allows; a very wide or tall M is squeezed rather than shrunk to a strip.
    axes.set_box_aspect(min(max((n + q) / (n + p), 0.7), 1.0))
    ends = np.cumsum([group.size for group in model.groups])
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color=EDGE, linewidth=0.8)
        axes.axvline(end - 0.5, color=EDGE, linewidth=0.8)
    axes.axhline(n - 0.5, color=INK, linewidth=1)
    axes.axvline(n - 0.5, color=INK, linewidth=1)
    axes.set_anchor("N")
    axes.set_xticks([n / 2 - 0.5, n + p / 2 - 0.5], [f"A, C:\n{n:,} states", f"B, D:\n{p:,} inputs"])
    axes.set_yticks([n / 2 - 0.5, n + q / 2 - 0.5], [f"A, B:\n{n:,} states", f"C, D:\n{q:,} outputs"])
    axes.set_title(title)


def draw_entries(axes: Any, matrix: csr_array, most: int) -> None:
    """Draw white for zero and blue for non-zero; of a large matrix, by ``most`` cells a side, filled if anything is."""
    from matplotlib.colors import ListedColormap

    rows, columns = matrix.shape
    height, width = min(rows, most), min(columns, most)
    entries = matrix.tocoo()
    row, column = (index.astype(np.int64) for index in entries.coords)
    cells = np.zeros((height, width), dtype=bool)
    cells[row * height // rows, column * width // columns] = True
    axes.imshow(
        cells,
        cmap=ListedColormap(["white", COLOURS[0]]),
        vmin=0,
        vmax=1,
        interpolation_stage="rgba",
        zorder=1,
        aspect="auto",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )
    axes.tick_params(length=0)
    axes.spines[:].set_color(INK)
