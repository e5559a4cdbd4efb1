"""Where the bundled world's weights are installed."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "scenes" / "weights"

PIPELINE, CLASSIFIER, JUDGE, CLIP, JUDGE_CLIP = (
    WEIGHTS / name for name in ("pipeline", "classifier", "judge", "clip", "judge_clip")
)
NOISE_AWARE, NOISE_AWARE_ENCODER = (WEIGHTS / f"noise_aware_{name}" for name in ("classifier", "encoder"))
RATER = WEIGHTS / "rater" / "model.safetensors"
