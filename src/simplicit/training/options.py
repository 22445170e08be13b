"""What a user can choose in :func:`simplicit.fit`, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from simplicit.checks import as_count, as_interval, as_number
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.rows import L1, BasisPursuit, Penalty, PiecewiseQuadratic
from simplicit.training.normalize import NORMALIZATIONS
from simplicit.training.states.structure import STRUCTURES

__all__ = ["FitOptions"]

#: In units of the mean of ‖Φⱼ‖²: with more the weights are the anchor's, and digits are lost.
MOST_RIDGE = 1e12


@dataclass(frozen=True)
class FitOptions:
    """The settings of one training run; the meaning of each is in :func:`simplicit.fit`.

    Raises
    ------
    InputError
        If a setting is out of range or unknown.
    """

    penalty: Penalty = field(default_factory=lambda: L1(beta=1e-3))
    lambda1: float = 0.1
    lambda2: float = 0.1
    kappa: float | None = 0.99
    structure: str = "baseline"
    states: str | tuple[str, ...] = "all"
    normalize: str = "targets"
    sparsity: float | None = None
    rounds: int = 1
    propagate: bool = False
    refine: bool = False
    refit: bool = False
    ridge: float = 1e-3
    anchor: float = 0.0
    regenerate: bool = True
    robust: bool = False
    later: float | tuple[float, ...] = 1.0
    attacks: int = 4
    attack_eps: float = 4 / 255
    clip: tuple[float, float] = (0.0, 1.0)
    preset: str | None = None
    tol: float = 1e-6
    block_rows: int | None = None
    throw: bool = True

    def __post_init__(self) -> None:
        as_number("lambda1", self.lambda1, positive=True)
        as_number("lambda2", self.lambda2, positive=True)
        if self.kappa is not None:
            as_number("kappa", self.kappa, positive=True)
        if self.sparsity is not None and as_number("sparsity", self.sparsity) >= 100:
            raise InputError(f"sparsity is in per cent, from 0 to below 100, got {self.sparsity!r}")
        as_count("rounds", self.rounds)
        if as_number("ridge", self.ridge) > MOST_RIDGE:
            raise InputError(f"ridge must be at most {MOST_RIDGE:g}, got {self.ridge!r}")
        if as_number("anchor", self.anchor) > 1:
            raise InputError(f"anchor must lie between 0 and 1, got {self.anchor!r}")
        for name in ("propagate", "refine", "refit", "regenerate"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.block_rows is not None:
            as_count("block_rows", self.block_rows)
        if as_number("tol", self.tol, positive=True) >= 1:
            raise InputError(f"tol must lie between 0 and 1, got {self.tol!r}")
        if isinstance(self.penalty, type) or not isinstance(self.penalty, Penalty):
            raise InputError(f"penalty: expected a penalty such as simplicit.L1(beta=1e-3), got {self.penalty!r}")
        for name, chosen, known in (
            ("structure", self.structure, STRUCTURES),
            ("normalize", self.normalize, NORMALIZATIONS),
        ):
            if not isinstance(chosen, str) or chosen not in known:
                raise InputError(f"{name}: {chosen!r} is unknown; choose one of {', '.join(map(repr, known))}")
        self._check_states()
        self._check_stages()
        self._check_robust()

    def _check_states(self) -> None:
        """Refuse a choice of states that is none, and options that have no meaning for one."""
        states = self.states
        named = isinstance(states, tuple) and len(states) > 0 and all(isinstance(name, str) for name in states)
        if not named and not (isinstance(states, str) and states in ("all", "blocks")):
            raise InputError(f"states must be 'all', 'blocks' or the names of groups of states, got {states!r}")
        if not self.chooses_states:
            return
        own = "the baseline has no weights between chosen states"
        reasons = {
            "structure": (self.structure != "baseline", f"'feedforward', 'no-self' or 'dense': {own}"),
            "refine": (not self.refine, f"False: {own} that would say what an error is worth"),
            "anchor": (self.anchor == 0, f"0: {own} that ridge could draw to"),
            "robust": (not self.robust, f"False: {own} that would give the boxes of later layers"),
        }
        for name, (fits, wanted) in reasons.items():
            if not fits:
                raise InputError(f"{name}: got {getattr(self, name)!r}; states={states!r} takes {wanted}")

    @property
    def chooses_states(self) -> bool:
        """Whether the model has some of the baseline's states only."""
        return self.states != "all"

    def _check_robust(self) -> None:
        """Refuse settings of the robust mode that are out of range, and options that have no meaning in it."""
        later = self.later if isinstance(self.later, tuple) else (self.later,)
        for strength in later:
            as_number("later", strength)
        low, high = as_interval("clip", self.clip)
        as_count("attacks", self.attacks, minimum=0)
        if as_number("attack_eps", self.attack_eps) > high - low:
            raise InputError(
                f"attack_eps must lie between 0 and the width of clip, {high - low:g}, got {self.attack_eps}"
            )
        if not isinstance(self.robust, bool):
            raise InputError(f"robust must be True or False, got {self.robust!r}")
        if not self.robust:
            return
        if not isinstance(self.penalty, L1) or np.ndim(self.penalty.beta) or self.penalty.column_weights is not None:
            raise InputError(
                f"robust: the penalty is the worst case of a row, L1 with one strength and its own weights; got "
                f"{self.penalty}, take simplicit.L1(beta=…)"
            )
        reasons = {
            "structure": (STRUCTURES[self.structure].triangular, "'baseline' or 'feedforward': layers need an order"),
            "kappa": (self.kappa is None, "None: a triangular A is well-posed without, and is rescaled at the end"),
            "normalize": (self.normalize == "targets", "'targets': columns have the units of their boxes"),
            "rounds": (self.rounds == 1, "1: weights of columns are those of the worst case"),
            "regenerate": (self.regenerate, "True: every layer is matched on the new model's own states"),
            "propagate": (not self.propagate, "False: every layer is matched on the new model's own states as it is"),
            "refine": (not self.refine, "False: the support is that of the worst case"),
            "refit": (not self.refit, "False: a refit gives the robustness away"),
        }
        for name, (fits, wanted) in reasons.items():
            if not fits:
                raise InputError(f"{name}: got {getattr(self, name)!r}; robust takes {wanted}")

    def _check_stages(self) -> None:
        """Refuse stages that cannot go together."""
        if self.propagate and not STRUCTURES[self.structure].triangular:
            raise InputError(
                f"propagate: structure {self.structure!r} has no order of layers, each on the states of those before; "
                "take structure='baseline' or 'feedforward'"
            )
        kind, exact = type(self.penalty).__name__, isinstance(self.penalty, BasisPursuit)
        for name in ("refine", "refit"):
            if exact and getattr(self, name):
                raise InputError(f"{name}: {kind} matches exactly, and {name} would undo that; take another penalty")

    def check_refinable(self, penalty: PiecewiseQuadratic) -> None:
        """Refuse to refine where nothing says how many weights are to stay."""
        if self.sparsity is None and not bool(penalty.kink.any()):
            raise InputError(
                f"refine: {self.penalty} gives no zeros, so sparsity must say how many weights are to stay, such as "
                "sparsity=90"
            )

    def check_searchable(self, penalty: PiecewiseQuadratic) -> None:
        """Refuse to search a sparsity where the strength of the penalty does not lead to it.

        Zeros come from the kink of h at 0; ridge (``Perspective(gamma=0)``, ``ElasticNet(beta=0)``) and ``NoPenalty``
        have none. With exact matching the penalty is the whole objective, and a factor on it changes nothing.
        """
        if self.sparsity is None:
            return
        if penalty.equality:
            raise InputError(
                f"sparsity: {self.penalty} matches exactly, whatever its strength, so no sparsity can be asked for; "
                "leave it out, or take simplicit.L1"
            )
        if not bool(penalty.kink.any()):
            raise InputError(
                f"sparsity: {self.penalty} gives no zeros, however strong it is; take a penalty with a price on "
                "non-zeros: L1 or ElasticNet with beta > 0, or Perspective with gamma > 0"
            )

    def check_well_posed(self, model: ImplicitModel) -> None:
        """Refuse a κ that cannot keep the result well-posed.

        A row of diag(L)|A| sums to at most Lκ, so that Lκ < 1 proves λ_pf < 1. A strictly triangular structure is
        well-posed whatever κ is.
        """
        if STRUCTURES[self.structure].triangular:
            return
        slope = max((group.activation.slope for group in model.groups), default=1.0)
        limit = 1 / slope
        if self.kappa is None or self.kappa >= limit:
            raise InputError(
                f"kappa: structure {self.structure!r} needs 0 < kappa < {limit:.4g} to be well-posed (the steepest "
                f"activation has slope {slope:.4g}), got {self.kappa}; lower it, or take structure='feedforward' or "
                "'baseline', which are well-posed for every kappa"
            )
