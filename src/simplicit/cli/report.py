"""``simplicit report``: one page from the saved numbers of finished runs."""

from __future__ import annotations

from pathlib import Path

from simplicit.cli.console import show_progress
from simplicit.cli.shared import Output
from simplicit.progress import phase
from simplicit.runs.gathering import gather
from simplicit.runs.reporting import PAGE, save_report


def report(
    runs: list[Path],
    /,
    output: Output = Output(Path("runs/report")),
    *,
    title: str = "simplicit: finished runs",
) -> None:
    """Put finished runs beside each other on one page: accuracy, robustness, patterns, gaps, layers, speed.

    The page is made of the saved numbers alone; nothing is computed anew. It holds its pictures and needs nothing from
    elsewhere, so that it can be sent as one file; the pictures lie beside it as PNG too.

    Example: `simplicit report runs/fit runs/attack runs/certify --output runs/report`

    Parameters
    ----------
    runs : list of Path
        Folders that `simplicit fit`, `attack`, `certify` and `bench` wrote, in any order.
    output
    title : str
        Title of the page.
    """
    output.check("report", runs)
    with show_progress():
        with phase("reading the runs"):
            found = gather(runs)
        save_report(found, output.folder, title=title, runs=runs, **output.saving())
    page = output.folder / PAGE
    output.show({"page": page}, f"Saved in {output.folder}. Open {page} in a browser.")
