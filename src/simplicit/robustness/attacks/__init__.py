"""Attacks on implicit models and torch networks: by gradients, by queries alone, by AutoAttack, by transfer."""

from simplicit.robustness.attacks.accuracy import accuracy
from simplicit.robustness.attacks.autoattack import autoattack
from simplicit.robustness.attacks.checks import Finding, SelfChecks
from simplicit.robustness.attacks.gradient import fgsm, pgd
from simplicit.robustness.attacks.registry import ATTACKS, Attack
from simplicit.robustness.attacks.search import square
from simplicit.robustness.attacks.suite import AttackResult, attack

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "Finding",
    "SelfChecks",
    "accuracy",
    "attack",
    "autoattack",
    "fgsm",
    "pgd",
    "square",
]
