"""The sections of row_solver.py on synthetic rows: large, with memory, and growth, with its picture."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from problems import Problem, synthetic
from results import say
from sections import Options, figures

#: (samples, columns, rows, share of β_max)
LARGE = ((2000, 4000, 1000, 0.02), (1000, 20000, 200, 0.05))
#: Centre of the growth study and the values that each of its sizes takes.
CENTRE = {"rows": 128, "columns": 1000, "samples": 1000}
GROWTH = {
    "rows": (16, 32, 64, 128, 256, 512),
    "columns": (250, 500, 1000, 2000, 4000),
    "samples": (125, 250, 500, 1000, 2000, 4000),
}


def large(options: Options) -> list[dict[str, Any]]:
    """Time against the floor, and the peak memory of one solve in a fresh process."""
    rows = []
    for m, d, r, fraction in LARGE:
        sizes = _shrunk(m, d, r, options.shrink)
        problem = synthetic(*sizes, fraction=fraction)
        # Far more columns than samples: a d×d Gram matrix is what nobody needs, and the bound is on Φ alone.
        wide = sizes[1] > 2 * sizes[0]
        row, _ = figures(problem, options.repeats, blocks=wide)
        phi = problem.features.nbytes
        needed = phi if wide else phi + 8 * sizes[1] ** 2
        peak = fresh_process_peak(problem)
        row |= {
            "floor_of_blocks": wide,
            "phi_bytes": phi,
            "memory_unit": "features" if wide else "features + Gram",
            "memory_bound": 4 if wide else 3,
            "unit_bytes": needed,
            "peak_bytes": peak["bytes"],
            "peak_ratio": peak["bytes"] / needed,
            "fresh_process_seconds": peak["seconds"],
        }
        rows.append(row)
        say(
            f"large {sizes[2]} x {sizes[1]} x {sizes[0]}: {row['seconds']:.1f} s, {row['ratio']:.1f} x the floor, "
            f"peak {row['peak_ratio']:.2f} x ({row['memory_unit']})"
        )
    return rows


def fresh_process_peak(problem: Problem) -> dict[str, float]:
    """Peak resident bytes of loading Φ and solving once, beyond what the imports take, and the seconds of the solve."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("features", problem.features), ("targets", problem.targets)):
            np.save(Path(folder) / f"{name}.npy", array)
        numbers = {name: getattr(problem, name) for name in ("weight", "beta", "kappa", "n_ball")}
        command = [sys.executable, __file__, folder, json.dumps(numbers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _resident_peak() -> int:
    """VmHWM in bytes. Not ru_maxrss, which a child begins with at the size of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _shrunk(samples: int, columns: int, rows: int, shrink: int) -> tuple[int, int, int]:
    """The sizes divided for a quick trial, and at least what :func:`synthetic` needs."""
    return max(samples // shrink, 64), max(columns // shrink, 64), max(rows // shrink, 2)


def _solve_once() -> None:
    """The child: everything is imported by now, so the peak so far is the baseline."""
    parser = argparse.ArgumentParser(description="solve a stored problem once and print its peak memory")
    parser.add_argument("folder", type=Path)
    parser.add_argument("numbers", type=json.loads)
    options = parser.parse_args()
    baseline = _resident_peak()
    features, targets = (np.load(options.folder / f"{name}.npy") for name in ("features", "targets"))
    problem = Problem(features, targets, **options.numbers)
    begun = time.perf_counter()
    problem.solve()
    print(json.dumps({"bytes": _resident_peak() - baseline, "seconds": time.perf_counter() - begun}))


def growth(options: Options) -> dict[str, list[dict[str, Any]]]:
    """Time against each size, the others at the centre; draws the picture."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for varied, values in GROWTH.items():
        lines[varied] = []
        for value in values:
            sizes = CENTRE | {varied: value}
            m, d, r = _shrunk(sizes["samples"], sizes["columns"], sizes["rows"], options.shrink)
            row, _ = figures(synthetic(m, d, r), options.repeats, blocks=d > 2 * m)
            lines[varied].append(row)
            say(f"growth {varied}={row[varied]}: {row['seconds']:.2f} s, floor {row['floor_seconds']:.3f} s")
    draw_growth(lines, options.results / "growth.png")
    return lines


def draw_growth(lines: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Three panels, both axes logarithmic: ours and the floor against rows, columns and samples."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for panel, (varied, rows) in zip(panels, lines.items(), strict=True):
        sizes = [row[varied] for row in rows]
        panel.plot(sizes, [row["seconds"] for row in rows], "o-", color="#1b5e9b", label="solve_rows")
        panel.plot(sizes, [row["floor_seconds"] for row in rows], "s--", color="#8a8a8a", label="floor")
        panel.set(xscale="log", yscale="log", xlabel=varied)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        others = ", ".join(f"{rows[0][name]:,} {name}" for name in lines if name != varied)
        panel.set_title(others, fontsize="medium")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds, median")
    panels[0].legend(frameon=False)
    figure.suptitle("Time of all rows to a relative gap of 1e-6, and the floor: Gram matrix and one Cholesky per row")
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    _solve_once()
