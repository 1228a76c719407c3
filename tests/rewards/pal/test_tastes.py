"""PAL's formulas by hand, and what it is for: users of opposite tastes, and a newcomer with ten votes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from palate.errors import UserError
from palate.rewards.pal.file import load_tastes, save_tastes
from palate.rewards.pal.fit import LOSSES, Fit, fit, fit_user
from palate.rewards.pal.tastes import Shape, Tastes, Votes, accuracy, vote_margins

WIDTH = 16
AXIS, COMMON = torch.eye(WIDTH)[:2]
PEOPLE = [(f"user {number}", 1.0 if number % 2 else -1.0) for number in range(20)]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def points_apart(sign: float, prompts: Tensor) -> Tensor:
    """Half of the users like what lies along an axis and half what lies against it, whatever the prompt is."""
    return (sign * AXIS + 0.7 * COMMON).expand_as(prompts)


def prompts_and_taste(sign: float, prompts: Tensor) -> Tensor:
    """All want what is asked for, and half of them with more of something, half with less."""
    return prompts + sign * COMMON


def votes_of(people, count: int, seed: int, likes: Callable = points_apart) -> Votes:
    """`count` votes of each user, between random pictures of random prompts."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _, sign in people:
        one, other, prompts = (F.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1) for _ in range(3))
        first = ((one - other) * likes(sign, prompts)).sum(dim=-1, keepdim=True) > 0
        parts.append((torch.where(first, one, other), torch.where(first, other, one), prompts))
    users = [user for user, _ in people for _ in range(count)]
    return Votes(users, *(torch.cat(part) for part in zip(*parts, strict=True)))


def hand_made(form: str, **values: Tensor) -> torch.nn.Module:
    """A model of width 2 and two prototypes with these parameters."""
    model = Shape(form, k=2, width=2, hidden=1, scale=2.0).build(torch.Generator().manual_seed(0))
    model.load_state_dict({**model.state_dict(), **values})
    return model.requires_grad_(False)


