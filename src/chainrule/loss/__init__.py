"""Losses on finished images: (B, 3, H, W) in [0, 1] -> (B,). They add and scale: `0.5 * a + b`."""

from chainrule.loss.aesthetic import Aesthetic, Rater, load_rater
from chainrule.loss.base import Call, Loss
from chainrule.loss.classifier import Classifier, load_classifier
from chainrule.loss.clip import ClipImage, ClipText, load_clip
from chainrule.loss.cutouts import Cutouts
from chainrule.loss.perceptual import Perceptual, Style, load_backbone, load_vgg
from chainrule.loss.pixels import Brightness, ColourHistogram, Symmetry, Target

__all__ = [
    "Aesthetic",
    "Brightness",
    "Call",
    "Classifier",
    "ClipImage",
    "ClipText",
    "ColourHistogram",
    "Cutouts",
    "Loss",
    "Perceptual",
    "Rater",
    "Style",
    "Symmetry",
    "Target",
    "load_backbone",
    "load_classifier",
    "load_clip",
    "load_rater",
    "load_vgg",
]
