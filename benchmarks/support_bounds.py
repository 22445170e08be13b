"""How far the supports of the recipe Sparse are from the best ones at most, on Fashion-MNIST, layer by layer.

    python benchmarks/support_bounds.py        # two minutes on 2 cores; needs the data, see --help

A seed trains the bias-free 784-64-32-16-10 baseline of `reproduce frontier` and draws the 1,000 training images on
which it is fitted at each sparsity. Kept are the shares of the layers' squared errors that the best supports of the
same sizes leave at least (`LayerFigures.support_bound`), and the sizes. Prints the table and writes
results/support_bounds.json and results/support_bounds.md beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import floor
from statistics import mean
from typing import Any

import numpy as np
from results import arguments, command, grid, keep, machine

import simplicit as sp
from simplicit.data import Dataset, load_dataset
from simplicit.runs.mlp import MlpSettings, train_mlp


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[10, 11, 12, 13, 14])
    parser.add_argument("--sparsities", type=float, nargs="*", default=[60.0, 70.0, 80.0, 90.0, 95.0, 97.0])
    parser.add_argument("--samples", type=int, default=1000, help="training images of the fits")
    options = parser.parse_args()
    data = load_dataset("fashion-mnist", options.data_dir)
    report = {
        "command": command(),
        "machine": machine(),
        "samples": options.samples,
        "rows": [row for seed in options.seeds for row in rows_of(data, seed, options)],
    }
    keep(options.output, "support_bounds", report, page(report))


def rows_of(data: Dataset, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The fits of one baseline."""
    net = train_mlp(data, MlpSettings(arch=(64, 32, 16), bias=False, seed=seed))
    random = np.random.default_rng(seed)
    inputs = data.train_inputs[np.sort(random.choice(len(data.train_inputs), options.samples, replace=False))]
    rows = []
    for sparsity in options.sparsities:
        layers = sp.fit(net, inputs, sp.Sparse(sparsity)).layers
        bounds = {layer.name: layer.support_bound for layer in layers}
        sizes = {layer.name: layer.non_zeros for layer in layers}
        rows.append({"seed": seed, "sparsity": sparsity, "bounds": bounds, "non_zeros": sizes})
    return rows


def down(bound: float) -> str:
    """A bound, never rounded up."""
    return f"{floor(1000 * bound) / 1000:.3f}"


def page(report: dict[str, Any]) -> str:
    """The table in Markdown: means over the seeds, and the least."""
    rows = report["rows"]
    *hidden, output = rows[0]["bounds"]
    hidden.sort(key=int)  # places in the network, which runs of the first edition name from the last one on

    def shares(layer: str) -> Callable[[dict[str, Any]], str]:
        def cell(line: dict[str, Any]) -> str:
            found = [row["bounds"][layer] for row in rows if row["sparsity"] == line["sparsity"]]
            return f"{down(mean(found))} ({down(min(found))})"

        return cell

    names = {layer: f"hidden layer {i + 1}" for i, layer in enumerate(hidden)} | {output: "output"}
    columns: dict[str, Callable[[dict[str, Any]], str]] = {"sparsity, %": lambda line: f"{line['sparsity']:g}"}
    columns |= {name: shares(layer) for layer, name in names.items()}
    lines = [
        "# How far supports are from the best ones, at most",
        "",
        "Share of a layer's squared error that the best supports of the same sizes leave at least: mean over seeds, "
        "and the least, rounded down. Recipe Sparse, Fashion-MNIST.",
        "",
        *grid(columns, [row for row in rows if row["seed"] == rows[0]["seed"]]),
        "",
        f"`{report['command']}`",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
