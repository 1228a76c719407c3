"""What a step's numbers are made of: means, in which a part without a number does not count, and a bad loss does."""

import math

import pytest
import torch
from accelerate import Accelerator

from palate.training.meter import Meter


def rows_of(*micro: dict[str, float]) -> dict[str, float]:
    meter = Meter()
    for one in micro:
        metrics = {key: torch.tensor(value) for key, value in one.items() if key != "loss"}
        meter.micro_batch(torch.tensor(one["loss"]), metrics)
    meter.step(torch.tensor(2.0))
    return meter.collect(Accelerator(cpu=True))[0]


def test_a_part_without_a_number_leaves_the_mean_to_the_others():
    row = rows_of({"loss": 1.0, "accuracy": math.nan}, {"loss": 3.0, "accuracy": 0.5})
    assert row == pytest.approx({"loss": 2.0, "accuracy": 0.5, "grad_norm": 2.0})


def test_a_number_that_no_part_has_is_not_zero():
    assert math.isnan(rows_of({"loss": 1.0, "accuracy": math.nan})["accuracy"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_shows(bad):
    assert not math.isfinite(rows_of({"loss": 1.0}, {"loss": bad})["loss"])
