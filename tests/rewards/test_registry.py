"""The zoo's list, its errors, and rewards from elsewhere."""

from __future__ import annotations

import importlib
import inspect
import math
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from palate.errors import UserError
from palate.rewards import registry
from palate.rewards.function import from_function
from palate.rewards.registry import find_entry, open_reward
from palate.rewards.reward import Reward
from palate.rewards.scorer import _hub_identity, open_scorer, open_scorers, scorer_of
from palate.rewards.statistics import jpeg_kilobytes, laplacian_variance
from palate.rewards.zoo import ENTRIES


def test_listing_imports_nothing_heavy():
    code = "import sys; from palate.rewards.registry import plugins; plugins(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "PIL", "transformers", "pyarrow"} & set(loaded)


def test_every_entry_opens_what_it_says():
    for entry in ENTRIES:
        module, _, function = entry.opener.partition(":")
        opener = getattr(__import__(f"palate.rewards.{module}", fromlist=[function]), function)
        parameters = opener.__init__.__code__ if isinstance(opener, type) else opener.__code__
        assert {*entry.assets.values(), *entry.preset} <= set(parameters.co_varnames), entry.name
        assert (entry.weights is None) == (entry.memory_gb == 0) == (not entry.assets)


@pytest.mark.parametrize(
    ("name", "near"),
    [("pickscor", "pickscore"), ("HPS-v2.1", "hpsv2.1"), ("hps_v2", "hpsv2"), ("clip_score", "clipscore")],
)
def test_an_unknown_name_is_told_the_nearest(name, near):
    with pytest.raises(UserError, match=rf"there is no scorer '{name}'; did you mean {near}\? known are pickscore, "):
        open_reward(name)


def test_without_a_near_one_the_list_is_told():
    with pytest.raises(UserError, match=r"there is no scorer 'zzz'; known are pickscore"):
        find_entry("zzz")


def test_wrong_assets_are_told(tmp_path):
    with pytest.raises(
        UserError, match=r"pickscore cannot be opened so .*'wheels'.*; its assets are weights, tokenizer"
    ):
        open_reward("pickscore", wheels=4)
    with pytest.raises(UserError, match=r"none does not exist"):
        open_reward("hpsv2.1", weights=tmp_path / "none")
    with pytest.raises(UserError, match="named twice"):
        open_scorers(["sharpness", "sharpness"])
    with pytest.raises(UserError, match="weights for pickscore, which is not among the scorers sharpness"):
        open_scorers(["sharpness"], {"pickscore": {"weights": "x"}})


def test_an_empty_asset_is_not_taken_for_the_official_one():
    for empty in ("", " "):
        with pytest.raises(UserError, match=rf"pickscore got '{empty}' as its weights; give a path or a hub id"):
            open_scorer("pickscore", weights=empty)
    with pytest.raises(UserError, match="imagereward got '' as its tokenizer"):
        open_reward("imagereward", tokenizer="")


def test_what_goes_wrong_within_an_opener_is_no_wrong_asset(gelu_folder, monkeypatch):
    def broken(*_: object) -> None:
        raise TypeError("pop expected at most 1 argument, got 2")

    with pytest.raises(UserError, match=r"hpsv2 cannot be opened so .*'version'"):
        open_reward("hpsv2", version="v2.1")  # the entry's own
    monkeypatch.setattr("palate.rewards.clip_tower.transformers_prompts", broken)
    with pytest.raises(TypeError, match="pop expected"):
        open_reward("pickscore", weights=gelu_folder)


def test_a_tokenizers_config_that_is_a_list_is_the_tokenizers_fault(gelu_folder, tmp_path):
    folder = shutil.copytree(gelu_folder, tmp_path / "damaged")
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"the tokenizer .*damaged cannot be loaded \(.*\); give the model's own"):
        open_reward("pickscore", weights=folder)


def test_the_settings_tell_what_decides_the_numbers(gelu_folder, quick_gelu_folder):
    one = open_scorer("pickscore", weights=gelu_folder)
    same = open_scorer("pickscore", weights=str(gelu_folder), device="cpu")
    assert one.fingerprint == same.fingerprint
    rough = open_scorer("pickscore", weights=gelu_folder, dtype=torch.bfloat16)
    assert rough.settings["dtype"] == "bfloat16"
    assert rough.fingerprint != one.fingerprint
    assert open_scorer("clipscore", weights=quick_gelu_folder).fingerprint != one.fingerprint


