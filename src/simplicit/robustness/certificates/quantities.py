r"""Closed forms behind the certificates, as training can use them: what a row costs in robustness.

An ε-box of inputs becomes a box of half-width r on the states, and a row w of [A B] or [C D] moves by at most
Σⱼ rⱼ|wⱼ|. That is an ℓ1 penalty with column weights r, convex and exact for the row: ``L1(beta, column_weights=r)``
of :func:`simplicit.solve_rows`, with :func:`box_radii` for states and ε for inputs. What the outputs feel is at most

    Sᵢ Σⱼ rⱼ|wⱼ|,   S = |C| (I - L|A|)⁻¹ L,

a weight for row i (:func:`sensitivity`). With slope L everywhere, both solve linear equations in the sizes of the
coefficients, r = L (|A| r + ε|B| 1) and S = (|C| + S|A|) L; the boxes here are narrower, being those of (b).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import chunks
from simplicit.implicit.groups import Block
from simplicit.implicit.model import as_model
from simplicit.implicit.picard import picard_adjoint
from simplicit.implicit.plan import Plan
from simplicit.robustness.box import Clip, OuterBox, Radius, as_reach, clipped
from simplicit.robustness.certificates.interval import Neighbourhood
from simplicit.robustness.certificates.prepared import PreparedModel

Array = npt.NDArray[np.float64]


def sensitivity(model: ImplicitModel) -> Array:
    """Bound how much each output can feel of each pre-activation, for every input.

    Parameters
    ----------
    model : ImplicitModel
        Well-posed; L are the slope bounds of its activations.

    Returns
    -------
    (q, n) float64 array, (q, n_pre) where there are blocks, infinite behind those without a Lipschitz constant
        S = |C| (I - L|A|)⁻¹ L, with |∂yₖ/∂zᵢ| <= Sₖᵢ, zᵢ the pre-activation of state i.

    Raises
    ------
    InputError
        ``model`` is no ImplicitModel.
    NotWellPosedError
        λ_pf(L|A|) < 1 fails or could not be shown.
    """
    prepared = PreparedModel(as_model(model))
    plan, slopes = prepared.system.absolute.plan, prepared.slopes[None].expand(model.n_outputs, -1)
    if plan.triangular:
        S = _substituted_back(plan, prepared.C.abs())
    else:
        S = picard_adjoint(plan, prepared.system.contraction, slopes, prepared.C.abs())
    return plan.to_model(S).numpy()


def _substituted_back(plan: Plan, X_bar: Tensor) -> Tensor:
    """S (q, n_pre) of a triangular plan of |A|, by a pass in reverse from |C|, which is overwritten.

    The rows of a block's Jacobian sum to L at most in size, and so none of its entries is larger.
    """
    S = X_bar.new_zeros(len(X_bar), plan.n_pre)
    for stage in reversed(plan.stages):
        x_bar, slope = X_bar[:, stage.target], stage.activation.slope
        if isinstance(stage.activation, Block):
            x_bar = x_bar.sum(dim=1, keepdim=True).expand(-1, stage.rows.stop - stage.rows.start)
        z_bar = torch.where(x_bar > 0, slope * x_bar, 0.0)
        S[:, stage.rows] = z_bar
        for source, block in stage.terms:
            X_bar[:, source] += block.apply_transpose(z_bar).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return S


def box_radii(model: ImplicitModel, U: Any, eps: Radius, *, clip: Clip = (0.0, 1.0)) -> Array:
    """Return the half-widths of the boxes of states around every sample, by interval bounds (b).

    They are zero, up to rounding, where a state cannot move, as a ReLU that stays below 0. Their mean over samples is
    the column weight with which the worst case of a row over the box is an ℓ1 penalty.

    Parameters
    ----------
    model : ImplicitModel
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape), or several, as ``model.predict`` takes them
    eps : float, or mapping of str to float
        Half-width of the box of floating-point inputs, or of each by its name.
    clip : (float, float) or None
        Range of valid inputs, which U must keep too; None for no range.

    Returns
    -------
    (m, n) float64 array

    Raises
    ------
    InputError, NotWellPosedError
        As :func:`simplicit.certify`.
    """
    inputs, reach = as_model(model).batch(U), as_reach(eps, model.inputs)
    inputs, _ = clipped(inputs, clip, reach)
    prepared = PreparedModel(model)
    radii = torch.empty(len(inputs), model.n_states, dtype=torch.float64)
    for rows in chunks(len(inputs), model.n_inputs + model.n_states):
        part = inputs[rows].double()
        found = Neighbourhood(prepared, part, OuterBox.around(part, reach, clip)).enclosure()
        radii[rows] = 0.5 * (found.x_upper - found.x_lower)
    return prepared.system.plan.to_model(radii).numpy()
