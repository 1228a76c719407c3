"""The demonstration end to end: small in the quick tests, whole in the slow ones."""

import hashlib
import json

import pytest

from palate.datasets.parquet import read_groups
from palate.datasets.shapes.raters import oracle_rater
from palate.errors import UserError
from palate.eval.demo import DemoSize, run_demo

SMALL = DemoSize(groups=12, per_prompt=4, held_out=12, steps=2, batch_size=24)


def say(line: str) -> None:
    print(line)


def advance(stage: str, done: int, total: int) -> None:
    pass


def shuffled_rater(prompt, picture) -> float:
    """A label that knows nothing of what the picture shows: a number in [0, 1) dealt out by hash."""
    seen = hashlib.blake2b(picture.tobytes() + prompt.encode(), digest_size=8).digest()
    return int.from_bytes(seen, "little") / 2**64


def test_small_demo_writes_report_and_summary(tmp_path, monkeypatch):
    import palate.eval.demo as demo

    original = demo.demo_recipe

    def short(name, folder):
        recipe = original(name, folder)
        training = recipe.training.model_copy(update={"steps": 2, "batch_size": 2, "micro_batch": 2, "workers": 0})
        return recipe.model_copy(update={"training": training})

    monkeypatch.setattr(demo, "demo_recipe", short)
    outcome = run_demo(tmp_path / "demo", say, advance, ("sd3",), SMALL)["sd3"]
    learned_from = {seed for group in read_groups(tmp_path / "demo" / "sd3" / "groups") for seed in group.seed or ()}
    assert len(learned_from) == 48
    assert not learned_from & set(outcome.comparison.seeds.ravel().tolist())
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert {"before", "after", "gain", "gain_ci95", "seconds"} <= summary["sd3"].keys()
    assert (tmp_path / "demo" / "report.html").stat().st_size > 20_000
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other things"):
        run_demo(tmp_path / "demo", say, advance, ("sd3",), SMALL)
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(("number", "title"), [("gain", "gain over the reference"), ("error", "error")])
def test_curves_of_a_method_with_and_without_a_reference(number, title, tmp_path):
    from palate.eval.demo import _curves

    row = {"step": 1, f"winner_{number}": 0.1, f"loser_{number}": 0.2, "margin": 0.1, "accuracy": 1.0, "loss": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert f'aria-label="{title}"' in _curves(tmp_path / "metrics.jsonl")[0]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_the_users_is_never_emptied(tmp_path, monkeypatch):
    monkeypatch.setattr("palate.eval.demo.demonstrate", lambda *_: pytest.fail("it began"))
    models = tmp_path / "models"
    (models / "sdxl").mkdir(parents=True)
    (models / "sdxl" / "my.safetensors").write_text("mine")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "report.html").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for name, told in (
        ("models", r"models is not an earlier demo \(it holds sdxl\); give --out a new or empty folder"),
        ("reports", r"reports is not an earlier demo \(it holds report.html\)"),
        ("file", "file cannot be written: File exists; give --out another folder"),
        ("file/demo", "file/demo cannot be written: Not a directory"),
    ):
        with pytest.raises(UserError, match=told):
            run_demo(tmp_path / name, say, advance, ("sd3",), SMALL)
    assert contents(tmp_path) == before


def test_an_interrupted_demo_starts_anew(tmp_path, monkeypatch):
    class StopError(Exception):
        pass

    def begin(family, folder, *_):
        assert not folder.exists()  # what the earlier one left is gone
        folder.mkdir()
        (folder / "half").write_text("half")
        raise StopError

    monkeypatch.setattr("palate.eval.demo.demonstrate", begin)
    (tmp_path / "demo").mkdir()  # an empty folder will do
    for _ in range(2):
        with pytest.raises(StopError):
            run_demo(tmp_path / "demo", say, advance, ("sd3",), SMALL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_the_oracles_labels_help_and_shuffled_ones_do_not(family, tmp_path):
    told = run_demo(tmp_path / "oracle", say, advance, (family,), rate=oracle_rater)[family].comparison
    assert told.gain_ci95[0] > 0
    base = told.overall.before.mean
    assert 0.35 <= base <= 0.75
    misled = run_demo(tmp_path / "shuffled", say, advance, (family,), rate=shuffled_rater)[family].comparison
    low, high = misled.gain_ci95
    assert low <= 0 <= high