def test_every_file_of_a_folder_that_a_reward_reads_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [OWN])
    (tmp_path / "below").mkdir()

    def fingerprint() -> str:
        return open_scorer("brightness", weights=tmp_path).fingerprint

    for name, counts in [
        ("0.txt", True),
        ("0.png", True),
        ("spiece.model", True),
        ("below/model.safetensors", True),
        (".cache", False),
        ("README.txt", False),
        ("below/NOTES.md", False),
    ]:
        before = fingerprint()
        (tmp_path / name).write_bytes(b"one")
        made = fingerprint()
        (tmp_path / name).write_bytes(b"two")
        assert (made != before, fingerprint() != made) == (counts, counts), name
    before = fingerprint()
    (tmp_path / "0.png").rename(tmp_path / "below/0.png")
    assert fingerprint() != before


def test_what_a_reward_tells_of_itself_is_part_of_its_settings(monkeypatch):
    class Asked(Brightness):
        settings = MappingProxyType({"question": "how bright?", "round": 1})

    told = scorer_of(Asked()).settings
    assert told.keys() == {"palate", "made", "question", "round"}
    assert (told["question"], told["round"]) == ("how bright?", 1)
    asked_twice = scorer_of(Asked(), round=2).settings
    assert asked_twice == {"palate": told["palate"], "question": "how bright?", "round": 2}
    assert scorer_of(Asked()).fingerprint != scorer_of(Brightness()).fingerprint
    monkeypatch.setattr(registry, "entry_points", lambda group: [OWN])
    monkeypatch.setattr(sys.modules[__name__], "Brightness", Asked)
    assert open_scorer("brightness").settings["question"] == "how bright?"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "a object"),
        (torch.arange(9999), "a Tensor"),
        ([1, object()], "a list"),
        ({"a": object()}, "a dict"),
        ({1: "a"}, "a dict"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ([math.nan], "a list"),
        (Path("x"), "a PosixPath"),
    ],
)
def test_a_setting_that_a_text_does_not_tell_is_refused(value, told, monkeypatch):
    class Asked(Brightness):
        settings = MappingProxyType({"base": value})

    line = f"^the setting base of brightness is {told}; give texts, numbers, or lists of them$"
    with pytest.raises(UserError, match=line):
        scorer_of(Asked(), version="1")
    with pytest.raises(UserError, match=line):
        scorer_of(Brightness(), base=value)
    monkeypatch.setattr(registry, "entry_points", lambda group: [OWN])
    monkeypatch.setattr(sys.modules[__name__], "Brightness", Asked)
    with pytest.raises(UserError, match=line):
        open_scorer("brightness")


def test_a_mapping_of_texts_is_a_setting():
    one, same, other = (scorer_of(Brightness(), labels={"good": mark, "bad": [1, None]}) for mark in (5, 5, 4.0))
    assert one.fingerprint == same.fingerprint != other.fingerprint


class Brightness:
    name, modality, differentiable, needs_prompts = "brightness", "image", False, False

    def score(self, prompts, media, failures=None):
        return np.float32([np.asarray(one).mean() for one in media])


def open_brightness(weights: str = "", **_: object) -> Brightness:
    return Brightness()


OWN = EntryPoint("brightness", f"{__name__}:open_brightness", registry.GROUP)


def open_nothing(**_: object) -> str:
    return "nothing"


def test_another_package_brings_a_reward(monkeypatch):
    points = [
        OWN,
        EntryPoint("nothing", f"{__name__}:open_nothing", registry.GROUP),
        EntryPoint("broken", "no_such_module_at_all:open", registry.GROUP),
        EntryPoint("pickscore", "thief:open", registry.GROUP),
    ]
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    scorer = open_scorer("brightness", weights="x")
    assert isinstance(scorer.reward, Reward)
    assert scorer.needs_prompts is False
    assert scorer.reward.score([""], [Image.new("RGB", (2, 2), (9, 9, 9))]).tolist() == [9.0]
    with pytest.raises(UserError, match="gives a str, which is no reward"):
        open_reward("nothing")
    with pytest.raises(UserError, match="broken, which is no_such_module_at_all:open, cannot be imported"):
        open_reward("broken")
    assert "pickscore" not in registry.plugins()


