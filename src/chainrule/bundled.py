"""Where the bundled world's weights are installed."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "scenes" / "weights"

PIPELINE, CLASSIFIER, JUDGE, CLIP, JUDGE_CLIP, NOISE_AWARE = (
    WEIGHTS / name for name in ("pipeline", "classifier", "judge", "clip", "judge_clip", "noise_aware_classifier")
)
RATER = WEIGHTS / "rater" / "model.safetensors"
