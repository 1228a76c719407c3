"""kohya's layout against readers that palate did not write: diffusers' LoRA loader and its checkpoint converters."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from palate.errors import PalateError, UserError
from palate.t2i.kohya import save_kohya, to_kohya

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
JOINT_ATTENTION = [*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


def sd_unet(linear_projection=False):
    """SD1.5's blocks (SD2's with linear projections), 16 to 32 channels wide."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 32, 32),
        attention_head_dim=4,
        cross_attention_dim=12,
        norm_num_groups=8,
        use_linear_projection=linear_projection,
    )


def sdxl_unet(layers_per_block=2, depths=(1, 2, 10)):
    """SDXL's blocks and layer counts, 8 to 32 channels wide."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 32),
        layers_per_block=layers_per_block,
        transformer_layers_per_block=depths,
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=12,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 10,
    )


def mmdit():
    """SD3.5-medium's kinds of block: with and without a second attention, and the last that ends the text stream."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=20,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def pipeline(network):
    absent = {"vae": None, "text_encoder": None, "tokenizer": None, "scheduler": None}
    second = {"text_encoder_2": None, "tokenizer_2": None}
    if isinstance(network, SD3Transformer2DModel):
        return StableDiffusion3Pipeline(**absent, **second, text_encoder_3=None, tokenizer_3=None, transformer=network)
    if network.config.addition_embed_type:
        return StableDiffusionXLPipeline(**absent, **second, unet=network)
    return StableDiffusionPipeline(
        **absent, unet=network, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def every_layer(network):
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def train(network, folder: Path, targets, *, rank=3, alpha=5, alpha_pattern=None, dtype=torch.float32, old=False):
    """Save a LoRA of random weights, in peft's spelling or in diffusers' older one (`lora.down` for attention)."""
    network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, alpha_pattern=alpha_pattern or {}))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    part = "transformer" if isinstance(network, SD3Transformer2DModel) else "unet"
    weights = get_peft_model_state_dict(network)
    weights = convert_state_dict_to_diffusers(weights) if old else weights
    pipeline(network).save_lora_weights(
        folder,
        **{f"{part}_lora_layers": {key: weight.to(dtype) for key, weight in weights.items()}},
        **_collate_lora_metadata({part: network}),
    )


def pair(layer):
    return {f"{layer}.lora_A.weight": torch.ones(2, 3), f"{layer}.lora_B.weight": torch.ones(3, 2)}


@torch.no_grad()
def output(network):
    generator = torch.Generator().manual_seed(2)
    noisy, time = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([7, 801])
    if isinstance(network, SD3Transformer2DModel):
        hidden, pooled = torch.randn(2, 5, 20, generator=generator), torch.randn(2, 24, generator=generator)
        return network(noisy, hidden, pooled, time, return_dict=False)[0]
    hidden, added = torch.randn(2, 5, 12, generator=generator), None
    if network.config.addition_embed_type:
        added = {"text_embeds": torch.randn(2, 10, generator=generator), "time_ids": torch.full((2, 6), 64.0)}
    return network(noisy, time, hidden, added_cond_kwargs=added, return_dict=False)[0]


def loaded(make, file: Path):
    """A fresh network of the same base weights with `file` opened by diffusers."""
    torch.manual_seed(0)
    network = make()
    pipeline(network).load_lora_weights(file.parent, weight_name=file.name)
    return network.eval()


@pytest.mark.parametrize(
    ("family", "make", "attention"),
    [
        ("sd1", sd_unet, True),
        ("sd1", sd_unet, False),
        ("sd2", lambda: sd_unet(linear_projection=True), True),
        ("sdxl", sdxl_unet, False),
    ],
    ids=["sd1-attention", "sd1-everything", "sd2-attention", "sdxl-everything"],
)
def test_diffusers_computes_the_same_from_kohyas_file(family, make, attention, tmp_path):
    torch.manual_seed(0)
    network = make().eval()
    before = output(network)
    train(network, tmp_path, ATTENTION if attention else every_layer(network), old=attention)
    trained = output(network)
    assert (trained - before).abs().mean() > 0.01

    file = save_kohya(tmp_path, family, tmp_path / "kohya.safetensors")

    torch.testing.assert_close(output(loaded(make, file)), trained, atol=2e-5, rtol=1e-4)


