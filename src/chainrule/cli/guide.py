"""`chainrule guide PROMPT --loss classifier=heart`."""

from __future__ import annotations

from typing import Annotated

import typer

from chainrule.cli import base
from chainrule.errors import UserError
from chainrule.methods import ADJOINT_DPM


def guide(
    prompt: base.Prompt = "",
    loss: base.Losses = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Give several for a grid: plain, one-step, noise-aware, semantic, best-of, doodl, adjoint-dpm."
        ),
    ] = None,
    model: base.Model = "scenes",
    seed: base.Seeds = "0-3",
    steps: base.PresetSteps = None,
    iterations: base.Iterations = None,
    preset: base.PresetName = None,
    rate: base.Rate = None,
    crops: base.Crops = None,
    one_step_scale: base.OneStepScale = None,
    noise_aware_scale: base.NoiseAwareScale = 300.0,
    best_of: Annotated[int, typer.Option(help="How many draws best-of makes.")] = 8,
    adjoint: Annotated[
        bool, typer.Option(help="For adjoint-dpm, the paper's own approximate gradient instead of the exact one.")
    ] = False,
    objective: base.Objective = "bce",
    classifier: base.ClassifierName = None,
    clip: base.Clips = None,
    rater: base.RaterName = None,
    features: base.FeaturesName = None,
    negative_prompt: base.Negative = "",
    guidance_scale: base.Scale = None,
    size: base.Size = None,
    embedding: base.Embeddings = None,
    lora: base.Loras = None,
    variant: base.Variant = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    memory: base.Memory = None,
    output: base.Parameterization = None,
) -> None:
    """Draw images of a prompt, guided by a loss."""
    with base.plain_errors():
        if not loss:
            raise UserError(f"there is no loss to guide: name one with --loss, {', '.join(base.KINDS.values())}")
        if adjoint and "adjoint-dpm" not in (method or ()):
            raise UserError("--adjoint is for AdjointDPM's guided sampling: say --method adjoint-dpm")
        if "adjoint-dpm" in (method or ()) and "doodl" not in (method or ()) and steps is None:
            steps = ADJOINT_DPM.steps  # so that all methods draw in the same chain
        wishes = base.parse_wishes(
            loss, objective=objective, classifier=classifier, clip=clip, rater=rater, features=features
        )
        settings = base.settings(
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            seeds=base.parse_seeds(seed),
            methods=method or ["plain", "one-step", "doodl"],
            wishes=wishes,
            best_of=best_of,
            adjoint_dpm=base.adjoint_dpm(adjoint, rate, iterations=iterations, steps=steps),
            noise_aware_scale=noise_aware_scale,
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
                base.chosen_preset(preset, wishes, model=model),
                rate=rate,
                one_step_scale=one_step_scale,
                steps=steps,
                iterations=iterations,
                crops=crops,
            ),
        )
        base.begin(settings, output)
