"""Every method's whole loss and gradient, on real tiny networks of every parametrisation, by a few lines of float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from palate.datasets.parquet import write_groups
from palate.diffusion import Stream, generator_for
from palate.t2i.align import make_policy, open_model
from palate.t2i.method import Rival
from palate.t2i.methods import (
    DCPO,
    DMPO,
    DSPO,
    PNAPO,
    SFT,
    TPO,
    CaPO,
    DiffusionDPO,
    DiffusionKTO,
    EmDPO,
    InPO,
    MaPO,
    RankDPO,
    SePPO,
)
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, LoraSettings, ModelConfig
from palate.t2i.task import AlignmentTask
from palate.training.task import Visit

VISITS = [Visit(50, 0), Visit(90, 3)]
LABELS = [(0.2, 0.9, 0.4), (0.8, 0.1, 0.3), (0.5, 0.6, 0.2), (0.3, 0.05, 0.75)]
ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
"""Of the tiny UNets' schedule, Stable Diffusion's own."""


@pytest.fixture(scope="module", params=["epsilon", "v", "flow"])
def lab(request, shape_groups, tiny_sd2, tmp_path_factory):
    """`task(method)` on groups of three with captions, seeds and labels; the policy is better than its reference."""
    folder = tmp_path_factory.mktemp("lab")
    path = {"epsilon": "tiny-sdxl", "v": str(tiny_sd2), "flow": "tiny-sd3"}[request.param]
    groups = [
        replace(
            group,
            candidates=(*group.candidates, group.candidates[0]),
            labels=labels,
            captions=(group.prompt, f"a {number}", "a red circle"),
            seed=tuple(range(10 * number, 10 * number + 3)),
        )
        for number, (group, labels) in enumerate(zip(shape_groups(4), LABELS, strict=True))
    ]
    write_groups(iter(groups), folder / "groups")
    data = DataConfig(path=str(folder / "groups"), cache=str(folder / "cache"))
    config = ModelConfig(path=path, lora=LoraSettings(rank=4))
    model = open_model(config, "no", "cpu")
    model.free = lambda part: None  # to prepare for every method anew would else be spent on collecting garbage
    policy = None

    def make(method) -> AlignmentTask:
        nonlocal policy
        built = method.build(256)
        prepared = prepare(model, data, built, 0, lambda line: None)
        policy = policy or make_policy(model, config, 0)
        return AlignmentTask(model, policy, built, prepared, seed=0, micro_batch=2, visits=100)

    learn(make(DiffusionKTO()))
    make.kind = request.param
    return make


def learn(task) -> None:
    """Fit a little what KTO will ask, so that its mean gain, the reference point, is above 0."""
    torch.manual_seed(0)
    task.method = replace(task.method, objective=lambda policy, reference, labels: (policy.mean(), {}))
    trained = [parameter for parameter in task.network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data += 0.01 * torch.randn_like(parameter)
    optimizer = torch.optim.Adam(trained, 3e-3)
    for _ in range(12):
        loss, _ = task.loss(task.collate([task.item(visit) for visit in VISITS]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@dataclass
class Seen:
    """What an objective may look at, `[B, k, ...]` in float64."""

    policy: Tensor
    """The policy's raw predictions, with gradient, elements flattened."""
    reference: Tensor
    target: Tensor
    alpha: Tensor
    sigma: Tensor
    to_noise: Tensor
    """What makes a squared error in the target one in the noise."""
    labels: Tensor

    @property
    def error(self) -> Tensor:
        return (self.policy - self.target).square().mean(2)

    @property
    def gain(self) -> Tensor:
        return (self.reference - self.target).square().mean(2) - self.error

    def margin(self, weight: Tensor | float = 1.0) -> Tensor:
        gain = weight * self.gain
        return gain[:, 0] - gain[:, -1]

    def guarded(self, mu: float, weight: Tensor | float = 1.0) -> Seen:
        """The same with the gradient into the loser's prediction scaled by Diffusion-SDPO's lambda."""
        # The gradient of w r^2 is 2 w r.
        residual = (self.policy - self.target).detach() * torch.as_tensor(weight)[..., None]
        winner, loser = residual[:, 0], residual[:, -1]
        shared = (winner * loser).sum()
        scale = ((1 - mu) * winner.square().sum() / shared).clamp(0, 1) if shared > 0 else torch.tensor(1.0)
        assert 0 < scale < 1  # the safeguard has something to do here
        scales = torch.tensor([1.0, scale], dtype=torch.float64)[:, None]
        policy = self.policy.detach() + scales * (self.policy - self.policy.detach())
        return replace(self, policy=policy)


