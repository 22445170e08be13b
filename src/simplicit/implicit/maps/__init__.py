"""Linear maps: the blocks of A, B, C and D. A new kind is one module, and its import here."""

from simplicit.implicit.maps.algebra import TooLargeError, added, check_composed, composed
from simplicit.implicit.maps.base import KINDS, LinearMap
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.csr import CsrMap
from simplicit.implicit.maps.gather import GatherMap
from simplicit.implicit.maps.gathered import GatheredMap
from simplicit.implicit.maps.repeated import RepeatedMap
from simplicit.implicit.maps.sparse import Csr, canonical_csr
from simplicit.implicit.maps.sums import SumMap
from simplicit.implicit.maps.transposed import TransposedMap

__all__ = [
    "KINDS",
    "ConvMap",
    "Csr",
    "CsrMap",
    "GatherMap",
    "GatheredMap",
    "LinearMap",
    "RepeatedMap",
    "SumMap",
    "TooLargeError",
    "TransposedMap",
    "added",
    "canonical_csr",
    "check_composed",
    "composed",
]
