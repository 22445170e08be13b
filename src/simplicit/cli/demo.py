"""``simplicit demo``: the whole story on one screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from simplicit.cli.console import figures_table, percent, saved, show_progress
from simplicit.cli.shared import Named, Output
from simplicit.data import load_dataset
from simplicit.runs.demo import PICTURE, Demo, DemoSettings, run_demo


def demo(
    data: Named = Named(),
    settings: DemoSettings = DemoSettings(),
    output: Output = Output(Path("demo")),
) -> None:
    """Train a network, make it sparse at several strengths, attack it, and draw the result. Under a minute on digits.

    Writes the baseline, one folder per fit (try `simplicit eval demo/sparsity-80`), frontier.json, run.json and, with
    the extra `report` installed, picture.png: sparsity against clean and attacked accuracy, and the pattern of M.

    Example: `simplicit demo --data digits --output demo`
    """
    begun = time.perf_counter()
    output.check("demo")
    dataset = load_dataset(data.data, data.data_dir)
    with show_progress(clock=True) as steps:
        found = run_demo(dataset, output.folder, settings, data_dir=data.data_dir, progress=steps, **output.saving())
    done = f"{saved(output.folder, PICTURE)} {time.perf_counter() - begun:.0f} s."
    output.show(found.frontier(), _table(found), f"\n{_certified(found)}", done)


def _table(demo: Demo) -> Any:
    settings, baseline = demo.settings, demo.baseline
    title = f"{baseline.data}, {baseline.describe()}; PGD with {settings.pgd_steps} steps, ε = {settings.eps}"
    table = figures_table("", "weights", "sparsity", "accuracy", "under PGD", "agreement", "time", title=title)
    clean, attacked = (f"{percent(share, 1)} %" for share in (baseline.test_accuracy, demo.baseline_pgd))
    table.add_row("baseline", f"{demo.baseline_weights:,}", "", clean, attacked, "", f"{baseline.seconds:.1f} s")
    for point in demo.points:
        shares = (f"{percent(share, 1)} %" for share in (point.accuracy, point.pgd, point.agreement))
        sizes = f"{point.nnz:,}", f"{point.sparsity:.1f} %"
        table.add_row(point.folder, *sizes, *shares, f"{point.seconds:.1f} s")
    return table


def _certified(demo: Demo) -> str:
    rows, certified = sum(p.rows for p in demo.points), sum(p.rows_certified for p in demo.points)
    gap, norm = max(p.largest_relative_gap for p in demo.points), max(p.norm_inf for p in demo.points)
    return (
        f"{certified:,} of {rows:,} rows certified, largest relative duality gap {gap:.0e}; ‖A‖∞ at most {norm:.3f}, "
        "so every model is well-posed."
    )
