"""The recipe Sparse on ResNet-20, CIFAR-10: sparsity against accuracy, and against pruning methods on the same images.

    python benchmarks/resnet20.py            # about two hours on 2 cores; needs the data, see --help

A draw is 1,000 of the 4,000 training images, without labels, the same for all methods. Accuracy, and agreement with the
dense network's predictions, are of the 1,000 test images; on the training images that were not drawn, agreement is
reported too. `fit` runs alone, in a process of its own, on all cores; peers run side by side, one core each, so that
their seconds are of one core. Finished models are kept in --parts, from which a broken-off run goes on. Prints the
tables and writes results/resnet20.json and results/resnet20.md beside this file.

A peer is named by its allocation over layers (uniform, global by size, or that of fit) and by its targets: its own (the
dense weights on the layer's inputs in the network pruned so far) or fit's (the baseline's states, which correct what
went wrong before, skip paths included). "as published" leaves biases and batch norms as they are; "norms" corrects them
as fit does.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pruning import OURS, Method, columns, failures, run_missing
from results import arguments, command, grid, keep, machine, ran_on, source_digest
from torch import Tensor, nn

import simplicit as sp
from simplicit.data import load_dataset
from simplicit.machine import one_thread_each
from simplicit.network.graph import capture_graph
from simplicit.runs.resnet import resnet20
from simplicit.runtime.files import load_weights
from simplicit.studies.peers import PEERS, Network

SPARSITIES = (50.0, 70.0, 80.0, 90.0, 95.0)


def methods() -> list[Method]:
    """All lines, in the order of the table."""
    plain = [
        Method("magnitude", allocation, "", norms)
        for allocation in ("global", "uniform", "fit's")
        for norms in (False, True)
    ]
    plain += [Method("wanda", allocation, "", norms) for allocation in ("uniform", "fit's") for norms in (False, True)]
    fitted = [
        Method(solver, allocation, targets, norms)
        for solver in ("sparsegpt", "alps")
        for allocation in ("uniform", "fit's")
        for targets, norms in (("own", False), ("own", True), ("fit's", True))
    ]
    return [Method(OURS), *fitted[::-1], *plain]


@dataclass(frozen=True)
class Data:
    """Images (m, 3, 32, 32) in [0, 1] and labels."""

    train: Tensor
    train_labels: np.ndarray
    test: Tensor
    test_labels: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> Data:
        data = load_dataset("cifar-10", folder)
        train, test = (torch.from_numpy(X).view(-1, *data.input_shape) for X in (data.train_inputs, data.test_inputs))
        return cls(train, data.train_labels, test, data.test_labels)

    def drawn(self, draw: int, samples: int) -> np.ndarray:
        """The places of the images of a draw."""
        return np.sort(np.random.default_rng(draw).choice(len(self.train), samples, replace=False))


def trained(folder: Path) -> nn.Module:
    """ResNet-20 with the published weights."""
    net = resnet20()
    load_weights(net, folder / "weights" / "resnet20-12fca82f.th")
    return net.eval()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=1000, help="training images of a draw")
    parser.add_argument("--sparsities", type=float, nargs="*", default=list(SPARSITIES))
    parser.add_argument("--only", nargs="*", default=None, help="solvers, such as alps; all when left out")
    parser.add_argument(
        "--parts",
        type=Path,
        default=Path("build/resnet20") / source_digest(),
        help="folder of finished models (default: one for this state of the code)",
    )
    parser.add_argument("--tables", action="store_true", help="run nothing, only write the tables of what is finished")
    parser.add_argument("--note", default="", help="what the tables should say of the circumstances")
    options = parser.parse_args()
    options.parts.mkdir(parents=True, exist_ok=True)
    chosen = [one for one in methods() if one.solver == OURS or options.only is None or one.solver in options.only]
    for draw in () if options.tables else options.draws:
        run_all(options, draw, [Method(OURS)], workers=1)
        run_all(options, draw, [one for one in chosen if one.solver != OURS], workers=2)
    rows = [json.loads(file.read_text()) for _, file in tasks(options, options.draws, chosen) if file.exists()]
    report = {
        "command": command(),
        "machine": machine(),
        "settings": {"samples": options.samples, "draws": options.draws, "sparsities": options.sparsities},
        "dense": dense(options),
        "rows": rows,
        "note": options.note,
    }
    keep(options.output, "resnet20", report, page(report))


Task = tuple[Any, Path]


def tasks(options: argparse.Namespace, draws: list[int], chosen: list[Method]) -> Iterator[Task]:
    """Everything that is to be run, with the file of its figures."""
    for draw in draws:
        for sparsity in options.sparsities:
            for method in chosen:
                file = options.parts / f"{options.samples}-{draw}-{sparsity:g}-{method.file}.json"
                yield (options.data_dir, options.samples, draw, sparsity, method, options.parts), file


def run_all(options: argparse.Namespace, draw: int, chosen: list[Method], workers: int) -> None:
    """Run what has no file yet, each in a process of its own."""
    run_missing(tasks(options, [draw], chosen), run, labelled, workers)


def labelled(task: Any) -> dict[str, Any]:
    """What a row says of its task."""
    _, _, draw, sparsity, method, _ = task
    return {"name": str(method), "draw": draw, "wanted": sparsity}


def run(task: Any) -> dict[str, Any]:
    """One model: made, and measured."""
    folder, samples, draw, sparsity, method, parts = task
    data, net = Data.read(folder), trained(folder)
    drawn = data.drawn(draw, samples)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    if method.solver == OURS:
        result = sp.fit(net, data.train[drawn], sp.Sparse(sparsity))
        found, layers = result.network(), {layer.name: layer.non_zeros for layer in result.layers}
        certified = int(result.rows.converged.sum()), len(result.rows)
    else:
        with one_thread_each():
            torch.set_num_threads(1)
            found, layers = peer(net, data.train[drawn], method, sparsity, parts / _ours(samples, draw, sparsity))
        certified = None
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = [p for p in found.parameters() if p.ndim > 1]
    row = labelled(task) | {
        "sparsity": 100 * (1 - sum(int((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights)),
        "seconds": seconds,
        "peak_megabytes": peak / 1024,
        "megabytes_before": before / 1024,
        "certified": certified,
        "layers": layers,
    }
    rest = np.setdiff1d(np.arange(len(data.train)), drawn)
    return row | measured(dense_logits(folder), found, data, rest)


def _ours(samples: int, draw: int, sparsity: float) -> str:
    return f"{samples}-{draw}-{sparsity:g}-{OURS}.json"


def peer(net: nn.Module, images: Tensor, method: Method, sparsity: float, ours: Path) -> tuple[nn.Module, Any]:
    """A network pruned by a peer."""
    network = Network(capture_graph(net, images), images)
    if method.allocation == "fit's":
        counts = json.loads(ours.read_text())["layers"]
    else:
        counts = network.uniform(sparsity) if method.allocation == "uniform" else network.by_size(sparsity)
    found = network.pruned(PEERS[method.solver], counts, states=method.targets == "fit's", correct=method.norms)
    return found, counts


def measured(dense: tuple[Tensor, Tensor], found: nn.Module, data: Data, rest: np.ndarray) -> dict[str, float]:
    """Accuracy and agreement, in per cent; distance of the logits."""
    theirs, on_train = dense
    with torch.no_grad():
        ours, held = logits(found, data.test), logits(found, data.train[rest]).argmax(1)
    return {
        "accuracy": 100 * float(np.mean(ours.argmax(1).numpy() == data.test_labels)),
        "agreement": 100 * float((ours.argmax(1) == theirs.argmax(1)).double().mean()),
        "logit_error": float((ours - theirs).norm() / theirs.norm()),
        "held_out_agreement": 100 * float((held == on_train[rest].argmax(1)).double().mean()),
    }


@cache
def dense_logits(folder: Path) -> tuple[Tensor, Tensor]:
    """Of the network itself, on the test and on the training images."""
    data, net = Data.read(folder), trained(folder)
    with torch.no_grad():
        return logits(net, data.test), logits(net, data.train)


def logits(net: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([net(part) for part in torch.split(images, 250)])


def dense(options: argparse.Namespace) -> float:
    """Accuracy of the network itself."""
    labels = Data.read(options.data_dir).test_labels
    return 100 * float(np.mean(dense_logits(options.data_dir)[0].argmax(1).numpy() == labels))


def page(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    settings, rows = report["settings"], report["rows"]
    ours = [row for row in rows if row["name"] == OURS]
    headings = {sparsity: f"{sparsity:g} % sparse" for sparsity in settings["sparsities"]}
    lines = [
        "# ResNet-20 on CIFAR-10, one row per output channel",
        "",
        f"{ran_on(report)}. Dense: "
        f"{report['dense']:.1f} %. Means over {len(settings['draws'])} draws, fewer where it is said, of "
        f"{settings['samples']:,} training "
        "images without labels, standard deviations in brackets; sparsity is over the 268,336 weights of all "
        "convolutions and the linear layer. 1,000 test images: the standard error of one accuracy is about 0.9, that "
        "of a difference between two models smaller, as they err on the same images.",
    ]
    for figure, title in (
        ("accuracy", "Accuracy on the test images, per cent"),
        ("agreement", "Agreement with the dense network's predictions on the test images, per cent"),
        ("held_out_agreement", "Agreement on the training images that were not drawn, per cent"),
        ("seconds", "Seconds per model (fit: all cores; peers: one core)"),
    ):
        found = columns(rows, figure, headings, digits=0 if figure == "seconds" else 1)
        lines += ["", f"## {title}", "", *grid(found, names(rows))]
    certified = [row["certified"] for row in ours]
    lines += [
        "",
        f"`fit`: {sum(a for a, _ in certified):,} of {sum(b for _, b in certified):,} rows certified; peak memory of "
        f"the process {max(row['peak_megabytes'] for row in ours):,.0f} MB, of which "
        f"{max(row['megabytes_before'] for row in ours):,.0f} MB before it began (torch, the images, the network).",
        *(["", report["note"]] if report.get("note") else []),
        *failures(rows),
        "",
    ]
    return "\n".join(lines)


def names(rows: list[dict[str, Any]]) -> list[str]:
    found = {row["name"] for row in rows}
    return [str(method) for method in methods() if str(method) in found]


if __name__ == "__main__":
    main()
