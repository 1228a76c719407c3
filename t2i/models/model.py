"""One text-to-image checkpoint of any family: each part is loaded when it is first used and freed when it is done with.

Text encoders, then the autoencoder, then the network: only one of the three big parts needs to be in memory at a time.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from ...diffusion import NoiseProcess, rectified_flow_from_config, variance_preserving
from ...errors import UserError
from .checkpoint import Checkpoint
from .family import Conditions, Family
from .tokens import count_truncated


def process_of(scheduler: Mapping[str, Any]) -> NoiseProcess:
    """The noise process that a scheduler's config describes."""
    if "FlowMatch" in scheduler.get("_class_name", ""):
        return rectified_flow_from_config(scheduler)
    return variance_preserving(scheduler)


class TextToImageModel:
    """A checkpoint's parts and how to use them.

    Args:
        checkpoint: from `find_checkpoint`.
        dtype: of network and text encoders; the autoencoder stays float32 where its config asks for it.
        device: where encoding and prediction happen.
        attention: `sdpa` (PyTorch's) or `xformers`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: str = "sdpa",
    ) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.device = torch.device(device)
        self.attention = attention

    @property
    def family(self) -> Family:
        """The family's own ways."""
        return self.checkpoint.family

    @cached_property
    def process(self) -> NoiseProcess:
        """The noise process that the checkpoint's own scheduler config describes."""
        return process_of(self.checkpoint.config("scheduler", "scheduler_config.json"))

    @cached_property
    def text(self) -> Any:
        """A pipeline that holds only tokenizers and text encoders."""
        wanted = {*self.family.text_encoders, *self.family.tokenizers}
        return self._load_pipeline(wanted, self.dtype)

    @property
    def vae_dtype(self) -> torch.dtype:
        """The autoencoder's precision. SDXL's overflows in float16, which `force_upcast` in its config says."""
        return torch.float32 if self.checkpoint.config("vae").get("force_upcast", True) else self.dtype

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The autoencoder, frozen."""
        return self._load_part(AutoencoderKL, "vae", self.vae_dtype).requires_grad_(False).eval()

    @cached_property
    def network(self) -> nn.Module:
        """The denoiser, frozen; `policy.py` decides which of its weights are trained."""
        name = self.family.network
        network = self._load_part(getattr(diffusers, self.checkpoint.index[name][1]), name, self.dtype)
        if self.attention == "xformers":
            require_xformers()
            network.enable_xformers_memory_efficient_attention()
        return network.requires_grad_(False).eval()

    def free(self, part: str) -> None:
        """Drop `text`, `vae` or `network` from memory; it is loaded anew if it is used again."""
        self.__dict__.pop(part, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def latent_shape(self) -> tuple[int, int]:
        """`(channels, pixels per latent)`: 4 and 8 for SD and SDXL, 16 and 8 for SD3."""
        config = self.checkpoint.config("vae")
        return config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1)

    @cached_property
    def resolution(self) -> int:
        """The pixels a side that the network was trained for."""
        return self.checkpoint.config(self.family.network)["sample_size"] * self.latent_shape[1]

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditions:
        """The conditions of `n` prompts, one row each; an empty prompt gives the unconditional row."""
        with quiet():
            return self.family.encode_prompts(self.text, prompts)

    def count_truncated(self, prompts: list[str]) -> int:
        """How many prompts are longer than one of the text encoders reads."""
        tokenizers = [getattr(self.text, name, None) for name in self.family.tokenizers]
        return count_truncated([tokenizer for tokenizer in tokenizers if tokenizer is not None], prompts)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents' posterior, float32 `[n, C, h, w]`, in the network's units.

        Args:
            pixels: `[n, 3, H, W]` in [-1, 1].
        """
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist  # type: ignore[union-attr]
        shift, scale = self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor  # type: ignore[attr-defined]
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """The pictures of `n` latents `[n, C, h, w]` in the network's units."""
        shift, scale = self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor  # type: ignore[attr-defined]
        pixels = self.vae.decode((latents / scale + shift).to(self.vae.dtype)).sample  # type: ignore[union-attr]
        levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(picture) for picture in levels]

    def predict(self, network: nn.Module, noisy: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """The network's prediction `[n, C, h, w]` for noisy latents at times `[n]`."""
        return self.family.predict(network, noisy, times, conditions)

    def pipeline(self, network: nn.Module) -> Any:
        """A diffusers pipeline around `network` and the autoencoder, to be called with encoded prompts."""
        absent = dict.fromkeys([*self.family.text_encoders, *self.family.tokenizers])
        given = {**absent, "vae": self.vae, self.family.network: network}
        pipeline = self._load_pipeline({"scheduler"}, self.dtype, **given)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _load_pipeline(self, wanted: set[str], dtype: torch.dtype, **given: Any) -> Any:
        source = self.checkpoint
        parts = [name for name, value in source.index.items() if isinstance(value, list)]
        absent = {name: None for name in parts if name not in wanted and name not in given}
        with quiet(), self._explained(self.family.pipeline):
            pipeline = getattr(diffusers, self.family.pipeline).from_pretrained(
                source.path,
                **absent,
                **given,
                torch_dtype=dtype,
                revision=source.revision,
                variant=source.variant,
                use_safetensors=True,
            )
        return pipeline.to(self.device)

    def _load_part(self, kind: Any, name: str, dtype: torch.dtype) -> Any:
        source = self.checkpoint
        with quiet(), self._explained(name):
            part = kind.from_pretrained(
                source.path,
                subfolder=name,
                torch_dtype=dtype,
                revision=source.revision,
                variant=source.variant_of(name),
                use_safetensors=True,
            )
        return part.to(self.device)

    @contextlib.contextmanager
    def _explained(self, part: str) -> Iterator[None]:
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if "allocate memory" in str(error):  # the CPU's allocator has no error class of its own
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{self.checkpoint.path}: {part} cannot be loaded ({reason}); is the checkpoint whole?"
            ) from error


def require_xformers() -> None:
    """Raise UserError where xformers is not installed or has no GPU to run on."""
    from diffusers.utils.import_utils import is_xformers_available

    reason = "it is not installed" if not is_xformers_available() else "" if torch.cuda.is_available() else "no GPU"
    if reason:
        raise UserError(
            f"model.attention: xformers cannot be used here ({reason}); install palate[cuda] on a CUDA machine or set "
            "model.attention=sdpa"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers' and transformers' own bars and notices out of palate's output."""
    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # `torch_dtype` is the name that every diffusers >= 0.38 takes
            yield
    finally:
        for logging, verbosity in zip((diffusers_logging, transformers_logging), before, strict=True):
            logging.set_verbosity(verbosity)
            logging.enable_progress_bar()
