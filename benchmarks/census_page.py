"""The census as a page: counts by family, what blocks how many networks, and every network with what it said."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from typing import Any

from networks.tolerances import TOLERANCES
from results import grid

Entry = dict[str, Any]

#: The share of what torch.export takes that is to be exact, and how long a capture may take.
WANTED_SHARE, TIMES, SECONDS = 95.0, 4.0, 2.0


def status(entry: Entry) -> str:
    """How a network's capture ended, in one or two words."""
    if not entry["export"].get("made"):
        return "not made"
    capture = entry["capture"]
    if capture["ended"] != "done":
        return str(capture["ended"]).partition(":")[0]
    return "exact" if is_exact(entry) else "inexact"


def is_exact(entry: Entry) -> bool:
    """Whether the model's predictions are the network's outputs, in both dtypes, for every number of samples."""
    capture = entry["capture"]
    return capture["ended"] == "done" and all(
        max(capture[dtype].values()) <= tolerance for dtype, tolerance in TOLERANCES.items()
    )


def exported(entry: Entry) -> bool:
    """Whether torch.export takes the network."""
    return bool(entry["export"]["ended"] == "done")


def fitted(entry: Entry) -> bool:
    """Whether a fit ended with a finite network."""
    return bool(entry.get("fit", {}).get("ended") == "done")


def quick(entry: Entry) -> bool:
    """Whether a capture took no longer than it may."""
    allowed = TIMES * entry["export"]["seconds"] + SECONDS
    return bool(entry["capture"].get("seconds", float("inf")) <= allowed)


def counts(entries: list[Entry]) -> Entry:
    """The figures of a family, or of all."""
    taken = [entry for entry in entries if exported(entry)]
    timed = [entry for entry in taken if "seconds" in entry["capture"]]
    ratios = [entry["capture"]["seconds"] / entry["export"]["seconds"] for entry in timed]
    exact = [entry for entry in taken if is_exact(entry)]
    return {
        "tried": len(entries),
        "not made": sum(status(entry) == "not made" for entry in entries),
        "exported": len(taken),
        "exact": len(exact),
        "share": 100 * len(exact) / len(taken) if taken else None,
        "captured": sum(entry["capture"]["ended"] == "done" for entry in entries),
        "fits": sum("fit" in entry for entry in entries),
        "fitted": sum(map(fitted, entries)),
        "ratio": statistics.median(ratios) if ratios else None,
        "quick": sum(map(quick, timed)),
        "timed": len(timed),
    }


def reason(entry: Entry) -> str:
    """Why a network is not exact, so that equal reasons have equal words: the operation, or the message's beginning."""
    capture = entry["capture"]
    if capture["ended"] == "done":
        return "differs from the network"
    if capture.get("operation") not in (None, "torch.export"):
        return f"`{capture['operation']}`"
    message = re.sub(r"'[^']*'|\d+(\.\d+)?", "…", str(capture.get("message", capture["ended"])))
    return f"{capture.get('error', '')}: {message[:90]}".strip(": ")


def page(report: dict[str, Any]) -> str:
    """The whole page."""
    entries, of = report["networks"], report["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(of["packages"].items()))
    lines = ["# Which networks go in", ""]
    lines += [f"`{report['command']}`: {of['cores']} cores ({of['processor']}), one thread, {packages}; library", ""]
    lines[-2] += (
        f" {report['source']}; {report['limits']['seconds']:g} s and {report['limits']['gib']:g} GiB per question."
    )
    lines += [f"Left out: {family}, {why}." for family, why in report["skipped"].items()]
    lines += [
        "",
        "## Families",
        "",
        *_families(entries),
        "",
        *_aims(entries),
        "",
        "## What is not exact, by reason",
        "",
    ]
    return "\n".join(lines + _reasons(entries) + ["", "## All networks", "", *_networks(entries)]) + "\n"


def _families(entries: list[Entry]) -> list[str]:
    families = list(dict.fromkeys(entry["family"] for entry in entries))
    rows = [(name, counts([entry for entry in entries if entry["family"] == name])) for name in families]
    return grid(
        {
            "family": lambda row: row[0],
            "networks": lambda row: str(row[1]["tried"] - row[1]["not made"]),
            "torch.export takes": lambda row: str(row[1]["exported"]),
            "exact": lambda row: str(row[1]["exact"]),
            "share of these": lambda row: _number(row[1]["share"], ".1f", " %"),
            "fits that end finite": lambda row: f"{row[1]['fitted']}/{row[1]['fits']}",
            "capture / export, median": lambda row: _number(row[1]["ratio"], ".2f"),
            "within 4 x export + 2 s": lambda row: f"{row[1]['quick']}/{row[1]['timed']}",
        },
        [*rows, ("all", counts(entries))],
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit


def _aims(entries: list[Entry]) -> list[str]:
    found = counts(entries)
    share = _number(found["share"], ".1f", " %")
    return [
        f"Exact is a largest difference of {TOLERANCES['float64']:g} (float64) and {TOLERANCES['float32']:g} (float32) "
        f"of the output's largest entry at 1, 2 and 7 samples. Of what torch.export takes, {share} is exact; "
        f"{WANTED_SHARE:g} % is aimed at. {found['not made']} networks of the list could not be made."
    ]


def _reasons(entries: list[Entry]) -> list[str]:
    missed = [entry for entry in entries if exported(entry) and not is_exact(entry)]
    found = Counter(map(reason, missed))
    names = {why: [entry["name"] for entry in missed if reason(entry) == why] for why in found}
    return grid(
        {
            "networks": lambda row: str(row[1]),
            "reason": lambda row: _cell(row[0]),
            "which": lambda row: ", ".join(names[row[0]][:6]) + (", …" if row[1] > 6 else ""),
        },
        found.most_common(),
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _networks(entries: list[Entry]) -> list[str]:
    def difference(dtype: str) -> Any:
        return lambda entry: _number(max(entry["capture"].get(dtype, {"": None}).values(), default=None), ".1e")

    return grid(
        {
            "network": lambda entry: f"{entry['family']}/{entry['name']}",
            "parameters": lambda entry: _number(entry["export"].get("parameters"), ","),
            "export, s": lambda entry: _number(entry["export"].get("seconds"), ".2f"),
            "capture, s": lambda entry: _number(entry["capture"].get("seconds"), ".2f"),
            "peak MB": lambda entry: _number(_megabytes(entry), ".0f"),
            "status": status,
            "float64": difference("float64"),
            "float32": difference("float32"),
            "fit": lambda entry: _cell(_fit(entry)),
            "message": lambda entry: _cell(_message(entry)),
        },
        entries,
    )


def _megabytes(entry: Entry) -> float | None:
    found = entry["capture"].get("peak_bytes")
    return None if found is None else found / 1e6


def _fit(entry: Entry) -> str:
    fit = entry.get("fit")
    if fit is None:
        return ""
    if fit["ended"] == "done":
        some = f", {fit['layers'][0]} of {fit['layers'][1]} layers" if "layers" in fit else ""
        return f"{fit['seconds']:.1f} s{some}"
    return f"{fit['ended']}: {fit.get('message', '')[:100]}"


def _message(entry: Entry) -> str:
    if not exported(entry):
        told = f"torch.export: {entry['export'].get('message') or entry['export']['ended']}"
        return told[:200]
    return "" if is_exact(entry) else str(entry["capture"].get("message", ""))[:300]
