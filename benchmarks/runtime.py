"""What zeros buy on this machine: networks of sparse layers by `sp.accelerate`, and `predict`, beside dense torch.

    python benchmarks/runtime.py                     # ten minutes on a quiet machine, all of its cores
    python benchmarks/runtime.py --widths 1024       # some widths only; also --shares and --batches

Three linear layers of one width with ReLUs between, unstructured zeros, float32; and `predict` of 784-64-32-16-10 with
all its weights, and with a tenth of them. Each ratio is dense torch's time over ours, both called in turn in one run,
the minimum of each: a busy machine is as unjust to one as to the other. Prints the table and writes
results/runtime.json and results/runtime.md beside this file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from results import arguments, command, grid, keep, machine, ran_on, say
from thinned import PERCEPTRON, thinned

import simplicit as sp

WIDTHS, SHARES, BATCHES = (1024, 2048, 4096), (50, 80, 90, 95), (1, 16, 128, 1024)
#: What issue 21 asks for, by the zeros in per cent and the batch.
WANTED = {90: {1: 2.0, 16: 2.0, 128: 1.5}, 95: {1: 4.0, 16: 4.0, 128: 3.0, 1024: 1.8}}
SECONDS, ROUNDS = 1.0, 7


def paired(dense: Callable[[], Any], ours: Callable[[], Any]) -> dict[str, float]:
    """The least milliseconds of each, called in turn, and their ratio."""
    least, start = [float("inf"), float("inf")], time.perf_counter()
    with torch.no_grad():
        for number in range(10_000):
            if number >= ROUNDS and time.perf_counter() - start > SECONDS:
                break
            for place, way in enumerate((dense, ours)):
                begun = time.perf_counter()
                way()
                least[place] = min(least[place], 1000 * (time.perf_counter() - begun))
    return {"dense_ms": least[0], "ours_ms": least[1], "ratio": least[0] / least[1]}


def of_width(width: int, share: int, batches: list[int]) -> list[dict[str, Any]]:
    """The rows of a width and a share of zeros."""
    net = thinned((width,) * 4, share)
    begun = time.perf_counter()
    fast = sp.accelerate(net, torch.randn(2, width), batch=batches)
    chosen, found = time.perf_counter() - begun, []
    for batch, whole in zip(sorted(batches), fast.formats().network, strict=True):
        x = torch.randn(batch, width)
        named = next(layer.format for layer in fast.formats().layers if layer.batch == batch)
        figures = paired(partial(net, x), partial(fast, x))
        way = named if whole.tile is None else f"{named}, tiles of {whole.tile}"
        found.append({"width": width, "zeros": share, "batch": batch, "way": way, "choice_s": chosen, **figures})
        say(f"{width} wide, {share} % zeros, batch {batch}: {figures['ratio']:.2f} ({way})")
    return found


def of_predict(share: int, batches: list[int]) -> list[dict[str, Any]]:
    """The rows of ``predict``."""
    net = thinned(PERCEPTRON, share)
    model, found = sp.from_torch(net, torch.rand(2, PERCEPTRON[0])), []
    for batch in batches:
        x = torch.rand(batch, PERCEPTRON[0])
        figures = paired(partial(net, x), partial(model.predict, x))
        found.append({"zeros": share, "batch": batch, **figures})
        say(f"predict, {share} % zeros, batch {batch}: {figures['ratio']:.2f}")
    return found


_TIMES: dict[str, Callable[[dict[str, Any]], str]] = {
    "zeros": lambda row: f"{row['zeros']} %",
    "batch": lambda row: f"{row['batch']:,}",
    "dense ms": lambda row: f"{row['dense_ms']:.3g}",
    "ours ms": lambda row: f"{row['ours_ms']:.3g}",
    "ratio": lambda row: f"{row['ratio']:.2f}",
}


def page(report: dict[str, Any]) -> str:
    """The tables."""
    more = {"wanted": _wanted, "way": lambda row: row["way"], "choice s": lambda row: f"{row['choice_s']:.1f}"}
    before, after = report["load"]
    lines = [
        "# What zeros buy",
        "",
        f"{ran_on(report)}, {report['threads']} threads, load {before:.1f} before and {after:.1f} after.",
        "",
        "Three linear layers, float32; a ratio is dense torch's time over that of `sp.accelerate`.",
        "",
        *grid({"width": lambda row: f"{row['width']:,}", **_TIMES, **more}, report["layers"]),
        "",
        "`predict` of 784-64-32-16-10; a ratio is dense torch's time over its own.",
        "",
        *grid(_TIMES, report["predict"]),
    ]
    return "\n".join(lines) + "\n"


def _wanted(row: dict[str, Any]) -> str:
    return str(WANTED.get(row["zeros"], {}).get(row["batch"], 0.95))


def main() -> None:
    """Measure, print and keep."""
    parser = arguments(__doc__, data=False)
    for name, values in (("widths", WIDTHS), ("shares", SHARES), ("batches", BATCHES)):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=[*values])
    given, load = parser.parse_args(), os.getloadavg()[0]
    layers = [row for width in given.widths for share in given.shares for row in of_width(width, share, given.batches)]
    predict = [row for share in (0, 90) for row in of_predict(share, given.batches)]
    report = {
        "command": command(), "machine": machine(), "threads": torch.get_num_threads(),
        "load": [load, os.getloadavg()[0]], "layers": layers, "predict": predict,
    }  # fmt: skip
    keep(given.output, "runtime", report, page(report))


if __name__ == "__main__":
    main()
