"""Groups to votes on a tiny PickScore's features, and a fitted taste as a reward."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.datasets.skips import SkipLog
from palate.errors import UserError
from palate.rewards.pal.fit import Fit, fit
from palate.rewards.pal.reward import TasteReward
from palate.rewards.pal.tastes import Shape
from palate.rewards.pal.votes import group_votes
from palate.rewards.pickscore import PickScore, open_pickscore
from palate.rewards.reward import Failure, PixelReward


@pytest.fixture(scope="module")
def pickscore(gelu_folder) -> PickScore:
    torch.set_num_threads(1)
    return open_pickscore(gelu_folder)


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


A, B, C, D = map(picture, range(4))
GROUPS = [
    Group("pair", "a dog", (A, B), (0, 1), rater="ann"),
    Group("ranking", "a cat", (A, C, D), (2, 3, 2), rater="bob"),
    Group("nobody", "a cat", (A, C), (0, 1)),
    Group("even", "a cat", (A, C), (1, 1), rater="ann"),
    Group("single", "a cat", (A,), (1,), rater="ann"),
    Group("cut", "a cat", (A, C[:300]), (1, 0), rater="ann"),
    Group("again", "a dog", (D, A), (5, 2), rater="bob"),
]


def test_who_preferred_which_picture(pickscore):
    """Features against the tower's own, picture by picture."""
    log = SkipLog()
    votes = group_votes(iter(GROUPS), pickscore, log, batch_size=3)
    assert votes.users == ("ann", "bob", "bob", "bob")

    def feature(data: bytes) -> torch.Tensor:
        return pickscore.tower.images(pickscore.prepare(Image.open(io.BytesIO(data)))[None])[0]

    def text(prompt: str) -> torch.Tensor:
        return pickscore.tower.texts([prompt])[0]

    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(votes.preferred, torch.stack([feature(x) for x in (B, C, C, D)]), **close)
    torch.testing.assert_close(votes.other, torch.stack([feature(x) for x in (A, A, D, A)]), **close)
    prompts = [text("a dog"), text("a cat"), text("a cat"), text("a dog")]
    torch.testing.assert_close(votes.prompts, torch.stack(prompts), **close)
    assert {skipped.key: skipped.reason for skipped in log.examples} == {
        "nobody": "no rater",
        "even": "tie",
        "single": "no partner",
        "cut": "unreadable image",
    }


def test_a_picture_that_comes_again_is_encoded_once(pickscore, monkeypatch):
    prepared = []
    monkeypatch.setattr(PickScore, "prepare", lambda self, x: prepared.append(x) or torch.zeros(3, 28, 28))
    group_votes(GROUPS, pickscore)
    assert len(prepared) == 4


def test_no_votes(pickscore):
    with pytest.raises(UserError, match="no votes to learn from: 1 no rater, 1 tie"):
        group_votes(GROUPS[2:4], pickscore)
    with pytest.raises(UserError, match="no votes to learn from: no groups"):
        group_votes([], pickscore)


def test_a_taste_is_a_reward(pickscore):
    votes = group_votes(GROUPS, pickscore)
    unlearned = fit(votes, Shape("b", 2, 16, hidden=4, scale=float(pickscore.tower.scale)), Fit(epochs=0))
    media = [Image.open(io.BytesIO(data)) for data in (A, B, C)]
    prompts = ["a dog", "a cat", "a dog"]
    crowd = TasteReward(pickscore, unlearned)
    assert isinstance(crowd, PixelReward)
    np.testing.assert_allclose(crowd.score(prompts, media), pickscore.score(prompts, media), atol=1e-4)

    learned = fit(votes, Shape("b", 2, 16, hidden=4), Fit(epochs=20))
    ann, bob = (TasteReward(pickscore, learned, user) for user in ("ann", "bob"))
    assert (crowd.name, ann.name) == ("pal", "pal ann")
    worth = learned.score("ann", votes.preferred[:1], votes.prompts[:1])
    np.testing.assert_allclose(ann.score(["a dog"], [media[1]]), worth, atol=1e-4)
    assert not np.allclose(ann.score(prompts, media), bob.score(prompts, media))
    failures: list[Failure] = []
    broken = Image.open(io.BytesIO(A[:300]))
    scores = ann.score(["a dog", "a dog"], [media[0], broken], failures)
    assert np.isnan(scores).tolist() == [False, True]
    assert [failure.index for failure in failures] == [1]


def test_the_example_of_the_documentation_runs(pickscore, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/scorers.md").read_text(encoding="utf-8")
    block = next(part for part in page.split("```python\n") if "pal.fit import" in part).split("```")[0]
    write_groups(GROUPS[:2], tmp_path / "groups")
    write_groups([replace(GROUPS[0], rater="eve")], tmp_path / "newcomer")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"reward": pickscore, "prompts": ["a dog"], "pictures": [Image.open(io.BytesIO(A))]}
    exec(compile(block, "docs/scorers.md", "exec"), names)
    assert np.isfinite(names["scores"]).all()
    assert list(names["tastes"].users) == ["ann", "bob", "eve"]


def test_tastes_are_a_reward_on_their_own_features_alone(pickscore):
    votes = group_votes(GROUPS, pickscore)
    tastes = [fit(votes, Shape("a", 2, 16, hidden=4), Fit(epochs=0), features=name) for name in ("clipscore", "")]
    told = "these tastes were fitted on features of clipscore and not of pickscore; open clipscore"
    with pytest.raises(UserError, match=told):
        TasteReward(pickscore, tastes[0])
    TasteReward(pickscore, tastes[1])  # nobody knows
    TasteReward(replace(pickscore, name="clipscore"), tastes[0])
