"""Which pictures a Syn-Pic set is made of, in which order, and which are drawn together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ....datasets.digest import digest
from ....diffusion.draws import Stream, generator_for
from ....errors import UserError
from .generators import OpenGenerator


@dataclass(frozen=True)
class Picture:
    """One candidate: its file's name, its prompt, the seed of its noise, and the number of its generator."""

    image: str
    prompt: str
    seed: int
    generator: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Every picture of a set, by the number of its prompt and its place in the group.

    What is drawn together, and scored together, depends on these numbers alone, so that a run which was stopped, or
    shared among processes, makes the same bytes as one in one go.

    Args:
        block: prompts that are drawn and scored together; a generator draws as many pictures at once.
    """

    prompts: tuple[str, ...]
    generators: tuple[OpenGenerator, ...]
    seed: int
    block: int

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The number of the generator at each place in a group, `[k]`."""
        return tuple(number for number, one in enumerate(self.generators) for _ in range(one.generator.images))

    @property
    def size(self) -> int:
        """k, the pictures of a group."""
        return len(self.places)

    def picture(self, number: int, place: int) -> Picture:
        """The picture of prompt `number` at `place` in its group."""
        # A generator's number has 63 bits, of which torch's CPU generator keeps the low 32: the draw is the same, and
        # the seed short enough for any program to draw the picture again.
        seed = generator_for(self.seed, Stream.SAMPLING, number, place).initial_seed() & 0xFFFFFFFF
        return Picture(f"{number:06d}-{place}.png", self.prompts[number], seed, self.places[place])

    def find(self, image: str) -> Picture:
        """The picture in the file of this name."""
        number, _, place = image.removesuffix(".png").partition("-")
        return self.picture(int(number), int(place))

    def pictures(self) -> Iterator[Picture]:
        """All of them, group by group."""
        return (self.picture(number, place) for number in range(len(self.prompts)) for place in range(self.size))

    def batches(self, generator: int, shard: tuple[int, int]) -> Iterator[list[Picture]]:
        """What a generator draws at once, in order, in the blocks of a shard: every count-th one."""
        places = [place for place in range(self.size) if self.places[place] == generator]
        for start in range(shard[0] * self.block, len(self.prompts), shard[1] * self.block):
            numbers = range(start, min(start + self.block, len(self.prompts)))
            drawn = [self.picture(number, place) for number in numbers for place in places]
            yield from (drawn[first : first + self.block] for first in range(0, len(drawn), self.block))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The pictures' manifest, as `palate generate` writes it."""
        settings = [one.settings for one in self.generators]
        for picture in self.pictures():
            told = {"prompt": picture.prompt, "seed": picture.seed, **settings[picture.generator]}
            yield {**told, "image": picture.image}

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the pictures but for rounding, as JSON takes it.

        Not the block: who runs out of memory takes a smaller one and goes on.
        """
        return {
            "prompts": len(self.prompts),
            "digest of the prompts": digest(*self.prompts),
            "seed": self.seed,
            "generators": {
                one.generator.called: {"images": one.generator.images, **one.settings} for one in self.generators
            },
        }


def make_plan(prompts: Sequence[str], generators: tuple[OpenGenerator, ...], seed: int, block: int) -> Plan:
    """The plan of one group for each different prompt.

    Raises:
        UserError: there are no prompts, one is empty or not valid Unicode, or a group would be a single picture.
    """
    if not prompts:
        raise UserError("there are no prompts")
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise UserError(f"prompt {number} is empty; leave it out")
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UserError(f"prompt {number} is not valid Unicode: {prompt!r}") from None
    plan = Plan(tuple(dict.fromkeys(prompts)), generators, seed, block)
    if plan.size < 2:
        raise UserError("a group of one picture has nothing to compare; name another generator, or draw more images")
    return plan
