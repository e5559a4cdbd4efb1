"""`chainrule estimate PROMPT --loss classifier=heart --memory 8GB`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from chainrule.cli import base
from chainrule.errors import UserError
from chainrule.estimate import ladder
from chainrule.memory import format_bytes


def estimate(
    prompt: base.Prompt = "",
    loss: base.Losses = None,
    method: Annotated[
        list[str] | None, typer.Option(help="plain, one-step, best-of, doodl or adjoint-dpm; several, if you like.")
    ] = None,
    model: base.Model = "scenes",
    seed: base.Seeds = "0-3",
    steps: base.PresetSteps = None,
    preset: base.PresetName = None,
    crops: base.Crops = None,
    classifier: base.ClassifierName = None,
    clip: base.Clips = None,
    rater: base.RaterName = None,
    features: base.FeaturesName = None,
    guidance_scale: base.Scale = None,
    size: base.Size = None,
    variant: base.Variant = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    memory: base.Memory = None,
) -> None:
    """Say what a run would take, in memory and network passes, and which way of doing it fits."""
    with base.plain_errors():
        if not loss:
            raise UserError(f"there is no loss to guide: name one with --loss, {', '.join(base.KINDS.values())}")
        wishes = base.parse_wishes(
            loss, objective="bce", classifier=classifier, clip=clip, rater=rater, features=features
        )
        settings = base.settings(
            prompt=prompt,
            guidance_scale=guidance_scale,
            seeds=base.parse_seeds(seed),
            methods=method or ["doodl"],
            wishes=wishes,
            adjoint_dpm=base.adjoint_dpm(False, None, steps=steps),
            **base.checkpoint(model=model, size=size, variant=variant, dtype=dtype, device=device, memory=memory),
            **base.optimisation(base.chosen_preset(preset, wishes, model=model), steps=steps, crops=crops),
        )
        limit = settings.memory
        table = Table("method", "plan")
        for name in ("weights", "a step", "kept", "latents", "judging", "peak", "passes"):
            table.add_column(name, justify="right")
        chosen: dict[str, str] = {}
        rows = sorted(ladder(settings, settings.task()), key=lambda found: settings.methods.index(found.method))
        for found in rows:
            fits = limit is None or found.peak <= limit
            if fits:
                chosen.setdefault(found.method, f"{found.method}: {found.plan}, {format_bytes(found.peak)}")
            parts = (found.weights, found.step, found.kept, found.latents, found.judging, found.peak)
            cells = [format_bytes(part) if part else "" for part in parts]
            table.add_row(found.method, str(found.plan), *cells, str(found.passes or ""), style=None if fits else "dim")
        Console().print(table)
        typer.echo("A step, kept, latents and judging: activations. Passes: of the network, an iteration, all images.")
        missing = [method for method in settings.methods if method not in chosen]
        if limit is not None:
            typer.echo("\n".join(f"within {format_bytes(limit)}, {way}" for way in chosen.values()))
        if missing:
            raise UserError(
                f"{format_bytes(limit or 0)} is too little for {', '.join(missing)}: choose a smaller --size, a smaller "
                "network for the loss, or more --memory"
            )
