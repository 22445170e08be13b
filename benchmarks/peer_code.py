"""Our SparseGPT, Wanda and ALPS (`simplicit.studies.peers`) against the code that their authors published.

    git clone https://github.com/IST-DASLab/sparsegpt && git clone https://github.com/locuslab/wanda
    git clone https://github.com/mazumder-lab/ALPS
    python benchmarks/peer_code.py --sparsegpt sparsegpt --wanda wanda --alps ALPS

Layers of a Fashion-MNIST network (784-64-32-16-10, 1,000 samples) and convolutions of ResNet-20 (the patches of 100
CIFAR-10 images, as one linear layer), each pruned alone, with its own targets, at three sparsities and at 2:4. A
method's published class gets the layer and its inputs, in float32 as it takes them; ours the same in float64. Compared
are the relative squared error of the layer's outputs, ‖X(W − Ŵ)ᵀ‖²/‖XWᵀ‖², and the supports. The published files are
read from clones that you made, and changed in memory in one respect: tensors stay on the processor. SparseSwaps has no
published code yet. Prints the table and writes results/peer_code.json and results/peer_code.md beside this file.
"""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from resnet20 import Data, trained
from results import arguments, grid, keep, machine, ran_on
from torch import Tensor, nn

from simplicit.data import load_dataset
from simplicit.network.graph import capture_graph
from simplicit.runs.mlp import MlpSettings, train_mlp
from simplicit.studies.peers import PEERS, Layer, Pattern
from simplicit.training.channels import channel_layers
from simplicit.training.channels.patches import patches
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.walk import Walk

#: Shares of zeros in per cent; or a pattern, for layers whose columns it divides.
SETTINGS: tuple[int | Pattern, ...] = (50, 70, 90, Pattern(2, 4))
FILES = {"sparsegpt": "sparsegpt.py", "wanda": "lib/layerwrapper.py", "alps": "alps.py"}


@dataclass(frozen=True)
class Case:
    """A layer: weights (r, d) and inputs (m, d)."""

    name: str
    weights: Tensor
    inputs: Tensor


def main() -> None:
    parser = arguments(__doc__)
    for name in FILES:
        parser.add_argument(f"--{name}", type=Path, help="a clone of its repository; left out where not given")
    options = parser.parse_args()
    clones = {name: getattr(options, name) for name in FILES if getattr(options, name) is not None}
    if not clones:
        parser.error("give at least one clone, such as --sparsegpt DIR")
    theirs = {name: THEIRS[name](loaded(clone / FILES[name])) for name, clone in clones.items()}
    rows = [
        compared(case, name, prune, setting)
        for case in cases(options.data_dir)
        for name, prune in theirs.items()
        for setting in SETTINGS
        if not isinstance(setting, Pattern) or case.weights.shape[1] % setting.of == 0
    ]
    report = {
        "command": " ".join(["python benchmarks/peer_code.py", *(f"--{name} DIR" for name in clones)]),
        "commits": {name: commit(clone) for name, clone in clones.items()},
        "machine": machine(),
        "rows": rows,
    }
    keep(options.output, "peer_code", report, page(report))


def cases(folder: Path) -> Iterator[Case]:
    """The layers."""
    data = load_dataset("fashion-mnist", folder)
    net = train_mlp(data, MlpSettings(arch=(64, 32, 16), bias=False, seed=0))
    chosen = np.sort(np.random.default_rng(0).choice(len(data.train_inputs), 1000, replace=False))
    yield from layers_of("MLP", net, torch.as_tensor(data.train_inputs[chosen], dtype=torch.float32), every=1)
    yield from layers_of("ResNet-20", trained(folder), Data.read(folder).train[:100], every=6)


def layers_of(title: str, net: nn.Module, samples: Tensor, every: int) -> Iterator[Case]:
    graph = capture_graph(net, samples)
    walk = Walk(graph, batches_of(samples, 50))
    for layer in channel_layers(graph)[::every]:
        columns = patches(torch.cat([*walk.baseline(layer.source)]), layer.geometry)[0]
        yield Case(f"{title}, {layer.name}", graph.constants[layer.weight].flatten(1), columns.T.contiguous())


def loaded(file: Path) -> types.ModuleType:
    """A published file as a module, without the libraries of language models, and on the processor."""
    transformers = types.ModuleType("transformers")
    transformers.Conv1D = type("Conv1D", (), {})  # type: ignore[attr-defined]
    module = types.ModuleType(file.stem)
    with patch.dict(sys.modules, {"transformers": transformers, "quant": types.ModuleType("quant")}):
        exec(compile(file.read_text().replace("cuda:0", "cpu"), str(file), "exec"), module.__dict__)
    return module


