"""Fingerprints: hashes of coefficients to the last bit, by which two states of the code are held against each other.

    python benchmarks/fingerprints.py --output before.json     # prints and keeps them; two minutes
    python benchmarks/fingerprints.py --against before.json    # says what differs, by exit code 1 too
    python benchmarks/fingerprints.py --only rows              # cases whose names begin so

Rows are random, of four shapes, under every penalty, ball, support and kind of input. The networks are a perceptron
that is trained on digits here, with biases and without, and a convolutional one with random weights, both from seeds. A
hash covers values, places and shapes. It depends on the kind of processor and on the versions of torch and NumPy, so
compare files of one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from results import machine, source_digest
from torch import nn

import simplicit as sp
from simplicit.data import load_dataset
from simplicit.runs.mlp import MlpSettings, train_mlp
from simplicit.training import Recipe

Array = npt.NDArray[Any]
#: A name, and what gives the arrays that are hashed.
Case = tuple[str, Callable[[], list[Array]]]

#: Samples, columns, rows and, where it is less than that, the rank of the features.
SHAPES = {"tall": (300, 80, 20, 80), "wide": (60, 200, 12, 200), "rank": (100, 90, 40, 30), "few": (40, 1500, 5, 1500)}
PENALTIES = {
    "l1": sp.L1(beta=8.0),
    "elastic-net": sp.ElasticNet(beta=5.0, alpha=1.0),
    "perspective": sp.Perspective(alpha=0.5, gamma=2.0),
    "none": sp.NoPenalty(),
}
RECIPES: dict[str, Recipe] = {
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
CHANNEL_RECIPES: dict[str, Recipe] = {
    "sparse": sp.Sparse(90),
    "matching, refit": sp.Matching(propagate=True, refit=sp.Ridge()),
    "matching, both": sp.Matching(sp.L1(1e-2), normalize="both", rounds=2),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PREFIX", help="cases whose names begin so, such as rows or fit")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to keep the fingerprints, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="fingerprints of another state of the code")
    options = parser.parse_args()
    before = None if options.against is None else json.loads(options.against.read_text())["cases"]
    found = {}
    for name, arrays in cases():
        if name.startswith(options.only):
            begun = time.perf_counter()
            found[name] = hash_of(arrays())
            print(f"{name:<40} {found[name]}{time.perf_counter() - begun:>9.2f} s", flush=True)
    if options.output is not None:
        report = {"machine": machine(), "source": source_digest(), "cases": found}
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if before is None else compared(found, before)


def cases() -> Iterator[Case]:
    """Everything whose bits are kept."""
    for name, shape in SHAPES.items():
        yield from row_cases(name, *problem(*shape))
    features, targets = problem(*SHAPES["tall"])
    for executor in ("serial", "threads", "processes"):
        yield f"rows, {executor}", partial(rows, features, targets, penalty=PENALTIES["l1"], executor=executor)
    digits = load_dataset("digits")
    for name, bias in (("perceptron", True), ("no biases", False)):
        net = train_mlp(digits, MlpSettings(arch=(32, 16), bias=bias, epochs=5))
        for title, recipe in RECIPES.items():
            yield f"fit, {name}, {title}", partial(matrix, net, digits.train_inputs[:300], recipe)
    images = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    for title, recipe in CHANNEL_RECIPES.items():
        yield f"fit, convolutions, {title}", partial(weights, convolutional(), images, recipe)


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
    variants: dict[str, dict[str, Any]] = {name: {"penalty": penalty} for name, penalty in PENALTIES.items()} | {
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
        yield f"rows, {shape}, {name}", partial(rows, features, targets, **settings)
    gram = sp.Gram.from_batches([(features, targets)])
    yield f"rows, {shape}, gram", partial(rows, gram, penalty=l1, intercept=True)
    strongest = sp.beta_max(features, targets)
    yield f"rows, {shape}, beta_max", lambda: [strongest]
    strengths = [sp.L1(strongest.max() * share) for share in (1.0, 0.3, 0.1, 0.03)]
    yield f"path, {shape}, strengths", partial(path, features, targets, strengths)
    balls = [sp.Ball(radius) for radius in (0.1, 0.5, 2.0)]
    yield f"path, {shape}, balls", partial(path, features, targets, sp.L1(1.0), ball=balls)


def rows(*given: Any, **settings: Any) -> list[Array]:
    """What ``solve_rows`` says, the certificate too."""
    return of_solution(sp.solve_rows(*given, throw=False, **settings))


def path(*given: Any, **settings: Any) -> list[Array]:
    return [array for one in sp.solve_path(*given, throw=False, **settings) for array in of_solution(one)]


def of_solution(solution: sp.Solution) -> list[Array]:
    return [*sparse(solution.coefficients), solution.intercepts, solution.dual_gap, solution.status]


def matrix(net: nn.Module, inputs: Array, recipe: Recipe) -> list[Array]:
    """M and the biases of the fitted model."""
    model = sp.fit(net, inputs, recipe, throw=False).model
    return [*sparse(model.matrix), model.state_bias, model.output_bias]


def weights(net: nn.Module, images: torch.Tensor, recipe: Recipe) -> list[Array]:
    """The state_dict of the fitted network."""
    fitted = sp.fit(net, images, recipe, throw=False).network()
    return [value.numpy() for value in fitted.state_dict().values()]


def convolutional() -> nn.Module:
    """Two convolutions, one of them in groups, a batch norm and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, groups=2)
        end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
        return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU(), *end).eval()


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


def compared(found: dict[str, str], before: dict[str, str]) -> int:
    """Say what differs: 1 if anything does."""
    differing = [name for name in found if before.get(name, found[name]) != found[name]]
    new, gone = found.keys() - before.keys(), before.keys() - found.keys()
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(found)} cases, {len(differing)} differ; {len(new)} are new, {len(gone)} were not run")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
