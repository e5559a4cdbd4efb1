"""`chainrule generate PROMPT`."""

from __future__ import annotations

from typing import Annotated

import typer

from chainrule.cli import base


def generate(
    prompt: base.Prompt = "",
    model: base.Model = "scenes",
    seed: base.Seeds = "0-3",
    steps: base.Steps = 50,
    solver: Annotated[str, typer.Option(help="ddim, heun, rk4, ab2, ab4, dpm++ or adaptive.")] = "ddim",
    grid: Annotated[
        str | None, typer.Option(help="The times: uniform, quadratic, log-snr or karras; the checkpoint's own.")
    ] = None,
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
    """Draw images of a prompt."""
    with base.plain_errors():
        settings = base.settings(
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            seeds=base.parse_seeds(seed),
            steps=steps,
            solver=solver,
            grid=grid,
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
        )
        base.begin(settings, output)
