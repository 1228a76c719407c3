"""How often the shapes world's oracle errs, by category, as blur (pixels) and noise (grey levels of 255) grow.

    python examples/oracle_error.py --pictures 600

False rejection: a rendered scene of a prompt is refused. False acceptance: the scene is accepted for another prompt of
its category that it does not fulfil.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image
from scipy import ndimage

from palate.datasets.shapes.oracle import judge
from palate.datasets.shapes.prompts import CATEGORIES, Prompt, all_prompts, draw_prompts, draw_scene
from palate.datasets.shapes.world import render

LEVELS = ((0.0, 0.0), (0.0, 16.0), (0.0, 32.0), (0.5, 8.0), (0.7, 12.0), (1.0, 8.0), (1.0, 16.0), (1.3, 8.0))


def spoil(picture: Image.Image, blur: float, noise: float, rng: np.random.Generator) -> Image.Image:
    """A Gaussian blur, then Gaussian noise on each channel."""
    pixels = ndimage.gaussian_filter(np.asarray(picture, dtype=np.float64), (blur, blur, 0))
    pixels += rng.normal(0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def meaning(prompt: Prompt) -> object:
    """Equal for two prompts that the same scenes fulfil: the order counts only where a relation names it."""
    flipped = {"right of": "left of", "below": "above"}.get(prompt.relation or "")
    wanted = prompt.wanted if prompt.relation else frozenset(prompt.wanted)
    return (prompt.wanted[::-1], flipped) if flipped else (wanted, prompt.relation)


def main(pictures: int, seed: int) -> None:
    everything = {category: [p for p in all_prompts() if p.category == category] for category in CATEGORIES}
    print(f"errors in per cent, {pictures // len(CATEGORIES)} pictures a cell: false rejection / false acceptance")
    print("blur noise " + "".join(f"{name:>15}" for name in (*CATEGORIES, "all")))
    for blur, noise in LEVELS:
        rng = np.random.default_rng(seed)  # the same scenes at every level
        errors: dict[str, list[tuple[bool, bool]]] = {category: [] for category in CATEGORIES}
        for prompt in draw_prompts(pictures, seed, held_out=True):
            picture = spoil(render(draw_scene(prompt, rng)), blur, noise, rng)
            others = [p for p in everything[prompt.category] if meaning(p) != meaning(prompt)]
            other = others[rng.integers(len(others))]
            errors[prompt.category].append((not judge(prompt, picture).correct, judge(other, picture).correct))
        columns = [*errors.values(), [pair for pairs in errors.values() for pair in pairs]]
        rates = [100 * np.mean(column, axis=0) for column in columns]
        print(f"{blur:4} {noise:5} " + "".join(f"{f'{a:.1f} / {b:.1f}':>15}" for a, b in rates), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
