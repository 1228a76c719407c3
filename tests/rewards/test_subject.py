"""CLIP-I and the lambda-harmonic reward."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv
from transformers import CLIPModel

from palate.errors import UserError
from palate.rewards.clip_i import ClipI, open_clip_i
from palate.rewards.clip_score import ClipScore, open_clip_score
from palate.rewards.harmonic import LambdaHarmonic, harmonic_mean, open_lambda_harmonic
from palate.rewards.pickscore import open_pickscore
from palate.rewards.references import open_references
from palate.rewards.registry import open_reward
from palate.rewards.reward import Failure, PixelReward
from palate.rewards.scorer import scorer_of

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Soft blobs in a colour of their own: of plain noise, CLIP's features hardly differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


SUBJECT = [picture(40, 60, 10), picture(59, 28, 11), picture(28, 28, 12)]
PICTURES = [picture(40, 60, 0), picture(28, 28, 1), picture(59, 28, 2), picture(31, 90, 3)]
PROMPTS = ["a red cube", "Two dogs on a café's roof", "a red cube", "a cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    for number, one in enumerate(SUBJECT):
        one.save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("my dog")
    (folder / ".hidden.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def clip_i(quick_gelu_folder, folder) -> ClipI:
    return open_clip_i(folder, quick_gelu_folder)


@torch.no_grad()
def features(folder, pictures) -> torch.Tensor:
    """By transformers, of torchvision's transform, one at a time, `[n, d]`."""
    model = CLIPModel.from_pretrained(folder).eval()
    rows = []
    for one in pictures:
        levels = tv.center_crop(tv.resize(tv.pil_to_tensor(one), [28], tv.InterpolationMode.BICUBIC), [28])
        pixels = tv.normalize(levels / 255, list(MEAN), list(STD))
        rows.append(model.get_image_features(pixel_values=pixels[None]).pooler_output[0])
    return torch.stack(rows)


def cosines_by_hand(folder, pictures) -> np.ndarray:
    of_pictures, of_subject = features(folder, pictures), features(folder, SUBJECT)
    pairs = F.cosine_similarity(of_pictures[:, None], of_subject[None], dim=-1)
    return pairs.mean(dim=1).numpy()


def test_clip_i_is_the_mean_of_the_cosines_with_each_reference(clip_i, quick_gelu_folder):
    wanted = cosines_by_hand(quick_gelu_folder, PICTURES)
    assert np.ptp(wanted) > 1e-2
    scores = clip_i.score(["", "of", "no", "account"], PICTURES)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-6)


def test_a_folder_a_list_of_files_and_pictures_in_memory_are_one(clip_i, quick_gelu_folder, folder):
    assert clip_i.references.shape == (3, 16)
    for source in ([str(folder / "0.png"), folder / "1.png", folder / "2.png"], SUBJECT):
        assert torch.equal(open_clip_i(source, quick_gelu_folder).references, clip_i.references)
    one = open_clip_i(str(folder / "0.png"), quick_gelu_folder)
    assert torch.equal(one.references, clip_i.references[:1])
    assert one.score([""], [SUBJECT[0]])[0] == pytest.approx(1, abs=1e-6)


def test_a_reference_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    SUBJECT[0].save(tmp_path / "a.jpg", exif=exif)
    assert [one.size for one in open_references(tmp_path)] == [(60, 40)]


def test_references_that_cannot_be_had_are_told(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="empty holds no pictures; give a folder"):
        open_references(tmp_path / "empty")
    with pytest.raises(UserError, match="there are no references"):
        open_references([])
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_references(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"bad.png cannot be read \("):
        open_references([folder / "0.png", tmp_path / "bad.png"])


def test_a_reference_whose_pixels_cannot_be_used_is_told(quick_gelu_folder):
    with pytest.raises(UserError, match=r"reference 2 of 2 cannot be read .*float"):
        open_clip_i([SUBJECT[0], Image.new("F", (30, 30))], quick_gelu_folder)


