"""Pretrain palate's tiny checkpoints on the shapes world: an autoencoder, then a denoiser with its text encoders.

    python examples/pretrain_tiny.py vae sdxl --output build/tiny
    python examples/pretrain_tiny.py denoiser sdxl --output build/tiny --steps 8000 --stop 6000
    python examples/pretrain_tiny.py vae sd3 --output build/tiny
    python examples/pretrain_tiny.py denoiser sd3 --output build/tiny --steps 12000
    python examples/pretrain_tiny.py denoiser sd3 --output build/tiny --start build/tiny/sd3 --steps 5000 --peak 1e-3

These commands made the shipped checkpoints: 3 minutes of one core for an autoencoder, 25 s for 100 steps of a denoiser.

The result is an ordinary diffusers folder in float16.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.training_utils import EMAModel
from tiny_architectures import autoencoder, sd3_pipeline, sdxl_pipeline
from torch.nn import functional as F

from palate.datasets.shapes.prompts import CATEGORIES, all_prompts, draw_scene
from palate.datasets.shapes.world import SIZE, render


def pictures(count: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """`count` rendered pictures `[count, 3, 32, 32]` in [-1, 1] and their prompts, each category equally often."""
    rng = np.random.default_rng(seed)
    by_category = {category: [p for p in all_prompts() if p.category == category] for category in CATEGORIES}
    pixels = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    texts = []
    for i in range(count):
        prompts = by_category[CATEGORIES[i % len(CATEGORIES)]]
        prompt = prompts[rng.integers(len(prompts))]
        pixels[i] = np.asarray(render(draw_scene(prompt, rng)))
        texts.append(prompt.text)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, texts


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 2 % of the steps, then a cosine to zero."""
    warmup = max(1, steps // 50)
    return peak * min(1, (step + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * step / steps))


def train_vae(family: str, output: Path, steps: int, batch: int) -> None:
    """Train the autoencoder on pixels (mean squared error and a small KL term) and set its scale and shift."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    images, _ = pictures(12_000, seed=1)
    vae = autoencoder(flow=family == "sd3").to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=0, weight_decay=0)
    start = time.time()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, 4e-3)
        clean = images[torch.randint(len(images), (batch,), generator=generator)]
        posterior = vae.encode(clean).latent_dist
        restored = vae.decode(posterior.sample(generator)).sample
        error = F.mse_loss(restored, clean)
        loss = error + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"vae {family} step {step} mse {error.item():.5f} {time.time() - start:.0f} s", flush=True)
    with torch.no_grad():
        latents = torch.cat([vae.encode(images[i : i + 500]).latent_dist.mean for i in range(0, 4000, 500)])
    if family == "sd3":
        vae.register_to_config(shift_factor=round(latents.mean().item(), 5))
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.save_pretrained(output / f"vae-{family}")


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The posterior's mean and standard deviation of each picture, in the denoiser's units."""
    parts = [vae.encode(images[i : i + 500]).latent_dist for i in range(0, len(images), 500)]
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
    mean = torch.cat([part.mean for part in parts])
    return (mean - shift) * scale, torch.cat([part.std for part in parts]) * scale


def sdxl_loss(pipeline, latents, texts, dropped, generator) -> torch.Tensor:
    """Epsilon prediction at uniform times; a dropped caption is all zeros, as the SDXL pipeline's empty prompt.

    The times are weighted as a v loss weighs them, by 1 + 1/SNR, up to 10: what a picture shows is settled at high
    noise, where the error of epsilon is too small to learn from in a few thousand steps.
    """
    pipeline.text_encoder.train(), pipeline.text_encoder_2.train()
    hidden, _, pooled, _ = pipeline.encode_prompt(texts, do_classifier_free_guidance=False)
    hidden, pooled = hidden * ~dropped[:, None, None], pooled * ~dropped[:, None]
    noise = torch.randn(latents.shape, generator=generator)
    times = torch.randint(1000, (len(latents),), generator=generator)
    alphas = pipeline.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    sizes = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]]).expand(len(latents), -1)
    predicted = pipeline.unet(noisy, times, hidden, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    weights = (1 / alphas).clamp(max=10)  # 1 + 1/SNR
    return (weights * (predicted - noise) ** 2).mean() / weights.mean()


def sd3_loss(pipeline, latents, texts, dropped, generator) -> torch.Tensor:
    """Rectified flow at logit-normal times, centred at 0.69 to dwell on high noise too.

    A dropped caption is the empty prompt's encoding.
    """
    texts = ["" if drop else text for text, drop in zip(texts, dropped.tolist(), strict=True)]
    hidden, _, pooled, _ = pipeline.encode_prompt(
        texts, None, None, do_classifier_free_guidance=False, max_sequence_length=pipeline.tokenizer_3.model_max_length
    )
    noise = torch.randn(latents.shape, generator=generator)
    sigmas = torch.sigmoid(0.8 + torch.randn(len(latents), generator=generator))
    noisy = torch.lerp(latents, noise, sigmas.view(-1, 1, 1, 1))
    predicted = pipeline.transformer(noisy, hidden, pooled, sigmas * 1000).sample
    return F.mse_loss(predicted, noise - latents)


def train_denoiser(
    family: str, output: Path, steps: int, stop: int, batch: int, peak: float, start: Path | None
) -> None:
    """Train denoiser and text encoders together on cached latents; keep the moving average of the weights.

    The learning rate falls from `peak` to zero over `steps`; training ends at `stop`, for a base model that errs often
    enough to be aligned. `start` is an earlier result to go on from.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2 if start is None else 4)
    images, texts = pictures(60_000, seed=3)
    vae = AutoencoderKL.from_pretrained(output / f"vae-{family}")
    mean, deviation = encode(vae, images)
    if start:
        pipeline = DiffusionPipeline.from_pretrained(start, torch_dtype=torch.float32)
    else:
        pipeline = (sdxl_pipeline if family == "sdxl" else sd3_pipeline)(vae)
    names = [n for n in pipeline.components if n == "unet" or n == "transformer" or n.startswith("text_encoder")]
    parameters = [p for n in names if pipeline.components[n] is not None for p in pipeline.components[n].parameters()]
    print(f"{family}: {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=0, weight_decay=0.01, betas=(0.9, 0.99))
    average = EMAModel(parameters, decay=0.998, use_ema_warmup=True, power=0.75)
    loss_of = sdxl_loss if family == "sdxl" else sd3_loss
    begun, running = time.time(), 1.0
    for step in range(stop):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, peak)
        rows = torch.randint(len(mean), (batch,), generator=generator)
        latents = mean[rows] + deviation[rows] * torch.randn(mean[rows].shape, generator=generator)
        dropped = torch.rand(batch, generator=generator) < 0.1
        loss = loss_of(pipeline, latents, [texts[i] for i in rows.tolist()], dropped, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.step(parameters)
        running += 0.02 * (loss.item() - running)
        if step % 100 == 0:
            print(f"{family} step {step} loss {running:.4f} {time.time() - begun:.0f} s", flush=True)
        if (step + 1) % 1000 == 0 or step + 1 == stop:
            average.store(parameters)
            average.copy_to(parameters)
            save(pipeline, output / family)
            average.restore(parameters)


def save(pipeline, folder: Path) -> None:
    """Write the pipeline in float16 without changing the one in memory."""
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    pipeline.to(torch.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("vae", "denoiser"))
    parser.add_argument("family", choices=("sdxl", "sd3"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--stop", type=int, help="of the denoiser: end after this many of the steps")
    parser.add_argument("--peak", type=float, default=1.5e-3, help="of the denoiser: highest learning rate")
    parser.add_argument("--start", type=Path, help="of the denoiser: a pipeline folder to go on from")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.part == "vae":
        train_vae(arguments.family, arguments.output, arguments.steps or 1200, arguments.batch)
    else:
        steps = arguments.steps or 6000
        train_denoiser(
            arguments.family,
            arguments.output,
            steps,
            arguments.stop or steps,
            arguments.batch,
            arguments.peak,
            arguments.start,
        )
