"""Distances between images, and confidence intervals."""

from chainrule.metrics._psnr import psnr
from chainrule.metrics.frechet import frechet_distance
from chainrule.metrics.intervals import Interval, bootstrap, wilson

__all__ = ["Interval", "bootstrap", "frechet_distance", "psnr", "wilson"]