def test_clip_i_keeps_the_contract_and_needs_no_prompts(clip_i):
    assert isinstance(clip_i, PixelReward)
    assert not scorer_of(clip_i).needs_prompts
    with pytest.raises(ValueError, match="got 1 prompts and 4 media"):
        clip_i.score([""], PICTURES)
    failures: list[Failure] = []
    scores = clip_i.score(["", ""], [Image.new("F", (30, 30)), PICTURES[0]], failures)
    assert np.isnan(scores).tolist() == [True, False]
    assert [failure.index for failure in failures] == [0]
    alone = np.concatenate([clip_i.score([""], [one]) for one in PICTURES])
    np.testing.assert_allclose(clip_i.score([""] * 4, PICTURES), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "lam", "wanted"),
    [
        (0.5, 1.0, 0.5, 2 / 3),  # 1 / (0.5 / 0.5 + 0.5 / 1) = 1 / 1.5
        (0.8, 0.4, 0.25, 0.4571428571428571),  # 1 / (0.3125 + 1.875) = 1 / 2.1875
        (0.8, 0.4, 0.75, 0.6400000000000001),  # 1 / (0.9375 + 0.625) = 1 / 1.5625
        (0.6, 0.6, 0.3, 0.6),
        (0.0, 0.7, 0.5, 0.0),
        (0.0, 0.0, 0.5, 0.0),
        (0.0, 0.7, 0.0, 0.7),
        (0.7, 0.0, 1.0, 0.7),
        (0.0, 0.7, 1.0, 0.0),
        (0.7, 0.0, 0.0, 0.0),
    ],
)
def test_the_harmonic_mean_by_hand(a, b, lam, wanted):
    assert harmonic_mean(torch.tensor(a), torch.tensor(b), lam).item() == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_none_is_told(lam, quick_gelu_folder):
    with pytest.raises(ValueError, match="it is from 0 to 1"):
        harmonic_mean(torch.ones(1), torch.ones(1), lam)
    with pytest.raises(UserError, match="weight of the subject, from 0 to 1"):
        open_lambda_harmonic(SUBJECT, quick_gelu_folder, lam=lam)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_lambda_harmonic_is_the_mean_of_both_cosines_from_zero_to_one(quick_gelu_folder, folder, lam):
    reward = open_lambda_harmonic(folder, quick_gelu_folder, lam=lam)
    subject = (cosines_by_hand(quick_gelu_folder, PICTURES) + 1) / 2
    text = (open_clip_score(quick_gelu_folder).score(PROMPTS, PICTURES) + 1) / 2
    wanted = {0.0: text, 1.0: subject}.get(lam, 1 / (lam / subject + (1 - lam) / text))
    np.testing.assert_allclose(reward.score(PROMPTS, PICTURES), wanted, rtol=0, atol=1e-6)
    assert isinstance(reward, PixelReward)
    assert (reward.name, reward.lam, reward.differentiable) == ("lambda_harmonic", lam, True)
    assert scorer_of(reward).needs_prompts


def test_lambda_harmonic_of_two_models_gives_each_its_own_pixels(gelu_folder, quick_gelu_folder, clip_i):
    """PickScore's middle begins a pixel before CLIPScore's where the excess is odd."""
    text = replace(open_pickscore(gelu_folder), tower=open_clip_score(quick_gelu_folder).tower)
    wide = picture(59, 28, 2)
    assert not torch.equal(text.prepare(wide), clip_i.prepare(wide))
    stacked = LambdaHarmonic(text, clip_i).prepare(wide)
    assert torch.equal(stacked, torch.cat([text.prepare(wide), clip_i.prepare(wide)]))

    with pytest.raises(UserError, match="pickscore gives values outside"):
        LambdaHarmonic(text, clip_i).score(["a"], [wide])


@pytest.mark.parametrize("name", ["clip_i", "lambda_harmonic"])
def test_without_a_subject_the_option_is_told(name, quick_gelu_folder):
    told = rf"^{name} needs pictures of its subject; give a folder of them: --weights {name}\.references=DIR$"
    with pytest.raises(UserError, match=told):
        open_reward(name, weights=quick_gelu_folder)


def test_models_of_two_sizes_are_told(clip_i, quick_gelu_folder):
    class Larger(ClipScore):
        def prepare(self, picture: Image.Image) -> torch.Tensor:
            return torch.zeros(3, 56, 56)

    failures: list[Failure] = []
    reward = LambdaHarmonic(Larger(clip_i.tower), clip_i)
    assert np.isnan(reward.score(["a"], PICTURES[:1], failures)).all()
    assert "56x56 and 28x28 pixels" in failures[0].reason


def test_gradients_of_both_reach_the_pixels(quick_gelu_folder):
    reward = open_lambda_harmonic(SUBJECT, quick_gelu_folder, lam=0.5)
    images = torch.rand(1, 3, 40, 33, generator=torch.Generator().manual_seed(0)).requires_grad_()
    prepared = reward.prepare_tensor(images)
    prepared.retain_grad()
    reward.score_pixels(["a"], prepared).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert prepared.grad is not None
    assert (prepared.grad.abs().amax(dim=(0, 2, 3)) > 0).all()  # of each of the six channels


def test_lambda_harmonic_leaves_a_damaged_picture_and_no_other_without_a_score(quick_gelu_folder):
    file = io.BytesIO()
    PICTURES[0].save(file, "PNG")
    damaged = Image.open(io.BytesIO(file.getvalue()[:200]))
    failures: list[Failure] = []
    scores = open_lambda_harmonic(SUBJECT, quick_gelu_folder).score(PROMPTS[:2], [damaged, PICTURES[0]], failures)
    assert np.isnan(scores).tolist() == [True, False]
    assert failures[0].reason
