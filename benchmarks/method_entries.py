"""The rows of the comparison: each method, its data and its settings for each tiny model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from method_online import ONLINE
from method_run import OFFLINE, Job, Way

MODELS = ("tiny-sdxl", "tiny-sd3")
SEEDS = (0, 1, 2)
"""Of each row and of each control."""

_Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One row for each model.

    method     the recipe's `method` section
    form       of the data; see `method_data.FORMS`
    control    whether it is run with shuffled labels too
    settings   by model: what is changed of the method's section, and `training`, what is changed of the recipe's
    note       what must be known to read its numbers
    why        by model: why it shows no gain there, where it does not
    way        how it is trained: another one where a method samples its own pictures
    """

    method: _Settings
    form: str = "groups"
    control: bool = True
    settings: Mapping[str, _Settings] = field(default_factory=dict)
    note: str = ""
    why: Mapping[str, str] = field(default_factory=dict)
    way: Way = OFFLINE

    def job(self, name: str, model: str, **others: Any) -> Job:
        """The job of this row for a model; `name` is the row's."""
        chosen = dict(self.settings.get(model, {}))
        form, training = chosen.pop("form", self.form), chosen.pop("training", {})
        return Job(name, model, {**self.method, **chosen}, training, form, **others)


def _dpo(**settings: Any) -> _Settings:
    return {"name": "diffusion_dpo", "beta": 500, **settings}


def _flow(beta: float, **others: Any) -> Mapping[str, _Settings]:
    """The tiny SD3's: errors of a velocity are larger than those of a noise, and vary more from picture to picture."""
    return {"tiny-sd3": {"beta": beta, "training": {"learning_rate": 1e-3}, **others}}


_SLOW = {"training": {"learning_rate": 1e-3}}

ENTRIES: dict[str, Entry] = {
    "diffusion_dpo": Entry(_dpo(), settings=_flow(50)),
    "mapo": Entry(
        {"name": "mapo", "beta": 2.4, "steps": 10},
        settings={"tiny-sdxl": _SLOW, "tiny-sd3": _SLOW},
        note="Without a reference the sigmoid also sees which of the two pictures is harder to denoise. At the paper's "
        "T that decides it, pair by pair, and no setting that was tried on the tiny SDXL gained; a small T leaves it "
        "near its middle, so that every pair counts alike.",
    ),
    "rank_dpo": Entry({"name": "rank_dpo", "beta": 500}, settings=_flow(25)),
    "dcpo": Entry(
        {"name": "dcpo", "beta": 500},
        form="hybrid",
        settings=_flow(100),
        note="Its captions come from the oracle, which tells it more than the other methods are told.",
    ),
    "inpo": Entry(
        {"name": "inpo", "beta": 2000},
        settings=_flow(100, eta=0.7),
        note="A tiny model's inversion of a picture ends at noise of too small a variance, which its sampler never "
        "meets; on the tiny SD3 a larger share eta of the sampler's own noise makes up for it.",
    ),
    "spo": Entry(
        {"name": "spo"},
        form="prompts",
        control=False,
        settings={
            "tiny-sdxl": {"training": {"learning_rate": 3e-3}},
            "tiny-sd3": {"k": 2, "training": {"learning_rate": 2e-3}},
        },
        note="It learns from pictures that it draws of the same prompts while it trains, and the oracle judges every "
        "step of them: more than the labels that the others get. The budget counts its rollouts too.",
        way=ONLINE,
    ),
    "d3po": Entry(
        {"name": "d3po"},
        form="prompts",
        control=False,
        settings={
            "tiny-sdxl": {"training": {"learning_rate": 3e-3}},
            "tiny-sd3": {"pictures": 2, "training": {"learning_rate": 2e-3}},
        },
        note="It learns from pictures that it draws of the same prompts while it trains, and the oracle judges the "
        "finished ones. The budget counts its rollouts too.",
        why={
            "tiny-sd3": "d3po hears of finished pictures alone, and its rollouts take most of the budget: few steps "
            "remain to learn in. Learning rate, beta, eta, clip, pictures, sampling steps and batches were searched."
        },
        way=ONLINE,
    ),
    "dpo_ipo": Entry(_dpo(objective="ipo", beta=50), settings=_flow(10)),
    "dpo_hinge": Entry(_dpo(objective="hinge"), settings=_flow(50)),
    "dpo_anchored": Entry(_dpo(objective="anchored_dpo", anchor=30.0), settings=_flow(50, anchor=3.0)),
    "dpo_safeguard": Entry(_dpo(safeguard=0.6), settings=_flow(50)),
    "dmpo": Entry({"name": "dmpo", "beta": 500}, settings=_flow(50)),
    "dspo": Entry(
        {"name": "dspo", "beta": 0.5},
        form="stronger",
        settings={"tiny-sd3": {"training": {"learning_rate": 2e-3}}},
        note="It denoises the winners, and so needs some that are better than what the model draws: from the model's "
        "own pictures (data groups) it loses, as fine-tuning on them does.",
    ),
    "capo": Entry({"name": "capo", "beta": 100}, settings=_flow(50)),
    "dcpo_perturb": Entry({"name": "dcpo", "beta": 500}, form="perturb", settings=_flow(100)),
    "tpo": Entry(
        {"name": "tpo", "beta": 500},
        form="tpo",
        settings={"tiny-sd3": {"beta": 3000, "training": {"learning_rate": 2e-3}}},
        why={
            "tiny-sd3": "tpo never sees one picture against another, only one under two captions; on the tiny SD3 a "
            "small beta loses much and a large one moves little. beta and learning rate were searched."
        },
    ),
    "pnapo": Entry({"name": "pnapo", "beta": 5000, "label_scale": 0.2}, settings=_flow(500)),
    "diffusion_kto": Entry({"name": "diffusion_kto", "beta": 250}, settings=_flow(25)),
    "em_dpo": Entry({"name": "em_dpo", "beta": 500}, settings=_flow(50)),
    "seppo": Entry(
        {"name": "seppo", "beta": 3, "every": 30, "steps": 2, "guidance": 1},
        form="stronger",
        settings={"tiny-sdxl": _SLOW, "tiny-sd3": _SLOW},
        note="It learns from the winners alone, and draws the pictures to compare them with; the budget counts these. "
        "Where the winners are the model's own pictures (data groups) many of its comparisons are flipped, and "
        "what is left is fine-tuning on one's own pictures, which loses.",
    ),
    "smpo": Entry(
        {"name": "inpo", "beta": 2000, "gamma": 1.0, "label_scale": 0.2, "corrections": 1, "eta": 0.0},
        settings={"tiny-sdxl": {"steps": 2}, **_flow(50, eta=0.7)},
    ),
    "dpo_stronger": Entry(_dpo(), form="stronger", settings=_flow(50)),
    "sft_stronger": Entry(
        {"name": "sft"},
        form="stronger_winners",
        control=False,
        settings={"tiny-sd3": {"training": {"learning_rate": 2e-3}}},
    ),
    "sft": Entry(
        {"name": "sft"},
        form="winners",
        control=False,
        why=dict.fromkeys(
            MODELS,
            "sft denoises pictures that the model itself drew in a few steps and without guidance, and comes to draw "
            "as they look, at every learning rate that was tried; from better winners it gains (sft_stronger).",
        ),
    ),
}
"""By the row's name."""
