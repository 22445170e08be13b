r"""A cell closed to a loop: from the affine values of (s, u) ↦ s⁺ to those of the equilibrium s = s⁺.

Read as a network of the inputs s and u, a cell has groups of states x_g = φ_g(z_g) and

    z_g = Σ_h A_gh x_h + B_gs s + B_gu u + b_g,     s⁺ = Σ_h C_h x_h + D_s s + D_u u + d.

At an equilibrium s = s⁺. State by state (a cell may have several, s = (s_1, s_2, …)):

- where D_s = 0, s is an affine value of the groups and of u, and takes its own place in every z_g: A_gh + B_gs C_h,
  B_gu + B_gs D_u, b_g + B_gs d. There are no states but the cell's own groups;
- where s⁺ is s and something else in the shares of a gate, the same with the something else alone
  (:mod:`simplicit.network.gates`), and groups that nothing reads any more are gone;
- where D_s is diagonal without ones, as in a damped step s⁺ = (1 - a) s + a f(s), the same after (1 - D_s)⁻¹: the
  equilibria are those of f;
- where D_s is anything else, or the products are larger than their factors, s stays as a group of its own with φ the
  identity, x_s = z_s = Σ_h C_h x_h + D_s x_s + D_u u + d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simplicit.implicit import Activation, GatherMap, LinearMap, StateGroup, composed
from simplicit.implicit.groups import INPUT
from simplicit.implicit.maps import TooLargeError
from simplicit.network.affine import Affine, Shape


@dataclass(frozen=True)
class OpenCell:
    """A cell as a network of the input [s | u]: its groups, in the order of the states, and their pre-activations.

    ``following`` are the next states, in the order of the ``columns`` that the states have in the input; ``inputs`` are
    the columns of u. ``output`` is y.
    """

    groups: tuple[StateGroup, ...]
    pre_activations: Mapping[str, Affine]
    following: tuple[Affine, ...]
    output: Affine
    columns: tuple[slice, ...]
    inputs: slice


@dataclass(frozen=True)
class ClosedCell:
    """The equilibrium: groups, pre-activations and output, affine in groups and in u. ``own`` states are groups."""

    groups: tuple[StateGroup, ...]
    pre_activations: Mapping[str, Affine]
    output: Affine
    own: frozenset[int]


def ways_to_close(cell: OpenCell) -> list[frozenset[int]]:
    """The states that are kept as groups of their own: at first as small as it goes, then as few as have to be.

    A product of two maps may be larger than both; written out it is proved to contract where they are not.
    """
    parts = [_Parts.of(value, cell) for value in cell.following]
    coupled = frozenset(number for number, part in enumerate(parts) if part.solved(number) is None)
    grown = set[int]()
    for number in sorted({*range(len(parts))} - coupled):
        value = parts[number].solved(number)
        assert value is not None
        try:
            if _grows(value, number, cell):
                grown.add(number)
        except TooLargeError:
            grown.add(number)
    return [*dict.fromkeys((coupled | grown, coupled))]


def closed(cell: OpenCell, own: frozenset[int]) -> ClosedCell:
    """Close the loop with some states as groups of their own; TooLargeError where a product cannot be written down."""
    names = _names([group.name for group in cell.groups], sorted(own))
    states: dict[int, Affine] = {}
    for number, value in enumerate(cell.following):
        if number in own:
            states[number] = Affine.source(names[number], value.shape)
        else:
            found = _Parts.of(value, cell).solved(number)
            assert found is not None
            states[number] = found
    values = dict(cell.pre_activations) | {names[number]: cell.following[number] for number in sorted(own)}
    substituted = {name: _Parts.of(value, cell).substituted(states) for name, value in values.items()}
    groups = [StateGroup(names[number], cell.following[number].size, Activation("identity")) for number in sorted(own)]
    output = _Parts.of(cell.output, cell).substituted(states)
    read = _read([output, *states.values()], substituted)
    kept = tuple(group for group in (*groups[::-1], *cell.groups) if group.name in read)
    return ClosedCell(kept, {group.name: substituted[group.name] for group in kept}, output, own)


def _read(ends: Sequence[Affine], values: Mapping[str, Affine]) -> set[str]:
    """The names of the groups that some values read, themselves or through others."""
    found, left = set[str](), [name for value in ends for name in value.terms]
    while left:
        name = left.pop()
        if name not in found and name in values:
            found.add(name)
            left += values[name].terms
    return found


def _names(taken: Sequence[str], numbers: Sequence[int]) -> dict[int, str]:
    """Names for groups of states of a cell."""
    found: dict[int, str] = {}
    for number in numbers:
        name = "state" if not number else f"state_{number}"
        while name in taken:
            name += "_"
        found[number] = name
    return found


@dataclass(frozen=True)
class _Parts:
    """An affine value, its term of [s | u] in parts: ``rest`` has u and the groups, ``states`` the map of each s."""

    rest: Affine
    states: dict[int, LinearMap]

    @classmethod
    def of(cls, value: Affine, cell: OpenCell) -> _Parts:
        """The parts of a value."""
        terms, states = dict(value.terms), dict[int, LinearMap]()
        whole = terms.pop(INPUT, None)
        if whole is not None:
            for number, columns in enumerate(cell.columns):
                part = _restricted(whole, columns)
                if part.nnz:
                    states[number] = part
            if (of_inputs := _restricted(whole, cell.inputs)).nnz:
                terms[INPUT] = of_inputs
        return cls(replace(value, terms=terms), states)

    def solved(self, number: int) -> Affine | None:
        """The value that is state ``number`` itself at the equilibrium, without states; None if it has to be found."""
        if not self.states:
            return self.rest
        if {*self.states} != {number}:
            return None
        csr = self.states[number].to_csr()
        diagonal = np.asarray(csr.diagonal())
        if csr.nnz != np.count_nonzero(diagonal) or (diagonal == 1.0).any():
            return None
        return self.rest.scaled(1.0 / (1.0 - diagonal))

    def substituted(self, states: Mapping[int, Affine]) -> Affine:
        """The value with the states in the place of their maps."""
        value = self.rest
        for number, block in self.states.items():
            value = value.plus(states[number].through(block, value.shape))
        return replace(value, terms={source: block for source, block in value.terms.items() if block.nnz})


def _restricted(whole: LinearMap, columns: slice) -> LinearMap:
    """Some columns of a map."""
    width = whole.shape[1]
    inside = np.full(width, -1)
    inside[columns] = np.arange(columns.stop - columns.start)
    return composed(whole.astype(np.float64), GatherMap(inside, columns.stop - columns.start))


def _grows(value: Affine, number: int, cell: OpenCell) -> bool:
    """Whether a state's value in the place of its maps has more entries than both have."""
    before = after = 0
    for reader in (*cell.pre_activations.values(), cell.output):
        block = _Parts.of(reader, cell).states.get(number)
        if block is None:
            continue
        before += block.nnz
        after += sum(term.nnz for term in value.through(block, _flat(block)).terms.values())
    return after > before + sum(term.nnz for term in value.terms.values())


def _flat(block: LinearMap) -> Shape:
    return (block.shape[0],)
