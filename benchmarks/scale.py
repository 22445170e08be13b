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

import json
import os
from collections.abc import Callable
from typing import Any

from results import arguments, command, grid, machine
from scale_measure import check, constants, goal
from scale_simulation import simulate

SECTIONS = ("constants", "check", "predict", "simulate")


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
                f"`{report[name]['command']}`, {of['cores']} cores, load at the start {report[name]['load']:.2f}, "
                f"torch {of['torch']}.",
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
    parser = arguments(__doc__, data=False)
    parser.add_argument("sections", nargs="*", default=["all"], help="what to run (default: all)")
    parser.add_argument("--workers", type=int, help="of the measured runs (default: one per processor)")
    parser.add_argument("--seeds", type=int, default=3, help="simulated runs of each kind (default: 3)")
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
        load = os.getloadavg()[0]
        result: Any
        if name == "constants":
            result = constants(options)
        elif name == "simulate":
            result = simulate(options)
        else:
            result = check(options, known) if name == "check" else goal(known)
        report[name] = {"command": command(), "machine": machine(), "load": load, "result": result}
        file.write_text(json.dumps(report, indent=1) + "\n")
        file.with_suffix(".md").write_text(page(report))
    print(page(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
