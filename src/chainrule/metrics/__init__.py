"""Numbers to trust: intervals and distances."""

from chainrule.metrics.frechet import frechet_distance
from chainrule.metrics.intervals import Interval, bootstrap, wilson
from chainrule.metrics.psnr import psnr

__all__ = ["Interval", "bootstrap", "frechet_distance", "psnr", "wilson"]
