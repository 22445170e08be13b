"""Fingerprints: hashes of coefficients to the last bit, by which two states of the code are held against each other.

    python benchmarks/fingerprint.py                     # rows, paths and every recipe on small networks; a minute
    python benchmarks/fingerprint.py --resnet            # and on ResNet-20; needs the data, as benchmarks/resnet20.py
    python benchmarks/fingerprint.py --compare FILE      # and say what differs from an earlier file, by exit code 1 too

Rows are random, of four shapes, under every penalty, ball, support and kind of input. The networks are a perceptron
that is trained on digits here, with biases and without, and a convolutional one with random weights, both from seeds. A
hash covers values, places and shapes. It depends on the kind of processor and on the versions of torch and NumPy, so
compare files of one machine. Prints the table and writes results/fingerprint.json beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from resnet20 import Data, trained
from results import RESULTS, machine, source_digest
from torch import nn

import simplicit as sp
from simplicit.data import load_dataset
from simplicit.runs.mlp import MlpSettings, train_mlp

Array = npt.NDArray[Any]
#: A name, and what gives the arrays that are hashed.
Case = tuple[str, Callable[[], list[Array]]]

#: Samples, columns, rows and, where it is less than that, the rank of the features.
SHAPES = {
    "tall": (300, 80, 20, 80),
    "wide": (60, 200, 12, 200),
    "dependent": (100, 90, 40, 30),
    "few": (40, 1500, 5, 1500),
}
PENALTIES = {
    "l1": sp.L1(beta=8.0),
    "elastic-net": sp.ElasticNet(beta=5.0, alpha=1.0),
    "perspective": sp.Perspective(alpha=0.5, gamma=2.0),
    "none": sp.NoPenalty(),
}
EXECUTORS = ("serial", "processes")
RECIPES: dict[str, sp.training.Recipe] = {
    "sparse": sp.Sparse(),
    "sparse, 95 %": sp.Sparse(95),
    "sparse, l1 candidates": sp.Sparse(85, candidates=sp.L1(1e-3)),
    "sparse, feedforward": sp.Sparse(85, structure="feedforward"),
    "robust": sp.Robust(),
    "robust, 75 %": sp.Robust(sparsity=75),
    "certified": sp.Certified(),
    "matching": sp.Matching(),
    "matching, 80 %, refit": sp.Matching(sparsity=80, rounds=2, refit=sp.Ridge()),
    "matching, propagated": sp.Matching(structure="feedforward", propagate=True),
    "matching, no-self": sp.Matching(structure="no-self", normalize="both"),
    "paper": sp.Matching.paper(),
}
#: On networks with convolutions.
CHANNEL_RECIPES: dict[str, sp.training.Recipe] = {
    "sparse": sp.Sparse(90),
    "matching, refit": sp.Matching(propagate=True, refit=sp.Ridge()),
    "matching, both": sp.Matching(sp.L1(1e-2), normalize="both", rounds=2),
}


@dataclass(frozen=True)
class Print:
    """The fingerprint of a case, and the seconds that it took."""

    hash: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet", action="store_true", help="ResNet-20 too (two minutes more)")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("SIMPLICIT_DATA", "../shared/data")))
    parser.add_argument("--compare", type=Path, help="a fingerprint.json of another state of the code")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    before = None if options.compare is None else json.loads(options.compare.read_text())["cases"]
    found: dict[str, Print] = {}
    for name, arrays in cases(options):
        begun = time.perf_counter()
        found[name] = Print(hash_of(arrays()), round(time.perf_counter() - begun, 3))
        print(f"{name:<42}{found[name].hash}{found[name].seconds:>9.2f} s", flush=True)
    report = {
        "command": " ".join(["python", "benchmarks/fingerprint.py", *(["--resnet"] if options.resnet else [])]),
        "machine": machine(),
        "source": source_digest(),
        "cases": {name: asdict(one) for name, one in found.items()},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "fingerprint.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0 if before is None else compared(found, before)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Everything whose bits are kept."""
    for name, shape in SHAPES.items():
        yield from row_cases(name, *problem(*shape))
    features, targets = problem(*SHAPES["tall"])
    for name in EXECUTORS:
        yield f"rows, {name}", lambda name=name: rows(features, targets, penalty=PENALTIES["l1"], executor=name)
    digits = load_dataset("digits")
    for bias in (True, False):
        net = train_mlp(digits, MlpSettings(arch=(32, 16), bias=bias, epochs=5))
        yield from fit_cases("mlp" if bias else "mlp, no biases", net, digits.train_inputs[:300], RECIPES, matrix)
    images = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    yield from fit_cases("convolutions", convolutional(), images, CHANNEL_RECIPES, weights)
    if options.resnet:
        net, images = trained(options.data_dir), Data.read(options.data_dir).train[:100]
        yield from fit_cases("resnet-20", net, images, CHANNEL_RECIPES, weights)
        chosen = sp.Matching(sp.L1(0.05), structure="feedforward", states=("layer3.2.relu_1",))
        yield from fit_cases("resnet-20", net, images[:60], {"matching, one state": chosen}, matrix)


