"""Sizes are of pixels, whatever else a file brings along."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from palate.rewards.service.client import encoded
from palate.rewards.statistics import jpeg_kilobytes

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("JPEG2000", {})])
def test_a_files_comment_does_not_count(kind, options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, comment=b"x" * 5000, **options)
    picture = Image.open(file)
    plain = Image.fromarray(np.asarray(picture))
    size = jpeg_kilobytes("", plain)
    told = io.BytesIO()
    plain.save(told, "JPEG", quality=95)
    assert size == len(told.getvalue()) / 1000
    assert len(picture.info["comment"]) == 5000
    assert jpeg_kilobytes("", picture) == size
    assert jpeg_kilobytes("", Image.open(io.BytesIO(encoded(picture)))) == size  # as a service sees it
    assert len(picture.info["comment"]) == 5000
