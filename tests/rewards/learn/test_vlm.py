"""A tiny Qwen2-VL in training: it scores as HPSv3's scorer, trains what it should, and learns."""

import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.skips import SkipLog
from palate.datasets.store import GroupStore
from palate.errors import UserError
from palate.rewards.hpsv3 import open_hpsv3
from palate.rewards.learn.fit import fit_reward
from palate.rewards.learn.losses import LOSSES
from palate.rewards.learn.plan import make_plan
from palate.rewards.learn.recipe import Lora, RewardRecipe, VlmConfig
from palate.rewards.learn.task import RewardTask
from palate.rewards.learn.vlm import VlmLearner, open_vlm_learner
from palate.training.order import visit_at
from palate.training.recipe import check_recipe
from palate.training.run_folder import Summary
from palate.training.trackers import read_metrics

PROMPTS = ["a red circle", "two big blue squares on the left of three small red circles"]
SIZES = [(300, 200), (64, 64), (90, 200)]  # three grids: 18 x 12, 16 x 16 and 11 x 24 or so
FULL: dict[str, Any] = {"lora": None, "train_vision": True}


def make_learner(folder: Path, **more: Any) -> VlmLearner:
    return open_vlm_learner(VlmConfig(kind="vlm", path=str(folder), **more), seed=0)


@torch.no_grad()
def disturb(learner: VlmLearner) -> None:
    """Move every trained weight, as training would."""
    generator = torch.Generator().manual_seed(1)
    for parameter in learner.network.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def noise(width: int, height: int) -> Image.Image:
    rough = np.random.default_rng(width).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def outputs(learner: VlmLearner, prompts: list[str], pictures: list[Image.Image], owners: list[int]) -> np.ndarray:
    pixels = [learner.prepare(picture) for picture in pictures]
    return learner.network(learner.read(prompts), pixels, torch.tensor(owners)).numpy()


