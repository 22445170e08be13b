"""The constants of the cost model, its check against runs, and what it predicts for the goal."""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from problems import synthetic
from results import RESULTS, say
from scale_model import Constants, Size, predict

from simplicit.executors import Arrays, Block, Executor, Journal, Processes, Ray, Work, run_blocks
from simplicit.executors.records import planned
from simplicit.executors.work import Solve
from simplicit.machine import one_thread_each
from simplicit.rows.products import fill_gram

# The cluster of two nodes is made of several processes of ours: on the loopback, with a token that all of them know.
# Ray reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


#: The executors whose workers are processes of their own. These import this file, and have only parts of the library.
OF_PROCESSES: dict[str, type[Processes] | type[Ray]] = {"processes": Processes, "ray": Ray}


@dataclass(frozen=True, eq=False)
class Parcel:
    values: npt.NDArray[np.float64]


def sent_back(block: Block, rows: Parcel, entries: None) -> Parcel:
    return Parcel(np.array(rows.values))


class Parcels(Work[Parcel]):
    """Blocks that do nothing but carry bytes there and back."""

    def __init__(self, blocks: int, nbytes: int) -> None:
        self.blocks = [Block(number, 0, (number, number + 1)) for number in range(blocks)]
        self.arrays = Arrays(None, Parcel(planned((blocks, max(1, nbytes // 8)))), None)

    def fill(self, arrays: Arrays[None, Parcel, None], threads: int) -> None:
        arrays.rows.values[...] = 1.0

    def describe(self, block: Block) -> str:
        return f"parcel {block.number}"

    @staticmethod
    def opener(shared: None) -> Solve[Parcel]:
        return sent_back


def seconds_of(executor: Executor, work: Parcels) -> float:
    begun = time.perf_counter()
    for _ in run_blocks(executor, work, work.blocks):
        pass
    return time.perf_counter() - begun


def constants(options: argparse.Namespace) -> dict[str, Any]:
    """Of the executors that leave the process, with all workers."""
    found = {}
    gram, contention = gram_flop(), busy_factor(options.workers)
    kept = journal_costs()
    for name, kind in OF_PROCESSES.items():
        say(f"constants: {name}")
        begun = time.perf_counter()
        with kind(workers=options.workers) as executor:
            seconds_of(executor, Parcels(2, 8))
            start = time.perf_counter() - begun
            empty, full, size = 300, 60, 2**21
            block = min(seconds_of(executor, Parcels(empty, 8)) for _ in range(3)) / empty
            whole = min(seconds_of(executor, Parcels(full, size)) for _ in range(3)) / full
        byte = max(0.0, whole - block) / (2 * size)
        found[name] = asdict(Constants(start, block, byte, *kept, gram, contention))
    return found


def gram_flop() -> float:
    rows, out = np.random.default_rng(0).normal(size=(2048, 1000)), np.empty((2048, 2048))
    with one_thread_each():
        fill_gram(rows, out)
        begun = time.perf_counter()
        fill_gram(rows, out)
    return float((time.perf_counter() - begun) / (len(rows) ** 2 / 2 * rows.shape[1]))


def busy_factor(workers: int | None) -> float:
    """How much longer blocks take while others run beside them, by the time that threads of processes spend on them."""
    problem = synthetic(500, 800, 256)
    alone = float(problem.solve(executor="serial").seconds.sum())
    together = float(problem.solve(executor=Processes(workers=workers)).seconds.sum())
    return max(1.0, together / alone)


def journal_costs() -> tuple[float, float]:
    """Seconds per block, and per byte beyond."""
    spent = {}
    with (
        tempfile.TemporaryDirectory(dir=RESULTS.parent) as folder,
        Journal.open(Path(folder) / "j", "k" * 64, {}) as kept,
    ):
        section = kept.section("k" * 64, {})
        for size in (2**12, 2**22):
            result = Parcel(np.ones(size // 8))
            begun = time.perf_counter()
            for number in range(20):
                section.store(number, result)
            spent[size] = (time.perf_counter() - begun) / 20
    small, large = sorted(spent)
    byte = max(0.0, spent[large] - spent[small]) / (large - small)
    return spent[small] - byte * small, byte


# --- check ----------------------------------------------------------------------------------------------------------


def check(options: argparse.Namespace, known: dict[str, Any]) -> list[dict[str, Any]]:
    """Problems of other shapes than those that gave the constants, predicted and then run."""
    rows = []
    shapes = ((400, 600, 512, 32), (300, 1000, 300, 16), (200, 400, 2000, 8), (500, 1500, 256, 32))
    for samples, columns, count, block_rows in shapes:
        problem = synthetic(samples, columns, count)
        alone = problem.solve(executor="serial", block_rows=block_rows)
        per_row = float(alone.seconds.sum()) / count
        size = Size(count, columns, samples, per_row, alone.coefficients.nnz / count, block_rows)
        for name, kind in OF_PROCESSES.items():
            of = Constants(**known[name])
            with kind(workers=options.workers) as executor:
                seconds_of(executor, Parcels(2, 8))  # its start is known; what is checked is the rest
                begun = time.perf_counter()
                problem.solve(executor=executor, block_rows=block_rows)
                measured = time.perf_counter() - begun
                expected = predict(size, of, executor.n_workers)
            rows.append(_checked(size, name, executor.n_workers, 1, expected["total"] - of.start, measured))
    rows += check_two_nodes(Constants(**known["ray"]))
    return rows


def check_two_nodes(of: Constants) -> list[dict[str, Any]]:
    from ray.cluster_utils import Cluster

    problem = synthetic(400, 600, 512)
    alone = problem.solve(executor="serial")
    size = Size(512, 600, 400, float(alone.seconds.sum()) / 512, alone.coefficients.nnz / 512)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        with Ray(workers=2, address=cluster.address) as executor:
            seconds_of(executor, Parcels(2, 8))
            begun = time.perf_counter()
            problem.solve(executor=executor)
            measured = time.perf_counter() - begun
    finally:
        cluster.shutdown()
    expected = predict(size, of, 2, nodes=2)
    return [_checked(size, "ray", 2, 2, expected["total"] - of.start, measured)]


def _checked(size: Size, name: str, workers: int, nodes: int, expected: float, measured: float) -> dict[str, Any]:
    shape = f"{size.rows} x {size.columns} x {size.samples}"
    say(f"check: {name} {shape}: {expected:.2f} s predicted, {measured:.2f} s measured")
    found = {"executor": name, "workers": workers, "nodes": nodes, "predicted": expected, "measured": measured}
    return asdict(size) | found | {"ratio": measured / expected}


# --- 10⁶ rows x 10⁴ columns -----------------------------------------------------------------------------------------

#: Row problems as large as the goal, measured here one by one, and what a node has.
GOAL = {"rows": 10**6, "columns": 10**4, "samples": 4000}
NODE_WORKERS, NETWORK = 32, 1.2e9


def goal(known: dict[str, Any]) -> list[dict[str, Any]]:
    problem = synthetic(GOAL["samples"], GOAL["columns"], 8)
    say("predict: 8 rows of the goal")
    solved = problem.solve(executor="serial")
    per_row, non_zeros = float(solved.seconds.sum()) / 8, solved.coefficients.nnz / 8
    of, rows = Constants(**known["ray"]), []
    for block_rows in (8, 64):
        size = Size(**GOAL, row_seconds=per_row, non_zeros=non_zeros, block_rows=block_rows)
        for nodes in (1, 4, 16, 64, 256):
            found = predict(size, of, nodes * NODE_WORKERS, nodes=nodes, network=NETWORK, journal=True)
            rows.append({"nodes": nodes, "block_rows": block_rows, "row_seconds": per_row} | found)
    return rows
