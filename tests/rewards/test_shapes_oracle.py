import io

import numpy as np
import pytest
from PIL import Image

from palate.datasets.shapes.world import Shape, render
from palate.rewards.reward import Failure
from palate.rewards.shapes_oracle import ShapesOracle

PAIR = render([Shape("circle", "red", 9, 10, 5), Shape("cross", "blue", 22, 12, 5)])
PROMPTS = [
    "a photo of a red circle and a blue cross",
    "a photo of a red circle and a red cross",
    "a photo of a cross left of a circle",
]


def test_graded_and_exact_scores_and_categories():
    oracle = ShapesOracle()
    assert oracle.score(PROMPTS, [PAIR] * 3).tolist() == pytest.approx([1, 1 / 3, 3 / 4])
    assert oracle.correct(PROMPTS, [PAIR] * 3).tolist() == [1, 0, 0]
    assert oracle.categories(PROMPTS) == ["color_attr", "color_attr", "position"]
    assert (oracle.name, oracle.modality, oracle.differentiable) == ("shapes_oracle", "image", False)


def test_a_score_does_not_depend_on_its_batch():
    oracle = ShapesOracle()
    alone = [oracle.score([prompt], [PAIR])[0] for prompt in PROMPTS]
    assert oracle.score(PROMPTS, [PAIR] * 3).tolist() == alone


def test_a_foreign_prompt_and_a_truncated_picture_have_no_score():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
    truncated = Image.open(io.BytesIO(buffer.getvalue()[:900]))
    failures: list[Failure] = []
    scores = ShapesOracle().score(["a dog", PROMPTS[0], PROMPTS[0]], [PAIR, truncated, PAIR], failures)
    assert np.isnan(scores).tolist() == [True, True, False]
    assert [failure.index for failure in failures] == [0, 1]
    assert "not a prompt of the shapes world" in failures[0].reason
    assert "truncated" in failures[1].reason
