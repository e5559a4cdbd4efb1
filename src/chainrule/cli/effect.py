"""`chainrule effect BEFORE AFTER --prompt "..."`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli import base
from chainrule.jobs import EffectJob, parsed


def effect(
    before: Annotated[Path, typer.Argument(help="A picture.")],
    after: Annotated[Path, typer.Argument(help="The same picture with the effect.")],
    prompt: Annotated[str, typer.Option(help="What both show.")],
    word: Annotated[str, typer.Option(help="The new word.")] = "<effect>",
    other: Annotated[list[str] | None, typer.Option(help="Prompts with which the word is tried.")] = None,
    model: base.Model = "scenes",
    seed: base.Seeds = "0-3",
    vectors: Annotated[int, typer.Option(help="How many token embeddings the word has.")] = 4,
    iterations: Annotated[int, typer.Option(help="How often it is improved.")] = 100,
    steps: base.Steps = 10,
    rate: Annotated[float, typer.Option(help="The learning rate.")] = 0.03,
    guidance_scale: Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")] = 1.0,
    size: base.Size = None,
    variant: base.Variant = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    output: base.Parameterization = None,
) -> None:
    """Learn an effect from one before/after pair: a new word, to be said in other prompts."""
    with base.plain_errors():
        job = parsed(
            EffectJob,
            {
                "before": before.expanduser().absolute(),
                "after": after.expanduser().absolute(),
                "prompt": prompt,
                "word": word,
                "others": other or (),
                "seeds": base.parse_seeds(seed),
                "effect": {
                    "vectors": vectors,
                    "iterations": iterations,
                    "steps": steps,
                    "guidance_scale": guidance_scale,
                    "optimiser": {"rate": rate},
                },
                **base.checkpoint(model=model, size=size, variant=variant, dtype=dtype, device=device),
            },
        )
        base.begin_job(job, output, f"effect {prompt}")
