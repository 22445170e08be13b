"""simplicit: trained PyTorch networks as sparse, robust, well-posed implicit models, by certified convex optimisation.

The mathematics is that of State-driven Implicit Modeling: a network becomes x = φ(Ax + Bu), y = Cx + Du exactly
(:func:`from_torch`), and M = [[A, B], [C, D]] is retrained row by row from the network's own states (:func:`fit`).
"""

from __future__ import annotations

from simplicit.errors import (
    ConvergenceError,
    DataError,
    ExecutionError,
    InputError,
    MissingExtraError,
    NotWellPosedError,
    SimplicitError,
    UnsupportedOperationError,
)
from simplicit.executors import Executor, make_executor
from simplicit.implicit import (
    Activation,
    CsrMap,
    Equilibrium,
    ImplicitModel,
    LinearMap,
    PerronFrobenius,
    StateGroup,
    StorageBits,
    collatz_wielandt,
    equilibrium,
    load,
    perron_frobenius,
    rescale,
    save,
    to_torch,
)
from simplicit.network import States, TrainingModeWarning, extract_states, from_torch, weight_count
from simplicit.progress import Progress
from simplicit.robustness import (
    AttackResult,
    Certificates,
    SelfChecks,
    accuracy,
    attack,
    autoattack,
    box_radii,
    certify,
    fgsm,
    pgd,
    sensitivity,
    square,
)
from simplicit.rows import (
    L1,
    Ball,
    BasisPursuit,
    ElasticNet,
    Gram,
    NoPenalty,
    Perspective,
    PiecewiseQuadratic,
    RowStatus,
    Solution,
)
from simplicit.runtime.onnx import OnnxFile, export_onnx
from simplicit.solve.front import beta_max, solve_path, solve_rows
from simplicit.solve.parts import JournalState, merge_journals, solve_part
from simplicit.training import FitResult, TiedResult, fit

__version__ = "0.1.0"

__all__ = [
    "L1",
    "Activation",
    "AttackResult",
    "Ball",
    "BasisPursuit",
    "Certificates",
    "ConvergenceError",
    "CsrMap",
    "DataError",
    "ElasticNet",
    "Equilibrium",
    "ExecutionError",
    "Executor",
    "FitResult",
    "Gram",
    "ImplicitModel",
    "InputError",
    "JournalState",
    "LinearMap",
    "MissingExtraError",
    "NoPenalty",
    "NotWellPosedError",
    "OnnxFile",
    "PerronFrobenius",
    "Perspective",
    "PiecewiseQuadratic",
    "Progress",
    "RowStatus",
    "SelfChecks",
    "SimplicitError",
    "Solution",
    "StateGroup",
    "States",
    "StorageBits",
    "TiedResult",
    "TrainingModeWarning",
    "UnsupportedOperationError",
    "accuracy",
    "attack",
    "autoattack",
    "beta_max",
    "box_radii",
    "certify",
    "collatz_wielandt",
    "equilibrium",
    "export_onnx",
    "extract_states",
    "fgsm",
    "fit",
    "from_torch",
    "load",
    "make_executor",
    "merge_journals",
    "perron_frobenius",
    "pgd",
    "rescale",
    "save",
    "sensitivity",
    "solve_part",
    "solve_path",
    "solve_rows",
    "square",
    "to_torch",
    "weight_count",
]
