"""One number for how sharply an objective reads the margin, whatever convention its `beta` is written in.

Every sigmoid-like loss is f(kappa * m) with m the margin; kappa is the temperature that acts, and publications and
programs hide it behind different betas. In palate `beta` is always the paper's official value:

    method                                             kappa     published beta
    Diffusion-DPO (SD1.5 and SDXL, official code)      beta / 2  2000 (SD1.5 in the paper), 5000 (both launchers)
    diffusers' Diffusion-DPO script for SDXL           beta / 2  5000
    diffusers' Diffusion-DPO script for SD1.5          beta      2500; the same kappa as 5000 with the half
    DCPO; InPO, Inversion-DPO; SDPO                    beta / 2  500; 2000 to 5000; 5000
    DMPO                                               beta / 2  2000 (SD1.5), 6000 (SDXL)
    RankDPO                                            beta / 2  none certain; its paper prints no half
    SmPO: beta / 2 times 10 (2p - 1), p by the scores  beta / 2  2000 (SD1.5), 5000 (SDXL)
    PNAPO: beta / 2 times 2p - 1                       beta / 2  5000 (SD3-M), 2000 (Flux)
    DSPO, of the weight in its residual                beta / 2  0.001 (SD1.5)
    Flow-DPO as in flow_grpo and Flow-Factory          beta / 2  100
    TangoFlux CRPO                                     beta / 2  2000
    Diffusion-KTO                                      beta      1000
    SPO, D3PO; on mean log-densities of transitions    beta      10, 0.1
    MaPO, without a reference; near error 0            T s / 2   1000 * 0.5 / 2; its beta of 0.1 weighs the whole term

These count on the error's *mean* over the latent's D = C * H * W elements. A sum is D times the mean, so the same
kappa on sums is D times as sharp: D = 16,384 (SD1.5 at 512 pixels), 65,536 (SDXL at 1024, SD3 at 512), 262,144 (SD3
at 1024). A beta is portable between resolutions only together with its reduction.
"""

from __future__ import annotations

from typing import Literal

from .contract import check_positive


def effective_temperature(
    beta: float, half: bool = True, reduction: Literal["mean", "sum"] = "mean", elements: int | None = None
) -> float:
    """kappa on the mean error: (beta / 2 if `half` else beta), times `elements` if errors are sums over elements.

    `half` is True for dpo and all that are written with kappa = beta / 2, False for kto and clipped_dpo. ipo and capo
    have no kappa, their beta sets a target margin; nor has mapo, whose beta is a weight.
    `elements` is D, the latent elements of one candidate; needed for sums only, ignored for means.
    Raises ValueError for beta <= 0, an unknown reduction, or a sum without a positive `elements`.
    """
    check_positive("beta", beta)
    kappa = beta / 2 if half else beta
    if reduction == "mean":
        return kappa
    if reduction != "sum":
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' or 'sum'")
    if elements is None or elements < 1:
        raise ValueError(f"elements is {elements}; summed errors need the number of latent elements, C * H * W")
    return kappa * elements
