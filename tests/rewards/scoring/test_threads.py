"""What several workers may do at once, and what they may not."""

from __future__ import annotations

import threading

from PIL import Image

from palate.rewards.function import from_function
from palate.rewards.scorer import scorer_of
from palate.rewards.scoring.batch import score_images


def test_a_scorer_that_takes_single_pictures_is_never_called_by_two_threads_at_once(tmp_path):
    for number in range(8):
        Image.new("RGB", (8 + number, 8)).save(tmp_path / f"{number}.png")
    inside: list[int] = []
    most, threads, second = [], set(), threading.Event()

    def wary(prompt: str, image: Image.Image) -> float:
        inside.append(image.width)
        most.append(len(inside))
        threads.add(threading.get_ident())
        if len(inside) > 1:
            second.set()
        second.wait(0.03)  # the time that another thread would have to come in
        inside.remove(image.width)
        return float(image.width)

    scorer = scorer_of(from_function("wary", wary, needs_prompts=False))
    done = score_images(tmp_path, [scorer], tmp_path / "out", workers=4)
    assert done.new["wary"] == 8
    assert len(threads) > 1
    assert max(most) == 1
