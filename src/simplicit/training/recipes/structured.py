"""The recipe for a network with fewer neurons, channels and attention heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simplicit.checks import as_number, check_choice, named, refused
from simplicit.rows import NoPenalty
from simplicit.training.channels import ChannelProvider, Choice, all_layers, has_tied_rows
from simplicit.training.problem import Ridge
from simplicit.training.recipes.base import Recipe, Task
from simplicit.training.strength import check_sparsity
from simplicit.training.structured import ALLOCATIONS, Narrowing, Plan, narrowed, shares_of
from simplicit.training.support.pattern import Pattern
from simplicit.training.training import Trained, Training

_RIDGE = Ridge(0.01, anchor=1.0)


@dataclass(frozen=True)
class Structured(Recipe):
    """A network without some of its neurons, channels or attention heads: structured pruning.

    A unit, with the columns of all that read it, is dropped at one price for all rows that lose it: what their error
    rises by when they are refitted, in units of what it does to the outputs. Units are eliminated by it and exchanged
    until no exchange gains; rows are fitted on those that are left, layer after layer. The network keeps its form, with
    zeros where units are gone: in the columns that read them, in their rows, biases and norms. A residual stream and
    the outputs stay whole.

    Parameters
    ----------
    sparsity : float
        Wanted share of zeros in per cent, of what `allocation` says.
    allocation : str
        Of what the sparsity is a share: "weights", of the baseline's weights, at one price for a weight that is saved;
        "operations", of the multiply-adds for a sample, at one price for one that is saved; "states", of all units of
        the network, those with the lowest prices; "uniform", of the units of each layer.
    zeros : float, optional
        Wanted share of zeros in per cent of the baseline's weights: the rows of what is left are made sparse too, as by
        Sparse. Default: they keep all their weights on units that are left.
    ridge : float, optional
        Ridge of the least squares, in units of the mean square of a column. Default: 0.01.
    anchor : float, optional
        Share of the baseline's weights that the ridge draws to, from 0 to 1. Default: 1.
    layers : mapping of str to float or None, or tuple of str
        Rules for layers by patterns of their names, of which the first that matches holds: None leaves a layer alone,
        with the units that it makes or reads, and a number is the share in per cent of the units that it makes, 0 for
        none. As text `blocks.*.qkv=none` and `blocks.*.fc1=60`.

    Raises
    ------
    InputError
        An option is out of range or unknown.
    """

    sparsity: float = 25.0
    allocation: str = field(default="weights", metadata=named(ALLOCATIONS))
    zeros: float | None = None
    ridge: float | None = None
    anchor: float | None = None
    layers: Mapping[str, float | None] | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choice = Choice.parse(self.layers)
        for name, share in choice.rules:
            if isinstance(share, Pattern):
                raise refused(
                    "layers", f"{name!r} has the pattern {share}, and whole units go here; give a share in per cent"
                )
        object.__setattr__(self, "layers", choice.texts)
        check_sparsity(as_number("sparsity", self.sparsity))
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_sparsity(self.zeros, "zeros")
        self._ridge()  # refuses numbers out of range

    def train(self, task: Task) -> Trained:
        if task.cell is not None:
            raise refused("recipe", "the states of a cell at rest read each other, and none is dropped; take Sparse")
        choice, tied = Choice.parse(self.layers), has_tied_rows(task.graph)
        provider = ChannelProvider.of(
            task.graph, task.inputs, workers=task.run.n_workers, weighted=tied, mask=task.mask, choice=choice
        )
        task.tell(provider.needs)
        plan = Plan.of(task.graph, all_layers(task.graph), provider.layers)
        own = shares_of(plan, choice)
        with task.solving(self, provider.samples, provider.shape) as run:
            narrow = narrowed(provider, plan, self._ridge(), self.sparsity, self.allocation, own)
            training = Training(narrow, NoPenalty(), self._ridge(), task.rows, run, thresholding=tied)
            trained = training.refit()
            if self.zeros is not None:
                self._check_zeros(narrow)
                trained = training.select(self.zeros)
        task.notes.update(narrow.notes())
        return narrow.finished(trained)

    def _ridge(self) -> Ridge:
        ridge = _RIDGE.ridge if self.ridge is None else self.ridge
        return Ridge(ridge, _RIDGE.anchor if self.anchor is None else self.anchor)

    def _check_zeros(self, narrow: Narrowing) -> None:
        """Refuse to leave more weights than there are once units are dropped."""
        assert self.zeros is not None
        left = sum(narrow.plan.kept_weights(narrow.kept)[layer.name] for layer in narrow.layers)
        reached = 100 * (1 - left / narrow.weight_count)
        if reached > self.zeros + 1e-9:
            raise refused(
                "zeros",
                f"got {self.zeros:g}, and with the units dropped {reached:.1f} % are zero already",
            )
