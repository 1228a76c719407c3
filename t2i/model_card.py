"""The model card of a finished run: README.md in the final folder, as the Hugging Face hub shows it."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from PIL import Image

from ..training.curves import Point, line_chart_png
from ..training.disk import write_text
from ..training.recipe import dump_recipe
from ..training.trackers import VALIDATION, Row, held_out, read_metrics

Tuning = Literal["lora", "full"]

_TAGS = {"sd1": "stable-diffusion", "sd2": "stable-diffusion", "sdxl": "stable-diffusion-xl", "sd3": "sd3"}
# What the official repositories state; the licence of any other base model is its owner's to say.
_LICENSES = {
    r"tiny-(sdxl|sd3)": "apache-2.0",
    r"(CompVis|runwayml|stable-diffusion-v1-5)/stable-diffusion-v1-[1-5]": "creativeml-openrail-m",
    r"(stabilityai|sd2-community)/stable-diffusion-2(-1)?(-base)?": "openrail++",
    r"stabilityai/stable-diffusion-xl-base-1\.0": "openrail++",
    r"stabilityai/stable-diffusion-3(-medium|\.5-medium|\.5-large).*": "stabilityai-ai-community",
}
_CHARTS: dict[str, dict[str, str]] = {
    "Loss": {"training": "loss", "held out": VALIDATION + "loss"},
    "Gain over the reference (lower error is positive)": {
        "winner": "winner_gain",
        "loser": "loser_gain",
        "winner, held out": VALIDATION + "winner_gain",
        "loser, held out": VALIDATION + "loser_gain",
    },
    "Margin": {"training": "margin", "held out": VALIDATION + "margin"},
    "Implicit accuracy": {"training": "accuracy", "held out": VALIDATION + "accuracy"},
}


def write_model_card(
    folder: Path,
    *,
    base_model: str,
    family: str,
    tuning: Tuning,
    recipe: Mapping[str, Any],
    data: Mapping[str, Any],
    metrics_file: Path,
    grids: Sequence[Path],
    versions: Mapping[str, Any],
    repo_id: str | None = None,
) -> Path:
    """Write `README.md`, and the pictures that it shows under `images/`, into the final folder; returns the card.

    Args:
        base_model: hub id, folder or built-in name of the checkpoint that was aligned.
        family: `sd1`, `sd2`, `sdxl` or `sd3`.
        recipe: as resolved; folders in it are shown by their last name only.
        data: the data set's hash and counts, shown as they are; nested ones are flattened.
        metrics_file: the run's `metrics.jsonl`, from which curves and held-out numbers come.
        grids: pictures of the same prompts and seeds, first before training and then after; missing ones are left out.
        versions: of the software, and the device and seed.
        repo_id: where the folder will be pushed, for the lines that show how to load it.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows = read_metrics(metrics_file)
    method = _method(recipe)
    sections = [
        f"---\n{_front_matter(base_model, family, tuning, method, recipe)}---",
        _introduction(base_model, tuning, method),
        _pictures("Before and after", _copied(grids, images)),
        _usage(folder, base_model, tuning, recipe, repo_id or "path/to/this/folder"),
        _validation(rows),
        _pictures("Curves", _curves(rows, images / "curves.png")),
        _table("Data", data),
        "## Recipe\n\n" + _fenced(dump_recipe(_without_folders(dict(recipe))), "yaml"),
        _table("Versions", versions),
        _license_note(base_model),
    ]
    card = folder / "README.md"
    write_text(card, "\n\n".join(section for section in sections if section) + "\n")
    return card


def _front_matter(base_model: str, family: str, tuning: Tuning, method: str, recipe: Mapping[str, Any]) -> str:
    tags = ["text-to-image", "diffusers", _TAGS.get(family, family), "palate", "preference-alignment", method]
    about: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if _is_hub_id(base_model):
        about |= {"base_model": base_model, "base_model_relation": "adapter" if tuning == "lora" else "finetune"}
    license = _license(base_model)
    if license == "stabilityai-ai-community":  # the hub knows it by its link only
        link = f"https://huggingface.co/{base_model}/blob/main/LICENSE.md"
        about |= {"license": "other", "license_name": license, "license_link": link}
    elif license:
        about["license"] = license
    source = str((recipe.get("data") or {}).get("path", ""))
    if _is_hub_id(source):
        about["datasets"] = [source]
    about["tags"] = [tag for tag in tags if tag] + (["lora"] if tuning == "lora" else [])
    return yaml.safe_dump(about, sort_keys=False, allow_unicode=True)


def _introduction(base_model: str, tuning: Tuning, method: str) -> str:
    base = f"[{base_model}](https://huggingface.co/{base_model})" if _is_hub_id(base_model) else _shown(base_model)
    what = "A LoRA for" if tuning == "lora" else "All weights of"
    how = f" by {method.replace('_', ' ')}" if method else ""
    return (
        f"# {_shown(base_model)}, aligned with preferences\n\n{what} {base}, aligned with preferences{how} with palate."
    )


