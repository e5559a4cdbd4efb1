"""What a run would ignore is refused, and not passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chainrule.errors import UserError
from chainrule.runs import load_task, parse_spec, prepare_methods

PLAIN, AUDIT, EFFECT = ({"kind": kind, "steps": 2} for kind in ("plain", "audit", "effect"))


@pytest.mark.parametrize(
    ("method", "inputs", "message"),
    [
        (PLAIN, {"prompt": ("a", "b"), "seed": (0, 1, 2)}, "there are 2 prompts for 3 seeds"),
        (PLAIN, {"prompt": "a", "pictures": "PICTURE"}, "no method here learns from pictures"),
        (AUDIT, {"prompt": "a", "guidance_scale": 2.0}, "these methods have their own guidance"),
        (AUDIT, {"prompt": "a", "negative_prompt": "b"}, "these methods have their own guidance"),
        (AUDIT, {"prompt": "a", "photo": "PICTURE"}, "audit draws from noise"),
        (
            EFFECT,
            {"prompt": ("a", "b"), "seed": (0, 1), "pictures": ("PICTURE", "PICTURE")},
            "an effect is learnt under one prompt",
        ),
    ],
)
def test_what_nobody_would_heed_is_refused(
    method: dict[str, Any], inputs: dict[str, Any], message: str, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)

    def fill(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(fill, value))
        return picture if value == "PICTURE" else value

    asked = {name: fill(value) for name, value in inputs.items()}
    spec = parse_spec({"inputs": asked, "methods": [method]})
    with pytest.raises(UserError, match=message):
        prepare_methods(spec, load_task(spec))


def test_as_many_prompts_as_seeds_are_one_each() -> None:
    spec = parse_spec(
        {
            "inputs": {"prompt": ("a red circle", "a blue square"), "seed": (0, 1)},
            "methods": [PLAIN],
        }
    )
    task = load_task(spec)
    assert task.select([1]).prompts == ("a blue square",)
