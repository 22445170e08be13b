"""Attacks through the equilibrium, certificates against all of them, and accuracy under either."""

from simplicit.robustness.attacks import fgsm, pgd
from simplicit.robustness.certificates import Certificates, box_radii, certify, sensitivity
from simplicit.robustness.labels import accuracy

__all__ = ["Certificates", "accuracy", "box_radii", "certify", "fgsm", "pgd", "sensitivity"]
