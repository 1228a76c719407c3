import pytest

from palate.objectives import effective_temperature


def test_the_two_diffusers_scripts_have_one_temperature():
    assert effective_temperature(5000) == 2500
    assert effective_temperature(2500, half=False) == 2500


@pytest.mark.parametrize(
    ("size", "beta_on_sums"),
    [(4 * 64 * 64, 0.30517578125), (4 * 128 * 128, 0.0762939453125), (16 * 128 * 128, 0.019073486328125)],
)
def test_a_sum_is_as_sharp_as_a_mean_with_elements_times_the_beta(size, beta_on_sums):
    # 5000 / 16384, 5000 / 65536 and 5000 / 262144 are exact in binary.
    assert effective_temperature(beta_on_sums, reduction="sum", elements=size) == 2500


def test_elements_do_not_matter_to_a_mean():
    assert effective_temperature(2000, reduction="mean", elements=16384) == 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": 1.0, "reduction": "sum"}, "elements is None"),
        ({"beta": 1.0, "reduction": "sum", "elements": 0}, "elements is 0"),
        ({"beta": 1.0, "reduction": "median"}, "expected 'mean' or 'sum'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        effective_temperature(**arguments)
