"""Guidance: denoisers that wrap a denoiser."""

from chainrule.diffusion.guidance.base import Energy, energy_gradient, push
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.guidance.noise_aware import NoiseAware, NoiseAwareMean
from chainrule.diffusion.guidance.one_step import OneStep
from chainrule.diffusion.guidance.training_free import Ramp, TrainingFree

__all__ = [
    "ClassifierFree",
    "Energy",
    "NoiseAware",
    "NoiseAwareMean",
    "OneStep",
    "Ramp",
    "TrainingFree",
    "energy_gradient",
    "push",
]
