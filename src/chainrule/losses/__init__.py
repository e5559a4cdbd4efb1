"""Losses on finished images: (B, 3, H, W) in [0, 1] -> (B,). They add and scale: `0.5 * a + b`."""

from chainrule.losses.aesthetic import Aesthetic, AestheticSpec, Rater, load_rater
from chainrule.losses.base import Call, Loss, LossSpec, Term, sum_losses
from chainrule.losses.brightness import Brightness, BrightnessSpec
from chainrule.losses.classifier import (
    Classifier,
    ClassifierSpec,
    ImageClassifier,
    load_classifier,
)
from chainrule.losses.clip import Clip, load_clip
from chainrule.losses.clip_direction import ClipDirection, ClipDirectionSpec
from chainrule.losses.cutouts import Cutouts
from chainrule.losses.features import Features, load_backbone, load_features, load_vgg
from chainrule.losses.histogram import ColourHistogram, HistogramSpec
from chainrule.losses.image import ClipImage, ImageSpec
from chainrule.losses.perceptual import Perceptual, PerceptualSpec
from chainrule.losses.picture import PictureSpec, Target
from chainrule.losses.registry import LOSSES, AnyLoss, parse_loss
from chainrule.losses.style import Style, StyleSpec
from chainrule.losses.symmetry import Symmetry, SymmetrySpec
from chainrule.losses.text import ClipText, TextSpec

__all__ = [
    "LOSSES",
    "Aesthetic",
    "AestheticSpec",
    "AnyLoss",
    "Brightness",
    "BrightnessSpec",
    "Call",
    "Classifier",
    "ClassifierSpec",
    "Clip",
    "ClipDirection",
    "ClipDirectionSpec",
    "ClipImage",
    "ClipText",
    "ColourHistogram",
    "Cutouts",
    "Features",
    "HistogramSpec",
    "ImageClassifier",
    "ImageSpec",
    "Loss",
    "LossSpec",
    "Perceptual",
    "PerceptualSpec",
    "PictureSpec",
    "Rater",
    "Style",
    "StyleSpec",
    "Symmetry",
    "SymmetrySpec",
    "Target",
    "Term",
    "TextSpec",
    "load_backbone",
    "load_classifier",
    "load_clip",
    "load_features",
    "load_rater",
    "load_vgg",
    "parse_loss",
    "sum_losses",
]
