"""What becomes of a finished run: kohya's key layout, the model card, and the hub if asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..datasets.converted import Say
from ..training.run_folder import RunFolder, Summary, stored_recipe
from .hub import push_to_hub
from .kohya import save_kohya
from .model_card import write_model_card
from .models.checkpoint import Checkpoint
from .models.hub_ids import official
from .online.recipe import OnlineRecipe
from .recipe import Recipe


def finish(
    recipe: Recipe | OnlineRecipe, summary: Summary, data: Mapping[str, Any], checkpoint: Checkpoint, say: Say
) -> None:
    """Complete the folder of final weights; what is there already is written again.

    The card shows the recipe that the run folder keeps: of a run that is done the one at hand may ask otherwise.

    Args:
        data: the data's hash and counts, for the card.
    """
    paths, family = RunFolder(summary.folder), checkpoint.family
    if recipe.model.tuning == "lora" and recipe.output.kohya:
        layers = checkpoint.config(family.network).get("layers_per_block", 2)
        save_kohya(summary.final, family.name, summary.final / "kohya.safetensors", layers_per_block=layers)
    environment = json.loads(paths.environment.read_text())
    write_model_card(
        summary.final,
        base_model=official(recipe.model.path),
        family=family.name,
        tuning=recipe.model.tuning,
        recipe=stored_recipe(paths) or recipe.model_dump(mode="json"),
        data=data,
        metrics_file=paths.metrics,
        grids=_first_and_last(paths.samples),
        versions=environment,
        repo_id=recipe.output.push_to,
    )
    say(f"final weights: {summary.final}")
    if recipe.output.push_to:
        push_to_hub(summary.final, recipe.output.push_to)


def _first_and_last(samples: Path) -> list[Path]:
    grids = sorted(samples.glob("step-*.png"))
    return [grids[0], grids[-1]] if len(grids) > 1 else grids
