"""What supports cost in wide layers: seconds a row and memory from 256 to 4,096 columns, and beside ALPS.

    python benchmarks/width.py                  # half an hour on 2 quiet cores

Columns have correlations of .9 to the power of their distance, and units spread over one decade; rows differ in size,
as those of trained layers do; ridge and anchor are those of tied rows. Half of the weights stay, in all rows together.
The first lines have the shapes of the layers of all-MiniLM-L6, the others as many rows as columns, up to
--most-rows, which are enough to see what a row costs. `pilot` is the elimination of the rows that stand for a layer,
`select` the support with its values, and `ALPS` support and values of the peer, which takes the same number of cores.
Errors are those of the layers in units of ALPS'. Each line is a process of its own, so that its memory at the peak is
its own too. Prints the table and writes results/width.json and results/width.md.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from results import arguments, command, grid, keep, machine, say

from simplicit.machine import available_processors
from simplicit.rows.batch import Array
from simplicit.studies.peers import PEERS
from simplicit.studies.peers.base import Layer
from simplicit.training.problem import LeastSquares, Ridge, Sums
from simplicit.training.support.selection import elimination_paths, select
from simplicit.training.training import PILOT_PRODUCTS, PILOT_ROWS

#: Layers of all-MiniLM-L6, rows and columns.
MINILM = ((384, 384), (1536, 384), (384, 1536))


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--columns", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--most-rows", type=int, default=4096)
    parser.add_argument("--peer-columns", type=int, default=2048, help="ALPS is run up to so many columns")
    parser.add_argument("--note", default="", help="what the table should say of the circumstances")
    options = parser.parse_args()
    shapes = [*MINILM, *((min(d, options.most_rows), d) for d in options.columns)]
    rows = []
    for rows_of_layer, columns in shapes:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peer = columns <= options.peer_columns
            rows.append(pool.submit(measured, rows_of_layer, columns, peer=peer).result())
        say(str(rows[-1]))
    report = {"command": command(), "machine": machine(), "note": options.note, "rows": rows}
    keep(options.output, "width", report, page(report))


def problem(rows: int, columns: int) -> tuple[LeastSquares, Array]:
    """Ridge on columns whose correlations fall with their distance, and the baseline's weights (rows, columns)."""
    random = np.random.default_rng(columns)
    places = np.arange(columns)
    units = 10.0 ** random.uniform(-0.5, 0.5, columns)
    count = 8 * columns
    gram = count * 0.9 ** np.abs(places[:, None] - places) * np.outer(units, units)
    weights = random.normal(size=(rows, columns)) * random.uniform(0.2, 1.8, (rows, 1)) / units
    cross = weights @ gram
    energy = np.einsum("ij,ij->i", cross, weights)
    sums = Sums(gram, cross, energy, count, float(np.finfo(np.float32).eps))
    return LeastSquares.of(sums, weights, weights != 0, Ridge(0.01, anchor=1.0)), weights


def measured(rows: int, columns: int, *, peer: bool) -> dict[str, Any]:
    """Seconds, errors and megabytes of one layer."""
    given, weights = problem(rows, columns)
    before, workers = _megabytes(), available_processors()
    some = np.arange(min(rows, max(PILOT_ROWS, int(PILOT_PRODUCTS / columns**3))))
    pilot = _timed(lambda: elimination_paths(given.of_rows(some), given.support[some], workers))[0]
    count = rows * columns // 2
    seconds, found = _timed(lambda: select(given, (), np.ones(rows), count, workers, thresholding=True))
    result = {"rows": rows, "columns": columns, "pilot": pilot, "select": seconds, "exchanged": found.exchanged}
    result |= {"matrices": (_megabytes() - before) / (8 * rows * columns / 2**20)}
    if peer:
        layer = Layer(weights, given.gram, given.cross, count)
        result["alps"], theirs = _timed(lambda: PEERS["alps"].prune(layer))
        result["error"] = _error(given, found.coefficients) / _error(given, theirs)
    return result


def _error(given: LeastSquares, W: Array) -> float:
    return float(np.einsum("ij,ij->", W @ given.gram - 2 * given.cross, W) + given.energy.sum())


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def page(report: dict[str, Any]) -> str:
    """The table in Markdown."""

    def optional(name: str, form: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: format(row[name], form) if name in row else ""

    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "rows": lambda row: f"{row['rows']:,}",
        "columns": lambda row: f"{row['columns']:,}",
        "pilot, s": optional("pilot", ".1f"),
        "select, s": optional("select", ".1f"),
        "ms a row": lambda row: f"{1000 * row['select'] / row['rows']:.1f}",
        "ns a row and column²": lambda row: f"{1e9 * row['select'] / row['rows'] / row['columns'] ** 2:.1f}",
        "memory, matrices": optional("matrices", ".1f"),
        "ALPS, s": optional("alps", ".1f"),
        "error / ALPS'": optional("error", ".3f"),
    }
    lines = ["# Supports at width", "", "Half of the weights stay. Memory is what is allocated beyond the problem, in "]
    lines[-1] += "float64 matrices of rows by columns."
    lines += [report["note"]] if report["note"] else []
    return "\n".join([*lines, "", *grid(columns, report["rows"]), "", f"`{report['command']}`", ""])


if __name__ == "__main__":
    main()
