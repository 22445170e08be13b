"""The figures of the main job on Fashion-MNIST: row problems against their floor, the whole fit, the import.

    python benchmarks/main_job.py            # about 3 minutes on 2 cores; needs the data, see --help

Every time is a median of --repeats runs in this one process, one after another. The floor is what no method that ends
on an exact support can avoid: one Gram matrix, and one Cholesky factorisation per row on its final support, by the same
BLAS and on as many threads. Prints a table and writes results/main_job.json and results/main_job.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floors import median_of
from problems import KAPPA, STRENGTHS, Problem, fashion_baseline, state_rows
from results import RESULTS, machine
from sections import figures
from torch import nn

import simplicit as sp
from simplicit.data import Dataset
from simplicit.implicit import row_norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("SIMPLICIT_DATA", "../shared/data")))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    net, data = fashion_baseline(options.data_dir)
    report = {
        "command": "python benchmarks/main_job.py",
        "machine": machine(),
        "baseline_accuracy": accuracy(net, data),
        "import_seconds": import_seconds(options.repeats),
        "rows": row_problems(net, data, options.repeats),
        "fit": whole_fit(net, data, options.repeats),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "main_job.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.output / "main_job.md").write_text(table(report))
    print(table(report))


def accuracy(net: Any, data: Dataset) -> float:
    """Per cent of the test set."""
    if isinstance(net, nn.Module):
        with torch.no_grad():
            outputs = net(torch.from_numpy(data.test_inputs)).numpy()
    else:
        outputs = net.predict(data.test_inputs)
    return float(100 * np.mean(outputs.argmax(1) == data.test_labels))


def import_seconds(repeats: int) -> dict[str, float]:
    """What ``import simplicit`` takes beyond ``import torch``, each in a fresh process."""

    def imported(names: str) -> float:
        return median_of(repeats, lambda: subprocess.run([sys.executable, "-c", f"import {names}"], check=True))[0]

    torch_alone, both = imported("torch"), imported("torch, simplicit")
    return {"torch": torch_alone, "beyond_torch": both - torch_alone}


def row_problems(net: nn.Module, data: Dataset, repeats: int) -> list[dict[str, Any]]:
    """All 112 state rows on 896 columns (DESIGN's dense structure), raw and in the units of Theorem 2.4."""
    rows = []
    for m in (100, 600, 2000):
        for rescaled in (True, False):
            features, targets = state_rows(net, data, m, rescaled=rescaled)
            for weight, beta in STRENGTHS:
                problem = Problem(features, targets, weight, beta, KAPPA, targets.shape[1])
                rows.append({"rescaled": rescaled} | figures(problem, repeats)[0])
            print(json.dumps(rows[-3:]), file=sys.stderr)
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
                "accuracy": accuracy(result.model, data),
                "sparsity": result.sparsity,
                "row_norm": row_norm(result.model),
                "rows_certified": int(result.rows.converged.sum()),
                "rows": len(result.rows),
            }
        )
    return runs


def table(report: dict[str, Any]) -> str:
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
        "| samples | states | lambda1 | beta | seconds | floor | ratio | converged | largest rel. gap | non-zeros |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['samples']} | {'rescaled' if row['rescaled'] else 'raw'} | {row['lambda']:g} | {row['beta']:g} | "
        f"{row['seconds']:.2f} | {row['floor_seconds']:.3f} | {row['ratio']:.1f} | {row['converged']}/{row['rows']} | "
        f"{row['largest_relative_gap']:.1e} | {row['non_zeros']:,} |"
        for row in report["rows"]
    ]
    lines += [
        "",
        "## fit(net, 1,000 samples, Matching(sparsity=65, kappa=.99))",
        "",
        "| draw | seconds | test accuracy | sparsity | rows certified | largest row norm of A |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {run['seed']} | {run['seconds']:.2f} | {run['accuracy']:.2f} % | {run['sparsity']:.1f} % | "
        f"{run['rows_certified']}/{run['rows']} | {run['row_norm']:.4f} |"
        for run in report["fit"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
