"""What all scripts share: their arguments, where they ran, what is kept, and the tables; and the row solver's page."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import scipy
import torch

import simplicit

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"
#: Options that say where something is.
PLACES = ("--data-dir", "--output", "--parts", "--gpt2", "--texts", "--woodfisher")
PHASES = ("gram", "factor", "iterations", "polish", "certificate")


def arguments(description: str | None, *, data: bool = True) -> argparse.ArgumentParser:
    """A parser with ``--output``, and ``--data-dir`` where there is data to read."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: results beside this file)")
    if data:
        place = Path(os.environ.get("SIMPLICIT_DATA", "../shared/data"))
        parser.add_argument("--data-dir", type=Path, default=place, help="of the data sets (default: SIMPLICIT_DATA)")
    return parser


def command() -> str:
    """The command with what decides the figures; where data lie and results and parts of them go does not."""
    words, given = [f"benchmarks/{Path(sys.argv[0]).name}"], iter(sys.argv[1:])
    for word in given:
        if word in PLACES:
            next(given)
        elif word.partition("=")[0] not in PLACES:
            words.append(word)
    return shlex.join(["python", *words])


def say(text: str) -> None:
    """How far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def keep(folder: Path, name: str, report: dict[str, Any], page: str) -> None:
    """Write ``name.json`` and ``name.md``, and print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)
    print(page)


def machine() -> dict[str, Any]:
    """Where and with what a section ran."""
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def ran_on(report: dict[str, Any]) -> str:
    """The command of a report, and where it ran, as pages say it."""
    of = report["machine"]
    return f"`{report['command']}`, {of['cores']} cores, Python {of['python']}, torch {of['torch']}"


def timed(work: Callable[[], T], repeats: int = 1) -> tuple[T, float]:
    """What some work gives, and the seconds that it takes: the median of several runs after a first one, or of one."""
    times: list[float] = []
    if repeats > 1:
        work()
    for _ in range(repeats):
        begun = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - begun)
    return result, median(times)


