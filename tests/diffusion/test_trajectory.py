from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from palate.diffusion import (
    Stream,
    clean_estimate,
    descend,
    generator_for,
    rectified_flow,
    stochastic_grid,
    trajectory,
    transition,
    variance_preserving,
)
from palate.errors import UserError


def generators_of(positions: list[int]) -> list[torch.Generator]:
    return [generator_for(0, Stream.SAMPLING, position) for position in positions]


def test_stable_diffusions_grid_is_spos(stable_diffusion) -> None:
    grid = stochastic_grid(variance_preserving(stable_diffusion), 20)
    assert grid.tolist() == [*range(951, 0, -50), 0]
    assert grid.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "end"),
    [
        ({"steps_offset": 0}, [100, 50, 0]),  # the grid holds timestep 0 itself
        ({"timestep_spacing": "trailing"}, [99, 49, 0]),
        ({"timestep_spacing": "linspace"}, [105, 53, 0]),
    ],
)
def test_every_spacing_ends_at_timestep_zero_once(change: dict, end: list[int], stable_diffusion) -> None:
    assert stochastic_grid(variance_preserving({**stable_diffusion, **change}), 20).tolist()[-3:] == end


def test_spos_last_step_has_its_standard_deviation(stable_diffusion) -> None:
    process, x = variance_preserving(stable_diffusion), torch.zeros(1, 1, dtype=torch.float64)
    grid = stochastic_grid(process, 20)
    _, std = transition(process, x, x, grid[-2:-1], grid[-1:], eta=1.0)
    assert std.item() == pytest.approx(0.0206, abs=5e-5)
    assert process.levels(grid[-1:])[1].item() == pytest.approx(0.029, abs=5e-4)


def test_a_flows_grid_leaves_the_clean_endpoint_out() -> None:
    process = rectified_flow(shift=3.0)
    assert torch.equal(stochastic_grid(process, 20), process.timestep_grid(20)[:-1])


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_every_step_of_a_grid_has_a_density(eta: float, process) -> None:
    grid = stochastic_grid(process, 25)
    x = torch.zeros(len(grid) - 1, 1, dtype=torch.float64)
    mean, std = transition(process, x, x, grid[:-1], grid[1:], eta)
    assert (grid.diff() < 0).all()
    assert std.min() > 0
    assert mean.isfinite().all()


def test_a_single_flow_step_is_a_users_error() -> None:
    with pytest.raises(UserError, match="take more"):
        stochastic_grid(rectified_flow(), 1)


def test_the_path_is_the_samplers_own(process, gaussian_network, normal) -> None:
    network, start, grid = gaussian_network(process, 0.3, 0.8), normal(3, 5), stochastic_grid(process, 6)
    asked = []

    def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        asked.append((times.tolist(), rows.tolist()))
        return network(noisy, times)

    moves = list(trajectory(predict, process, start, grid, generators_of([5, 6, 7]), eta=0.7))
    expected = descend(network, process, start, grid.expand(3, -1), 0.7, generators_of([5, 6, 7]))
    assert torch.equal(moves[-1].sample, expected)
    assert torch.equal(moves[0].noisy, start)
    for before, after in pairwise(moves):
        assert torch.equal(before.sample, after.noisy)
        assert torch.equal(before.next_times, after.times)
    assert [move.times[0].item() for move in moves] == grid[:-1].tolist()
    assert asked == [([time] * 3, [0, 1, 2]) for time in grid[:-1].tolist()]


def test_a_rows_path_does_not_depend_on_its_company(process, gaussian_network, normal) -> None:
    network, start, grid = gaussian_network(process, 0.3, 0.8), normal(3, 5), stochastic_grid(process, 5)

    def path(rows: list[int]) -> torch.Tensor:
        moves = trajectory(lambda x, t, _: network(x, t), process, start[rows], grid, generators_of(rows))
        return torch.stack([move.sample for move in moves], 1)

    torch.testing.assert_close(path([0, 1, 2])[[2, 0]], path([2, 0]), rtol=1e-12, atol=1e-12)


def test_clean_estimate_is_the_state_at_time_zero_and_x0hat_before(make_process, normal) -> None:
    noisy, answer, rows, asked = normal(2, 4), normal(2, 4, seed=1), torch.arange(2), []

    def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        asked.append(times)
        return answer

    assert clean_estimate(predict, make_process("epsilon"), noisy, torch.tensor([0, 0]), rows) is noisy
    assert asked == []
    flow_end = clean_estimate(predict, make_process("flow"), noisy, torch.tensor([10.0, 10.0]), rows)
    torch.testing.assert_close(flow_end, noisy - 0.01 * answer, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_recorded_has_a_graph_and_low_precision_is_widened(dtype: torch.dtype, make_process) -> None:
    process, weight = make_process("flow"), torch.tensor(0.5, requires_grad=True)
    start, grid = torch.ones(2, 3, dtype=dtype, requires_grad=True), stochastic_grid(process, 3)

    def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return weight * noisy

    for move in trajectory(predict, process, start, grid, generators_of([0, 1])):
        assert (weight * 1.0).requires_grad  # the caller's own mode, between two steps
        assert not any(x.requires_grad for x in (move.noisy, move.sample))
        assert move.noisy.dtype == move.sample.dtype == torch.float32
        assert not clean_estimate(predict, process, move.sample, move.next_times, torch.arange(2)).requires_grad
