"""One user's taste as a reward: PAL on the tower that it was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from torch import Tensor

from ...errors import UserError
from ..reward import ScoresPixels, require_pairs
from .tastes import Tastes
from .votes import Embeds


@dataclass(frozen=True, eq=False)
class TasteReward(ScoresPixels):
    """What pictures are worth to one user, or for None to the crowd; see `Tastes.score`.

    Args:
        reward: whose features the tastes were fitted on.
        user: `tastes` must know them.

    Raises:
        UserError: the tastes were fitted on another reward's features, as far as both names are known.
    """

    reward: Embeds
    tastes: Tastes
    user: str | None = None
    modality: Literal["image"] = "image"
    differentiable: bool = True

    def __post_init__(self) -> None:
        name, features = getattr(self.reward, "name", ""), self.tastes.features
        if name and features and name != features:
            raise UserError(f"these tastes were fitted on features of {features} and not of {name}; open {features}")

    @property
    def name(self) -> str:
        """`pal`, or `pal` and the user."""
        return "pal" if self.user is None else f"pal {self.user}"

    def prepare(self, picture: Image.Image) -> Tensor:
        """As the tower's reward does.

        Raises:
            OSError, ValueError: the picture cannot be decoded.
        """
        return self.reward.prepare(picture)

    def score_pixels(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """One float32 per pair, `[n]`, of prompts and prepared pictures `[n, 3, h, w]`; differentiable in pixels.

        Raises:
            ValueError: there are not as many prompts as pictures.
        """
        require_pairs(prompts, pixels)
        return self.tastes.score(self.user, self.reward.tower.images(pixels), self.reward.tower.texts(prompts))
