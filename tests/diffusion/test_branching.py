from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from palate.diffusion import (
    Branch,
    Stream,
    branches,
    clean_estimate,
    extremes,
    generator_for,
    pair_errors,
    stochastic_grid,
    trajectory,
    variance_preserving,
)
from palate.errors import UserError

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def generators_of(positions: list[int]) -> list[torch.Generator]:
    return [generator_for(0, Stream.SAMPLING, position) for position in positions]


class Recorder:
    """A network with a bias per row, and a judge of the estimates' means; both remember what they were asked."""

    def __init__(self, process, network, biases: torch.Tensor) -> None:
        self.process, self.network, self.biases = process, network, biases
        self.asked: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.answers: list[torch.Tensor] = []
        self.judged: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        self.asked.append((noisy, times, rows))
        self.answers.append(self.network(noisy, times) + self.biases[rows][:, None])
        return self.answers[-1]

    def judge(self, clean_hat: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        self.judged.append((clean_hat, times, rows))
        return 10 * clean_hat.mean(1)

    def roll(self, start: torch.Tensor, positions: list[int], steps: int = 6, **settings) -> list[Branch]:
        grid = stochastic_grid(self.process, steps)
        generators = generators_of(positions)
        return list(branches(self.predict, self.process, self.judge, start, grid, generators, **settings))


@pytest.fixture
def recorder(process, gaussian_network, normal) -> Recorder:
    return Recorder(process, gaussian_network(process, 0.3, 0.8), 0.1 * normal(3, seed=7))


def only_recorder(make_process, gaussian_network, name: str) -> Recorder:
    process = make_process(name)
    return Recorder(process, gaussian_network(process, 0.3, 0.8), torch.zeros(50, dtype=torch.float64))


def test_spos_schedule_and_count(stable_diffusion, gaussian_network, normal) -> None:
    """20 steps, branching from t = 751: 4 + 1 calls of n rows, then k rows a step and not k + 1, none at time 0."""
    process = variance_preserving(stable_diffusion)
    recorder = Recorder(process, gaussian_network(process, 0.3, 0.8), torch.zeros(2, dtype=torch.float64))
    rolled = recorder.roll(normal(2, 8), [0, 1], steps=20)
    assert [branch.times.tolist() for branch in rolled] == [[t, t] for t in range(751, 0, -50)]
    assert [branch.next_times.tolist() for branch in rolled] == [[t, t] for t in [*range(701, 0, -50), 0]]
    assert [len(noisy) for noisy, _, _ in recorder.asked] == [2] * 5 + [2 * 4] * 15
    assert [times.unique().tolist() for _, times, _ in recorder.asked] == [[t] for t in range(951, 0, -50)]
    assert [times.unique().tolist() for _, times, _ in recorder.judged] == [[t] for t in [*range(701, 0, -50), 0]]
    assert rolled[0].noisy.shape == (2, 1, 8)
    assert rolled[0].candidates.shape == (2, 4, 8)


def test_a_flow_asks_once_more_for_its_last_estimate(make_process, gaussian_network, normal) -> None:
    recorder = only_recorder(make_process, gaussian_network, "flow_shift_3")
    rolled = recorder.roll(normal(2, 8), [0, 1], steps=10, k=3, divert_start=2)
    assert len(rolled) == 7
    assert [len(noisy) for noisy, _, _ in recorder.asked] == [2] * 3 + [2 * 3] * 7
    assert recorder.judged[-1][1].min() > 0


def test_each_candidate_is_judged_by_its_own_estimate(recorder, normal) -> None:
    process, k = recorder.process, 3
    rolled = recorder.roll(normal(3, 8), [0, 1, 2], k=k, divert_start=1)
    at_zero = rolled[-1].next_times.max() == 0
    assert at_zero == (process.prediction_type != "flow_prediction")
    for branch, (clean_hat, times, rows) in zip(rolled, recorder.judged, strict=True):
        assert rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert torch.equal(times, branch.next_times.repeat_interleave(k))
        states = branch.candidates.flatten(0, 1)
        if branch is rolled[-1] and at_zero:
            expected = states
        else:
            prediction = recorder.network(states, times) + recorder.biases[rows][:, None]
            expected = process.to_clean(prediction, states, times)
        torch.testing.assert_close(clean_hat, expected, **EXACT)
        torch.testing.assert_close(branch.scores, 10 * expected.mean(1).view(3, k), **EXACT)
        for row in range(3):
            scores = branch.scores[row].tolist()
            assert branch.winner[row] == scores.index(max(scores))
            assert branch.loser[row] == scores.index(min(scores))
            assert branch.valid[row] == (max(scores) - min(scores) > 0.61903920840622)


def test_a_candidate_goes_on_with_the_prediction_it_was_judged_by(make_process, gaussian_network, normal) -> None:
    """A network that never answers twice alike: x_s must follow from the answer given when x_t was judged."""
    process, k, calls = make_process("epsilon"), 3, []
    truth = gaussian_network(process, 0.3, 0.8)

    def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        calls.append((noisy, truth(noisy, times) + len(calls)))
        return calls[-1][1]

    def judge(clean_hat: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(rows))

    grid, chosen = stochastic_grid(process, 6), []
    rolled = list(branches(predict, process, judge, normal(2, 200), grid, generators_of([0, 1]), k=k, divert_start=0))
    for index, (before, after) in enumerate(pairwise(rolled)):
        states, answers = (x.view(2, k, -1) for x in calls[index + 1])
        assert torch.equal(states, before.candidates)
        for row in range(2):
            (candidate,) = [c for c in range(k) if torch.equal(before.candidates[row, c], after.noisy[row, 0])]
            chosen.append(candidate)
            time = after.times[row : row + 1]
            clean = process.to_clean(answers[row, candidate, None], states[row, candidate, None], time)
            # Eta 1's mean by Bayes: the posterior of x_s given x_t and x0.
            (a_t, s_t), (a_s, s_s) = process.levels(time), process.levels(after.next_times[row : row + 1])
            r = a_t / a_s
            variance = 1 / (1 / s_s**2 + r**2 / (s_t**2 - r**2 * s_s**2))
            mean = variance * (a_s * clean / s_s**2 + r * after.noisy[row] / (s_t**2 - r**2 * s_s**2))
            z = (after.candidates[row] - mean) / variance.sqrt()
            assert z.mean().abs() < 0.15  # the next call's answer differs by 1: far off at these levels
            assert z.std().item() == pytest.approx(1, abs=0.1)
    assert len(set(chosen)) > 1


def test_the_candidate_that_goes_on_is_uniform(make_process, gaussian_network, normal) -> None:
    process, counts = make_process("flow"), torch.zeros(4)
    recorder = Recorder(process, gaussian_network(process, 0.3, 0.8), torch.zeros(50, dtype=torch.float64))
    rolled = recorder.roll(normal(50, 2), list(range(50)), steps=22, divert_start=0)
    for before, after in pairwise(rolled):
        counts += (before.candidates == after.noisy).all(2).sum(0)
    expected = 50 * 20 / 4
    assert counts.sum() == 1000
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi squared, 3 degrees: p = 0.001


@pytest.mark.parametrize("name", ["epsilon", "flow"])
def test_branching_samples_what_plain_sampling_does(name: str, make_process, gaussian_network, normal) -> None:
    """Whatever the judge prefers, the rollout stays on the policy: if the best went on, the mean would rise."""
    process, n = make_process(name), 400
    recorder = Recorder(process, gaussian_network(process, 2.0, 0.5), torch.zeros(n, dtype=torch.float64))
    grid = stochastic_grid(process, 20)
    start = process.corrupt(2.0 + 0.5 * normal(n, 8), normal(n, 8, seed=1), grid[:1].expand(n))
    recorder.roll(start, list(range(n)), steps=20)
    ours = recorder.judged[-1][0]
    *_, last = trajectory(recorder.predict, process, start, grid, generators_of(list(range(n))))
    plain = clean_estimate(recorder.predict, process, last.sample, last.next_times, torch.arange(n))
    assert ours.mean().item() == pytest.approx(plain.mean().item(), abs=0.03)
    assert ours.std().item() == pytest.approx(plain.std().item(), rel=0.05)


@pytest.mark.parametrize("inner_steps", [0, 2])
def test_a_rows_rollout_does_not_depend_on_its_company(inner_steps: int, recorder, normal) -> None:
    start, settings = normal(3, 8), {"k": 3, "divert_start": 1, "inner_steps": inner_steps}
    together = recorder.roll(start, [0, 1, 2], **settings)
    recorder.biases = recorder.biases[[2]]
    alone = recorder.roll(start[[2]], [2], **settings)
    for ours, theirs in zip(together, alone, strict=True):
        for name in ("noisy", "candidates", "scores"):
            torch.testing.assert_close(getattr(ours, name)[2:], getattr(theirs, name), **EXACT)
        assert (ours.winner[2], ours.loser[2], ours.valid[2]) == (theirs.winner[0], theirs.loser[0], theirs.valid[0])


def test_the_same_generators_give_the_same_rollout_and_others_another(recorder, normal) -> None:
    start = normal(3, 8)
    one, two, other = (recorder.roll(start, positions) for positions in ([0, 1, 2], [0, 1, 2], [3, 4, 5]))
    assert all(torch.equal(a.candidates, b.candidates) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a.candidates, b.candidates) for a, b in zip(one, other, strict=True))
    assert one[0].candidates[0].unique(dim=0).shape[0] == 4


