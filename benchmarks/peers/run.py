"""Run one peer on one problem, in this process and the two that it starts.

    python -m peers.run NAME PROBLEM.npz RESULT.npz --limit SECONDS        # from the folder above this one

The problem file holds features, targets, weight, beta, kappa (NaN for no ball) and n_ball; the result file gets
coefficients (r, d), solved (r,), seconds, finished ("yes", "time limit" or the error) and the versions. Imports and
compilation, on a tiny problem before, are not timed; everything from the arrays to the coefficients is.
"""

from __future__ import annotations

import argparse
import importlib
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from peers.common import Rows

PACKAGES = {
    "celer": ("celer",),
    "skglm": ("skglm", "numba"),
    "scikit_learn": ("scikit-learn",),
    "scikit_learn_lars": ("scikit-learn",),
    "torchidl": ("torchidl", "cvxpy", "clarabel"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PACKAGES))
    parser.add_argument("problem", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--limit", type=float, required=True)
    options = parser.parse_args()
    peer = importlib.import_module(f"peers.{options.name}")
    with np.load(options.problem, allow_pickle=False) as stored:
        rows = Rows(
            features=stored["features"],
            targets=stored["targets"],
            weight=float(stored["weight"]),
            beta=float(stored["beta"]),
            kappa=None if np.isnan(stored["kappa"]) else float(stored["kappa"]),
            n_ball=int(stored["n_ball"]),
        )
    for _ in peer.solve(tiny(rows), time.perf_counter() + 600):
        pass

    coefficients = np.zeros((rows.targets.shape[1], rows.features.shape[1]))
    solved = np.zeros(len(coefficients), dtype=bool)
    finished, begun = "yes", time.perf_counter()
    try:
        for chosen, w in peer.solve(rows, begun + options.limit):
            coefficients[chosen], solved[chosen] = w, True
    except TimeoutError:
        finished = "time limit"
    except Exception as error:  # whatever a peer raises is its result
        finished = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - begun
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES[options.name])
    np.savez(
        options.result,
        coefficients=coefficients,
        solved=solved,
        seconds=seconds,
        finished=finished,
        versions=versions,
    )


def tiny(rows: Rows) -> Rows:
    """Two easy rows with the ball of the real ones, to load and compile everything."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 8))
    return Rows(features, rng.normal(size=(30, 2)), 1.0, 20.0, rows.kappa, 4)


if __name__ == "__main__":
    main()
