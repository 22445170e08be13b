"""Attacks through the equilibrium, certificates against all of them, and accuracy under either."""

from simplicit.robustness.attacks import AttackResult, SelfChecks, accuracy, attack, autoattack, fgsm, pgd, square
from simplicit.robustness.certificates import Certificates, box_radii, certify, sensitivity

__all__ = [
    "AttackResult",
    "Certificates",
    "SelfChecks",
    "accuracy",
    "attack",
    "autoattack",
    "box_radii",
    "certify",
    "fgsm",
    "pgd",
    "sensitivity",
    "square",
]
