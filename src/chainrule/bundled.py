"""Where the weights of the bundled world are installed."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "scenes" / "weights"

PIPELINE = WEIGHTS / "pipeline"
CLASSIFIER = WEIGHTS / "classifier"
JUDGE = WEIGHTS / "judge"
CLIP = WEIGHTS / "clip"
JUDGE_CLIP = WEIGHTS / "judge_clip"
NOISE_AWARE = WEIGHTS / "noise_aware_classifier"
NOISE_AWARE_ENCODER = WEIGHTS / "noise_aware_encoder"
RATER = WEIGHTS / "rater" / "model.safetensors"

WORDS = (
    *("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    *("circle", "square", "triangle", "shape", "small", "large"),
    *("above", "below", "left", "right", "white", "gray", "black", "background"),
)
"""What its captions say, besides `LITTLE_WORDS`: the bundled networks know no other words."""
LITTLE_WORDS = ("a", "an", "of", "on")
