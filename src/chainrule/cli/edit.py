"""`chainrule edit PHOTO --loss aesthetic=10`, and `chainrule edit PHOTO --from "..." --to "..." --method edict`."""

from __future__ import annotations

from typing import Annotated

import typer

from chainrule.cli import base
from chainrule.errors import UserError


def edit(
    photo: base.Photo,
    loss: base.Losses = None,
    source: Annotated[str, typer.Option("--from", help="What the photo shows; nothing: it is inverted without.")] = "",
    target: Annotated[
        str | None, typer.Option("--to", help="What the result should show; what the photo shows if not said.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="reconstruction, one-step, doodl or edict; give several for a grid."),
    ] = None,
    model: base.Model = "scenes",
    seed: base.Seeds = "0",
    steps: base.PresetSteps = None,
    strength: Annotated[
        float | None,
        typer.Option(help="How much of the chain edict and one-step redo, up to 1: more changes more."),
    ] = None,
    mix: base.Mix = None,
    iterations: base.Iterations = None,
    preset: base.PresetName = None,
    rate: base.Rate = None,
    crops: base.Crops = None,
    one_step_scale: base.OneStepScale = None,
    objective: base.Objective = "bce",
    classifier: base.ClassifierName = None,
    clip: base.Clips = None,
    rater: base.RaterName = None,
    features: base.FeaturesName = None,
    negative_prompt: base.Negative = "",
    guidance_scale: base.EditScale = None,
    size: base.Size = None,
    embedding: base.Embeddings = None,
    lora: base.Loras = None,
    variant: base.Variant = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    memory: base.Memory = None,
    output: base.Output = None,
) -> None:
    """Edit a photo: towards a loss, or from one description to another."""
    with base.plain_errors():
        if not loss and not target:
            raise UserError(
                "there is nothing to edit: name a loss (--loss aesthetic=10), or say what the photo should show (--to)"
            )
        wishes = base.parse_wishes(
            loss, objective=objective, classifier=classifier, clip=clip, rater=rater, features=features
        )
        found = base.chosen_preset(preset, wishes, model=model, photo=True)
        settings = base.settings(
            photo=photo.expanduser().absolute(),
            source=source,
            prompt=source if target is None else target,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            photo_scale=found.guidance_scale,
            seeds=base.parse_seeds(seed),
            methods=method or (["reconstruction", "one-step", "doodl"] if loss else ["reconstruction", "edict"]),
            wishes=wishes,
            strength=found.strength if strength is None and not loss else strength,
            **base.checkpoint(
                model=model,
                size=size,
                variant=variant,
                dtype=dtype,
                device=device,
                embedding=embedding,
                lora=lora,
                memory=memory,
            ),
            **base.optimisation(
                found,
                rate=rate,
                one_step_scale=one_step_scale,
                steps=steps,
                iterations=iterations,
                crops=crops,
                mix=mix,
            ),
        )
        base.begin(settings, output)
