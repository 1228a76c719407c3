"""The dimensions of palate's two tiny checkpoints: every part is diffusers' or transformers' own class, only small.

`pretrain_tiny.py` trains them on the shapes world.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from palate.datasets.shapes.prompts import all_prompts
from palate.datasets.shapes.world import SIZE

TOKENS = 16  # the longest prompt of the world has 10 words; CLIP adds two marks
LATENT = SIZE // 4


def clip_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format in which every word of the world is one token and any text still encodes."""
    words = sorted({word for prompt in all_prompts() for word in prompt.text.split()})
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), byte_level])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(words * 8, trainers.BpeTrainer(initial_alphabet=alphabet, end_of_word_suffix="</w>"))
    # CLIP's vocabulary holds each byte twice: inside a word and at its end.
    vocabulary = {token: i for i, token in enumerate(alphabet + [f"{letter}</w>" for letter in alphabet])}
    merges = []
    for first, second in _merges(bpe):
        vocabulary.setdefault(first + second, len(vocabulary))
        merges.append((first, second))
    for mark in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[mark] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]


def t5_tokenizer() -> T5Tokenizer:
    """A unigram vocabulary in T5's format: the world's words and single letters."""
    words = sorted({word for prompt in all_prompts() for word in prompt.text.split()})
    letters = [chr(i) for i in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -4.0) for word in words] + [(letter, -10.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TOKENS)


def clip_encoder(width: int, tokenizer: CLIPTokenizer, projected: bool, activation: str) -> torch.nn.Module:
    """A CLIP text encoder of three layers; the last-but-one gives the sequence, as SDXL and SD3 read it."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def autoencoder(flow: bool) -> AutoencoderKL:
    """A KL autoencoder from 32 x 32 pixels to 4 x 8 x 8 latents; SD3's kind has a shift and no 1x1 convolutions."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
        use_quant_conv=not flow,
        use_post_quant_conv=not flow,
        shift_factor=0.0 if flow else None,
        force_upcast=False,
    )


def sdxl_pipeline(vae: AutoencoderKL) -> StableDiffusionXLPipeline:
    """SDXL with random weights: two CLIP encoders, size conditioning, an epsilon UNet of 1.6 M parameters."""
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(40, 80),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1),
        cross_attention_dim=128,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64 + 6 * 8,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=clip_encoder(64, tokenizer, projected=False, activation="quick_gelu"),
        text_encoder_2=clip_encoder(64, tokenizer, projected=True, activation="gelu"),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def sd3_pipeline(vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """SD3 with random weights: two CLIP encoders and a T5, an MMDiT of 1.6 M parameters on rectified flow."""
    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=LATENT,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=5,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=128,
        caption_projection_dim=96,
        pooled_projection_dim=96,
        pos_embed_max_size=16,
    )
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(t5),
            d_model=128,
            d_kv=32,
            d_ff=128,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=clip_encoder(48, tokenizer, projected=True, activation="quick_gelu"),
        text_encoder_2=clip_encoder(48, tokenizer, projected=True, activation="gelu"),
        text_encoder_3=encoder,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=t5,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )
