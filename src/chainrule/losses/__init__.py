"""Losses on finished images: (B, 3, H, W) in [0, 1] -> (B,). They add and scale: `0.5 * a + b`."""

from chainrule.losses.aesthetic import Aesthetic, Rater, load_rater
from chainrule.losses.base import Call, Loss
from chainrule.losses.classifier import Classifier, load_classifier
from chainrule.losses.clip import ClipImage, ClipText, load_clip
from chainrule.losses.cutouts import Cutouts
from chainrule.losses.perceptual import Perceptual, Style, load_backbone, load_vgg
from chainrule.losses.pixels import Brightness, ColourHistogram, Symmetry, Target

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
