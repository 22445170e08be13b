"""Recipes: what :func:`simplicit.fit` makes of a network.

A recipe is a frozen dataclass that holds only options that go together; its docstring is the help of the command line.
A new recipe is one class and one line in :data:`RECIPES`.
"""

from __future__ import annotations

from simplicit.training.recipes.base import Recipe, Task
from simplicit.training.recipes.matching import Matching
from simplicit.training.recipes.robust import Certified, Robust
from simplicit.training.recipes.sparse import Sparse

__all__ = ["RECIPES", "Certified", "Matching", "Recipe", "Robust", "Sparse", "Task"]

#: The recipes by name, each with the options that it has when none are given.
RECIPES: dict[str, Recipe] = {
    "sparse": Sparse(),
    "robust": Robust(),
    "certified": Certified(),
    "matching": Matching(),
    "paper": Matching.paper(),
}
