r"""Networks that are fixed points already: a cell x = cell(x, u) as an implicit model, with its loop.

A deep equilibrium layer is defined by the state that its cell leaves as it is (Bai, Kolter and Koltun, *Deep
Equilibrium Models*, 2019), and so is a recurrent cell that runs under a constant input until it rests. One step is
a network of the state and the input; that is captured like any other, and its loop is closed
(:mod:`~simplicit.network.closing`). Whether there is one equilibrium for every input is then a question of λ_pf, of
diag(L)|A| where φ are elementwise and by blocks where they are not (:mod:`simplicit.implicit.blockwise`). Products of
states have a Lipschitz constant in a box that the cell does not leave (:mod:`simplicit.implicit.domains`): for a gated
recurrent unit there is one whatever the inputs are, for an LSTM where these lie in a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor, nn

from simplicit.checks import as_interval, check_flag
from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import Block, ImplicitModel, InputLayout, perron_frobenius
from simplicit.implicit.batch import check_range
from simplicit.implicit.domains import Bounded, bounded
from simplicit.implicit.groups import INPUT
from simplicit.implicit.maps import TooLargeError
from simplicit.network.affine import Affine, Shape
from simplicit.network.assembling import model_of
from simplicit.network.back import with_parameters
from simplicit.network.capture import count_weights
from simplicit.network.closing import OpenCell, closed, ways_to_close
from simplicit.network.gates import ungated
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.network.prepare import evaluation_copy
from simplicit.network.probing import Traced, fixed_entries, parameters_for, traced_entries, weights_in
from simplicit.network.reader import read_values
from simplicit.network.states import States
from simplicit.network.stepping import CellCall, Step, called, checked_step
from simplicit.network.wrappers import unwrapped


def from_cell(
    cell: nn.Module | Callable[..., Any],
    state: Any,
    inputs: Any,
    readout: nn.Module | Callable[..., Any] | None = None,
    *,
    clip: tuple[float, float] | None = None,
    check: bool = True,
) -> CellModel:
    r"""Return the exact implicit model of the equilibrium x = cell(x, u), y = readout(x), of a cell in evaluation mode.

    Parameters
    ----------
    cell : nn.Module or callable
        One step. It is called as ``cell(state, inputs)``: a tuple or list of arrays is spread over its arguments in
        order, a mapping over its arguments by name, so that ``torch.nn.RNNCell``, whose order is (input, hidden), takes
        ``state={"hx": h}``, and ``torch.nn.LSTMCell`` ``{"hx": (h, c)}``. It returns the next state, or a tuple (of a
        mapping: by name or in order) of all next states, of the same shapes, and is never changed.
    state : array (m, ...), tuple, list or mapping of them
        An example. Shapes and dtypes count, values do not: there is one equilibrium, and it is found from zero.
    inputs : array (m, ...), tuple, list or mapping of arrays and constants
        An example, as for :func:`simplicit.from_torch`. They are the inputs of the model.
    readout : nn.Module or callable, optional
        What is computed of the equilibrium, ``readout(state)``, with several states spread like the cell's. Default:
        the state itself, several of them side by side.
    clip : (float, float), optional
        Range of valid inputs. It is needed where products of states are bounded for such inputs only (an LSTM, whose
        forget gate has to stay away from 1); the model then refuses others, and the one equilibrium that is proved is
        one among all states in a box that the cell maps into itself. What is proved without takes no notice of it.
    check : bool
        Whether the cell has to be proved well-posed. A model that is not refuses to be evaluated, but can be looked at
        (``perron_frobenius(model)``), iterated without a proof (``equilibrium(model, U, proved=False)``) and, where its
        blocks have Lipschitz constants, fitted, which makes it so: see :func:`simplicit.fit`.

    Returns
    -------
    CellModel
        An ImplicitModel whose groups are those of the cell, in its dtype; where the state reaches itself without a φ
        between, also the state, with φ the identity. All that takes implicit models takes it.

    Raises
    ------
    InputError
        ``cell`` does not take or does not return states of these shapes; the message says what was tried.
    NotWellPosedError
        λ_pf < 1 could not be proved, which the message gives, or the cycle goes through a block that has no Lipschitz
        constant and none in a box that was found (a norm, a product of states, attention), which it names.
    UnsupportedOperationError
        As :func:`simplicit.from_torch`.

    Examples
    --------
    >>> import torch, simplicit as sp
    >>> _ = torch.manual_seed(0)
    >>> class Cell(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = torch.nn.Linear(6, 6), torch.nn.Linear(4, 6)
    ...     def forward(self, x, u):
    ...         return torch.tanh(0.5 * self.inner(x) + self.outer(u))
    >>> cell = Cell().double().eval()
    >>> u = torch.rand(3, 4, dtype=torch.float64)
    >>> model = sp.from_cell(cell, torch.zeros(3, 6, dtype=torch.float64), u)
    >>> x = model.predict(u)
    >>> bool((cell(x, u) - x).abs().max() < 1e-9)
    True
    """
    check_flag("check", check)
    captured = CellCapture.of(cell, state, inputs, readout, None if clip is None else as_interval("clip", clip))
    model = CellModel(captured)
    if check:
        _check_well_posed(captured)
    return model


@dataclass(frozen=True, eq=False)
class CellCapture:
    """A cell, captured once: the graph of one step, and how its states and inputs lie in the graph's U.

    ``own`` are the states that are groups of the model. ``model`` is its equilibrium, ``output_shape`` the shape of y.
    ``unbounded`` names a block of a cycle for which no box was found; ``clip`` is the range of inputs that was given.
    """

    graph: NetworkGraph
    call: CellCall
    plain: bool
    output_shape: Shape
    own: frozenset[int]
    model: ImplicitModel
    unbounded: str | None
    clip: tuple[float, float] | None

    @classmethod
    def of(
        cls, cell: Any, state: Any, inputs: Any, readout: Any, clip: tuple[float, float] | None = None
    ) -> CellCapture:
        """Capture a cell; arguments and errors are those of :func:`from_cell`, which proves it well-posed."""
        cell, readout = (unwrapped(one) if isinstance(one, nn.Module) else one for one in (cell, readout))
        if not callable(cell):
            raise InputError(f"cell must be a torch.nn.Module or callable, got {type(cell).__name__}", argument="cell")
        call, given = called(cell, state, inputs)
        step = evaluation_copy(Step(cell, readout, call))
        assert isinstance(step, Step)
        output_shape = checked_step(step, call, given)
        graph = capture_graph(step, given, "inputs", output="all")
        plain = not call.inputs_by_name and len(call.inputs) == 1 and graph.layout.specs[-1].floating
        opened = _opened(graph, call, output_shape, with_readout=readout is not None)
        found: tuple[frozenset[int], Bounded] | None = None
        for own in ways_to_close(opened):
            try:
                model = _model(graph, opened, own, _layout(graph, call), plain=plain)
            except TooLargeError:
                continue
            one = _bounded(model, _layout(graph, call), clip)
            if found is None or _is_proved(one.model):
                found = own, one
            if _is_proved(one.model):
                break
        if found is None:
            raise InputError("the products of the cell's linear layers are too large to be written down")
        return cls(graph, call, plain, output_shape, found[0], found[1].model, found[1].unbounded, clip)

    @property
    def has_readout(self) -> bool:
        """Whether y is something else than the state."""
        return getattr(self.graph.network, "readout", None) is not None

    @cached_property
    def weight_count(self) -> int:
        """N₀, the entries of the weight matrices of cell and readout that multiply states or inputs: no embeddings.

        Those of a gate that says only how fast a cell comes to rest have no part in its equilibrium either.
        """
        blocks = [group.activation for group in self.model.groups if isinstance(group.activation, Block)]
        held = {constant.ctypes.data for block in blocks for constant in block.constants}
        network = self.graph.network
        names = weights_in(self.graph, self.read)
        return count_weights(network, [one for one in names if network.get_parameter(one).data_ptr() not in held])

    @property
    def proved(self) -> bool:
        """Whether the cell has one equilibrium for every input, as far as is known."""
        return _is_proved(self.model)

    def wiring(self) -> csr_array:
        """The entries of M (n_pre + q, n + p) that are no weights: skip paths, means, what is added as it is."""
        return csr_array(self.model.matrix.astype(np.float64).multiply(fixed_entries(self.graph, self.read)))

    def traced(self) -> Traced:
        """Which entries of M are which of the cell's weights."""
        return traced_entries(self.graph, self.read)

    def bounded(self, model: ImplicitModel) -> ImplicitModel:
        """A model of the same groups with the boxes of its own for blocks that need them.

        NotWellPosedError is raised where it had boxes and is not proved in its own.
        """
        if not _has_boxes(model):
            return model
        found = _bounded(model, _layout(self.graph, self.call), self.clip).model
        bounds = perron_frobenius(found)
        if bounds.upper < 1.0:
            return found
        raise NotWellPosedError(
            f"the fitted cell is not proved to have one equilibrium: its products of states take larger values than "
            f"the cell's had, with which λ_pf = {bounds.value:.6g}; fit it with a smaller kappa",
            lower=bounds.lower,
            upper=bounds.upper,
        )

    def states(self, U: Tensor) -> States:
        """Record the equilibrium of the cell for inputs U (m, p), in float64.

        Where it is not proved to be the only one, it is the one that an iteration from zero finds; ConvergenceError is
        raised where that finds none.
        """
        model, U = self.model.astype(np.float64), U.double()
        system = model.state_equation
        found = system.solve(U) if self.proved else system.rest(U)
        check_range(found.X, "states")
        X, Z = system.plan.to_model(found.X), system.plan.to_model(found.Z)
        Y = model.output_equation.outputs(X, U)
        return States(U.numpy(), Z.numpy(), X.numpy(), Y.numpy(), model.groups)

    def network(self, model: ImplicitModel) -> nn.Module:
        """A copy of the cell, in evaluation mode, with the weights of a model of the same groups.

        With a readout it is a ``torch.nn.ModuleDict`` of ``"cell"`` and ``"readout"``. InputError is raised where the
        weights cannot be traced to parameters, as :class:`~simplicit.network.back.NetworkTemplate` says.
        """
        step = with_parameters(self.graph, parameters_for(self.graph, model, None, self.read))
        assert isinstance(step, Step)
        if not self.has_readout:
            return step.cell  # type: ignore[no-any-return]
        return nn.ModuleDict({"cell": step.cell, "readout": step.readout})

    def read(self, graph: NetworkGraph) -> ImplicitModel:
        """The model of another graph of the same step, closed in the same way."""
        opened = _opened(graph, self.call, self.output_shape, with_readout=self.has_readout)
        return _model(graph, opened, self.own, _layout(graph, self.call), plain=self.plain)


class CellModel(ImplicitModel):
    """The implicit model of a cell at rest, which remembers the cell; made by :func:`from_cell`.

    What is derived of it, by ``with_blocks`` or ``astype``, is an ImplicitModel without a memory.

    Attributes
    ----------
    captured : CellCapture
        The cell, for :func:`simplicit.fit`.
    """

    def __init__(self, captured: CellCapture) -> None:
        model = captured.model
        super().__init__(
            model.groups,
            model.blocks,
            n_inputs=model.n_inputs,
            n_outputs=model.n_outputs,
            state_bias=model.state_bias,
            output_bias=model.output_bias,
            input_shape=model.input_shape,
            output_shape=model.output_shape,
            inputs=model.inputs,
        )
        self.captured = captured
        vars(self)["state_equation"] = model.state_equation  # the same, and what is proved of it is dear


def _opened(graph: NetworkGraph, call: CellCall, output_shape: Shape, *, with_readout: bool) -> OpenCell:
    """The step of a graph as a cell that is still open."""
    read, columns = read_values(graph), graph.layout.columns
    states = tuple(columns[name] for name in call.states)
    shapes = {spec.name: spec.shape for spec in graph.layout.specs}
    ends, following = 0, []
    for name, at in zip(call.states, states, strict=True):
        value = _rows(read.output, ends, at.stop - at.start, shapes[name])
        rested = ungated(value, at, [opened.group for opened in read.groups.values()], read.pre_activations)
        following.append(value if rested is None else rested)
        ends += at.stop - at.start
    if with_readout:
        output = _rows(read.output, ends, read.output.size - ends, output_shape)
    else:  # the state itself, not the next one: they are the same
        output = Affine.source(INPUT, (graph.layout.width,)).selected(np.arange(ends), output_shape)
    groups = tuple(opened.group for opened in reversed(read.groups.values()))
    return OpenCell(groups, read.pre_activations, tuple(following), output, states, slice(ends, graph.layout.width))


def _rows(value: Affine, first: int, size: int, shape: Shape) -> Affine:
    """Some of the numbers of a value."""
    found = value.selected(np.arange(first, first + size), shape)
    return replace(found, terms={source: block for source, block in found.terms.items() if block.nnz})


def _model(
    graph: NetworkGraph, opened: OpenCell, own: frozenset[int], layout: InputLayout, *, plain: bool
) -> ImplicitModel:
    """The model of a closed cell."""
    found = closed(opened, own)
    model = model_of(found.groups, found.pre_activations, found.output, dtype=graph.dtype, input_shape=layout.shape)
    return model if plain else model.with_inputs(layout)


def _layout(graph: NetworkGraph, call: CellCall) -> InputLayout:
    """What lies where in U: the inputs without the states."""
    specs = tuple(spec for spec in graph.layout.specs if spec.name not in call.states)
    return InputLayout(specs, graph.layout.constants)


def _bounded(model: ImplicitModel, layout: InputLayout, clip: tuple[float, float] | None) -> Bounded:
    """A model with boxes for blocks that need them: for all inputs if that proves it, else for those in a range."""
    found = bounded(model, None)
    if clip is None or _is_proved(found.model):
        return found
    ends = []
    for end, other in zip(clip, (-math.inf, math.inf), strict=True):
        ends.append(np.concatenate([np.full(spec.size, end if spec.floating else other) for spec in layout.specs]))
    within = bounded(model, (ends[0], ends[1]))
    if not _has_boxes(within.model):
        return within
    return replace(within, model=within.model.with_inputs(replace(layout, clip=clip)))


def _has_boxes(model: ImplicitModel) -> bool:
    """Whether a block of a model is clipped."""
    return any(one.activation.domain is not None for one in model.groups if isinstance(one.activation, Block))


def _is_proved(model: ImplicitModel) -> bool:
    try:
        return perron_frobenius(model).upper < 1.0
    except NotWellPosedError:
        return False


def _check_well_posed(captured: CellCapture) -> None:
    """Refuse a cell that is not proved to have one equilibrium, with the figure and what can be done."""
    iterated = "iterate it without a proof, equilibrium(model, U, proved=False)"
    remedy = "scale the weights on its state down, or take the model with check=False and"
    if captured.unbounded is not None:
        group = next(one for one in captured.model.groups if one.name == captured.unbounded)
        known = captured.clip
        inputs = "; give clip=(low, high), the range of its inputs" if known is None else f" for inputs in {known}"
        raise NotWellPosedError(
            f"cell is not proved to have one equilibrium: its cycle goes through group {group.name!r}, a block "
            f"({group.activation.name}) without a Lipschitz constant in the maximum norm, and no bounded box of states "
            f"was found that the cell maps into itself, in which it would have one{inputs}; {remedy} {iterated}",
            lower=0.0,
            upper=math.inf,
        )
    bounds = perron_frobenius(captured.model)
    if bounds.upper < 1.0:
        return
    slopes = [
        f"{group.name!r} ({group.activation.name}) L = {group.activation.slope:.4g}"
        for cycle in captured.model.state_equation.cycles
        for group in cycle.groups
        if isinstance(group.activation, Block) and group.activation.domain is not None
    ]
    within = f", where its products are bounded: {', '.join(slopes)}" if slopes else ""
    raise NotWellPosedError(
        f"cell is not proved to have one equilibrium for every input: λ_pf = {bounds.value:.6g} (between "
        f"{bounds.lower:.9g} and {bounds.upper:.9g}{within}) is not below 1; {remedy} fit it, "
        f"simplicit.fit(model, inputs), which keeps its rows in a ball where it is proved, or {iterated}",
        lower=bounds.lower,
        upper=bounds.upper,
    )
