"""The model card: what the hub reads in its front matter, what a person reads below, and what it must not tell."""

from __future__ import annotations

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from palate.t2i.model_card import write_model_card

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
RECIPE = {
    "model": {"path": SDXL, "tuning": "lora"},
    "data": {"path": "/home/ann/secret/pairs", "holdout": 0.1},
    "method": {"name": "diffusion_dpo", "beta": 5000},
    "validation": {"prompts": ['a "red" circle', "a blue ```square```"]},
    "output": {"folder": "~/runs/one"},
}


@pytest.fixture
def run(tmp_path):
    """A run folder with metrics of 40 steps, three grids and an empty final folder."""
    rows = [{"step": 0, "validation/loss": 0.6931, "validation/accuracy": None}]
    for step in range(10, 50, 10):
        rows.append({"step": step, "loss": 0.69 - step / 1000, "winner_gain": step * 1e-6, "loser_gain": -step * 1e-6})
    rows.append({"step": 40, "validation/loss": 0.65123, "validation/accuracy": 0.625})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (0, 20, 40):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(tmp_path / f"step-{step:06d}.png")
    (tmp_path / "final").mkdir()
    return tmp_path


def write(run, **changes):
    given = {
        "base_model": SDXL,
        "family": "sdxl",
        "tuning": "lora",
        "recipe": RECIPE,
        "data": {"hash": "abc123", "groups": 608, "skipped": {"tie": 12, "a|b": 1}},
        "metrics_file": run / "metrics.jsonl",
        "grids": [run / f"step-{step:06d}.png" for step in (0, 20, 40)],
        "versions": {"palate": "0.1", "packages": {"torch": "2.13.0"}},
    }
    card = write_model_card(run / "final", **(given | changes))
    assert card == run / "final" / "README.md"
    return card.read_text()


def front(text):
    return ModelCard(text).data.to_dict()


def test_front_matter_of_a_lora_on_a_hub_model(run):
    assert front(write(run)) == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": SDXL,
        "base_model_relation": "adapter",
        "license": "openrail++",
        "tags": [
            "text-to-image",
            "diffusers",
            "stable-diffusion-xl",
            "palate",
            "preference-alignment",
            "diffusion_dpo",
            "lora",
        ],
    }


def test_front_matter_of_full_weights_and_a_hub_data_set(run):
    found = front(
        write(
            run,
            base_model="stabilityai/stable-diffusion-3.5-medium",
            family="sd3",
            tuning="full",
            recipe=RECIPE | {"data": {"path": "yuvalkirstain/pickapic_v2"}},
        )
    )
    assert found["base_model_relation"] == "finetune"
    assert found["license"] == "other"
    assert found["license_name"] == "stabilityai-ai-community"
    assert (
        found["license_link"] == "https://huggingface.co/stabilityai/stable-diffusion-3.5-medium/blob/main/LICENSE.md"
    )
    assert found["datasets"] == ["yuvalkirstain/pickapic_v2"]
    assert "lora" not in found["tags"]


def test_a_local_base_model_is_named_but_not_linked(run):
    text = write(run, base_model=str(run), family="sd1", recipe={})
    assert {"base_model", "license"}.isdisjoint(front(text))
    assert f"# {run.name}, aligned" in text
    assert f'from_pretrained("path/to/{run.name}"' in text
    assert f"The licence of {run.name} holds for these weights too; add it here" in text
    assert str(run) not in text


def test_a_built_in_model_has_palates_licence(run):
    assert front(write(run, base_model="tiny-sd3", family="sd3"))["license"] == "apache-2.0"


def test_the_recipe_is_there_without_the_ways_to_the_users_folders(run):
    text = write(run)
    block = text.split("````yaml\n")[1].split("\n````")[0]  # longer than the prompt's own fence
    stored = yaml.safe_load(block)
    assert stored["method"] == {"name": "diffusion_dpo", "beta": 5000}
    assert stored["data"]["path"] == ".../pairs"
    assert stored["output"]["folder"] == ".../one"
    assert stored["validation"]["prompts"] == RECIPE["validation"]["prompts"]
    assert stored["model"]["path"] == SDXL
    assert "ann" not in text


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_usage_lines_are_python_that_loads_the_right_thing(run, tuning):
    text = write(run, tuning=tuning, repo_id="ann/model")
    code = text.split("```python\n")[1].split("\n```")[0]
    compile(code, "card", "exec")
    assert ('load_lora_weights("ann/model")' in code) == (tuning == "lora")
    assert f'from_pretrained("{SDXL if tuning == "lora" else "ann/model"}"' in code
    assert r'pipeline("a \"red\" circle").images[0]' in code


def test_kohyas_file_is_mentioned_when_it_is_there(run):
    assert "ComfyUI" not in write(run)
    (run / "final" / "pytorch_lora_weights.safetensors").touch()
    assert "ComfyUI" not in write(run)
    (run / "final" / "kohya.safetensors").touch()
    assert "`kohya.safetensors`" in write(run)


def test_numbers_before_and_after(run):
    text = write(run)
    assert "| held out | step 0 | step 40 |\n| --- | ---: | ---: |\n| loss | 0.6931 | 0.6512 |" in text
    assert "| accuracy | – | 0.625 |" in text


def test_grids_and_curves_are_copied_and_linked(run):
    text = write(run)
    links = [f"images/1-step-{0:06d}.png", "images/2-step-000020.png", "images/3-step-000040.png", "images/curves.png"]
    captions = ["before", "during", "after", "training curves"]
    for caption, link in zip(captions, links, strict=True):
        assert f"![{caption}]({link})" in text
    with Image.open(run / "final" / links[2]) as picture:
        assert picture.getpixel((0, 0)) == (40, 0, 0)
    with Image.open(run / "final" / "images" / "curves.png") as picture:
        assert picture.size == (960, 600)  # loss, gains and accuracy, two a row


def test_data_and_versions_are_flattened(run):
    text = write(run)
    assert "| hash | abc123 |\n| groups | 608 |\n| skipped: tie | 12 |\n| skipped: a\\|b | 1 |" in text
    assert "| packages: torch | 2.13.0 |" in text
    text = write(run, versions={"starts": [{"step": 0, "packages": {"torch": "2.13"}}, {"step": 90}]})
    assert "| starts 1: step | 0 |\n| starts 1: packages: torch | 2.13 |\n| starts 2: step | 90 |" in text


def test_a_run_without_metrics_grids_or_recipe_still_has_a_card(run):
    text = write(run, metrics_file=run / "absent.jsonl", grids=[run / "absent.png"], recipe={}, data={}, versions={})
    assert "![" not in text
    assert "| " not in text
    assert not (run / "final" / "images" / "curves.png").exists()
    assert "## Use" in text


def test_curves_of_numbers_that_are_all_nan_are_left_out(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    assert "curves" not in write(run)
