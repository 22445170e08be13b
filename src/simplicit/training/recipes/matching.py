"""The recipe that solves problem (7) as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from simplicit.checks import as_count, as_number, check_choice, check_flag, named, refused, spelled
from simplicit.errors import InputError
from simplicit.implicit.groups import first_block
from simplicit.rows import L1, BasisPursuit, Penalty
from simplicit.training.channels import (
    ChannelProvider,
    Choice,
    are_all_weights,
    check_tied,
    has_convolutions,
    has_tied_rows,
)
from simplicit.training.problem import Ridge
from simplicit.training.provider import Provider
from simplicit.training.recipes.base import Recipe, Task, check_penalty
from simplicit.training.states import STRUCTURES, LoopProvider, StateProvider, ball_of, check_triangular, structure_of
from simplicit.training.strength import check_sparsity, solve_at_sparsity
from simplicit.training.training import Trained, Training
from simplicit.training.units import NORMALIZATIONS


def _parse_states(text: str) -> str | tuple[str, ...]:
    """``"all"``, ``"blocks"``, or ``"relu,layer1.relu"`` as names."""
    return text if text in ("all", "blocks") else tuple(name.strip() for name in text.split(","))


@dataclass(frozen=True)
class Matching(Recipe):
    r"""Problem (7): states and outputs of the baseline are matched under a convex penalty.

    The network's pre- and post-activations Z, X and outputs Ŷ on the given inputs U are matched by

        min over M   f(M) + λ₁‖Z − XAᵀ − UBᵀ‖² + λ₂‖Ŷ − XCᵀ − UDᵀ‖²   s.t.  ‖A‖∞ ≤ κ,  M zero off its structure

    which falls apart into one convex problem for each row of M = [[A, B], [C, D]]. The rows of a convolution are copies
    of its kernel and stay so: there is one row problem for each output channel, on all patches that its kernel sees.
    Sums then run over samples and positions.

    Parameters
    ----------
    penalty : Penalty
        The penalty f, row by row. BasisPursuit matches exactly, (8) and (9), and needs network and inputs in float64,
        for the rounding of float32 states alone makes rows infeasible that have more samples than columns.
    sparsity : float or None
        Wanted share of zeros in per cent of the baseline's weights: the strength of the penalty that comes within half
        a point (half a weight, if there are fewer than 100) is searched. None takes the penalty as it is.
    structure : str
        Where M may be non-zero: "baseline", where the baseline has weights; "feedforward", on inputs and all earlier
        states; "no-self", everywhere but on the diagonal of A; "dense", everywhere (the paper).
    states : str or tuple of str
        States of the model: "all"; "blocks", the last activation of each residual block and of plain layers between; or
        groups by name. On a choice of states rows are untied and learn from samples what the others did, which needs
        another structure than "baseline".
    kappa : float or None
        Bound on ‖A‖∞, which below 1 proves well-posedness. None is 0.99 for the structures that need a bound, and no
        bound for the triangular ones, which are well-posed without.
    lambda1 : float
        Weight of matching the states.
    lambda2 : float
        Weight of matching the outputs.
    normalize : str
        Units of the penalty: "targets", targets in their layer's root mean square, input columns in their own units,
        state columns ten times weaker; "both", all columns in root mean squares too; "none", (11) to the letter.
    rounds : int
        Solve so many times; from the second on, what was large the time before is penalised less.
    propagate : bool
        Match each layer on the states of the layers just trained, against the baseline's pre-activations.
    regenerate : bool
        Match the outputs on the new model's own states; `propagate` implies it.
    refit : Ridge or None
        Take the values on the support from ridge, not from the penalty, which shrinks them.
    layers : mapping of str to None, or tuple of str
        Layers that are left alone, by patterns of their names, where rows are tied: None for each, or as text
        "head=none".

    Raises
    ------
    InputError
        An option is out of range or unknown, or two of them contradict each other.
    """

    penalty: Penalty = field(default_factory=lambda: L1(beta=1e-3))
    sparsity: float | None = None
    structure: str = field(default="baseline", metadata=named(STRUCTURES))
    states: str | tuple[str, ...] = field(default="all", metadata=spelled(_parse_states))
    kappa: float | None = None
    lambda1: float = 0.1
    lambda2: float = 0.1
    normalize: str = field(default="targets", metadata=named(NORMALIZATIONS))
    rounds: int = 1
    propagate: bool = False
    regenerate: bool = True
    refit: Ridge | None = None
    layers: Mapping[str, float | None] | tuple[str, ...] = ()

    @classmethod
    def paper(cls) -> Self:
        """(11) to the letter, as in Table 3 of the paper."""
        return cls(L1(beta=1e-3), structure="dense", kappa=0.99, normalize="none", regenerate=False)

    def __post_init__(self) -> None:
        check_penalty("penalty", self.penalty)
        check_sparsity(self.sparsity)
        check_choice("normalize", self.normalize, NORMALIZATIONS)
        for name in ("lambda1", "lambda2"):
            as_number(name, getattr(self, name), positive=True)
        if self.kappa is not None:
            as_number("kappa", self.kappa, positive=True)
        as_count("rounds", self.rounds)
        check_flag("propagate", self.propagate)
        check_flag("regenerate", self.regenerate)
        if isinstance(self.states, list):
            object.__setattr__(self, "states", tuple(self.states))
        choice = Choice.parse(self.layers)
        object.__setattr__(self, "layers", choice.texts)
        if any(share is not None for _, share in choice.rules):
            raise refused(
                "layers",
                "the strength of a penalty is one for all layers; leave layers alone with None, or "
                "take the recipe Sparse, which takes a sparsity for each",
            )
        self._check_states()
        if self.propagate:
            check_triangular("propagate", self.structure)
        if not isinstance(self.refit, Ridge | None):
            raise refused("refit", f"expected a ridge such as simplicit.Ridge(1e-3), or None, got {self.refit!r}")
        if self.refit is not None and isinstance(self.penalty, BasisPursuit):
            raise refused("refit", "BasisPursuit matches exactly, and a refit would undo that; take another penalty")

    def _check_states(self) -> None:
        states = self.states
        names = isinstance(states, tuple) and len(states) > 0 and all(isinstance(name, str) for name in states)
        if not names and not (isinstance(states, str) and states in ("all", "blocks")):
            raise InputError(
                f"states must be 'all', 'blocks' or the names of groups of states, got {states!r}", argument="states"
            )
        if structure_of(self.structure) is STRUCTURES["baseline"] and states != "all":
            raise refused(
                "structure",
                f"'baseline' has no weights between chosen states; states={states!r} takes 'feedforward', 'no-self' or "
                "'dense'",
            )

    def train(self, task: Task) -> Trained:
        if task.cell is not None:
            return self._trained(task, self._at_rest(task))
        tied = self.states == "all" and (
            has_convolutions(task.graph) or (self.structure == "baseline" and self._by_layers(task))
        )
        if not tied:
            task.check_untied(self.layers)
        return self._trained(task, self._channels(task) if tied else self._states(task))

    def _by_layers(self, task: Task) -> bool:
        """Whether the network's own weights are fitted, and not the rows of M: what it has no parameters for would not
        come back.

        A ball and exact matching are those of M, which is fitted then all the same.
        """
        if has_tied_rows(task.graph):
            return True
        if self.kappa is not None or isinstance(self.penalty, BasisPursuit) or first_block(task.captured.model.groups):
            return False
        return not (are_all_weights(task.graph, task.captured.model) or task.captured.holds_any)

    def _trained(self, task: Task, provider: Provider[Any]) -> Trained:
        with task.solving(self, provider.samples, provider.shape) as run:
            training = Training(
                provider, self.penalty, self.refit, task.rows, run, rounds=self.rounds, normalize=self.normalize
            )
            return solve_at_sparsity(training, self.sparsity)

    def _channels(self, task: Task) -> Provider[Any]:
        """Rows that are tied over positions; what has no meaning for them is refused."""
        check_tied(self.structure)
        takes = "a network with tied rows takes"
        if self.kappa is not None:
            raise refused("kappa", f"got {self.kappa!r}; {takes} None: tied rows are well-posed without a ball")
        if isinstance(self.penalty, BasisPursuit):
            raise refused(
                "penalty",
                f"got {self.penalty!r}; {takes} another one, such as simplicit.L1: exact matching needs every patch at "
                "once",
            )
        channels = ChannelProvider.of(
            task.graph,
            task.inputs,
            workers=task.run.n_workers,
            differentiated=False,
            weighted=False,
            lambda1=self.lambda1,
            lambda2=self.lambda2,
            propagate=self.propagate,
            regenerate=self.regenerate,
            mask=task.mask,
            choice=Choice.parse(self.layers),
        )
        task.tell(channels.needs)
        channels.check_penalty("penalty", self.penalty)
        return channels

    def _at_rest(self, task: Task) -> Provider[Any]:
        """The rows of a cell on its own equilibria."""
        cell = task.check_cell(self.structure, self.layers)
        if self.states != "all" or self.propagate:
            name = "propagate" if self.propagate else "states"
            raise refused(name, "a cell at rest has no order of layers to choose from; leave it out")
        with task.timed("states"):
            return LoopProvider.of(
                cell,
                task.inputs,
                kappa=self.kappa,
                lambda1=self.lambda1,
                lambda2=self.lambda2,
                regenerate=self.regenerate,
            )

    def _states(self, task: Task) -> Provider[Any]:
        kappa = ball_of(self.structure, self.kappa, task.captured.model)
        with task.timed("states"):
            return StateProvider.of(
                task.captured,
                task.inputs,
                structure=self.structure,
                states=self.states,
                kappa=kappa,
                lambda1=self.lambda1,
                lambda2=self.lambda2,
                propagate=self.propagate,
                regenerate=self.regenerate,
            )
