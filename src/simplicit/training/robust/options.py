"""The options of robust training, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, field

from simplicit.checks import as_count, as_interval, as_number, refused, spelled
from simplicit.errors import InputError
from simplicit.training.states import check_triangular
from simplicit.training.strength import check_sparsity


def parse_strengths(text: str) -> float | tuple[float, ...]:
    """``"3"`` as a number, ``"1,3"`` as one for each layer."""
    try:
        strengths = tuple(map(float, text.split(",")))
    except ValueError:
        raise refused("hidden_strength", f"expected a number, or several with commas between, got {text!r}") from None
    return strengths[0] if len(strengths) == 1 else strengths


@dataclass(frozen=True)
class RobustOptions:
    """The options of the recipe :class:`simplicit.Robust`, which documents them; InputError for one out of range."""

    beta: float = 1.3e-3
    sparsity: float | None = None
    structure: str = "baseline"
    hidden_strength: float | tuple[float, ...] = field(default=1.0, metadata=spelled(parse_strengths))
    attacks: int = 1
    attack_eps: float = 3 / 255
    clip: tuple[float, float] | None = None
    lambda1: float = 1.0
    lambda2: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "lambda1", "lambda2"):
            as_number(name, getattr(self, name), positive=True)
        check_sparsity(self.sparsity)
        check_triangular("structure", self.structure)
        if isinstance(self.hidden_strength, list):
            object.__setattr__(self, "hidden_strength", tuple(self.hidden_strength))
        strengths = self.hidden_strength if isinstance(self.hidden_strength, tuple) else (self.hidden_strength,)
        for strength in strengths:
            as_number("hidden_strength", strength)
        low, high = self.input_range
        as_count("attacks", self.attacks, minimum=0)
        if as_number("attack_eps", self.attack_eps) > high - low:
            raise InputError(
                f"attack_eps must lie between 0 and the width of clip, {high - low:g}, got {self.attack_eps}",
                argument="attack_eps",
            )

    @property
    def input_range(self) -> tuple[float, float]:
        """The range of valid inputs."""
        return (0.0, 1.0) if self.clip is None else as_interval("clip", self.clip)