def test_fixed_points_by_hand():
    """The ideal point is 0.25 (0, 0) + 0.75 (4, 4) = (3, 3), the pictures lie 5 and 0 from it, and s is 2."""
    model = hand_made("a", prototypes=torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    pictures = torch.tensor([[0.0, -1.0], [3.0, 3.0]])
    weights = torch.tensor([[0.25, 0.75]]).expand(2, 2)
    assert model(weights, pictures, torch.full((2, 2), math.nan)).tolist() == pytest.approx([-10, 0])


def test_points_of_prompts_by_hand():
    """g_1 adds (1, 0) to the prompt (1, 1), g_2 takes relu(1) (0, 5) from it: half of each is the point (1.5, -1.5)."""
    g = {
        "g.0.second.bias": torch.tensor([1.0, 0.0]),
        "g.1.first.weight": torch.tensor([[1.0, 0.0]]),
        "g.1.second.weight": torch.tensor([[0.0], [-5.0]]),
    }
    model = hand_made("b", **g)
    pictures = torch.tensor([[2.0, 0.0], [0.0, 3.0], [7.0, 7.0]])
    prompts = torch.ones(3, 2)
    half = math.sqrt(0.5)
    rewards = model(torch.full((3, 2), 0.5), pictures, prompts)
    assert rewards.tolist() == pytest.approx([2 * half, -2 * half, 0], abs=1e-6)
    first = model(torch.tensor([[1.0, 0.0]]).expand(3, 2), pictures, prompts)  # the point is (2, 1)
    assert first.tolist() == pytest.approx([4 / math.sqrt(5), 2 / math.sqrt(5), 6 / math.sqrt(10)])


def test_residuals_by_hand():
    model = hand_made(
        "a",
        prototypes=torch.zeros(2, 2),
        **{"f.first.weight": torch.tensor([[0.0, 1.0]]), "f.second.weight": torch.tensor([[2.0], [0.0]])},
    )
    pictures = torch.tensor([[0.0, -3.0], [-2.0, 1.0]])  # f: relu(-3) = 0 adds nothing; relu(1) adds (2, 0)
    assert model(torch.full((2, 2), 0.5), pictures, pictures).tolist() == pytest.approx([-6, -2])


def test_unlearned_it_is_the_towers_own_score():
    model = Shape("b", k=3, width=WIDTH, scale=100.0).build(torch.Generator().manual_seed(1))
    votes = votes_of(PEOPLE[:1], 5, seed=0)
    weights = torch.tensor([0.2, 0.3, 0.5]).expand(5, 3)
    expected = 100 * F.cosine_similarity(votes.preferred, votes.prompts)
    torch.testing.assert_close(model(weights, votes.preferred, votes.prompts), expected, atol=1e-4, rtol=0)


def test_losses_by_hand():
    margins = torch.tensor([0.0, 3.0, -1.0])
    logistic = (math.log(2) + math.log1p(math.exp(-3)) + math.log1p(math.exp(1))) / 3
    assert LOSSES["logistic"](margins).item() == pytest.approx(logistic)
    assert LOSSES["hinge"](margins).item() == pytest.approx((1 + 0 + 2) / 3)


@pytest.mark.parametrize(
    ("form", "likes", "loss", "one_taste", "two_tastes", "newcomer"),
    [
        ("a", points_apart, "logistic", 0.75, 0.94, 0.88),
        ("a", points_apart, "hinge", 0.75, 0.94, 0.88),
        ("b", prompts_and_taste, "logistic", 0.75, 0.83, 0.78),
    ],
)
def test_two_tastes_and_a_newcomer(form, likes, loss, one_taste, two_tastes, newcomer):
    """A single taste serves neither group; two prototypes do, and ten votes tell to whom a newcomer belongs."""
    train, held_out = votes_of(PEOPLE, 40, 0, likes), votes_of(PEOPLE, 40, 1, likes)
    how = Fit(loss=loss)
    assert accuracy(fit(train, Shape(form, 1, WIDTH, hidden=32), how), held_out) < one_taste
    tastes = fit(train, Shape(form, 2, WIDTH, hidden=32), how)
    assert accuracy(tastes, held_out) > two_tastes
    sides = torch.stack([tastes.users[user] for user, _ in PEOPLE])[:, 0]
    assert sides[1::2].min() > sides[::2].max() or sides[1::2].max() < sides[::2].min()
    before = {name: value.clone() for name, value in tastes.model.state_dict().items()}
    for sign in (1.0, -1.0):
        few, test = votes_of([("new", sign)], 10, 2, likes), votes_of([("new", sign)], 400, 3, likes)
        weights = fit_user(tastes, few, loss)
        assert weights.sum().item() == pytest.approx(1)
        assert accuracy(tastes.with_user("new", weights), test) > newcomer
        assert accuracy(tastes.with_user("new", tastes.crowd), test) < 0.8
    assert all(torch.equal(value, before[name]) for name, value in tastes.model.state_dict().items())


def test_equal_rewards_foretell_half_a_vote():
    tastes = Tastes(
        Shape("a", 2, 2, hidden=1), hand_made("a", prototypes=torch.zeros(2, 2)), {"ann": torch.ones(2) / 2}
    )
    near, far = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0])  # worth -2 and -6
    votes = Votes(
        ["ann"] * 4, torch.stack([near, near, far, near]), torch.stack([far, far, far, near]), torch.zeros(4, 2)
    )
    assert accuracy(tastes, votes) == 0.75


def test_weights_decay_in_the_networks_alone():
    """AdamW's first step from p is the same whatever the decay d, but for -rate * d * p."""
    votes, shape = votes_of(PEOPLE[:2], 4, 0), Shape("a", 2, WIDTH, hidden=8)
    start = shape.build(torch.Generator().manual_seed(0)).state_dict()
    steps = []
    for decay in (0.0, 0.5):
        tastes = fit(votes, shape, Fit(epochs=1, learning_rate=0.1, weight_decay=decay))
        steps.append({**tastes.model.state_dict(), **tastes.users})
    for name, without in steps[0].items():
        gone = 0.1 * 0.5 * start[name] if name.startswith("f.") else torch.zeros_like(without)
        torch.testing.assert_close(steps[1][name], without - gone, atol=1e-6, rtol=0)
    assert start["f.first.weight"].abs().min() > 1e-4