def commit(clone: Path) -> str:
    done = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


Prune = Callable[[Case, int | Pattern], Tensor]


def published_sparsegpt(module: types.ModuleType) -> Prune:
    def prune(case: Case, setting: int | Pattern) -> Tensor:
        layer = linear(case)
        worker = module.SparseGPT(layer)
        worker.add_batch(case.inputs, None)
        if isinstance(setting, Pattern):
            worker.fasterprune(0.0, setting.of - setting.kept, setting.of)
        else:
            worker.fasterprune(setting / 100)
        return layer.weight.data

    return prune


def published_alps(module: types.ModuleType) -> Prune:
    def prune(case: Case, setting: int | Pattern) -> Tensor:
        layer = linear(case)
        worker = module.ALPS_prune(layer, len(case.inputs), 1)
        worker.add_batch(case.inputs, layer(case.inputs))
        if isinstance(setting, Pattern):
            worker.ALPS_admm(0.0, setting.kept, setting.of)
        else:
            worker.ALPS_admm(setting / 100)
        return layer.weight.data

    return prune


def published_wanda(module: types.ModuleType) -> Prune:
    """Its file keeps the norms; the lines that mask by them are inside a loop over a language model's layers."""

    def prune(case: Case, setting: int | Pattern) -> Tensor:
        layer = linear(case)
        worker = module.WrappedGPT(layer)
        worker.add_batch(case.inputs, None)
        scores = layer.weight.data.abs() * worker.scaler_row.sqrt()
        if isinstance(setting, Pattern):
            groups = scores.view(len(scores), -1, setting.of)
            gone = torch.topk(groups, setting.of - setting.kept, dim=2, largest=False).indices
            return layer.weight.data.view_as(groups).scatter(2, gone, 0.0).view_as(scores)
        least = scores.sort(dim=1, stable=True).indices[:, : int(scores.shape[1] * setting / 100)]
        return layer.weight.data.scatter(1, least, 0.0)

    return prune


THEIRS = {"sparsegpt": published_sparsegpt, "wanda": published_wanda, "alps": published_alps}


def linear(case: Case) -> nn.Linear:
    layer = nn.Linear(case.weights.shape[1], case.weights.shape[0], bias=False)
    layer.weight.data = case.weights.clone()
    return layer


def compared(case: Case, name: str, theirs: Prune, setting: int | Pattern) -> dict[str, Any]:
    """Both on one layer, at the number of weights that the published code keeps."""
    with torch.no_grad(), patch("torch.cuda.synchronize"), patch("builtins.print"):
        published = theirs(case, setting).double().numpy()
    W, X = case.weights.double().numpy(), case.inputs.double().numpy()
    gram = X.T @ X
    pattern = setting if isinstance(setting, Pattern) else None
    count = W.size * pattern.kept // pattern.of if pattern else int(np.count_nonzero(published))
    ours = PEERS[name].prune(Layer(W, gram, W @ gram, count, pattern))
    mine, other = ours != 0, published != 0
    return {
        "method": name,
        "layer": case.name,
        "shape": list(W.shape),
        "setting": f"{pattern.kept}:{pattern.of}" if pattern else f"{setting} %",
        "kept": [int(mine.sum()), int(other.sum())],
        "same_support": 100 * float((mine & other).sum() / max(1, other.sum())),
        "error": error(W, ours, gram),
        "published_error": error(W, published, gram),
    }


def error(W: np.ndarray, found: np.ndarray, gram: np.ndarray) -> float:
    """‖X(W − Ŵ)ᵀ‖²/‖XWᵀ‖²."""
    return float(np.einsum("ij,ij->", (W - found) @ gram, W - found) / np.einsum("ij,ij->", W @ gram, W))


def page(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "# The pruning methods that we compare with, against their authors' code",
        "",
        f"{ran_on(report)}; commits "
        + ", ".join(f"{PEERS[name].title} `{sha[:12]}`" for name, sha in report["commits"].items())
        + ". Relative squared error of the layer's outputs on its inputs, the published code's and ours; how many of "
        "the weights that the published code keeps ours keeps too, in per cent.",
    ]
    columns = {
        "layer": lambda row: row["layer"],
        "rows x columns": lambda row: f"{row['shape'][0]} x {row['shape'][1]}",
        "zeros": lambda row: row["setting"],
        "published": lambda row: f"{row['published_error']:.5f}",
        "ours": lambda row: f"{row['error']:.5f}",
        "same weights": lambda row: f"{row['same_support']:.1f} %",
    }
    for name in report["commits"]:
        found = [row for row in report["rows"] if row["method"] == name]
        lines += ["", f"## {PEERS[name].title}", "", *grid(columns, found)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
