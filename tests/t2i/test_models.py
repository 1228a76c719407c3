"""Every family behind one contract: encode, predict, hold against the reference, save, open again without palate."""

import diffusers
import pytest
import torch

from palate.diffusion import generator_for, normal_noise
from palate.errors import UserError
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.family import Framing
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.policy import FullPolicy, LoraPolicy, LoraSettings, ReferenceSettings

PROMPTS = ["a photo of a red circle", "a photo of two crosses"]


@pytest.fixture(params=["sd1", "sd2", "sdxl", "sd3"])
def model(request, tiny_sd1, tiny_sd2):
    path = {"sd1": str(tiny_sd1), "sd2": str(tiny_sd2), "sdxl": "tiny-sdxl", "sd3": "tiny-sd3"}[request.param]
    found = TextToImageModel(find_checkpoint(path))
    assert found.family.name == request.param
    return found


def inputs(model):
    conditions = model.encode_prompts(PROMPTS) | model.family.size_conditions([Framing((32, 32), (0, 0), (32, 32))] * 2)
    latents = normal_noise((2, model.latent_shape[0], 8, 8), generator_for(0, 0))
    return latents, torch.tensor([10, 900]), conditions


def shake(policy) -> None:
    """Move the trained weights away from where they started."""
    generator = generator_for(1)
    for parameter in policy.network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def predict(model, network, given):
    return model.predict(network, *given)


def test_prediction_has_the_latents_shape(model):
    given = inputs(model)
    assert predict(model, model.network, given).shape == given[0].shape


def test_latents_are_scaled_to_about_unit_variance(model):
    pixels = torch.rand(4, 3, 32, 32, generator=generator_for(0)) * 2 - 1
    mean, std = model.encode_images(pixels)
    assert mean.shape == (4, model.latent_shape[0], 8, 8)
    assert 0 < std.mean() < 1
    config = model.vae.config
    raw = model.vae.encode(pixels).latent_dist.mean
    assert torch.allclose(mean, (raw - (config.shift_factor or 0)) * config.scaling_factor)


def test_decoding_gives_back_the_picture(model, shape_groups):
    from palate.t2i.framing import View, frame

    pixels = torch.stack([frame(group.candidates[1], 32, View())[0] for group in shape_groups(4)])
    mean, _ = model.encode_images(pixels)
    import numpy as np

    restored = np.stack([np.asarray(picture) for picture in model.decode(mean)]) / 127.5 - 1
    assert np.square(restored - pixels.permute(0, 2, 3, 1).numpy()).mean() < 0.02


def test_lora_starts_as_its_reference_and_the_reference_stays(model):
    given = inputs(model)
    base = predict(model, model.network, given)
    policy = LoraPolicy(model.network, model.checkpoint, LoraSettings(rank=4))
    assert torch.equal(predict(model, policy.network, given), base)
    shake(policy)
    moved = predict(model, policy.network, given)
    assert not torch.allclose(moved, base)
    with policy.reference() as network:
        assert torch.equal(predict(model, network, given), base)
    assert torch.equal(predict(model, policy.network, given), moved)


def test_lora_weights_are_float32_on_a_bfloat16_network(tiny_sd1):
    model = TextToImageModel(find_checkpoint(str(tiny_sd1)), torch.bfloat16)
    policy = LoraPolicy(model.network, model.checkpoint, LoraSettings(rank=4))
    trained = {p.dtype for p in policy.network.parameters() if p.requires_grad}
    frozen = {p.dtype for p in policy.network.parameters() if not p.requires_grad}
    assert (trained, frozen) == ({torch.float32}, {torch.bfloat16})


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_a_saved_lora_opens_with_load_lora_weights(model, tmp_path, alpha):
    given = inputs(model)
    policy = LoraPolicy(model.network, model.checkpoint, LoraSettings(rank=4, alpha=alpha))
    shake(policy)
    moved = predict(model, policy.network, given)
    policy.save(tmp_path)
    pipeline = getattr(diffusers, model.family.pipeline).from_pretrained(model.checkpoint.path)
    pipeline.load_lora_weights(tmp_path)
    assert torch.allclose(predict(model, getattr(pipeline, model.family.network), given), moved, atol=1e-5)


def test_full_tuning_trains_every_weight_against_a_frozen_copy(model, tmp_path):
    given = inputs(model)
    base = predict(model, model.network, given)
    policy = FullPolicy(model.network, model.checkpoint, ReferenceSettings())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in policy.network.parameters())
    shake(policy)
    moved = predict(model, policy.network, given)
    with policy.reference() as network:
        assert torch.equal(predict(model, network, given), base)
    policy.save(tmp_path)
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert torch.allclose(predict(model, getattr(again, model.family.network), given), moved, atol=1e-5)


def test_the_reference_copy_may_be_in_lower_precision(tiny_sd1):
    model = TextToImageModel(find_checkpoint(str(tiny_sd1)))
    policy = FullPolicy(model.network, model.checkpoint, ReferenceSettings(dtype="bfloat16"))
    with policy.reference() as network:
        assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
        assert not any(p.requires_grad for p in network.parameters())


def test_v_prediction_checkpoints_get_the_v_target(tiny_sd2):
    process = TextToImageModel(find_checkpoint(str(tiny_sd2))).process
    clean, noise = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    time = torch.tensor([500])
    _, sigma = process.alpha_sigma(time, clean)
    assert torch.allclose(process.target(clean, noise, time), -sigma * clean)


def test_an_empty_prompt_is_what_the_sampler_takes_as_unconditional():
    model = TextToImageModel(find_checkpoint("tiny-sdxl"))
    empty = model.encode_prompts([""])
    assert all((tensor == 0).all() for tensor in empty.values())  # force_zeros_for_empty_prompt


def test_sdxl_is_told_each_pictures_own_size_and_crop():
    model = TextToImageModel(find_checkpoint("tiny-sdxl"))
    framings = [Framing((1024, 768), (16, 0), (512, 512)), Framing((64, 32), (0, 0), (512, 512))]
    ids = model.family.size_conditions(framings)["time_ids"]
    assert ids.tolist() == [[1024, 768, 16, 0, 512, 512], [64, 32, 0, 0, 512, 512]]


def test_parts_are_loaded_when_used_and_freed_when_told():
    model = TextToImageModel(find_checkpoint("tiny-sd3"))
    assert not {"text", "vae", "network"} & vars(model).keys()
    model.encode_prompts(["a photo of a circle"])
    assert {"text", "vae", "network"} & vars(model).keys() == {"text"}
    model.free("text")
    assert "text" not in vars(model)


def test_long_prompts_are_counted():
    model = TextToImageModel(find_checkpoint("tiny-sd3"))
    assert model.count_truncated(["a photo of a circle", "circle " * 40, ""]) == 1


def test_lora_targets_that_match_nothing_are_named(tiny_sd1):
    model = TextToImageModel(find_checkpoint(str(tiny_sd1)))
    with pytest.raises(UserError, match="no layer of unet matches \\['nowhere'\\]"):
        LoraPolicy(model.network, model.checkpoint, LoraSettings(targets=("nowhere",)))
