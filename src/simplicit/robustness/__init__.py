"""Attacks through the equilibrium, certificates against all of them, and accuracy under either.

The attacks are a live registry, :data:`ATTACKS`, and so are the bounds of certificates, :data:`METHODS`: what is added
there can be asked for by name, in Python and on the command line.
"""

from simplicit.robustness.attacks.autoattack import autoattack
from simplicit.robustness.attacks.checks import Finding, SelfChecks
from simplicit.robustness.attacks.gradient import fgsm, pgd
from simplicit.robustness.attacks.problem import accuracy
from simplicit.robustness.attacks.registry import ATTACKS, Attack
from simplicit.robustness.attacks.search import square
from simplicit.robustness.attacks.suite import AttackResult, attack
from simplicit.robustness.certificates.methods import METHODS
from simplicit.robustness.certificates.proofs import Certificates, certify
from simplicit.robustness.certificates.quantities import box_radii, sensitivity

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
