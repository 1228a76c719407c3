"""Noise processes, likelihoods, transitions, inversion and samplers; no modality and no network class."""

from .draws import Stream, generator_for, group_noise, group_times, normal_noise
from .inversion import implied_noise, inversion_grid, invert
from .likelihood import Reduction, denoising_error, denoising_errors
from .process import Generators, NoiseProcess, Predict, PredictionType
from .rectified_flow import TimeDistribution, rectified_flow, rectified_flow_from_config
from .samplers import descend, sample
from .transition import log_density, step, transition
from .variance_preserving import variance_preserving

__all__ = [
    "Generators",
    "NoiseProcess",
    "Predict",
    "PredictionType",
    "Reduction",
    "Stream",
    "TimeDistribution",
    "denoising_error",
    "denoising_errors",
    "descend",
    "generator_for",
    "group_noise",
    "group_times",
    "implied_noise",
    "inversion_grid",
    "invert",
    "log_density",
    "normal_noise",
    "rectified_flow",
    "rectified_flow_from_config",
    "sample",
    "step",
    "transition",
    "variance_preserving",
]