def levels(kind: str, times: Tensor) -> tuple[Tensor, Tensor]:
    """alpha, sigma `[n]`; times -1 are the clean end."""
    if kind == "flow":
        s = times.double() / 1000
        return 1 - s, s
    bar = torch.where(times < 0, 1.0, ALPHA_BAR[times.clamp(min=0)])
    return bar.sqrt(), (1 - bar).sqrt()


def column(values: Tensor, like: Tensor) -> Tensor:
    return values.double().view(-1, *[1] * (like.ndim - 1))


def drawn(task, draws: str, k: int) -> tuple[Tensor, Tensor]:
    """Noise `[B * k, C, h, w]`, with InPO's steps before C, and times `[B * k]`, from seed, position and candidate."""
    noise, times = [], []
    for visit in VISITS:
        kept = sorted(range(3), key=lambda candidate: -LABELS[visit.index][candidate])
        for candidate in range(k):
            own = candidate if draws != "shared" else 0
            generator = generator_for(0, Stream.NOISE, visit.position, own)
            if draws == "source":  # of pairs: the best picture's seed and the worst one's
                generator = torch.Generator().manual_seed(10 * visit.index + kept[-candidate])
            shape = (2, *task._latent_shape) if draws == "inverted" else task._latent_shape
            noise.append(torch.randn(shape, generator=generator))
            counters = (visit.position, candidate) if draws == "own" else (visit.position,)
            times.append(task.model.process.draw(1, generator_for(0, Stream.TIMES, *counters)))
    return torch.stack(noise).double(), torch.cat(times)


def inverted(kind: str, ask, x: Tensor, times: Tensor, noise: Tensor, eta: float) -> Tensor:
    """Two steps up with one ReNoise correction in each: DDIM's with the mean noise, a flow's with the mean velocity."""
    clean_end = 0 if kind == "flow" else -1
    middle = clean_end + (times.double() - clean_end) / 2
    middle = middle.to(times.dtype) if kind == "flow" else middle.round().long()
    for number, (low, high) in enumerate(pairwise([torch.full_like(times, clean_end), middle, times])):
        (a, s), (c, d) = ([column(level, x) for level in levels(kind, end)] for end in (low, high))

        def noise_hat(x: Tensor, t: Tensor) -> Tensor:
            t = t.clamp(min=0)
            alpha, sigma = (column(level, x) for level in levels(kind, t))
            return ask(x, t) if kind == "epsilon" else alpha * ask(x, t) + sigma * x

        def up(estimate: Tensor, x=x, a=a, s=s, c=c, d=d) -> Tensor:
            return x + (d - s) * estimate if kind == "flow" else c * (x - s * estimate) / a + d * estimate

        estimate = ask if kind == "flow" else noise_hat
        first = estimate(x, low)
        x = up((first + estimate(up(first), high)) / 2)
        x = x + eta * s / d * (d.square() - (c / a * s).square()).sqrt() * noise[:, number]
    return x


