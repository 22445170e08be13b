r"""How a layer keeps its weights, and with what it multiplies by them: a format, and the layers that have one.

A format is one subclass of :class:`Format` in a module of its own, imported here. Products are Y = W X + b with X
(in, samples): what a layer returns is the view Yᵀ, in the order (samples, out) for whoever indexes it and with samples
last in memory, so that a chain of sparse layers with functions of single entries between them moves nothing.
"""

from simplicit.runtime.formats import compressed, semi_structured
from simplicit.runtime.formats.base import DENSE, FORMATS, Format
from simplicit.runtime.formats.layers import (
    FormattedConvolution,
    FormattedLayer,
    FormattedLinear,
    formatted,
    plain_kind,
)

__all__ = [
    "DENSE",
    "FORMATS",
    "Format",
    "FormattedConvolution",
    "FormattedLayer",
    "FormattedLinear",
    "compressed",
    "formatted",
    "plain_kind",
    "semi_structured",
]
