"""Attacks on implicit models and torch networks: by gradients, by queries alone, by AutoAttack, by transfer."""