def _usage(folder: Path, base_model: str, tuning: Tuning, recipe: Mapping[str, Any], here: str) -> str:
    start = base_model if _is_hub_id(base_model) else f"path/to/{_shown(base_model)}"
    prompts = (recipe.get("validation") or {}).get("prompts") or ["a photo of a cat"]
    opened = here if tuning == "full" else start
    lines = [
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        f'pipeline = DiffusionPipeline.from_pretrained("{opened}", torch_dtype=torch.float16).to("cuda")',
        *([f'pipeline.load_lora_weights("{here}")'] if tuning == "lora" else []),
        f"image = pipeline({json.dumps(str(prompts[0]), ensure_ascii=False)}).images[0]",
    ]
    text = "## Use\n\n" + _fenced("\n".join(lines), "python")
    others = sorted({file.name for file in folder.glob("*.safetensors")} - {"pytorch_lora_weights.safetensors"})
    if tuning == "lora" and others:
        text += f"\n\nThe same LoRA for ComfyUI and other programs that read kohya's layout: `{others[0]}`."
    return text


def _validation(rows: Sequence[Row]) -> str:
    """The held-out numbers at the first and the last validation."""
    validated = [row for row in rows if held_out(row)]
    shown = {int(row["step"]): held_out(row) for row in (*validated[:1], *validated[-1:])}
    if not shown:
        return ""
    lines = [
        f"| held out | {' | '.join(f'step {step}' for step in shown)} |",
        "| --- |" + " ---: |" * len(shown),
        *(
            f"| {_cell(key)} | {' | '.join(_number(numbers.get(key, math.nan)) for numbers in shown.values())} |"
            for key in held_out(validated[-1])
        ),
    ]
    return "## Numbers\n\n" + "\n".join(lines)


def _curves(rows: Sequence[Row], file: Path) -> list[tuple[str, str]]:
    """Draw the charts that there are numbers for as one picture, two a row."""
    charts = {title: _series(rows, keys) for title, keys in _CHARTS.items()}
    drawn = [line_chart_png(series, title) for title, series in charts.items() if series]
    if not drawn:
        return []
    width, height = drawn[0].size
    page = Image.new("RGB", (width * min(2, len(drawn)), height * math.ceil(len(drawn) / 2)), "#ffffff")
    for i, chart in enumerate(drawn):
        page.paste(chart, (width * (i % 2), height * (i // 2)))
    page.save(file)
    return [("training curves", file.name)]


def _series(rows: Sequence[Row], keys: Mapping[str, str]) -> dict[str, list[Point]]:
    points = {name: [(row["step"], row[key]) for row in rows if key in row] for name, key in keys.items()}
    return {name: line for name, line in points.items() if any(math.isfinite(y) for _, y in line)}


def _copied(grids: Sequence[Path], images: Path) -> list[tuple[str, str]]:
    there = [grid for grid in grids if grid.is_file()]
    captions = ["before", *["during"] * (len(there) - 2), "after"] if len(there) > 1 else ["samples"]
    named = [(caption, f"{i}-{grid.name}") for i, (caption, grid) in enumerate(zip(captions, there, strict=False), 1)]
    for grid, (_, name) in zip(there, named, strict=True):
        shutil.copyfile(grid, images / name)
    return named


def _pictures(title: str, named: Sequence[tuple[str, str]]) -> str:
    links = [f"![{caption}](images/{name.replace(' ', '%20')})" for caption, name in named]
    return f"## {title}\n\n" + "\n\n".join(links) if links else ""


def _table(title: str, values: Mapping[str, Any]) -> str:
    lines = [f"| {_cell(key)} | {_cell(value)} |" for key, value in _flat(values)]
    return f"## {title}\n\n" + "\n".join(["| | |", "| --- | --- |", *lines]) if lines else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}: ")
        elif isinstance(value, list | tuple) and value and all(isinstance(part, Mapping) for part in value):
            yield from _flat({str(i): part for i, part in enumerate(value, 1)}, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", value


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _license_note(base_model: str) -> str:
    if _license(base_model):
        return "The licence of the base model holds for these weights too."
    return f"The licence of {_shown(base_model)} holds for these weights too; add it here before you share them."


def _license(base_model: str) -> str | None:
    return next((name for pattern, name in _LICENSES.items() if re.fullmatch(pattern, base_model)), None)


def _method(recipe: Mapping[str, Any]) -> str:
    method = recipe.get("method") or ""
    return str(method.get("name", "")) if isinstance(method, Mapping) else str(method)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def _shown(name: str) -> str:
    """A hub id as it is; a folder by its own name, for the way to it is the user's business."""
    return name if _is_hub_id(name) else Path(name).name


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, Path):
        return f".../{value.name}"
    is_path = isinstance(value, str) and re.match(r"(/|~|\.\.?/|[A-Za-z]:\\)", value) and "\n" not in value
    return f".../{Path(value).name}" if is_path else value
