"""Settings of what is measured at several radii."""

from __future__ import annotations

from typing import Any

import pytest

from simplicit.errors import InputError
from simplicit.runs.attacking import AttackSettings
from simplicit.runs.certifying import CertifySettings
from simplicit.runs.measured import MeasureSettings


def test_radii_are_in_order_as_they_were_written() -> None:
    assert MeasureSettings(("8/255", "0.004")).radii == {"0.004": 0.004, "8/255": 8 / 255}


@pytest.mark.parametrize("kind", [AttackSettings, CertifySettings])
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"eps": ("wide",)}, "eps 'wide': expected a radius"),
        ({"eps": ("-0.1",)}, "eps '-0.1'"),
        ({"eps": ()}, "eps: name at least one radius"),
        ({"eps": ("0.1", "1/10")}, "eps: 0.1, 1/10 names a radius twice"),
        ({"seed": -1}, "seed must be an integer"),
        ({"seed": 2**63}, "seed must be an integer"),
        ({"steps": -1}, "steps must be an integer of at least"),
    ],
)
def test_settings_out_of_range(kind: Any, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        kind(**settings)
    assert caught.value.argument in settings


def test_settings_of_attacks_out_of_range() -> None:
    for name in ("steps", "restarts", "queries"):
        with pytest.raises(InputError, match=f"{name} must be an integer of at least 1, got 0"):
            AttackSettings(**{name: 0})
    with pytest.raises(InputError, match="attacks: name at least one"):
        AttackSettings(attacks=())
    with pytest.raises(InputError, match="attacks: 'luck' is unknown; choose one of 'fgsm'"):
        AttackSettings(attacks=("pgd", "luck"))
    assert AttackSettings(attacks=("pgd", "pgd")).attacks == ("pgd",)
    with pytest.raises(InputError, match="method: 'luck' is unknown; choose one of 'global'"):
        CertifySettings(method="luck")
