"""The reward zoo as data: what there is, what its numbers mean, and where it opens.

Nothing heavy is imported before a reward is opened. Another package adds one under the entry point group
`palate.rewards`: the entry's name is the reward's, its object is called with assets (`weights="..."`, `device`,
`dtype`, ...) and returns a `Reward`; where that has no attribute `needs_prompts`, it is taken to need them.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from .reward import Modality, Reward

GROUP = "palate.rewards"
"""The entry point group of other packages' rewards."""


@dataclass(frozen=True)
class Entry:
    """One reward of the zoo.

    name           how it is asked for, and its column in tables
    opener         `module:function` of this package; the module is imported when the reward is opened
    scale          the usual range of its values, and what they are
    licence        of the official weights
    memory_gb      of the weights in bfloat16, in 10^9 bytes; 0 where there are none
    weights        the hub's repository that is taken where no path is given; None where there are no weights
    assets         the paths that may be given: name -> the opener's argument
    preset         arguments of the opener that make this entry
    needs_prompts  whether the prompt plays a part
    """

    name: str
    opener: str
    scale: str
    licence: str
    memory_gb: float = 0.0
    weights: str | None = None
    assets: Mapping[str, str] = field(default_factory=dict)
    preset: Mapping[str, Any] = field(default_factory=dict)
    needs_prompts: bool = True
    modality: Modality = "image"


_PATH = {"weights": "path", "tokenizer": "tokenizer"}
_WEIGHTS = {"weights": "weights", "tokenizer": "tokenizer"}
_CLIP_L, _BLIP = "openai/clip-vit-large-patch14", "Salesforce/blip-itm-large-coco"
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
    ),
    Entry(
        name="hpsv2",
        opener="hps:open_hps",
        scale="0.23 to 0.29; cosine, tables show 100 times that",
        licence="Apache-2.0",
        memory_gb=2.0,
        weights="xswu/HPSv2",
        assets=_PATH,
        preset={"version": "v2.0"},
    ),
    Entry(
        name="hpsv2.1",
        opener="hps:open_hps",
        scale="0.13 to 0.34; cosine, not to be compared with v2",
        licence="Apache-2.0",
        memory_gb=2.0,
        weights="xswu/HPSv2",
        assets=_PATH,
        preset={"version": "v2.1"},
    ),
    Entry(
        name="imagereward",
        opener="imagereward:open_imagereward",
        scale="-2.3 to 2; about standard normal over generated pictures",
        licence="Apache-2.0",
        memory_gb=0.9,
        weights="THUDM/ImageReward",
        assets={**_WEIGHTS, "config": "config"},
    ),
    Entry(
        name="clipscore",
        opener="clip_score:open_clip_score",
        scale="0.15 to 0.35; cosine of ViT-L/14, without the paper's factor 2.5",
        licence="MIT",
        memory_gb=0.9,
        weights=_CLIP_L,
        assets=_PATH,
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
    ),
    Entry(
        name="blip_itc",
        opener="blip_score:open_blip_itc",
        scale="-1 to 1; cosine of BLIP-large after COCO",
        licence="BSD-3-Clause",
        memory_gb=0.9,
        weights=_BLIP,
        assets=_WEIGHTS,
    ),
    Entry(
        name="blip_itm",
        opener="blip_score:open_blip_itm",
        scale="0 to 1; probability that the prompt describes the picture",
        licence="BSD-3-Clause",
        memory_gb=0.9,
        weights=_BLIP,
        assets=_WEIGHTS,
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


def plugins() -> dict[str, EntryPoint]:
    """Rewards that other packages bring, by name; palate's own names cannot be taken. Nothing is imported."""
    own = {entry.name for entry in ENTRIES}
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in own}


def find_entry(name: str) -> Entry | EntryPoint:
    """The entry of a name: palate's own or another package's.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    others = plugins()
    if name in others:
        return others[name]
    known = [*(entry.name for entry in ENTRIES), *others]
    plain = {_plain(other): other for other in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.5)
    hint = f"did you mean {plain[near[0]]}? " if near else ""
    raise UserError(f"there is no scorer {name!r}; {hint}known are {', '.join(known)}")


def open_reward(name: str, **assets: Any) -> Reward:
    """Open a reward by its name.

    Args:
        assets: the paths or hub ids that the entry names (`weights`, `tokenizer`, ...; the official ones are taken from
            the hub where they are left out), and the opener's other arguments, such as `device` and `dtype`.

    Raises:
        UserError: the name or an asset is unknown, or the weights cannot be found or read.
    """
    entry = find_entry(name)
    if isinstance(entry, EntryPoint):
        return _open_plugin(entry, assets)
    module, _, function = entry.opener.partition(":")
    opener = getattr(importlib.import_module(f".{module}", __package__), function)
    if entry.weights is None:
        assets = {key: value for key, value in assets.items() if key not in ("device", "dtype")}  # nothing to place
    given = {entry.assets.get(key, key): value for key, value in assets.items()}
    try:
        return opener(**entry.preset, **given)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UserError(f"{name} cannot be opened so ({error}); its assets are {_list(entry.assets)}") from error


def _open_plugin(point: EntryPoint, assets: Mapping[str, Any]) -> Reward:
    from .reward import Reward

    try:
        opener = point.load()
    except Exception as error:  # whatever another package does on import
        raise UserError(f"{point.name}, which is {point.value}, cannot be imported ({error})") from error
    reward = opener(**assets)
    if not isinstance(reward, Reward):
        raise UserError(f"{point.name}, which is {point.value}, gives a {type(reward).__name__}, which is no reward")
    return reward


def _plain(name: str) -> str:
    """`HPS-v2.1` and `hps_v2.1` are meant as `hpsv2.1`."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _list(names: Mapping[str, str]) -> str:
    return ", ".join(names) or "none"
