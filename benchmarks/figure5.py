"""The paper's Figure 5, better: the same rows by every executor; what memory they take; what the journal costs.

    python benchmarks/figure5.py                    # every section; some ten minutes, most of it the long problem
    python benchmarks/figure5.py short memory       # some sections; the figures of the others are kept
    python benchmarks/figure5.py all --long-rows 96 --repeats 1 --output build/trial             # a trial

Sections:
  short    the paper's network on Fashion-MNIST, 112 rows x 896 columns, 600 samples (`simplicit reproduce figure5`)
  long     a wider network, 900-600-300: 2,584 columns, 2,000 samples, --long-rows of its rows; at least a minute
  memory   proportional set size of all processes together at its peak, on part of the long problem
  journal  what hashing and keeping blocks costs, on both problems

Times are wall-clock seconds on this machine, one executor after another: let nothing else run. Writes
results/figure5.json, figure5.md and figure5.png beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from figure5_page import MEMORY_FACTOR, MEMORY_PER_WORKER, draw, page, verdict
from results import RESULTS, arguments, command, machine, say

import simplicit as sp
import simplicit.solve.run
from simplicit.data import load_dataset
from simplicit.executors import Journal, Section
from simplicit.studies.figure5 import (
    Figure5Settings,
    StateRows,
    Timed,
    check_equal,
    run_figure5,
    state_rows,
    time_executor,
)

SECTIONS = ("short", "long", "memory", "journal")
LONG_ARCH, LONG_SAMPLES, LONG_EPOCHS = (900, 600, 300), 2000, 2
#: Rows of the long problem in the sections that do not need all of them.
FEW_ROWS = 128
MARK = "SIMPLICIT_FIGURE5"
MIB = 2**20


class Problems:
    """The two problems, made when they are first wanted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.made = options, dict[str, StateRows]()

    def long(self) -> StateRows:
        if "long" not in self.made:
            say("training the wider network")
            data = load_dataset("fashion-mnist", self.options.data_dir)
            self.made["long"] = state_rows(data, LONG_ARCH, LONG_SAMPLES, epochs=LONG_EPOCHS, seed=0)
        return self.made["long"]

    def of_long(self, count: int) -> StateRows:
        """So many rows of the long problem, evenly from all layers."""
        rows = self.long()
        chosen = np.linspace(0, rows.targets.shape[1] - 1, min(count, rows.targets.shape[1])).astype(int)
        return replace(rows, targets=np.ascontiguousarray(rows.targets[:, chosen]))

    def short(self) -> StateRows:
        if "short" not in self.made:
            say("training the paper's network")
            data = load_dataset("fashion-mnist", self.options.data_dir)
            self.made["short"] = state_rows(data, (64, 32, 16), 600, epochs=20, seed=0)
        return self.made["short"]


def short(problems: Problems, options: argparse.Namespace) -> dict[str, Any]:
    settings = Figure5Settings(workers=options.workers, repeats=options.repeats)
    return run_figure5(
        load_dataset("fashion-mnist", options.data_dir),
        settings,
        progress=lambda state: say(f"short: {state.stage}"),
    ).figures()


def long(problems: Problems, options: argparse.Namespace) -> dict[str, Any]:
    rows, timed, first = problems.of_long(options.long_rows), list[Timed](), None
    for name in Figure5Settings().chosen:
        say(f"long: {name}")
        one, solution = time_executor(rows, name, options.workers, options.long_repeats)
        first = first or solution
        check_equal(solution, first)
        timed.append(one)
        say(f"  cold {one.cold:.1f} s, warm {one.seconds:.1f} s")
    assert first is not None
    serial = timed[0].seconds
    count, columns, samples = rows.shape
    return {
        "rows": count,
        "columns": columns,
        "samples": samples,
        "certified": int(first.converged.sum()),
        "equal_to_the_bit": True,
        "executors": [asdict(one) | {"seconds": one.seconds, "speedup": serial / one.seconds} for one in timed],
    }


def memory(problems: Problems, options: argparse.Namespace) -> dict[str, Any]:
    rows, found = problems.of_long(FEW_ROWS), []
    with tempfile.TemporaryDirectory() as folder:
        path, least = Path(folder) / "rows.npz", Path(folder) / "least.npz"
        np.savez(path, features=rows.features, targets=rows.targets, n_states=rows.n_states)
        np.savez(least, features=np.eye(4), targets=np.ones((4, 8)), n_states=2)
        for name in Figure5Settings().chosen:
            say(f"memory: {name}")
            at_rest = peak_memory(least, name, options.workers)["peak_mib"]
            found.append(peak_memory(path, name, options.workers) | {"least_mib": at_rest})
    serial, workers = found[0]["peak_mib"], found[-1]["workers"]
    count, columns, samples = rows.shape
    return {
        "rows": count,
        "columns": columns,
        "samples": samples,
        "shared_mib": 8 * columns * (samples + columns) / MIB,
        "limit_mib": MEMORY_FACTOR * serial + MEMORY_PER_WORKER * workers,
        "executors": found,
    }


