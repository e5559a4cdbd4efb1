"""`chainrule stylize PICTURE --prompt "..." --prompt "..."`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainrule.cli import base
from chainrule.errors import UserError
from chainrule.jobs import StylizeJob, parsed


def stylize(
    picture: Annotated[Path, typer.Argument(help="The picture that has the style.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What is drawn while the style is learnt; give ten.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file with such prompts, one in each line.")] = None,
    other: Annotated[list[str] | None, typer.Option(help="Prompts on which the style is tried only.")] = None,
    model: base.Model = "scenes",
    seed: base.Seeds = "0-9",
    other_seed: Annotated[
        str, typer.Option("--other-seed", help="Seeds on which the style is tried only.")
    ] = "100-101",
    features: base.FeaturesName = None,
    rank: Annotated[int, typer.Option(help="The rank of the LoRA.")] = 8,
    epochs: Annotated[int, typer.Option(help="How often each prompt is drawn with each seed.")] = 8,
    batch: Annotated[int, typer.Option(help="How many images are drawn at a time.")] = 5,
    style: Annotated[float, typer.Option(help="The weight of the style.")] = 1.0,
    content: Annotated[float, typer.Option(help="The weight of what was there before.")] = 0.5,
    rate: Annotated[float, typer.Option(help="The learning rate.")] = 0.004,
    steps: base.Steps = 10,
    guidance_scale: Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")] = 1.0,
    size: base.Size = None,
    variant: base.Variant = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    output: base.Parameterization = None,
) -> None:
    """Learn the style of one picture: a LoRA that draws in it."""
    with base.plain_errors():
        job = parsed(
            StylizeJob,
            {
                "picture": picture.expanduser().absolute(),
                "prompts": [*(prompt or ()), *_lines(prompts)],
                "others": other or (),
                "seeds": base.parse_seeds(seed),
                "other_seeds": base.parse_seeds(other_seed),
                "features": base.named(features),
                "stylization": {
                    "rank": rank,
                    "epochs": epochs,
                    "batch": batch,
                    "steps": steps,
                    "guidance_scale": guidance_scale,
                    "style": style,
                    "content": content,
                    "optimiser": {"rate": rate, "beta2": 0.999, "decay": 0.01},
                },
                **base.checkpoint(model=model, size=size, variant=variant, dtype=dtype, device=device),
            },
        )
        base.begin_job(job, output, f"style of {picture.stem}")


def _lines(file: Path | None) -> list[str]:
    """The lines of a text file that are not empty; none of no file."""
    if file is None:
        return []
    try:
        return [line.strip() for line in file.expanduser().read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as prompts: name a text file with one in each line") from error
