"""`palate train` and the mistakes that a recipe can hold: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palate import cli
from palate.errors import PalateError
from palate.training.run_folder import Summary

GOOD = """\
model: {path: tiny-sdxl}
data: {path: groups}
method: {name: diffusion_dpo}
output: {folder: run}
"""


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    """`train("recipe.yaml", ...)` gives the exit code, stdout and stderr, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palate", "train", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def refused(ended: tuple[int, str, str], *told: str) -> None:
    """One line on stderr with these parts in it, exit code 2, and nothing but the recipe in the folder."""
    code, out, err = ended
    assert (code, out) == (2, "")
    assert err.startswith("palate: ")
    assert err.count("\n") == 1
    for part in told:
        assert part in err
    assert {path.name for path in Path().iterdir()} <= {"recipe.yaml"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("method:", "methdo:"), ["unknown key `methdo`; did you mean `method`?", "(and 1 more)"]),
        (GOOD + "training: {stesp: 5}", ["unknown key `training.stesp`; did you mean `steps`?", "`training` takes "]),
        (GOOD + "steps: 5", ["unknown key `steps`; did you mean `training.steps`?", "a recipe takes data, method"]),
        (GOOD.replace("{path: tiny-sdxl}", "{path: x, lora: {rnk: 4}}"), ["`model.lora.rnk`; did you mean `rank`?"]),
        (GOOD.replace("diffusion_dpo", "difusion_dpo"), ["no method difusion_dpo; did you mean diffusion_dpo?"]),
        (GOOD.replace("diffusion_dpo}", "diffusion_dpo, betta: 5}"), ["betta`; did you mean `beta`?"]),
        (GOOD.replace("diffusion_dpo}", "diffusion_dpo, anchor: 2}"), ["method.anchor has no effect on objective dpo"]),
        (GOOD + "training: {steps: many}", ["`training.steps` is 'many', but ", "integer"]),
        (GOOD + "training: {batch_size: 0}", ["`training.batch_size` is 0, but ", "greater than 0"]),
        (GOOD + "training: {learning_rate: [1]}", ["`training.learning_rate` is [1], but ", "number"]),
        (GOOD + "training: {precision: fp8}", ["`training.precision` is 'fp8', but ", "'no', 'bf16' or 'fp16'"]),
        (GOOD.replace("{path: tiny-sdxl}", "tiny-sdxl"), ["`model` is 'tiny-sdxl', but ", "recipe.yaml"]),
        (GOOD.replace("{path: groups}", "{}"), ["`data.path` is missing; give it a value"]),
        (GOOD.replace("output: {folder: run}", ""), ["`output` is missing"]),
        ("", ["recipe recipe.yaml is empty; `palate recipe copy` writes one to start from"]),
        ("this is: [not yaml", ["recipe recipe.yaml, line "]),
        ("model: x\n\tdata: y", ["recipe recipe.yaml, line 2"]),
        ("- a\n- b", ["recipe.yaml must be a mapping of keys to values, but it is a list"]),
        (GOOD + "model: {path: other}", ["line 5: `model` is given twice"]),
    ],
)
def test_a_recipe_that_is_wrong(train, text, told):
    Path("recipe.yaml").write_text(text)
    refused(train("recipe.yaml"), *told)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.stesp=5", "unknown key `training.stesp`; did you mean `steps`?"),
        ("training.steps", "override 'training.steps' must look like section.key=value"),
        ("training.steps=[1", "override 'training.steps=[1'"),
        ("model.path.name=x", "model.path is 'tiny-sdxl' and has no keys of its own"),
        ("training.steps=1e3x", "`training.steps` is '1e3x', but "),
    ],
)
def test_an_override_that_is_wrong(train, override, told):
    Path("recipe.yaml").write_text(GOOD)
    refused(train("recipe.yaml", override), told)


def test_a_recipe_that_cannot_be_read(train, tmp_path):
    refused(train("absent.yaml"), "recipe absent.yaml does not exist; `palate recipe list` shows the shipped ones")
    refused(train("."), "recipe . cannot be read: Is a directory")
    Path("recipe.yaml").write_bytes(b"\x89PNG\r\n\xff")
    refused(train("recipe.yaml"), "recipe recipe.yaml is not a text file in UTF-8")


