"""Noise processes, likelihoods, transitions, inversion and samplers; no modality and no network class."""

from .branching import Branch, Judge, branches, extremes
from .draws import Stream, generator_for, group_noise, group_times, normal_noise
from .guidance import guided
from .inversion import implied_noise, inversion_grid, invert
from .likelihood import Reduction, denoising_error, denoising_errors
from .pairs import Pairs, RowPredict, pair_errors, transition_errors
from .process import Generators, NoiseProcess, Predict, PredictionType
from .rectified_flow import TimeDistribution, rectified_flow, rectified_flow_from_config
from .samplers import descend, sample
from .trajectory import Move, clean_estimate, stochastic_grid, trajectory
from .transition import log_density, step, transition
from .variance_preserving import variance_preserving

__all__ = [
    "Branch",
    "Generators",
    "Judge",
    "Move",
    "NoiseProcess",
    "Pairs",
    "Predict",
    "PredictionType",
    "Reduction",
    "RowPredict",
    "Stream",
    "TimeDistribution",
    "branches",
    "clean_estimate",
    "denoising_error",
    "denoising_errors",
    "descend",
    "extremes",
    "generator_for",
    "group_noise",
    "group_times",
    "guided",
    "implied_noise",
    "inversion_grid",
    "invert",
    "log_density",
    "normal_noise",
    "pair_errors",
    "rectified_flow",
    "rectified_flow_from_config",
    "sample",
    "step",
    "stochastic_grid",
    "trajectory",
    "transition",
    "transition_errors",
    "variance_preserving",
]
