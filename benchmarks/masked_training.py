"""What masked training gives, with labels, from a network pruned by magnitude and from one of the recipe Sparse.

    python benchmarks/masked_training.py        # half an hour on one core; needs Fashion-MNIST, see --help

A seed trains a baseline, which is pruned at each sparsity in two ways: by magnitude over the whole network, and by
`sp.fit` with `sp.Sparse` on 1,000 training images without labels. Both then go on with labels, their zeros kept by
`sp.keep_zeros`, for some epochs of what trained the baseline: AdamW, cross-entropy, a one-cycle learning rate. A tenth
of the training images is held out; of the peaks of the learning rate each start takes the one that does best there
after one epoch, so that neither is favoured. Accuracies are those on all test images. Prints the tables and writes
results/masked_training.json and .md beside this file, the data sets beside those of other runs.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from results import arguments, grid, keep, machine, ran_on, say
from results import command as typed
from torch import nn

import simplicit as sp
from simplicit.data import Dataset, load_dataset
from simplicit.machine import flushed_denormals, one_thread_each
from simplicit.runs.demo import largest_kept
from simplicit.runs.mlp import MlpSettings, train_mlp

NETWORKS = {"digits": (256, 128), "fashion-mnist": (64, 32, 16)}
#: Samples of a step, as in the training of the baseline.
BATCH = 128
STARTS = ("magnitude", "Sparse")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--sparsities", type=float, nargs="*", default=[80.0, 90.0, 95.0, 98.0])
    parser.add_argument("--epochs", type=int, nargs="*", default=[1, 5], help="of masked training; the first chooses")
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 4e-3, 1e-2], help="peaks to choose from")
    parser.add_argument("--samples", type=int, default=1000, help="training images of the fits")
    options = parser.parse_args()
    file = options.output / "masked_training.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    with one_thread_each(), flushed_denormals():
        for name in options.data:
            data, rows = load_dataset(name, options.data_dir), list[dict[str, Any]]()
            for seed in options.seeds:
                rows += rows_of(data, name, seed, options)
                report[name] = {"command": typed(), "machine": machine(), "samples": options.samples}
                report[name] |= {"rates": options.rates, "rows": rows}
                keep(options.output, "masked_training", report, page(report))


def rows_of(data: Dataset, name: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What came out for one baseline."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(data.train_inputs))
    held, taken = np.split(order, [len(order) // 10])
    part = replace(data, train_inputs=data.train_inputs[taken], train_labels=data.train_labels[taken])
    net = train_mlp(part, MlpSettings(arch=NETWORKS[name], bias=False, seed=seed))
    inputs = part.train_inputs[: options.samples]
    rows = []
    for sparsity in options.sparsities:
        fitted = sp.fit(net, inputs, sp.Sparse(sparsity)).network()
        starts = (largest_kept(net, weights(fitted)), fitted)
        for start, pruned in zip(STARTS, starts, strict=True):
            row = {"data": name, "seed": seed, "sparsity": sparsity, "start": start, "dense": tested(net, data)}
            row |= {"weights": weights(pruned), "epochs": {"0": tested(pruned, data)}}
            row |= _trained_on(pruned, part, data, held, seed, options)
            rows.append(row)
            say(f"{name}, seed {seed}, {sparsity:g} %, {start}: {row['epochs']}")
    return rows


def _trained_on(
    pruned: nn.Module, part: Dataset, data: Dataset, held: np.ndarray, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The accuracies after so many epochs, and the peak of the learning rate that did best on what was held out."""
    first, *longer = options.epochs
    tried = {rate: masked(pruned, part, first, rate, seed) for rate in options.rates}
    inputs, labels = data.train_inputs[held], data.train_labels[held]
    rate = max(tried, key=lambda rate: sp.accuracy(tried[rate], inputs, labels))
    nets = {first: tried[rate], **{epochs: masked(pruned, part, epochs, rate, seed) for epochs in longer}}
    assert all(weights(net) <= weights(pruned) for net in nets.values())
    found = {"0": tested(pruned, data), **{str(epochs): tested(net, data) for epochs, net in nets.items()}}
    return {"rate": rate, "epochs": found}


def masked(pruned: nn.Module, data: Dataset, epochs: int, rate: float, seed: int) -> nn.Module:
    """A copy that was trained further with its zeros kept."""
    net = copy.deepcopy(pruned).train()
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    batches = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01, foreach=True)
    steps = epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 2), pct_start=0.2)
    with sp.keep_zeros(net):
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(labels), generator=batches), BATCH):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return net.eval()


def tested(net: nn.Module, data: Dataset) -> float:
    """Accuracy on all test images, a share."""
    return sp.accuracy(net, data.test_inputs, data.test_labels)


def weights(net: nn.Module) -> int:
    """Weights that are not zero."""
    return sum(int(parameter.count_nonzero()) for parameter in net.parameters() if parameter.ndim > 1)


def page(report: dict[str, Any]) -> str:
    """A table for each data set, in Markdown: means over the seeds, with standard deviations."""
    lines = [
        "# Masked training from two starts",
        "",
        "Accuracy on all test images, per cent: mean ± standard deviation over the seeds. Bias-free perceptrons, "
        "pruned by magnitude over the whole network, or by `sp.Sparse` from training images without labels, then "
        "trained with labels and their zeros kept. The peak of the learning rate is the best of those that are named, "
        "for one epoch, on a tenth of the training images that was held out.",
    ]
    for name, entry in report.items():
        rows = entry["rows"]
        dense = [row["dense"] for row in rows if row["start"] == STARTS[0] and row["sparsity"] == rows[0]["sparsity"]]
        lines += ["", f"## {name}, {'-'.join(map(str, NETWORKS[name]))}; dense {_shown(dense)}", ""]
        lines += grid(_columns(rows), list(dict.fromkeys((row["sparsity"], row["start"]) for row in rows)))
        seeds = ", ".join(map(str, dict.fromkeys(row["seed"] for row in rows)))
        rates = ", ".join(f"{rate:g}" for rate in entry["rates"])
        lines += ["", f"Seeds {seeds}; {entry['samples']:,} images for `sp.Sparse`; peaks {rates}. {ran_on(entry)}"]
    return "\n".join([*lines, ""])


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def after(epochs: str) -> Any:
        return lambda line: _shown([row["epochs"][epochs] for row in rows if (row["sparsity"], row["start"]) == line])

    names = {"0": "no training", "1": "1 epoch"}
    columns: dict[str, Any] = {"sparsity, %": lambda line: f"{line[0]:g}", "start": lambda line: line[1]}
    return columns | {names.get(epochs, f"{epochs} epochs"): after(epochs) for epochs in rows[0]["epochs"]}


def _shown(shares: list[float]) -> str:
    spread = f" ± {100 * stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * mean(shares):.1f}{spread}"


if __name__ == "__main__":
    main()
