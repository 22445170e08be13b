"""The paper's Figure 5, better: the same rows by every executor; what memory they take; what the journal costs.

    python benchmarks/figure5.py                    # every section; half an hour or more, most of it the long problem
    python benchmarks/figure5.py short memory       # some sections; the figures of the others are kept
    python benchmarks/figure5.py all --long-rows 96 --repeats 1 --output /tmp/trial             # a trial

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
import shlex
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
from results import RESULTS, grid, machine

import simplicit.rowrun
from simplicit.data import load_dataset
from simplicit.executors import Section, make_executor
from simplicit.experiments.figure5 import (
    Figure5Settings,
    StateRows,
    check_equal,
    run_figure5,
    state_rows,
    time_executor,
)
from simplicit.report import Bars, draw_bars

SECTIONS = ("short", "long", "memory", "journal")
LONG_ARCH, LONG_SAMPLES, LONG_EPOCHS = (900, 600, 300), 2000, 2
#: Rows of the long problem in the sections that do not need all of them.
FEW_ROWS = 128
MARK = "SIMPLICIT_FIGURE5"
MIB = 2**20
#: What is to be reached: factors on serial, seconds, MiB per worker, share of the run.
TARGETS = {"threads": 1.7, "processes": 1.5, "ray": 1.4}
FIXED = {"processes": ("least_cold", 2.0), "ray": ("least_warm", 1.0)}
MEMORY_FACTOR, MEMORY_PER_WORKER, JOURNAL_SHARE = 1.25, 150.0, 0.03


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
        on_step=lambda label, done, total: say(f"short: {label}"),
    ).figures()


def long(problems: Problems, options: argparse.Namespace) -> dict[str, Any]:
    rows, timed, first = problems.of_long(options.long_rows), [], None
    for name in Figure5Settings().chosen:
        say(f"long: {name}")
        one, solution = time_executor(rows, name, options.workers, options.long_repeats)
        first = first or solution
        check_equal(solution, first)
        timed.append(asdict(one) | {"seconds": one.seconds})
        say(f"  cold {one.cold:.1f} s, warm {one.seconds:.1f} s")
    assert first is not None
    for one in timed:
        one["speedup"] = timed[0]["seconds"] / one["seconds"]
    count, columns, samples = rows.shape
    return {
        "rows": count,
        "columns": columns,
        "samples": samples,
        "certified": int(first.converged.sum()),
        "equal_to_the_bit": True,
        "executors": timed,
    }


def memory(problems: Problems, options: argparse.Namespace) -> dict[str, Any]:
    rows, found = problems.of_long(FEW_ROWS), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, features=rows.features, targets=rows.targets, n_states=rows.n_states)
        for name in Figure5Settings().chosen:
            say(f"memory: {name}")
            found.append(peak_memory(path, name, options.workers))
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
from simplicit.executors import make_executor
from simplicit.experiments.figure5 import StateRows
path, name, workers = sys.argv[1:]
with np.load(path) as file:
    rows = StateRows(file["features"], file["targets"], int(file["n_states"]))
with make_executor(name, int(workers) if workers else None) as executor:
    rows.solve(executor)
    print(executor.workers)
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
    if b"executors.nursery" in command or b"ray::_Worker" in command:
        return "worker"
    if b"make_executor" in command:
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
    with make_executor("serial") as executor:
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
        (simplicit.rowrun, "digest"),
        (simplicit.rowrun.Journal, "open"),
        (simplicit.rowrun.Journal, "section"),
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


# --- what is kept ---------------------------------------------------------------------------------------------------


def page(report: dict[str, Any]) -> str:
    """All sections that have run, as Markdown."""
    lines = [
        "# Figure 5: executors",
        "",
        "Wall-clock seconds; the warm time is a median. All coefficients of a section",
    ]
    lines[-1] += " are equal to the bit, or it would have failed. ![Seconds by executor](figure5.png)"
    for name, table in (("short", _times), ("long", _times), ("memory", _memory), ("journal", _journal)):
        if name in report:
            entry = report[name]
            of = entry["machine"]
            lines += ["", f"## {TITLES[name]}", "", f"`{entry['command']}`, {of['cores']} cores, load at the start "]
            lines[-1] += f"{entry['load']:.2f}; Python {of['python']}, torch {of['torch']}, NumPy {of['numpy']}."
            lines += ["", *table(entry["result"])]
    return "\n".join(lines) + "\n"


TITLES = {
    "short": "The paper's network",
    "long": "A wider network",
    "memory": "Memory",
    "journal": "What the journal costs",
}


def _times(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['rows']:,} rows x {found['columns']:,} columns, {found['samples']:,} samples, {found['certified']:,} "
        "certified. Fixed is what a problem of no size takes.",
        "",
        *grid(
            {
                "executor": lambda row: row["executor"],
                "workers": lambda row: str(row["workers"]),
                "warm": lambda row: f"{row['seconds']:.2f}",
                "speed-up": lambda row: f"{row['speedup']:.2f}",
                "wanted": lambda row: f"{TARGETS[row['executor']]}" if row["executor"] in TARGETS else "",
                "cold": lambda row: f"{row['cold']:.2f}",
                "fixed, warm": lambda row: f"{row['least_warm']:.3f}",
                "fixed, cold": lambda row: f"{row['least_cold']:.2f}",
                "closing": lambda row: f"{row['close']:.2f}",
            },
            found["executors"],
        ),
    ]


def _memory(found: dict[str, Any]) -> list[str]:
    def share(kind: str) -> Any:
        return lambda row: f"{sum(mib for name, mib in row['processes'].items() if name.startswith(kind)):,.0f}"

    return [
        f"{found['rows']:,} rows x {found['columns']:,} columns, {found['samples']:,} samples: Φᵀ and G take "
        f"{found['shared_mib']:,.0f} MiB. Proportional set size of all processes together, at its peak, in MiB; wanted "
        f"{found['limit_mib']:,.0f} at most, {MEMORY_FACTOR} x serial + {MEMORY_PER_WORKER:.0f} per worker.",
        "",
        *grid(
            {
                "executor": lambda row: row["executor"],
                "together": lambda row: f"{row['peak_mib']:,.0f}",
                "parent": share("parent"),
                "workers": share("worker"),
                "Ray's own": share("Ray"),
            },
            found["executors"],
        ),
    ]


def _journal(found: dict[str, Any]) -> list[str]:
    return [
        f"Serial runs with a fresh journal; wanted: at most {100 * JOURNAL_SHARE:.0f} % of the run.",
        "",
        *grid(
            {
                "rows x columns x samples": lambda row: f"{row['rows']:,} x {row['columns']:,} x {row['samples']:,}",
                "without": lambda row: f"{row['seconds']:.3f}",
                "with": lambda row: f"{row['seconds_with_journal']:.3f}",
                "in the journal's code": lambda row: f"{row['seconds_in_journal']:.4f}",
                "share": lambda row: f"{100 * row['share']:.2f} %",
            },
            found.values(),
        ),
    ]


def draw(report: dict[str, Any], path: Path) -> None:
    """Both problems side by side, as far as they have run: cold, with the fixed part pale."""
    panels = []
    for name in ("short", "long"):
        if name in report:
            found = report[name]["result"]
            rows = found["executors"]
            title = f"{found['rows']:,} rows × {found['columns']:,} columns, cold"
            seconds, fixed = [row["cold"] for row in rows], [row["least_cold"] for row in rows]
            panels.append(Bars(title, [row["executor"] for row in rows], seconds, fixed))
    if panels:
        draw_bars(path, panels[0], panels[-1])


def verdict(report: dict[str, Any]) -> dict[str, Any]:
    """What was to be reached, and what was."""
    found: dict[str, Any] = {}
    for row in report.get("long", {}).get("result", {}).get("executors", []):
        if row["executor"] == "serial":
            found["serial takes a minute"] = [row["seconds"], 60.0, row["seconds"] >= 60.0]
        if row["executor"] in TARGETS:
            wanted = TARGETS[row["executor"]]
            found[f"{row['executor']} times serial"] = [row["speedup"], wanted, row["speedup"] >= wanted]
    for row in report.get("short", {}).get("result", {}).get("executors", []):
        if row["executor"] in FIXED:
            name, most = FIXED[row["executor"]]
            found[f"{row['executor']} fixed seconds"] = [row[name], most, row[name] <= most]
    if "memory" in report:
        result = report["memory"]["result"]
        for row in result["executors"][1:]:
            most = result["limit_mib"]
            found[f"{row['executor']} MiB"] = [row["peak_mib"], most, row["peak_mib"] <= most]
    for name, row in report.get("journal", {}).get("result", {}).items():
        found[f"journal share, {name}"] = [row["share"], JOURNAL_SHARE, row["share"] <= JOURNAL_SHARE]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["all"], help="what to run (default: all)")
    parser.add_argument("--workers", type=int, help="of every executor (default: one per processor)")
    parser.add_argument("--repeats", type=int, default=5, help="warm runs of the short problem (default: 5)")
    parser.add_argument("--long-repeats", type=int, default=1, help="warm runs of the long problem (default: 1)")
    parser.add_argument("--long-rows", type=int, default=900, help="rows of the long problem (default: 900)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: results beside this file)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("SIMPLICIT_DATA", "../shared/data")),
        help="with the folder fashion-mnist (default: SIMPLICIT_DATA)",
    )
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
        words = [word for word in sys.argv[1:] if word != str(options.data_dir) and not word.startswith("--data-dir")]
        command = shlex.join(["python", "benchmarks/figure5.py", *words])
        report[name] = {"command": command, "machine": machine(), "load": load, "result": result}
        report["verdict"] = verdict(report)
        file.write_text(json.dumps(report, indent=1) + "\n")
        file.with_suffix(".md").write_text(page(report))
        draw(report, file.with_suffix(".png"))
    print(page(report))
    for what, (value, limit, reached) in report["verdict"].items():
        print(f"{'reached' if reached else 'MISSED'}: {what}: {value:.3g}, wanted {limit:.3g}")


if __name__ == "__main__":
    main()
