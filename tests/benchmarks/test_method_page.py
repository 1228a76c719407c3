"""The page about the methods: what it says comes from the record, and what the record lacks is said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import palate

sys.path.insert(0, str(Path(palate.__file__).parent / "benchmarks"))

from method_entries import Entry
from method_online import ONLINE
from method_record import _laid_out
from method_table import render as page

from palate.t2i.methods import DiffusionDPO, DiffusionKTO, RankDPO, SePPO

PROMPTS, IMAGES = 60, 2
ABOUT = {
    "prompts": PROMPTS,
    "images": IMAGES,
    "groups": 6,
    "per_prompt": 4,
    "evaluations": 100,
    "pictures": 8,
    "guidance": 1.0,
}
BEFORE = np.random.default_rng(0).integers(0, 2, PROMPTS * IMAGES)
BETTER = np.where(np.arange(BEFORE.size) % 3 == 0, 1, BEFORE)  # never worse
BEST = np.where(np.arange(BEFORE.size) % 2 == 0, 1, BEFORE)


def run(right: np.ndarray = BEFORE, beta: float = 0.1, rate: float = 0.125, **others: Any) -> dict[str, Any]:
    training = {"learning_rate": rate, "steps": 3, "warmup_steps": 0, "batch_size": 16}
    method = {"name": "mapo", "beta": beta, "snr": 0.5}
    return {
        "settings": {"method": method, "given": ["beta"], "training": training, "lora": {"rank": 16}},
        "frame": ABOUT,
        "form": "groups",
        "steps": 3,
        "groups_per_step": 16,
        "evaluations": 96,
        "cpu_seconds": 1.0,
        "measuring_seconds": 1.0,
        "peak_memory_gib": 1.0,
        "right": "".join(map(str, right)),
        "diversity": 0.2,
        "winner_error": 0.11,
        "loser_error": 0.1,
        **others,
    }


@pytest.fixture
def record() -> dict[str, Any]:
    base = {"right": "".join(map(str, BEFORE)), "diversity": 0.25, "winner_error": 0.1, "loser_error": 0.1}
    base["size"] = {name: ABOUT[name] for name in ("prompts", "images", "groups", "per_prompt")}
    return {
        "about": ABOUT,
        "base": {f"tiny-{family}/{part}": base for family in ("sdxl", "sd3") for part in ("report", "search")},
        "runs": {
            "mapo/tiny-sdxl/0": run(BETTER),
            "mapo/tiny-sdxl/1": run(),
            "mapo/tiny-sdxl/shuffled/0": run(),
        },
        "search": {},
    }


ENTRIES = {
    "mapo": Entry({"name": "mapo"}, note="of mapo", why={"tiny-sdxl": "because"}),
    "sft": Entry({"name": "sft"}, control=False, note="of sft"),
}


def test_seeds_are_pooled_and_prompts_resampled(record):
    text = page(record, ENTRIES)
    each = 100 * (BETTER - BEFORE).mean()
    assert f"{each / 2:+.1f} [" in text
    assert f"{each:+.1f}, +0.0" in text
    assert "+10.0 % | +0.0 %" in text
    assert "above zero for mapo." in text
    assert "None of them gains." in text
    assert "because" not in text


def test_settings_are_those_of_the_record(record):
    text = page(record, ENTRIES)
    assert "| beta 0.1, learning_rate 0.125 | 3 x 16 | 96 |" in text
    record["runs"]["mapo/tiny-sdxl/1"] = run(rate=0.25)
    text = page(record, ENTRIES)
    assert text.count("| mapo | beta 0.1, learning_rate 0.125 |") == 2  # the row and its control
    assert text.count("| mapo | beta 0.1, learning_rate 0.25 |") == 1


def test_what_has_not_been_run_is_said(record):
    text = page(record, ENTRIES)
    assert "as far as they have been run (1 on tiny-sdxl and 0 on tiny-sd3 of 2" in text
    assert "- rows on tiny-sdxl: sft; seed 2 of mapo\n" in text
    assert "- rows on tiny-sd3: mapo, sft\n" in text
    assert "- controls on tiny-sdxl: seeds 1, 2 of mapo\n" in text
    assert "- controls on tiny-sd3: mapo\n" in text
    assert "`mapo`: of mapo" in text
    assert "of sft" not in text.split("## Notes")[1]


def test_which_speeds_are_not_measured_is_said(record):
    """Of methods that learn from data; the others' steps have no length of their own."""
    measured = {"machine": "A", "groups_per_second": {"median": 1.0}, "ratio": {"median": 1}}
    record["speed"] = {"tiny-sdxl/mapo/A": measured}
    text = page(record, {**ENTRIES, "spo": Entry({"name": "spo"}, way=ONLINE)})
    assert "- speed on tiny-sdxl: sft\n- speed on tiny-sd3: mapo, sft\n\n" in text


