"""Units of targets and features, in which one strength suits all rows."""

from __future__ import annotations

import numpy as np
import pytest

import simplicit as sp
from fitting import Subject, matrix, mlp, uniform
from simplicit.training.units import NORMALIZATIONS, Scales, Units

NET = Subject(mlp(12, 10, 8, 4), uniform(80))


@pytest.mark.parametrize("normalize", ["targets", "both", "none"])
@pytest.mark.parametrize(
    "penalty", [sp.L1(0.02), sp.ElasticNet(0.02, 0.01), sp.Perspective(0.01, 0.02), sp.Perspective(0.01, 0.0)]
)
def test_rows_are_those_of_the_plain_problem_divided_by_their_units(penalty: sp.L1, normalize: str) -> None:
    U, baseline = NET.inputs, NET.captured.model
    result = NET.fit(sp.Matching(penalty, normalize=normalize, structure="feedforward"))
    rms = {"none": np.ones(12), "targets": np.ones(12), "both": np.sqrt(np.mean(U**2, axis=0))}[normalize]
    first = result.model.slices[result.model.groups[-1].name]  # the layer that sees the inputs alone
    scale = sp.rescale(baseline).B[first].toarray() / baseline.B[first].toarray()
    Z = NET.captured.states(U).Z[:, first] * scale[:, 0]
    sigma = 1.0 if normalize == "none" else np.sqrt(np.mean(Z**2))
    sol = sp.solve_rows(U / rms, Z / sigma, penalty=penalty, weight=0.1, intercept=True)
    expected = sol.coefficients.toarray() * sigma / rms
    np.testing.assert_allclose(result.model.B[first].toarray(), expected, atol=1e-4 * abs(expected).max())
    np.testing.assert_allclose(result.rows.objective[first], sigma**2 * sol.objective, rtol=1e-5)


def test_what_is_zero_has_a_unit_of_one() -> None:
    scales = Scales(np.array([0.0, 2.0]), np.array([3.0, 0.0]), np.array([True, False]))
    for units_of in NORMALIZATIONS.values():
        targets, columns = units_of(scales)
        assert targets.tolist() in ([1.0, 2.0], [1.0, 1.0])
        assert (columns > 0).all()


def test_a_normalisation_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that doubles the units of the targets is twice the penalty; without its entry there is none of that name."""

    usual = NORMALIZATIONS["targets"]

    def doubled(scales: Scales) -> Units:
        targets, columns = usual(scales)
        return 2 * targets, columns

    with pytest.raises(sp.InputError, match="normalize: 'doubled' is unknown; choose one of 'targets', 'both', 'none'"):
        sp.Matching(normalize="doubled")
    monkeypatch.setitem(NORMALIZATIONS, "doubled", doubled)
    recipes = (sp.Matching(sp.L1(0.01), normalize="doubled"), sp.Matching(sp.L1(0.02), normalize="targets"))
    own, twice = (matrix(NET.fit(recipe).model) for recipe in recipes)
    np.testing.assert_allclose(own, twice, rtol=1e-9, atol=1e-12)