def test_a_fit_depends_on_its_seed_alone_and_its_loss_falls():
    train = votes_of(PEOPLE[:4], 20, 0)
    shape, losses = Shape("b", 2, WIDTH, hidden=8), []
    first = fit(train, shape, Fit(epochs=3), advance=lambda epoch, loss: losses.append((epoch, loss)))
    state = torch.get_rng_state()
    second = fit(train, shape, Fit(epochs=3))
    assert torch.equal(torch.get_rng_state(), state)
    assert [epoch for epoch, _ in losses] == [1, 2, 3]
    assert losses[2][1] < losses[0][1]
    pictures, prompts = train.preferred[:5], train.prompts[:5]
    assert torch.equal(first.score("user 1", pictures, prompts), second.score("user 1", pictures, prompts))
    other = fit(train, shape, Fit(epochs=3, seed=1))
    assert not torch.equal(first.score("user 1", pictures, prompts), other.score("user 1", pictures, prompts))


@pytest.fixture(scope="module")
def tastes() -> Tastes:
    return fit(votes_of(PEOPLE[:4], 10, 0), Shape("b", 2, WIDTH, hidden=8), Fit(epochs=2), features="pickscore")


def test_scores_of_users_and_of_the_crowd(tastes):
    votes = votes_of([("user 0", 1.0)], 6, 5)
    pictures, prompts = votes.preferred.clone().requires_grad_(), votes.prompts
    scores = tastes.score("user 0", pictures, prompts)
    expected = tastes.model(tastes.users["user 0"].expand(6, 2), pictures, prompts)
    assert torch.equal(scores, expected)
    assert torch.autograd.grad(scores.sum(), pictures)[0].abs().sum() > 0
    torch.testing.assert_close(tastes.crowd, sum(tastes.users.values()) / 4)
    nobody = Votes([], *(torch.empty(0, WIDTH),) * 3)
    torch.testing.assert_close(fit_user(tastes, nobody), tastes.crowd)
    margins = vote_margins(tastes.model, tastes.crowd.expand(6, 2), votes)
    worth = tastes.score(None, votes.preferred, prompts) - tastes.score(None, votes.other, prompts)
    torch.testing.assert_close(margins, worth)
    alone = torch.cat([tastes.score("user 0", pictures[row : row + 1], prompts[row : row + 1]) for row in range(6)])
    torch.testing.assert_close(alone, scores, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="'nobody' is none of the 4 users; fit them with a few votes first"):
        tastes.score("nobody", pictures, prompts)


def test_saved_and_loaded(tastes, tmp_path):
    save_tastes(tastes, tmp_path / "pal")
    save_tastes(tastes, tmp_path / "pal")  # over its like
    again = load_tastes(tmp_path / "pal")
    assert (again.shape, again.features, list(again.users)) == (tastes.shape, "pickscore", list(tastes.users))
    votes = votes_of([("user 2", 1.0)], 6, 5)
    for user in (*tastes.users, None):
        before = tastes.score(user, votes.preferred, votes.prompts)
        assert torch.equal(again.score(user, votes.preferred, votes.prompts), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pal"]


def test_a_folder_that_is_no_tastes(tastes, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").touch()
    with pytest.raises(UserError, match="notes holds something else; name another folder"):
        save_tastes(tastes, tmp_path / "notes")
    assert (tmp_path / "notes/mine.txt").exists()
    with pytest.raises(UserError, match=r"pal\.json cannot be read \(No such file"):
        load_tastes(tmp_path / "notes")
    save_tastes(tastes, tmp_path / "pal")
    tensors = load_file(tmp_path / "pal/pal.safetensors")
    save_file({**tensors, "users": tensors["users"][:2].clone()}, tmp_path / "pal/pal.safetensors")
    with pytest.raises(UserError, match=r"pal\.safetensors does not hold what pal\.json says"):
        load_tastes(tmp_path / "pal")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"shape": {"k": "2"}}, "shape: k: Input should be a valid integer"),
        ({"shape": {"k": True}}, "shape: k: Input should be a valid integer"),
        ({"shape": {"width": 16.5}}, "shape: width: Input should be a valid integer"),
        ({"shape": {"scale": "20"}}, "shape: scale: Input should be a valid number"),
        ({"shape": {"form": 1}}, "shape: form: Input should be a valid string"),
        ({"shape": 3}, "shape: Input should be "),
        ({"features": None}, "features: Input should be a valid string"),
        ({"users": "ann"}, "users: Input should be a valid array"),
        ({"users": [1, 2, 3, 4]}, "users: 0: Input should be a valid string"),
    ],
)
def test_damaged_settings_are_one_line(damage, told, tastes, tmp_path):
    save_tastes(tastes, tmp_path / "pal")
    file = tmp_path / "pal/pal.json"
    settings = json.loads(file.read_text())
    for key, value in damage.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(settings))
    with pytest.raises(
        UserError, match=rf"pal\.json is damaged or of another kind \({told}.*; fit the tastes"
    ) as error:
        load_tastes(tmp_path / "pal")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"shape": ', b"\xff", b'{"shape": {"k": 2}}'])
