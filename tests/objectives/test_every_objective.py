"""What every objective must hold, whatever its formula: one matrix over the table of objectives."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.objectives import OBJECTIVES, soft_dpo

EVERY = pytest.mark.parametrize("name", OBJECTIVES)
WITH_REFERENCE = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "mapo"])
PAIRWISE = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("kto", "rank_dpo")])
OF_TWO_OR_MORE = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "kto"])
PER_GROUP = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("kto", "em_dpo")])
WITHOUT_WEIGHTS = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "em_dpo"])  # its are detached
# ref - pol is all that they see; SePPO's loss jumps where a gain is 0, and rounding may take it across.
FROM_GAINS = [name for name in OBJECTIVES if name not in ("anchored_dpo", "mapo", "seppo")]
BETA = 3.0

# Mean gain below 0, so that KTO's reference point is the constant 0; no margin sits on the hinge's kink.
POLICY = [[0.9, 0.4, 0.8], [0.2, 0.9, 0.6]]
REFERENCE = [[0.5, 0.6, 0.3], [0.4, 0.3, 0.5]]
LABELS = [[3.0, 2.0, 1.0], [2.0, 2.0, 1.0]]


def objective(name):
    return partial(soft_dpo, label_scale=1.0) if name == "soft_dpo" else OBJECTIVES[name]


def tensors(dtype=torch.float64, device="cpu"):
    return [torch.tensor(values, dtype=dtype, device=device) for values in (POLICY, REFERENCE, LABELS)]


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("dpo", math.log(2)),
        ("anchored_dpo", math.log(2) + 0.7),
        ("ipo", (1 / (2 * BETA)) ** 2),
        ("hinge", 1.0),
        ("kto", 0.5),
        ("dmpo", 0.5 * math.log(0.5 / 0.99) + 0.5 * math.log(0.5 / 0.01)),  # 1.6145
        ("soft_dpo", math.log(2)),
        ("em_dpo", math.log(2)),
        ("clipped_dpo", math.log(2)),
    ],
)
@pytest.mark.parametrize("k", [2, 4])
def test_golden_value_at_policy_equals_reference(name, golden, k):
    errors = torch.full((5, k), 0.7, dtype=torch.float64)
    labels = torch.arange(k, 0, -1.0).expand(5, k)
    loss, metrics = objective(name)(errors, errors.clone(), labels, beta=BETA)
    assert loss.item() == pytest.approx(golden, abs=1e-12)
    assert metrics["margin"].item() == 0.0
    assert metrics["accuracy"].item() == 0.5


@EVERY
def test_descent_lowers_the_winners_error_and_raises_the_losers(name):
    policy = torch.full((3, 2), 0.7, requires_grad=True)
    loss, _ = objective(name)(policy, torch.full((3, 2), 0.7), torch.tensor([[1.0, 0.0]] * 3), beta=BETA)
    loss.backward()
    assert policy.grad is not None
    assert (policy.grad[:, 0] > 0).all()
    assert (policy.grad[:, 1] < 0).all()


@WITHOUT_WEIGHTS
def test_gradients_agree_with_finite_differences(name):
    policy, reference, labels = tensors()
    labels[1] = torch.tensor([2.0, 2.0, 2.0])  # a tie takes the other branch
    inputs = (policy.requires_grad_(), reference.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, r: objective(name)(p, r, labels, beta=BETA)[0], inputs)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_half_precision_errors_are_computed_in_float32_and_float64_stays(name, dtype):
    policy, reference, labels = tensors(dtype)
    loss, _ = objective(name)(policy, reference, labels, beta=BETA)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == wide
    expected, _ = objective(name)(policy.to(wide), reference.to(wide), labels, beta=BETA)
    assert loss.item() == expected.item()


@EVERY
def test_half_precision_policy_gets_a_gradient_in_its_own_dtype(name):
    policy, reference, labels = tensors(torch.bfloat16)
    objective(name)(policy.requires_grad_(), reference.float(), labels, beta=BETA)[0].backward()
    assert policy.grad is not None
    assert policy.grad.dtype == torch.bfloat16
    assert torch.isfinite(policy.grad).all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_metrics_are_detached_float32_scalars_with_the_same_keys_for_ties(name, dtype):
    policy, reference, labels = tensors(dtype)
    _, metrics = objective(name)(policy.requires_grad_(), reference, labels, beta=BETA)
    _, of_ties = objective(name)(policy, reference, torch.ones_like(labels), beta=BETA)
    for value in (*metrics.values(), *of_ties.values()):
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert not value.requires_grad
    assert metrics.keys() == of_ties.keys()
    health = {"winner_error", "loser_error", "margin", "accuracy", "accuracy_count", "gradient_factor"}
    assert health <= metrics.keys()
    assert name == "mapo" or {"winner_gain", "loser_gain"} <= metrics.keys()


@EVERY
def test_no_value_is_looked_at(name):
    # A meta tensor has no values: an `if` on one, an .item() or a boolean index would raise; each waits for a device.
    policy, reference, labels = tensors(device="meta")
    loss, _ = objective(name)(policy, reference, labels, beta=BETA)
    assert loss.shape == ()


@EVERY
def test_arguments_are_left_as_they_are(name):
    given_tensors, kept = tensors(), tensors()
    objective(name)(*given_tensors, beta=BETA)
    assert all(torch.equal(a, b) for a, b in zip(given_tensors, kept, strict=True))


@given(st.lists(st.tuples(*[st.floats(0, 2)] * 4), min_size=1, max_size=4), st.floats(-1, 1))
def test_the_loss_ignores_what_makes_a_candidate_hard_for_both_models(rows, hardness):
    values = torch.tensor(rows, dtype=torch.float64)
    policy, reference = values[:, :2], values[:, 2:]
    labels = torch.tensor([[1.0, 0.0]]).expand(len(rows), 2)
    shift = torch.tensor([[hardness, -2 * hardness]], dtype=torch.float64)
    for name in FROM_GAINS:
        loss, _ = objective(name)(policy, reference, labels, beta=BETA)
        shifted, _ = objective(name)(policy + shift, reference + shift, labels, beta=BETA)
        assert shifted.item() == pytest.approx(loss.item(), abs=1e-10)


@EVERY
@given(order=st.permutations(range(4)))
def test_the_order_of_the_groups_does_not_matter(name, order):
    policy = torch.tensor([[0.1, 0.5], [0.7, 0.2], [0.4, 0.4], [0.9, 0.3]], dtype=torch.float64)
    reference = torch.full((4, 2), 0.6, dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.8, 0.1], [1.0, 1.0]])
    loss, _ = objective(name)(policy, reference, labels, beta=BETA)
    index = list(order)
    permuted, _ = objective(name)(policy[index], reference[index], labels[index], beta=BETA)
    assert permuted.item() == pytest.approx(loss.item(), abs=1e-12)


@PAIRWISE
def test_a_wrong_order_or_an_unknown_label_teaches_nothing_as_a_win(name):
    policy, reference, _ = tensors()
    tie, _ = objective(name)(policy, reference, torch.ones(2, 3), beta=BETA)
    for labels in ([[1.0, 2.0, 3.0]] * 2, [[math.nan, 0.0, 0.0]] * 2):
        loss, metrics = objective(name)(policy, reference, torch.tensor(labels), beta=BETA)
        assert loss.item() == tie.item()
        assert metrics["accuracy_count"].item() == 0


@EVERY
def test_a_nan_error_shows_in_the_loss(name):
    policy, reference, labels = tensors()
    policy[0, 0] = math.nan
    assert torch.isnan(objective(name)(policy, reference, labels, beta=BETA)[0])


@EVERY
@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_beta_out_of_range(name, beta):
    with pytest.raises(ValueError, match=f"beta is {beta}; expected a finite number above 0"):
        objective(name)(*tensors(), beta=beta)


@WITH_REFERENCE
def test_a_missing_reference(name):
    policy, _, labels = tensors()
    with pytest.raises(ValueError, match="reference_errors is None"):
        objective(name)(policy, None, labels, beta=BETA)


@EVERY
@pytest.mark.parametrize(
    ("policy", "labels", "message"),
    [
        ((2, 3), (2, 2), r"policy_errors has shape \(2, 3\) and labels \(2, 2\)"),
        ((3,), (3,), r"expected \[B, k\]"),
        ((0, 2), (0, 2), "B >= 1"),
    ],
)
def test_shapes_that_do_not_fit(name, policy, labels, message):
    with pytest.raises(ValueError, match=message) as raised:
        objective(name)(torch.ones(policy), torch.ones(policy), torch.ones(labels), beta=BETA)
    assert "\n" not in str(raised.value)


@WITH_REFERENCE
@pytest.mark.parametrize("reference", [(2, 1), (1, 3)])  # both would broadcast in silence
def test_a_reference_that_does_not_fit(name, reference):
    with pytest.raises(ValueError, match=rf"reference_errors has shape \({reference[0]}, {reference[1]}\)"):
        objective(name)(torch.ones(2, 3), torch.ones(reference), torch.ones(2, 3), beta=BETA)


@OF_TWO_OR_MORE
def test_a_comparison_needs_two_candidates(name):
    lone = torch.ones(2, 1)
    with pytest.raises(ValueError, match="k >= 2"):
        objective(name)(lone, lone, lone, beta=BETA)


@PER_GROUP
def test_the_loss_is_the_mean_of_the_losses_of_equal_parts(name):
    policy, reference, labels = tensors()
    labels[1] = 2.0  # the second part is a tie
    parts = [objective(name)(policy[i : i + 1], reference[i : i + 1], labels[i : i + 1], beta=BETA)[0] for i in (0, 1)]
    whole, _ = objective(name)(policy, reference, labels, beta=BETA)
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), abs=1e-12)


@PAIRWISE
def test_a_pair_is_the_first_and_the_last_of_a_group(name):
    policy, reference, labels = tensors()
    ends = [0, -1]
    pair, _ = objective(name)(policy[:, ends], reference[:, ends], labels[:, ends], beta=BETA)
    assert objective(name)(policy, reference, labels, beta=BETA)[0].item() == pair.item()


@EVERY
@pytest.mark.parametrize("labels", [[1.0, 0.0], [0.5, 0.5]])
@pytest.mark.parametrize("errors", [[0.0, 1e6], [1e6, 0.0], [0.0, 0.0], [1e6, 1e6]])
def test_extreme_errors_stay_finite(name, errors, labels):
    policy = torch.tensor([errors], requires_grad=True)
    loss, metrics = objective(name)(policy, torch.zeros(1, 2), torch.tensor([labels]), beta=5000.0)
    (gradient,) = torch.autograd.grad(loss, policy)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert labels[0] == labels[1] or torch.isfinite(metrics["gradient_factor"])
