"""``simplicit report``: one page from the saved numbers of finished runs."""

from __future__ import annotations

from pathlib import Path

from simplicit.cli.console import invocation, print_json, say
from simplicit.cli.shared import Output
from simplicit.runs.folder import check_output
from simplicit.runs.gathering import gather
from simplicit.runs.reporting import PAGE, save_report


def report(
    runs: list[Path],
    /,
    output: Output = Output(Path("runs/report")),  # noqa: B008 - it is frozen
    *,
    title: str = "simplicit: finished runs",
) -> None:
    """Put finished runs beside each other on one page: sparsity and accuracy, robustness, patterns, gaps, layers.

    The page is made of the saved numbers alone; nothing is computed anew. It holds its pictures and needs nothing from
    elsewhere, so that it can be sent as one file; the pictures lie beside it as PNG too.

    Example: `simplicit report runs/fit runs/attack runs/certify --output runs/report`

    Parameters
    ----------
    runs : list of Path
        Folders that `simplicit fit`, `attack` and `certify` wrote, in any order.
    output
    title : str
        Title of the page.
    """
    check_output(output.folder, overwrite=output.overwrite, kind="report", inputs=runs)
    found = gather(runs)
    command = invocation().command
    save_report(found, output.folder, title=title, runs=runs, command=command, overwrite=output.overwrite)
    if output.json:
        print_json({"folder": output.folder, "page": output.folder / PAGE})
    else:
        say(f"Saved in {output.folder}. Open {output.folder / PAGE} in a browser.")
