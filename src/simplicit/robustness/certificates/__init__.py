"""Certificates: bounds on the margins of a model over boxes of inputs, and what they are made of."""

from simplicit.robustness.certificates.certify import METHODS, Certificates, certify

__all__ = ["METHODS", "Certificates", "certify"]
