"""Losses on finished images: (B, 3, H, W) in [0, 1] -> (B,). They add and scale: `0.5 * a + b`."""

from chainrule.loss.base import Call, Loss
from chainrule.loss.classifier import Classifier, load_classifier
from chainrule.loss.cutouts import Cutouts

__all__ = ["Call", "Classifier", "Cutouts", "Loss", "load_classifier"]
