from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from palate.errors import UserError
from palate.training.config import TrainingConfig
from palate.training.recipe import dump_recipe, load_recipe


class Dpo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["dpo"] = "dpo"
    beta: float = 5000.0


class Kto(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["kto"] = "kto"
    desirable: float = 1.0


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    method: Annotated[Dpo | Kto, Field(discriminator="name", json_schema_extra={"elsewhere": ["online_dpo"]})] = Dpo()
    training: TrainingConfig = TrainingConfig()


def load(folder: Path, text: str | bytes, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(path, list(overrides), Recipe)


def fault(folder: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_overrides_win_and_are_yaml(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, "model: a\ntraining: {steps: 5}\n", "training.steps=7", "training.learning_rate=1e-4",
        "training.optimizer.betas=[0.5, 0.9]", "training.ema=null", "method.name=kto", "training.precision=no",
    )  # fmt: skip
    assert recipe.training.steps == 7
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.optimizer.betas == (0.5, 0.9)
    assert recipe.training.precision == "no"  # YAML 1.1 would read False
    assert isinstance(recipe.method, Kto)


def test_dump_is_read_back_the_same(tmp_path: Path) -> None:
    recipe = load(tmp_path, "model: é\ntraining: {learning_rate: 2.048e-5, precision: no, ema: 0.99, seed: 0}\n")
    assert load(tmp_path, dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        ("model: a\nmethdo: {}", [], ["recipe.yaml", "unknown key `methdo`", "did you mean `method`?", "training"]),
        ("methdo: {}", [], ["unknown key `methdo`", "(and 1 more)"]),
        ("model: a\ntraining: {stesp: 3}", [], ["`training.stesp`", "did you mean `steps`?", "batch_size"]),
        ("model: a\ntraining: {optimizer: {lr: 3}}", [], ["`training.optimizer.lr`", "betas, eps, name, weight_decay"]),
        ("model: a\nbeta: 3", [], ["unknown key `beta`", "did you mean `method.beta`?"]),
        (
            "model: a\nmethod: {name: kto, beta: 3}",
            [],
            ["unknown key `method.beta`; kto has no such setting, it takes desirable, name"],
        ),
        ("model: a\nmethod: {name: kto, desirabel: 3}", [], ["`method.desirabel`; did you mean `desirable`? kto"]),
        (
            "model: a\nmethdo: {}\nmethod: {name: odd, beta: 3}",
            [],
            ["`method.name`: there is no method odd; the methods are dpo, kto, online_dpo"],
        ),
        ("model: a\nmethod: {name: DPOO}", [], ["no method DPOO; the methods are"]),  # as near to DPO as others are
        ("model: a\nmethod: {name: onlin-dpo}", [], ["no method onlin-dpo; did you mean online_dpo? the methods"]),
        ("model: a\nmethod: {name: online}", [], ["there is no method online; did you mean online_dpo? the methods"]),
        ("model: a\nmethod: {name: KTO}", [], ["there is no method KTO; did you mean kto? the methods are"]),
        (
            "model: a\nmethod: {name: online_dpo}",
            [],
            ["`method.name`: online_dpo is a method of another kind of recipe; this one takes dpo, kto"],
        ),
        ("model: a\nmethod: {name: 3}", [], ["`method.name`: there is no method 3; the methods are"]),
        ("model: a\nmethod: {beta: 3}", [], ["`method.name` is missing; the methods are dpo, kto, online_dpo"]),
        ("model: a\nmethod: {name: }", [], ["`method.name` is missing; the methods are dpo, kto, online_dpo"]),
        ("model: a\nmethod: dpo", [], ["`method` is 'dpo', but input should be keys and their values"]),
        ("model: a\ntraining: [1]", [], ["`training` is [1], but input should be keys and their values"]),
        ("model: a\nmethod: {name: kto, desirable: x}", [], ["`method.desirable` is 'x', but"]),
        ("model: a\nmethod: {name: kto, desirable: x}\ntraining: {steps: 0}", [], ["(and 1 more)"]),
        ("model: a\ntraining: {optimizer: {betas: 3}}", [], ["`training.optimizer.betas` is 3, but", "a list"]),
        ("model: a\nmethod: {name: dpo, beta: true}", [], ["`method.beta` is true or false, and takes a number"]),
        ("model: a", ["training.steps=true"], ["`training.steps` is true or false, and takes a number"]),
        ("model: a\ntraining: {steps: many}", [], ["`training.steps` is 'many', but", "integer"]),
        ("model: a\ntraining: {steps: 0}", [], ["`training.steps` is 0, but", "greater than 0"]),
        ("model: a\ntraining: {precision: fp8}", [], ["`training.precision` is 'fp8', but", "'no', 'bf16' or 'fp16'"]),
        ("model: a\ntraining: {early_stop: {metric: x}, validate_every: null}", [], ["validate_every is null"]),
        ("training: {}", [], ["`model` is missing"]),
        ("model: a", ["training.stesp=3"], ["`training.stesp`", "did you mean `steps`?"]),
        ("model: a", ["training.steps"], ["override 'training.steps' must look like section.key=value"]),
        ("model: a", ["model.name=x"], ["model is 'a' and has no keys"]),
        ("model: a", ["training.steps=[1"], ["override 'training.steps=[1'"]),
        ("model: a\n  b: c: d", [], ["recipe.yaml, line 2"]),
        ("model: a\nmodel: b", [], ["line 2: `model` is given twice"]),
        ("", [], ["is empty"]),
        ("# nothing\n", [], ["is empty"]),
        ("- a\n- b", [], ["must be a mapping", "it is a list"]),
        ("hello", [], ["must be a mapping", "it is a text"]),
        (b"model: \xff\xfe", [], ["not a text file in UTF-8"]),
        ("a: &x [*x]\nmodel: b", [], ["unknown key `a`"]),
        ("model: !!python/object/apply:os.system ['true']", [], ["line 1", "constructor"]),
        ("? [a]\n: b", [], ["line 1"]),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, text: str | bytes, overrides: list[str], parts: list[str]
) -> None:
    message = fault(tmp_path, text, *overrides)
    for part in parts:
        assert part in message


def test_a_value_of_either_kind_is_one_mistake(tmp_path: Path) -> None:
    told = fault(tmp_path, "model: a\ntraining: {gradient_checkpointing: 3}")
    assert told.endswith("`training.gradient_checkpointing` is 3, but input should be 'auto' or true or false")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml", [], Recipe)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path, [], Recipe)
