"""The margin of a group, and the numbers that every pairwise objective logs about it."""

from __future__ import annotations

from torch import Tensor

from .contract import scalar


def margin(policy_errors: Tensor, reference_errors: Tensor) -> Tensor:
    """m [B]: how much more than the reference the policy prefers the winner w to the loser l.

        m = (ref_w - pol_w) - (ref_l - pol_l)

    with w the first and l the last column of the errors [B, k]. Positive: the policy leans to the winner more than
    the reference does. With errors for negative log-likelihoods this is DPO's difference of log-ratios (Rafailov et
    al. 2023, arXiv 2305.18290, eq. 7); with denoising errors it is Diffusion-DPO's -(Δw - Δl) (Wallace et al. 2023,
    arXiv 2311.12908, eq. 14).
    """
    gain = reference_errors - policy_errors
    return gain[:, 0] - gain[:, -1]


def preferred(labels: Tensor) -> Tensor:
    """[B] bool: the group's first candidate is liked strictly better than its last.

    False for a tie, and for a NaN label too: what is not known to be a win is never read as one.
    """
    return labels[:, 0] > labels[:, -1]


def pair_metrics(
    policy_errors: Tensor, reference_errors: Tensor, labels: Tensor, *, gradient_factor: Tensor
) -> dict[str, Tensor]:
    """The metrics of the best against the worst candidate, as detached float32 scalars.

    winner_error, loser_error   mean policy error of the first and of the last column
    winner_gain, loser_gain     mean reference minus policy error; positive = the policy explains it better
    margin                      mean m = winner_gain - loser_gain; it also grows when both get worse: watch the gains
    accuracy                    fraction of groups with m > 0, m = 0 counting half; tied groups are left out, and it
                                is NaN when nothing is left
    accuracy_count              groups that `accuracy` is over; pool batches by sum(accuracy * count) / sum(count)
    gradient_factor             mean of the given tensor: how hard the objective still pulls; near 0 = saturated

    All but the accuracy are means over all B groups.
    """
    gain = reference_errors - policy_errors
    m = margin(policy_errors, reference_errors).detach()
    wins = preferred(labels)
    correct = (m > 0).float() + 0.5 * (m == 0).float()
    return {
        "winner_error": scalar(policy_errors[:, 0]),
        "loser_error": scalar(policy_errors[:, -1]),
        "winner_gain": scalar(gain[:, 0]),
        "loser_gain": scalar(gain[:, -1]),
        "margin": scalar(m),
        "accuracy": scalar(correct, where=wins),
        "accuracy_count": wins.sum().float(),
        "gradient_factor": scalar(gradient_factor),
    }
