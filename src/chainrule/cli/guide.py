"""`chainrule guide PROMPT --loss classifier=heart`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chainrule.cli import base
from chainrule.errors import UserError
from chainrule.methods.presets import PRESETS


def guide(
    prompt: base.Prompt,
    loss: Annotated[
        list[str],
        typer.Option(help=f"Towards what: {', '.join(base.KINDS.values())}; with a weight, 0.5*...; several add up."),
    ],
    method: Annotated[
        list[str] | None, typer.Option(help="plain, one-step, best-of or doodl; give several for a grid.")
    ] = None,
    model: base.Model = "scenes",
    seed: base.Seeds = "0-3",
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the preset's if not named.")] = None,
    iterations: Annotated[int | None, typer.Option(help="DOODL's iterations; the preset's if not named.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="faithful (the paper's settings) or tuned (bundled world).")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="DOODL's learning rate; the preset's if not named.")] = None,
    crops: Annotated[int | None, typer.Option(help="How many crops DOODL judges; 0 is the whole image.")] = None,
    one_step_scale: Annotated[
        float | None, typer.Option(help="The scale of one-step guidance; the preset's if not named.")
    ] = None,
    best_of: Annotated[int, typer.Option(help="How many draws best-of makes.")] = 8,
    objective: Annotated[str, typer.Option(help="bce (the paper's) or ce.")] = "bce",
    classifier: Annotated[
        str | None, typer.Option(help="Any transformers image classifier; the bundled one if not named.")
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(
            help="Any transformers CLIP or SigLIP; several, with weights (0.5*NAME), add up. Bundled if none."
        ),
    ] = None,
    rater: Annotated[
        str | None, typer.Option(help="An aesthetic head (a file) for the CLIP; the bundled one if not named.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="For perceptual and style: a VGG's weights, or a transformers vision network.")
    ] = None,
    negative_prompt: base.Negative = "",
    guidance_scale: base.Scale = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    output: base.Output = None,
) -> None:
    """Draw images of a prompt, guided by a loss."""
    with base.plain_errors():
        name = preset or ("tuned" if model == "scenes" else "faithful")
        if name not in PRESETS:
            raise UserError(f"there is no preset {name!r}: choose {' or '.join(PRESETS)}")
        chosen = PRESETS[name].doodl.model_dump()
        changes: dict[str, Any] = {"steps": steps, "iterations": iterations, "crops": crops}
        chosen |= {key: value for key, value in changes.items() if value is not None}
        if rate is not None:
            chosen["optimiser"]["rate"] = rate
        clips = dict(base.parse_weight(text)[::-1] for text in clip or [])
        options: dict[str, dict[str, Any]] = {
            "classifier": {"model": classifier, "objective": objective},
            "text": {"clips": clips} if clips else {},
            "image": {"clips": clips} if clips else {},
            "aesthetic": {"head": rater, "clip": next(iter(clips), None)},
            "perceptual": {"network": features},
            "style": {"network": features},
        }
        settings = base.settings(
            prompt=prompt,
            negative_prompt=negative_prompt,
            model=model,
            guidance_scale=guidance_scale,
            seeds=base.parse_seeds(seed),
            steps=chosen["steps"],
            methods=method or ["plain", "one-step", "doodl"],
            wishes=[base.parse_wish(text, options) for text in loss],
            one_step_scale=PRESETS[name].one_step_scale if one_step_scale is None else one_step_scale,
            best_of=best_of,
            doodl=chosen,
            dtype=dtype,
            device=device,
        )
        base.begin(settings, output)
