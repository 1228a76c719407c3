import math
import random
from pathlib import Path

import pytest

from palate.errors import PalateError
from palate.training import health, run_folder
from palate.training.config import TrainingConfig
from palate.training.writer import Writer


def rows(count: int = 10, **rules: object) -> list[dict[str, float]]:
    noise = random.Random(0)
    return [
        {"step": 100.0 * i, **{key: rule(i, noise.gauss(0, 1)) for key, rule in rules.items()}}  # type: ignore[operator]
        for i in range(count)
    ]


HEALTHY = {
    "winner_gain": lambda i, e: 1e-3 * i + 1e-4 * e,
    "loser_gain": lambda i, e: -1e-3 * i + 1e-4 * e,
    "margin": lambda i, e: 2e-3 * i,
    "gradient_factor": lambda i, e: 0.45 - 0.01 * i,
    "temperature": lambda i, e: 2500.0,
}


def test_healthy_run_is_left_in_peace() -> None:
    assert health.warnings(rows(**HEALTHY)) == []


def test_only_the_loser_gets_worse() -> None:
    sick = {**HEALTHY, "winner_gain": lambda i, e: -1e-3 * i + 1e-4 * e, "loser_gain": lambda i, e: -3e-3 * i}
    assert health.warnings(rows(**sick)) == [health.ONLY_LOSER]
    flat = {**sick, "winner_gain": lambda i, e: -1e-5 * (1 + e)}
    assert health.warnings(rows(**flat)) == [health.ONLY_LOSER]
    better = {**sick, "winner_gain": lambda i, e: 1e-3 * i}
    assert health.warnings(rows(**better)) == []
    shrinking = {**sick, "margin": lambda i, e: 2e-2 - 1e-3 * i}
    assert health.warnings(rows(**shrinking)) == []


def test_noise_around_zero_is_not_a_loss() -> None:
    early = {
        "winner_gain": lambda i, e: 1e-5 * (-1) ** i - 1e-6,
        "loser_gain": lambda i, e: 1e-5 * (-1) ** i - 1e-6,
        "margin": lambda i, e: 1e-6 * i,
    }
    assert health.warnings(rows(**early)) == []


def test_saturated() -> None:
    assert health.warnings(rows(**{**HEALTHY, "gradient_factor": lambda i, e: 0.04})) == [health.SATURATED]
    assert health.warnings(rows(**{**HEALTHY, "gradient_factor": lambda i, e: 0.06})) == []


def test_nothing_moves_only_after_many_steps() -> None:
    still = {"margin": lambda i, e: 1e-7, "gradient_factor": lambda i, e: 0.5, "temperature": lambda i, e: 2500.0}
    assert health.warnings(rows(**still)) == [health.NOTHING_MOVES]
    assert health.warnings(rows(**still), warmup_steps=800) == []
    # The same margin at a higher temperature does move.
    assert health.warnings(rows(**{**still, "temperature": lambda i, e: 1e6})) == []


def test_no_prompt_brings_a_pair() -> None:
    assert health.warnings(rows(valid_pairs=lambda i, e: 0.0)) == [health.NO_PAIRS]
    assert health.warnings(rows(valid_pairs=lambda i, e: 0.25 * (i == 3))) == []


def test_fp16_overflows() -> None:
    assert health.warnings(rows(skipped=lambda i, e: 0.8)) == [health.OVERFLOWS]


def test_absent_keys_and_few_rows_say_nothing() -> None:
    assert health.warnings(rows(loss=lambda i, e: 0.7)) == []
    assert health.warnings(rows(4, gradient_factor=lambda i, e: 0.0)) == []


def test_a_warning_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sick, well = rows(6, gradient_factor=lambda i, e: 0.01), rows(20, gradient_factor=lambda i, e: 0.4)
    config = TrainingConfig(steps=100, trackers=())
    with Writer(run_folder.create(tmp_path / "run"), config, 0, {}) as writer:
        for step, row in enumerate([*sick, *well, *sick, *sick], 1):
            writer.training({**row, "step": step})
    assert capsys.readouterr().out.count(health.SATURATED) == 1


def test_not_finite_names_step_and_visits() -> None:
    steps = [{"loss": 0.7, "grad_norm": 1.0}, {"loss": math.nan, "grad_norm": math.nan}]
    with pytest.raises(PalateError, match=r"loss of step 42 is nan \(visits 328 to 335\)"):
        health.require_finite(steps, 41, "no", 8)
    overflow = [{"loss": 0.7, "grad_norm": math.inf}]
    health.require_finite(overflow, 1, "fp16", 8)
    with pytest.raises(PalateError, match="gradient of step 1 is inf"):
        health.require_finite(overflow, 1, "bf16", 8)


def test_health_line() -> None:
    row = {
        "step": 120.0, "loss": 0.6712, "winner_gain": 0.0012, "loser_gain": -0.0031, "margin": 0.0043,
        "accuracy": 0.61, "gradient_factor": 0.44, "grad_norm": 0.82, "groups_per_second": 3.42,
        "peak_memory_gib": 12.3, "mfu": 0.38,
    }  # fmt: skip
    assert health.health_line(row, 2000) == (
        "step 120/2000 · loss 0.6712 · winner +1.20e-03 · loser -3.10e-03 · margin +4.30e-03 · accuracy 61% · "
        "gradient factor 0.44 · grad 8.20e-01 · 3.42 groups/s · 12.3 GiB · MFU 38%"
    )
    assert health.health_line({"step": 1.0, "loss": 0.5, "mfu": math.nan}, 2) == "step 1/2 · loss 0.5000"