def test_a_shipped_recipe_by_its_name(train, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr("palate.t2i.align.align", lambda recipe, *_: seen.append(recipe) or summary(True))
    refused(train("tiny-sdxl-dpo", "training.stesp=1"), "recipe tiny-sdxl-dpo: unknown key `training.stesp`")
    refused(train("tiny-sdlx-dpo"), "there is no recipe tiny-sdlx-dpo; did you mean tiny-sdxl-dpo?")
    Path("tiny-sdxl-dpo").mkdir()  # a run folder may bear the recipe's name
    assert train("tiny-sdxl-dpo", "training.steps=7")[0] == 0
    assert (seen[0].model.path, seen[0].training.steps) == ("tiny-sdxl", 7)


def summary(finished: bool) -> Summary:
    return Summary(folder=Path("run"), step=3, finished=finished)


def test_overrides_reach_the_run_and_an_interrupted_one_says_so_by_its_exit_code(train, monkeypatch):
    Path("recipe.yaml").write_text(GOOD)
    seen: list[Any] = []
    for finished, code in ((True, 0), (False, 130)):
        monkeypatch.setattr(
            "palate.t2i.align.align", lambda recipe, *_, done=finished: seen.append(recipe) or summary(done)
        )
        assert train("recipe.yaml", "training.steps=7", "model.lora.rank=2")[0] == code
    assert seen[0].training.steps == 7
    assert seen[0].model.lora.rank == 2


REWARD = """\
model: {kind: clip, path: clip}
data: {path: groups}
method: {name: reward_model, loss: pickscore}
output: {folder: run}
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            REWARD.replace("path: clip", "pth: clip"),
            ["unknown key `model.pth`; did you mean `path`? clip has no such setting, it takes"],
        ),
        (
            REWARD.replace("kind: clip", "kind: klip"),
            ["`model.kind`: there is no kind klip; the kinds are blip, clip, vlm"],
        ),
        (REWARD.replace("loss: pickscore", "loss: pikscore"), ["`method.loss` is 'pikscore', but ", "'pickscore'"]),
        (REWARD.replace(", loss: pickscore", ""), ["`method.loss` is missing; give it a value"]),
        (REWARD.replace("pickscore", "hpsv2, k: 4"), ["method.k has no effect on loss hpsv2"]),
        (
            REWARD.replace("clip}", "clip, train: {txt: 1}}"),
            ["unknown key `model.train.txt`; did you mean `text`? `model.train` takes"],
        ),
        (REWARD + "training: {stesp: 5}", ["unknown key `training.stesp`; did you mean `steps`?"]),
        (REWARD + "training: {compile: true}", ["training.compile has no effect on reward models"]),
        (REWARD + "validation: {steps: 5}", ["unknown key `validation`", "a recipe takes data, method, model, output"]),
    ],
)
def test_a_reward_recipe_that_is_wrong(train, text, told):
    Path("recipe.yaml").write_text(text)
    refused(train("recipe.yaml"), *told)


def test_a_reward_recipe_goes_to_reward_training(train, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr("palate.rewards.learn.fit.fit_reward", lambda recipe, *_: seen.append(recipe) or summary(True))
    Path("recipe.yaml").write_text(REWARD)
    assert train("recipe.yaml", "training.steps=7", "method.loss=btt", "method.k=3")[0] == 0
    assert train("reward-pickscore", "data.path=groups")[0] == 0
    assert (seen[0].training.steps, seen[0].method.k, seen[0].model.layout) == (7, 3, "pickscore")
    assert (seen[1].training.learning_rate, seen[1].data.holdout_split) == (3e-6, "validation_unique")


def test_a_mistake_in_a_reward_recipe_is_told_before_torch_is_imported(tmp_path):
    (tmp_path / "r.yaml").write_text(REWARD.replace("loss", "los"))
    code = "import sys; from palate import cli\ntry: cli.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "train", "r.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PalateError("the loss of step 3 is nan"), "the loss of step 3 is nan"),
        (OSError(errno.ENOSPC, "No space left on device", "run/a"), "No space left on device (run/a); make room "),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "Permission denied (/x); make room or name another"),
        (MemoryError(), "out of memory; take a smaller batch"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."), "out of memory; take a smaller batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory; take a smaller batch"),
    ],
)
def test_what_the_world_refuses_is_one_line_and_exit_code_1(train, monkeypatch, error, line):
    def fail(*_: Any) -> None:
        raise error

    Path("recipe.yaml").write_text(GOOD)
    monkeypatch.setattr("palate.t2i.align.align", fail)
    code, _, err = train("recipe.yaml")
    assert code == 1
    assert err.startswith(f"palate: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "no"), KeyError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, tmp_path, error):
    def fail(*_: Any) -> None:
        raise error

    (tmp_path / "recipe.yaml").write_text(GOOD)
    monkeypatch.setattr("palate.t2i.align.align", fail)
    monkeypatch.setattr(sys, "argv", ["palate", "train", str(tmp_path / "recipe.yaml")])
    with pytest.raises(type(error)):
        cli.main()


def test_a_warning_of_palates_is_one_line():
    said = cli._one_line("checkpoint x is skipped", UserWarning, cli.__file__, 3)
    assert said == "palate: warning: checkpoint x is skipped\n"
    assert cli._one_line("old", FutureWarning, "/lib/torch.py", 3) == "/lib/torch.py:3: FutureWarning: old\n"


def test_in_a_process_of_its_own(tmp_path):
    """The real command, as a shell sees it."""
    (tmp_path / "key.yaml").write_text(GOOD.replace("method:", "methdo:"))
    command = [sys.executable, "-m", "palate", "train", "key.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("palate: recipe key.yaml: unknown key `methdo`; did you mean `method`? ")
    assert done.stderr.count("\n") == 1
