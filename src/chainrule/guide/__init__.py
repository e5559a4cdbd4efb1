"""Guidance: denoisers that wrap a denoiser."""

from chainrule.guide.classifier_free import ClassifierFree
from chainrule.guide.noise_aware import NoiseAware, NoiseAwareMean
from chainrule.guide.one_step import OneStep

__all__ = ["ClassifierFree", "NoiseAware", "NoiseAwareMean", "OneStep"]
