"""The demonstration: two tiny models are aligned with preferences on their own samples, and measured before and after.

generate -> score -> groups -> align -> evaluate, for the tiny SDXL (epsilon, UNet) and the tiny SD3 (flow, MMDiT).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..datasets.parquet import write_groups
from ..datasets.shapes.oracle import judge
from ..datasets.shapes.prompts import CATEGORIES, Prompt, draw_prompts
from ..datasets.shapes.raters import Rater, oracle_rater
from ..errors import UserError
from ..t2i.align import align
from ..t2i.build.samples import sample_groups
from ..t2i.gallery import load_lora
from ..t2i.generate import generate
from ..t2i.models.checkpoint import find_checkpoint
from ..t2i.models.model import TextToImageModel
from ..t2i.models.sampling import Sampling, sampling_for
from ..t2i.recipe import Recipe
from ..t2i.recipes import recipe_file
from ..training.curves import line_chart_svg
from ..training.recipe import load_recipe
from ..training.trackers import read_metrics
from .compare import Comparison
from .report import Example, ModelSection, write_report

_MARK = ".palate-demo"
_MARK_TEXT = "`palate demo` wrote this folder; run again, it empties it first.\n"
_OURS = {_MARK, "sdxl", "sd3", "report.html", "summary.json"}

Say = Callable[[str], None]
Advance = Callable[[str, int, int], None]

TITLE = "palate: two models learn from preferences"
ABOUT = (
    "Each model drew {per_prompt} pictures for each of {groups} prompts of the shapes world; the oracle scored them; "
    "Diffusion-DPO with LoRA learned from the best against the worst. Then base and aligned model drew "
    "{held_out} held-out prompts {images} times each from the same seeds, and the oracle judged both: a picture counts "
    "if it shows what the prompt asks for and nothing else."
)


@dataclass(frozen=True)
class DemoSize:
    """How much the demonstration draws and trains; the defaults fit six minutes on two CPU cores."""

    groups: int = 600
    per_prompt: int = 4
    held_out: int = 360
    images: int = 3
    steps: int = 8
    guidance: float = 1.0
    batch_size: int = 60


@dataclass(frozen=True)
class Outcome:
    """One model's demonstration."""

    family: str
    comparison: Comparison
    section: ModelSection
    seconds: float

    def summary(self) -> dict[str, object]:
        """What `summary.json` says of the model."""
        return {**self.comparison.summary(), "seconds": round(self.seconds, 1)}