CHILD = """
import sys
import numpy as np
from simplicit.executors import EXECUTORS
from simplicit.runs.options import build
from simplicit.studies.figure5 import StateRows
path, name, workers = sys.argv[1:]
with np.load(path) as file:
    rows = StateRows(file["features"], file["targets"], int(file["n_states"]))
with build(EXECUTORS[name], {"workers": int(workers)} if workers else {}) as executor:
    rows.solve(executor)
    print(executor.n_workers)
"""


def peak_memory(path: Path, name: str, workers: int | None) -> dict[str, Any]:
    """The largest sum of PSS over all processes of a fresh run, and what made it up."""
    mark = secrets.token_hex(8)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), name, str(workers or "")],
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
    )
    peak: dict[str, float] = {}
    while process.poll() is None:
        now = memory_of(mark)
        if sum(now.values()) > sum(peak.values()):
            peak = now
        time.sleep(0.05)
    assert process.stdout is not None
    printed = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{name}: exit code {process.returncode}")
    return {"executor": name, "workers": int(printed), "peak_mib": sum(peak.values()), "processes": peak}


def memory_of(mark: str) -> dict[str, float]:
    """MiB of PSS of every process with the mark in its environment, by what it is."""
    found: dict[str, float] = {}
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted not in (folder / "environ").read_bytes():
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()
            kib = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            found[f"{role((folder / 'cmdline').read_bytes())} {folder.name}"] = kib / 1024
    return found


def role(command: bytes) -> str:
    if b"executors.forkserver" in command or b"ray::_Worker" in command:
        return "worker"
    if b"StateRows" in command:
        return "parent"
    return "Ray's own"


def journal(problems: Problems, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "short": journal_cost(problems.short(), max(5, options.repeats)),
        "long": journal_cost(problems.of_long(FEW_ROWS), 1),
    }


def journal_cost(rows: StateRows, repeats: int) -> dict[str, Any]:
    """Seconds of a serial run, and of what the journal does within it; each the median of fresh journals."""
    plain, kept, within = [], [], []
    with sp.Serial() as executor:
        for _ in range(repeats):
            begun = time.perf_counter()
            rows.solve(executor)
            plain.append(time.perf_counter() - begun)
            with tempfile.TemporaryDirectory(dir=RESULTS.parent) as folder, watched() as spent:
                begun = time.perf_counter()
                rows.solve(executor, journal=Path(folder) / "journal")
                kept.append(time.perf_counter() - begun)
            within.append(sum(spent))
    return {
        "rows": rows.shape[0],
        "columns": rows.shape[1],
        "samples": rows.shape[2],
        "seconds": median(plain),
        "seconds_with_journal": median(kept),
        "seconds_in_journal": median(within),
        "share": median(within) / median(plain),
    }


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """The seconds of every call that the journal adds to a solve: hashing the problem, opening, keeping blocks."""
    spent: list[float] = []

    def timed(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent.append(time.perf_counter() - begun)

        return call

    places = [
        (simplicit.solve.run, "digest"),
        (Journal, "open"),
        (Journal, "section"),
        (Section, "store"),
        (Section, "load"),
    ]
    before = [(place, name, place.__dict__[name]) for place, name in places]
    try:
        for place, name in places:
            changed = timed(getattr(place, name))
            setattr(place, name, staticmethod(changed) if name == "open" else changed)
        yield spent
    finally:
        for place, name, original in before:
            setattr(place, name, original)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("sections", nargs="*", default=["all"], help="what to run (default: all)")
    parser.add_argument("--workers", type=int, help="of every executor (default: one per processor)")
    parser.add_argument("--repeats", type=int, default=5, help="warm runs of the short problem (default: 5)")
    parser.add_argument("--long-repeats", type=int, default=1, help="warm runs of the long problem (default: 1)")
    parser.add_argument("--long-rows", type=int, default=900, help="rows of the long problem (default: 900)")
    options = parser.parse_args()
    if unknown := set(options.sections) - {*SECTIONS, "all"}:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)} and all")
    chosen = SECTIONS if "all" in options.sections else tuple(name for name in SECTIONS if name in options.sections)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "figure5.json"
    problems = Problems(options)
    for name in chosen:
        load = os.getloadavg()[0]
        result = {"short": short, "long": long, "memory": memory, "journal": journal}[name](problems, options)
        report = json.loads(file.read_text()) if file.exists() else {}
        report[name] = {"command": command(), "machine": machine(), "load": load, "result": result}
        report["verdict"] = verdict(report)
        file.write_text(json.dumps(report, indent=1) + "\n")
        file.with_suffix(".md").write_text(page(report))
        draw(report, file.with_suffix(".png"))
    print(page(report))
    for what, (value, limit, reached) in report["verdict"].items():
        print(f"{'reached' if reached else 'MISSED'}: {what}: {value:.3g}, wanted {limit:.3g}")


if __name__ == "__main__":
    main()
