"""Recipes: what :func:`simplicit.fit` makes of a network.

A recipe is a frozen dataclass that holds only options that go together; its docstring is the help of the command line.
A new recipe is one class and one line in :data:`RECIPES`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from simplicit.checks import check_choice, refused
from simplicit.training.recipes.base import Recipe, Task
from simplicit.training.recipes.matching import Matching
from simplicit.training.recipes.robust import Certified, Robust
from simplicit.training.recipes.sparse import Sparse
from simplicit.training.recipes.structured import Structured

__all__ = [
    "RECIPES",
    "Certified",
    "Matching",
    "Recipe",
    "Robust",
    "Sparse",
    "Structured",
    "Task",
    "at_sparsity",
    "recipe_of",
]

#: The recipes by name, each with the options that it has when none are given.
RECIPES: dict[str, Recipe] = {
    "sparse": Sparse(),
    "structured": Structured(),
    "robust": Robust(),
    "certified": Certified(),
    "matching": Matching(),
    "paper": Matching.paper(),
}


def recipe_of(name: str) -> Recipe:
    """The recipe of that name; InputError if it is unknown."""
    check_choice("recipe", name, RECIPES)
    return RECIPES[name]


def at_sparsity(name: str, sparsity: float) -> Recipe:
    """The recipe of that name, asked for a sparsity in per cent.

    InputError is raised if it is unknown or takes no sparsity, or if the sparsity is out of range.
    """
    recipe = recipe_of(name)
    if all(item.name != "sparsity" for item in fields(recipe)):
        raise refused("recipe", f"{name!r} takes no sparsity; choose one that does")
    changed: dict[str, Any] = {"sparsity": sparsity}
    return replace(recipe, **changed)
