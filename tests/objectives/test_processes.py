import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from palate.objectives import em_dpo, kto
from palate.objectives.processes import mean_over_processes


def test_the_mean_of_a_process_by_itself():
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    assert mean_over_processes(values).item() == 3.0
    assert not mean_over_processes(values).requires_grad
    assert mean_over_processes(values, torch.tensor([True, False, True])).item() == 3.5
    assert mean_over_processes(values, torch.zeros(3, dtype=torch.bool)).isnan()


def run_processes(name: str, rows: list, store: Path) -> list[dict]:
    """Run objective_process.py once for each rank at the same time; return what they print."""
    script = Path(__file__).with_name("objective_process.py")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), name, str(rank), str(len(rows)), str(store), json.dumps(rows)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for rank in range(len(rows))
    ]
    try:
        printed = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(rows)
    return [json.loads(text) for text in printed]


def test_two_processes_share_kto_s_reference_point(tmp_path):
    # Unequal shares with mean gains 1.0 (two candidates) and -0.2 (four): together (2 - 0.8) / 6 = 0.2.
    # The mean of the two means would be 0.4, and the mean of the two floored means 0.5.
    first = [[[0.0, 0.0]], [[1.5, 0.5]], [[1.0, 0.0]]]
    second = [[[0.0, 0.5], [0.1, 0.0]], [[0.1, 0.0], [0.2, -0.5]], [[1.0, 0.0], [0.5, 0.5]]]
    results = run_processes("kto", [first, second], tmp_path / "store")
    assert [result["shared"] for result in results] == pytest.approx([0.2, 0.2], abs=1e-7)

    policy, reference, labels = (torch.tensor(a + b, dtype=torch.float64) for a, b in zip(first, second, strict=True))
    policy.requires_grad_()
    alone, _ = kto(policy, reference, labels, beta=2.0)
    (gradient,) = torch.autograd.grad(alone, policy)
    # Weighted by the share of the groups, the processes' losses and gradients are those of one process with all.
    assert results[0]["loss"] / 3 + results[1]["loss"] * 2 / 3 == pytest.approx(alone.item(), abs=1e-12)
    shares = torch.tensor([[1 / 3], [2 / 3], [2 / 3]], dtype=torch.float64)
    together = torch.tensor(results[0]["gradient"] + results[1]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(shares * together, gradient, rtol=0, atol=1e-12)


def test_two_processes_share_one_flip_rate(tmp_path):
    # Three groups with a preference and a tie on one process, one on the other.
    first = [[[0.0, 0.5], [0.4, 0.0], [0.0, 0.1], [0.3, 0.0]], [[0.0, 0.0]] * 4, [[1.0, 0.0]] * 3 + [[0.5, 0.5]]]
    second = [[[0.9, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]]
    results = run_processes("em_dpo", [first, second], tmp_path / "store")
    policy, reference, labels = (torch.tensor(a + b, dtype=torch.float64) for a, b in zip(first, second, strict=True))
    alone, metrics = em_dpo(policy, reference, labels, beta=2.0)
    assert [result["shared"] for result in results] == pytest.approx([metrics["flip_rate"].item()] * 2, abs=1e-7)
    assert results[0]["loss"] * 4 / 5 + results[1]["loss"] / 5 == pytest.approx(alone.item(), abs=1e-12)
