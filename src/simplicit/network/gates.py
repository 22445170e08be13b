r"""Gated steps at rest: s⁺ = z∘s + (1 - z)∘v with a gate 0 < z < 1 rests where s = v, whatever z is.

A gated recurrent unit (Cho et al. 2014) moves its state a share 1 - z of the way to a candidate v. Where it rests that
share does not matter, and with it goes a product of states, for which little can be proved. Written as products with
one gate z = σ(…), however the cell spells them, a step is

    s⁺ - s = Σ_k c_k (γ_k + δ_k z)∘a_k + r = z∘w + k,    w = Σ c_k δ_k a_k,  k = Σ c_k γ_k a_k + r

with affine values a_k and r. If k = β w for a number β outside of (-1, 0), that is (z + β)∘w, which is zero where w is.
If w = α s + q without s in q, then s = -q/α there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from simplicit.implicit import Block, GatherMap, StateGroup
from simplicit.implicit.groups import INPUT
from simplicit.implicit.groups.program import Value
from simplicit.network.affine import Affine

# Values that should be equal, relative to the largest.
_EQUAL = 1e-12


def ungated(
    value: Affine, state: slice, groups: Sequence[StateGroup], pre_activations: Mapping[str, Affine]
) -> Affine | None:
    """A next state with the same equilibria as ``value`` and without its gate, for the state in these columns of u.

    None where it is no gated step.
    """
    own, width = np.arange(state.start, state.stop), _width(value, pre_activations)
    if width is None:
        return None
    s = Affine(value.shape, {INPUT: GatherMap(own, width)}, np.zeros(value.size))
    products = [one for group in groups for one in _products(value, group, groups, pre_activations)]
    gates = {one.gate for one in products}
    if len(gates) != 1:
        return None
    names = {one.name for one in products}
    rest = Affine(value.shape, {k: m for k, m in value.terms.items() if k not in names}, value.constant)
    w, k = _zero(value), rest.plus(_times(s, -1.0))
    for one in products:
        w = w.plus(_times(one.factor, one.coefficient * one.slope))
        k = k.plus(_times(one.factor, one.coefficient * one.offset))
    if not _is_multiple(k, w):
        return None
    return _solved(w, s)


@dataclass(frozen=True)
class _Product:
    """c (γ + δ z)∘a in a next state: a ``gate`` as its group and the columns there, γ, δ, c and a."""

    name: str
    gate: tuple[str, tuple[int, ...]]
    offset: float
    slope: float
    coefficient: float
    factor: Affine


def _products(
    value: Affine, group: StateGroup, groups: Sequence[StateGroup], pre_activations: Mapping[str, Affine]
) -> list[_Product]:
    """The product that a group is in a next state; nothing where it is none of a gate."""
    phi, size = group.activation, group.size
    if group.name not in value.terms or not isinstance(phi, Block) or not _multiplies(phi) or size != value.size:
        return []
    coefficient = _multiple_of_identity(value.terms[group.name].to_csr())
    if coefficient is None:
        return []
    z = pre_activations[group.name]
    sides = [z.selected(np.arange(first, first + size), value.shape) for first in (0, size)]
    for gate, factor in (sides, sides[::-1]):
        found = _gate(gate, groups)
        if found is not None:
            return [_Product(group.name, *found, coefficient, factor)]
    return []


def _multiplies(phi: Block) -> bool:
    """Whether a block is one product of two operands, number by number."""
    sizes = {int(np.prod(shape)) for shape in phi.operands}
    one = len(phi.steps) == 1 and phi.steps[0].packet == "mul" and not phi.steps[0].keywords
    return one and len(phi.operands) == 2 and sizes == {phi.size} and {*phi.steps[0].arguments} == {Value(0), Value(1)}


def _gate(value: Affine, groups: Sequence[StateGroup]) -> tuple[tuple[str, tuple[int, ...]], float, float] | None:
    """Which numbers of which group of sigmoids a value γ + δ z reads, γ and δ; None where it is none."""
    terms = {source: block for source, block in value.terms.items() if block.nnz}
    if len(terms) != 1 or np.ptp(value.constant) > 0:
        return None
    ((source, block),) = terms.items()
    group = next((one for one in groups if one.name == source), None)
    csr = csr_array(block.to_csr())
    if group is None or group.activation.name != "sigmoid" or not (np.diff(csr.indptr) == 1).all():
        return None
    if isinstance(group.activation, Block) and not group.activation.pointwise:
        return None
    if np.ptp(csr.data) > 0:
        return None
    return (source, tuple(csr.indices.tolist())), float(value.constant[0]), float(csr.data[0])


def _multiple_of_identity(csr: csr_array) -> float | None:
    diagonal = np.asarray(csr.diagonal())
    if csr.shape[0] != csr.shape[1] or csr.nnz != len(diagonal) or np.ptp(diagonal) > 0:
        return None
    return float(diagonal[0])


def _width(value: Affine, pre_activations: Mapping[str, Affine]) -> int | None:
    """How many columns [s | u] has."""
    every = (value, *pre_activations.values())
    return next((one.terms[INPUT].shape[1] for one in every if INPUT in one.terms), None)


def _zero(value: Affine) -> Affine:
    return Affine(value.shape, {}, np.zeros(value.size))


def _times(value: Affine, factor: float) -> Affine:
    return value.scaled(np.full(value.size, factor))


def _is_multiple(k: Affine, w: Affine) -> bool:
    """Whether k = β w for one number β that is not in (-1, 0)."""
    found, wanted = _matrices(k), _matrices(w)
    largest = max(wanted, key=lambda name: abs(wanted[name]).max(), default=None)
    if largest is None or not abs(wanted[largest]).max():
        return False
    coo = wanted[largest].tocoo()
    at = int(np.abs(coo.data).argmax())
    place = (coo.row[at], coo.col[at])
    beta = float(found[largest][place] / wanted[largest][place]) if largest in found else 0.0
    if -1.0 < beta < 0.0:
        return False
    scale = max(float(abs(one).max()) for one in wanted.values())
    for name in {*found, *wanted}:
        parts = [found[name]] if name in found else []
        parts += [-beta * wanted[name]] if name in wanted else []
        left = csr_array(sum(parts[1:], parts[0]))
        if left.nnz and abs(left).max() > _EQUAL * scale:
            return False
    return bool(np.abs(k.constant - beta * w.constant).max() <= _EQUAL * max(1.0, scale))


def _matrices(value: Affine) -> dict[str, csr_array]:
    found = {source: csr_array(block.astype(np.float64).to_csr()) for source, block in value.terms.items()}
    return {source: csr for source, csr in found.items() if csr.nnz}


def _solved(w: Affine, s: Affine) -> Affine | None:
    """-q/α for w = α s + q; None where s has another part in w."""
    if INPUT not in w.terms:
        return None
    columns = s.terms[INPUT].to_csr().indices
    own = csr_array(csr_array(w.terms[INPUT].to_csr())[:, columns])
    alpha = _multiple_of_identity(own)
    if not alpha:
        return None
    q = w.plus(_times(s, -alpha))
    terms = {source: block for source, block in _times(q, -1.0 / alpha).terms.items() if block.nnz}
    return Affine(w.shape, terms, -q.constant / alpha)