def problem(m: int, d: int, r: int, rank: int) -> tuple[Array, Array]:
    """Rows with a tenth of their columns in use, and noise."""
    rng = np.random.default_rng(m + d)
    features = rng.normal(size=(m, rank)) @ (np.eye(d) if rank == d else rng.normal(size=(rank, d)))
    truth = rng.normal(size=(d, r)) * (rng.random((d, r)) < 0.1)
    return features, features @ truth + 0.1 * rng.normal(size=(m, r))


def row_cases(shape: str, features: Array, targets: Array) -> Iterator[Case]:
    """``solve_rows`` and ``solve_path`` on one problem, in every way that they take it."""
    (m, d), r = features.shape, targets.shape[1]
    rng = np.random.default_rng(5)
    mask, start, l1 = rng.random((r, d)) < 0.5, rng.normal(size=(r, d)), PENALTIES["l1"]
    variants: dict[str, dict[str, Any]] = {name: {"penalty": penalty} for name, penalty in PENALTIES.items()}
    variants |= {
        "ball": {"penalty": l1, "ball": sp.Ball(0.5, slice(0, d // 2))},
        "supports": {"penalty": l1, "support": mask},
        "two supports": {"penalty": l1, "support": np.repeat(mask[:2], -(-r // 2), axis=0)[:r]},
        "intercept": {"penalty": l1, "intercept": True},
        "rounds": {"penalty": l1, "rounds": 3},
        "warm": {"penalty": l1, "warm_start": start},
    }
    if m < d:
        variants["basis-pursuit"] = {"penalty": sp.BasisPursuit()}
    for name, settings in variants.items():
        yield f"rows, {shape}, {name}", lambda settings=settings: rows(features, targets, **settings)
    gram = sp.Gram()
    gram.update(features, targets)
    yield f"rows, {shape}, gram", lambda: rows(gram, penalty=l1, intercept=True)
    strongest = sp.beta_max(features, targets)
    yield f"rows, {shape}, beta_max", lambda: [strongest]
    strengths = [sp.L1(strongest.max() * share) for share in (1.0, 0.3, 0.1, 0.03)]
    yield f"path, {shape}, strengths", lambda: path(features, targets, strengths)
    balls = [sp.Ball(radius) for radius in (0.1, 0.5, 2.0)]
    yield f"path, {shape}, balls", lambda: path(features, targets, sp.L1(1.0), ball=balls)


def rows(*problem: Any, **settings: Any) -> list[Array]:
    return of_solution(sp.solve_rows(*problem, throw=False, **settings))


def path(*problem: Any, **settings: Any) -> list[Array]:
    members = sp.solve_path(*problem, throw=False, **settings)
    return [array for member in members for array in of_solution(member)]


def of_solution(solution: sp.Solution) -> list[Array]:
    """What a solution says, the certificate too."""
    found = solution.coefficients
    return [*sparse(found), solution.intercepts, solution.dual_gap, solution.status]


def fit_cases(
    kind: str,
    net: nn.Module,
    inputs: Any,
    recipes: dict[str, sp.training.Recipe],
    arrays: Callable[[sp.FitResult], list[Array]],
) -> Iterator[Case]:
    """``fit`` by every recipe."""
    for name, recipe in recipes.items():
        yield f"fit, {kind}, {name}", lambda recipe=recipe: arrays(sp.fit(net, inputs, recipe, throw=False))


def matrix(result: sp.FitResult) -> list[Array]:
    """M and the biases of the model."""
    model = result.model
    return [*sparse(model.matrix), model.state_bias, model.output_bias]


def weights(result: sp.FitResult) -> list[Array]:
    """The state_dict of the network."""
    return [value.numpy() for value in result.network().state_dict().values()]


def convolutional() -> nn.Module:
    """Two convolutions, one of them in groups, a batch norm and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, groups=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 5),
        ).eval()


def sparse(array: Any) -> list[Array]:
    """Values and places, in one order and type."""
    found = array.tocsr()
    found.sort_indices()
    return [found.data, found.indices.astype(np.int64), found.indptr.astype(np.int64)]


def hash_of(arrays: list[Array]) -> str:
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.shape} {array.dtype.str} ".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def compared(found: dict[str, Print], before: dict[str, Any]) -> int:
    """Say what differs: 1 if anything does."""
    shared = [name for name in found if name in before]
    differing = [name for name in shared if found[name].hash != before[name]["hash"]]
    new, gone = [name for name in found if name not in before], [name for name in before if name not in found]
    print(f"\n{len(shared)} cases compared, {len(differing)} differ; {len(new)} are new, {len(gone)} were not run.")
    for name in differing:
        print(f"differs: {name}")
    now, then = sum(found[name].seconds for name in shared), sum(before[name]["seconds"] for name in shared)
    print(f"{now:.1f} s, before {then:.1f} s")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
