"""The comparison of the methods: its data, its budget, and the page that is made of its record."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import palate
from palate.datasets.group import Group
from palate.datasets.shapes.prompts import is_held_out
from palate.datasets.shapes.world import Shape, render

sys.path.insert(0, str(Path(palate.__file__).parent / "benchmarks"))

from method_data import Size, _captioned, _shuffled, caption_of, evaluation_prompts, evaluation_seeds
from method_entries import ENTRIES, Entry
from method_run import offline_recipe
from method_table import render as page


def _png(*shapes: Shape) -> bytes:
    buffer = io.BytesIO()
    render(list(shapes)).save(buffer, "PNG")
    return buffer.getvalue()


RED_CIRCLE = Shape("circle", "red", 16, 16, 7)


def test_no_sentence_is_used_for_the_search_and_for_the_report():
    search, report = ([p.text for p in evaluation_prompts(part, 240)] for part in ("search", "report"))
    assert not set(search) & set(report)
    assert all(is_held_out(text) for text in [*search, *report])
    categories = [p.category for p in evaluation_prompts("report", 240)]
    assert {categories.count(category) for category in set(categories)} == {40}


def test_no_picture_is_drawn_from_the_same_seed_twice():
    size = Size()
    drawn = [*range(size.groups * size.per_prompt), *range(3_000_000, 3_000_000 + size.error_groups * size.per_prompt)]
    for part in ("search", "report"):
        drawn += evaluation_seeds(part, size).ravel().tolist()
    assert len(set(drawn)) == len(drawn)


def test_a_caption_is_the_prompt_where_it_is_true_and_else_what_is_seen():
    picture = Image.open(io.BytesIO(_png(RED_CIRCLE)))
    assert caption_of("a view of a circle", picture) == "a view of a circle"
    assert caption_of("an image of three squares", picture) == "an image of a red circle"
    two = Image.open(io.BytesIO(_png(Shape("cross", "red", 8, 8, 5), Shape("cross", "blue", 24, 24, 5))))
    assert caption_of("a photo of a cross and a square", two) == "a photo of two crosses"


def test_half_of_the_shuffled_groups_are_turned_round_and_nothing_else_changes():
    groups = [Group(str(i), "p", (b"a", b"b", b"c"), (1.0, 0.75, 0.25)) for i in range(10)]
    shuffled = list(_shuffled(groups))
    assert sorted(g.labels for g in shuffled) == [(0.25, 0.5, 1.0)] * 5 + [(1.0, 0.75, 0.25)] * 5
    assert [(g.key, g.candidates) for g in shuffled] == [(g.key, g.candidates) for g in groups]


def test_the_losers_caption_is_changed_and_the_winners_fits():
    group = Group("k", "a photo of a red circle", (_png(RED_CIRCLE), _png(Shape("cross", "blue", 16, 16, 7))), (1, 0))
    (written,) = _captioned([group], "hybrid")
    assert written.captions is not None
    assert written.captions[0] == "a photo of a red circle"
    assert written.captions[1] not in ("a photo of a red circle", "a photo of a blue cross")


@pytest.mark.parametrize(
    ("name", "per_group", "groups", "steps"),
    [
        ("diffusion_dpo", 2 * 4, 16, 250),
        ("mapo", 2 * 3, 16, 333),
        ("rank_dpo", 4 * 4, 8, 250),
        ("inpo", 2 * (4 + 5), 16, 111),
        ("sft", 1 * 3, 32, 333),
    ],
)
def test_steps_follow_from_the_budget(name, per_group, groups, steps, tmp_path):
    job = ENTRIES[name].job(name, "tiny-sdxl")
    recipe, cost = offline_recipe(job, tmp_path, tmp_path / "run")
    assert (cost, recipe.training.batch_size, recipe.training.steps) == (per_group, groups, steps)


def test_the_page_pools_seeds_and_resamples_prompts():
    prompts, images = 60, 2
    rng = np.random.default_rng(0)
    before = rng.integers(0, 2, prompts * images)

    def run(right: np.ndarray) -> dict:
        return {
            "method": {"name": "mapo", "beta": 0.1},
            "training": {},
            "form": "groups",
            "steps": 3,
            "groups_per_step": 16,
            "cpu_seconds": 1.0,
            "measuring_seconds": 1.0,
            "peak_memory_gib": 1.0,
            "right": "".join(map(str, right)),
            "diversity": 0.2,
            "winner_error": 0.11,
            "loser_error": 0.1,
        }

    better = np.where(np.arange(before.size) % 3 == 0, 1, before)  # never worse
    base = {"right": "".join(map(str, before)), "diversity": 0.25, "winner_error": 0.1, "loser_error": 0.1}
    about = {"prompts": prompts, "images": images, "groups": 6, "per_prompt": 4, "evaluations": 100, "pictures": 8}
    record = {
        "about": about,
        "base": {f"tiny-{family}/{part}": base for family in ("sdxl", "sd3") for part in ("report", "search")},
        "runs": {
            "mapo/tiny-sdxl/0": run(better),
            "mapo/tiny-sdxl/1": run(before),
            "mapo/tiny-sdxl/shuffled/0": run(before),
        },
    }
    text = page(record, {"mapo": Entry({"name": "mapo"}, card=True, why={"tiny-sdxl": "because"})})
    each = 100 * (better - before).mean()
    assert f"{each / 2:+.1f} [" in text
    assert f"{each:+.1f}, +0.0" in text
    assert "+10.0 % | +0.0 %" in text
    assert "above zero for mapo." in text
    assert "None of them gains." in text
    assert "because" not in text