@pytest.mark.parametrize("trained", [{}, FULL], ids=["lora", "full"])
def test_what_it_saves_is_scored_as_it_scores(trained, qwen_folder, tmp_path):
    learner = make_learner(qwen_folder, **trained)
    disturb(learner)
    learner.network.eval()
    pictures = [noise(*size) for size in SIZES]
    raw = outputs(learner, PROMPTS, pictures, [0, 1, 1])
    assert np.ptp(raw, axis=0).min() > 0.05  # else the comparison would say little
    learner.save(tmp_path)
    after = outputs(learner, PROMPTS, pictures, [0, 1, 1])
    np.testing.assert_array_equal(after, raw)  # saving merges nothing into the network itself
    reward = open_hpsv3(tmp_path / "HPSv3.safetensors", tmp_path)
    np.testing.assert_allclose(reward.judge([PROMPTS[0], *2 * PROMPTS[1:]], pictures), raw, rtol=0, atol=1e-5)
    assert learner.how_to_score(tmp_path) == (
        f"--with hpsv3 --weights hpsv3={tmp_path / 'HPSv3.safetensors'} --weights hpsv3.base={tmp_path}"
    )
    assert learner.how_to_score(Path("my run")) == (
        "--with hpsv3 --weights 'hpsv3=my run/HPSv3.safetensors' --weights 'hpsv3.base=my run'"
    )
    # The result is a start as well, found by its folder.
    again = make_learner(tmp_path, **trained)
    again.network.eval()
    np.testing.assert_allclose(outputs(again, PROMPTS, pictures, [0, 1, 1]), raw, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("short_questions")
def test_merged_weights_are_the_adapters(qwen_folder, tmp_path):
    learner = make_learner(qwen_folder, lora={"rank": 3, "alpha": 6.0})
    disturb(learner)
    learner.save(tmp_path)
    found, start = load_file(tmp_path / "HPSv3.safetensors"), load_file(qwen_folder / "model.safetensors")
    state = learner.network.model.qwen.language_model.state_dict()
    for layer, name in itertools.product(range(2), ("self_attn.k_proj", "mlp.down_proj")):
        a, b = (state[f"layers.{layer}.{name}.lora_{side}.default.weight"] for side in "AB")
        wanted = start[f"model.layers.{layer}.{name}.weight"] + 6 / 3 * b @ a
        torch.testing.assert_close(found[f"model.layers.{layer}.{name}.weight"], wanted)
    assert found.keys() == (start.keys() - {"lm_head.weight"}) | {
        f"rm_head.{layer}.{kind}" for layer in (0, 3, 5) for kind in ("weight", "bias")
    }


def test_a_qwen2_vl_is_read_whole_and_gets_a_head_as_the_authors_draw_it(qwen_folder, tmp_path):
    network = make_learner(qwen_folder, **FULL).network.model
    start = load_file(qwen_folder / "model.safetensors")
    vocabulary = 263  # 256 bytes, six marks, <|Reward|>
    assert torch.equal(network.qwen.language_model.embed_tokens.weight, start["model.embed_tokens.weight"][:vocabulary])
    torch.testing.assert_close(network.qwen.visual.merger.mlp[2].weight.data, start["visual.merger.mlp.2.weight"])
    assert network.head[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert network.head[3].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not any(network.head[layer].bias.any() for layer in (0, 3, 5))


def test_the_seed_draws_the_head_and_the_adapter(qwen_folder):
    config = VlmConfig(kind="vlm", path=str(qwen_folder))
    one, same, other = (open_vlm_learner(config, seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    head = {f"model.head.{layer}.weight" for layer in (0, 3, 5)}
    assert differing == head | {name for name in one if ".lora_A." in name}


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [
        ({}, ("head.", "mark", ".lora_")),
        ({"train_vision": True}, ("head.", "mark", ".lora_", "visual.")),
        ({"lora": None}, ("head.", "mark", "language_model.layers.", "language_model.norm.")),
        (FULL, ("head.", "mark", "language_model.layers.", "language_model.norm.", "visual.")),
    ],
)
def test_only_what_the_recipe_says_is_trained(trained, wanted, qwen_folder):
    learner = open_vlm_learner(VlmConfig(kind="vlm", path=str(qwen_folder), **trained), 0, torch.bfloat16)
    for name, weight in learner.network.named_parameters():
        assert weight.requires_grad == any(part in name for part in wanted), name
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    adapters = [name for name, _ in learner.network.named_parameters() if ".lora_A" in name]
    assert len(adapters) == (0 if "lora" in trained or trained is FULL else 2 * 7)  # seven linears a layer
    assert not any("visual" in name for name in adapters)


def picture(colour: str, seed: int, size: tuple[int, int] = (30, 30)) -> bytes:
    base = {"red": (200, 40, 40), "blue": (40, 40, 200)}[colour]
    levels = np.array(base) + np.random.default_rng(seed).integers(-30, 31, (*size, 3))
    file = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def build_groups(count: int) -> list[Group]:
    """Red is better than blue, whatever the prompt; pictures have two shapes, and every sixth pair is a tie."""
    groups = []
    for number in range(count):
        colours = ["red", "blue"] if number % 2 else ["blue", "red"]
        labels = [0.5, 0.5] if number % 6 == 5 else [float(colour == "red") for colour in colours]
        sizes = (30, 30), (60, 20) if number % 3 else (30, 30)
        pictures = tuple(picture(c, 2 * number + i, s) for i, (c, s) in enumerate(zip(colours, sizes, strict=True)))
        groups.append(Group(f"g{number}", f"wall {number}", pictures, tuple(labels)))
    return groups


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "groups"
    write_groups(build_groups(48), folder)
    return folder


def make_task(store: GroupStore, folder: Path, loss: str, tmp_path: Path) -> RewardTask:
    learner = make_learner(folder)
    disturb(learner)
    learner.network.eval()
    plan = make_plan(store, SkipLog())
    return RewardTask(
        learner=learner,
        train=plan,
        held_out=plan.subset(lambda entry: entry.row < 10),
        pair_loss=LOSSES[loss],
        seed=5,
        batch_size=8,
        micro_batch=4,
        report_file=tmp_path / "report.json",
    )


@pytest.mark.usefixtures("short_questions")
def test_uncertaintys_step_is_the_formula_over_the_scorers_numbers(pairs, qwen_folder, tmp_path):
    store = GroupStore(pairs)
    task = make_task(store, qwen_folder, "uncertainty", tmp_path)
    task.learner.save(tmp_path)
    reward = open_hpsv3(tmp_path / "HPSv3.safetensors", tmp_path)
    nodes, weights = np.polynomial.hermite.hermgauss(60)
    losses, margins = [], []
    items = []
    for place in range(8):
        visit = visit_at(5, task.groups, place)
        items.append(task.item(visit))
        group = store[visit.index]
        if group.is_tie:
            continue
        seen = [Image.open(io.BytesIO(data)) for data in group.candidates]
        (mu, log_sigma) = reward.judge([group.prompt] * 2, seen).T
        best = int(np.argmax(group.labels))
        mean, spread = mu[best] - mu[1 - best], math.hypot(*np.exp(log_sigma))
        z = mean + math.sqrt(2) * spread * nodes
        losses.append((weights * np.logaddexp(0, -z)).sum() / math.sqrt(math.pi))
        margins.append(mean)
    assert 0 < len(losses) < 8  # a tie is among them
    batch = task.collate(items)
    assert isinstance(batch["pixels"], list)
    loss, metrics = task.loss(batch)
    assert loss.item() == pytest.approx(np.mean(losses), abs=2e-3)
    assert metrics["margin"].item() == pytest.approx(np.mean(margins), abs=1e-5)
    parts = [task.loss(task.collate(items[start : start + 2]))[0] for start in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("short_questions")
@pytest.mark.parametrize("loss", ["imagereward", "btt", "uncertainty"])
def test_validation_and_the_other_losses_look_at_the_mean(loss, pairs, qwen_folder, tmp_path):
    task = make_task(GroupStore(pairs), qwen_folder, loss, tmp_path)
    items = [task.item(visit_at(5, task.groups, place)) for place in range(8)]
    before, numbers = task.loss(task.collate(items))[0], task.validate()
    with torch.no_grad():
        task.learner.network.model.head[5].weight[1] *= -2  # type: ignore[attr-defined]
    assert task.validate() == numbers
    assert (task.loss(task.collate(items))[0] == before) == (loss != "uncertainty")


def recipe(folder: Path, model: dict[str, Any], data: Path, *overrides: str) -> RewardRecipe:
    values = {
        "model": {"kind": "vlm", **model},
        "data": {"path": str(data), "holdout": 0.3, "cache": str(folder / "cache")},
        "method": {"name": "reward_model", "loss": "uncertainty"},
        "training": {"steps": 4, "batch_size": 4, "micro_batch": 4, "learning_rate": 1e-3, "workers": 0},
        "output": {"folder": str(folder / "run")},
    }
    return check_recipe(values, ["training.trackers=[]", *overrides], RewardRecipe, "test")


def run(folder: Path, model: Path, data: Path, *overrides: str) -> tuple[Summary, list[str]]:
    said: list[str] = []
    return fit_reward(recipe(folder, {"path": str(model)}, data, *overrides), said.append), said


@pytest.mark.usefixtures("short_questions")
def test_it_learns_what_is_preferred(pairs, qwen_folder, tmp_path):
    more = ("training.steps=30", "training.batch_size=8", "training.validate_every=30", "training.learning_rate=3e-3")
    summary, said = run(tmp_path, qwen_folder, pairs, *more)
    first, last = (row for row in read_metrics(summary.folder / "metrics.jsonl") if "validation/accuracy" in row)
    assert first["validation/accuracy"] < 0.8
    assert last["validation/accuracy"] == 1
    assert last["validation/nll"] < first["validation/nll"] / 2
    file = summary.final / "HPSv3.safetensors"
    assert said[-1].endswith(f"--with hpsv3 --weights hpsv3={file} --weights hpsv3.base={summary.final}")
    start, found = (load_file(one)["model.embed_tokens.weight"] for one in (qwen_folder / "model.safetensors", file))
    changed = (found != start[: len(found)]).any(dim=1).nonzero().flatten()
    assert changed.tolist() == [len(found) - 1]  # the row of <|Reward|>, the last one
    reward = open_hpsv3(file, summary.final)
    seen = [Image.open(io.BytesIO(picture(colour, 999 + i))) for i in range(4) for colour in ("red", "blue")]
    scores = reward.score(["a new wall"] * 8, seen).reshape(-1, 2)
    assert (scores[:, 0] > scores[:, 1] + 1).all()


@pytest.mark.usefixtures("short_questions")
def test_two_steps_and_two_are_four(pairs, qwen_folder, tmp_path):
    whole, _ = run(tmp_path / "whole", qwen_folder, pairs)
    part, _ = run(tmp_path / "part", qwen_folder, pairs, "training.steps=2")
    (part.folder / "summary.json").unlink()
    part, _ = run(tmp_path / "part", qwen_folder, pairs)
    assert part.step == 4
    one, other = (load_file(summary.final / "HPSv3.safetensors") for summary in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("short_questions")
def test_in_bfloat16_the_head_stays_exact_and_recomputed_activations_change_no_weight(pairs, qwen_folder, tmp_path):
    learner = make_learner(qwen_folder)
    kinds = []
    learner.network.model.head[0].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        outputs(learner, PROMPTS[:1], [noise(*SIZES[0])], [0])
    assert kinds == [torch.float32]
    found = []
    for setting in ("false", "true"):
        more = ("training.precision=bf16", f"training.gradient_checkpointing={setting}", "data.holdout=0")
        more = (*more, "model.lora=null", "model.train_vision=true")
        found.append(load_file(run(tmp_path / setting, qwen_folder, pairs, *more)[0].final / "HPSv3.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    start = load_file(qwen_folder / "model.safetensors")
    moved = {name for name in found[0] if name in start and not torch.equal(found[0][name], start[name])}
    assert {"visual.patch_embed.proj.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"} <= moved


@pytest.mark.usefixtures("short_questions")
def test_a_prompt_that_it_cannot_read_is_left_out_and_named(pairs, qwen_folder, tmp_path):
    groups = build_groups(12)
    groups[0] = Group("odd", "a wall <|im_end|>", groups[0].candidates, groups[0].labels)
    write_groups(groups, tmp_path / "groups")
    _, said = run(tmp_path, qwen_folder, tmp_path / "groups", "training.steps=1", "data.holdout=0")
    assert any(line.startswith("3 groups left out: 2 tie, 1 unreadable prompt") for line in said)
    assert any("'a wall <|im_end|>': unreadable prompt (the prompt holds <|im_end|>" in line for line in said)
    write_groups(groups[:1], tmp_path / "odd")
    with pytest.raises(UserError, match=r"none of 1 groups has a prompt that can be read: the prompt holds <\|im_end"):
        run(tmp_path / "odd_run", qwen_folder, tmp_path / "odd")


@pytest.mark.parametrize("model", [{"kind": "clip", "path": "x"}, {"kind": "blip"}], ids=["clip", "blip"])
def test_uncertainty_needs_two_numbers(model, pairs, tmp_path):
    with pytest.raises(UserError, match=f"uncertainty needs a model that says how sure .* a {model['kind']} gives one"):
        recipe(tmp_path, model, pairs)


def test_a_start_that_is_none_is_told_in_one_line(qwen_folder, tmp_path):
    def refused(told: str, **model: Any) -> None:
        with pytest.raises(UserError, match=told) as error:
            open_vlm_learner(VlmConfig(kind="vlm", **model), 0)
        assert "\n" not in str(error.value)

    def copy(name: str, config: dict[str, Any], drop: str = "") -> str:
        folder = tmp_path / name
        folder.mkdir()
        for file in qwen_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        state = load_file(qwen_folder / "model.safetensors")
        rows = {key: value[:262] if value.shape[0] == 270 else value for key, value in state.items()}
        state = rows if config.get("vocab_size") == 262 else state
        kept = {key: value for key, value in state.items() if key != drop}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **config}))
        return str(folder)

    (tmp_path / "empty").mkdir()
    refused("empty has the configuration of a None, not of a qwen2_vl", path=str(tmp_path / "empty"))
    mute = Path(copy("mute", {}))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (mute / file).unlink()
    refused(r"mute has no tokenizer with <\|image_pad\|>; give the folder or hub", path=str(mute))
    cut = Path(copy("cut", {})) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    refused(r"cut cannot be loaded as a Qwen2-VL \(.*\); give a whole one", path=str(cut.parent))
    refused("other has the configuration of a qwen2_5_vl", path=copy("other", {"model_type": "qwen2_5_vl"}))
    refused(r"part lacks .*norm.weight \(1 tensors in all\); give", path=copy("part", {}, drop="model.norm.weight"))
    refused("embeds 262 tokens and its tokenizer has 263 with", path=copy("few", {"vocab_size": 262}))
    for base in ({}, {"base": str(qwen_folder)}):
        told = "clip has the configuration of a clip, not of a qwen2_vl; model.path of kind vlm is a Qwen2-VL's folder"
        refused(told, path=copy(f"{len(base)}_clip", {"model_type": "clip"}), **base)
        refused(r"empty has the configuration of a None.*; model\.path of kind", path=str(tmp_path / "empty"), **base)
    refused("model.base has no effect where model.path", path=str(qwen_folder), base=str(qwen_folder))
    refused(r"none.safetensors does not exist; give the path of HPSv3", path=str(tmp_path / "none.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "HPSv3.safetensors")
    refused(r"has no model.embed_tokens.weight; is it HPSv3.safetensors", path=str(tmp_path))


def test_the_adapters_rank_is_its_scale_unless_told_otherwise(qwen_folder):
    scales = []
    for lora in (Lora(rank=4), Lora(rank=4, alpha=8)):
        learner = make_learner(qwen_folder, lora=lora)
        scales.append(learner.network.model.qwen.language_model.layers[0].mlp.up_proj.scaling["default"])
    assert scales == [1, 2]
