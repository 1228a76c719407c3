import pytest

from palate.errors import UserError
from palate.training.config import EarlyStopConfig
from palate.training.early_stop import should_stop


@pytest.mark.parametrize(
    ("values", "mode", "stops"),
    [
        ([], "max", False),
        ([1.0], "max", False),
        ([3.0, 2.0], "max", False),
        ([3.0, 2.0, 1.0], "max", True),
        ([3.0, 2.0, 3.0], "max", True),  # an equal is no improvement
        ([3.0, 2.0, 4.0], "max", False),
        ([3.0, 2.0, 1.0], "min", False),
        ([1.0, 2.0, 3.0], "min", True),
        ([1.0, float("nan"), float("nan")], "max", True),
    ],
)
def test_patience(values: list[float], mode: str, stops: bool) -> None:
    config = EarlyStopConfig.model_validate({"metric": "score", "patience": 2, "mode": mode})
    assert should_stop([{"score": value} for value in values], config) is stops


def test_unknown_metric_lists_the_known() -> None:
    with pytest.raises(UserError, match="'scroe' is no validation number; there are loss, score"):
        should_stop([{"score": 1.0, "loss": 2.0}], EarlyStopConfig(metric="scroe"))
