"""Who prefers: a step-aware preference model, or any scorer of the zoo, asked about clean estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ...errors import UserError
from ...rewards.learn.fit import fingerprint
from ...rewards.reward import Failure
from ...rewards.scorer import open_scorer
from ...rewards.scoring.asking import blamed
from ...rewards.step_aware import open_step_aware
from ..methods.online import JudgeSettings

STEP_AWARE = "step_aware"
_PUBLISHED = {"sd1": "sd15", "sdxl": "sdxl"}
_AT_ONCE = 32  # pictures in one pass of a preference model


@dataclass
class PictureJudge:
    """A judge of decoded pictures.

    Attributes:
        name: what it is called.
        fingerprint: changes with its weights and settings.
        ask: `(prompts, pixels [n, 3, H, W], thousandths [n], failures) -> scores [n]`.
        reason: why a picture had no score the last time that one had none.
    """

    name: str
    fingerprint: str
    ask: Callable[[Sequence[str], Tensor, Tensor, list[Failure]], Tensor]
    reason: str = field(default="", init=False)

    @torch.no_grad()
    def score(self, prompts: Sequence[str], pixels: Tensor, thousandths: Tensor) -> Tensor:
        """One float32 each, `[n]` on the device of `pixels [n, 3, H, W]`, of `decode_pixels`; higher is better.

        NaN for a picture that the judge refuses, or that is broken: of one colour, or with pixels that are no numbers.
        """
        scores = torch.full((len(pixels),), torch.nan, device=pixels.device)
        failures: list[Failure] = []
        whole = _whole(pixels).nonzero().flatten()
        if len(whole) < len(pixels):
            self.reason = "the picture is black, of another single colour, or not finite"
        if len(whole):
            asked = [prompts[int(number)] for number in whole]
            given = self.ask(asked, pixels[whole], thousandths[whole], failures).to(scores)
            scores[whole] = torch.where(given.isfinite(), given, torch.nan)
            if not given.isfinite().all():
                self.reason = failures[-1].reason if failures else "the judge returned no finite number"
        return scores


def open_judge(settings: JudgeSettings, family: str, device: torch.device | str) -> PictureJudge:
    """The judge that a recipe names, for pictures of a model of `family`.

    Raises UserError: its name is unknown, its weights cannot be found, or there are none for the family.
    """
    if settings.name == STEP_AWARE:
        return _step_aware(settings, family, device)
    given = {"weights": settings.weights, "tokenizer": settings.tokenizer, **settings.assets}
    assets = {name: value for name, value in given.items() if value is not None}
    scorer = open_scorer(settings.name, device=device, **assets)

    def ask(prompts: Sequence[str], pixels: Tensor, thousandths: Tensor, failures: list[Failure]) -> Tensor:
        with blamed(scorer.reward):
            return torch.from_numpy(scorer.reward.score(prompts, to_pictures(pixels), failures))

    return PictureJudge(scorer.name, scorer.fingerprint, ask)


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Pictures of pixels `[n, 3, H, W]`, 8 bits each; what is beyond black and white is cut."""
    levels = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in levels]


def _step_aware(settings: JudgeSettings, family: str, device: torch.device | str) -> PictureJudge:
    weights = settings.weights or _PUBLISHED.get(family)
    if weights is None:
        raise UserError(
            f"method.judge.weights: no step-aware preference model is published for {family}; train one (method "
            "step_aware) and give its folder, or name a scorer, such as method.judge.name=pickscore"
        )
    if settings.assets:
        raise UserError(f"method.judge.assets: {STEP_AWARE} takes weights and tokenizer; leave the assets out")
    model = open_step_aware(weights, settings.tokenizer, device)

    def ask(prompts: Sequence[str], pixels: Tensor, thousandths: Tensor, failures: list[Failure]) -> Tensor:
        parts = (slice(start, start + _AT_ONCE) for start in range(0, len(pixels), _AT_ONCE))
        return torch.cat(
            [model.score_at(prompts[part], model.prepare_tensor(pixels[part]), thousandths[part]) for part in parts]
        )

    return PictureJudge(STEP_AWARE, fingerprint(model.network), ask)


def _whole(pixels: Tensor) -> Tensor:
    """Which pictures `[n]` show something: finite pixels that are not all the same."""
    rows = pixels.clamp(0, 1).flatten(2)
    return rows.isfinite().all(2).all(1) & (rows.amax(2) > rows.amin(2)).any(1)
