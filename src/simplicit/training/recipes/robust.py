"""The recipes for networks that are hard to attack, and for those of which that can be proved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from simplicit.checks import refused, spelled
from simplicit.training.channels import has_convolutions
from simplicit.training.recipes.base import Recipe, Task
from simplicit.training.robust import RobustOptions, RobustTraining, parse_strengths
from simplicit.training.states import StateStudent, network_of, state_data
from simplicit.training.training import Trained


@dataclass(frozen=True)
class Robust(RobustOptions, Recipe):
    """As accurate as the baseline within a point or so, much harder to attack, and sparse.

    Layer after layer is trained on the network's own states, with ℓ1 in units of the worst case over a box, one-sided
    where a ReLU is off, and with the network's own worst cases among the samples; see
    :mod:`simplicit.training.robust.training`. Samples count by their mean, so that a strength suits any number of them.

    Parameters
    ----------
    beta : float
        Strength of ℓ1.
    sparsity : float or None
        Wanted share of zeros in per cent of the baseline's weights: the strength that comes within half a point is
        searched. None takes the strength as it is.
    structure : str
        Where weights may be: "baseline", where the baseline has them, or "feedforward", on inputs and all earlier
        states.
    hidden_strength : float or tuple of float
        Strength on the states of hidden layers, relative to that on inputs, one for all layers after the first or one
        for each. Large ones raise what can be proved and cost clean accuracy.
    attacks : int
        Rounds of worst cases that join the samples; 0 for none.
    attack_eps : float
        Radius of the box in which PGD searches them, against the classes that the baseline gives.
    clip : tuple of two floats, optional
        Range of valid inputs. Default: 0 to 1; from the command line, that of the data.
    lambda1 : float
        Weight of matching the states.
    lambda2 : float
        Weight of matching the outputs.

    Raises
    ------
    InputError
        An option is out of range or unknown.
    """

    def train(self, task: Task) -> Trained:
        captured = task.captured
        if has_convolutions(task.graph):
            raise refused(
                "net",
                "it has convolutions, and robust training works on the boxes of single states; take the recipe Sparse "
                "or Matching",
            )
        task.check_untied()
        with task.timed("states"):
            data = state_data(captured.model, captured.states(task.inputs), captured.weight_count, rescaled=False)
            data = replace(data, wired=self.structure == "baseline" and captured.output_is_wired)
        with task.solving(self, data.inputs, (data.n_rows, data.n_columns)) as run:
            fit, trials = RobustTraining(data, self, task.rows, run).train()
        origin = network_of(captured, data, structure=self.structure)
        student = StateStudent(fit.model, data, data.order(data.layers.values()), origin)
        solutions = {name: [layer.solution] for name, layer in fit.layers.items()}
        return Trained(student, solutions, data.weight_count, strength=fit.strength, trials=trials)


@dataclass(frozen=True)
class Certified(Robust):
    """The largest accuracy that can be proved at 8/255, for two points of clean accuracy.

    As :class:`Robust`, with more weight on what can be proved.
    """

    beta: float = 1.5e-3
    hidden_strength: float | tuple[float, ...] = field(default=3.0, metadata=spelled(parse_strengths))
    attacks: int = 4
    attack_eps: float = 6 / 255
