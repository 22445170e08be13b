"""The figures of a bench as tables for the screen and for a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simplicit.report import Table


def speed_table(document: Mapping[str, Any]) -> Table:
    """A line for each batch size and way of what ``BenchRun.results`` returned."""
    titles = {way["name"]: way["title"] for way in document["ways"]}
    head = ("way", "samples", "ms a call", "quartiles", "samples a second", "x dense", "rounds")
    rows = []
    for one in document["measurements"]:
        lower, upper = (_milliseconds(one[name]) for name in ("lower", "upper"))
        figures = f"{one['samples_per_second']:,.0f}", f"{one['ratio']:.2f}", f"{one['rounds']:,}"
        first = titles[one["way"]], f"{one['batch']:,}", _milliseconds(one["median"])
        rows.append([*first, f"{lower} to {upper}", *figures])
    zeros = 1 - document["non_zeros"] / max(1, document["weights"])
    about = f"{document['dtype']}, {100 * zeros:.1f} % of the weights are zero"
    threads = f"{document['threads']} thread{'' if document['threads'] == 1 else 's'}"
    return Table(f"{document['run']} on samples of {document['data']}, {threads}, {about}", head, rows)


def ways_table(document: Mapping[str, Any]) -> Table:
    """Memory, rounding and files of what ``BenchRun.results`` returned."""
    rows = []
    for way in document["ways"]:
        worst = max((one["difference"] for one in document["measurements"] if one["way"] == way["name"]), default=0.0)
        rows.append([way["title"], f"{way['weight_bytes'] / 1024:,.1f}", f"{worst:.1e}", way["note"]])
    files = ", ".join(f"{name} {size / 1024:,.1f}" for name, size in document["files"].items())
    head = ("way", "weights in memory, KiB", "outputs differ by", "")
    return Table(f"Files, KiB: {files}", head, rows)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"
