from __future__ import annotations

import time

import pytest

from palate.datasets.ahead import ordered_map


@pytest.mark.parametrize(("workers", "ahead"), [(1, 2), (3, 2), (3, 4)])
def test_order_is_kept_and_the_source_is_read_only_a_little_ahead(workers, ahead):
    taken = []

    def source():
        for number in range(50):
            taken.append(number)
            yield number

    def square(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number * number

    for done, (number, result) in enumerate(ordered_map(square, source(), workers, ahead)):
        assert (number, result) == (done, done * done)
        assert len(taken) <= done + ahead * workers
    assert len(taken) == 50


def test_an_error_reaches_the_caller_and_an_abandoned_stream_ends():
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 // number, iter([1, 0]), 2))
    stream = ordered_map(lambda number: number, iter(range(1000)), 2)
    assert next(stream) == (0, 0)
    stream.close()
