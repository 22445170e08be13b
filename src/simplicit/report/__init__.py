"""Pictures of results. Needs the extra ``report`` (matplotlib), and says so where it is missing."""

from __future__ import annotations

from simplicit.report.bars import Bars, draw_bars
from simplicit.report.picture import Curve, draw_frontier
from simplicit.report.robustness import RobustCurve, draw_robustness
from simplicit.report.solution import draw_path, draw_solution
from simplicit.report.tradeoff import Line, Panel, draw_tradeoff

__all__ = [
    "Bars",
    "Curve",
    "Line",
    "Panel",
    "RobustCurve",
    "draw_bars",
    "draw_frontier",
    "draw_path",
    "draw_robustness",
    "draw_solution",
    "draw_tradeoff",
]
