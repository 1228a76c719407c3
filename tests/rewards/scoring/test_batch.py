"""Many pictures, many scorers: the numbers of one by one, one decode each, and the same bytes however it ran."""

from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.parquet import write_groups
from palate.errors import PalateError, UserError
from palate.rewards.clip_keys import Heads
from palate.rewards.function import from_function
from palate.rewards.scorer import Scorer, open_scorer, open_scorers, scorer_of
from palate.rewards.scoring import batch
from palate.rewards.scoring import run as scoring_run
from palate.rewards.scoring.batch import score_images

PROMPTS = ["a red dog", "a big cat on the roof", "the blue roof"]


def picture(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def red(prompt: str, image: Image.Image) -> float:
    return image.convert("RGB").getpixel((0, 0))[0] + len(prompt) / 100


def write_pictures(folder: Path, count: int) -> Path:
    """PNGs, with a prompt each in `images.jsonl`, three prompts in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        picture(number, 30 + number, 50 - number % 7).save(folder / f"{number:03d}.png")
        rows.append({"image": f"{number:03d}.png", "prompt": PROMPTS[number % 3], "seed": number})
    (folder / "images.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_pictures(tmp_path / "pictures", 23)


@pytest.fixture(scope="session")
def tiny(gelu_folder, hps_file, imagereward_folder) -> list[Scorer]:
    return [
        open_scorer("pickscore", weights=gelu_folder),
        open_scorer("hpsv2.1", weights=hps_file, heads=Heads(text=4, vision=2)),
        open_scorer("imagereward", weights=imagereward_folder, tokenizer=imagereward_folder),
    ]


def table(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("scores.parquet", "scores.jsonl", "scores.meta.json")]


@pytest.mark.parametrize(("size", "reverse"), [(1, False), (7, True), (32, False)])
def test_numbers_are_those_of_one_by_one_in_any_order_and_batch(folder, tmp_path, tiny, size, reverse):
    manifest = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    if reverse:
        manifest.reverse()
        (folder / "images.jsonl").write_text("\n".join(map(json.dumps, manifest)))
    done = score_images(folder, tiny, tmp_path / "out", batch_size=size, workers=3)
    assert (done.images, dict(done.new)) == (23, {"pickscore": 23, "hpsv2.1": 23, "imagereward": 23})
    found = table(tmp_path / "out")
    assert [row["image"] for row in found] == [row["image"] for row in manifest]
    opened = [Image.open(folder / row["image"]) for row in manifest]
    for scorer in tiny:
        wanted = [scorer.reward.score([row["prompt"]], [one])[0] for row, one in zip(manifest, opened, strict=True)]
        assert np.ptp(wanted) > 1e-3
        # PickScore multiplies a cosine, and float32's error with it, by 100: near 0 the noise is that of its largest.
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose([row[scorer.name] for row in found], wanted, rtol=0, atol=1e-5 * scale)
    read = pq.read_table(tmp_path / "out/scores.parquet")
    assert read.column("pickscore").type == pa.float32()
    assert read.column("hpsv2.1").to_pylist() == pytest.approx([row["hpsv2.1"] for row in found], abs=1e-7)


def test_each_picture_is_decoded_once_for_all_scorers(folder, tmp_path, tiny, monkeypatch):
    decoded, read = [], scoring_run.read_picture
    monkeypatch.setattr(scoring_run, "read_picture", lambda data, upright: decoded.append(data) or read(data, upright))
    loaded = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", load)
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: loaded.append(1) or original(*a, **k))
    score_images(folder, [*tiny, scorer_of(from_function("red", red, version="1"))], tmp_path / "out", batch_size=8)
    assert len(decoded) == len(set(decoded)) == len(loaded) == 23


def test_one_picture_with_many_prompts_is_decoded_once_and_equal_rows_are_scored_once(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "prompt": prompt} for prompt in ["x", "yy", "x"]]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    decoded, read = [], scoring_run.read_picture
    monkeypatch.setattr(scoring_run, "read_picture", lambda data, upright: decoded.append(1) or read(data, upright))
    done = score_images(tmp_path / "list.jsonl", [scorer_of(from_function("red", red, version="1"))], tmp_path / "out")
    assert (len(decoded), done.new["red"]) == (1, 2)
    first, second, third = (row["red"] for row in table(tmp_path / "out"))
    assert (first, second) == (third, pytest.approx(first + 0.01))


def test_distinct_prompts_of_a_batch_are_encoded_once(folder, tmp_path, tiny, monkeypatch):
    tower, read = tiny[0].reward.tower, []
    plain = tower.prompts.read
    monkeypatch.setattr(tower.prompts, "read", lambda prompts: read.append(list(prompts)) or plain(prompts))
    score_images(folder, tiny[:1], tmp_path / "out", batch_size=23)
    assert read == [PROMPTS]


def _run(folder: Path, out: Path, scorers: list[Scorer], kill_after: int | None) -> None:
    torch.set_num_threads(1)
    logged = []
    append = batch.ScoreLog.append

    def counting(self, record):
        if kill_after is not None and len(logged) == kill_after:
            with open(self.file, "ab") as half:  # what a kill in the middle of a write leaves
                half.write(record.to_line()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        logged.append(record)
        append(self, record)

    batch.ScoreLog.append = counting
    score_images(folder, scorers, out, batch_size=4, workers=2)


def test_killed_and_resumed_is_the_uninterrupted_run_byte_for_byte_and_scores_nothing_twice(folder, tmp_path, tiny):
    _run_whole = score_images(folder, tiny, tmp_path / "whole", batch_size=4, workers=2)
    assert _run_whole.tables is not None
    process = multiprocessing.get_context("fork").Process(target=_run, args=(folder, tmp_path / "out", tiny, 3))
    torch.set_num_threads(1)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out/scores.parquet").exists()
    log = tmp_path / "out/log-0-of-1.jsonl"
    assert not log.read_bytes().endswith(b"\n")
    done = score_images(folder, tiny, tmp_path / "out", batch_size=4, workers=2)
    assert set(done.new.values()) == {23 - 3 * 4}
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
    assert log.read_bytes() == (tmp_path / "whole/log-0-of-1.jsonl").read_bytes()
    again = score_images(folder, tiny, tmp_path / "out", batch_size=4)
    assert set(again.new.values()) == {0}
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


def test_three_shards_are_one_run_byte_for_byte(folder, tmp_path, tiny):
    (folder / "005.png").write_bytes((folder / "014.png").read_bytes())  # equal bytes and prompt in two shards
    scorers = [*tiny, scorer_of(from_function("red", red, version="1"))]
    score_images(folder, scorers, tmp_path / "whole", batch_size=3)
    done = [
        score_images(folder, scorers, tmp_path / "out", batch_size=3, shard=(number, 3), workers=1)
        for number in (2, 0, 1)
    ]
    assert [one.images for one in done] == [6, 9, 8]
    assert [one.tables is not None for one in done] == [False, False, True]
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


def test_new_pictures_and_new_scorers_cost_only_themselves(folder, tmp_path, tiny):
    out = tmp_path / "out"
    score_images(folder, tiny[:1], out, batch_size=4)
    before = {row["image"]: row["pickscore"] for row in table(out)}
    rows = (folder / "images.jsonl").read_text().splitlines()
    picture(99).save(folder / "new.png")
    rows.insert(2, json.dumps({"image": "new.png", "prompt": "a dog"}))
    (folder / "images.jsonl").write_text("\n".join(rows))
    done = score_images(folder, tiny[:2], out, batch_size=4)
    assert dict(done.new) == {"pickscore": 1, "hpsv2.1": 24}
    after = {row["image"]: row["pickscore"] for row in table(out)}
    assert after.pop("new.png") is not None
    assert after == before


def test_changed_bytes_prompts_and_settings_are_scored_anew(folder, tmp_path):
    out = tmp_path / "out"
    score_images(folder, [scorer_of(from_function("red", red, version="1"))], out, batch_size=4)
    picture(77).save(folder / "003.png")
    assert score_images(folder, [scorer_of(from_function("red", red, version="1"))], out, batch_size=4).new["red"] == 1
    assert table(out)[3]["red"] == pytest.approx(red(PROMPTS[0], picture(77)), abs=1e-4)
    assert score_images(folder, [scorer_of(from_function("red", red, version="2"))], out, batch_size=4).new["red"] == 23


def test_every_kind_of_file_has_a_score_or_a_reason(tmp_path, tiny):
    rgb = picture(5, 64, 48)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rgb.save(pictures / "a_rgb.png")
    rgb.convert("RGBA").save(pictures / "b_rgba.png")
    rgb.quantize(16).save(pictures / "c_palette.png")
    rgb.quantize(16).convert("RGB").save(pictures / "c_palette_rgb.png")
    levels = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(levels).save(pictures / "d_16bit.png")
    Image.fromarray(((levels.astype(int) + 128) // 257).astype(np.uint8)).save(pictures / "d_8bit.png")
    rgb.convert("CMYK").save(pictures / "e_cmyk.jpg")
    frames = [rgb.quantize(64), picture(6, 64, 48).quantize(64)]
    frames[0].save(pictures / "f_animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(pictures / "f_first.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(pictures / "g_exif.png", exif=exif)
    rgb.transpose(Image.Transpose.ROTATE_270).save(pictures / "g_turned.png")
    whole = io.BytesIO()
    rgb.save(whole, "PNG")
    (pictures / "h_cut.png").write_bytes(whole.getvalue()[:3000])
    (pictures / "i_text.png").write_text("no picture")
    (pictures / "j_empty.png").write_bytes(b"")
    scorers = [tiny[0], tiny[1], scorer_of(from_function("red", red, version="1"))]
    (tmp_path / "prompts.txt").write_text("a red dog\n" * 14)
    done = score_images(pictures, scorers, tmp_path / "out", prompts=tmp_path / "prompts.txt", batch_size=5)
    found = {row["image"]: row for row in table(tmp_path / "out")}
    assert {name: row["error"] for name, row in found.items() if row["error"]} == {
        "h_cut.png": "truncated",
        "i_text.png": "not an image of a format that is read: PNG, JPEG, WEBP, AVIF, GIF, BMP, TIFF, PPM, JPEG2000",
        "j_empty.png": "0 bytes",
    }
    assert dict(done.failures) == {"pickscore": 3, "hpsv2.1": 3, "red": 3}
    assert ("h_cut.png", "truncated") in done.reasons
    for scorer in scorers:
        values = {name: row[scorer.name] for name, row in found.items()}
        assert [name for name, value in values.items() if value is None] == ["h_cut.png", "i_text.png", "j_empty.png"]
        for one, other in [("a_rgb", "b_rgba"), ("c_palette", "c_palette_rgb"), ("d_16bit", "d_8bit")]:
            assert values[f"{one}.png"] == pytest.approx(values[f"{other}.png"], abs=1e-5)
        assert values["f_animated.gif"] == pytest.approx(values["f_first.gif"], abs=1e-5)
        assert values["g_exif.png"] == pytest.approx(values["g_turned.png"], abs=1e-5)
        assert values["g_exif.png"] != pytest.approx(values["a_rgb.png"], abs=1e-4)
    read = pq.read_table(tmp_path / "out/scores.parquet").to_pylist()
    assert math.isnan(read[-1]["pickscore"])
    stored = score_images(
        pictures, scorers[:1], tmp_path / "stored", prompts=tmp_path / "prompts.txt", batch_size=5, upright=False
    )
    assert stored.new["pickscore"] == 11
    values = {row["image"]: row["pickscore"] for row in table(tmp_path / "stored")}
    assert values["g_exif.png"] == pytest.approx(values["a_rgb.png"], abs=1e-5)


def test_a_failure_leaves_other_scorers_and_rows_alone(tmp_path, folder, monkeypatch):
    def picky(prompt: str, image: Image.Image) -> float:
        if image.width == 33:
            raise ValueError("33 is too wide")
        return math.nan if image.width == 34 else 1.0

    score_images(
        folder, [scorer_of(from_function("picky", picky)), scorer_of(from_function("red", red, version="1"))], tmp_path
    )
    found = table(tmp_path)
    assert [row["error"] for row in found[2:6]] == [
        None,
        "picky: 33 is too wide",
        "picky: the reward returned NaN",
        None,
    ]
    assert [row["picky"] for row in found[2:6]] == [1.0, None, None, 1.0]
    assert all(row["red"] is not None for row in found)


def test_a_scorer_that_breaks_is_named_and_the_others_scores_are_kept(tmp_path, folder):
    """Somebody else's code may raise anything."""
    calls = []

    def wild(prompt: str, image: Image.Image) -> float:
        calls.append(image.size)
        return {}["x"] if len(calls) > 3 else 1.0

    with pytest.raises(PalateError, match=r"^the scorer wild failed \(KeyError: 'x'\)$"):
        score_images(folder, [scorer_of(from_function("wild", wild, version="1"))], tmp_path, batch_size=2, workers=1)
    calls.clear()
    again = score_images(
        folder, [scorer_of(from_function("wild", lambda prompt, image: 1.0, version="1"))], tmp_path, batch_size=2
    )
    assert again.new["wild"] == len(table(tmp_path)) - 2  # the first block was on disk


@pytest.mark.parametrize("given", [[], [1.0, 2.0, 3.0], [[1.0]], 1.0, ["a"]], ids=str)
def test_an_answer_of_another_shape_is_no_score(tmp_path, given):
    """One picture's score must not become another's."""

    class Short:
        name, modality, differentiable, batched, needs_prompts = "short", "image", False, True, False

        def score(self, prompts, pictures, failures):
            return np.array(given if len(prompts) == 1 else [1.0] * (len(prompts) - 1))

    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    for batch_size in (1, 3):
        with pytest.raises(PalateError, match=r"^the scorer short failed \((ValueError|TypeError): "):
            score_images(tmp_path, [scorer_of(Short())], tmp_path / "out", batch_size=batch_size)


def test_what_is_beyond_float32_is_no_score(tmp_path):
    picture(0).save(tmp_path / "a.png")

    class Vast:
        name, modality, differentiable, batched, needs_prompts = "vast", "image", False, True, False

        def score(self, prompts, pictures, failures):
            return np.full(len(prompts), 1e300)

    score_images(tmp_path, [scorer_of(Vast())], tmp_path / "out")
    assert table(tmp_path / "out")[0]["error"] == "the reward returned inf"


def test_a_scorer_that_changes_its_picture_changes_nobody_elses(tmp_path, tiny):
    def shrinks(prompt: str, image: Image.Image) -> float:
        image.thumbnail((2, 2))
        image.paste((0, 0, 0), (0, 0, *image.size))
        return float(image.width)

    picture(0).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "prompt": prompt} for prompt in PROMPTS]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sees, pixels = from_function("red", red, version="1"), tiny[0]
    alone = score_images(tmp_path / "list.jsonl", [scorer_of(sees), pixels], tmp_path / "alone")
    behind = [scorer_of(from_function("shrinks", shrinks)), scorer_of(sees), pixels]
    score_images(tmp_path / "list.jsonl", behind, tmp_path / "behind")
    assert alone.new["red"] == 3
    for one, other in zip(table(tmp_path / "alone"), table(tmp_path / "behind"), strict=True):
        assert (one["red"], one["pickscore"]) == (other["red"], other["pickscore"])


