"""What rewards there are, and what their numbers mean: data alone, nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .reward import Modality

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Entry:
    """One reward of the zoo.

    name           how it is asked for, and its column in tables
    opener         `module:function` of this package; the module is imported when the reward is opened
    scale          the usual range of its values, and what they are
    licence        of the official weights
    memory_gb      of the weights in bfloat16, in 10^9 bytes; 0 where there are none
    dtype          of the networks where none is asked for: that of the published numbers
    weights        the hub's repository that is taken where no path is given; None where there are no weights
    assets         the paths that may be given: name -> the opener's argument
    options        the settings that may be given beside them: the opener's argument -> its type
    preset         arguments of the opener that make this entry
    needs_prompts  whether the prompt plays a part
    input          what it sees of picture and prompt, where that is no setting of its own
    """

    name: str
    opener: str
    scale: str
    licence: str
    memory_gb: float = 0.0
    dtype: Dtype = "float32"
    weights: str | None = None
    assets: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, type[bool] | type[int] | type[float]] = field(default_factory=dict)
    preset: Mapping[str, Any] = field(default_factory=dict)
    needs_prompts: bool = True
    input: str = ""
    modality: Modality = "image"


_PATH = {"weights": "path", "tokenizer": "tokenizer"}
_WEIGHTS = {"weights": "weights", "tokenizer": "tokenizer"}
_CLIP_L, _BLIP = "openai/clip-vit-large-patch14", "Salesforce/blip-itm-large-coco"
_VLM = {"weights": "path", "processor": "processor", "template": "template"}
_JUDGE = {**_VLM, "aspect": "aspect"}
_CLIP_B = "openai/clip-vit-base-patch32"
_MIDDLE = "shortest side to the tower's size by 8-bit bicubic, middle square, CLIP's normalisation"
_SQUASHED = "both sides to the tower's size by 8-bit bicubic, CLIP's normalisation; BERT's 35 word pieces"
_LETTERBOX = "longest side to the tower's size by bicubic on whole floats, black bars, CLIP's normalisation; 77 tokens"
_SHOW = (
    "padded to a square with CLIP's mean, to the tower's size by Pillow's bicubic, CLIP's normalisation; "
    'Does this figure show "{}"? Please answer yes or no.'
)
_CHAT = "as the model's own processor prepares it"
_NOT_STATED = "not stated (code MIT)"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="pickscore",
        opener="pickscore:open_pickscore",
        scale="16 to 26; 100 x cosine, softmax over one prompt's pictures gives choice probabilities",
        licence=_NOT_STATED,
        memory_gb=2.0,
        weights="yuvalkirstain/PickScore_v1",
        assets=_PATH,
        input=f"{_MIDDLE}; CLIP's 77 tokens",
    ),
    Entry(
        name="hpsv2",
        opener="hps:open_hps",
        scale="0.23 to 0.29; cosine, tables show 100 times that",
        licence="Apache-2.0",
        memory_gb=2.0,
        weights="xswu/HPSv2",
        assets=_PATH,
        options={"antialias": bool},
        preset={"version": "v2.0"},
        input=_LETTERBOX,
    ),
    Entry(
        name="hpsv2.1",
        opener="hps:open_hps",
        scale="0.13 to 0.34; cosine, not to be compared with v2",
        licence="Apache-2.0",
        memory_gb=2.0,
        weights="xswu/HPSv2",
        assets=_PATH,
        options={"antialias": bool},
        preset={"version": "v2.1"},
        input=_LETTERBOX,
    ),
    Entry(
        name="hpsv3",
        opener="hpsv3:open_hpsv3",
        scale="-2 to 13; mean of the normal distribution that the model gives",
        licence="MIT",
        memory_gb=15.5,
        dtype="bfloat16",
        weights="MizzenAI/HPSv3",
        assets={"weights": "weights", "base": "base"},
        input="Qwen2-VL's patches, resized by Pillow's bicubic to about 256 tokens; the official instruction",
    ),
    Entry(
        name="imagereward",
        opener="imagereward:open_imagereward",
        scale="-2.3 to 2; about standard normal over generated pictures",
        licence="Apache-2.0",
        memory_gb=0.9,
        weights="THUDM/ImageReward",
        assets={**_WEIGHTS, "config": "config"},
        input=f"{_MIDDLE}; BERT's 35 word pieces",
    ),
    Entry(
        name="mps",
        opener="mps:open_mps",
        scale="8.5 to 10.3 (averages of generators); 100 x cosine, the overall preference",
        licence="MIT (original)",
        memory_gb=2.2,
        weights="RE-N-Y/mpsv1",
        assets=_PATH,
        options={"threshold": float},
        input=f"{_MIDDLE}; CLIP's 77 tokens and the condition of the overall preference",
    ),
    Entry(
        name="clipscore",
        opener="clip_score:open_clip_score",
        scale="0.15 to 0.35; cosine of ViT-L/14, without the paper's factor 2.5",
        licence="MIT",
        memory_gb=0.9,
        weights=_CLIP_L,
        assets=_PATH,
        input=f"{_MIDDLE}; CLIP's 77 tokens",
    ),
    Entry(
        name="aesthetic",
        opener="aesthetic:open_aesthetic",
        scale="1 to 10, mostly 4 to 7; a rating of the picture alone",
        licence="Apache-2.0 (head), MIT (CLIP)",
        memory_gb=0.9,
        weights=_CLIP_L,
        assets={**_PATH, "head": "head"},
        needs_prompts=False,
        input=_MIDDLE,
    ),
    Entry(
        name="blip_itc",
        opener="blip_score:open_blip_itc",
        scale="-1 to 1; cosine of BLIP-large after COCO",
        licence="BSD-3-Clause",
        memory_gb=0.9,
        weights=_BLIP,
        assets=_WEIGHTS,
        input=_SQUASHED,
    ),
    Entry(
        name="blip_itm",
        opener="blip_score:open_blip_itm",
        scale="0 to 1; probability that the prompt describes the picture",
        licence="BSD-3-Clause",
        memory_gb=0.9,
        weights=_BLIP,
        assets=_WEIGHTS,
        input=_SQUASHED,
    ),
    Entry(
        name="vqascore",
        opener="vqascore:open_vqascore",
        scale='0 to 1; geometric mean of P("Yes") and P(end)',
        licence="Apache-2.0",
        memory_gb=23.1,
        dtype="bfloat16",
        weights="zhiqiulin/clip-flant5-xxl",
        assets={**_WEIGHTS, "vision": "vision"},
        preset={"size": "xxl"},
        input=_SHOW,
    ),
    Entry(
        name="vqascore_xl",
        opener="vqascore:open_vqascore",
        scale='0 to 1; geometric mean of P("Yes") and P(end)',
        licence="Apache-2.0",
        memory_gb=6.5,
        dtype="bfloat16",
        weights="zhiqiulin/clip-flant5-xl",
        assets={**_WEIGHTS, "vision": "vision"},
        preset={"size": "xl"},
        input=_SHOW,
    ),
    Entry(
        name="vqascore_vlm",
        opener="vqascore_vlm:open_vqascore_vlm",
        scale='0 to 1; P("Yes"), compares under one model and template only',
        licence="Apache-2.0",
        memory_gb=16.6,
        dtype="bfloat16",
        weights="Qwen/Qwen2.5-VL-7B-Instruct",
        assets=_VLM,
        input=_CHAT,
    ),
    Entry(
        name="vlm_judge",
        opener="judge:open_judge",
        scale="1 to 5; a mark that a vision-language model gives",
        licence="Apache-2.0",
        memory_gb=16.6,
        dtype="bfloat16",
        weights="Qwen/Qwen2.5-VL-7B-Instruct",
        assets=_JUDGE,
        options={"max_tokens": int},
        preset={"rubric": "plain", "name": "vlm_judge"},
        input=_CHAT,
    ),
    Entry(
        name="visionprefer_judge",
        opener="judge:open_judge",
        scale="1 to 5; mean of prompt following, aesthetic, fidelity, harmlessness",
        licence="Apache-2.0",
        memory_gb=16.6,
        dtype="bfloat16",
        weights="Qwen/Qwen2.5-VL-7B-Instruct",
        assets=_JUDGE,
        options={"max_tokens": int},
        preset={"rubric": "visionprefer", "name": "visionprefer_judge"},
        input=_CHAT,
    ),
    Entry(
        name="unifiedreward",
        opener="judge:open_judge",
        scale="1 to 5; its overall mark",
        licence="not stated (code MIT)",
        memory_gb=16.6,
        dtype="bfloat16",
        weights="CodeGoat24/UnifiedReward-qwen-7b",
        assets=_JUDGE,
        options={"max_tokens": int},
        preset={"rubric": "unifiedreward", "name": "unifiedreward"},
        input=_CHAT,
    ),
    Entry(
        name="unifiedreward2",
        opener="judge:open_judge",
        scale="1 to 5; mean of alignment, coherence, style",
        licence="not stated (code MIT)",
        memory_gb=16.6,
        dtype="bfloat16",
        weights="CodeGoat24/UnifiedReward-2.0-qwen-7b",
        assets=_JUDGE,
        options={"max_tokens": int},
        preset={"rubric": "unifiedreward2", "name": "unifiedreward2"},
        input=_CHAT,
    ),
    Entry(
        name="clip_i",
        opener="clip_i:open_clip_i",
        scale="0.6 to 0.9; mean cosine with a subject's pictures, ViT-B/32",
        licence="MIT",
        memory_gb=0.3,
        weights=_CLIP_B,
        assets={**_PATH, "references": "references"},
        needs_prompts=False,
        input=_MIDDLE,
    ),
    Entry(
        name="lambda_harmonic",
        opener="harmonic:open_lambda_harmonic",
        scale="0 to 1; harmonic mean of CLIPScore and CLIP-I as (cosine + 1) / 2, 0.3 on the subject",
        licence="MIT",
        memory_gb=0.3,
        weights=_CLIP_B,
        assets={**_PATH, "references": "references"},
        options={"lam": float},
        input=f"{_MIDDLE}; CLIP's 77 tokens",
    ),
    Entry(
        name="shapes_oracle",
        opener="shapes_oracle:ShapesOracle",
        scale="0 to 1; share of the prompt's demands that are fulfilled, exact, shapes world only",
        licence="Apache-2.0",
    ),
    Entry(
        name="jpeg_size",
        opener="statistics:open_jpeg_size",
        scale="above 0; kilobytes as a JPEG of quality 95",
        licence="Apache-2.0",
        needs_prompts=False,
    ),
    Entry(
        name="sharpness",
        opener="statistics:open_sharpness",
        scale="above 0; variance of the Laplacian of grey levels",
        licence="Apache-2.0",
        needs_prompts=False,
    ),
)
"""palate's own rewards, in the order in which they are listed."""