def look(lab, task, draws: str, k: int) -> Seen:
    """The networks' raw predictions on noisy latents that are made here, and what to compare them with."""
    kind, batch = lab.kind, task.collate([task.item(visit) for visit in VISITS])
    clean, conditions = batch["mean"] + batch["std"] * batch["draws"]["posterior"], batch["conditions"]
    if task.method.rival:
        rival = Rival(steps=2, guidance=2.5, every=7)
        assert task.method.rival == rival
        clean, conditions = task._with_rivals(rival, clean, batch)
    kept = [sorted(LABELS[visit.index], reverse=True) for visit in VISITS]
    labels = torch.tensor([row if k == 3 else (row[0], row[-1])[:k] for row in kept], dtype=torch.float64)
    assert clean.shape[:2] == (2, k)

    def ask(network, noisy: Tensor, times: Tensor) -> Tensor:
        return task.model.predict(network, noisy.float(), times, conditions).double()

    x0 = clean.flatten(0, 1).double()
    noise, times = drawn(task, draws, k)
    alpha, sigma = levels(kind, times)
    a, s = column(alpha, x0), column(sigma, x0)
    with torch.no_grad():
        if draws == "inverted":
            noisy = inverted(kind, lambda x, t: ask(task.network, x, t), x0, times, noise, eta=0.2)
            noise = (noisy - a * x0) / s
        else:
            noisy = a * x0 + s * noise
        with task.policy.reference() as network:
            reference = ask(network, noisy, times)
    target = {"epsilon": noise, "v": a * noise - s * x0, "flow": noise - x0}[kind]
    to_noise = {"epsilon": torch.ones_like(alpha), "v": alpha**2, "flow": (1 - sigma) ** 2}[kind]
    rows = [ask(task.network, noisy, times), reference, target]
    return Seen(*(row.view(2, k, -1) for row in rows), *(row.view(2, k) for row in (alpha, sigma, to_noise)), labels)


PROGRESS = torch.tensor([0.5, 0.9], dtype=torch.float64)  # visits 50 and 90 of 100


def win(z: Tensor) -> Tensor:
    return -logsigmoid(z).mean()


def kto(seen: Seen, beta: float, good: float = 1.0, bad: float = 1.0) -> Tensor:
    reference_point = seen.gain.detach().mean()
    assert reference_point > 0
    y = torch.sign(seen.labels - seen.labels.mean(1, keepdim=True))
    return (torch.where(y > 0, good, bad) * (1 - torch.sigmoid(y * beta * (seen.gain - reference_point)))).mean()


def ranked(seen: Seen, beta: float, by_model: bool) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for gain, phi in zip(seen.gain, seen.labels, strict=True):
        ranks = 1 + torch.argsort(torch.argsort(-(gain if by_model else phi)))
        for i, j in [(0, 1), (0, 2), (1, 2)]:
            discount = abs(1 / math.log(1 + ranks[i]) - 1 / math.log(1 + ranks[j]))
            total = total - (2 ** phi[i] - 2 ** phi[j]) * discount * logsigmoid(beta / 2 * (gain[i] - gain[j]))
    return total / 2


def divergence(seen: Seen, beta: float, alpha: float) -> Tensor:
    p = torch.sigmoid(beta / 2 * seen.margin())
    return (p * (p / (1 - alpha)).log() + (1 - p) * ((1 - p) / alpha).log()).mean()


def calibrated(seen: Seen, beta: float, weight: Tensor | float) -> Tensor:
    return ((seen.labels[:, 0] - seen.labels[:, -1] - beta * seen.margin(weight)) ** 2).mean()


def capo_weight(seen: Seen, bias: float) -> Tensor:
    return seen.to_noise / (1 + math.exp(-bias) * (seen.alpha / seen.sigma) ** 2)


def score(seen: Seen, beta: float) -> Tensor:
    pull = beta * torch.sigmoid(-beta / 2 * seen.margin())[:, None]
    off, away = seen.policy - seen.target, seen.policy - seen.reference
    return (off[:, 0] - pull * away[:, 0]).square().mean()


def flipped(seen: Seen, beta: float, prior: float, rounds: int) -> Tensor:
    z = beta / 2 * seen.margin()
    for _ in range(rounds):
        right = (1 - prior) * torch.sigmoid(z.detach())
        right = right / (right + prior * torch.sigmoid(-z.detach()))
        prior = (1 - right).mean().item()
    right = torch.sigmoid(z.detach() + math.log((1 - prior) / prior))
    return -(right * logsigmoid(z) + (1 - right) * logsigmoid(-z)).mean()


