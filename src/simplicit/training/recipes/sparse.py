"""The recipe for the most accurate network at a given number of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simplicit.checks import as_count, named, refused
from simplicit.rows import BasisPursuit, NoPenalty, Penalty
from simplicit.training.channels import (
    ChannelProvider,
    Choice,
    check_tied,
    described,
    has_convolutions,
    has_tied_rows,
)
from simplicit.training.problem import Ridge
from simplicit.training.provider import Provider
from simplicit.training.recipes.base import Recipe, Task, check_penalty
from simplicit.training.states import STRUCTURES, LoopProvider, StateProvider, ball_of, structure_of
from simplicit.training.strength import check_sparsity
from simplicit.training.support.allocation import count_kept
from simplicit.training.support.pattern import Pattern
from simplicit.training.training import Share, Trained, Training

#: What suits the rows of convolutions: a million patches say enough of their noise; where they say nothing the baseline
#: knows best. Measured on ResNet-20, two draws at 90 %: 88.1/87.2 % agreement with the dense network on other images,
#: 87.5/86.6 with a ridge of 0.001 and no anchor.
_FOR_PATCHES = Ridge(0.01, anchor=1.0)


#: The sparsity, in per cent, where nothing says one; and how near one is to that of a pattern to be the same.
_USUAL, _IMPLIED = 80.0, 0.05


@dataclass(frozen=True)
class Sparse(Recipe):
    """The most accurate network at a given number of weights.

    The support of every row is found by elimination, exchanges and thresholding on the states of the network made so
    far, at one price for a weight in the whole network: what it adds to the outputs' squared error, to first order. The
    values are those of ridge towards the baseline's weights. No penalty shrinks them.

    Parameters
    ----------
    sparsity : float, optional
        Wanted share of zeros in per cent of the baseline's weights, met to the weight. Default: what `pattern` and
        `candidates` leave, and 80 where they say nothing.
    structure : str
        Where weights may be: "baseline", where the baseline has them; "feedforward", on inputs and all earlier states;
        "no-self", everywhere but on the diagonal of A; "dense", everywhere.
    ridge : float, optional
        Ridge of the least squares, in units of the mean square of a column. Default: what suits the network and the
        sparsity.
    anchor : float, optional
        Share of the baseline's weights that the ridge draws to, from 0, which gives robustness, to 1, which keeps
        accuracy. Default: what suits the network and the sparsity.
    candidates : Penalty
        The weights that may stay are the non-zeros of the solution with this penalty; all, if it makes no zeros.
    pattern : str, optional
        At most N weights for every M consecutive inputs of a row, "N:M" such as "2:4"; of a convolution they are its
        channels at one position of the kernel. Without `sparsity` there are exactly N, with a higher one fewer in all.
        What is left at the end of a row is a shorter group with the same share, rounded up; rows with fewer than M
        inputs have no pattern.
    layers : mapping of str to float, str or None, or tuple of str
        Rules for layers by patterns of their names, of which the first that matches holds: None leaves a layer alone,
        uncounted; a number is its own sparsity in per cent, without a pattern; "2:4" is its own pattern. `sparsity` and
        `pattern` are those of all the others. As text `head=none`, `blocks.*.fc1=60` and `blocks.*.fc2=2:4`.
    passes : int
        After the supports are found, the values of all layers answer for the outputs together, in at most so many steps
        of two or three passes over the samples each; 0 for values layer by layer. For structure="baseline" and layers
        that are trained as such.

    Raises
    ------
    InputError
        An option is out of range or unknown, two of them contradict each other, or nothing says how many weights are to
        stay.
    """

    sparsity: float | None = None
    structure: str = field(default="baseline", metadata=named(STRUCTURES))
    ridge: float | None = None
    anchor: float | None = None
    candidates: Penalty = field(default_factory=NoPenalty)
    pattern: str | None = None
    layers: Mapping[str, float | str | None] | tuple[str, ...] = ()
    passes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", Choice.parse(self.layers).texts)
        check_sparsity(self.sparsity)
        self._check_pattern()
        structure_of(self.structure)
        check_penalty("candidates", self.candidates)
        self._ridge(_FOR_PATCHES)  # refuses numbers out of range
        object.__setattr__(self, "passes", as_count("passes", self.passes, minimum=0))
        if self.passes and self.structure != "baseline":
            raise refused("passes", "only the layers of structure='baseline' can answer together; leave it out")
        if isinstance(self.candidates, BasisPursuit):
            raise refused(
                "candidates", "BasisPursuit matches exactly, which elimination would undo; take another penalty"
            )

    def _check_pattern(self) -> None:
        """Refuse a pattern that is none, or that a sparsity contradicts; write it as others do."""
        if self.pattern is None:
            return
        pattern = Pattern.parse("pattern", self.pattern)
        object.__setattr__(self, "pattern", str(pattern))
        if self.sparsity is not None and self.sparsity < pattern.sparsity - _IMPLIED:
            raise refused(
                "sparsity",
                f"{self.sparsity:g} % contradicts the pattern {pattern}, which leaves at most "
                f"{100 - pattern.sparsity:g} % of the weights; take {pattern.sparsity:g} or more, or leave one out",
            )

    @property
    def _choice(self) -> Choice:
        """What is to become of the layers."""
        return Choice.parse(self.layers, None if self.pattern is None else Pattern.parse("pattern", self.pattern))

    @property
    def _wanted(self) -> float | None:
        """The sparsity of the layers without one of their own; None for what pattern and candidates leave."""
        usual = self._choice.usual
        if usual is not None and (self.sparsity is None or self.sparsity < usual.sparsity + _IMPLIED):
            return None
        return _USUAL if self.sparsity is None and isinstance(self.candidates, NoPenalty) else self.sparsity

    @property
    def _expected(self) -> float | None:
        """The same, and what the pattern leaves."""
        usual = self._choice.usual
        return self._wanted if self._wanted is not None or usual is None else usual.sparsity

    def train(self, task: Task) -> Trained:
        if task.cell is not None:
            if self.passes:
                raise refused("passes", "the rows of a cell at rest have no layers; leave it out")
            cell = task.check_cell(self.structure, self.layers)
            with task.timed("states"):
                rest = LoopProvider.of(cell, task.inputs, pattern=self._choice.usual)
            if (usual := self._choice.usual) is not None:
                task.notes["pattern"] = f"at most {usual.kept} of {usual.of} consecutive inputs of each weight"
            return self._trained(task, rest, self._ridge(_for_states(self._expected)), thresholding=False)
        if has_convolutions(task.graph):
            check_tied(self.structure)
        channels = self.structure == "baseline"
        tied = channels and has_tied_rows(task.graph)
        if not channels:
            task.check_untied(self.layers, self.pattern)
        provider = self._channels(task, weighted=tied) if channels else self._states(task)
        ridge = self._ridge(_FOR_PATCHES if tied else _for_states(self._expected))
        return self._trained(task, provider, ridge, thresholding=tied)

    def _trained(self, task: Task, provider: Provider[Any], ridge: Ridge, *, thresholding: bool) -> Trained:
        with task.solving(self, provider.samples, provider.shape) as run:
            self._check_some_stay(provider)
            filled = self._filled(provider)
            training = Training(
                provider,
                self.candidates,
                ridge,
                task.rows,
                run,
                thresholding=thresholding,
                filled=filled,
                together=provider.together if self.passes and isinstance(provider, ChannelProvider) else None,
            )
            if self._wanted is None and self.pattern is None and not training.makes_zeros:
                raise refused(
                    "sparsity",
                    f"{self.candidates} gives no zeros, so sparsity must say how many weights are to stay, such as 90",
                )
            return training.select(self._wanted, self._shares(provider))

    def _check_some_stay(self, provider: Provider[Any]) -> None:
        """Refuse a sparsity of the whole network that leaves no weight, and outputs that are constants."""
        total, wanted = provider.weight_count, self._wanted
        if wanted is not None and not self._choice.rules and total and count_kept(total, wanted, total) == 0:
            most = math.floor(1e4 * (1 - 1 / total)) / 100
            raise refused("sparsity", f"{wanted:g} % leaves none of the {total:,} weights; take {most:g} at most")

    def _shares(self, provider: Provider[Any]) -> dict[str, Share]:
        """The layers with a sparsity or a pattern of their own."""
        choice = self._choice
        own = [layer for layer in provider.layers if choice.rule(layer.name) is not None]
        return {layer.name: Share(choice.sparsity(layer.name), layer.size) for layer in own}

    def _filled(self, provider: Provider[Any]) -> set[str]:
        """The layers with as many weights as their pattern allows."""
        choice, usual = self._choice, self._wanted is None
        names = [layer.name for layer in provider.layers if layer.name in provider.patterned]
        return {name for name in names if choice.rule(name) is not None or usual}

    def _ridge(self, suited: Ridge) -> Ridge:
        """What was given, and what is suited where nothing was."""
        given = {"ridge": self.ridge, "anchor": self.anchor}
        return replace(suited, **{name: value for name, value in given.items() if value is not None})

    def _channels(self, task: Task, *, weighted: bool) -> Provider[Any]:
        """Every row on the baseline's own weights, tied over positions.

        Where a sample is a single position, as in a network of linear layers, to weigh positions and to begin from a
        thresholded support gained nothing in accuracy on Fashion-MNIST (three seeds, 80 to 95 %) and took twice the
        time.
        """
        channels = ChannelProvider.of(
            task.graph,
            task.inputs,
            workers=task.run.n_workers,
            weighted=weighted,
            mask=task.mask,
            choice=self._choice,
            passes=self.passes,
        )
        task.tell(channels.needs)
        if text := described(channels.layers, channels.wished):
            task.notes["pattern"] = text
        channels.check_penalty("candidates", self.candidates)
        return channels

    def _states(self, task: Task) -> Provider[Any]:
        """Every state a row, with weights where the baseline has none."""
        triangular, kappa = structure_of(self.structure).triangular, ball_of(self.structure, None, task.captured.model)
        with task.timed("states"):
            return StateProvider.of(
                task.captured, task.inputs, structure=self.structure, kappa=kappa, propagate=triangular
            )


def _for_states(sparsity: float | None) -> Ridge:
    """What suits rows on a few samples: what few weights leave unexplained acts as noise, against which ridge helps.

    An anchor of 0.8 keeps the most accuracy where few weights are left. Up to 60 % sparse 0.6 keeps as much, and is
    harder to attack: two points under PGD at 8/255 on Fashion-MNIST.
    """
    if sparsity is None:
        return Ridge(1e-3, anchor=0.8)
    return Ridge(0.01 / math.sqrt(1 - sparsity / 100), anchor=min(0.8, max(0.6, sparsity / 100)))