def source_digest() -> str:
    """A short hash of the library's code, by which figures of other code are told apart."""
    root = Path(simplicit.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def merge(file: Path, section: str, repeats: int, result: Any) -> dict[str, Any]:
    """Put a section's result into the file, beside the sections of other runs, and write the tables anew."""
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    report[section] = {"command": command(), "repeats": repeats, "machine": machine(), "result": result}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    file.with_suffix(".md").write_text(page(report))
    return report


def page(report: dict[str, Any]) -> str:
    """All sections that have run, as Markdown."""
    lines = ["# The row solver", ""]
    lines += [
        "All times are wall-clock seconds, medians where not said otherwise. The floor is one Gram matrix and one "
        "Cholesky factorisation per row on its final support, by the same BLAS. Gaps are taken anew from the "
        "coefficients by the benchmark (`measures.py`), as gap / max(objective, 1e-6·λ‖z‖²).",
    ]
    for name, (title, table) in SECTIONS.items():
        if name in report:
            entry = report[name]
            of = entry["machine"]
            lines += [
                "",
                f"## {title}",
                "",
                f"`{entry['command']}`: {entry['repeats']} repeats, {of['cores']} cores ({of['processor']}), Python "
                f"{of['python']}, torch {of['torch']}, NumPy {of['numpy']}, SciPy {of['scipy']}.",
                "",
                *table(entry["result"]),
            ]
    return "\n".join(lines) + "\n"


def grid(columns: dict[str, Callable[[T], str]], rows: Iterable[T]) -> list[str]:
    """A Markdown table: headings with the function that makes the cell of a row; all but text is aligned right."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---:" for _ in columns) + " |"]
    return lines + ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]


def _strength(row: dict[str, Any]) -> str:
    return f"{row['lambda']:g}, {row['beta']:.3g}"


def _gap(row: dict[str, Any]) -> str:
    return f"{row['largest_relative_gap']:.1e}"


def _size(row: dict[str, Any]) -> str:
    return f"{row['rows']:,} x {row['columns']:,} x {row['samples']:,}"


def _family(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"Fashion-MNIST, 784-64-32-16-10 without biases, rescaled states, dense: {rows[0]['rows']} rows x "
        f"{rows[0]['columns']} columns, ball of radius .99 on the state columns.",
        "",
        *grid(
            {
                "samples": lambda row: f"{row['samples']:,}",
                "lambda1, beta": _strength,
                "seconds": lambda row: f"{row['seconds']:.3f}",
                "floor": lambda row: f"{row['floor_seconds']:.4f}",
                "ratio": lambda row: f"{row['ratio']:.1f}",
                "converged": lambda row: f"{row['converged']}/{row['rows']}",
                "largest rel. gap": _gap,
                "ball binds": lambda row: str(row["ball_binds"]),
                "non-zeros": lambda row: f"{row['non_zeros']:,}",
                "floor, rows in turn": lambda row: f"{row['floor_all_threads_per_row']:.4f}",
                "floor, rows shared out": lambda row: f"{row['floor_rows_over_threads']:.4f}",
            },
            rows,
        ),
        "",
        "Where the time goes, in thread-seconds of the last run:",
        "",
        *_phases(rows),
    ]


def _phases(rows: list[dict[str, Any]]) -> list[str]:
    def phase(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: f"{row['phases'][name]:.3f}"

    first = {"samples": lambda row: f"{row['samples']:,}", "lambda1, beta": _strength}
    return grid(first | {name: phase(name) for name in PHASES}, rows)


def _peers(rows: list[dict[str, Any]]) -> list[str]:
    def theirs(row: dict[str, Any]) -> str:
        if row["peer_seconds_for_all"] is None:
            return "failed"
        return f"{row['peer_seconds_for_all']:.1f}" + (" (extrapolated)" if row["extrapolated"] else "")

    def optional(name: str, form: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: "" if row[name] is None else format(row[name], form)

    table = grid(
        {
            "peer": lambda row: row["peer"],
            "ball": lambda row: "yes" if row["ball"] else "no",
            "rows x columns x samples": _size,
            "lambda1, beta": _strength,
            "ours": lambda row: f"{row['seconds']:.3f}",
            "peer's seconds": theirs,
            "ratio": optional("ratio", ".3g"),
            "rows solved": lambda row: f"{row['peer_rows_solved']}/{row['rows']}",
            "ended": lambda row: "by itself" if row["peer_finished"] == "yes" else row["peer_finished"],
            "objective lower / equal / higher": lambda row: (
                f"{row['peer_better']} / {row['equal']} / {row['peer_worse']}"
            ),
            "infeasible": lambda row: str(row["peer_infeasible"]),
            "gap <= 1e-6": lambda row: str(row["peer_certified"]),
            "its largest rel. gap": optional("peer_largest_relative_gap", ".1e"),
            "our largest rel. gap": _gap,
        },
        rows,
    )
    versions = ", ".join(dict.fromkeys(row["versions"] for row in rows if row["versions"]))
    return [
        "Each peer runs once on all rows in two processes with one BLAS thread each, in an environment of its own "
        f"({versions}). Objectives are compared row by row: lower, equal (within 1e-6 relative) or higher than ours. A "
        "peer that meets the time limit is extrapolated in proportion to the rows it has solved.",
        "",
        *table,
    ]


def _path(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{len(rows[0]['strengths'])} strengths, spaced evenly in the logarithm from the largest β_max down to a "
        "thousandth of it.",
        "",
        *grid(
            {
                "rows x columns x samples": _size,
                "path": lambda row: f"{row['seconds']:.2f}",
                "hardest member alone": lambda row: f"{row['hardest_seconds']:.2f} (number {row['hardest']})",
                "ratio": lambda row: f"{row['ratio']:.1f}",
                "all members alone": lambda row: f"{row['all_cold_seconds']:.2f}",
                "converged": lambda row: f"{row['converged']:,}/{row['problems']:,}",
                "largest rel. gap": _gap,
            },
            rows,
        ),
    ]


def _large(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "Synthetic rows (`problems.synthetic`). Peak memory is that of a fresh process that loads Φ and solves once, "
        "less what its imports take. With more than twice as many columns as samples the floor's Gram matrix is each "
        "row's block only.",
        "",
        *grid(
            {
                "rows x columns x samples": _size,
                "seconds": lambda row: f"{row['seconds']:.2f}",
                "floor": lambda row: f"{row['floor_seconds']:.3f}",
                "ratio": lambda row: f"{row['ratio']:.1f}",
                "converged": lambda row: f"{row['converged']:,}/{row['rows']:,}",
                "largest rel. gap": _gap,
                "mean support": lambda row: f"{row['non_zeros'] / row['rows']:.0f}",
                "ball binds": lambda row: f"{row['ball_binds']:,}",
                "peak MB": lambda row: f"{row['peak_bytes'] / 1e6:,.0f}",
                "memory ratio": lambda row: f"{row['peak_ratio']:.2f} x ({row['memory_unit']})",
                "bound": lambda row: f"{row['memory_bound']} x",
            },
            rows,
        ),
    ]


def _growth(lines: dict[str, list[dict[str, Any]]]) -> list[str]:
    table = grid(
        {
            "rows x columns x samples": _size,
            "seconds": lambda row: f"{row['seconds']:.3f}",
            "floor": lambda row: f"{row['floor_seconds']:.4f}",
            "ratio": lambda row: f"{row['ratio']:.1f}",
            "converged": lambda row: f"{row['converged']}/{row['rows']}",
            "largest rel. gap": _gap,
            "mean support": lambda row: f"{row['non_zeros'] / row['rows']:.0f}",
        },
        [row for rows in lines.values() for row in rows],
    )
    return ["![Time against rows, columns and samples](growth.png)", "", *table]


def _cliffs(rows: list[dict[str, Any]]) -> list[str]:
    worst = max(row["ratio"] for row in rows)
    above, cells = (sum(row[name] for row in rows) for name in ("above", "cells"))
    return [
        "Processor seconds of a cold solve over those of our own path of strengths, a decade apart from a tenth of "
        "β_max, that ends there. Of every line the strength at which the ratio is worst. Worst of all: "
        f"{worst:.2f}; above 1.5 are {above} of {cells}.",
        "",
        *grid(
            {
                "design": lambda row: row["design"],
                "samples per column": lambda row: f"{row['share']:g}",
                "noise": lambda row: f"{row['noise']:g}",
                "worst at": lambda row: f"{row['strength']:.0e}",
                "cold": lambda row: f"{row['cold']:.3f}",
                "path": lambda row: f"{row['path']:.3f}",
                "ratio": lambda row: f"{row['ratio']:.2f}",
                "above 1.5": lambda row: f"{row['above']}/{row['cells']}",
                "dearest cold": lambda row: f"{row['dearest']:.3f}",
                "not converged": lambda row: str(row["unconverged"]),
            },
            rows,
        ),
    ]


SECTIONS: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
    "family": ("The family", _family),
    "peers": ("Against other solvers", _peers),
    "path": ("A path of strengths", _path),
    "large": ("Large problems", _large),
    "growth": ("Growth", _growth),
    "cliffs": ("No cliff", _cliffs),
}
