"""Where a picture is from: what is written is read back."""

import pytest

from palate.datasets.provenance import models_named, provenance


@pytest.mark.parametrize("revision", [None, "fp16", "refs/pr/3"])
@pytest.mark.parametrize("lora", [None, "owner/lora", "loras/a + b.safetensors"])
@pytest.mark.parametrize("model", ["tiny-sdxl", "owner/name", "/data/me@home/model"])
def test_the_model_is_among_the_names_that_are_read(model, revision, lora):
    told = provenance(model, revision, lora)
    assert told.startswith(model)
    assert all(part in told for part in (revision, lora) if part)
    assert model in models_named(told)


def test_the_longest_name_comes_first():
    assert provenance("owner/name", "main", "loras/one") == "owner/name@main + loras/one"
    assert models_named("a@b + c") == ("a@b + c", "a@b", "a")
    assert models_named("owner/name") == ("owner/name",)
    assert models_named("@") == ("@",)
