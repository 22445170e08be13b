"""``simplicit demo``: the whole story on one screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from simplicit.cli.console import figures_table, percent, quoted, saved, show_progress
from simplicit.cli.shared import Named, Output
from simplicit.data import load_dataset
from simplicit.runs.demo import BASELINE, PICTURE, Demo, DemoSettings, run_demo


def demo(
    data: Named = Named(),
    settings: DemoSettings = DemoSettings(),
    output: Output = Output(Path("demo")),
) -> None:
    """Train a network, make it sparse at several strengths, attack it, draw the result. Half a minute on two cores.

    The network is fitted on its own states with the recipe Sparse, as `simplicit fit` does, and stands beside the same
    network with as many of its largest weights (pruning by magnitude). Writes the baseline, one folder per fit (try
    `simplicit eval demo/sparsity-90`), frontier.json, run.json and, with the extra `report` installed, picture.png:
    sparsity against clean and attacked accuracy, and the pattern of M.

    Example: `simplicit demo --data digits --output demo`
    """
    begun = time.perf_counter()
    output.check("demo")
    with show_progress() as steps:
        dataset = load_dataset(data.data, data.data_dir)
        found = run_demo(dataset, output.folder, settings, data_dir=data.data_dir, progress=steps, **output.saving())
    done = f"{saved(output.folder, PICTURE)} {time.perf_counter() - begun:.0f} s."
    shown = found.points[found.shown()].folder
    output.show(
        found.frontier(),
        _table(found, output.folder),
        f"\n{_certified(found)}",
        f"{done} Next: simplicit eval {quoted(output.folder / shown)}",
    )


def _table(demo: Demo, folder: Path) -> Any:
    settings, baseline = demo.settings, demo.baseline
    title = f"{baseline.data}, {baseline.describe()}; PGD with {settings.pgd_steps} steps, ε = {settings.eps}"
    names = ("weights", "sparsity", "accuracy", "pruned by magnitude", "under PGD", "agreement", "time")
    table = figures_table("run", *names, title=title)
    clean, attacked = (f"{percent(share, 1)} %" for share in (baseline.test_accuracy, demo.baseline_pgd))
    seconds = f"{baseline.seconds:.1f} s"
    table.add_row(str(folder / BASELINE), f"{demo.baseline_weights:,}", "", clean, "", attacked, "", seconds)
    for point in demo.points:
        shares = (point.accuracy, point.magnitude, point.pgd, point.agreement)
        sizes = f"{point.nnz:,}", f"{point.sparsity:.1f} %"
        cells = (*sizes, *(f"{percent(share, 1)} %" for share in shares), f"{point.seconds:.1f} s")
        table.add_row(str(folder / point.folder), *cells)
    return table


def _certified(demo: Demo) -> str:
    rows, certified = sum(p.rows for p in demo.points), sum(p.rows_certified for p in demo.points)
    gap, bound = max(p.largest_relative_gap for p in demo.points), max(p.perron_frobenius for p in demo.points)
    posed = f"; λ_pf at most {bound:.3g}, so every model is well-posed" if bound < 1 else ""
    return f"{certified:,} of {rows:,} rows certified, largest relative duality gap {gap:.0e}{posed}."
