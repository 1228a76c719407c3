"""palate's names of official checkpoints, wherever a model is named; and no word of the hub's own about its silence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from palate.datasets.sources import looks_like_hub_id
from palate.errors import UserError
from palate.t2i.build.synpic.generators import Generator
from palate.t2i.models.architectures import ARCHITECTURES, architecture_at_hand, find_architecture
from palate.t2i.models.checkpoint import BUILT_IN, find_checkpoint
from palate.t2i.models.hub_ids import HUB_IDS, official

ROOT = Path(__file__).parents[2]
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
FLUX = "palate neither trains Flux nor draws with it; `palate estimate flux-dev` counts it"
LIST = "palate's names are sd1.5, sd2.1, sd2.1-base, sdxl, sd3-medium, sd3.5-medium, sd3.5-large, tiny-sdxl, tiny-sd3"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with the tiny SDXL under the official one's id; and a working folder."""
    monkeypatch.chdir(tmp_path)
    tiny = Path(find_checkpoint("tiny-sdxl").path)

    def download(repository: str, name: str, revision: str | None = None) -> str:
        assert repository == SDXL
        return str(tiny / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return tiny


def test_a_name_stands_for_the_official_hub_id(hub):
    assert find_checkpoint("sdxl").path == SDXL
    assert Generator("sdxl", revision="main", lora="l").origin == f"{SDXL}@main + l"
    assert [official(path) for path in ("sdxl", "tiny-sdxl", SDXL, "a/b")] == [SDXL, "tiny-sdxl", SDXL, "a/b"]
    assert all(architecture.hub_ids == HUB_IDS[name] for name, architecture in ARCHITECTURES.items())
    assert list(HUB_IDS) == list(ARCHITECTURES)


def test_a_folder_of_that_name_counts_more(hub):
    shutil.copytree(find_checkpoint("tiny-sd3").path, "sdxl")
    assert (find_checkpoint("sdxl").path, find_checkpoint("sdxl").family.name) == ("sdxl", "sd3")
    assert find_architecture("sdxl").family == "sd3"
    found = architecture_at_hand("sdxl")
    assert found is not None
    assert found.resolution < 1024
    assert official("sdxl") == Generator("sdxl").origin == "sdxl"


def named_in_docs() -> list[str]:
    """What `--from` and `Generator` name in README, docs and the command's first line."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    text = "\n".join([*texts, (ROOT / "cli/synpic.py").read_text(encoding="utf-8").splitlines()[0]])
    given = [one for several in re.findall(r"--from ([\w./=,-]+)", text) for one in several.split(",")]
    return [one for one in given if one != "..."] + re.findall(r'Generator\("([^"]+)"', text)


def test_every_model_that_the_docs_name_can_be_found():
    named = [one.partition("=")[2] or one for one in named_in_docs()]
    assert len(named) > 8
    assert [one for one in named if not (one in HUB_IDS or one in BUILT_IN or looks_like_hub_id(one))] == []


def test_the_hub_is_silent_while_it_does_not_answer(monkeypatch, caplog):
    from huggingface_hub.utils import logging

    def download(*_: object, **__: object) -> str:
        logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(UserError, match="there is no folder nobody/nothing"):
        find_checkpoint("nobody/nothing")
    assert caplog.messages == []
    logging.get_logger("huggingface_hub.utils._http").warning("heard again")
    assert caplog.messages == ["heard again"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("SDXL", "there is no folder SDXL (did you mean sdxl?), and the Hugging Face hub cannot be reached"),
        ("sdlx", "sdlx (did you mean sdxl?), and"),
        ("sd15", "sd15 (did you mean sd1.5?), and"),
        ("SD-3.5 medium", "SD-3.5 medium (did you mean sd3.5-medium?), and it is no hub id"),
        ("tiny-sdlx", "tiny-sdlx (did you mean tiny-sdxl?), and"),
        ("sdxl", f"{SDXL} (sdxl for short), and"),
        ("SD3.5", "SD3.5 (did you mean sd3.5-medium or sd3.5-large?), and"),
        ("sd2", "sd2 (did you mean sd2.1 or sd2.1-base?), and"),
        ("sd1.4", "sd1.4 (did you mean sd1.5?), and"),
        ("sd2.0-base", "sd2.0-base (did you mean sd2.1-base?), and"),
        ("sd4", f"sd4 ({LIST}), and"),
        ("sdxl-dpo", f"sdxl-dpo ({LIST}), and"),
        ("kolors", f"there is no folder kolors ({LIST}), and"),
        ("nobody/nothing", "there is no folder nobody/nothing, and"),
        ("sd3.5-large-turbo", f"sd3.5-large-turbo ({LIST}), and"),
        ("flux", f"there is no folder flux ({FLUX}), and"),
        ("FLUX.1 schnell", f"FLUX.1 schnell ({FLUX}), and"),
        ("flux-dev", f"flux-dev: {FLUX}"),
        ("black-forest-labs/FLUX.1-dev", f"black-forest-labs/FLUX.1-dev: {FLUX}"),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_told(monkeypatch, tmp_path, given, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as refused:
        find_checkpoint(given)
    assert told in str(refused.value)
