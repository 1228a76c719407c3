"""Pictures to labelled groups: which stand together, what their labels are, and what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import read_groups, write_groups
from palate.errors import UserError
from palate.rewards.function import from_function
from palate.rewards.labels.label import label_images, label_scored
from palate.rewards.scorer import scorer_of

# Red and green are what the pictures are scored by; the third number tells otherwise equal ones apart.
PICTURES = [
    ("a.png", "dusk", (10, 90, 0), 0),
    ("b.png", "dawn", (50, 10, 0), 5),
    ("c.png", "dusk", (30, 80, 0), 1),
    ("d.png", "dawn", (60, 20, 0), 6),
    ("e.png", "dusk", (20, 70, 0), 2),
]


def judge(name: str, channel: int):
    """Scores by a channel of the first pixel."""

    def value(_: str, picture: Image.Image) -> float:
        level = picture.convert("RGB").getpixel((0, 0))[channel]
        if level == 255:
            raise ValueError("too bright to judge")
        return float(level)

    return scorer_of(from_function(name, value))


JUDGES = [judge("red", 0), judge("green", 1)]


@pytest.fixture
def gallery(tmp_path) -> Path:
    """As `palate generate` leaves it."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    rows = []
    for image, prompt, colour, seed in PICTURES:
        Image.new("RGB", (16, 16), colour).save(folder / image)
        rows.append({"prompt": prompt, "seed": seed, "model": "tiny", "lora": None, "image": image})
    rows[-1]["lora"] = "warm"
    (folder / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def append(gallery: Path, **row: object) -> None:
    with open(gallery / "images.jsonl", "a") as file:
        file.write("\n" + json.dumps(row))


def by_prompt(folder: Path) -> dict[str, Group]:
    return {group.prompt: group for group in read_groups(folder)}


def test_groups_labels_and_where_they_are_from(gallery, tmp_path):
    done = label_images(gallery, JUDGES, tmp_path / "groups")
    assert (done.written.groups, done.candidates, done.ties) == (2, 5, 0)
    assert (done.pictures.total, done.prompts.total) == (0, 0)
    dusk = by_prompt(tmp_path / "groups")["dusk"]
    assert dusk.candidates == tuple((gallery / name).read_bytes() for name in ("a.png", "c.png", "e.png"))
    assert dusk.aspects == {"red": (10, 30, 20), "green": (90, 80, 70)}
    assert dusk.labels == pytest.approx((2 / 4, 3 / 4, 1 / 4))  # wins: red 0, 2, 1; green 2, 1, 0
    assert (dusk.source, dusk.rater) == ("drawn", "win(red, green)")
    assert (dusk.model, dusk.seed) == (("tiny", "tiny", "tiny + warm"), (0, 1, 2))
    assert by_prompt(tmp_path / "groups")["dawn"].labels == (0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "groups", "groups.scores"]


def test_a_second_ensemble_scores_nothing_anew(gallery, tmp_path):
    out = tmp_path / "groups"
    assert label_images(gallery, JUDGES, out).scored.new == {"red": 5, "green": 5}
    done = label_images(gallery, JUDGES, out, combination="raw_sum", weights={"green": 2.0}, mode="overwrite")
    assert done.scored.new == {"red": 0, "green": 0}
    dusk = by_prompt(out)["dusk"]
    assert dusk.labels == pytest.approx((190, 190, 160))
    assert dusk.rater == "raw_sum(red, 2 green)"
    done = label_scored(gallery, tmp_path / "groups.scores", tmp_path / "red", scorers=["red"], combination="rank")
    assert done.scored is None
    dusk = by_prompt(tmp_path / "red")["dusk"]
    assert (dusk.labels, dusk.aspects, dusk.rater) == ((1, 3, 2), {"red": (10, 30, 20)}, "rank(red)")


def test_what_cannot_be_used_is_left_out_and_told(gallery, tmp_path):
    Image.new("RGB", (16, 16), (255, 99, 0)).save(gallery / "bright.png")
    append(gallery, image="bright.png", prompt="dusk")
    append(gallery, image="gone.png", prompt="dusk")
    shutil.copy(gallery / "a.png", gallery / "twin.png")
    append(gallery, image="twin.png", prompt="dusk")
    append(gallery, image="a.png", prompt="noon")
    append(gallery, image="c.png")
    Image.new("RGB", (4, 4)).save(gallery / "small.png")
    append(gallery, image="small.png", prompt="noon")
    done = label_images(gallery, [judge("red", 0)], tmp_path / "groups")
    assert dict(done.pictures.counts) == {
        "no score": 2,
        "no prompt": 1,
        "same picture twice": 1,
        "unreadable image": 1,
    }
    told = {str(skipped) for skipped in done.pictures.examples}
    assert "bright.png: no score (too bright to judge)" in told
    assert "gone.png: no score (file not found)" in told
    assert "twin.png: same picture twice (as a.png)" in told
    assert [str(skipped) for skipped in done.prompts.examples] == ["noon: fewer than two candidates (1)"]
    dusk = by_prompt(tmp_path / "groups")["dusk"]
    assert dusk.labels == (0, 1, 0.5)  # as if the others had never been there
    assert dusk.aspects == {"red": (10, 30, 20)}


def test_a_picture_that_changed_after_its_score(gallery, tmp_path):
    label_images(gallery, JUDGES, tmp_path / "groups")
    Image.new("RGB", (16, 16), (1, 2, 3)).save(gallery / "a.png")
    append(gallery, image="d.png", prompt="dusk")
    done = label_scored(gallery, tmp_path / "groups.scores/scores.parquet", tmp_path / "again")
    assert {str(skipped) for skipped in done.pictures.examples} == {
        "a.png: changed since it was scored",
        "d.png: no score (the table of scores has no such picture and prompt)",
    }
    assert by_prompt(tmp_path / "again")["dusk"].labels == pytest.approx((2 / 2, 0))


def test_a_tie_stays_a_tie(gallery, tmp_path):
    Image.new("RGB", (16, 16), (60, 10, 9)).save(gallery / "b.png")
    Image.new("RGB", (16, 16), (50, 20, 9)).save(gallery / "d.png")
    done = label_images(gallery, JUDGES, tmp_path / "groups", combination="sum")
    assert done.ties == 1
    assert by_prompt(tmp_path / "groups")["dawn"].is_tie


def test_groups_are_labelled_anew_and_those_of_one_prompt_joined(gallery, tmp_path):
    pictures = [(gallery / name).read_bytes() for name in ("a.png", "c.png", "e.png", "b.png", "d.png")]
    pairs = [
        Group("p0", "dusk", pictures[:2], (1, 0), ("early", "late"), model=("x", None), seed=(7, 8), rater="people"),
        Group("p1", "dawn", pictures[3:], (1, 0)),
        Group("p2", "dusk", pictures[1:3], (1, 0), ("late", "later"), model=("y", "z")),
    ]
    write_groups(iter(pairs), tmp_path / "pairs")
    done = label_images(tmp_path / "pairs", JUDGES, tmp_path / "groups")
    assert dict(done.pictures.counts) == {"same picture twice": 1}  # the second stands in both pairs of dusk
    found = by_prompt(tmp_path / "groups")
    dusk = found["dusk"]
    assert dusk.candidates == tuple(pictures[:3])
    assert dusk.labels == pytest.approx((2 / 4, 3 / 4, 1 / 4))
    assert (dusk.model, dusk.seed, dusk.captions) == (("x", None, "z"), (7, 8, None), ("early", "late", "later"))
    assert (found["dawn"].captions, found["dawn"].model, found["dawn"].rater) == (None, None, "win(red, green)")
    assert len({group.key for group in found.values()}) == 2


def test_groups_that_cannot_be_read_are_told(gallery, tmp_path):
    rows = [{"key": "good", "prompt": "dusk", "images": ["a.png", "c.png"], "labels": [0, 1]}]
    rows.append({"key": "bad", "prompt": "dusk", "images": ["a.png", "gone.png"], "labels": [0, 1]})
    (gallery / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = label_images(gallery / "pairs.jsonl", JUDGES, tmp_path / "groups")
    assert [(skipped.key, skipped.reason) for skipped in done.groups.examples] == [("bad", "missing file")]
    (group,) = read_groups(tmp_path / "groups")
    assert (group.labels, group.source) == ((0.5, 0.5), "pairs.jsonl")


def test_pictures_with_prompts_beside_them(gallery, tmp_path):
    (gallery / "images.jsonl").unlink()
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({image: prompt for image, prompt, *_ in PICTURES}))
    label_images(gallery, JUDGES, tmp_path / "groups", prompts=prompts)
    dusk = by_prompt(tmp_path / "groups")["dusk"]
    assert dusk.labels == pytest.approx((2 / 4, 3 / 4, 1 / 4))
    assert (dusk.model, dusk.seed, dusk.source) == (None, None, "drawn")


def test_a_table_of_scores_may_be_anybodys_order(gallery, tmp_path):
    label_images(gallery, JUDGES, tmp_path / "groups")
    table = pq.read_table(tmp_path / "groups.scores/scores.parquet")
    pq.write_table(table.take([4, 1, 3, 0, 2]), tmp_path / "scores.parquet")
    label_scored(gallery, tmp_path / "scores.parquet", tmp_path / "again")
    assert by_prompt(tmp_path / "again") == by_prompt(tmp_path / "groups")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"combination": "best"}, "there is no combination 'best'"),
        ({"weights": {"blue": 1.0}}, "there is a weight for blue, which is not among the scorers red, green"),
        ({"weights": {"red": -1.0}}, "a weight must be above 0, and these are -1, 1"),
        ({"out": "drawn/groups"}, "lies inside the source"),
        ({"out": "drawn"}, "is, or holds, the source itself"),
        ({"out": "used"}, "used is not empty: name another folder, or overwrite it"),
        (
            {"out": "tables", "mode": "overwrite"},
            r"tables holds votes\.parquet, which is no shard of palate's: move it",
        ),
        ({"out": "file"}, "file is a file: name a folder for the groups"),
        ({"source": "loose"}, "loose has no prompts, and a group is one prompt's pictures"),
        ({"source": "absent"}, "absent does not exist"),
    ],
)
def test_a_mistake_is_told_before_anything_is_scored(gallery, tmp_path, monkeypatch, settings, told):
    monkeypatch.chdir(tmp_path)
    for folder in ("used", "loose", "tables"):
        Path(folder).mkdir()
    Path("tables/votes.parquet").touch()
    for folder in ("used", "loose"):
        Image.new("RGB", (9, 9)).save(f"{folder}/a.png")
    Path("file").touch()
    before = sorted(tmp_path.rglob("*"))
    arguments = {"source": "drawn", "out": "groups"} | settings
    with pytest.raises(UserError, match=told):
        label_images(arguments.pop("source"), JUDGES, arguments.pop("out"), **arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_left_or_the_scores_are_others(gallery, tmp_path):
    scores = tmp_path / "groups.scores"
    label_images(gallery, JUDGES, tmp_path / "groups")
    with pytest.raises(UserError, match="has no scores of blue; it has those of red, green"):
        label_scored(gallery, scores, tmp_path / "x", scorers=["blue"])
    with pytest.raises(UserError, match="a scorer is named twice: red, red"):
        label_scored(gallery, scores, tmp_path / "x", scorers=["red", "red"])
    with pytest.raises(UserError, match=r"scores\.parquet does not exist; give a scores\.parquet"):
        label_scored(gallery, tmp_path, tmp_path / "x")
    (gallery / "images.jsonl").write_text(json.dumps({"image": "a.png", "prompt": "noon"}))
    with pytest.raises(UserError, match=r"1 fewer than two candidates; 1 no score; the first is a\.png: no score"):
        label_scored(gallery, scores, tmp_path / "x")
    assert not (tmp_path / "x").exists()
