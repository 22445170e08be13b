r"""Untied rows on chosen states: a smaller implicit model that stands for a deep network.

Some activations S of a network, such as the last one of each block, are the states of a model of their own,

    x = φ(A x + B u + b),   y = C x + D u + d,      targets  Z_S, Ŷ   features  X_S, U

whose rows are those of problem (7). Where the network computes other states between them there are no weights that
would give Z_S exactly: what those states did is learnt from samples, and how well is seen in the errors of the result.
The rows of a convolution are not tied here, every state has a row of its own.

The scaling vector of Theorem 2.4 belongs to the network's own A, and grows with its depth (to 1e17 in ResNet-20). A
model of chosen states is in units of their own: the root mean square of each group, if all their activations allow it.
Under a ball, ‖A‖∞ ≤ κ, a group is measured in ``GROWTH`` times more for every group before it, so that a row may have
coefficients that sum to more than κ on the states of groups before its own.
"""

from __future__ import annotations

import numpy as np

from simplicit.checks import refused
from simplicit.implicit import ImplicitModel, StateGroup
from simplicit.implicit.batch import Batch
from simplicit.machine import check_memory, gib
from simplicit.network import Capture, States
from simplicit.rows.batch import Array
from simplicit.training.states.data import StateData, check_elementwise, homogeneous

#: How much larger the units of a group are than those of the group before it, under a ball.
GROWTH = 4.0
#: Names of groups that a message lists.
LISTED = 12


def chosen_groups(captured: Capture, states: str | tuple[str, ...]) -> tuple[StateGroup, ...]:
    """The groups that ``states`` names, in the order of the model; InputError for an unknown name, or no states."""
    groups = captured.model.groups
    if not groups:
        raise refused("states", "the network has no activations, so there are no states to choose from")
    if states == "blocks":
        return captured.block_groups or groups[:1]
    names = [group.name for group in groups][::-1]
    for name in states:
        if name not in names:
            listed = ", ".join(map(repr, names[:LISTED])) + (", …" if len(names) > LISTED else "")
            raise refused(
                "states",
                f"the network has no group of states {name!r}; name some of {listed}, or take 'blocks' or 'all'",
            )
    return tuple(group for group in groups if group.name in states)


def chosen_data(captured: Capture, inputs: Batch, states: str | tuple[str, ...], *, bounded: bool) -> StateData:
    """Features [X_S U] and targets [Z_S Ŷ] of the states that ``states`` names; ``bounded`` if there is a ball.

    InputError is raised for an unknown name, inputs that do not fit, or more memory needed than there is.
    """
    groups, model = chosen_groups(captured, states), captured.model
    check_elementwise(groups)
    _check_memory(groups, model, len(inputs))
    found = captured.states(inputs, groups=groups)
    scale = _units(found, bounded=bounded)
    return StateData(
        model=ImplicitModel(
            groups,
            {},
            n_inputs=model.n_inputs,
            n_outputs=model.n_outputs,
            state_bias=np.zeros(len(scale)),
            output_bias=np.zeros(model.n_outputs),
            input_shape=model.input_shape,
            output_shape=model.output_shape,
            inputs=model.inputs,
        ),
        features=np.hstack([found.X / scale, found.U], dtype=np.float64),
        targets=np.hstack([found.Z / scale, found.Y], dtype=np.float64),
        rescaled=False,
        intercept=bool(model.state_bias.any() or model.output_bias.any()),
        weight_count=captured.weight_count,
        chosen=True,
    )


def _units(states: States, *, bounded: bool) -> Array:
    """What the states are divided by, (n,)."""
    units = np.ones(states.X.shape[1])
    if not homogeneous(states.groups):
        return units
    for before, group in enumerate(reversed(states.groups)):
        columns = states.columns[group.name]
        size = float(np.sqrt(np.mean(np.square(states.X[:, columns], dtype=np.float64))))
        units[columns] = (size or 1.0) * (GROWTH**before if bounded else 1.0)
    return units


def _check_memory(groups: tuple[StateGroup, ...], model: ImplicitModel, samples: int) -> None:
    """Refuse before the start what cannot fit."""
    n, p, q = sum(group.size for group in groups), model.n_inputs, model.n_outputs
    widest = max(max(group.size for group in groups), q)
    of_samples = samples * (16 * (n + p) + 8 * (n + q) + 2 * model.dtype.itemsize * n)
    # The support of all rows, then per group its own part, and the penalty of its rows three times.
    of_rows = (n + q) * (n + p) + widest * (n + p) * (2 + 3 * 8)
    check_memory(
        "states",
        of_samples + of_rows,
        f"{n + q:,} rows x {n + p:,} columns, with {gib(of_samples)} for {samples:,} samples, need",
        "choose fewer groups of states by name, or give fewer samples",
    )
