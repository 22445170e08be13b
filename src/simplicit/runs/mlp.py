"""Train a plain multilayer perceptron: the baseline that the commands start from.

Adam with decoupled weight decay and a one-cycle learning rate, cross-entropy, batches drawn by index from arrays in
memory. Equal settings and seed give equal weights on one kind of processor, whatever the number of threads: networks of
this size train on one thread, which is also the fastest way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from simplicit.checks import as_count, as_number, as_seed, check_choice, named, refused, spelled
from simplicit.data import Dataset
from simplicit.errors import InputError
from simplicit.machine import check_memory, flushed_denormals, one_thread_each
from simplicit.progress import OnProgress, listening, phase

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardtanh": nn.Hardtanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def parse_arch(text: str) -> tuple[int, ...]:
    """``"64-32-16"`` to ``(64, 32, 16)``; InputError for anything but positive integers joined by hyphens."""
    parts = text.split("-")
    if not all(part.isdecimal() and len(part) < 19 and int(part) > 0 for part in parts):
        raise refused("arch", "expected the widths of the hidden layers, such as 64-32-16", repr(text))
    return tuple(int(part) for part in parts)


@dataclass(frozen=True)
class MlpSettings:
    """Everything that decides a trained baseline, beside the data.

    Parameters
    ----------
    arch : tuple of int
        Widths of the hidden layers, first to last, such as 64-32-16; empty for a linear classifier.
    bias : bool
        Biases in the linear layers.
    activation : str
        Of the hidden layers.
    epochs : int
        Passes over the data.
    batch_size : int
        Samples per step.
    learning_rate : float
        Peak of the one-cycle schedule.
    weight_decay : float
        Decoupled weight decay, per step and unit of learning rate.
    seed : int
        Of initial weights and batches.
    """

    panel: ClassVar[str] = "Network"

    arch: tuple[int, ...] = field(default=(64, 32, 16), metadata=spelled(parse_arch, "-"))
    bias: bool = True
    activation: str = field(default="relu", metadata=named(ACTIVATIONS))
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("epochs", "batch_size"):
            as_count(name, getattr(self, name))
        if not 0 < self.learning_rate < 10:
            what = f"learning_rate must be between 0 and 10, got {self.learning_rate}"
            raise InputError(what, argument="learning_rate")
        as_number("weight_decay", self.weight_decay)
        for width in self.arch:
            as_count("arch", width)
        as_seed("seed", self.seed)

    def to_config(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"arch": list(self.arch)}


def build_mlp(n_inputs: int, classes: int, settings: MlpSettings) -> nn.Sequential:
    """``Linear, φ, Linear, φ, ..., Linear`` with inputs (m, `n_inputs`) and logits (m, `classes`)."""
    widths = (n_inputs, *settings.arch, classes)
    layers: list[nn.Module] = []
    for index in range(len(widths) - 1):
        layers.append(nn.Linear(widths[index], widths[index + 1], bias=settings.bias))
        layers.append(ACTIVATIONS[settings.activation]())
    return nn.Sequential(*layers[:-1])


def train_mlp(data: Dataset, settings: MlpSettings, *, progress: OnProgress | None = None) -> nn.Sequential:
    """Train a network on the training part of `data`, and return it in eval mode.

    `progress` gets the mean loss after every epoch. InputError is raised where the network takes more memory than
    there is, and where the loss leaves the finite numbers.
    """
    # Weights, gradients and the two moments of Adam.
    nbytes = 16 * sum(width * following for width, following in pairwise((data.n_inputs, *settings.arch, data.classes)))
    check_memory("arch", nbytes, "training takes", "choose narrower layers")
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    # Small products gain nothing from threads, and their split would change the rounding; Adam's moments of pixels
    # that are always zero decay into denormal numbers.
    with (
        listening(progress),
        phase("training", settings.epochs) as meter,
        torch.random.fork_rng(devices=[]),
        one_thread_each(),
        flushed_denormals(),
    ):
        torch.manual_seed(settings.seed)
        net = build_mlp(data.n_inputs, data.classes, settings)
        optimiser = torch.optim.AdamW(
            net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
        )
        steps = settings.epochs * -(-len(labels) // settings.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=max(steps, 2), pct_start=0.2
        )
        for epoch in range(settings.epochs):
            total = torch.zeros(())
            for batch in torch.split(torch.randperm(len(labels)), settings.batch_size):
                loss = nn.functional.cross_entropy(net(inputs[batch]), labels[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += loss.detach() * len(batch)
            mean = float(total) / len(labels)
            if not math.isfinite(mean):
                what = f"training diverged in epoch {epoch + 1}; lower learning_rate={settings.learning_rate}"
                raise InputError(what)
            meter.stage = f"training, loss {mean:.3f}"
            meter.count()
    return net.eval()
