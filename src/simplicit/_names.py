"""Where the public names are, for type checkers, and for ``simplicit`` itself, which reads it and loads one by one.

Each line imports a name as itself, which says that it is handed on.
"""

from __future__ import annotations

from simplicit.errors import ConvergenceError as ConvergenceError
from simplicit.errors import InputError as InputError
from simplicit.errors import SimplicitError as SimplicitError
from simplicit.executors import Processes as Processes
from simplicit.executors import Ray as Ray
from simplicit.executors import Serial as Serial
from simplicit.executors import Threads as Threads
from simplicit.implicit import ImplicitModel as ImplicitModel
from simplicit.implicit import collatz_wielandt as collatz_wielandt
from simplicit.implicit import equilibrium as equilibrium
from simplicit.implicit import load as load
from simplicit.implicit import perron_frobenius as perron_frobenius
from simplicit.implicit import rescale as rescale
from simplicit.implicit import to_torch as to_torch
from simplicit.network import KeptZeros as KeptZeros
from simplicit.network import extract_states as extract_states
from simplicit.network import from_cell as from_cell
from simplicit.network import from_torch as from_torch
from simplicit.network import keep_zeros as keep_zeros
from simplicit.network import weight_count as weight_count
from simplicit.robustness import accuracy as accuracy
from simplicit.robustness import attack as attack
from simplicit.robustness import certify as certify
from simplicit.robustness import fgsm as fgsm
from simplicit.robustness import pgd as pgd
from simplicit.rows import L1 as L1
from simplicit.rows import Ball as Ball
from simplicit.rows import BasisPursuit as BasisPursuit
from simplicit.rows import ElasticNet as ElasticNet
from simplicit.rows import Gram as Gram
from simplicit.rows import NoPenalty as NoPenalty
from simplicit.rows import Perspective as Perspective
from simplicit.rows import Solution as Solution
from simplicit.runtime.accelerate import accelerate as accelerate
from simplicit.runtime.compaction import compact as compact
from simplicit.runtime.files import SavedWeights as SavedWeights
from simplicit.runtime.files import load_weights as load_weights
from simplicit.runtime.files import save as save
from simplicit.runtime.onnx import export_onnx as export_onnx
from simplicit.solve import beta_max as beta_max
from simplicit.solve import merge_journals as merge_journals
from simplicit.solve import solve_part as solve_part
from simplicit.solve import solve_path as solve_path
from simplicit.solve import solve_rows as solve_rows
from simplicit.training import Certified as Certified
from simplicit.training import FitResult as FitResult
from simplicit.training import Matching as Matching
from simplicit.training import Ridge as Ridge
from simplicit.training import Robust as Robust
from simplicit.training import Sparse as Sparse
from simplicit.training import Structured as Structured
from simplicit.training import fit as fit
