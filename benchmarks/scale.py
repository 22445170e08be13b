"""What a solve costs on many nodes: a model, its constants measured here, a check against runs, and a simulation.

    python benchmarks/scale.py                       # all; some ten minutes
    python benchmarks/scale.py simulate              # one section; the figures of the others are kept

Sections:
  constants  seconds per row, block and byte of this machine, each by a run that shows little else
  check      other problems, and a Ray cluster of two nodes, predicted by the model and then measured
  predict    10⁶ rows x 10⁴ columns on 1 to 256 nodes of 32 workers, by the model
  simulate   the library's own scheduling in virtual time, with stragglers and losses

Writes results/scale.json and scale.md beside this file; docs/scale.md explains them.
"""

from __future__ import annotations

import argparse
import heapq
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from problems import synthetic
from results import RESULTS, grid, machine

import simplicit as sp
from simplicit.executors import Block, Deadline, Executor, Journal, Work, make_executor, run_blocks, running
from simplicit.executors.base import Finished, Lost, Report
from simplicit.executors.work import Arrays, Result, Spec

SECTIONS = ("constants", "check", "predict", "simulate")
GIB = 2**30


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constants:
    """Of one machine and one executor.

    Attributes
    ----------
    start : float
        Seconds until the workers are up.
    block : float
        Seconds of the driver for every block: to hand it out, take its result in, start the next.
    byte : float
        Seconds of the driver for every byte that travels with a block, there and back.
    journal_block, journal_byte : float
        Seconds of the driver to keep a block.
    gram_flop : float
        Seconds of a multiplication and an addition of the Gram matrix.
    contention : float
        How much longer a block takes while all workers are busy.
    """

    start: float
    block: float
    byte: float
    journal_block: float
    journal_byte: float
    gram_flop: float
    contention: float = 1.0


@dataclass(frozen=True)
class Size:
    """A problem, as far as its cost goes."""

    rows: int
    columns: int
    samples: int
    row_seconds: float  # on one worker that is alone
    non_zeros: float  # per row
    block_rows: int = 32

    @property
    def forms_gram(self) -> bool:
        return self.columns <= max(4096, 4 * self.samples)

    @property
    def shared_bytes(self) -> float:
        """Φᵀ, and G where it is formed: once on every node."""
        return 8.0 * self.columns * (self.samples + (self.columns if self.forms_gram else 0))

    @property
    def own_bytes(self) -> float:
        """Of a row, that travel with its block."""
        return 8.0 * (self.samples + 3)

    @property
    def result_bytes(self) -> float:
        """Of a row, that come back."""
        return 16.0 * self.non_zeros + 90

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block_rows)


def predict(
    size: Size, of: Constants, workers: int, *, nodes: int = 1, network: float = 1e9, journal: bool = False
) -> dict[str, Any]:
    """Seconds of a run, by what they go into.

    The driver hands out one block after another; workers solve meanwhile. Whichever takes longer decides, and at the
    end the last blocks are waited for.
    """
    travelling = size.block_rows * (size.own_bytes + size.result_bytes)
    driver = of.block + of.byte * travelling
    if journal:
        driver += of.journal_block + of.journal_byte * size.block_rows * size.result_bytes
    block_seconds = size.block_rows * size.row_seconds * of.contention
    gram = size.samples * size.columns**2 / 2 * of.gram_flop if size.forms_gram else 0.0
    solving = size.rows * size.row_seconds * of.contention / workers
    driving = size.blocks * driver
    # Nodes fetch the shared arrays from each other: the number that have them doubles.
    spreading = size.shared_bytes / network * np.ceil(np.log2(nodes)) if nodes > 1 else 0.0
    total = of.start + gram + spreading + max(solving + block_seconds / 2 * (workers > 1), driving)
    return {
        "workers": workers,
        "start": of.start,
        "gram": gram,
        "spreading": float(spreading),
        "solving": solving,
        "driving": driving,
        "total": float(total),
        "bound": "driver" if driving > solving else "workers",
        "shared_gib": size.shared_bytes / GIB,
        "moved_gib": (size.rows * (size.own_bytes + size.result_bytes) + nodes * size.shared_bytes) / GIB,
        "store_gib": (size.shared_bytes + 2 * workers / nodes * size.block_rows * size.own_bytes) / GIB,
    }


# --- constants ------------------------------------------------------------------------------------------------------


