"""Corruptions: what they draw follows from seed and position alone, and what they make is the process, row by row."""

import pytest
import torch

from palate.diffusion import denoising_error, rectified_flow, variance_preserving
from palate.diffusion.corruption import ForwardNoise, InvertedNoise, SourceNoise
from palate.errors import UserError

SHAPE = (4, 8, 8)
FLOW = rectified_flow()
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
VP = variance_preserving(SCHEDULE)
V = variance_preserving({**SCHEDULE, "prediction_type": "v_prediction"})
PROCESSES = {"flow": FLOW, "epsilon": VP, "v": V}
CORRUPTIONS = {
    "shared": ForwardNoise(),
    "own noise": ForwardNoise(shared_noise=False),
    "own noise and time": ForwardNoise(shared_noise=False, shared_times=False),
    "source": SourceNoise(),
    "inverted": InvertedNoise(steps=3),
}
SOURCES = (11, 12, 13)


def never(noisy, times):
    raise AssertionError("the network is not asked")


def clean_groups(groups=3, k=2):
    return torch.randn(groups, k, *SHAPE, generator=torch.Generator().manual_seed(0))


def batch(corruption, process, groups=3, k=2, seed=0):
    drawn = [corruption.draw(process, seed, position, SHAPE, SOURCES[:k]) for position in range(groups)]
    return {name: torch.stack([draws[name] for draws in drawn]) for name in drawn[0]}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_follow_from_seed_and_position_alone(name):
    corruption = CORRUPTIONS[name]
    first, again = (corruption.draw(FLOW, 3, 7, SHAPE, SOURCES) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    for other in (corruption.draw(FLOW, 3, 8, SHAPE, SOURCES), corruption.draw(FLOW, 4, 7, SHAPE, SOURCES)):
        same = {key for key in first if torch.equal(first[key], other[key])}
        assert same == ({"noise"} if name == "source" else set())


def test_a_shared_noise_is_drawn_once_and_is_the_first_of_separate_ones():
    shared, own = (ForwardNoise(shared).draw(VP, 0, 5, SHAPE, SOURCES) for shared in (True, False))
    assert shared["noise"].shape == (1, *SHAPE)
    assert own["noise"].shape == (3, *SHAPE)
    assert shared["times"].shape == own["times"].shape == (1,)
    assert torch.equal(shared["noise"][0], own["noise"][0])
    assert not torch.equal(own["noise"][0], own["noise"][1])


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", ["shared", "own noise", "own noise and time", "source"])
def test_forward_corruption_is_row_by_row_the_process(process, name):
    clean, draws = clean_groups(), batch(CORRUPTIONS[name], process)
    noisy, target, times = CORRUPTIONS[name].apply(process, clean, draws, never)
    for group in range(3):
        for candidate in range(2):
            row = 2 * group + candidate
            noise = draws["noise"][group, candidate % draws["noise"].shape[1]][None]
            time = draws["times"][group, candidate % draws["times"].shape[1]][None]
            x0 = clean[group, candidate][None]
            assert times[row] == time
            assert torch.equal(noisy[row], process.corrupt(x0, noise, time)[0])
            assert torch.equal(target[row], process.target(x0, noise, time)[0])


def test_times_of_their_own_differ_within_a_group():
    times = batch(CORRUPTIONS["own noise and time"], FLOW)["times"]
    assert times.shape == (3, 2)
    assert (times[:, 0] != times[:, 1]).all()


def test_source_noise_is_what_a_generator_with_the_seed_starts_from():
    noise = SourceNoise().draw(FLOW, 0, 0, SHAPE, (5, 9))["noise"]
    for row, seed in zip(noise, (5, 9), strict=True):
        assert torch.equal(row, torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(seed))[0])
    with pytest.raises(UserError, match="seed is unknown"):
        SourceNoise().draw(FLOW, 0, 0, SHAPE, (5, None))


