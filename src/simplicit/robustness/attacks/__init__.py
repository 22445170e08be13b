"""Attacks on implicit models and torch networks: by gradients, by queries alone, by AutoAttack, by transfer."""

from simplicit.robustness.attacks.accuracy import accuracy
from simplicit.robustness.attacks.autoattack import autoattack
from simplicit.robustness.attacks.gradient import fgsm, pgd
from simplicit.robustness.attacks.search import square
from simplicit.robustness.attacks.suite import AttackResult, SelfChecks, attack

__all__ = ["AttackResult", "SelfChecks", "accuracy", "attack", "autoattack", "fgsm", "pgd", "square"]
