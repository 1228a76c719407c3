"""Fine-tuning on winners asks for nothing else: the others are neither encoded nor shown to the network."""

from dataclasses import replace

import pytest
import torch

from palate.datasets.parquet import write_groups
from palate.t2i.align import make_policy, open_model
from palate.t2i.method import Method
from palate.t2i.methods import SFT
from palate.t2i.models.policy import LoraSettings
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, ModelConfig
from palate.t2i.task import AlignmentTask
from palate.training.task import Visit

VISITS = [Visit(3, 1), Visit(4, 0)]


@pytest.fixture
def ask(shape_groups, tmp_path):
    """What a step of a method on four groups of three encodes, shows to the network, and learns."""
    config = ModelConfig(path="tiny-sdxl", lora=LoraSettings(rank=4))
    model = open_model(config, "no", "cpu")
    policy = make_policy(model, config, 0)
    trained = [parameter for parameter in policy.network.parameters() if parameter.requires_grad]
    for number, parameter in enumerate(trained):
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    groups = [
        replace(group, candidates=(*group.candidates, other.candidates[0]), labels=(0.2, 0.9, 0.4))
        for group, other in zip(shape_groups(8)[:4], shape_groups(8)[4:], strict=True)
    ]
    write_groups(iter(groups), tmp_path / "groups")

    def asked(method: Method, cache: str) -> tuple[int, int, torch.Tensor, torch.Tensor]:
        encoded, shown, encode, predict = [], [], model.encode_images, model.predict
        model.encode_images = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
        model.predict = lambda network, noisy, *rest: shown.append(len(noisy)) or predict(network, noisy, *rest)
        data = DataConfig(path=str(tmp_path / "groups"), cache=str(tmp_path / cache))
        prepared = prepare(model, data, method, 0, lambda line: None)
        task = AlignmentTask(model, policy, method, prepared, seed=0)
        loss, _ = task.loss(task.collate([task.item(visit) for visit in VISITS]))
        slope = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, trained)])
        model.encode_images, model.predict = encode, predict
        return sum(encoded), sum(shown), loss.detach(), slope

    return asked


def test_only_winners_are_encoded_and_learned_from(ask):
    method = SFT().build(256)
    encoded, shown, loss, slope = ask(method, "one")
    assert (encoded, shown) == (4, 2)
    *seen, loss_of_two, slope_of_two = ask(replace(method, candidates=2), "two")
    assert seen == [8, 4]
    assert slope.norm() > 0
    torch.testing.assert_close(loss, loss_of_two)
    torch.testing.assert_close(slope, slope_of_two, rtol=1e-4, atol=1e-6)


def test_what_was_cached_with_the_losers_is_read_again(ask):
    method = SFT().build(256)
    ask(replace(method, candidates=2), "cache")
    assert ask(method, "cache")[0] == 0
