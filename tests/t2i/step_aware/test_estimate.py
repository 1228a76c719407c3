"""Clean estimates against the formulas, in float64, and the times that the preference model is told."""

import pytest
import torch

from palate.diffusion import generator_for, rectified_flow, variance_preserving
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.family import Framing
from palate.t2i.models.model import TextToImageModel
from palate.t2i.step_aware.estimate import clean_estimates, decode_pixels, thousandths, time_at, uniform_times

BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.fixture(scope="module", params=["tiny-sdxl", "tiny-sd3"])
def model(request) -> TextToImageModel:
    return TextToImageModel(find_checkpoint(request.param))


@pytest.mark.parametrize("guidance", [5.0, 1.0, 0.0])
def test_the_estimate_is_one_guided_step_to_the_clean_end(model, guidance):
    whole = Framing((64, 64), (0, 0), (64, 64))
    sizes = model.family.size_conditions([whole] * 2)
    with_prompt = model.encode_prompts(["a red circle", "two blue squares"]) | sizes
    without = model.encode_prompts(["", ""]) | sizes
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([151, 801])
    with torch.no_grad():
        c, u = (model.predict(model.network, noisy, times, each).double() for each in (with_prompt, without))
    assert (c - u).abs().max() > 1e-3
    prediction = (u + guidance * (c - u)).double()
    if model.family.name == "sd3":
        t = (times.double() / 1000)[:, None, None, None]
        wanted = noisy - t * prediction
    else:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        kept = (1 - betas).cumprod(0)[times][:, None, None, None]
        wanted = (noisy - (1 - kept).sqrt() * prediction) / kept.sqrt()
    got = clean_estimates(model, noisy, times, with_prompt, without, guidance)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-3)


def test_pixels_are_the_pictures_that_the_model_decodes_and_know_no_company(model):
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    pixels = decode_pixels(model, latents)
    assert pixels.shape == (3, 3, 64, 64) or pixels.shape[-1] == 16 * model.latent_shape[1]
    for picture, tensor in zip(model.decode(latents), pixels.clamp(0, 1), strict=True):
        levels = torch.tensor(list(picture.tobytes())).view(*tensor.shape[1:], 3).permute(2, 0, 1)
        assert (levels / 255 - tensor).abs().max() <= 0.5 / 255 + 1e-6
    torch.testing.assert_close(decode_pixels(model, latents[1:2])[0], pixels[1], rtol=0, atol=1e-5)
    wild = decode_pixels(model, 20 * latents)  # not cut: it is resized first, and then clamped
    assert wild.min() < 0 or wild.max() > 1


def test_times_are_thousandths_of_any_process():
    short = variance_preserving({**BETAS, "num_train_timesteps": 500, "prediction_type": "epsilon"})
    assert thousandths(short, torch.tensor([-1, 0, 125, 499])).tolist() == [0, 0, 250, 998]
    assert [time_at(short, at).tolist() for at in (0, 251, 951, 1000)] == [[-1], [126], [476], [499]]
    whole = variance_preserving({**BETAS, "num_train_timesteps": 1000, "prediction_type": "epsilon"})
    assert [int(time_at(whole, at)) for at in (0, 251, 501, 701, 951)] == [-1, 251, 501, 701, 951]
    assert time_at(whole, 251).dtype == torch.int64
    flow = rectified_flow(shift=3.0)
    assert [float(time_at(flow, at)) for at in (0, 251, 1000)] == [0, 251, 1000]
    assert thousandths(flow, torch.tensor([0.0, 12.5])).tolist() == [0, 12.5]


def test_training_times_are_uniform(model):
    times = uniform_times(model).draw_times(4000, generator_for(0, 0)).double()
    # A logit-normal would have 1.4 % below a tenth, not 10 %.
    for tenth in range(10):
        share = ((times >= 100 * tenth) & (times < 100 * (tenth + 1))).double().mean()
        assert share == pytest.approx(0.1, abs=0.02)
    assert times.min() >= 0
    assert times.max() <= 1000
