"""The convex core: many row problems that share one design, each solved to a certificate.

``problem`` states the primal and ``certificate`` the dual, ``penalties`` and ``ball`` what stands in them, ``design``
and ``gram`` what is known of Φ. ``admm`` finds the support; ``polish`` goes from there to where the ``conditions`` are
met exactly, by the ``homotopy`` on a ``tableau`` that ``condense`` makes of a ``factor``; ``refinement`` certifies and
goes on, ``active_set`` runs all of it, ``equality`` builds exact matching on it, and ``reference`` gives a second
opinion. ``batch`` is what all records of rows have in common. :func:`simplicit.solve_rows` is the front.

Tuned constants say what other values cost on *the family*, the Fashion-MNIST rows of ``benchmarks/problems.py`` (112
rows × 896 columns with a ball), where it is *easy* (500 samples, λ₁ = β = .01: 480 iterations of ADMM, 115
factorisations, 145 events), *hard* (500 samples, λ₁ = .1, β = .001: 880, 140, 4,072) and has *few* samples (100,
λ₁ = .1, β = .001: 1,150, 155, 1,267); and on *a path* of four strengths, 60 samples of 400 normal columns. What is
counted there, unlike seconds, is the same on every machine.
"""

from __future__ import annotations

from simplicit.rows.ball import Ball
from simplicit.rows.gram import Gram
from simplicit.rows.outcome import RowStatus
from simplicit.rows.penalties import (
    L1,
    PENALTIES,
    BasisPursuit,
    ElasticNet,
    NoPenalty,
    Penalty,
    Perspective,
    PiecewiseQuadratic,
)
from simplicit.rows.solution import Solution

__all__ = [
    "L1",
    "PENALTIES",
    "Ball",
    "BasisPursuit",
    "ElasticNet",
    "Gram",
    "NoPenalty",
    "Penalty",
    "Perspective",
    "PiecewiseQuadratic",
    "RowStatus",
    "Solution",
]
