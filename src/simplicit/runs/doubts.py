"""What makes the figures of a run mean nothing, looked for before any row is solved.

Beside what :mod:`simplicit.training.doubts` sees in the samples alone, a run has labels and a test part. Where the
evidence is clear the data is refused; else it is a remark that stands beside the figures. Labels serve this and the
accuracies alone: no fit uses them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from simplicit.checks import refused
from simplicit.data import DATASETS
from simplicit.runs.networks import classes_of, evaluated
from simplicit.runs.task import Task
from simplicit.training.doubts import ASKED, other_scale, repeated

Labels = npt.NDArray[np.int64]


def doubts_of(task: Task, inputs: Tensor) -> tuple[str, ...]:
    """What a user should know of the data of a task and of the samples (m, ...) that were drawn to be fitted on.

    InputError is raised where the samples are all the same, where the network is no better than guessing and its labels
    fit in another order, or where that is so and its batch norms were calibrated on inputs of another scale.
    """
    if len(inputs) == 1:
        raise refused(
            "samples", "the one that is drawn says nothing of what else the network is to do; draw some hundred"
        )
    remarks = [*repeated([inputs], "samples"), *_measured_on_training(task)]
    scale = other_scale(evaluated(task.net), inputs[:ASKED])
    if (guessed := _guessing(task)) is not None:
        labels, predicted, remark = guessed
        _refuse_labels(task.data.name, labels, predicted)
        if scale is not None:
            raise refused("data", f"{scale}, and {remark}; normalise them as in training", task.data.name)
        causes = "weights that are not trained, or inputs or labels that are not as in training"
        remarks.append(f"{remark}: {causes}")
    elif scale is not None:
        remarks.append(f"{scale}: are they normalised as in training?")
    return (*remarks, *_classes(task))


def _measured_on_training(task: Task) -> list[str]:
    """Where test samples of the user's own data are among the training samples too."""
    data = task.data
    if data.name in DATASETS:
        return []
    known = {row.tobytes() for row in data.train_inputs}
    both = sum(row.tobytes() in known for row in data.test_inputs)
    if both * 20 < len(data.test_inputs):
        return []
    where = f"{both:,} of the {len(data.test_inputs):,} test samples of {data.name} are training samples too"
    return [f"{where}, so accuracy and agreement are not those on new ones; hold other samples out"]


def _guessing(task: Task) -> tuple[Labels, Labels, str] | None:
    """Labels and predictions where the network is no better than the most frequent class, and that in words."""
    labels = task.data.test_labels[:ASKED]
    if len(np.unique(labels)) < 2:
        return None
    predicted = classes_of(task.net, task.shaped(task.data.test_inputs[:ASKED]), None)
    right, most = float(np.mean(predicted == labels)), float(np.bincount(labels).max() / len(labels))
    if right > most + 2 * math.sqrt(most * (1 - most) / len(labels)):
        return None
    said = f"the network is right on {100 * right:.1f} % of {task.data.name}"
    return labels, predicted, f"{said}, no more than always the most frequent class ({100 * most:.1f} %)"


def _refuse_labels(name: str, labels: Labels, predicted: Labels) -> None:
    """Refuse labels that fit the network's classes after a shift by one, or in another order.

    They do where the network is then right half as often as it can be more than the most frequent class is.
    """
    clear = (1 + np.bincount(labels).max() / len(labels)) / 2
    for shift, remedy in ((-1, "count them from 0: save labels - 1"), (1, "save labels + 1")):
        right = float(np.mean(predicted == labels + shift))
        if right >= clear:
            found = f"its labels are one off: the network is right on {100 * np.mean(predicted == labels):.1f} %"
            raise refused("data", f"{found}, and on {100 * right:.1f} % of labels {shift:+d}; {remedy}", name)
    size = int(max(labels.max(), predicted.max())) + 1
    counts = np.zeros((size, size))
    np.add.at(counts, (labels, predicted), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    right = float(counts[rows, columns].sum() / len(labels))
    if right >= clear:
        wrong = next(int(row) for row, column in zip(rows, columns, strict=True) if row != column)
        found = f"its classes are in another order than the network's, which would be right on {100 * right:.1f} %"
        remedy = f"label {wrong} is its class {columns[list(rows).index(wrong)]}; number them as in training"
        raise refused("data", f"{found}; {remedy}", name)


def _classes(task: Task) -> list[str]:
    """Where all test labels are the same, so that accuracies say how often that class is found."""
    labels = np.unique(task.data.test_labels)
    return [] if len(labels) > 1 else [f"all test labels are {labels[0]}: accuracies are how often that class is found"]
