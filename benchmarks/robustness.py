"""Fashion-MNIST attacked and certified: the baseline and problem (7) fitted to it, at ε = .004, .008 and 8/255.

    python benchmarks/robustness.py                    # about 20 minutes on 2 cores; needs the data, see --help
    python benchmarks/robustness.py --runs runs/robust # and other fits beside, from folders of `simplicit fit`

Clean accuracy, FGSM, PGD-50 with 5 restarts, Square with 300 queries, transfer from the baseline and the certificates
are measured on all test images; AutoAttack, and certificates with climbed slopes, on --samples of them, drawn at
random. The certificates hold for evaluation in float64. Every certified sample is held against every attack. Prints the
tables and writes results/robustness.json and results/robustness.md beside this file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from certified import RADII, percent
from problems import fashion_baseline
from results import arguments, command, grid, keep, machine, ran_on, say

import simplicit as sp
from simplicit.data import Dataset

Cell = Callable[[dict[str, Any]], str]
Columns = dict[str, Cell]

BOUNDS = {"global": "(a)", "interval": "(b)", "linear": "(c)"}
#: Gradient steps on the slopes of (c).
CLIMBING = 20


@dataclass(frozen=True)
class Sample:
    """The test images on which the slow figures are measured."""

    places: npt.NDArray[np.int64]
    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @classmethod
    def drawn(cls, data: Dataset, count: int) -> Sample:
        places = np.sort(np.random.default_rng(0).choice(len(data.test_labels), count, replace=False))
        return cls(places, data.test_inputs[places], data.test_labels[places])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="test images for AutoAttack and climbed slopes")
    parser.add_argument("--fit-samples", type=int, default=1000, help="training images of the fits")
    parser.add_argument("--sparsities", type=float, nargs="*", default=[50, 65, 80])
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of `simplicit fit` to measure beside")
    options = parser.parse_args()
    net, data = fashion_baseline(options.data_dir)
    baseline = sp.from_torch(net, data.test_inputs[:2])
    chosen = np.random.default_rng(0).permutation(len(data.train_inputs))[: options.fit_samples]
    models = {"baseline": baseline}
    for sparsity in options.sparsities:
        recipe = sp.Matching(sparsity=sparsity, kappa=0.99)
        models[f"fit, {sparsity:g} %"] = sp.fit(net, data.train_inputs[chosen], recipe).model
    models |= {str(run): sp.load(run) for run in options.runs}
    sample = Sample.drawn(data, options.samples)
    report = {
        "command": command(),
        "machine": machine(),
        "settings": {"fit_samples": options.fit_samples, "samples": options.samples, "seed": 0, "climbing": CLIMBING},
        "eps": RADII,
        "models": [measured(name, model, baseline, data, sample) for name, model in models.items()],
    }
    keep(options.output, "robustness", report, page(report))


def measured(
    name: str, model: sp.ImplicitModel, baseline: sp.ImplicitModel, data: Dataset, sample: Sample
) -> dict[str, Any]:
    """All figures of one model, accuracies in per cent."""
    radii = list(RADII.values())
    image: dict[str, Any] = {"image_shape": data.input_shape}
    sources = {} if model is baseline else {"baseline": baseline}
    whole = sp.attack(model, data.test_inputs, data.test_labels, radii, sources=sources, **image)
    begun = time.perf_counter()
    strong = sp.attack(model, sample.inputs, sample.labels, radii, attacks=["autoattack"], **image)
    seconds = time.perf_counter() - begun
    exact = model.astype(np.float64)
    plain = sp.certify(exact, data.test_inputs, data.test_labels, radii)
    climbed = sp.certify(exact, sample.inputs, sample.labels, radii, steps=CLIMBING)
    held = whole.worst[:, sample.places] & strong.worst
    broken = (plain.certified["linear"] & ~whole.worst).sum() + (climbed.certified["linear"] & ~held).sum()
    row = {
        "name": name,
        "sparsity": model.sparsity(baseline.nnz),
        "nnz": model.nnz,
        "clean": percent(whole.correct),
        "attacked": {attack: percent(outcome) for attack, outcome in whole.held.items()},
        "worst": percent(whole.worst),
        "findings": [str(finding) for finding in whole.checks.findings],
        "certified": {bound: percent(certified) for bound, certified in plain.certified.items()},
        "attacks_on_certified": int(broken),
        "on_the_sample": {
            "clean": percent(strong.correct),
            "pgd": percent(whole.held["pgd"][:, sample.places]),
            "autoattack": percent(strong.held["autoattack"]),
            "linear": percent(plain.certified["linear"][:, sample.places]),
            "climbed": percent(climbed.certified["linear"]),
        },
        "seconds": dict(whole.seconds)
        | {"autoattack": seconds, "climbed": climbed.seconds["linear"]}
        | {bound: plain.seconds[bound] for bound in plain.seconds},
    }
    say(json.dumps(row))
    return row


def page(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    settings, models = report["settings"], report["models"]
    rows = [{"model": model, "place": place} for model in models for place in range(len(report["eps"]))]
    findings = [f"- {model['name']}: {finding}" for model in models for finding in model["findings"]]
    broken = sum(model["attacks_on_certified"] for model in models)
    lines = [
        "# Attacks and certificates on Fashion-MNIST, 784-64-32-16-10 without biases",
        "",
        f"{ran_on(report)}. Fits on "
        f"{settings['fit_samples']:,} training images without labels. All accuracies in per cent.",
        "",
        "## Under attack, all test images",
        "",
        *grid(names(report) | under_attack(), rows),
        "",
        "Checks of the attacks: " + ("" if findings else "all passed."),
        *findings,
        "",
        "## Certified, all test images",
        "",
        *grid(names(report) | certified(), rows),
        "",
        f"Attacks of any kind that succeeded on a certified sample: {broken}.",
        "",
        f"## Between proof and attack, {settings['samples']:,} test images",
        "",
        *grid(names(report) | on_the_sample(), rows),
        "",
        f"Climbed: {settings['climbing']} gradient steps on the slopes, for samples that are not certified without.",
        "",
        "## Seconds, all three radii",
        "",
        *grid({"": lambda model: model["name"]} | seconds(), models),
        "",
        "PGD and (c) on all test images, the others on the sample.",
    ]
    return "\n".join(lines) + "\n"


def names(report: dict[str, Any]) -> Columns:
    eps = list(report["eps"])
    return {
        "": lambda row: row["model"]["name"],
        "sparsity": lambda row: f"{row['model']['sparsity']:.1f}",
        "ε": lambda row: eps[row["place"]],
    }


def under_attack() -> Columns:
    def attacked(name: str) -> Cell:
        def cell(row: dict[str, Any]) -> str:
            shares = row["model"]["attacked"].get(name)
            return "" if shares is None else f"{shares[row['place']]:.2f}"

        return cell

    return {
        "clean": lambda row: f"{row['model']['clean']:.2f}",
        "FGSM": attacked("fgsm"),
        "PGD-50x5": attacked("pgd"),
        "Square-300": attacked("square"),
        "transfer": attacked("transfer from baseline"),
        "worst": lambda row: f"{row['model']['worst'][row['place']]:.2f}",
    }


def certified() -> Columns:
    def proved(bound: str) -> Cell:
        return lambda row: f"{row['model']['certified'][bound][row['place']]:.2f}"

    return {title: proved(bound) for bound, title in BOUNDS.items()} | {
        "PGD-50x5": lambda row: f"{row['model']['attacked']['pgd'][row['place']]:.2f}",
        "clean": lambda row: f"{row['model']['clean']:.2f}",
    }


def on_the_sample() -> Columns:
    def share(key: str) -> Cell:
        return lambda row: f"{row['model']['on_the_sample'][key][row['place']]:.1f}"

    titles = {"linear": "(c)", "climbed": "climbed", "autoattack": "AutoAttack", "pgd": "PGD-50x5"}
    return {title: share(key) for key, title in titles.items()} | {
        "clean": lambda row: f"{row['model']['on_the_sample']['clean']:.1f}"
    }


def seconds() -> Columns:
    def taken(key: str) -> Cell:
        return lambda model: f"{model['seconds'][key]:.1f}"

    titles = {"pgd": "PGD-50x5", "autoattack": "AutoAttack", "linear": "(c)", "climbed": "climbed"}
    return {title: taken(key) for key, title in titles.items()}


if __name__ == "__main__":
    main()
