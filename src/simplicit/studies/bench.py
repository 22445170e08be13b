"""What all models of a study are measured on, and whether there is as much data as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from simplicit.checks import refused
from simplicit.data import Dataset
from simplicit.robustness import accuracy, fgsm, pgd
from simplicit.robustness.attacks.victims import AttackedModel


@dataclass(frozen=True, eq=False)
class Bench:
    """All test samples of some data, and the places (k,) of those that are attacked, by so many steps of PGD."""

    data: Dataset
    attacked: npt.NDArray[np.int64]
    pgd_steps: int

    @classmethod
    def drawn(cls, data: Dataset, count: int, pgd_steps: int, random: np.random.Generator) -> Self:
        """Draw ``count`` test samples to be attacked."""
        return cls(data, np.sort(random.choice(len(data.test_inputs), count, replace=False)), pgd_steps)

    def clean(self, model: AttackedModel) -> float:
        """Return the accuracy of a model on all test samples, in [0, 1]."""
        return accuracy(model, self.data.test_inputs, self.data.test_labels)

    def under_attack(self, model: AttackedModel, eps: float) -> tuple[float, float]:
        """Return the accuracies of a model under FGSM and under PGD, in [0, 1]."""
        data, at = self.data, self.attacked
        U, labels, clip = data.test_inputs[at], data.test_labels[at], data.input_range
        climbed = pgd(model, U, labels, eps, steps=self.pgd_steps, clip=clip)
        stepped = fgsm(model, U, labels, eps, clip=clip)
        return accuracy(model, stepped, labels), accuracy(model, climbed, labels)


def check_available(data: Dataset, *, samples: int, attack_samples: int = 0) -> None:
    """Raise InputError where there are fewer training samples, or test samples to attack, than a study takes."""
    there = {"samples": (samples, len(data.train_inputs)), "attack_samples": (attack_samples, len(data.test_inputs))}
    for name, (wanted, count) in there.items():
        if wanted > count:
            raise refused(name, f"{data.name} has {count}, {wanted} are wanted")
