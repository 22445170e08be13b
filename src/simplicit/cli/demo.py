"""``simplicit demo``: the whole story on one screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from simplicit.cli.console import figures_table, invocation, print_json, saved, say, show_progress
from simplicit.cli.shared import Named, Output
from simplicit.data import load_dataset
from simplicit.report import Line, can_draw, draw_frontier
from simplicit.runs.demo import Demo, DemoSettings, run_demo
from simplicit.runs.folder import check_output


def demo(
    data: Named = Named(),  # noqa: B008 - it is frozen
    settings: DemoSettings = DemoSettings(),  # noqa: B008
    output: Output = Output(Path("demo")),  # noqa: B008
) -> None:
    """Train a network, make it sparse at several strengths, attack it, and draw the result. Under a minute on digits.

    Writes the baseline, one folder per fit (try `simplicit eval demo/sparsity-80`), frontier.json, run.json and, with
    the extra `report` installed, picture.png: sparsity against clean and attacked accuracy, and the pattern of M.

    Example: `simplicit demo --data digits --output demo`
    """
    begun = time.perf_counter()
    check_output(output.folder, overwrite=output.overwrite, kind="demo")
    dataset = load_dataset(data.data, data.data_dir)
    with show_progress(clock=True) as steps:
        found = run_demo(
            dataset,
            output.folder,
            settings,
            data_dir=data.data_dir,
            command=invocation().command,
            overwrite=output.overwrite,
            progress=steps,
            draw=_draw if can_draw() else None,
        )
    if output.json:
        print_json({"folder": output.folder} | found.frontier())
        return
    seconds = time.perf_counter() - begun
    say(_table(found), f"\n{_certified(found)}", f"{saved(output.folder, 'picture.png')} {seconds:.0f} s.")


def _draw(demo: Demo, path: Path) -> None:
    settings, points = demo.settings, demo.points
    sparsities, attacked = [point.sparsity for point in points], f"PGD-{settings.pgd_steps}, ε = {settings.eps}"
    lines = (
        Line("clean", sparsities, [point.accuracy for point in points], demo.baseline.test_accuracy),
        Line(attacked, sparsities, [point.pgd for point in points], demo.baseline_pgd),
    )
    shown = demo.shown()
    title = f"Non-zeros of M at {points[shown].sparsity:.0f} % sparsity"
    draw_frontier(path, lines, demo.fits[shown].result.model, title=title)


def _table(demo: Demo) -> Any:
    settings, baseline = demo.settings, demo.baseline
    title = f"{baseline.data}, {baseline.describe()}; PGD with {settings.pgd_steps} steps, ε = {settings.eps}"
    table = figures_table("", "weights", "sparsity", "accuracy", "under PGD", "agreement", "time", title=title)
    weights, clean, attacked = demo.baseline_weights, baseline.test_accuracy, demo.baseline_pgd
    table.add_row(
        "baseline",
        f"{weights:,}",
        "",
        f"{100 * clean:.1f} %",
        f"{100 * attacked:.1f} %",
        "",
        f"{baseline.seconds:.1f} s",
    )
    for point in demo.points:
        table.add_row(
            point.folder,
            f"{point.nnz:,}",
            f"{point.sparsity:.1f} %",
            f"{100 * point.accuracy:.1f} %",
            f"{100 * point.pgd:.1f} %",
            f"{100 * point.agreement:.1f} %",
            f"{point.seconds:.1f} s",
        )
    return table


def _certified(demo: Demo) -> str:
    rows, certified = sum(p.rows for p in demo.points), sum(p.rows_certified for p in demo.points)
    gap, norm = max(p.largest_relative_gap for p in demo.points), max(p.norm_inf for p in demo.points)
    return (
        f"{certified:,} of {rows:,} rows certified, largest relative duality gap {gap:.0e}; ‖A‖∞ at most {norm:.3f}, "
        "so every model is well-posed."
    )
