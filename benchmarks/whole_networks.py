"""What zeros buy in networks as `sp.fit` leaves them: dense torch, compacted, accelerated, and accelerated after that.

    python benchmarks/whole_networks.py                # twenty minutes for the fits, which --parts keeps, and five more
    python benchmarks/whole_networks.py --only vit     # one network; also --batches

ResNet-20 on CIFAR-10 and a vision transformer on Fashion-MNIST, fitted on the 1,000 images of draw 0, at 80, 90 and
95 % zeros by `sp.Sparse`, and with half of the weights dropped by `sp.Structured`. A ratio is the median time of the
dense network, as torch runs it, over that of the way beside it; all ways are called in turn in one run, so that a busy
machine is as unjust to one as to the other. Prints the table and writes results/whole_networks.json and .md beside
this file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from results import arguments, command, grid, keep, machine, ran_on, say
from subjects import SUBJECTS, Places, Subject
from torch import nn

import simplicit as sp
from simplicit.runtime.formats.measuring import spreads

NETWORKS, BATCHES = ("vit", "resnet20"), (1, 16, 128)
RECIPES: dict[str, Callable[[], Any]] = {
    "80 %": lambda: sp.Sparse(80),
    "90 %": lambda: sp.Sparse(90),
    "95 %": lambda: sp.Sparse(95),
    "structured 50 %": lambda: sp.Structured(50),
}
WAYS = ("compacted", "accelerated", "both")
#: Of every way at every batch size.
SECONDS = 1.5


def fitted(subject: Subject, name: str, recipe: str, parts: Path) -> nn.Module:
    """A network as a recipe leaves it; fitted once, and then read from ``parts``."""
    folder = parts / f"{name}-{recipe.replace(' %', '').replace(' ', '-')}"
    if not folder.exists():
        say(f"fitting {name}, {recipe}")
        sp.save(sp.fit(subject.dense(), subject.drawn(0), RECIPES[recipe]()).network(), folder)
    net = subject.dense()
    sp.load_weights(net, folder)
    return net.eval()


def rows_of(subject: Subject, name: str, recipe: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of a network and a recipe."""
    net, x = fitted(subject, name, recipe, given.parts), subject.drawn(0)
    ways = {
        "dense": net,
        "compacted": sp.compact(net, x[:2]),
        "accelerated": sp.accelerate(net, x[:2], batch=given.batches),
        "both": sp.accelerate(net, x[:2], batch=given.batches, compact=True),
    }
    weights = [sum(value.numel() for value in ways[way].parameters()) for way in ("dense", "compacted")]
    for batch in given.batches:
        samples = x[torch.arange(batch) % len(x)]
        with torch.no_grad():
            wanted = net(samples)
            off = {way: float((ways[way](samples) - wanted).abs().max() / wanted.abs().max()) for way in WAYS}
        found = spreads({way: partial(one, samples) for way, one in ways.items()}, SECONDS * len(ways))
        milliseconds = {way: 1000 * spread.median for way, spread in found.items()}
        ratios = {way: milliseconds["dense"] / milliseconds[way] for way in WAYS}
        said = ", ".join(f"{way} {ratio:.2f}" for way, ratio in ratios.items())
        say(f"{name}, {recipe}, batch {batch}: {said}")
        yield {
            "network": name, "recipe": recipe, "batch": batch, "milliseconds": milliseconds, "ratios": ratios,
            "parameters": weights, "difference": max(off.values()),
        }  # fmt: skip


def _ratio(way: str, row: dict[str, Any]) -> str:
    return f"{row['ratios'][way]:.2f}"


def page(report: dict[str, Any]) -> str:
    """The table."""
    before, after = report["load"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "network": lambda row: row["network"],
        "zeros": lambda row: row["recipe"],
        "batch": lambda row: f"{row['batch']:,}",
        "dense ms": lambda row: f"{row['milliseconds']['dense']:.3g}",
        "parameters": lambda row: f"{row['parameters'][0]:,}",
        "compacted": lambda row: f"{row['parameters'][1]:,}",
    }
    columns |= {f"ratio, {way}": partial(_ratio, way) for way in WAYS}
    lines = [
        "# What zeros buy in whole networks",
        "",
        f"{ran_on(report)}, {report['threads']} threads, load {before:.1f} before and {after:.1f} after. Ratios are "
        "dense torch's median time over that of `sp.compact`, `sp.accelerate` and `sp.accelerate(compact=True)`, "
        f"called in turn. Outputs differ by at most {max(row['difference'] for row in report['rows']):.0e} of the "
        "largest. " + report["note"],
        "",
        *grid(columns, report["rows"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Fit, measure, print and keep."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--batches", type=int, nargs="+", default=[*BATCHES])
    parser.add_argument("--parts", type=Path, default=Path("build/whole_networks"), help="folder of fitted networks")
    parser.add_argument("--fits", action="store_true", help="fit what is not there yet, and measure nothing")
    parser.add_argument("--note", default="", help="what the table should say of the circumstances")
    given = parser.parse_args()
    places, load = Places(given.data_dir, Path(), Path()), os.getloadavg()[0]
    subjects = {name: SUBJECTS[name](places) for name in given.only}
    if given.fits:
        for name, subject in subjects.items():
            for recipe in RECIPES:
                fitted(subject, name, recipe, given.parts)
        return
    rows = [row for name, one in subjects.items() for recipe in RECIPES for row in rows_of(one, name, recipe, given)]
    report = {
        "command": command(), "machine": machine(), "threads": torch.get_num_threads(),
        "load": [load, os.getloadavg()[0]], "rows": rows, "note": given.note,
    }  # fmt: skip
    keep(given.output, "whole_networks", report, page(report))


if __name__ == "__main__":
    main()