def test_a_tiny_sdxl_with_one_layer_a_block(tmp_path):
    def make():
        return sdxl_unet(layers_per_block=1, depths=(1, 1, 1))

    torch.manual_seed(0)
    network = make().eval()
    train(network, tmp_path, ATTENTION)
    file = save_kohya(tmp_path, "sdxl", tmp_path / "kohya.safetensors", layers_per_block=1)
    torch.testing.assert_close(output(loaded(make, file)), output(network), atol=2e-5, rtol=1e-4)


def test_the_folder_still_opens_as_diffusers_own_when_both_files_are_in_it(tmp_path):
    torch.manual_seed(0)
    network = sd_unet().eval()
    train(network, tmp_path, ATTENTION)
    save_kohya(tmp_path, "sd1", tmp_path / "a.safetensors")
    torch.manual_seed(0)
    fresh = sd_unet().eval()
    pipeline(fresh).load_lora_weights(tmp_path)
    torch.testing.assert_close(output(fresh), output(network))


def test_sdxl_names_are_the_original_networks():
    """Pairs from the block table of ComfyUI's `unet_to_diffusers` for SDXL (two residual layers a level)."""
    pairs = {
        "conv_in": "input_blocks_0_0",
        "down_blocks.0.resnets.1.conv1": "input_blocks_2_0_in_layers_2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (
            "input_blocks_4_1_transformer_blocks_0_attn1_to_q"
        ),
        "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.2": "input_blocks_8_1_transformer_blocks_9_ff_net_2",
        "mid_block.resnets.0.time_emb_proj": "middle_block_0_emb_layers_1",
        "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
        "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
        "up_blocks.0.attentions.2.transformer_blocks.3.attn2.to_out.0": (
            "output_blocks_2_1_transformer_blocks_3_attn2_to_out_0"
        ),
        "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
        "up_blocks.1.attentions.0.proj_out": "output_blocks_3_1_proj_out",
        "up_blocks.2.resnets.2.conv1": "output_blocks_8_0_in_layers_2",
        "time_embedding.linear_2": "time_embed_2",
        "add_embedding.linear_1": "label_emb_0_0",
        "conv_out": "out_2",
    }
    for ours, original in pairs.items():
        assert set(to_kohya(pair(f"unet.{ours}"), "sdxl")) == {
            f"lora_unet_{original}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
        }


def test_sdxl_attention_has_as_many_layers_as_the_real_model():
    layers = [name for name in every_layer(sdxl_unet()) if name.endswith(tuple(ATTENTION))]
    converted = to_kohya({key: weight for name in layers for key, weight in pair(f"unet.{name}").items()}, "sdxl")
    assert len(converted) == 3 * 560  # 70 transformer blocks of two attentions of four projections


