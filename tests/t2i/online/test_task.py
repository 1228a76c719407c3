"""What the loop relies on: parts, one graph at a time, randomness by position, and failures that cost nothing."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from accelerate import Accelerator

from palate.errors import PalateError
from palate.t2i.online import stepwise, trajectories
from palate.training.meter import Meter
from palate.training.task import TaskInParts

METHODS = ("spo", "d3po")


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


def gradients(task) -> list[torch.Tensor]:
    return [p.grad for p in task.network.parameters() if p.grad is not None]


class Kept:
    """A tensor that a graph holds for its backward pass."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_each_parts_graph_is_gone_before_the_next_is_made(method, recipe_for, task_for, batch_of):
    task = task_for(recipe_for("tiny-sdxl", method))
    assert isinstance(task, TaskInParts)
    kept: list[weakref.ref[Kept]] = []

    def keep(tensor: torch.Tensor) -> Kept:
        held = Kept(tensor)
        if tensor.ndim > 1:  # an activation
            kept.append(weakref.ref(held))
        return held

    losses, left, made = task.losses(batch_of(task, [0, 1])), [], []
    policy = task.network.forward

    def forward(*inputs, **named):  # in the rollout and in the next loss
        left.append(sum(held() is not None for held in kept) if torch.is_grad_enabled() else 0)
        return policy(*inputs, **named)

    task.network.forward = forward
    for _ in range(task.parts):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda held: held.tensor):
            loss, _metrics = next(losses)
        made.append(sum(held() is not None for held in kept))
        loss.backward()
        del loss
        assert sum(held() is not None for held in kept) == 0
    assert next(losses, None) is None
    assert min(made) > 0
    # Guidance asks the policy twice in a part: before the first answer nothing is held.
    assert left.count(0) >= task.parts


def test_a_steps_graphs_take_as_many_bytes_as_one_parts_whatever_the_number_of_parts(
    method, recipe_for, task_for, batch_of
):
    peaks = {}
    for steps in (4, 12):
        task = task_for(recipe_for("tiny-sdxl", method, method={"steps": steps}))
        held, peak = 0, 0

        def keep(tensor: torch.Tensor) -> Kept:
            nonlocal held, peak
            kept = Kept(tensor)
            held += tensor.nbytes
            peak = max(peak, held)
            weakref.finalize(kept, let_go, tensor.nbytes)
            return kept

        def let_go(count: int) -> None:
            nonlocal held
            held -= count

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
            for loss, _metrics in task.losses(batch_of(task, [0, 1])):
                loss.backward()
                del loss
        peaks[task.parts] = peak
    few, many = sorted(peaks)
    assert many >= 2 * few
    assert peaks[many] == pytest.approx(peaks[few], rel=0.01)


