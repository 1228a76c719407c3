"""A folder of generated pictures with a manifest, resumable: what `palate generate` writes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..datasets.digest import digest
from ..errors import UserError
from ..training.processes import process_state
from .fingerprint import lora_fingerprint, whole_fingerprint
from .generate import generate
from .models.architectures import find_architecture
from .models.checkpoint import find_checkpoint
from .models.hub_ids import official
from .models.model import TextToImageModel, quiet
from .models.sampling import Sampling, sampling_for
from .models.sides import require_side

_SPARED = "repair it, move it away, or name another --out (its pictures are left alone)"


@dataclass(frozen=True)
class Wanted:
    """Which pictures to draw; None leaves a choice to the family or the checkpoint."""

    prompts: list[str]
    images: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    resolution: int | None = None
    batch_size: int = 8
    dtype: str = "auto"
    lora: str | None = None
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Drawn:
    """How many pictures are new, how many were there, the list of them all, and how many prompts are too long."""

    new: int
    kept: int
    manifest: Path
    cut_prompts: int = 0


def read_prompts(file: Path) -> list[str]:
    """The prompts of a text file, one a line, empty lines left out.

    Raises UserError if the file is missing, holds none, or is not UTF-8.
    """
    try:
        prompts = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"the prompt file {file} does not exist") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{file} is not a text file in UTF-8 with one prompt a line") from None
    if not prompts:
        raise UserError(f"the prompt file {file} holds no prompts")
    return prompts


def draw_gallery(path: str, wanted: Wanted, folder: Path, advance: Callable[[str, int, int], None]) -> Drawn:
    """Draw each prompt's pictures into `folder` and list them in `images.jsonl`.

    A picture's name depends on all that decides it, the bytes of local weights and the precision among them, so a
    second run draws only what is missing, and a folder may hold the pictures of many models.

    Raises UserError for a model, LoRA or setting that cannot be used, or a manifest that is damaged.
    """
    if not wanted.prompts:
        raise UserError("there is nothing to draw: give --prompt or --prompts")
    checkpoint = find_checkpoint(path, revision=wanted.revision, variant=wanted.variant)
    checkpoint.require_whole()
    device = torch.device(process_state().device or "cpu")
    model = TextToImageModel(checkpoint, _dtype(wanted.dtype, device), device)
    sampling = sampling_for(model, wanted.steps, wanted.guidance, wanted.resolution, wanted.batch_size)
    if not math.isfinite(sampling.guidance):
        raise UserError(f"--guidance is {sampling.guidance}; it must be a finite number")
    known = checkpoint.config("scheduler", "scheduler_config.json").get("num_train_timesteps", 1000)
    if sampling.steps > known:
        raise UserError(f"--steps is {sampling.steps}, and {path} was trained on {known} noise levels; take fewer")
    require_side(find_architecture(path, wanted.revision), sampling.resolution, drawing=True, setting="--resolution")
    manifest = folder / "images.jsonl"
    _read_manifest(manifest)  # one that could not be added to is told of before hours of drawing
    # A path keeps its name when the weights behind it change; the name of what was drawn with them must not.
    weights = digest(whole_fingerprint(checkpoint), lora_fingerprint(wanted.lora) if wanted.lora else "")
    rows = [
        {"prompt": prompt, "seed": wanted.seed + i, "model": official(path), "lora": wanted.lora, "weights": weights}
        | {"steps": sampling.steps, "guidance": sampling.guidance, "resolution": sampling.resolution}
        | {"dtype": str(model.dtype).removeprefix("torch.")}
        for prompt in wanted.prompts
        for i in range(wanted.images)
    ]
    for row in rows:
        row["image"] = f"{hashlib.blake2b(json.dumps(row).encode(), digest_size=8).hexdigest()}.png"
    rows = list({row["image"]: row for row in rows}.values())  # a prompt that is in two files is drawn once
    missing = [row for row in rows if not (folder / row["image"]).is_file()]
    cut = 0
    if missing:
        pipeline = load_lora(model, wanted.lora)
        cut = model.count_truncated(list(dict.fromkeys(row["prompt"] for row in missing)))
        _make_folder(folder)
        _draw(model, missing, sampling, pipeline, folder, advance)
    _write_manifest(manifest, rows)
    return Drawn(len(missing), len(rows) - len(missing), manifest, cut)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder {folder} cannot be made: {error.strerror}; choose another one") from None


def _draw(
    model: TextToImageModel,
    rows: list[dict[str, Any]],
    sampling: Sampling,
    pipeline: Any,
    folder: Path,
    advance: Callable[[str, int, int], None],
) -> None:
    pictures = generate(model, [row["prompt"] for row in rows], [row["seed"] for row in rows], sampling, pipeline)
    for done, (row, picture) in enumerate(zip(rows, pictures, strict=True), 1):
        part = folder / f".{row['image']}.part"
        try:
            picture.save(part, format="PNG")
            part.replace(folder / row["image"])
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        advance("drawing", done, len(rows))


def load_lora(model: TextToImageModel, lora: str | None) -> Any:
    """The checkpoint's pipeline with a LoRA in it. Raises UserError if the LoRA does not fit."""
    pipeline = model.pipeline(model.network)
    if lora is None:
        return pipeline
    try:
        with quiet():  # diffusers notes that there is nothing for the text encoders, which are not loaded here
            pipeline.load_lora_weights(lora)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the LoRA {lora} cannot be loaded into {model.checkpoint.path}: {reason}") from error
    # A LoRA of another family is passed over by diffusers without an error: its layers bear other names.
    if not any(pipeline.get_list_adapters().values()):
        raise UserError(f"the LoRA {lora} holds no layer of {model.checkpoint.path}; is it one of another family?")
    return pipeline


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in ("float32", "bfloat16", "float16"):
        raise UserError(f"--dtype is {name!r}; it is auto, float32, bfloat16 or float16")
    return getattr(torch, name)


def _read_manifest(file: Path) -> list[str]:
    """The lines of a manifest, an empty list if there is none. Raises UserError for one that is damaged."""
    try:
        # Not `splitlines`: a prompt may hold a separator that JSON leaves as it is.
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{file} is damaged: it is no text file; {_SPARED}") from None
    for number, line in enumerate(lines, 1):
        try:
            whole = isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise UserError(f"{file} is damaged: line {number} is no JSON object; {_SPARED}")
    return lines


def _write_manifest(file: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows that the manifest does not list yet; whole or not at all."""
    lines = list(dict.fromkeys([*_read_manifest(file), *(json.dumps(row, ensure_ascii=False) for row in rows)]))
    part = file.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(file)