def soft(seen: Seen, beta: float, label_scale: float) -> Tensor:
    """beta / 2 (2 p - 1) m, the softened margin."""
    p = torch.sigmoid((seen.labels[:, 0] - seen.labels[:, -1]) / label_scale)
    return beta / 2 * (2 * p - 1) * seen.margin()


def mapo(seen: Seen, beta: float, snr: float, steps: float) -> Tensor:
    u = snr * seen.error
    phi = u / (u.exp() - 1)
    return seen.error[:, 0].mean() + beta * win(steps * (phi[:, 0] - phi[:, -1]))


def seppo(seen: Seen, beta: float) -> Tensor:
    gain = seen.gain
    sign = torch.where(gain[:, 0] < 0, -1.0, 1.0)
    return win(beta / 2 * (gain[:, 0] - sign * gain[:, -1]))


INVERSION = {"steps": 2, "eta": 0.2, "corrections": 1}
# What the recipe says and what the paper says; then, where it is not a pair with one noise and one time, how many
# candidates there are and whether each has its "own noise", its "own" noise and time, the "source"'s, or is "inverted".
CASES = {
    "dpo": (DiffusionDPO(beta=100), lambda s: win(50 * s.margin())),
    "dpo, in the noise": (DiffusionDPO(beta=100, times="epsilon"), lambda s: win(50 * s.margin(s.to_noise))),
    "dpo, safeguarded": (DiffusionDPO(beta=100, safeguard=0.98), lambda s: win(50 * s.guarded(0.98).margin())),
    "dpo, of sums": (
        DiffusionDPO(beta=0.4, safeguard=0.98, reduction="sum"),
        lambda s: win(0.2 * s.policy.shape[2] * s.guarded(0.98).margin()),
    ),
    "dpo, in the noise and safeguarded": (
        DiffusionDPO(beta=100, times="epsilon", safeguard=0.98),
        lambda s: win(50 * s.guarded(0.98, s.to_noise).margin(s.to_noise)),
    ),
    "dpo, anchored": (
        DiffusionDPO(beta=100, objective="anchored_dpo", anchor=0.3),
        lambda s: win(50 * s.margin()) + 0.3 * s.error[:, 0].mean(),
    ),
    "ipo": (DiffusionDPO(beta=20, objective="ipo"), lambda s: (s.margin() - 1 / 40).square().mean()),
    "hinge": (DiffusionDPO(beta=10, objective="hinge"), lambda s: (1 - 5 * s.margin()).clamp(min=0).mean()),
    "dcpo": (DCPO(beta=100), lambda s: win(50 * s.margin())),
    "tpo": (TPO(beta=100), lambda s: win(50 * s.margin())),
    "tpo, kto": (TPO(beta=60, form="kto"), lambda s: kto(s, 60)),
    "kto": (
        DiffusionKTO(beta=60, desirable_weight=0.7, undesirable_weight=1.3),
        lambda s: kto(s, 60, 0.7, 1.3),
        2,
        "own",
    ),
    "rank_dpo": (RankDPO(beta=100, gains="label"), lambda s: ranked(s, 100, by_model=False), 3, "own noise"),
    "rank_dpo, by the model": (
        RankDPO(beta=100, gains="label", rank_source="model"),
        lambda s: ranked(s, 100, by_model=True),
        3,
        "own noise",
    ),
    "dmpo": (DMPO(beta=100, alpha=0.05), lambda s: divergence(s, 100, 0.05)),
    "capo": (CaPO(beta=50, bias=1.0), lambda s: calibrated(s, 50, capo_weight(s, 1.0))),
    "capo, unweighted": (CaPO(beta=50, bias=None), lambda s: calibrated(s, 50, 1.0)),
    "capo, safeguarded": (
        CaPO(beta=50, safeguard=0.98),
        lambda s: calibrated(s.guarded(0.98, capo_weight(s, 1.5)), 50, capo_weight(s, 1.5)),
    ),
    "dspo": (DSPO(beta=0.5), lambda s: score(s, 0.5)),
    "em_dpo": (EmDPO(beta=10, flip_prior=0.2, rounds=2), lambda s: flipped(s, 10, 0.2, 2)),
    "inpo": (InPO(beta=100, **INVERSION), lambda s: win(50 * s.margin()), 2, "inverted"),
    "inpo, safeguarded": (
        InPO(beta=100, safeguard=0.98, **INVERSION),
        lambda s: win(50 * s.guarded(0.98).margin()),
        2,
        "inverted",
    ),
    "smpo": (
        InPO(beta=100, gamma=4, label_scale=0.5, **INVERSION),
        lambda s: win(4 * soft(s, 100, 0.5)),
        2,
        "inverted",
    ),
    "mapo": (MaPO(beta=0.3, snr=0.7, steps=20), lambda s: mapo(s, 0.3, 0.7, 20)),
    "pnapo": (
        PNAPO(beta=300, label_scale=0.5, decay=0.4),
        lambda s: win((1 - 0.4 * (1 - torch.cos(math.pi * PROGRESS)) / 2) * soft(s, 300, 0.5)),
        2,
        "source",
    ),
    "seppo": (SePPO(beta=100, steps=2, guidance=2.5, every=7), lambda s: seppo(s, 100)),
    "sft": (SFT(), lambda s: s.error[:, 0].mean(), 1, "shared"),
}