def test_manifest_rows_at_fault_are_named(tmp_path, tiny):
    picture(1).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "prompt": "x"},
        {"image": "gone.png", "prompt": "x"},
        {"prompt": "x"},
        {"image": "a.png"},
    ]
    rows += [{"image": "a.png", "prompt": 7}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = score_images(tmp_path / "list.jsonl", tiny[:1], tmp_path / "out")
    assert [row["error"] for row in table(tmp_path / "out")] == [
        None,
        "file not found",
        "list.jsonl, line 3: no image",
        "no prompt",
        "list.jsonl, line 5: the prompt is a int",
    ]
    assert len(done.reasons) == 4
    (tmp_path / "list.jsonl").write_text('{"image": "a.png", "prompt": "x"}\n{"image": \n')
    with pytest.raises(UserError, match=r"list.jsonl, line 2: not JSON"):
        score_images(tmp_path / "list.jsonl", tiny[:1], tmp_path / "out")


def test_csv_parquet_globs_and_groups_give_the_same_scores(folder, tmp_path, tiny):
    score_images(folder, tiny[:1], tmp_path / "jsonl")
    wanted = [row["pickscore"] for row in table(tmp_path / "jsonl")]
    manifest = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    with open(folder / "list.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "prompt", "seed"])
        writer.writeheader()
        writer.writerows(manifest)
    columns = {"image": [row["image"] for row in manifest], "wish": [row["prompt"] for row in manifest]}
    pq.write_table(pa.table(columns), folder / "list.parquet")
    groups = (
        Group(f"g{n}", row["prompt"], ((folder / row["image"]).read_bytes(),), (1.0,)) for n, row in enumerate(manifest)
    )
    write_groups(groups, tmp_path / "groups")
    sources = [
        (folder / "list.csv", None),
        (folder / "list.parquet", "wish"),
        (f"{folder}/*.png", folder / "list.csv"),
        (tmp_path / "groups", None),
    ]
    for number, (source, prompts) in enumerate(sources):
        out = tmp_path / f"out{number}"
        score_images(source, tiny[:1], out, prompts=prompts)
        assert [row["pickscore"] for row in table(out)] == pytest.approx(wanted, abs=1e-6)
    assert table(tmp_path / "out3")[4]["key"] == "g4#0"


def test_memory_that_does_not_hold_a_batch_halves_it(folder, tmp_path, tiny, monkeypatch):
    sizes = []

    class Small:
        name, modality, differentiable = "small", "image", False
        prepare, score = tiny[0].reward.prepare, tiny[0].reward.score

        def score_pixels(self, prompts, pixels):
            sizes.append(len(prompts))
            if len(prompts) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return pixels.mean(dim=(1, 2, 3))

    limit = 3
    done = score_images(folder, [scorer_of(Small())], tmp_path / "out", batch_size=16)
    assert sizes == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]
    assert done.new["small"] == 23
    limit = 0
    with pytest.raises(PalateError, match="out of memory: small has no room for a single picture"):
        score_images(folder, [scorer_of(Small())], tmp_path / "none", batch_size=2)


def test_provenance_is_in_the_parquet_and_beside_it(folder, tmp_path, tiny):
    score_images(folder, tiny[:2], tmp_path, batch_size=4)
    meta = json.loads((tmp_path / "scores.meta.json").read_text())
    assert json.loads(pq.read_schema(tmp_path / "scores.parquet").metadata[b"palate.scores"]) == meta
    assert meta["scorers"]["hpsv2.1"]["antialias"] is True
    assert meta["scorers"]["hpsv2.1"]["weights"].startswith("sha256 ")
    assert meta["scorers"]["pickscore"]["dtype"] == "float32"
    assert meta["scorers"]["pickscore"]["scale"].startswith("16 to 26")
    assert torch.__version__.startswith(meta["versions"]["torch"])
    assert (meta["batch_size"], meta["upright"]) == (4, True)


def test_the_weights_hash_is_the_files(hps_file, tiny):
    import hashlib

    assert tiny[1].settings["weights"] == f"sha256 {hashlib.sha256(hps_file.read_bytes()).hexdigest()}"


def test_two_processes_do_not_write_one_log(folder, tmp_path):
    scorers = [scorer_of(from_function("red", red, version="1"))]

    def child() -> None:
        with pytest.raises(UserError, match=r"another process is writing .*log-0-of-1.jsonl"):
            score_images(folder, scorers, tmp_path / "out")

    def advance(stage: str, done: int, total: int) -> None:
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
        codes.append(process.exitcode)

    codes: list[int | None] = []
    score_images(folder, scorers, tmp_path / "out", batch_size=20, advance=advance)
    assert codes == [0, 0]


def test_what_cannot_be_scored_is_told(tmp_path, folder, tiny):
    loose = tmp_path / "loose"
    loose.mkdir()
    with pytest.raises(UserError, match="holds no images"):
        score_images(loose, tiny, tmp_path / "out")
    picture(0).save(loose / "a.png")
    with pytest.raises(UserError, match=r"has no prompts, and pickscore, hpsv2.1, imagereward need them"):
        score_images(loose, tiny, tmp_path / "out")
    with pytest.raises(UserError, match=r"none does not exist"):
        score_images(tmp_path / "none", tiny, tmp_path / "out")
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"two.txt has 2 prompts and .* 1 images"):
        score_images(loose, tiny, tmp_path / "out", prompts=tmp_path / "two.txt")
    with pytest.raises(UserError, match=r"'wish' are neither a file nor a column of .*images.jsonl, which has image"):
        score_images(folder, tiny, tmp_path / "out", prompts="wish")
    assert score_images(loose, open_scorers(["sharpness"]), tmp_path / "out").new == {"sharpness": 1}