class Parcels(Work):
    """Blocks that do nothing but carry bytes there and back."""

    def __init__(self, blocks: int, nbytes: int) -> None:
        self.blocks = [Block(number, 0, (number, number + 1)) for number in range(blocks)]
        self.shared: dict[str, Spec] = {}
        self.rows, self.entries = {"parcel": Spec((blocks, max(1, nbytes // 8)))}, {}
        self.settings = None

    def fill(self, arrays: Arrays, threads: int) -> None:
        arrays["parcel"][...] = 1.0

    def describe(self, block: Block) -> str:
        return f"parcel {block.number}"

    @staticmethod
    def opener(shared: Arrays, settings: Any) -> Callable[[Block, Arrays], Result]:
        return lambda block, own: {"parcel": np.array(own["parcel"])}


def seconds_of(executor: Executor, work: Work) -> float:
    begun = time.perf_counter()
    for _ in run_blocks(executor, work, work.blocks, deadline=Deadline()):
        pass
    return time.perf_counter() - begun


def constants(options: argparse.Namespace) -> dict[str, Any]:
    """Of the executors that leave the process, with all workers."""
    found = {}
    gram, contention = gram_flop(), busy_factor(options.workers)
    kept = journal_costs()
    for name in ("processes", "ray"):
        say(f"constants: {name}")
        begun = time.perf_counter()
        with make_executor(name, options.workers) as executor:
            seconds_of(executor, Parcels(2, 8))
            start = time.perf_counter() - begun
            empty, full, size = 300, 60, 2**21
            block = min(seconds_of(executor, Parcels(empty, 8)) for _ in range(3)) / empty
            whole = min(seconds_of(executor, Parcels(full, size)) for _ in range(3)) / full
        byte = max(0.0, whole - block) / (2 * size)
        found[name] = asdict(Constants(start, block, byte, *kept, gram, contention))
    return found


def gram_flop() -> float:
    from simplicit.executors.limits import one_thread_each
    from simplicit.rows.products import fill_gram

    rows, out = np.random.default_rng(0).normal(size=(2048, 1000)), np.empty((2048, 2048))
    with one_thread_each():
        fill_gram(rows, out)
        begun = time.perf_counter()
        fill_gram(rows, out)
    return (time.perf_counter() - begun) / (len(rows) ** 2 / 2 * rows.shape[1])


def busy_factor(workers: int | None) -> float:
    """How much longer blocks take while others run beside them, by the time that threads of processes spend on them."""
    problem = synthetic(500, 800, 256)
    alone = float(problem.solve(executor="serial").seconds.sum())
    together = float(problem.solve(executor="processes", workers=workers).seconds.sum())
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
            result = {"values": np.ones(size // 8)}
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
        for name in ("processes", "ray"):
            of = Constants(**known[name])
            with make_executor(name, options.workers) as executor:
                seconds_of(executor, Parcels(2, 8))  # its start is known; what is checked is the rest
                begun = time.perf_counter()
                problem.solve(executor=executor, block_rows=block_rows)
                measured = time.perf_counter() - begun
                expected = predict(size, of, executor.workers)
            rows.append(_checked(size, name, executor.workers, 1, expected["total"] - of.start, measured))
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
        with make_executor("ray", 2, ray_address=cluster.address) as executor:
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


# --- the simulation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    """What happens to workers.

    Attributes
    ----------
    slow, slowness : float
        The share of workers that are slow, and how many times slower.
    losses : float
        Per worker and hour.
    hangs : float
        The share of losses of which nobody hears: the worker just stops.
    come_up : float
        Seconds until a new worker is there.
    """

    slow: float = 0.0
    slowness: float = 3.0
    losses: float = 0.0
    hangs: float = 0.1
    come_up: float = 10.0


class Simulated(Executor):
    """Workers in virtual time: blocks take what a table says, workers are slow and are lost as chance has it."""

    name, replaces = "simulated", True

    def __init__(self, workers: int, seconds: Any, trouble: Trouble, rng: np.random.Generator, driver: float) -> None:
        super().__init__(workers)
        self.seconds, self.trouble, self.rng, self.driver = seconds, trouble, rng, driver
        self.now = 0.0
        self.speed = np.where(rng.random(workers) < trouble.slow, trouble.slowness, 1.0)
        self.free = dict.fromkeys(range(workers))
        self.coming: list[tuple[float, int]] = []
        self.events: list[tuple[float, int, int, Report]] = []
        self.turn = 0
        self.at: dict[int, int] = {}  # which event a worker's present block will be
        self.lost = 0

    def load(self, work: Work) -> None:
        """There is nothing to load."""

    def unload(self) -> None:
        """Nor to let go of."""

    def idle(self) -> list[int]:
        while self.coming and self.coming[0][0] <= self.now:
            self.free[heapq.heappop(self.coming)[1]] = None
        return list(self.free)

    def start(self, worker: int, block: Block) -> None:
        self.now += self.driver
        del self.free[worker]
        needs = self.seconds[block.number] * self.speed[worker]
        until = self.rng.exponential(3600 / self.trouble.losses) if self.trouble.losses else np.inf
        self.turn += 1
        self.at[worker] = self.turn
        if until >= needs:
            heapq.heappush(self.events, (self.now + needs, self.turn, worker, Finished(worker, {})))
        elif self.rng.random() >= self.trouble.hangs:
            heapq.heappush(self.events, (self.now + until, self.turn, worker, Lost(worker, "was lost")))

    def wait(self, seconds: float | None) -> list[Report]:
        until = self.now + (np.inf if seconds is None else seconds)
        if self.coming:
            until = min(until, self.coming[0][0])
        while self.events and self.events[0][0] <= until:
            when, turn, worker, report = heapq.heappop(self.events)
            if self.at.get(worker) != turn:
                continue  # it was given up before
            self.now = max(self.now, when)
            if isinstance(report, Finished):
                self.free[worker] = None
            return [report]
        self.now = until
        return []

    def replace(self, worker: int) -> None:
        self.lost += 1
        self.at.pop(worker, None)
        self.free.pop(worker, None)
        heapq.heappush(self.coming, (self.now + self.trouble.come_up, worker))


@contextmanager
def virtual(executor: Simulated) -> Iterator[None]:
    """The scheduler's clock is the executor's."""

    class Clock:
        monotonic = staticmethod(lambda: executor.now)

    before, running.time = running.time, Clock  # type: ignore[assignment]
    try:
        yield
    finally:
        running.time = before


def simulate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Blocks whose hardness is known roughly: hardest first by a guess that is wrong by a third."""
    troubles = {
        "none": Trouble(),
        "5 % of workers three times slower": Trouble(slow=0.05),
        "a worker lost every 10 h": Trouble(losses=0.1),
        "a worker lost every hour": Trouble(losses=1.0),
        "both": Trouble(slow=0.05, losses=1.0),
    }
    rows = []
    for workers, blocks in ((32, 640), (512, 10_240)):
        for label, trouble in troubles.items():
            for order in ("hardest first", "as they come"):
                found = [simulated(workers, blocks, trouble, order, seed) for seed in range(options.seeds)]
                ended = [run for run in found if run["ended"]]
                rows.append(
                    {
                        "workers": workers,
                        "blocks": blocks,
                        "trouble": label,
                        "order": order,
                        "runs": len(found),
                        "ended": len(ended),
                        "makespan": float(np.median([run["makespan"] for run in ended])),
                        "worst": float(np.max([run["makespan"] for run in ended])),
                        "lost": float(np.mean([run["lost"] for run in found])),
                    }
                )
                say(f"simulate: {workers} workers, {label}, {order}: {rows[-1]['makespan']:.2f} x ideal")
    return rows


def simulated(workers: int, blocks: int, trouble: Trouble, order: str, seed: int) -> dict[str, Any]:
    """One run: its time as a multiple of the work divided by the workers, all of them quick."""
    rng = np.random.default_rng(seed)
    seconds = 20 * rng.lognormal(sigma=0.6, size=blocks)
    guess = seconds * rng.lognormal(sigma=0.3, size=blocks)
    numbers = np.argsort(-guess) if order == "hardest first" else np.arange(blocks)
    executor = Simulated(workers, seconds, trouble, rng, driver=0.002)
    work = Parcels(blocks, 8)
    chosen = [work.blocks[number] for number in numbers]
    with virtual(executor):
        try:
            for _ in run_blocks(executor, work, chosen, deadline=Deadline(), thorough=True):
                pass
            ended = True
        except sp.ExecutionError:
            ended = False
    return {"ended": ended, "makespan": executor.now / (seconds.sum() / workers), "lost": executor.lost}


# --- what is kept ---------------------------------------------------------------------------------------------------


def page(report: dict[str, Any]) -> str:
    lines = ["# Scale", "", "Explained in docs/scale.md."]
    for name, (title, table) in TABLES.items():
        if name in report:
            of = report[name]["machine"]
            lines += [
                "",
                f"## {title}",
                "",
                f"`{report[name]['command']}`, {of['cores']} cores, torch {of['torch']}.",
                "",
            ]
            lines += table(report[name]["result"])
    return "\n".join(lines) + "\n"


def _constants(found: dict[str, Any]) -> list[str]:
    return grid(
        {
            "executor": lambda row: row["executor"],
            "start, s": lambda row: f"{row['start']:.2f}",
            "driver per block, ms": lambda row: f"{1e3 * row['block']:.2f}",
            "driver per MB, ms": lambda row: f"{1e9 * row['byte']:.2f}",
            "journal per block, ms": lambda row: f"{1e3 * row['journal_block']:.2f}",
            "journal per MB, ms": lambda row: f"{1e9 * row['journal_byte']:.2f}",
            "Gram, Gflop/s": lambda row: f"{2e-9 / row['gram_flop']:.1f}",
            "slower when all work": lambda row: f"{row['contention']:.2f}",
        },
        [{"executor": name} | values for name, values in found.items()],
    )


def _check(rows: list[dict[str, Any]]) -> list[str]:
    return grid(
        {
            "executor": lambda row: row["executor"],
            "nodes x workers": lambda row: f"{row['nodes']} x {row['workers'] // row['nodes']}",
            "rows x columns x samples": lambda row: f"{row['rows']:,} x {row['columns']:,} x {row['samples']:,}",
            "rows per block": lambda row: str(row["block_rows"]),
            "predicted, s": lambda row: f"{row['predicted']:.2f}",
            "measured, s": lambda row: f"{row['measured']:.2f}",
            "measured / predicted": lambda row: f"{row['ratio']:.2f}",
        },
        rows,
    )


def _predict(rows: list[dict[str, Any]]) -> list[str]:
    return grid(
        {
            "nodes": lambda row: str(row["nodes"]),
            "workers": lambda row: f"{row['workers']:,}",
            "rows per block": lambda row: str(row["block_rows"]),
            "hours": lambda row: f"{row['total'] / 3600:.2f}",
            "bound by": lambda row: row["bound"],
            "driver, hours": lambda row: f"{row['driving'] / 3600:.2f}",
            "moved, GiB": lambda row: f"{row['moved_gib']:,.0f}",
            "object store per node, GiB": lambda row: f"{row['store_gib']:.2f}",
            "spreading Φᵀ and G, s": lambda row: f"{row['spreading']:.1f}",
        },
        rows,
    )


def _simulate(rows: list[dict[str, Any]]) -> list[str]:
    return grid(
        {
            "workers": lambda row: str(row["workers"]),
            "blocks": lambda row: f"{row['blocks']:,}",
            "trouble": lambda row: row["trouble"],
            "order": lambda row: row["order"],
            "time / ideal": lambda row: f"{row['makespan']:.2f}",
            "worst of all": lambda row: f"{row['worst']:.2f}",
            "workers lost": lambda row: f"{row['lost']:.1f}",
            "ended well": lambda row: f"{row['ended']} of {row['runs']}",
        },
        rows,
    )


TABLES: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
    "constants": ("Constants of this machine", _constants),
    "check": ("The model against runs", _check),
    "predict": ("A million rows on ten thousand columns", _predict),
    "simulate": ("Scheduling with stragglers and losses", _simulate),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["all"], help="what to run (default: all)")
    parser.add_argument("--workers", type=int, help="of the measured runs (default: one per processor)")
    parser.add_argument("--seeds", type=int, default=5, help="simulated runs of each kind (default: 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: results beside this file)")
    options = parser.parse_args()
    if unknown := set(options.sections) - {*SECTIONS, "all"}:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)} and all")
    chosen = SECTIONS if "all" in options.sections else tuple(name for name in SECTIONS if name in options.sections)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "scale.json"
    for name in chosen:
        report = json.loads(file.read_text()) if file.exists() else {}
        if name in ("check", "predict") and "constants" not in report:
            parser.error(f"{name} needs the constants; run that section first")
        known = report.get("constants", {}).get("result", {})
        result: Any
        if name == "constants":
            result = constants(options)
        elif name == "simulate":
            result = simulate(options)
        else:
            result = check(options, known) if name == "check" else goal(known)
        command = shlex.join(["python", "benchmarks/scale.py", *sys.argv[1:]])
        report[name] = {"command": command, "machine": machine(), "result": result}
        file.write_text(json.dumps(report, indent=1) + "\n")
        file.with_suffix(".md").write_text(page(report))
    print(page(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
