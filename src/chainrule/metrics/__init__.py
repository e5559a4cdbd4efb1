"""Distances between images, and confidence intervals."""

from chainrule.metrics._psnr import psnr
from chainrule.metrics.effective import effective_sample_size
from chainrule.metrics.frechet import frechet_distance
from chainrule.metrics.intervals import Interval, bootstrap, wilson

__all__ = ["Interval", "bootstrap", "effective_sample_size", "frechet_distance", "psnr", "wilson"]