def test_the_rollout_has_no_graph_and_the_losses_move_every_trained_weight(
    path, method, recipe_for, task_for, batch_of
):
    task = task_for(recipe_for(path, method))
    for loss, metrics in task.losses(batch_of(task, [0, 1, 2])):
        loss.backward()
        assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
    trained = [p for p in task.network.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert max(gradient.abs().max().item() for gradient in gradients(task)) > 0


def test_a_prompts_losses_do_not_depend_on_its_company_nor_on_how_much_is_asked_at_once(
    method, recipe_for, task_for, batch_of
):
    changes = {"rollout_batch": 1}
    alone = task_for(recipe_for("tiny-sdxl", method, method=changes))
    parts = [[loss.item() for loss, _ in alone.losses(batch_of(alone, [number]))] for number in (0, 3)]
    together = task_for(recipe_for("tiny-sdxl", method))
    losses = [loss.item() for loss, _ in together.losses(batch_of(together, [3, 0]))]
    if method == "spo":
        assert losses == pytest.approx([(a + b) / 2 for a, b in zip(*parts, strict=True)], rel=1e-3)
    assert sum(losses) == pytest.approx(sum(map(sum, parts)) / 2, rel=1e-3)


def test_the_same_position_draws_the_same_and_another_one_something_else(method, recipe_for, task_for, batch_of):
    task = task_for(recipe_for("tiny-sd3", method))
    first, again = (task.loss(batch_of(task, [0]))[0].item() for _ in range(2))
    assert first == again
    other = task.loss({**batch_of(task, [0]), "positions": [17]})[0].item()
    assert other != first


def test_the_judge_sees_decoded_estimates_with_their_times(recipe_for, task_for, batch_of):
    changes = {"steps": 5, "k": 3, "divert_start": 1}
    task = task_for(recipe_for("tiny-sdxl", "spo", method=changes))
    list(task.losses(batch_of(task, [0, 2])))
    grid = [801, 601, 401, 201, 1, 0]
    assert [times.unique().tolist() for _, _, times, _ in task.judge.asked] == [[time] for time in grid[2:]]
    for prompts, pixels, _, _ in task.judge.asked:
        assert prompts == [task.prompts[0]] * 3 + [task.prompts[2]] * 3
        assert pixels.shape == (6, 3, task.resolution, task.resolution)
        assert pixels.min() < pixels.max()
    task = task_for(recipe_for("tiny-sd3", "d3po"))
    list(task.losses(batch_of(task, [0, 2])))
    assert [times.unique().tolist() for _, _, times, _ in task.judge.asked] == [[0]]


def test_scale_makes_logits_of_scores(recipe_for, task_for, batch_of):
    """Scores 0 and 0.3: at scale 1 the probabilities differ by tanh(0.15) = 0.149, at 10 by tanh(1.5) = 0.905."""
    shares = []
    for scale in (1.0, 10.0):
        task = task_for(
            recipe_for("tiny-sdxl", "spo", method={"k": 2, "threshold": 0.5, "scale": scale}),
            rule=lambda pixels: 0.3 * (torch.arange(len(pixels)) % 2),
        )
        parts = list(task.method.rollout(task._scene(batch_of(task, [0, 1]))))
        shares.append({part.share for part in parts})
        assert parts[0].scores.flatten().tolist() == pytest.approx([0.0, 0.3, 0.0, 0.3])  # in the judge's own unit
    assert shares == [{0.0}, {1.0}]


def test_d3po_takes_the_steps_of_each_prompt_in_an_order_of_its_own(recipe_for, task_for, batch_of):
    """As its code does. The orders follow from the positions."""
    task = task_for(recipe_for("tiny-sdxl", "d3po", method={"steps": 8}))
    seen: dict[int, list[int]] = {0: [], 1: []}

    def watched(noisy, times, rows):
        for row in (0, 1):
            seen[row].append(int(times[rows == row][0]))
            assert len(times[rows == row].unique()) == 1
        return torch.zeros_like(noisy)

    for part in task.method.rollout(task._scene(batch_of(task, [0, 2]))):
        part.errors(watched)
    falling = [sorted(times, reverse=True) for times in seen.values()]
    assert falling[0] == falling[1]
    assert seen[0] != falling[0]
    assert seen[1] != falling[1]
    assert seen[0] != seen[1]


def test_no_pair_is_no_loss(method, recipe_for, task_for, batch_of):
    task = task_for(recipe_for("tiny-sdxl", method), rule=lambda pixels: torch.ones(len(pixels)))
    metrics = []
    for loss, numbers in task.losses(batch_of(task, [0, 1])):
        loss.backward()  # there is a graph all the same: other processes wait for this one's gradients
        assert loss.item() == 0
        metrics.append(numbers)
    assert len(metrics) == task.parts
    assert max(gradient.abs().max().item() for gradient in gradients(task)) == 0
    assert metrics[-1]["valid_pairs"].item() == 0
    assert metrics[-1]["reward"].item() == 1
    assert math.isnan(metrics[-1]["margin"].item())


def test_the_loops_mean_over_parts_is_the_mean_over_pairs(method, recipe_for, task_for, batch_of):
    task = task_for(recipe_for("tiny-sdxl", method, method={"threshold": 0.4} if method == "spo" else {}))
    _, metrics = task.loss(batch_of(task, [0, 1, 2]))
    margins, shares = [], []
    batch, objective = batch_of(task, [0, 1, 2]), task.method.objective

    def watched(policy, reference, labels):
        gain = reference - policy.detach()
        margins.append(gain[:, 0] - gain[:, 1])
        return objective(policy, reference, labels)

    object.__setattr__(task.method, "objective", watched)
    for part in task.method.rollout(task._scene(batch)):
        shares.append(part.share)
        task._loss(part, batch["conditions"], tally=Counted())
    counted = [margin for margin, share in zip(margins, shares, strict=True) if share]
    assert metrics["margin"].item() == pytest.approx(torch.cat(counted).mean().item(), rel=1e-4)
    assert metrics["valid_pairs"].item() == pytest.approx(sum(shares) / task.parts)
    assert metrics["unscored"].item() == 0


def test_what_a_micro_batch_has_nothing_of_it_does_not_pull_towards_zero(method, recipe_for, task_for, batch_of):
    """The log shows the same with a micro-batch that no judge can score and without it."""
    task = task_for(recipe_for("tiny-sdxl", method))
    ask, logged = task.judge.ask, []
    for batches in ([[0, 1]], [[0, 1], [2]]):
        meter = Meter()
        for numbers in batches:
            silent = lambda prompts, pixels, *others: torch.full((len(pixels),), torch.nan)  # noqa: E731
            task.judge.ask = silent if numbers == [2] else ask
            for loss, metrics in task.losses(batch_of(task, numbers)):
                meter.micro_batch(loss, metrics)
        meter.step(torch.ones(()))
        (row,) = meter.collect(Accelerator(cpu=True))
        logged.append(row)
    known = {name: logged[0][name] for name in ("accuracy", "gradient_factor", "margin", "reward")}
    assert {name: logged[1][name] for name in known} == pytest.approx(known)
    assert known["gradient_factor"] == pytest.approx(0.5, abs=0.05)
    assert logged[1]["loss"] == pytest.approx(logged[0]["loss"] / 2)
    assert logged[1]["unscored"] == pytest.approx(0.5)


class Counted:
    """A tally that keeps nothing."""

    def add(self, *args) -> None:
        pass


def half_blind(pixels: torch.Tensor) -> torch.Tensor:
    scores = 50 * (pixels[:, 0] - pixels[:, 2]).mean((1, 2))
    scores[0] = torch.nan
    return scores


def test_a_picture_without_a_score_is_left_out_and_counted(method, recipe_for, task_for, batch_of):
    task = task_for(recipe_for("tiny-sdxl", method), rule=half_blind)
    shares = []
    for part in task.method.rollout(task._scene(batch_of(task, [0, 1]))):
        shares.append(part.share)
    # SPO: a prompt with an unknown candidate has no pair. D3PO: of 2 x 3 pairs those 2 of the unknown picture are lost.
    assert shares == pytest.approx([0.5 if method == "spo" else 4 / 6] * task.parts)
    _, metrics = task.loss(batch_of(task, [0, 1]))
    assert metrics["unscored"].item() == pytest.approx(1 / 6)
    assert metrics["reward"].isfinite()


def test_broken_latents_are_left_out(method, recipe_for, task_for, batch_of, monkeypatch):
    """States that are no numbers must not spoil the step of the others, nor a step where there is nothing else."""
    task = task_for(recipe_for("tiny-sdxl", method))
    module = stepwise if method == "spo" else trajectories
    noise = module.normal_noise

    def broken(shape, generators):
        drawn = noise(shape, generators)
        drawn[: len(drawn) // (1 if len(drawn) in (1, 3) else 2)] = torch.nan  # the first prompt's
        return drawn

    monkeypatch.setattr(module, "normal_noise", broken)
    for numbers, unscored in (([0, 1], 0.5), ([0], 1.0)):
        metrics = []
        for loss, counted in task.losses(batch_of(task, numbers)):
            loss.backward()
            assert loss.isfinite()
            metrics.append(counted)
        assert metrics[-1]["unscored"].item() == pytest.approx(unscored)
        assert all(gradient.isfinite().all() for gradient in gradients(task))
    assert max(gradient.abs().max().item() for gradient in gradients(task)) > 0


def test_a_judge_that_never_gives_a_score_ends_the_run(recipe_for, task_for, batch_of):
    task = task_for(recipe_for("tiny-sdxl", "spo", method={"steps": 2}), lambda p: torch.full((len(p),), torch.nan))
    for _ in range(9):
        list(task.losses(batch_of(task, [0])))
    with pytest.raises(PalateError, match=r"judge fake has given no score.* 10 micro-batches.*no finite"):
        list(task.losses(batch_of(task, [0])))
    task.judge.ask = lambda prompts, pixels, times, failures: torch.ones(len(pixels))
    task._silent = 9
    list(task.losses(batch_of(task, [0])))
    assert task._silent == 0


def test_candidates_go_on_with_the_answers_that_they_were_judged_by(recipe_for, task_for, batch_of, monkeypatch):
    """SPO asks for k rows a step and not k + 1, and for none at time 0; each time with the prompt and without."""
    task = task_for(recipe_for("tiny-sdxl", "spo", method={"steps": 5, "divert_start": 1, "k": 3}))
    predict, rollout, learned = task.model.predict, [], []

    def counted(network, noisy, times, conditions):
        (learned if torch.is_grad_enabled() else rollout).append(len(noisy))
        return predict(network, noisy, times, conditions)

    monkeypatch.setattr(task.model, "predict", counted)
    parts = sum(1 for _ in task.losses(batch_of(task, [0, 1])))
    pairs = learned[::2]
    assert len(pairs) == parts == 4  # t = 601, 401, 201 and 1
    assert pairs == learned[1::2] == [2, 2, 2, 2]  # a threshold of 0: every prompt has a pair, from one state
    assert sum(rollout) == 2 * (2 + 2 + 3 * 2 * 3) + sum(learned)  # the reference's rows are as many as the policy's
