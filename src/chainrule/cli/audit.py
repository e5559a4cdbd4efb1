"""`chainrule audit "a red circle on a white background" ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from chainrule.cli import base
from chainrule.errors import UserError
from chainrule.jobs import AuditJob, parsed


def audit(
    prompts: Annotated[list[str], typer.Argument(help="What the images show; several, if you like.")],
    classifier: base.ClassifierName = None,
    judge: Annotated[
        str | None, typer.Option(help="An independent image classifier with the same labels; the bundled one.")
    ] = None,
    model: base.Model = "scenes",
    seed: base.Seeds = "0-15",
    tau: Annotated[
        str, typer.Option(help="How far an element of the noise (of variance 1) may move: a list.")
    ] = "0.03,0.1,0.3",
    iterations: Annotated[int, typer.Option(help="The iterations of each search.")] = 6,
    steps: base.Steps = 10,
    guidance_scale: base.Scale = None,
    size: base.Size = None,
    variant: base.Variant = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    output: base.Parameterization = None,
) -> None:
    """Find out how a classifier fails: images that it misreads after a small change of their noise."""
    with base.plain_errors():
        try:
            taus = tuple(float(part) for part in tau.split(","))
        except ValueError:
            raise UserError(f"{tau!r} names no radii: write one (0.1) or a list (0.03,0.1,0.3)") from None
        settings = {"taus": taus, "iterations": iterations, "steps": steps, "guidance_scale": guidance_scale}
        job = parsed(
            AuditJob,
            {
                "prompts": prompts,
                "seeds": base.parse_seeds(seed),
                "classifier": base.named(classifier),
                "judge": base.named(judge),
                "audit": settings,
                **base.checkpoint(model=model, size=size, variant=variant, dtype=dtype, device=device),
            },
        )
        base.begin_job(job, output, f"audit {prompts[0]}")