def original_sd3(network) -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of Stability's MMDiT, for the size of `network`."""
    shapes = {"pos_embed": tuple(network.pos_embed.pos_embed.shape), "x_embedder.proj": (16, 4, 2, 2)}
    shapes |= {"context_embedder": (16, 20), "y_embedder.mlp.0": (16, 24), "y_embedder.mlp.2": (16, 16)}
    shapes |= {"t_embedder.mlp.0": (16, 256), "t_embedder.mlp.2": (16, 16)}
    shapes |= {"final_layer.adaLN_modulation.1": (32, 16), "final_layer.linear": (16, 16)}
    for i, (picture, text) in enumerate([(9, 6), (6, 6), (6, 2)]):  # modulations of each stream
        block = f"joint_blocks.{i}"
        attentions = [f"{block}.x_block.attn", f"{block}.context_block.attn"] + [f"{block}.x_block.attn2"] * (i == 0)
        for attention in attentions:
            shapes |= {f"{attention}.qkv": (48, 16), f"{attention}.ln_q": (8,), f"{attention}.ln_k": (8,)}
            if i < 2 or "context" not in attention:
                shapes[f"{attention}.proj"] = (16, 16)
        for stream, modulations in (("x_block", picture), ("context_block", text)):
            shapes[f"{block}.{stream}.adaLN_modulation.1"] = (16 * modulations, 16)
            if i < 2 or stream == "x_block":
                shapes |= {f"{block}.{stream}.mlp.fc1": (64, 16), f"{block}.{stream}.mlp.fc2": (16, 64)}
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for name, shape in shapes.items():
        weights[name if name == "pos_embed" else f"{name}.weight"] = 0.1 * torch.randn(shape, generator=generator)
        if len(shape) in (2, 4):
            weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return weights


def from_original(weights):
    network = mmdit()
    network.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(weights)))
    return network.eval()


@pytest.mark.parametrize("targets", ["attention", "everything", "q and v"])
def test_sd3_merged_into_the_original_network_as_comfyui_does(targets, tmp_path):
    """kohya's SD3 file, each key looked up as `lora_unet_` and the original path, added to the original weights;
    diffusers' own converter then turns those into its transformer, which must equal the one with the LoRA on."""
    original = original_sd3(mmdit())
    network = from_original(original)
    before = output(network)
    chosen = {"attention": JOINT_ATTENTION, "everything": every_layer(network), "q and v": ["to_q", "to_v"]}
    train(network, tmp_path, chosen[targets], alpha_pattern={"to_v": 1})
    trained = output(network)
    assert (trained - before).abs().mean() > 0.001

    lora = load_file(save_kohya(tmp_path, "sd3", tmp_path / "kohya.safetensors"))
    paths = {f"lora_unet_{key.removesuffix('.weight').replace('.', '_')}": key for key in original}
    names = {key.split(".")[0] for key in lora}
    assert names <= paths.keys()
    for name in names:
        down, up = lora[f"{name}.lora_down.weight"], lora[f"{name}.lora_up.weight"]
        change = up.flatten(1) @ down.flatten(1) * lora[f"{name}.alpha"] / down.shape[0]
        original[paths[name]] += change.reshape(original[paths[name]].shape)

    torch.testing.assert_close(output(from_original(original)), trained, atol=2e-5, rtol=1e-4)


def test_sd3_rank_is_three_times_that_of_each_projection(tmp_path):
    train(mmdit(), tmp_path, JOINT_ATTENTION, rank=4, alpha=8)
    converted = to_kohya(
        load_file(tmp_path / "pytorch_lora_weights.safetensors"),
        "sd3",
        {"transformer.transformer_blocks.1.attn.to_k": 8.0},
    )
    name = "lora_unet_joint_blocks_1_x_block_attn_qkv"
    up = converted[f"{name}.lora_up.weight"]
    assert converted[f"{name}.lora_down.weight"].shape == (12, 16)
    assert converted[f"{name}.alpha"].item() == 12
    assert up.shape == (48, 12)
    assert up[:16, 4:].count_nonzero() == up[16:32, :4].count_nonzero() == up[32:, :8].count_nonzero() == 0
    plain = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    torch.testing.assert_close(up[16:32, 4:8], 2 * plain["transformer.transformer_blocks.1.attn.to_k.lora_B.weight"])


def test_alpha_comes_from_the_saved_settings(tmp_path):
    train(sd_unet(), tmp_path, ["to_q", "to_k"], rank=2, alpha=3, alpha_pattern={"mid_block.*to_k": 7})
    converted = load_file(save_kohya(tmp_path, "sd1", tmp_path / "kohya.safetensors"))
    middle = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_"
    assert converted[f"{middle}k.alpha"].item() == 7
    assert converted[f"{middle}q.alpha"].item() == 3


