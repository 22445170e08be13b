"""The attacks by name: what :func:`simplicit.attack` runs, and what the command line offers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simplicit.checks import check_choice
from simplicit.robustness.attacks.autoattack import autoattack, check_autoattack
from simplicit.robustness.attacks.gradient import fgsm, pgd
from simplicit.robustness.attacks.search import square


@dataclass(frozen=True)
class Attack:
    """An attack that can be asked for by name.

    Attributes
    ----------
    run : callable
        ``run(model, U, labels, eps, **options)`` returns adversarial inputs of the kind and shape of U. Of the options
        of :func:`simplicit.attack` (``steps``, ``restarts``, ``queries``, ``image_shape``, ``clip``, ``seed``) it is
        given those that it has parameters for.
    title : str
        What tables call it, with options in braces; its name if left out.
    sees_gradients : bool
        Whether it follows gradients of the model; one that does not should not be stronger than PGD.
    packages : tuple of str
        What it needs besides the library, for the versions in a manifest.
    check : callable
        Is called before the start, and raises MissingExtraError where something is not installed.
    """

    run: Callable[..., Any]
    title: str = ""
    sees_gradients: bool = True
    packages: tuple[str, ...] = ()
    check: Callable[[], None] = lambda: None

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the options ``given`` that the attack takes."""
        parameters = inspect.signature(self.run).parameters
        return {name: value for name, value in given.items() if name in parameters}


#: The attacks by name; one that is added here can be asked for everywhere.
ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(fgsm, "FGSM"),
    "pgd": Attack(pgd, "PGD-{steps}x{restarts}"),
    "square": Attack(square, "Square-{queries}", sees_gradients=False),
    "autoattack": Attack(autoattack, "AutoAttack", packages=("pyautoattack",), check=check_autoattack),
}

#: What is run unless something else is asked for.
STANDARD_ATTACKS = ("fgsm", "pgd", "square")


def checked_attacks(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names, each once; InputError for one that is unknown, MissingExtraError where a package is missing."""
    chosen = tuple(dict.fromkeys((names,) if isinstance(names, str) else names))
    for name in chosen:
        check_choice("attacks", name, ATTACKS)
        ATTACKS[name].check()
    return chosen