def test_ordinary_steps_come_before_branching(recorder, normal) -> None:
    start, grid = normal(3, 8), stochastic_grid(recorder.process, 6)
    moves = list(trajectory(recorder.predict, recorder.process, start, grid[:4], generators_of([0, 1, 2])))
    branch = recorder.roll(start, [0, 1, 2], divert_start=3)[0]
    assert torch.equal(branch.noisy[:, 0], moves[-1].sample)
    assert torch.equal(branch.times, moves[-1].next_times)


def test_inner_steps_are_judged_together_at_their_end(stable_diffusion, gaussian_network, normal) -> None:
    """SDXL's setting: 16 steps after the first 4 are four verdicts of four transitions each, at k rows a step."""
    process = variance_preserving(stable_diffusion)
    recorder = Recorder(process, gaussian_network(process, 0.3, 0.8), torch.zeros(2, dtype=torch.float64))
    rolled = recorder.roll(normal(2, 8), [0, 1], steps=20, k=2, threshold=0.4, inner_steps=3)
    assert [times[0].item() for _, times, _ in recorder.judged] == [551, 351, 151, 0]
    assert [branch.times[0].item() for branch in rolled] == list(range(751, 0, -50))
    assert [len(noisy) for noisy, _, _ in recorder.asked] == [2] * 5 + [4] * 15
    assert [branch.noisy.shape[1] for branch in rolled] == [1, 2, 2, 2] * 4
    for first in range(0, 16, 4):
        stage = rolled[first : first + 4]
        assert all(torch.equal(branch.scores, stage[0].scores) for branch in stage)
        for before, after in pairwise(stage):
            assert torch.equal(before.candidates, after.noisy)
        clean_hat = recorder.judged[first // 4][0]
        torch.testing.assert_close(stage[0].scores, 10 * clean_hat.mean(1).view(2, 2), **EXACT)
        if first < 12:
            following = rolled[first + 4].noisy[:, 0]
            assert all((stage[-1].candidates[row] == following[row]).all(1).sum() == 1 for row in range(2))


def test_a_last_stage_cut_short_is_judged_at_the_end(make_process, gaussian_network, normal) -> None:
    recorder = only_recorder(make_process, gaussian_network, "epsilon")
    rolled = recorder.roll(normal(1, 8), [0], steps=10, k=2, divert_start=3, inner_steps=4)
    assert [branch.noisy.shape[1] for branch in rolled] == [1, 2, 2, 2, 2, 1, 2]
    assert [times[0].item() for _, times, _ in recorder.judged] == [101, 0]


@pytest.mark.parametrize("inner_steps", [0, 1])
def test_pairs_hold_winner_and_loser_of_valid_rows(inner_steps: int, recorder, normal) -> None:
    recorder.judge = lambda clean_hat, times, rows: torch.where(rows == 1, 5.0, 1e4 * clean_hat.mean(1))
    for branch in recorder.roll(normal(3, 8), [0, 1, 2], divert_start=1, inner_steps=inner_steps):
        assert branch.valid.tolist() == [True, False, True]
        pairs = branch.pairs()
        assert pairs.rows.tolist() == [0, 2]
        for pair, row in enumerate(pairs.rows.tolist()):
            for side, index in enumerate((branch.winner[row], branch.loser[row])):
                assert torch.equal(pairs.samples[pair, side], branch.candidates[row, index])
                if pairs.noisy.shape[1] == 2:
                    assert torch.equal(pairs.noisy[pair, side], branch.noisy[row, index])
                else:
                    assert torch.equal(pairs.noisy[pair, 0], branch.noisy[row, 0])
            assert (pairs.times[pair], pairs.next_times[pair]) == (branch.times[row], branch.next_times[row])
        assert branch.pairs(torch.tensor([2, 0])).rows.tolist() == [2, 0]


def test_policy_and_reference_that_are_one_have_errors_that_are_one(recorder, normal) -> None:
    """The likelihood ratio is 1 at the start; and pairs were drawn with unit noise, so errors are the entropy's."""
    total = []
    for branch in recorder.roll(normal(3, 500), [0, 1, 2], threshold=0.0, k=2, divert_start=0):
        pairs = branch.pairs(torch.arange(3))
        errors, again = (pair_errors(recorder.predict, pairs, recorder.process, 1.0) for _ in range(2))
        assert torch.equal(errors, again)
        (a_t, s_t), (a_s, s_s) = (recorder.process.levels(t) for t in (pairs.times, pairs.next_times))
        std = (s_s / s_t * (s_t**2 - (a_t / a_s) ** 2 * s_s**2).sqrt())[:, None]
        total.append(errors - std.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi)))
    # Half a squared normal: mean 1/2, spread over 500 elements 0.03 for each.
    assert (torch.stack(total) - 0.5).abs().max() < 0.15
    assert torch.stack(total).mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("threshold", "gap"), [(0.3, 0.61904), (0.4, 0.84730), (0.0, 0.0)])