def open_badly(**assets: object) -> Brightness:
    raise ERRORS[str(assets["weights"])]


ERRORS = {
    "key": KeyError("layers"),
    "lines": ValueError("\n the file is old\nread the manual"),
    "silent": RuntimeError(),
    "own": UserError("give a folder"),
    "memory": MemoryError(),
    "cuda": torch.OutOfMemoryError("CUDA out of memory"),
}


@pytest.mark.parametrize(
    ("weights", "reason"),
    [("key", "KeyError: 'layers'"), ("lines", "ValueError: the file is old"), ("silent", "RuntimeError")],
)
def test_an_opener_of_another_package_that_raises_is_one_line(monkeypatch, weights, reason):
    bad = EntryPoint("bad", f"{__name__}:open_badly", registry.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    monkeypatch.setattr(registry, "entry_points", lambda group: [bad])
    with pytest.raises(UserError) as told:
        open_scorer("bad", weights=weights)
    assert str(told.value) == f"bad, which is {__name__}:open_badly, cannot be opened ({reason})"
    assert told.value.__cause__ is ERRORS[weights]


@pytest.mark.parametrize("weights", ["own", "memory", "cuda"])
def test_what_is_no_fault_of_another_packages_opener_passes(monkeypatch, weights):
    bad = EntryPoint("bad", f"{__name__}:open_badly", registry.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    monkeypatch.setattr(registry, "entry_points", lambda group: [bad])
    with pytest.raises(type(ERRORS[weights])) as told:
        open_scorer("bad", weights=weights)
    assert told.value is ERRORS[weights]


def test_a_function_is_a_reward():
    reward = from_function("width", lambda prompt, image: image.width * len(prompt))
    assert isinstance(reward, Reward)
    assert reward.score(["ab", "c"], [Image.new("L", (5, 1)), Image.new("L", (7, 1))]).tolist() == [10.0, 7.0]


def test_sharpness_and_size_by_hand():
    grey = np.zeros((3, 4, 3), dtype=np.uint8)
    grey[1, 1] = 10  # Laplacian there -40, right of it 10: mean -15, variance 25 ** 2
    assert laplacian_variance("", Image.fromarray(grey)) == 625.0
    with pytest.raises(ValueError, match="too few"):
        laplacian_variance("", Image.new("RGB", (2, 9)))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert jpeg_kilobytes("", noise) > 3 * jpeg_kilobytes("", Image.new("RGB", (64, 64)))


def test_weights_of_the_hub_are_known_by_their_commit(tmp_path, monkeypatch):
    """The owner of a repository may publish other weights under its name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert _hub_identity("yuvalkirstain/PickScore_v1") == "hub yuvalkirstain/PickScore_v1"
    reference = tmp_path / "models--yuvalkirstain--PickScore_v1" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text("abc123")
    assert _hub_identity("yuvalkirstain/PickScore_v1") == "hub yuvalkirstain/PickScore_v1 abc123"


def brightness(prompt: str, picture: Image.Image) -> float:
    return float(np.asarray(picture.convert("L")).mean())


def test_a_plain_function_is_a_scorer_under_its_own_name():
    scorer = scorer_of(brightness)
    assert scorer.name == "brightness"
    assert scorer.reward.score(["a"], [Image.new("L", (3, 3), 7)]).tolist() == [7]
    assert scorer.fingerprint != scorer_of(brightness).fingerprint  # it may have been edited
    assert scorer_of(brightness, version="2").fingerprint == scorer_of(brightness, version="2").fingerprint
    with pytest.raises(UserError, match=r"has no name for its column: give it one with from_function"):
        scorer_of(lambda prompt, picture: 1.0)


def test_settings_that_can_be_given_are_openers_arguments():
    given = {"antialias": False, "threshold": 0.01, "lam": 0.6, "max_tokens": 2048}
    for entry in ENTRIES:
        for option, kind in entry.options.items():
            assert isinstance(given[option], kind)
            module, _, function = entry.opener.partition(":")
            opener = getattr(importlib.import_module(f"palate.rewards.{module}"), function)
            assert option in inspect.signature(opener).parameters
