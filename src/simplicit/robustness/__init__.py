"""Attacks through the equilibrium, certificates against all of them, and accuracy under either.

The attacks are a live registry, :data:`ATTACKS`, and so are the bounds of certificates, :data:`METHODS`: what is added
there can be asked for by name, in Python and on the command line.
"""

from simplicit.robustness.attacks import (
    ATTACKS,
    Attack,
    AttackResult,
    Finding,
    SelfChecks,
    accuracy,
    attack,
    autoattack,
    fgsm,
    pgd,
    square,
)
from simplicit.robustness.certificates import METHODS, Certificates, box_radii, certify, sensitivity

__all__ = [
    "ATTACKS",
    "METHODS",
    "Attack",
    "AttackResult",
    "Certificates",
    "Finding",
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
