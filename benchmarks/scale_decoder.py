"""What the recipe Sparse would take on a decoder of 7 billion weights, on paper: memory, bytes, hours.

    python benchmarks/scale_decoder.py          # five minutes on one core

Three things are measured. *Counts*, on tiny decoders of the same form: multiplications with additions of all passes and
sums, numbers that are kept and read again, and those that are alive at once, each a sum of a few products of the sizes,
with coefficients by least squares. *Rates* of this machine, in processor seconds: products of matrices, the search of
supports at widths from 256 on (on the problems of benchmarks/width.py), a disk. And a *check*: a fit of another
decoder, beside what counts and rates say of it. The rest is arithmetic under assumptions that the page names. Prints
the tables and writes results/scale_decoder.json and results/scale_decoder.md beside this file.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from networks.decoder import Decoder, Sizes
from results import arguments, command, grid, keep, machine, ran_on, say
from scipy.optimize import nnls
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from width import problem

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.training.channels.derivatives import probe_bytes
from simplicit.training.channels.finding import channel_layers
from simplicit.training.channels.memory import MATRICES, OF_THE_BOUND, kept_bytes, live_numbers
from simplicit.training.channels.samples import BATCH
from simplicit.training.channels.sensitivity import differentiated_in
from simplicit.training.channels.store import Piece, Store
from simplicit.training.support.selection import elimination_paths, select
from simplicit.training.training import PILOT_PRODUCTS, PILOT_ROWS

#: Llama 2 has these, and many others of its size.
SEVEN = Sizes(width=4096, inner=11008, blocks=32, heads=32, words=32_000)
SAMPLES, TOKENS = 128, 2048
TINY = [Sizes(*sizes) for sizes in ((32, 88, 1), (32, 88, 2), (64, 88, 1), (32, 176, 1), (48, 128, 2))]
TINY_TOKENS = 16
CHECKED, CHECKED_SAMPLES, CHECKED_TOKENS = Sizes(width=256, inner=688, blocks=1), 100, 32
#: A decoder so many times narrower has its values in the same proportions: how it is differentiated is seen there.
NARROWER = 64
ROWS, COLUMNS, PILOTS = (32, 128), (256, 512, 1024, 2048), 16
#: How much longer work takes while all cores are busy, as benchmarks/results/scale.md has it.
CONTENTION, CORES = 1.15, 16
#: Bytes a second between nodes, and how many there are.
NETWORK, NODES = 1.25e9, (1, 4, 16, 64)
GIB, HOUR = 2**30, 3600.0
Numbers = dict[str, float]


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--gpu", type=float, default=30.0, help="Tflop/s of float32 products that a GPU is taken for")
    parser.add_argument("--columns", type=int, nargs="*", default=list(COLUMNS))
    parser.add_argument("--kept-rates", action="store_true", help="those of results/scale_decoder.json, not measured")
    parser.add_argument("--note", default="", help="what the page should say of the circumstances")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with staged():
        counted = [counts(sizes) for sizes in TINY]
    say(str(counted))
    of = {
        name: fitted([(FEATURES[name](s), one[name]) for s, one in zip(TINY, counted, strict=True)])
        for name in FEATURES
    }
    if options.kept_rates:
        rates = json.loads((options.output / "scale_decoder.json").read_text())["rates"]
    else:
        rates = {"products": products(), "disk": disk(), **supports(options.columns)}
    say(str(of) + str(rates))
    report = {
        "command": command(),
        "machine": machine(),
        "note": options.note,
        "gpu": options.gpu,
        "per_token": of,
        "rates": rates,
        "check": checked(of, rates),
        "work": work(SEVEN, SAMPLES, TOKENS, of, rates),
        "memory": memory(SEVEN, TOKENS, of),
    }
    keep(options.output, "scale_decoder", report, page(report))


def _weights_and_grams(s: Sizes) -> list[float]:
    return [s.weights + s.width * s.words, s.blocks * sum(columns**2 for _, columns in s.layers)]


#: What each count of a token is a sum of.
FEATURES: dict[str, Callable[[Sizes], list[float]]] = {
    "operations": _weights_and_grams,
    "kept": lambda s: [s.blocks * s.width, s.blocks * s.inner],
    "read": lambda s: [s.blocks * s.width, s.blocks * s.inner],
    "alive": lambda s: [s.width, s.inner],
    "live": lambda s: [s.width, s.inner],
}


def fitted(points: Sequence[tuple[list[float], float]]) -> list[float]:
    """Coefficients, none of them negative, by least squares of relative errors."""
    X, y = (np.array(part) for part in zip(*points, strict=True))
    scale = np.abs(X / y[:, None]).max(axis=0)
    return [float(v) for v in nnls(X / y[:, None] / scale, np.ones(len(y)))[0] / scale]


def said(name: str, sizes: Sizes, of: dict[str, list[float]]) -> float:
    """A count of a token by its coefficients."""
    return float(np.dot(of[name], FEATURES[name](sizes)))


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Multiplications with additions of products of real matrices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        place = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1}.get(function.name().partition(".")[0])
        if place is not None and type(out) is Tensor:
            self.operations += out.numel() * args[place].shape[-1]
        return out


@contextmanager
def in_this_thread() -> Iterator[None]:
    """Do what workers do side by side in the one thread that a counter sees."""
    with ExitStack() as stack:
        for module in ("sensitivity", "statistics", "sweep", "walk"):
            name = f"simplicit.training.channels.{module}.side_by_side"
            stack.enter_context(patch(name, lambda work, items, workers: map(work, items)))
        yield


def staged() -> Any:
    """Differentiate small networks in stages too, as large ones are."""
    return patch("simplicit.training.channels.stages.WHOLE", 0)


@contextmanager
def storing() -> Iterator[dict[str, int]]:
    """The bytes that stores keep, and those that are read out of them."""
    found, keep_, storage_ = {"kept": 0, "read": 0}, Store.keep, Piece.storage

    def kept(self: Store, storage: torch.UntypedStorage, file: Any) -> Piece:
        found["kept"] += storage.nbytes()
        return keep_(self, storage, file)

    def read(self: Piece) -> torch.UntypedStorage | None:
        found["read"] += self.nbytes
        return storage_(self)

    with patch.object(Store, "keep", kept), patch.object(Piece, "storage", read):
        yield found


def example(sizes: Sizes, samples: int, tokens: int) -> tuple[Decoder, Tensor]:
    torch.manual_seed(0)
    return Decoder(sizes).eval(), torch.randint(0, sizes.words, (samples, tokens))


def counts(sizes: Sizes) -> Numbers:
    """Of a token: operations, and numbers. What does not grow with the samples is subtracted."""
    found = []
    for samples in (BATCH, 2 * BATCH):
        net, ids = example(sizes, samples, TINY_TOKENS)
        with in_this_thread(), storing() as stored, Counter() as counter:
            sp.fit(net, ids, sp.Sparse(50))
        found.append((counter.operations, stored["kept"] / 4, stored["read"] / 4))
    each = [(b - a) / (BATCH * TINY_TOKENS) for a, b in zip(*found, strict=True)]
    graph = capture_graph(net, ids)
    layers = channel_layers(graph)
    return {
        **dict(zip(("operations", "kept", "read"), each, strict=True)),
        "alive": kept_bytes(graph, layers)[1] / 4 / TINY_TOKENS,
        "live": live_numbers(graph) / TINY_TOKENS,
    }


def products(size: int = 1024, repeats: int = 10) -> float:
    """Multiplications with additions in a processor second, float32."""
    a, b = torch.rand(2 * size, size), torch.rand(size, size)
    begun = time.process_time()
    for _ in range(repeats):
        a @ b
    return 2 * size**3 * repeats / (time.process_time() - begun)


def disk(megabytes: int = 256) -> float:
    """Bytes a second onto the disk of temporary files."""
    block = os.urandom(2**20)
    with tempfile.TemporaryFile() as file:
        begun = time.perf_counter()
        for _ in range(megabytes):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return megabytes * 2**20 / (time.perf_counter() - begun)


def supports(columns: Sequence[int]) -> Numbers:
    """Processor seconds of the supports of r rows on d columns: ``shared`` d³ + ``rows`` r d², by a few of them.

    Of the rows that the ``pilot`` eliminates each takes so many times d³.
    """
    points, pilots = [], []
    for d in columns:
        for rows in ROWS:
            given, _ = problem(rows, d)
            begun = time.process_time()
            select(given, (), np.ones(rows), rows * d // 2, 1, thresholding=True)
            points.append(([float(d**3), float(rows * d**2)], time.process_time() - begun))
            say(f"{rows} x {d}: {points[-1][1]:.2f} s")
        given, _ = problem(PILOTS, d)
        begun = time.process_time()
        elimination_paths(given, given.support, 1)
        pilots.append(([float(PILOTS * d**3)], time.process_time() - begun))
    return dict(zip(("shared", "rows"), fitted(points), strict=True)) | {"pilot": fitted(pilots)[0]}


def work(sizes: Sizes, samples: int, tokens: int, of: dict[str, list[float]], rates: Numbers) -> Numbers:
    """Processor seconds of a fit by what they go into, on one core, and bytes."""
    every = samples * tokens
    layers = sizes.layers * sizes.blocks
    pilots = sum(min(r, max(PILOT_ROWS, int(PILOT_PRODUCTS / d**3))) * d**3 for r, d in layers)
    return {
        "passes": every * said("operations", sizes, of) / rates["products"],
        "shared": rates["shared"] * sum(d**3 for _, d in layers),
        "rows": rates["rows"] * sum(r * d**2 for r, d in layers) + rates["pilot"] * pilots,
        "kept": 4 * every * said("kept", sizes, of),
        "read": 4 * every * said("read", sizes, of),
        "alive": 4 * every * said("alive", sizes, of),
    }


def checked(of: dict[str, list[float]], rates: Numbers) -> Numbers:
    """A fit of another decoder: processor seconds and bytes, said and measured."""
    net, ids = example(CHECKED, CHECKED_SAMPLES, CHECKED_TOKENS)
    begun = time.process_time()
    capture_graph(net, ids)
    capture = time.process_time() - begun
    with storing() as stored, staged():
        begun = time.process_time()
        sp.fit(net, ids, sp.Sparse(50))
        seconds = time.process_time() - begun - capture
    found = work(CHECKED, CHECKED_SAMPLES, CHECKED_TOKENS, of, rates)
    return {
        "seconds said": found["passes"] + found["shared"] + found["rows"],
        "seconds": seconds,
        "kept said": found["kept"],
        "kept": stored["kept"],
        "read said": found["read"],
        "read": stored["read"],
    }


def memory(sizes: Sizes, tokens: int, of: dict[str, list[float]]) -> Numbers:
    """Bytes at the peak, with states on disk, as the library bounds them before the start."""
    most = max(columns for _, columns in sizes.layers)
    return {
        "weights of baseline and student": 2 * 4 * (sizes.weights + 2 * sizes.width * sizes.words),
        "Gram matrices of the widest layer": 8 * most**2 * (MATRICES + max(2 * CORES, OF_THE_BOUND)),
        "a batch on its way": 4 * BATCH * tokens * 2 * said("live", sizes, of),
        **derivatives(sizes, tokens),
    }


def derivatives(sizes: Sizes, tokens: int) -> Numbers:
    """Bytes of what is differentiated at a time, by the library's own stages of a decoder of the same proportions."""
    parts = [size // NARROWER for size in (sizes.width, sizes.inner, sizes.words)]
    narrow = Sizes(parts[0], parts[1], sizes.blocks, sizes.heads, parts[2])
    graph = capture_graph(*example(narrow, 2, TINY_TOKENS))
    times = NARROWER * tokens // TINY_TOKENS
    layers = channel_layers(graph)
    found = differentiated_in(graph, layers, BATCH * times)
    found = replace(found, crossing=found.crossing * times, working=found.working * times)
    samples = found.at_a_time(BATCH)
    say(f"{len(found.stages)} stages, {samples} samples at a time")
    return {
        f"a stage of the derivative, {samples} samples": samples * found.working,
        f"its probes, {samples} samples": times * probe_bytes(graph, samples),
        "what crosses between its stages, which may be on disk": samples * found.crossing,
    }


def page(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    found, check, rates = report["work"], report["check"], report["rates"]
    lines = [
        "# A decoder of 7 billion weights, on paper",
        "",
        f"{ran_on(report)}. {SEVEN.blocks} blocks of {SEVEN.width:,} states and {SEVEN.inner:,} inside, "
        f"{SEVEN.weights / 1e9:.2f} billion weights; {SAMPLES} samples of {TOKENS:,} tokens; float32.",
        *([report["note"]] if report["note"] else []),
        "",
        f"Of this machine: {rates['products'] / 1e9:.1f} G multiplications with additions in a processor second; "
        f"supports of r rows on d columns in {1e12 * rates['shared']:.2f} ps·d³ + {1e9 * rates['rows']:.2f} ns·r·d², "
        f"{1e12 * rates['pilot']:.2f} ps·d³ for every row of the pilot; "
        f"{rates['disk'] / 1e6:,.0f} MB/s onto the disk.",
        "",
        f"Checked on a decoder of {CHECKED.blocks} block of {CHECKED.width} states, {CHECKED_SAMPLES} samples of "
        f"{CHECKED_TOKENS} tokens, which no coefficient comes from: {check['seconds']:.1f} processor seconds, "
        f"{check['seconds said']:.1f} were said; {check['kept'] / GIB:.3f} GiB kept, {check['kept said'] / GIB:.3f} "
        f"said; {check['read'] / GIB:.3f} GiB read, {check['read said'] / GIB:.3f} said.",
        "",
        "## Memory at the peak, states on disk",
        "",
        *grid(
            {"what": lambda name: name, "GiB": lambda n: f"{report['memory'][n] / GIB:,.1f}"}, list(report["memory"])
        ),
        "",
        "## Bytes",
        "",
        f"Values that are kept: {found['kept'] / GIB:,.0f} GiB written, {found['read'] / GIB:,.0f} GiB read, of which "
        f"{found['alive'] / GIB:,.0f} GiB are there at a time.",
        "",
        "## Hours",
        "",
        f"{CORES} cores are {CORES / CONTENTION:.1f} times one. A GPU is taken for {report['gpu']:g} Tflop/s of "
        "multiplications and additions, two of which make one of ours, in passes and supports alike. Disk: as here.",
        "",
        *grid(_columns(), _machines(report)),
        "",
    ]
    return "\n".join(lines)


def _machines(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Hours by what they go into."""
    found, rates = report["work"], report["rates"]
    gpu = report["gpu"] * 1e12 / 2 / rates["products"]
    bytes_ = found["kept"] + found["read"]
    cases: list[tuple[str, float, float, float]] = [("one core", 1.0, 1.0, 0.0), ("one GPU", gpu, gpu, 0.0)]
    for nodes in NODES:
        cores = CORES / CONTENTION
        # Nodes fetch a layer's sums from each other: the number that have them doubles.
        moved = 8 * SEVEN.blocks * sum(d**2 + r * d for r, d in SEVEN.layers) * math.ceil(math.log2(nodes))
        name = f"{CORES} cores" if nodes == 1 else f"{nodes} Ray nodes of {CORES} cores"
        cases.append((name, cores, cores * nodes, moved / NETWORK))
    return [
        {
            "machine": name,
            "passes and sums": found["passes"] / one / HOUR,
            "supports": (found["shared"] / one + found["rows"] / rows) / HOUR,
            "disk": bytes_ / rates["disk"] / HOUR,
            "network": network / HOUR,
        }
        for name, one, rows, network in cases
    ]


def _columns() -> dict[str, Callable[[dict[str, Any]], str]]:
    parts = ("passes and sums", "supports", "disk", "network")

    def hours(part: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: f"{row[part]:,.2f}"

    return {
        "": lambda row: row["machine"],
        **{part: hours(part) for part in parts},
        "all, one after another": lambda row: f"{sum(row[part] for part in parts):,.2f}",
        "most": lambda row: max(parts, key=lambda part: row[part]),
    }


if __name__ == "__main__":
    main()