def test_the_page_says_how_many_pictures_the_methods_take(record):
    methods = [RankDPO(), DiffusionKTO(), DiffusionDPO(), SePPO()]
    assert [method.build(1).candidates for method in methods] == [None, 2, 2, 1]
    text = page(record, ENTRIES).replace("\n", " ")
    assert "Pairwise methods and Diffusion-KTO take the best and the worst, RankDPO all 4, SePPO and" in text


def test_a_whole_table_says_that_it_is_whole(record):
    for model in ("tiny-sdxl", "tiny-sd3"):
        for seed in range(3):
            record["runs"] |= {f"{row}/{model}/{seed}": run() for row in ("mapo", "sft", "mapo/shuffled")}
            record["runs"][f"mapo/{model}/shuffled/{seed}"] = run()
    measured = {"machine": "A", "groups_per_second": {"median": 1.0}, "ratio": {"median": 1}}
    record["speed"] = {f"{model}/{row}/A": measured for model in ("tiny-sdxl", "tiny-sd3") for row in ("mapo", "sft")}
    text = page(record, ENTRIES)
    assert "Every method of preference that palate has" in text
    assert "Not run" not in text
    assert "No gain's interval lies above zero. because" in text


def test_what_is_over_the_budget_or_of_another_size_is_said(record):
    record["runs"]["mapo/tiny-sdxl/1"] = run(evaluations=104)
    record["runs"]["sft/tiny-sdxl/0"] = run(frame={**ABOUT, "groups": 7})
    text = page(record, ENTRIES).replace("\n", " ")
    assert "| 96 to 104 |" in text
    assert "took 96 to 104. More than the budget: mapo/tiny-sdxl/1 (104)." in text
    assert "they are of another size or budget: sft/tiny-sdxl/0." in text
    assert "| sft |" not in text


def test_the_search_says_how_the_reported_settings_stand_in_it(record):
    def searched(**tried: dict[str, Any]) -> str:
        record["search"] = {f"mapo/tiny-sdxl/100/{name}": each for name, each in tried.items()}
        return next(line for line in page(record, ENTRIES).splitlines() if line.startswith("| mapo | tiny-sdxl | "))

    better, best = (100 * (right - BEFORE).mean() for right in (BETTER, BEST))
    assert "| not searched | - |" in searched()
    assert "| the only one tried | beta 0.1, learning_rate 0.125: " in searched(a=run(BETTER))
    line = searched(a=run(BETTER, beta=1.0), b=run())
    assert "| number 2 of 2 tried" in line
    assert f"| (learning_rate 0.125) beta 1: {better:+.1f}; beta 0.1: +0.0 |" in line
    assert f"{better:.1f} points behind the best" in line
    assert "| best of 2 tried |" in searched(a=run(BETTER, beta=1.0), b=run(BEST))
    assert best > better
    assert "| beta 0.1, learning_rate 0.125: not among the 2 tried |" in searched(a=run(beta=1.0), b=run(rate=0.5))


def test_a_row_that_was_not_searched_names_one_with_its_settings(record):
    record["runs"]["sft/tiny-sdxl/0"] = run()
    record["search"] = {"mapo/tiny-sdxl/100/a": run()}
    assert "| sft | tiny-sdxl | not searched; beta and learning rate as mapo's | - |" in page(record, ENTRIES)


def test_speed_stands_by_machine(record):
    ratio = {"median": 0.5}
    record["speed"] = {
        "tiny-sdxl/mapo/A": {"machine": "A", "groups_per_cpu_second": {"median": 120.4}, "ratio": ratio},
        "tiny-sdxl/mapo/B": {"machine": "B", "groups_per_second": {"median": 900.0}, "ratio": ratio},
        "tiny-sdxl/sft/B": {"machine": "B", "groups_per_second": {"median": 800.0}, "ratio": ratio},
    }
    lines = page(record, ENTRIES).splitlines()
    start = lines.index("| method | A | B |")
    assert lines[start + 2 : start + 4] == ["| mapo | 120 /s (0.50) | 900 /s (0.50) |", "| sft | - | 800 /s (0.50) |"]


def test_the_record_has_a_line_for_each_field_of_a_run():
    record = {"runs": {"mapo/tiny-sdxl/0": {"steps": 3, "method": {"name": "mapo", "beta": [1]}}}, "search": {}}
    lines = _laid_out(record).splitlines()
    assert lines[2:5] == [
        '  "mapo/tiny-sdxl/0": {',
        '   "method": {"beta": [1], "name": "mapo"},',
        '   "steps": 3',
    ]
    assert lines[-2:] == [' "search": {}', "}"]
