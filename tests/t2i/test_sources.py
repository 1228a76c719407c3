"""What a visit feeds the method where nothing is cached."""

from types import SimpleNamespace

import torch

from palate.t2i.sources import LiveSource


def test_pictures_go_through_the_autoencoder_a_few_at_once():
    """Three pairs of 1024 pixels: two pictures at once, as `prepare` encodes and the estimate counts."""
    sizes = []

    def encode_images(pixels):
        sizes.append(len(pixels))
        mean = pixels.mean((1, 2, 3), keepdim=True)
        return mean, mean + 0.5

    family = SimpleNamespace(size_conditions=lambda framings: {})
    model = SimpleNamespace(encode_images=encode_images, encode_prompts=lambda prompts: {}, family=family)
    pixels = torch.arange(6.0).view(3, 2, 1, 1, 1).expand(3, 2, 3, 1024, 1024)
    batch = LiveSource(None, model, 1024).finish({"pixels": pixels, "framings": [], "prompts": []})
    assert sizes == [2, 2, 2]
    assert torch.equal(batch["mean"], torch.arange(6.0).view(3, 2, 1, 1, 1))
    assert torch.equal(batch["std"], batch["mean"] + 0.5)
