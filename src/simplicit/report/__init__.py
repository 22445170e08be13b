"""What a person looks at: pictures, tables and a page. Pictures need the extra ``report`` (matplotlib), and say so."""

from simplicit.report.accuracy import Bounds, Line, draw_frontier, draw_robustness, draw_series, draw_tradeoff
from simplicit.report.bars import Bars, draw_bars, draw_layers
from simplicit.report.canvas import can_draw, twice
from simplicit.report.images import Attacked, draw_attacked
from simplicit.report.patterns import draw_patterns
from simplicit.report.rows import draw_gaps, draw_path, draw_solution
from simplicit.report.speed import SpeedLine, draw_speed
from simplicit.report.table import Table

__all__ = [
    "Attacked",
    "Bars",
    "Bounds",
    "Line",
    "SpeedLine",
    "Table",
    "can_draw",
    "draw_attacked",
    "draw_bars",
    "draw_frontier",
    "draw_gaps",
    "draw_layers",
    "draw_path",
    "draw_patterns",
    "draw_robustness",
    "draw_series",
    "draw_solution",
    "draw_speed",
    "draw_tradeoff",
    "twice",
]
