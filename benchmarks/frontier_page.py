"""Write the page of the kept frontier and draw its picture anew, without measuring: frontier.md and frontier.png.

    python benchmarks/frontier_page.py

The figures are those of ``benchmarks/results/frontier.json``, which ``simplicit reproduce frontier --first-seed 10``
made; only how they are shown can change.
"""

from __future__ import annotations

import json
from typing import Any

from results import RESULTS, arguments

from simplicit.studies.frontier import Frontier, frontier_study
from simplicit.studies.study import Study


def page(report: dict[str, Any]) -> str:
    """All tables of the study, as Markdown."""
    return _study(report).markdown()


def _study(report: dict[str, Any]) -> Study:
    return frontier_study(Frontier.of_figures(report))


def main() -> None:
    """Read the figures; write page and picture."""
    folder = arguments(__doc__, data=False).parse_args().output
    report = json.loads((RESULTS / "frontier.json").read_text(encoding="utf-8"))
    (folder / "frontier.md").write_text(page(report), encoding="utf-8")
    draw = _study(report).draw
    assert draw is not None
    draw(folder / "frontier.png")


if __name__ == "__main__":
    main()
