"""The built-in architectures, built at full size on the meta device."""

import pytest
import torch

from palate.diffusion import rectified_flow_from_config, variance_preserving
from palate.diffusion.variance_preserving import CLEAN_TIME
from palate.errors import UserError
from palate.t2i.models.architectures import ARCHITECTURES, architecture_at_hand, find_architecture, read_architecture
from palate.t2i.models.checkpoint import FAMILIES, Checkpoint, find_checkpoint
from palate.t2i.models.meta import (
    build_network,
    build_text_encoders,
    build_vae,
    count_parameters,
    family_of,
    make_inputs,
)
from palate.t2i.models.policy import LoraPolicy, LoraSettings
from palate.t2i.models.sides import latent_shape
from palate.training.counting import count_forward

MILLION = 1e6
# Published: UNets and transformers by their model cards and papers; the exact counts are those of the state dicts.
NETWORKS = {
    "sd1.5": 859.520964,
    "sd2.1": 865.910724,
    "sd2.1-base": 865.910724,
    "sdxl": 2567.463684,
    "sd3-medium": 2028.328000,
    "sd3.5-medium": 2243.171520,
    "sd3.5-large": 8056.627520,
    "flux-dev": 11901.408320,
}
ADAPTERS = {"sd1.5": 3.188736, "sdxl": 23.224320, "sd3-medium": 9.388032}
FORWARD_TFLOPS = {"sd1.5": 0.80, "sdxl": 6.76, "sd3-medium": 8.44, "sd3.5-medium": 10.8}  # an image, sd3 at 154 tokens


@pytest.fixture(scope="module")
def networks():
    built = {}

    def get(name):
        if name not in built:
            built[name] = build_network(ARCHITECTURES[name], torch.bfloat16)
        return built[name]

    return get


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_have_the_published_number_of_weights(networks, name):
    assert count_parameters(networks(name)) / MILLION == pytest.approx(NETWORKS[name], abs=1e-6)


@pytest.mark.parametrize("name", ["sd1.5", "sd2.1", "sdxl", "sd3-medium", "sd3.5-medium"])
def test_predict_returns_what_it_was_given_and_costs_the_known_flops(networks, name):
    architecture = ARCHITECTURES[name]
    noisy, times, conditions = make_inputs(architecture, 2, architecture.resolution, torch.bfloat16)
    if architecture.family == "sd3":
        conditions["hidden"] = conditions["hidden"][:, :154]
    shapes = []

    def run():
        prediction = family_of(architecture).predict(networks(name), noisy, times, conditions)
        shapes.append(prediction.shape)
        return prediction

    flops = count_forward(run).flops_forward / 2 / 1e12
    assert shapes == [noisy.shape]
    if name in FORWARD_TFLOPS:
        assert flops == pytest.approx(FORWARD_TFLOPS[name], rel=0.006)


