"""`chainrule invert PHOTO`."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.progress import Progress
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from chainrule.cli import base
from chainrule.methods import Task
from chainrule.methods.edict import RoundTrip, round_trip
from chainrule.metrics import psnr
from chainrule.pictures import framed, grid
from chainrule.run import Run, atomic, save_picture


def invert(
    photo: base.Photo,
    prompt: Annotated[str, typer.Option(help="What the photo shows; nothing: it is invert_photos without.")] = "",
    model: base.Model = "scenes",
    steps: base.Steps = 50,
    mix: base.Mix = None,
    strength: Annotated[float, typer.Option(help="How much of the chain to go, up to 1.")] = 1.0,
    guidance_scale: base.EditScale = None,
    size: base.Size = None,
    embedding: base.Embeddings = None,
    lora: base.Loras = None,
    variant: base.Variant = None,
    dtype: base.Dtype = "float32",
    device: base.Device = "cpu",
    output: base.Parameterization = None,
) -> None:
    """Find the noise that a photo would come from (EDICT), and measure the way there and back."""
    with base.plain_errors():
        found = base.chosen_preset(None, [], model=model, photo=True)
        settings = base.settings(
            photo=photo.expanduser().absolute(),
            source=prompt,
            prompt=prompt,
            guidance_scale=guidance_scale,
            photo_scale=found.guidance_scale,
            methods=("reconstruction",),
            strength=strength,
            **base.checkpoint(
                model=model, size=size, variant=variant, dtype=dtype, device=device, embedding=embedding, lora=lora
            ),
            **base.optimisation(found, steps=steps, mix=mix),
        )
        task = settings.task()
        run = Run.new(base.new_folder(output, photo.stem), settings)
        trips = {name: _trip(task, run, name) for name in ("float32", "float64")}
        _report(task, trips)
        pair = {name: latents.contiguous().cpu() for name, latents in zip("xy", trips["float32"].state, strict=False)}
        with atomic(run.folder / "inversion.safetensors") as path:
            save_file(pair, path)
        columns = _columns(task, trips["float32"])
        with atomic(run.folder / "grid.png") as path:
            proportions = task.edited().size
            tiles = {name: framed(images, proportions) for name, images in columns.items()}
            scores = {name: [f"{_decibels(task, images):.1f} dB"] for name, images in columns.items()}
            save_picture(grid(tiles, [""], scores | {"photo": [""]}, title=photo.name), path, settings)
        typer.echo(run.folder / "grid.png")


def _trip(task: Task, run: Run, dtype: str) -> RoundTrip:
    settings = run.settings
    with Progress(console=base.console) as progress:
        bar = progress.add_task(f"there and back in {dtype}", total=2)
        done = 0

        def on_step(i: int, steps: int) -> None:
            nonlocal done
            done += 1
            progress.update(bar, completed=done, total=2 * steps)

        return round_trip(
            task,
            strength=settings.strength or 1.0,
            steps=settings.steps,
            solver=settings.doodl.solver,
            dtype=getattr(torch, dtype),
            on_step=on_step,
        )


def _columns(task: Task, trip: RoundTrip) -> dict[str, Tensor]:
    photo = task.edited().images
    with torch.no_grad():
        alone = task.model.decode(task.model.encode(photo))
    return {"photo": photo, "autoencoder": alone, "there and back": trip.images}


def _decibels(task: Task, images: Tensor) -> float:
    return psnr(images, task.edited().images).mean().item()


def _report(task: Task, trips: dict[str, RoundTrip]) -> None:
    table = Table("latents", "drift", "pair apart", "spread", "PSNR to the photo")
    for name, trip in trips.items():
        decibels = f"{_decibels(task, trip.images):.2f} dB"
        table.add_row(name, f"{trip.error:.1e}", f"{trip.apart:.3f}", f"{trip.spread:.2f}", decibels)
    alone = _decibels(task, _columns(task, trips["float32"])["autoencoder"])
    table.add_row("no inversion", "", "", "", f"{alone:.2f} dB")
    base.console.print(table)
    base.console.print(
        "drift: |z' - z| / |z| of the latents; pair apart: |x - y| / |x| at the noisy end; spread: the standard "
        "deviation there (noise has 1)",
        style="dim",
    )
