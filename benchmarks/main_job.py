"""The figures of the main job on Fashion-MNIST: row problems against their floor, the whole fit, the import.

    python benchmarks/main_job.py            # about 3 minutes on 2 cores; needs the data, see --help

Every time is a median of --repeats runs in this one process, one after another. The floor is what no method that ends
on an exact support can avoid: one Gram matrix, and one Cholesky factorisation per row on its final support, by the same
BLAS and on as many threads. Prints a table and writes results/main_job.json and results/main_job.md beside this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from floors import median_of
from problems import KAPPA, STRENGTHS, Problem, fashion_baseline, state_rows
from results import arguments, command, grid, keep, machine, say
from sections import figures
from torch import nn

import simplicit as sp
from simplicit.data import Dataset
from simplicit.implicit import row_norm

Columns = dict[str, Callable[[dict[str, Any]], str]]

ROWS: Columns = {
    "samples": lambda row: f"{row['samples']:,}",
    "states": lambda row: "rescaled" if row["rescaled"] else "raw",
    "lambda1": lambda row: f"{row['lambda']:g}",
    "beta": lambda row: f"{row['beta']:g}",
    "seconds": lambda row: f"{row['seconds']:.2f}",
    "floor": lambda row: f"{row['floor_seconds']:.3f}",
    "ratio": lambda row: f"{row['ratio']:.1f}",
    "converged": lambda row: f"{row['converged']}/{row['rows']}",
    "largest rel. gap": lambda row: f"{row['largest_relative_gap']:.1e}",
    "non-zeros": lambda row: f"{row['non_zeros']:,}",
}
FITS: Columns = {
    "draw": lambda run: str(run["seed"]),
    "seconds": lambda run: f"{run['seconds']:.2f}",
    "test accuracy": lambda run: f"{run['accuracy']:.2f} %",
    "sparsity": lambda run: f"{run['sparsity']:.1f} %",
    "rows certified": lambda run: f"{run['rows_certified']}/{run['rows']}",
    "largest row norm of A": lambda run: f"{run['row_norm']:.4f}",
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, nargs="*", default=[100, 600, 2000], help="of the row problems")
    options = parser.parse_args()
    net, data = fashion_baseline(options.data_dir)
    report = {
        "command": command(),
        "machine": machine(),
        "baseline_accuracy": 100 * sp.accuracy(net, data.test_inputs, data.test_labels),
        "import_seconds": import_seconds(options.repeats),
        "rows": row_problems(net, data, options.samples, options.repeats),
        "fit": whole_fit(net, data, options.repeats),
    }
    keep(options.output, "main_job", report, page(report))


def import_seconds(repeats: int) -> dict[str, float]:
    """What ``import simplicit`` takes beyond ``import torch``, each in a fresh process."""

    def imported(names: str) -> float:
        return median_of(repeats, lambda: subprocess.run([sys.executable, "-c", f"import {names}"], check=True))[0]

    torch_alone, both = imported("torch"), imported("torch, simplicit")
    return {"torch": torch_alone, "beyond_torch": both - torch_alone}


def row_problems(net: nn.Module, data: Dataset, samples: list[int], repeats: int) -> list[dict[str, Any]]:
    """All 112 state rows on 896 columns (the structure dense), raw and in the units of Theorem 2.4."""
    rows = []
    for m in samples:
        for rescaled in (True, False):
            features, targets = state_rows(net, data, m, rescaled=rescaled)
            for weight, beta in STRENGTHS:
                problem = Problem(features, targets, weight, beta, KAPPA, targets.shape[1])
                rows.append({"rescaled": rescaled} | figures(problem, repeats)[0])
            say(json.dumps(rows[-3:]))
    return rows


def whole_fit(net: nn.Module, data: Dataset, repeats: int) -> list[dict[str, Any]]:
    """Problem (7) on 1,000 samples at 65 % sparsity, one draw of samples per repeat."""
    runs = []
    for seed in range(repeats):
        chosen = np.random.default_rng(seed).permutation(len(data.train_inputs))[:1000]
        begun = time.perf_counter()
        result = sp.fit(net, data.train_inputs[chosen], sp.Matching(sparsity=65, kappa=KAPPA))
        runs.append(
            {
                "seed": seed,
                "seconds": time.perf_counter() - begun,
                "accuracy": 100 * sp.accuracy(result.model, data.test_inputs, data.test_labels),
                "sparsity": result.sparsity,
                "row_norm": row_norm(result.model),
                "rows_certified": int(result.rows.converged.sum()),
                "rows": len(result.rows),
            }
        )
    return runs


def page(report: dict[str, Any]) -> str:
    machine = report["machine"]
    lines = [
        "# Main job on Fashion-MNIST, 784-64-32-16-10 without biases",
        "",
        f"`{report['command']}`, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}. "
        f"Baseline {report['baseline_accuracy']:.2f} %. `import simplicit` takes "
        f"{report['import_seconds']['beyond_torch']:.2f} s beyond `import torch` "
        f"({report['import_seconds']['torch']:.2f} s).",
        "",
        "## 112 rows x 896 columns, kappa .99, tol 1e-6 (medians)",
        "",
        *grid(ROWS, report["rows"]),
        "",
        "## fit(net, 1,000 samples, Matching(sparsity=65, kappa=.99))",
        "",
        *grid(FITS, report["fit"]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
