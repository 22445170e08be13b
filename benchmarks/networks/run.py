"""Ask the networks of one family, every step in a forked process with limits; one line of JSON per network.

    python -m networks.run FAMILY RESULT.jsonl --limit SECONDS --memory GIB     # from the folder above this one

Packages are imported once, and torch.export has run once before, so that what is measured is the network's.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FAMILIES = {"small": "small", "timm": "timm_nets", "transformers": "transformers_nets", "pretrained": "pretrained"}


def main() -> None:
    """Ask what the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("result", type=Path, nargs="?")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--limit", type=float, default=120)
    parser.add_argument("--memory", type=float, default=8)
    parser.add_argument("--no-fit", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    family = importlib.import_module(f"networks.{FAMILIES[options.family]}")
    names = [name for name in family.ENTRIES if chosen(options.family, name, options.only)]
    if options.list:
        print(*(f"{options.family}/{name}" for name in names), sep="\n")
        return
    missing = [package for package in family.PACKAGES if find_spec(package) is None]
    before = options.result.read_text().splitlines() if options.result.exists() else []
    answered = {json.loads(line).get("name") for line in before}
    names = [name for name in names if name not in answered]
    with options.result.open("a") as file:
        if not names:
            return
        if missing:
            print(json.dumps({"skipped": f"not installed: {', '.join(missing)}"}), file=file)
            return
        prepare(family)
        steps = ["export", "capture"] + ([] if options.no_fit else ["fit"])
        for number, name in enumerate(names, 1):
            report = {"family": options.family, "name": name}
            report |= ask(family.ENTRIES[name], steps, options.limit, options.memory)
            print(json.dumps(report), file=file, flush=True)
            said = ", ".join(f"{step}: {report[step]['ended']}" for step in steps if step in report)
            print(f"{options.family} {number}/{len(names)} {name}: {said}", file=sys.stderr, flush=True)


def chosen(family: str, name: str, patterns: list[str]) -> bool:
    """Whether a network is asked for: by a pattern of its name, of its family, or of ``family/name``."""
    words = (family, name, f"{family}/{name}")
    return not patterns or any(fnmatch.fnmatch(word, pattern) for pattern in patterns for word in words)


def prepare(family: Any) -> None:
    """Import what all networks of the family need, and let torch load what its first export loads."""
    import torch

    from networks.measure import STEPS

    torch.set_num_threads(1)
    family.prepare()
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    for step in STEPS.values():
        step(lambda: (net, torch.rand(12, 4)), lambda report: None)


def ask(make: Any, steps: list[str], limit: float, memory: float) -> dict[str, Any]:
    """All steps; a fit is not tried where the capture did not end."""
    report: dict[str, Any] = {}
    for step in steps:
        if step == "fit" and report["capture"]["ended"] != "done":
            break
        report[step] = forked(make, step, limit, memory)
    return report


def forked(make: Any, step: str, limit: float, memory: float) -> dict[str, Any]:
    """One step in a process of its own: what it noted, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.jsonl"
        process = os.fork()
        if process == 0:
            _in_child(make, step, notes, limit, memory)
        ended = _awaited(process, limit)
        report: dict[str, Any] = {"ended": ended}
        for line in notes.read_text().splitlines() if notes.exists() else []:
            report |= json.loads(line)
        return report


def _awaited(process: int, limit: float) -> str:
    """Wait for a child; how it ended, where it did not say so itself."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return f"crashed: {signal.Signals(status & 127).name}" if status & 127 else "crashed"
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return f"time: over {limit:g} s"


def _in_child(make: Any, step: str, notes: Path, limit: float, memory: float) -> None:
    """Never returns."""
    from networks.measure import STEPS, _status

    signal.alarm(int(limit) + 5)  # should the process that waits be ended itself
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    with notes.open("a") as file:

        def note(report: dict[str, Any]) -> None:
            print(json.dumps(report), file=file, flush=True)

        try:
            bound = _status("VmSize") + int(memory * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))
            STEPS[step](make, note)
            note({"ended": "done"})
        except BaseException as error:  # whatever a network raises is the result
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            note(failure(error))
    os._exit(0)


def failure(error: BaseException) -> dict[str, Any]:
    """An error in words, and which operation it is about."""
    text = " ".join(str(error).split())
    refused = any(kind.__module__.startswith("simplicit") for kind in type(error).__mro__)
    memory = isinstance(error, MemoryError) or ("alloc" in text.lower() and "memory" in text.lower())
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return {
        "ended": "memory" if memory else "refused" if refused else "failed",
        "error": type(error).__name__,
        "message": text[:600],
        "operation": getattr(error, "operation", None),
        "place": "" if refused else "".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in last),
    }


if __name__ == "__main__":
    main()
