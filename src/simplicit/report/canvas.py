"""A figure that touches nothing of matplotlib's global state, and the colours of all pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simplicit.errors import MissingExtraError

__all__ = [
    "COLOURS",
    "EDGE",
    "GRID",
    "INK",
    "PALETTE",
    "QUIET",
    "clean",
    "one_panel",
    "panels",
    "pattern_colours",
    "two_panels",
]

#: Okabe and Ito's, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00")
PALETTE = (*COLOURS, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, QUIET, GRID, EDGE = "#222222", "#6b6b6b", "#e6e6e6", "#bdbdbd"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


@contextmanager
def two_panels(path: Path, width_ratios: tuple[float, float]) -> Iterator[Any]:
    """Two axes side by side; what is drawn on them inside the block is written to the PNG `path` at its end.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    with _figure(path, (10, 4.2)) as figure:
        yield figure.subplots(1, 2, width_ratios=width_ratios)


@contextmanager
def one_panel(path: Path) -> Iterator[Any]:
    """As :func:`two_panels`, with one."""
    with _figure(path, (7.5, 4.6)) as figure:
        yield figure.subplots()


@contextmanager
def panels(path: Path, count: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """As :func:`two_panels`, with ``count`` axes of ``size`` inches each, row after row of ``columns`` of them."""
    columns = min(columns, count)
    rows = -(-count // columns)
    with _figure(path, (size[0] * columns, size[1] * rows)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for unused in grid[count:]:
            unused.set_axis_off()
        yield grid[:count]


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib: pip install 'simplicit[report]'") from error
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.06))
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=160, facecolor="white")


def clean(axes: Any) -> None:
    """Horizontal grid lines behind the data and no frame but the x axis."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, which="both")


def pattern_colours() -> Any:
    """White for zero, blue for non-zero."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(["white", COLOURS[0]])