def run_demo(
    folder: Path,
    say: Say,
    advance: Advance,
    families: Sequence[str] = ("sdxl", "sd3"),
    size: DemoSize = DemoSize(),
    rate: Rater = oracle_rater,
    seed: int = 0,
) -> dict[str, Outcome]:
    """Run the demonstration and write `report.html` and `summary.json` into `folder`.

    Raises UserError if the folder holds something else than an earlier demonstration.
    """
    _clear(folder)
    outcomes: dict[str, Outcome] = {}
    for family in families:
        outcomes[family] = demonstrate(family, folder / family, say, advance, size, rate, seed)
        low, high = outcomes[family].comparison.gain_ci95
        gain = outcomes[family].comparison.overall
        say(
            f"tiny {family.upper()}: {gain.before.mean:.1%} -> {gain.after.mean:.1%} of the pictures of held-out "
            f"prompts are right; gain {100 * gain.gain.mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        )
    about = ABOUT.format(per_prompt=size.per_prompt, groups=size.groups, held_out=size.held_out, images=size.images)
    write_report(folder / "report.html", [o.section for o in outcomes.values()], title=TITLE, about=about)
    summary = {family: outcome.summary() for family, outcome in outcomes.items()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return outcomes


def demonstrate(
    family: str, folder: Path, say: Say, advance: Advance, size: DemoSize, rate: Rater, seed: int
) -> Outcome:
    """Build groups from a tiny model's samples, align it, and compare it with its base."""
    started = time.monotonic()
    name = f"tiny-{family}"
    model = TextToImageModel(find_checkpoint(name))
    sampling = sampling_for(model, size.steps, size.guidance, batch_size=size.batch_size)

    prompts = [prompt.text for prompt in draw_prompts(size.groups, seed, held_out=False)]
    stage = f"{name}: drawing {size.groups} x {size.per_prompt} pictures"
    groups = sample_groups(model, prompts, size.per_prompt, seed, sampling, rate, source=name)
    write_groups(_counted(groups, lambda done: advance(stage, done, size.groups)), folder / "groups")

    recipe = demo_recipe(name, folder)
    align(recipe, say, advance)

    held_out = draw_prompts(size.held_out, seed, held_out=True)
    before, pictures_before = _evaluate(
        model, held_out, size, sampling, None, f"{name}: drawing with the base", advance
    )
    lora = str(folder / "run" / "final")
    after, pictures_after = _evaluate(model, held_out, size, sampling, lora, f"{name}: drawing aligned", advance)
    comparison = Comparison(
        tuple(prompt.text for prompt in held_out),
        tuple(prompt.category for prompt in held_out),
        _seeds(size),
        before,
        after,
    )
    seconds = time.monotonic() - started
    section = ModelSection(
        name=f"Tiny {family.upper()}",
        comparison=comparison,
        examples=_examples(held_out, before, after, pictures_before, pictures_after, size.images),
        curves_svg=_curves(folder / "run" / "metrics.jsonl"),
        facts=_facts(recipe, seconds),
    )
    return Outcome(family, comparison, section, seconds)


def demo_recipe(name: str, folder: Path) -> Recipe:
    """The shipped recipe of a tiny model, pointed at the demonstration's folder."""
    overrides = {"data.path": folder / "groups", "data.cache": folder / "cache", "output.folder": folder / "run"}
    return load_recipe(
        recipe_file(f"{name}-dpo"), [f"{key}={json.dumps(str(v))}" for key, v in overrides.items()], Recipe
    )


def _clear(folder: Path) -> None:
    """Make room: an earlier demonstration goes, anything else stays and is an error.

    Names alone prove nothing: people too call folders `sdxl`. The mark does, and it is there before all else, so that a
    demonstration that was interrupted can be run again.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(path.name for path in folder.iterdir())
        if there and not _is_marked(folder):
            raise UserError(f"{folder} is not an earlier demo (it holds {there[0]}); give --out a new or empty folder")
        if strangers := [name for name in there if name not in _OURS]:
            raise UserError(f"{folder} holds other things ({strangers[0]}); give --out a new folder")
        (folder / _MARK).write_text(_MARK_TEXT, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; give --out another folder") from None
    for path in (folder / name for name in there if name != _MARK):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_marked(folder: Path) -> bool:
    try:
        return (folder / _MARK).read_text(encoding="utf-8") == _MARK_TEXT
    except (OSError, UnicodeDecodeError):
        return False


def _counted(items, on_item):
    for done, item in enumerate(items, 1):
        on_item(done)
        yield item


def _seeds(size: DemoSize) -> np.ndarray:
    """Seeds `[prompts, images]`, far from those of the training pictures."""
    return 1_000_000 + np.arange(size.held_out * size.images).reshape(size.held_out, size.images)


def _evaluate(
    model: TextToImageModel,
    prompts: list[Prompt],
    size: DemoSize,
    sampling: Sampling,
    lora: str | None,
    stage: str,
    advance: Advance,
) -> tuple[np.ndarray, list[Image.Image]]:
    """The oracle's verdicts `[prompts, images]`, 1 for right, and the pictures."""
    model.free("network")  # the network that was trained carries an adapter
    texts = [prompt.text for prompt in prompts for _ in range(size.images)]
    drawn = generate(model, texts, _seeds(size).ravel().tolist(), sampling, load_lora(model, lora))
    pictures = list(_counted(drawn, lambda done: advance(stage, done, len(texts))))
    verdicts = [float(judge(text, picture).correct) for text, picture in zip(texts, pictures, strict=True)]
    return np.array(verdicts).reshape(len(prompts), size.images), pictures


def _examples(
    prompts: list[Prompt],
    before: np.ndarray,
    after: np.ndarray,
    pictures_before: list[Image.Image],
    pictures_after: list[Image.Image],
    images: int,
) -> list[Example]:
    """The first four prompts of each category: not chosen by how they turned out."""
    chosen = [i for category in CATEGORIES for i in [j for j, p in enumerate(prompts) if p.category == category][:4]]
    return [
        Example(
            prompts[i].text,
            pictures_before[i * images],
            pictures_after[i * images],
            bool(before[i, 0]),
            bool(after[i, 0]),
        )
        for i in chosen
    ]


def _curves(metrics: Path) -> list[str]:
    rows = [row for row in read_metrics(metrics) if "margin" in row]

    def series(key: str) -> list[tuple[float, float]]:
        return [(row["step"], row[key]) for row in rows if key in row]

    # A method without a reference has errors, and nothing to compare them with.
    number, title = ("gain", "gain over the reference") if series("winner_gain") else ("error", "error")
    return [
        line_chart_svg({"winner": series(f"winner_{number}"), "loser": series(f"loser_{number}")}, title),
        line_chart_svg({"accuracy": series("accuracy")}, "implicit accuracy"),
        line_chart_svg({"loss": series("loss")}, "loss"),
    ]


def _facts(recipe: Recipe, seconds: float) -> dict[str, str]:
    training = recipe.training
    beta = getattr(recipe.method, "beta", None)
    return {
        "method": recipe.method.name + ("" if beta is None else f", beta {beta:g}"),
        "adapter": f"LoRA of rank {recipe.model.lora.rank}",
        "training": f"{training.steps} steps of {training.batch_size} pairs, learning rate {training.learning_rate:g}",
        "time": f"{seconds:.0f} s",
    }