@pytest.mark.parametrize("name", ["sd1.5", "sdxl", "sd3-medium"])
def test_lora_finds_every_attention_projection(name):
    architecture = ARCHITECTURES[name]
    network = build_network(architecture, torch.bfloat16)
    linears = {path for path, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    checkpoint = Checkpoint(name, FAMILIES[architecture.family], index={})
    policy = LoraPolicy(network, checkpoint, LoraSettings(rank=16))
    adapted = {path.removesuffix(".base_layer") for path, _ in network.named_modules() if path.endswith(".base_layer")}
    targets = FAMILIES[architecture.family].lora_targets
    assert adapted == {path for path in linears if path.endswith(tuple("." + target for target in targets))}
    assert all(any(path.endswith("." + target) for path in adapted) for target in targets)
    trained = [weight for weight in policy.network.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    assert sum(weight.numel() for weight in trained) / MILLION == pytest.approx(ADAPTERS[name], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("sd1.5", [123.06]), ("sd2.1", [340.39]), ("sdxl", [123.06, 694.66]), ("sd3-medium", [123.65, 694.66, 4762.31])],
)
def test_text_encoders_have_the_published_number_of_weights(name, millions):
    encoders = build_text_encoders(ARCHITECTURES[name])
    assert [count_parameters(encoder) / MILLION for encoder in encoders.values()] == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(("name", "millions", "channels"), [("sdxl", 83.65, 4), ("sd3-medium", 83.82, 16)])
def test_autoencoders_have_the_published_number_of_weights_and_latents(name, millions, channels):
    vae = build_vae(ARCHITECTURES[name])
    assert count_parameters(vae) / MILLION == pytest.approx(millions, abs=0.01)
    assert vae.encode(torch.empty(1, 3, 256, 256, device="meta")).latent_dist.mean.shape == (1, channels, 32, 32)
    assert latent_shape(ARCHITECTURES[name], 256) == (channels, 32, 32)


@pytest.mark.parametrize(("name", "prediction"), [("sd1.5", "epsilon"), ("sd2.1", "v_prediction"), ("sdxl", "epsilon")])
def test_the_scheduler_of_a_unet_ends_above_zero_signal(name, prediction):
    process = variance_preserving(ARCHITECTURES[name].scheduler)
    alpha, _ = process.levels(torch.tensor([999]))
    assert process.prediction_type == prediction
    assert float(alpha) == pytest.approx(0.068265, abs=1e-5)  # Lin et al. 2023, arXiv 2305.08891


@pytest.mark.parametrize("name", ["sd1.5", "sd2.1", "sd2.1-base", "sdxl"])
def test_the_sampling_grid_of_a_unet_is_that_of_the_published_scheduler(name):
    """`steps_offset` 1: the last timestep of 20 is 1, and the step from it to the clean end can be learned from."""
    grid = variance_preserving(ARCHITECTURES[name].scheduler).timestep_grid(20)
    assert grid.tolist() == [*range(951, 0, -50), CLEAN_TIME]


@pytest.mark.parametrize(("name", "median"), [("sd3-medium", 750), ("sd3.5-medium", 750), ("flux-dev", 759.5)])
def test_the_scheduler_of_a_flow_model_leans_towards_noise(name, median):
    process = rectified_flow_from_config(ARCHITECTURES[name].scheduler, image_tokens=4096)  # Flux: shift e^1.15
    times = process.draw_times(20_001, torch.Generator().manual_seed(0))
    assert float(times.median()) == pytest.approx(median, abs=6)


def test_names_and_official_hub_ids_need_no_network(monkeypatch):
    monkeypatch.setattr("palate.t2i.models.checkpoint._download", lambda *_: pytest.fail("the hub was asked"))
    assert find_architecture("sdxl") is find_architecture("stabilityai/stable-diffusion-xl-base-1.0")
    assert find_architecture("runwayml/stable-diffusion-v1-5").name == "sd1.5"
    assert find_architecture("stabilityai/stable-diffusion-2-1").resolution == 768


def test_every_family_that_palate_trains_has_an_architecture():
    assert {architecture.family for architecture in ARCHITECTURES.values()} >= set(FAMILIES)


@pytest.mark.parametrize(("name", "resolution", "multiple"), [("sdxl", 1001, 8), ("sd3-medium", 1000, 16)])
def test_a_resolution_that_cannot_be_divided_is_named(name, resolution, multiple):
    with pytest.raises(UserError, match=f"data.resolution is {resolution}, but {name} takes multiples of {multiple}"):
        latent_shape(ARCHITECTURES[name], resolution)


def test_a_folder_is_read_from_its_configuration_files(tmp_path):
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = {"sample_size": 8, "block_out_channels": (32, 32), "cross_attention_dim": 16, "layers_per_block": 1}
    unet |= {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 8}
    unet |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 8}
    diffusers.UNet2DConditionModel(**unet).save_config(tmp_path / "unet")
    vae = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4}
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(**vae).save_config(tmp_path / "vae")
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_config(tmp_path / "scheduler")
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(**text, max_position_embeddings=12)).config.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], '
        '"vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"], '
        '"scheduler": ["diffusers", "DDPMScheduler"]}'
    )
    architecture = read_architecture(find_checkpoint(str(tmp_path)))
    assert (architecture.family, architecture.resolution, architecture.text_tokens) == ("sd1", 16, 12)
    assert architecture.scheduler["prediction_type"] == "v_prediction"
    noisy, times, conditions = make_inputs(architecture, 3, 16)
    prediction = family_of(architecture).predict(build_network(architecture), noisy, times, conditions)
    assert prediction.shape == noisy.shape == (3, 4, 8, 8)


@pytest.mark.parametrize("name", ["~nobody-of-that-name/sdxl", "x" * 300, "a\0b"])
def test_what_can_be_no_folder_here_is_unknown(name):
    assert architecture_at_hand(name) is None