def test_threshold_is_a_gap_of_scores(threshold: float, gap: float) -> None:
    scores = torch.tensor([[20.0, 20 + gap - 2e-5, 20.0], [20.0 + gap + 2e-5, 20.0, 20.0]], dtype=torch.float64)
    winner, loser, valid = extremes(scores, threshold)
    below = threshold > 0  # any gap passes threshold 0
    assert valid.tolist() == [not below, True]
    assert winner.tolist() == [1 if below else 0, 0]
    difference = scores[1].softmax(0) if scores.shape[1] == 2 else scores[1, :2].softmax(0)
    assert (difference[0] - difference[1]).item() == pytest.approx(threshold, abs=2e-5)
    assert loser[1] == 1


def test_ties_and_unknown_scores_are_no_pairs() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0], [float("nan"), 9.0, 0.0], [0.0, -9.0, 9.0], [9.0, float("nan"), 0.0]])
    winner, loser, valid = extremes(scores, 0.0)
    assert valid.tolist() == [False, False, True, False]
    assert (winner[2], loser[2]) == (2, 1)


def test_nothing_has_a_graph_and_the_callers_gradients_stay_on(make_process) -> None:
    process, weight = make_process("epsilon"), torch.tensor(0.5, requires_grad=True)
    start = torch.ones(2, 3, requires_grad=True)

    def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return weight * noisy

    def judge(clean_hat: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():  # a judge with a trainable part
            return clean_hat.mean(1) * weight

    grid = stochastic_grid(process, 4)
    for branch in branches(predict, process, judge, start, grid, generators_of([0, 1]), divert_start=0):
        assert (weight * 1.0).requires_grad
        tensors = [value for value in vars(branch).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == 8
        assert not any(tensor.requires_grad for tensor in tensors)
        errors = pair_errors(lambda x, t, rows: weight * x, branch.pairs(torch.arange(2)), process, 1.0)
        assert torch.autograd.grad(errors.sum(), weight)[0].isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": 0.0}, "eta is 0"),
        ({"eta": 1.5}, "eta must lie"),
        ({"k": 1}, "at least 2"),
        ({"threshold": 1.0}, "below 1"),
        ({"threshold": -0.1}, "below 1"),
        ({"divert_start": 6}, "of 6 stochastic steps take 0 to 5"),
        ({"divert_start": -1}, "0 to 5"),
        ({"inner_steps": -1}, "inner_steps is -1"),
    ],
)
def test_settings_that_make_no_pairs_are_a_users_error(
    settings: dict, message: str, make_process, gaussian_network, normal
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        only_recorder(make_process, gaussian_network, "epsilon").roll(normal(1, 4), [0], steps=6, **settings)
    assert "\n" not in str(raised.value)
