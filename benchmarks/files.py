"""What zeros buy on disk: the bytes of `sp.save`, and the time of `sp.load_weights`, beside a dense safetensors file.

    python benchmarks/files.py                  # two minutes, one kernel thread
    python benchmarks/files.py --seconds 0.1    # a trial

Six linear layers of 1024 x 1024, ResNet-20 and 784-64-32-16-10, unstructured zeros, float32, weights into a network
that is there. Dense is `net.load_state_dict(load_file(path))`, without and with the SHA-256 of its file; ours finds
damage by a CRC-32. All are called in turn in one run, the minimum of each: a busy machine is as unjust to one as to the
others. Warm times are those of the processor, with the files in memory; cold ones are those of the clock, after the
system was asked to drop the files from memory, and depend on the disk. Prints the table and writes results/files.json
and results/files.md beside this file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results import arguments, command, grid, keep, machine, ran_on, say
from safetensors.torch import load_file, save_file
from thinned import PERCEPTRON, thinned
from torch import nn

import simplicit as sp
from simplicit.runs.resnet import resnet20

SHARES, ROUNDS = (80, 90, 95), 5


def networks(share: int) -> dict[str, nn.Module]:
    """The networks with so many per cent zeros in each weight."""
    convolutions = resnet20()
    with torch.no_grad():
        for weight in convolutions.parameters():
            if weight.ndim > 1:
                weight.mul_(torch.rand_like(weight) >= share / 100)
    return {
        "6 × 1024²": thinned((1024,) * 7, share), "ResNet-20": convolutions,
        "784-64-32-16-10": thinned(PERCEPTRON, share),
    }  # fmt: skip


def of_network(name: str, net: nn.Module, share: int, place: Path, seconds: float) -> dict[str, Any]:
    """The row of a network."""
    dense, ours = place / "dense.safetensors", place / "ours"
    save_file(net.state_dict(), dense)
    saved = sp.save(net, ours)
    assert saved is not None

    def checked() -> None:
        hashlib.sha256(dense.read_bytes()).digest()
        net.load_state_dict(load_file(dense))

    ways: dict[str, Callable[[], Any]] = {
        "dense": lambda: net.load_state_dict(load_file(dense)),
        "checked": checked,
        "ours": lambda: sp.load_weights(net, ours),
    }
    written = [dense, *ours.iterdir()]
    warm, cold = least(ways, seconds, time.process_time), least(ways, seconds, time.perf_counter, written)
    found = {"network": name, "zeros": share, "bytes": saved.bytes, "dense_bytes": saved.dense_bytes}
    found["zipped_bytes"] = saved.zipped_bytes
    say(f"{name}, {share} % zeros: {saved.bytes / saved.dense_bytes:.1%}, {warm['dense'] / warm['ours']:.2f} when warm")
    return found | {"forms": sorted(set(saved.forms.values())), "warm_ms": warm, "cold_ms": cold}


def least(
    ways: dict[str, Callable[[], Any]], seconds: float, clock: Callable[[], float], dropped: list[Path] | None = None
) -> dict[str, float]:
    """The least milliseconds of each, called in turn, after the files were dropped from memory if there are any."""
    found, start, rounds = dict.fromkeys(ways, float("inf")), time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - start < seconds:
        rounds += 1
        for name, way in ways.items():
            for file in dropped or ():
                drop(file)
            begun = clock()
            way()
            found[name] = min(found[name], 1000 * (clock() - begun))
    return found


def drop(file: Path) -> None:
    """Ask the system to forget what it has of a file in memory."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def page(report: dict[str, Any]) -> str:
    """The table."""
    before, after = report["load"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "network": lambda row: row["network"],
        "zeros": lambda row: f"{row['zeros']} %",
        "bytes of dense": lambda row: f"{row['bytes'] / row['dense_bytes']:.1%}",
        "zipped": lambda row: f"{row['zipped_bytes'] / row['dense_bytes']:.1%}",
    }
    for kind in ("warm", "cold"):
        for way in ("dense", "checked", "ours"):
            columns[f"{kind} {way}"] = lambda row, kind=kind, way=way: f"{row[f'{kind}_ms'][way]:.2f}"  # type: ignore[misc]
        columns[f"{kind} ratio"] = lambda row, kind=kind: (  # type: ignore[misc]
            f"{row[f'{kind}_ms']['dense'] / row[f'{kind}_ms']['ours']:.2f}"
        )
    lines = [
        "# What zeros buy on disk",
        "",
        f"{ran_on(report)}, {report['threads']} thread, load {before:.1f} before and {after:.1f} after.",
        "",
        "Milliseconds of a load, of the processor when the files are in memory (warm) and of the clock when they were "
        "dropped from it (cold). Checked is dense with the SHA-256 of its file; a ratio is dense over ours.",
        "",
        *grid(columns, report["rows"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and keep."""
    parser = arguments(__doc__, data=False)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each network, share and kind")
    given, load, rows = parser.parse_args(), os.getloadavg()[0], list[dict[str, Any]]()
    torch.set_num_threads(1)
    for share in SHARES:
        for name, net in networks(share).items():
            with tempfile.TemporaryDirectory() as place:
                rows.append(of_network(name, net, share, Path(place), given.seconds))
    report = {
        "command": command(), "machine": machine(), "threads": torch.get_num_threads(),
        "load": [load, os.getloadavg()[0]], "rows": sorted(rows, key=lambda row: str(row["network"])),
    }  # fmt: skip
    keep(given.output, "files", report, page(report))


if __name__ == "__main__":
    main()
