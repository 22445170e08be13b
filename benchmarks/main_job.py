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
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import simplicit as sp
from simplicit.data import Dataset, load_dataset
from simplicit.executors import make_executor
from simplicit.experiments.mlp import MlpSettings, train_mlp
from simplicit.implicit import scaling_vector

Array = npt.NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
STRENGTHS = ((0.1, 0.001), (0.01, 0.01), (0.01, 0.001))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("SIMPLICIT_DATA", "../shared/data")))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    data = load_dataset("fashion-mnist", options.data_dir)
    net = train_mlp(data, MlpSettings(arch=(64, 32, 16), bias=False))
    report = {
        "command": "python benchmarks/main_job.py",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "baseline_accuracy": accuracy(net, data),
        "import_seconds": import_seconds(options.repeats),
        "rows": row_problems(net, data, options.repeats),
        "fit": whole_fit(net, data, options.repeats),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "main_job.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "main_job.md").write_text(table(report))
    print(table(report))


def median_of(repeats: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """Median wall-clock seconds, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        begun = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds), result


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
    scale = scaling_vector(sp.from_torch(net, data.train_inputs[:2]))
    figures = []
    for m in (100, 600, 2000):
        chosen = np.random.default_rng(0).permutation(len(data.train_inputs))[:m]
        states = sp.extract_states(net, data.train_inputs[chosen])
        for rescaled in (True, False):
            s = scale if rescaled else 1.0
            features = np.hstack([states.X / s, states.U]).astype(np.float64)
            targets = (states.Z / s).astype(np.float64)
            figures += [
                {"samples": m, "rescaled": rescaled} | one_problem(features, targets, weight, beta, repeats)
                for weight, beta in STRENGTHS
            ]
            print(json.dumps(figures[-3:]), file=sys.stderr)
    return figures


def one_problem(features: Array, targets: Array, weight: float, beta: float, repeats: int) -> dict[str, Any]:
    ball = sp.Ball(0.99, slice(0, targets.shape[1]))
    seconds, solution = median_of(
        repeats, lambda: sp.solve_rows(features, targets, penalty=sp.L1(beta), weight=weight, ball=ball, throw=False)
    )
    supports = np.split(solution.coefficients.indices, solution.coefficients.indptr[1:-1])
    floor, _ = median_of(repeats, lambda: factorise(features, supports))
    # The gap is taken anew from the returned coefficients, with nothing of the solver's but its formula's inputs.
    relative = certify(features, targets, solution.coefficients.toarray(), weight, beta, ball.mask(features.shape[1]))
    return {
        "lambda": weight,
        "beta": beta,
        "seconds": seconds,
        "floor_seconds": floor,
        "ratio": seconds / floor,
        "rows": len(supports),
        "converged": int(solution.converged.sum()),
        "largest_relative_gap": relative,
        "non_zeros": int(solution.coefficients.nnz),
        "largest_ball_norm": float(np.abs(solution.coefficients.toarray()[:, : targets.shape[1]]).sum(axis=1).max()),
    }


def factorise(features: Array, supports: list[npt.NDArray[np.intp]]) -> None:
    """The floor: Gram once on all processors, one Cholesky per row on its support, shared out like the rows."""
    phi = torch.from_numpy(features)
    gram = (phi.T @ phi).numpy()

    def each(rows: list[npt.NDArray[np.intp]]) -> None:
        for support in rows:
            torch.linalg.cholesky_ex(torch.from_numpy(gram[support[:, None], support]))

    parts = [supports[start : start + 28] for start in range(0, len(supports), 28)]
    list(make_executor("threads").run(each, parts))


def certify(
    features: Array, targets: Array, w: Array, weight: float, beta: float, in_ball: npt.NDArray[np.bool_]
) -> float:
    """The largest relative duality gap of an ℓ1 problem with radius .99, by the formula of the paper's dual."""
    residual = targets.T - w @ features.T
    theta = 2 * weight * residual
    outside = np.abs(theta @ features)[:, ~in_ball].max(axis=1)
    theta *= np.minimum(1.0, beta / np.maximum(outside, 1e-300))[:, None]
    mu = np.maximum(np.abs(theta @ features)[:, in_ball].max(axis=1) - beta, 0.0)
    dual = (targets.T * theta).sum(1) - (theta**2).sum(1) / (4 * weight) - 0.99 * mu
    primal = weight * (residual**2).sum(1) + beta * np.abs(w).sum(1)
    scale = np.maximum(primal, 1e-6 * weight * (targets.T**2).sum(1))
    return float(((primal - dual) / scale).max())


def whole_fit(net: nn.Module, data: Dataset, repeats: int) -> list[dict[str, Any]]:
    """``fit`` with 1,000 samples at 65 % sparsity, one draw of samples per repeat."""
    runs = []
    for seed in range(repeats):
        chosen = np.random.default_rng(seed).permutation(len(data.train_inputs))[:1000]
        begun = time.perf_counter()
        result = sp.fit(net, data.train_inputs[chosen], sparsity=65)
        runs.append(
            {
                "seed": seed,
                "seconds": time.perf_counter() - begun,
                "accuracy": accuracy(result.model, data),
                "sparsity": result.sparsity,
                "row_norm": result.row_norm,
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
        "## fit(net, 1,000 samples, sparsity=65)",
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
