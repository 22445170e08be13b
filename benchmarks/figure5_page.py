"""What Figure 5 keeps: its page, its picture, and what was to be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results import grid

from simplicit.report import Bars, draw_bars

#: What is to be reached: factors on serial, seconds, MiB per worker, share of the run.
TARGETS = {"threads": 1.7, "processes": 1.5, "ray": 1.4}
FIXED = {"processes": ("least_cold", 2.0), "ray": ("least_warm", 1.0)}
MEMORY_FACTOR, MEMORY_PER_WORKER, JOURNAL_SHARE = 1.25, 150.0, 0.03


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
        f"{found['limit_mib']:,.0f} at most, {MEMORY_FACTOR} x serial + {MEMORY_PER_WORKER:.0f} per worker. The least "
        "is what a problem of no size takes: Python, torch and Ray, once per process.",
        "",
        *grid(
            {
                "executor": lambda row: row["executor"],
                "together": lambda row: f"{row['peak_mib']:,.0f}",
                "the least": lambda row: f"{row['least_mib']:,.0f}",
                "the problem": lambda row: f"{row['peak_mib'] - row['least_mib']:,.0f}",
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
            seconds, fixed = ({row["executor"]: row[key] for row in rows} for key in ("cold", "least_cold"))
            panels.append(Bars(title, seconds, fixed))
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
