"""Certificates: bounds on the margins of a model over boxes of inputs, and what they are made of."""

from simplicit.robustness.certificates.methods import METHODS
from simplicit.robustness.certificates.proofs import Certificates, certify
from simplicit.robustness.certificates.quantities import box_radii, sensitivity

__all__ = ["METHODS", "Certificates", "box_radii", "certify", "sensitivity"]
