"""Attacks through the equilibrium, and accuracy under them."""

from simplicit.robustness.attacks import fgsm, pgd
from simplicit.robustness.labels import accuracy

__all__ = ["accuracy", "fgsm", "pgd"]
