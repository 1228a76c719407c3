from __future__ import annotations

import pytest
import torch

from palate.diffusion import guided, sample


def test_guidance_is_u_plus_scale_times_the_difference() -> None:
    predict = guided(lambda x, t: 3 * x, lambda x, t: x + t[:, None], 5.0)
    # u = 2 + 10 = 12, c = 6: 12 + 5 * (6 - 12) = -18
    assert predict(torch.full((2, 3), 2.0), torch.tensor([10, 10])).tolist() == [[-18.0] * 3] * 2


def test_scale_one_never_calls_the_unconditional_network() -> None:
    def forbidden(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called")

    assert guided(lambda x, t: 2 * x, forbidden, 1.0)(torch.ones(1, 2), torch.zeros(1)).tolist() == [[2.0, 2.0]]
    with pytest.raises(AssertionError, match="called"):
        guided(lambda x, t: 2 * x, forbidden, 1.01)(torch.ones(1, 2), torch.zeros(1))


def test_half_precision_is_not_rounded_again() -> None:
    c, u = torch.tensor([[1.0078125]]).bfloat16(), torch.tensor([[1.0]]).bfloat16()  # neighbours in bfloat16
    guided_once = guided(lambda: c, lambda: u, 1.5)()
    assert guided_once.dtype == torch.float32
    assert guided_once.item() == 1 + 1.5 * 2**-7


@pytest.mark.parametrize("name", ["epsilon", "v_prediction", "flow"])
def test_guidance_sampler_lands_where_the_algebra_says(name: str, make_process, normal) -> None:
    """Two networks that each know a clean sample: guided, they know x0 = u + scale (c - u)."""
    process, c, u = make_process(name), normal(2, 4), normal(2, 4, seed=1)

    def knowing(clean: torch.Tensor):
        def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            alpha, sigma = process.alpha_sigma(times, noisy)
            p, q = process.target_weights(alpha, sigma)
            return p * clean + q * (noisy - alpha * clean) / sigma

        return predict

    drawn = sample(guided(knowing(c), knowing(u), 3.0), process, normal(2, 4, seed=2), 5)
    torch.testing.assert_close(drawn, u + 3 * (c - u), rtol=1e-8, atol=1e-8)


def test_gradients_reach_both_networks() -> None:
    c, u = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    guided(lambda: c, lambda: u, 5.0)().sum().backward()
    assert c.grad is not None
    assert u.grad is not None
    assert (c.grad.tolist(), u.grad.tolist()) == ([5.0, 5.0], [-4.0, -4.0])