def linear(noisy, times):
    return 0.3 * noisy + 0.1


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("eta", [0.0, 0.1])
def test_an_inverted_latent_at_its_time_holds_the_right_picture(process, eta):
    """x_t = alpha x0 + sigma tau with the implied tau, and the target is that tau's."""
    corruption = InvertedNoise(steps=3, eta=eta)
    clean, draws = clean_groups(), batch(corruption, process)
    noisy, target, times = corruption.apply(process, clean, draws, linear)
    assert torch.equal(times, draws["times"].expand(3, 2).flatten())
    flat = clean.flatten(0, 1)
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in process.levels(times))
    implied = (noisy.double() - alpha * flat.double()) / sigma
    p, q = (weight.view(-1, 1, 1, 1) for weight in process.target_weights(*process.levels(times)))
    torch.testing.assert_close(target.double(), p * flat.double() + q * implied, rtol=2e-4, atol=2e-4)
    recovered = process.to_clean(target, noisy, times)
    torch.testing.assert_close(recovered, flat, rtol=1e-3, atol=1e-3)


def test_inversion_is_batched_counts_its_calls_and_does_not_depend_on_company():
    calls = []

    def counted(noisy, times):
        calls.append(len(noisy))
        assert not torch.is_grad_enabled()
        return linear(noisy, times)

    corruption = InvertedNoise(steps=4, corrections=1)
    clean, draws = clean_groups(), batch(corruption, VP)
    noisy, _, _ = corruption.apply(VP, clean, draws, counted)
    assert calls == [6] * corruption.calls
    assert corruption.calls == 8
    alone, _, _ = corruption.apply(VP, clean[1:2], {name: rows[1:2] for name, rows in draws.items()}, linear)
    torch.testing.assert_close(alone, noisy[2:4], rtol=1e-6, atol=1e-6)


def test_the_noise_of_eta_is_the_samplers_own():
    """With one step from the clean end, what eta adds is eta times the standard deviation of q(x_0 | x_t, x0) = 0."""
    corruption = InvertedNoise(steps=1, eta=1.0)
    clean, draws = clean_groups(), batch(corruption, VP)
    with_noise, _, _ = corruption.apply(VP, clean, draws, linear)
    without, _, _ = InvertedNoise(steps=1, eta=0.0).apply(VP, clean, {"times": draws["times"]}, linear)
    torch.testing.assert_close(with_noise, without)
    two = InvertedNoise(steps=2, eta=0.5)
    drawn = batch(two, VP)
    noisy, _, times = two.apply(VP, clean, drawn, lambda noisy, times: torch.zeros_like(noisy))
    # Two steps whose predicted noise is 0: x is scaled by alpha, and each step adds its own share.
    lower = (VP.clean_time + (times - VP.clean_time) * 0.5).round().long()
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    low, high = abar[lower.clamp(min=0)], abar[times]
    variance = (1 - low) / (1 - high) * (1 - high / low)
    added = 0.5 * variance.sqrt().view(-1, 1, 1, 1) * drawn["noise"].flatten(0, 1)[:, 1].double()
    expected = high.sqrt().view(-1, 1, 1, 1) * clean.flatten(0, 1).double() + added
    torch.testing.assert_close(noisy.double(), expected, rtol=1e-4, atol=1e-4)


def test_corrections_are_renoises_which_take_the_mean():
    """Two steps on the flow, each with the mean of the velocities at its lower and at its tentative upper end."""

    def network(noisy, times):
        return torch.sin(noisy + 0.003 * times.to(noisy).view(-1, 1, 1, 1))

    corruption = InvertedNoise(steps=2, eta=0.0, corrections=1)
    clean, draws = clean_groups(), batch(corruption, FLOW)
    noisy, _, times = corruption.apply(FLOW, clean, draws, network)
    x, half = clean.flatten(0, 1).double(), times.double() / 2
    step = (half / 1000).view(-1, 1, 1, 1)
    for lower in (0 * half, half):
        first = network(x, lower)
        x = x + step * (first + network(x + step * first, lower + half)) / 2
    torch.testing.assert_close(noisy.double(), x, rtol=1e-5, atol=1e-5)


def test_an_inverted_latent_is_easier_for_the_network_that_made_it():
    """What InPO is after: the implied noise is what the network itself would say, so its error is small."""

    def network(noisy, times):
        return 0.9 * noisy

    clean, corruption = clean_groups(8), InvertedNoise(steps=8, eta=0.0)
    noisy, target, _ = corruption.apply(VP, clean, batch(corruption, VP, groups=8), network)
    inverted = denoising_error(network(noisy, None), target)
    noisy, target, _ = ForwardNoise().apply(VP, clean, batch(ForwardNoise(), VP, groups=8), never)
    assert inverted.mean() < denoising_error(network(noisy, None), target).mean()
