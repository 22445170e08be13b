"""The convex core: many row problems that share one design, each solved to a certificate.

``problem`` states the primal and the dual, ``penalties`` and ``ball`` what stands in them, ``design`` and ``gram`` what
is known of Φ. ``admm`` finds the support; ``polish`` goes from there to where the ``conditions`` are met exactly, by
``path`` on a ``tableau`` that ``condense`` makes of a ``factor``; ``rounds`` certifies and goes on, ``block`` runs all
of it, ``equality`` builds exact matching on it, and ``reference`` gives a second opinion. :func:`simplicit.solve_rows`
is the front.
"""

from __future__ import annotations

from simplicit.rows.ball import Ball
from simplicit.rows.block import solve_block
from simplicit.rows.design import Design
from simplicit.rows.gram import Gram
from simplicit.rows.outcome import BlockSolution, RowStatus
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
from simplicit.rows.problem import Certificate, RowProblem
from simplicit.rows.solution import Solution

__all__ = [
    "L1",
    "PENALTIES",
    "Ball",
    "BasisPursuit",
    "BlockSolution",
    "Certificate",
    "Design",
    "ElasticNet",
    "Gram",
    "NoPenalty",
    "Penalty",
    "Perspective",
    "PiecewiseQuadratic",
    "RowProblem",
    "RowStatus",
    "Solution",
    "solve_block",
]