def slope(task, loss: Tensor) -> Tensor:
    """The gradient by all that is trained, flat."""
    trained = [parameter for parameter in task.network.parameters() if parameter.requires_grad]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, trained)]).double()


@pytest.mark.parametrize("case", CASES)
def test_the_whole_loss_is_the_papers(lab, case):
    method, objective, *how = CASES[case]
    task = lab(method)
    k, draws = how or (2, "shared")
    loss, _ = task.loss(task.collate([task.item(visit) for visit in VISITS]))
    expected = objective(look(lab, task, draws, k))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    found, right = slope(task, loss), slope(task, expected)
    assert (found - right).norm() < 5e-3 * right.norm()


@pytest.mark.parametrize("case", CASES)
def test_a_method_whose_groups_depend_on_each_other_says_so(case):
    """The gradient of two groups is the mean of each one's own, or the method is marked: batches may not be cut."""
    built = CASES[case][0].build(256)
    k = 3 if built.candidates is None else 2
    errors = 0.5 + 0.1 * torch.rand(2, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The second group gained more than the first, and its residuals overlap more.
    reference = errors + torch.tensor([[0.02, 0.01, 0.005], [0.06, 0.02, 0.01]])[:, :k]
    labels = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.4, 0.3]])[:, 3 - k :]
    overlap = torch.stack([errors[:, 0], torch.tensor([0.6, 0.9])], dim=1)
    extras = {"progress": torch.tensor([0.2, 0.4]), "drift": 0.1 * errors, "overlap": overlap}

    def slope(rows: slice) -> Tensor:
        asked = errors[rows].clone().requires_grad_()
        given = {name: extras[name][rows] for name in built.reads}
        loss, _ = built.objective(asked, reference[rows], labels[rows], **given)
        return torch.autograd.grad(loss, asked)[0]

    together, apart = slope(slice(0, 2)), torch.cat([slope(slice(0, 1)), slope(slice(1, 2))]) / 2
    assert built.over_batch != torch.allclose(together, apart, rtol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if hasattr(CASES[case][0], "reduction")])
def test_the_reduction_of_the_recipe_is_taken(case):
    method = CASES[case][0]
    mean, total = (method.model_copy(update={"reduction": reduction}).build(256) for reduction in ("mean", "sum"))
    assert (mean.reduction, total.reduction) == ("mean", "sum")
    if mean.temperature is not None:
        assert total.temperature == 256 * mean.temperature
