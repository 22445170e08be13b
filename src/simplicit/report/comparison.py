"""Pictures of several runs beside each other: frontier, non-zeros by layer, gaps, patterns, attacked samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simplicit.implicit import ImplicitModel
from simplicit.report.canvas import COLOURS, INK, PALETTE, QUIET, clean, one_panel, panels
from simplicit.report.picture import draw_pattern

__all__ = ["Attacked", "Series", "draw_attacked", "draw_gaps", "draw_layers", "draw_patterns", "draw_series"]

_MARKERS = ("o", "s", "^")
# Layers whose names and numbers stand beside each other.
_FEW = 8
# Relative gaps below are drawn as this one: rounding.
_LEAST_GAP = 1e-16


@dataclass(frozen=True)
class Series:
    """One accuracy of several runs, in per cent: (sparsity, accuracy) each; and the baseline's, if it is known."""

    label: str
    points: Sequence[tuple[float, float]]
    baseline: float | None = None


@dataclass(frozen=True)
class Attacked:
    """What one model makes of some samples: ``inputs`` (k, p), and the classes ``given`` (k,), right or wrong."""

    label: str
    inputs: npt.NDArray[np.float32]
    given: npt.NDArray[np.int64]


def draw_series(path: Path, series: Sequence[Series]) -> None:
    """Write a PNG: sparsity against accuracy, one colour for each accuracy, the baseline's dashed.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed; so for all pictures of this module.
    """
    with one_panel(path) as axes:
        for number, (one, colour) in enumerate(zip(series, PALETTE, strict=False)):
            x, y = np.array(sorted(one.points)).T
            axes.plot(x, y, color=colour, linewidth=1, alpha=0.35)
            mark = {"marker": _MARKERS[number % 3], "markersize": 7, "linestyle": "none", "clip_on": False, "zorder": 3}
            axes.plot(x, y, color=colour, label=one.label, **mark)
            if one.baseline is not None:
                axes.axhline(one.baseline, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, alpha=0.8)
        if any(one.baseline is not None for one in series):
            axes.plot([], [], color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2, label="baseline")
        sparsities = [x for one in series for x, _ in one.points]
        room = max(2.0, 0.08 * (max(sparsities) - min(sparsities)))
        axes.set_xlim(max(min(sparsities) - room, min(0.0, min(sparsities))), min(max(sparsities) + room, 100))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("sparsity, % of the baseline's weights")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 100)
        clean(axes)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_layers(path: Path, layers: Sequence[str], counts: Mapping[str, Sequence[int]]) -> None:
    """Write a PNG: the non-zeros of each layer, one colour for each run.

    Parameters
    ----------
    path : Path
    layers : sequence of str
        The first one first.
    counts : mapping
        From the name of a run to its non-zeros in each layer.
    """
    with one_panel(path) as axes:
        width = 0.8 / max(1, len(counts))
        places = np.arange(len(layers))
        for number, (name, values) in enumerate(counts.items()):
            at = places + (number - (len(counts) - 1) / 2) * width
            bars = axes.bar(at, values, width=0.9 * width, color=PALETTE[number % len(PALETTE)], label=name)
            if len(counts) <= 4 and len(layers) <= _FEW:
                axes.bar_label(bars, [f"{value:,}" for value in values], fontsize=8, color=QUIET, padding=2)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 3 * max(1, *(max(values, default=0) for values in counts.values())))
        crowded = len(layers) > _FEW
        axes.set_xticks(places, layers, rotation=90 if crowded else 0, fontsize=8 if crowded else None)
        axes.set_ylabel("non-zeros")
        clean(axes)
        if len(counts) > 1:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_gaps(path: Path, gaps: Mapping[str, npt.NDArray[np.float64]], tol: float) -> None:
    """Write a PNG: the relative duality gaps of all rows of each run, from the smallest to the largest."""
    with one_panel(path) as axes:
        for number, (name, values) in enumerate(gaps.items()):
            shown = np.sort(np.clip(np.nan_to_num(values, nan=1.0, posinf=1.0), _LEAST_GAP, 1.0))
            share = 100 * (np.arange(len(shown)) + 1) / len(shown)
            axes.step(share, shown, where="pre", color=PALETTE[number % len(PALETTE)], linewidth=2, label=name)
        axes.axhline(tol, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.annotate(
            f"tolerance {tol:g}", (0, tol), xytext=(4, 4), textcoords="offset points", color=QUIET, fontsize=9
        )
        axes.set_yscale("log")
        axes.set_ylim(
            _LEAST_GAP / 3, 10 * max(tol, *(np.nan_to_num(v, nan=1.0).max(initial=tol) for v in gaps.values()))
        )
        axes.set_xlim(0, 100)
        axes.set_xlabel("rows, %")
        axes.set_ylabel("relative duality gap")
        clean(axes)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_patterns(path: Path, models: Mapping[str, ImplicitModel]) -> None:
    """Write a PNG: the non-zeros of M = [[A, B], [C, D]] of each model."""
    with panels(path, len(models), 2, (5.2, 3.3)) as found:
        for axes, (name, model) in zip(found, models.items(), strict=True):
            draw_pattern(axes, model, f"{name}: {model.nnz:,} non-zeros")


def draw_attacked(
    path: Path,
    shape: tuple[int, ...],
    labels: npt.NDArray[np.int64],
    rows: Sequence[Attacked],
) -> None:
    """Write a PNG: samples in columns; each row as one model meets them, with the class that it gives.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        Of a sample: (height, width), (1, height, width) or (3, height, width).
    labels : (k,) array
        The true classes.
    rows : sequence of Attacked
    """
    with panels(path, len(rows) * len(labels), len(labels), (1.35, 1.5)) as found:
        for place, axes in enumerate(found):
            row, column = rows[place // len(labels)], place % len(labels)
            image = row.inputs[column].reshape(shape)
            image = image.transpose(1, 2, 0) if image.ndim == 3 and shape[0] in (3, 4) else image.reshape(shape[-2:])
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            right = row.given[column] == labels[column]
            mark = "✓" if right else "✗"
            axes.set_title(
                f"{mark} class {row.given[column]}", fontsize=9, color=COLOURS[0] if right else COLOURS[1], loc="center"
            )
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if column == 0:
                axes.set_ylabel(row.label, color=INK, fontsize=9, rotation=0, ha="right", va="center")
