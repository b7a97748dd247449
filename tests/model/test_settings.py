"""Settings refuse what they do not know, and what no model can be made of."""

from typing import Any

import pytest
from pydantic import ValidationError

from model.settings import ModelSettings


@pytest.mark.parametrize(
    "given",
    [
        {"strides": 64},
        {"stride": 7},
        {"stride": 65},
        {"white": 0},
        {"white": 65536},
        {"network": {"channels": 2}},
        {"network": {"latent": 7}},
        {"memory": {"items": 1}},
        {"memory": {"temperature": 0}},
        {"memory": {"temperature": float("nan")}},
        {"memory": {"gates": "tanh"}},
        {"residual": {"weights": "learned"}},
    ],
)
def test_what_no_model_can_be_made_of_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSettings.model_validate(given)


def test_settings_cannot_change_under_a_model() -> None:
    with pytest.raises(ValidationError):
        ModelSettings().stride = 32