def test_rank_stabilised_scale(tmp_path):
    weights = {"unet.conv_in.lora_A.weight": torch.ones(4, 3), "unet.conv_in.lora_B.weight": torch.ones(3, 4)}
    settings = {"unet.lora_alpha": 6, "unet.use_rslora": True}
    save_file(weights, tmp_path / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    converted = load_file(save_kohya(tmp_path, "sdxl", tmp_path / "kohya.safetensors"))
    assert converted["lora_unet_input_blocks_0_0.alpha"].item() == 12  # 6 * sqrt(4): over the rank of 4, 6 / 2


def test_without_saved_settings_the_scale_is_one(tmp_path):
    weights = {"unet.conv_in.lora_A.weight": torch.ones(4, 3), "unet.conv_in.lora_B.weight": torch.ones(3, 4)}
    save_file(weights, tmp_path / "pytorch_lora_weights.safetensors")
    file = save_kohya(tmp_path, "sd1", tmp_path / "kohya.safetensors")
    assert load_file(file)["lora_unet_conv_in.alpha"].item() == 4
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "ss_base_model_version": "sd_v1"}


def test_dtype_is_kept(tmp_path):
    train(mmdit(), tmp_path, JOINT_ATTENTION, dtype=torch.float16)
    converted = load_file(save_kohya(tmp_path, "sd3", tmp_path / "kohya.safetensors"))
    assert {weight.dtype for key, weight in converted.items() if key.endswith("weight")} == {torch.float16}


@pytest.mark.parametrize(
    ("weights", "family", "message"),
    [
        (pair("transformer.proj_out"), "flux", "no kohya layout for family 'flux'"),
        (pair("unet.conv_in"), "sd3", r"unet\.conv_in\.lora_A\.weight is not a LoRA weight of the transformer"),
        (pair("text_encoder.fc1"), "sd1", "not a LoRA weight of the unet"),
        ({"unet.conv_in.lora_magnitude_vector": torch.ones(3)}, "sd1", "not a LoRA weight"),
        ({"unet.conv_in.lora_A.weight": torch.ones(2, 3)}, "sd1", "only one of its two"),
        (
            pair("unet.down_blocks.0.resnets.0.conv9"),
            "sdxl",
            r"no name for the layer down_blocks\.0\.resnets\.0\.conv9",
        ),
        (pair("unet.mid_block.resnets.0.conv9"), "sdxl", "no name for the layer"),
        (pair("unet.class_embedding"), "sdxl", "no name for the layer class_embedding"),
        (
            pair("transformer.transformer_blocks.0.attn.to_z"),
            "sd3",
            "no name for the layer transformer_blocks.0.attn.to_z",
        ),
        (pair("transformer.single_blocks.0.attn"), "sd3", "no name for the layer"),
    ],
)
def test_what_it_cannot_hold_is_refused(weights, family, message):
    with pytest.raises(UserError, match=message):
        to_kohya(weights, family)


def test_a_missing_or_damaged_lora_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"holds no LoRA: there is no pytorch_lora_weights\.safetensors"):
        save_kohya(tmp_path, "sd1", tmp_path / "kohya.safetensors")
    save_file(pair("unet.conv_in"), tmp_path / "pytorch_lora_weights.safetensors")
    whole = (tmp_path / "pytorch_lora_weights.safetensors").read_bytes()
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(whole[:-5])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        save_kohya(tmp_path, "sd1", tmp_path / "kohya.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    save_file(pair("unet.conv_in"), tmp_path / "pytorch_lora_weights.safetensors")
    file = save_kohya(tmp_path, "sd1", tmp_path / "kohya.safetensors")
    before = file.read_bytes()

    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PalateError, match="No space left on device while writing"):
        save_kohya(tmp_path, "sd1", file)
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"pytorch_lora_weights.safetensors", "kohya.safetensors"}
