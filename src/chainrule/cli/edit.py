"""`chainrule edit PICTURE --from "..." --prompt "..." --method NAME`, or `--loss aesthetic=10`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli import base
from chainrule.errors import UserError
from chainrule.explain import explained
from chainrule.settings import FOR_PHOTOS


def _explain(method: str | None) -> None:
    if method is not None:
        with base.plain_errors():
            typer.echo(explained(method))
        raise typer.Exit


def edit(
    photo: Annotated[
        Path | None, typer.Argument(help="A picture of any size; without one, the model draws what --from says.")
    ] = None,
    loss: base.Losses = None,
    source: Annotated[
        str, typer.Option("--from", help="What the picture shows; nothing: it is invert_photos without.")
    ] = "",
    target: Annotated[
        str | None,
        typer.Option("--prompt", "--to", help="What the result should show; what the picture shows if not said."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"Give several for a grid: {', '.join(sorted(FOR_PHOTOS))}."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(help="Say what a method does, its paper and its limits.", callback=_explain, is_eager=True),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Where it may change: a picture as large (white), text=WORDS (where these make a difference, found as "
            "DiffEdit does), or colour=red."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option(help="Keep the picture's own pixels (at the model's size) outside the mask.")
    ] = False,
    model: base.Model = "scenes",
    seed: base.Seeds = "0",
    steps: base.PresetSteps = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How much of the chain is redone, up to 1: more changes more. The method's own if not named."
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="How hard semantic and blended push, and how far asyrp moves.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="The noise between steps, from 0 (DDIM) to 1 (DDPM).")] = None,
    repeats: Annotated[int | None, typer.Option(help="How often sdedit redoes, and repaint comes back.")] = None,
    factor: Annotated[int | None, typer.Option(help="How coarse what ilvr keeps is, in latent pixels.")] = None,
    cross: Annotated[
        float | None, typer.Option(help="For prompt-to-prompt, the share of steps with the source's cross-attention.")
    ] = None,
    own: Annotated[
        float | None, typer.Option("--self", help="For prompt-to-prompt, the share with the source's self-attention.")
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(help="For prompt-to-prompt, how much a word counts (while --cross lasts): blue=2."),
    ] = None,
    blend: Annotated[
        list[str] | None, typer.Option(help="For prompt-to-prompt, a word outside of which nothing is to change.")
    ] = None,
    mix: base.Mix = None,
    iterations: base.Iterations = None,
    preset: base.PresetName = None,
    rate: base.Rate = None,
    crops: base.Crops = None,
    one_step_scale: base.OneStepScale = None,
    noise_aware_scale: base.NoiseAwareScale = 300.0,
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
    output: base.Parameterization = None,
) -> None:
    """Edit a picture: from one description to another, inside a mask, or towards a loss."""
    with base.plain_errors():
        if photo is None and not source.strip():
            raise UserError("there is no picture: name one, or say with --from what the model should draw first")
        if not loss and target is None and not set(method or ()) & {"reconstruction"}:
            raise UserError(
                "there is nothing to edit: say what the picture should show (--prompt), or name a loss (--loss "
                "aesthetic=10)"
            )
        wishes = base.parse_wishes(
            loss, objective=objective, classifier=classifier, clip=clip, rater=rater, features=features
        )
        found = base.chosen_preset(preset, wishes, model=model, photo=True)
        settings = base.settings(
            photo=photo and photo.expanduser().absolute(),
            source=source,
            prompt=source if target is None else target,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            photo_scale=found.guidance_scale,
            seeds=base.parse_seeds(seed),
            methods=method or (["reconstruction", "one-step", "doodl"] if loss else ["reconstruction", "edict"]),
            wishes=wishes,
            mask=mask and base.named(mask),
            exact=exact,
            strength=strength,
            noise_aware_scale=noise_aware_scale,
            editing={
                "scale": scale,
                "eta": eta,
                "repeats": repeats,
                "factor": factor,
                "cross": cross,
                "own": own,
                "weights": base.parse_weights(weight),
                "blend": blend or (),
            },
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
