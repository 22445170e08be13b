"""The recipes Robust and Certified on Fashion-MNIST: accuracy attacked and proved at .004, .008 and 8/255, by seeds.

    python benchmarks/certified.py             # about 15 minutes on 2 cores; needs the data, see --help

A seed trains a bias-free 784-64-32-16-10 baseline, with each of two weight decays, and draws the 5,000 training images,
without labels, on which all settings are fitted. Clean accuracy is of all 10,000 test images; PGD-50 with 5 restarts at
8/255 and certificates by linear relaxation, without climbing and for evaluation in float64, are of --samples of them,
drawn at random, the same for all. Every certified image is held against PGD. Finished rows are kept in --parts, from
which a broken-off run goes on. Prints the tables and writes results/certified.json and results/certified.md beside this
file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from results import arguments, command, grid, keep, machine, ran_on, say

import simplicit as sp
from simplicit.data import Dataset, load_dataset
from simplicit.runs.mlp import MlpSettings, train_mlp

RADII = {".004": 0.004, ".008": 0.008, "8/255": 8 / 255}
DECAYS = (0.01, 0.1)
RECIPES: dict[str, sp.training.Recipe] = {
    "robust": sp.Robust(),
    "certified, lighter": sp.Certified(beta=9e-4, hidden_strength=1.0, attack_eps=4 / 255),
    "certified": sp.Certified(),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--decays", type=float, nargs="*", default=list(DECAYS), help="weight decays of the baselines")
    parser.add_argument("--fit-samples", type=int, default=5000, help="training images of the fits")
    parser.add_argument("--samples", type=int, default=2000, help="test images for attacks and certificates")
    parser.add_argument("--parts", type=Path, default=Path("build/certified"), help="folder of finished rows")
    options = parser.parse_args()
    data = load_dataset("fashion-mnist", options.data_dir)
    parts = options.parts / f"{options.fit_samples}-{options.samples}"
    parts.mkdir(parents=True, exist_ok=True)
    rows = [
        row for seed in options.seeds for decay in options.decays for row in rows_of(data, seed, decay, options, parts)
    ]
    report = {
        "command": command(),
        "machine": machine(),
        "settings": {"fit_samples": options.fit_samples, "samples": options.samples, "seeds": options.seeds},
        "eps": RADII,
        "rows": rows,
    }
    keep(options.output, "certified", report, page(report))


def rows_of(data: Dataset, seed: int, decay: float, options: argparse.Namespace, parts: Path) -> list[dict[str, Any]]:
    """The baseline of a seed and all fits of it, from their files where they are there."""
    files = {name: parts / f"{decay:g}-{seed}-{name.replace(', ', '-').replace(' ', '-')}.json" for name in names()}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        net = train_mlp(data, MlpSettings(arch=(64, 32, 16), bias=False, weight_decay=decay, seed=seed))
        baseline = sp.from_torch(net, data.test_inputs[:2])
        drawn = np.random.default_rng(seed).choice(len(data.train_inputs), options.fit_samples, replace=False)
        chosen = np.sort(drawn)
    for name in missing:
        begun = time.perf_counter()
        fitted = None if name == "baseline" else sp.fit(net, data.train_inputs[chosen], RECIPES[name])
        seconds = time.perf_counter() - begun
        model = baseline if fitted is None else fitted.model
        row = {"name": name, "seed": seed, "weight_decay": decay, "fit_seconds": seconds}
        row |= measured(model, baseline.nnz, data, options.samples)
        row["rows_certified"] = None if fitted is None else fitted.figures()["rows_certified"]
        say(json.dumps(row))
        draft = files[name].with_suffix(".partial")
        draft.write_text(json.dumps(row))
        draft.replace(files[name])
    return [json.loads(file.read_text()) for file in files.values()]


def names() -> list[str]:
    return ["baseline", *RECIPES]


def measured(model: sp.ImplicitModel, weights: int, data: Dataset, samples: int) -> dict[str, Any]:
    """All figures of one model, in per cent."""
    places = np.sort(np.random.default_rng(0).choice(len(data.test_labels), samples, replace=False))
    inputs, labels = data.test_inputs[places], data.test_labels[places]
    attacked = sp.attack(model, inputs, labels, [8 / 255], attacks=["pgd"])
    proved = sp.certify(model.astype(np.float64), inputs, labels, list(RADII.values()))
    biases = int(np.count_nonzero(model.state_bias) + np.count_nonzero(model.output_bias))
    return {
        "sparsity": model.sparsity(weights),
        "sparsity_with_biases": 100 * (1 - (model.nnz + biases) / weights),
        "clean": 100 * sp.accuracy(model, data.test_inputs, data.test_labels),
        "pgd": percent(attacked.worst)[0],
        "findings": [str(finding) for finding in attacked.checks.findings],
        "certified": percent(proved.certified["linear"]),
        "attacks_on_certified": int((proved.certified["linear"][-1] & ~attacked.worst[0]).sum()),
        "certify_seconds": proved.seconds["linear"],
    }


def percent(outcome: Any) -> Any:
    """The share of samples, for each radius if there are several."""
    return np.round(100 * np.asarray(outcome).mean(axis=-1), 3).tolist()


def page(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    settings, rows = report["settings"], report["rows"]
    lines = [
        "# Robust training on Fashion-MNIST, 784-64-32-16-10 without biases",
        "",
        f"{ran_on(report)}. Fits on "
        f"{settings['fit_samples']:,} training images without labels; means and standard deviations over "
        f"{len(settings['seeds'])} seeds, each with its own baseline and images. Clean: all 10,000 test images; "
        f"PGD and certified, by linear relaxation (c): {settings['samples']:,} of them, drawn at random. All "
        "accuracies in per cent.",
    ]
    for decay in sorted({row["weight_decay"] for row in rows}):
        found = [row for row in rows if row["weight_decay"] == decay]
        lines += ["", f"## Baselines trained with weight decay {decay:g}", "", *grid(columns(found), _kept(rows))]
    findings = sorted({finding for row in rows for finding in row["findings"]})
    broken = sum(row["attacks_on_certified"] for row in rows)
    return "\n".join(
        [
            *lines,
            "",
            "Sparsity is 100 (1 - nnz(M)/N0); the fits have one bias for each state and output, which the baselines "
            "have not: counted as weights, they take 0.2 points off.",
            f"Checks of the attacks: {' '.join(findings) or 'all passed'}. PGD succeeded on {broken} certified images.",
            "",
        ]
    )


def _kept(rows: list[dict[str, Any]]) -> list[str]:
    """The names that rows have, which those of an earlier edition have from its presets."""
    return list(dict.fromkeys(row["name"] for row in rows))


def columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How each column comes from the name of a setting."""

    def spread(value: Any, digits: int = 1) -> Any:
        def cell(name: str) -> str:
            values = [value(row) for row in rows if row["name"] == name]
            return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")

        return cell

    def below(row: dict[str, Any]) -> float:
        of = next(one for one in rows if one["name"] == "baseline" and one["seed"] == row["seed"])
        return float(row["clean"] - of["clean"])

    certified = {
        f"certified {eps}": spread(lambda row, place=place: row["certified"][place]) for place, eps in enumerate(RADII)
    }
    return {
        "": lambda name: name,
        "sparsity": spread(lambda row: row["sparsity"]),
        "clean": spread(lambda row: row["clean"], 2),
        "against the baseline": spread(below, 2),
        "PGD-50x5, 8/255": spread(lambda row: row["pgd"]),
        **certified,
        "fit, s": spread(lambda row: row["fit_seconds"], 0),
    }


if __name__ == "__main__":
    main()