def test_what_is_no_settings_is_one_line(content, tastes, tmp_path):
    save_tastes(tastes, tmp_path / "pal")
    (tmp_path / "pal/pal.json").write_bytes(content)
    with pytest.raises(UserError, match=r"pal\.json is damaged or of another kind \(.*; fit the tastes") as error:
        load_tastes(tmp_path / "pal")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "how", "told"),
    [
        (Shape("c", 2, WIDTH), Fit(), "PAL has no form 'c'; it is a "),
        (Shape("a", 0, WIDTH), Fit(), "makes no model: k, width and hidden are 1 or more"),
        (Shape("a", 2, 8), Fit(), "the votes' features have width 16 and the model 8"),
        (Shape("a", 2, WIDTH), Fit(loss="square"), "there is no loss 'square'; known are logistic, hinge"),  # type: ignore[arg-type]
        (Shape("a", 2, WIDTH, scale=0.0), Fit(), "and scale is above 0"),
        (Shape("a", 2, WIDTH), Fit(batch_size=0), "batch_size is 0; it is 1 or more"),
    ],
)
def test_mistakes(shape, how, told):
    with pytest.raises(UserError, match=told):
        fit(votes_of(PEOPLE[:2], 4, 0), shape, how)


def test_numbers_that_run_away_are_told():
    wild = Fit(learning_rate=1e20, epochs=9, batch_size=1)
    with pytest.raises(UserError, match=r"the loss is nan after epoch \d; take smaller rates"):
        fit(votes_of(PEOPLE[:2], 4, 0), Shape("a", 2, WIDTH), wild)


def test_features_are_numbers_of_the_models_width_for_a_newcomer_too(tastes):
    votes = votes_of(PEOPLE[:2], 4, 0)
    narrow = Votes(votes.users, *(part[:, :8] for part in (votes.preferred, votes.other, votes.prompts)))
    with pytest.raises(UserError, match="the votes' features have width 8 and the model 16"):
        fit_user(tastes, narrow)
    votes.other[3, 0] = math.nan
    for learn in (lambda: fit_user(tastes, votes), lambda: fit(votes, Shape("a", 2, WIDTH))):
        with pytest.raises(UserError, match="a feature of the votes is no finite number"):
            learn()


def test_the_scale_stays_below_its_bound():
    tastes = fit(votes_of(PEOPLE[:2], 4, 0), Shape("b", 2, WIDTH, hidden=4, scale=1e4), Fit(epochs=1))
    assert tastes.model.log_scale.exp().item() == pytest.approx(100)


def test_votes_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"2 votes with features of shapes \[\(1, 4\), \(2, 4\)\]"):
        Votes(["a", "b"], torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(1, 4))
    with pytest.raises(UserError, match="there are no votes to learn from"):
        fit(Votes([], *(torch.empty(0, 4),) * 3), Shape("a", 2, 4))
