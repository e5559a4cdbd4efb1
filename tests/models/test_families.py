"""Every family of checkpoints, on tiny pipelines: what works, and what is refused and why.

`python tests/models/test_families.py` writes the table of what was found to docs/families.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

import chainrule
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, UserError, invert, sample
from chainrule.diffusion.constraints.inpaint import fill_in, mask_for_latents
from chainrule.diffusion.constraints.low_pass import low_pass
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient import Gradient
from chainrule.diffusion.solvers import Solver
from chainrule.losses import Brightness, Classifier, ClipText, load_classifier, load_clip
from chainrule.methods import (
    DOODL,
    ILVR,
    TFG,
    Adam,
    Asyrp,
    BlendedDiffusion,
    DiffEdit,
    OneStepGuidance,
    Photo,
    PromptToPrompt,
    RePaint,
    SDEdit,
    Task,
)
from chainrule.methods.diffedit import find_difference
from chainrule.models import Model
from chainrule.models.families.flux import pack
from chainrule.models.schedulers import to_ddim

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run as a script
from tiny import FAMILIES, family, save_family

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

TOLD = {"DiT (classes)": "goldfish", "Pixels, told nothing": "", "Pixels, told a class": "3"}
OTHER = {"DiT (classes)": "tench", "Pixels, told nothing": "", "Pixels, told a class": "2"}
SIZE = {"Flux.1 dev": (16, 16), "Flux.1 schnell": (16, 16)}
"""Flux's configuration names no size."""
SCALE = {"Pixels, told nothing": 1.0, "Pixels, told a class": 1.0, "Flux.1 schnell": 1.0}
"""These cannot be guided."""
STEPS = {"Latent consistency (LCM)": 1}
"""With more, its own pipeline adds noise between them."""
TOLERANCE = 1e-5

TABLE = Path(__file__).parents[2] / "docs" / "families.md"
"""The table, and above it what it means."""


def load(name: str, **options) -> Model:
    return chainrule.load(family(name), size=SIZE.get(name), **options)


def told(name: str, model: Model, **options) -> Denoiser:
    return model.denoiser(
        TOLD.get(name, "a red circle"), guidance_scale=SCALE.get(name, 3.0), **options
    )


def theirs(name: str, x_T: Tensor, steps: int) -> Tensor:
    """The image (1, 3, H, W) of the family's own pipeline, of the noise of seed 0."""
    pipeline = family(name)
    if name.startswith("PixArt"):
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            pipeline.scheduler.config, solver_order=1
        )
    elif not type(pipeline.scheduler).__name__.startswith(("Euler", "Flow", "LCM")):
        pipeline.scheduler = DDIMScheduler.from_config(
            to_ddim(pipeline.scheduler).config, clip_sample=False
        )
    common = {"num_inference_steps": steps, "output_type": "pt"}
    by_seed = common | {"generator": torch.Generator().manual_seed(0)}  # which is the same noise
    if name == "Pixels, told a class":
        return _by_hand(pipeline, x_T, steps)
    if name == "Pixels, told nothing":
        return DDIMPipeline(pipeline.unet, pipeline.scheduler)(**by_seed).images
    common["guidance_scale"] = SCALE.get(name, 3.0)
    if name == "DiT (classes)":
        return pipeline(pipeline.get_label_ids([TOLD[name]]), **(by_seed | common)).images
    if name.startswith("PixArt"):
        common |= {"use_resolution_binning": False, "clean_caption": False}
    if "inpainting" in name:
        return _fill_all(pipeline, x_T, common)
    if name in SIZE:
        common |= {"height": SIZE[name][0], "width": SIZE[name][1]}
    return pipeline(
        "a red circle", latents=pack(x_T) if name.startswith("Flux") else x_T, **common
    ).images


def _fill_all(pipeline, x_T: Tensor, options: dict) -> Tensor:
    """All of a picture filled in, which the pipeline encodes with noise and is made not to."""
    sides = {"height": 16, "width": 16}
    nothing = {"image": torch.rand(1, 3, 16, 16), "mask_image": torch.ones(1, 1, 16, 16)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *_: self.mode())
        return pipeline(
            "a red circle", latents=x_T, strength=1.0, **nothing, **sides, **options
        ).images


@torch.no_grad()
def _by_hand(pipeline, x: Tensor, steps: int) -> Tensor:
    """diffusers has no pipeline that tells a `UNet2DModel` a class."""
    pipeline.scheduler.set_timesteps(steps)
    for t in pipeline.scheduler.timesteps:
        f = pipeline.unet(x, t, class_labels=torch.tensor([3])).sample
        x = pipeline.scheduler.step(f, t, x).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


def parity(name: str) -> None:
    """The same image as the family's own pipeline, for the same noise, steps and guidance."""
    model, steps = load(name), STEPS.get(name, 4)
    x_T = model.noise([0])
    if (
        name == "Stable Diffusion turbo"
    ):  # Euler starts at the noise of its first step, which is not quite 1
        x_T = model.schedule.sigma(model.schedule.times(steps)[0].item()).float() * x_T
    with torch.no_grad():
        ours = model.decode(sample(told(name, model), x_T, model.schedule.times(steps)))
    expected = theirs(name, model.noise([0]), steps)
    assert ((ours > 0) & (ours < 1)).any()
    torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE)


def double(name: str) -> Model:
    """The model in float64, in which exact means exact."""
    return chainrule.load(family(name).to(torch.float64), size=SIZE.get(name))


def gradients(name: str, *, of: str) -> None:
    """All ways agree with each other and with finite differences, on chains of both solvers."""
    model = double(name)
    x_T, times, wanted = model.noise([0]).double(), model.schedule.times(2), ()
    conditioning = model.text([TOLD.get(name, "a red circle")])
    if of == "noise":
        wanted = (x_T,)
    elif of == "weights":
        wanted = tuple(weight for weight in model.network.weights if weight.ndim > 1)[:2]
    else:
        conditioning = tuple(value.clone() for value in conditioning)
        wanted = tuple(value for value in conditioning if value.is_floating_point())
        if not wanted:
            raise UserError(
                "there is no text: a class is a whole number"
                if conditioning
                else "it is told nothing"
            )
    for value in wanted:
        value.requires_grad_()

    def loss(solver: Solver, way: Gradient) -> Tensor:
        denoiser = model.denoiser(conditioning, guidance_scale=SCALE.get(name, 2.0))
        return sample(denoiser, x_T, times, solver=solver, gradient=way).square().mean()

    def found(solver: Solver, way: Gradient) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(solver, way), wanted)

    generator = torch.Generator().manual_seed(0)
    directions = [
        torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in wanted
    ]
    for solver, ways in ((DDIM(), (Checkpoint(),)), (EDICT(), (Checkpoint(), Reversible()))):
        expected = found(solver, Backprop())
        assert all(gradient.abs().max() > 0 for gradient in expected)
        for way in ways:
            for ours, other in zip(found(solver, way), expected, strict=True):
                torch.testing.assert_close(
                    ours, other, rtol=1e-6, atol=1e-8 * other.abs().max().item()
                )
        slope = sum((g * d).sum() for g, d in zip(expected, directions, strict=True)).item()
        # some chains bend within 1e-4; Flux turns its tokens in float32, too coarse for 1e-6
        slopes = [
            _slope(partial(loss, solver, Backprop()), wanted, directions, size)
            for size in (1e-4, 1e-6)
        ]
        assert any(slope == pytest.approx(other, rel=1e-2) for other in slopes), (slope, slopes)


@torch.no_grad()
def _slope(
    loss: Callable[[], Tensor], values: tuple[Tensor, ...], directions: list[Tensor], size: float
) -> float:
    """How fast the loss rises along the directions, by finite differences."""
    ends = []
    for sign in (1, -2):
        for value, direction in zip(values, directions, strict=True):
            value += sign * size * direction
        ends.append(loss().item())
    for value, direction in zip(values, directions, strict=True):
        value += size * direction
    return (ends[0] - ends[1]) / (2 * size)


def inversion(name: str) -> None:
    """EDICT leads to the noise and back."""
    model = double(name)
    denoiser, times = told(name, model), model.schedule.times(3)
    sides = (side * model.codec.factor for side in model.codec.latent_shape[1:])
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, *sides, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        z = model.encode(images)
        pair = invert(denoiser, z, times, solver=EDICT())
        back = chainrule.sample_state(denoiser, pair, times, solver=EDICT())[0]
    assert (back - z).norm() < 1e-8 * z.norm()


def task(name: str, loss) -> Task:
    model = load(name)
    return Task(model, told(name, model), (0, 1), loss)


def optimised(name: str) -> None:
    """DOODL, as in the paper, moves the noise and remembers the best."""
    adam = Adam(rate=0.05)
    method = DOODL(iterations=2, steps=2, optimiser=adam, crops=0, perturbation=0.0)
    result = method(task(name, Brightness(1.0)))
    assert result.history.shape == (3, 2)
    assert torch.isfinite(result.history).all()
    assert (result.losses <= result.history[0] + 1e-6).all()
    assert not torch.equal(result.x_T, load(name).noise([0, 1]))


def one_step_guided(name: str) -> None:
    job = task(name, Brightness(1.0))
    plain = OneStepGuidance(scale=0.0, steps=3)(job).images
    for method in (
        OneStepGuidance(scale=5.0, steps=3),
        TFG(like="strong", rho=0.1, recurrences=2, steps=3),
    ):
        guided = method(job).images
        assert torch.isfinite(guided).all()
        assert not torch.equal(guided, plain)


def by_text(name: str) -> None:
    assert _differentiable(name, ClipText(load_clip(), "a red circle"))


def by_class(name: str) -> None:
    assert _differentiable(name, Classifier(load_classifier(), "heart"))


def _differentiable(name: str, loss) -> bool:
    model = load(name)
    x_T = model.noise([0]).requires_grad_()
    x_0 = sample(told(name, model), x_T, model.schedule.times(2), gradient=Checkpoint())
    (gradient,) = torch.autograd.grad(loss(model.decode(x_0)).sum(), x_T)
    return bool(torch.isfinite(gradient).all() and gradient.abs().max() > 0)


def call(*arguments: object) -> tuple[int, str]:
    """(exit code, everything printed, in one line) of the command line."""
    from typer.testing import CliRunner

    from chainrule.cli._app import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def images(folder: Path) -> dict[str, bytes]:
    """The pixels of a run's images."""
    found = sorted((folder / "images").glob("*.png"))
    return {path.name: Image.open(path).tobytes() for path in found}


def _run(name: str, command: str, *arguments: object) -> None:
    """A run from the command line and a folder, made again from its picture."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_family(name, folder / "model")
        Image.linear_gradient("L").resize((24, 32)).save(folder / "photo.png")
        size = ["--size", "x".join(map(str, SIZE[name]))] if name in SIZE else []
        options = [
            "-m",
            folder / "model",
            "--steps",
            "2",
            *size,
            "--iterations",
            "2",
            "--crops",
            "0",
        ]
        wanted = ["--loss", "brightness=1", "--method", "doodl"]
        named = [folder / each if each == "photo.png" else each for each in arguments]
        code, output = call(command, *named, *options, *wanted, "-o", folder / "run")
        if code == 2:
            raise UserError(output.partition("error:")[2].strip())
        assert code == 0, output
        made = images(folder / "run")
        picture = folder / "run" / "images" / next(iter(made))
        code, output = call("rerun", picture, "--trust", "-o", folder / "again")
        assert code == 0, output
        assert images(folder / "again") == made


def saved(name: str) -> None:
    scale = ["--guidance-scale", str(SCALE[name])] if name in SCALE else []
    _run(
        name,
        "guide",
        *([TOLD[name]] if name in TOLD else ["a red circle"]),
        *scale,
        "--seed",
        "0,3",
    )


def of_a_photo(name: str) -> None:
    told_nothing = name == "Pixels, told nothing"
    _run(
        name,
        "edit",
        "photo.png",
        *([] if told_nothing else ["--from", TOLD.get(name, "a red circle")]),
    )


def in_half(name: str) -> None:
    """Weights in bfloat16, latents in float32."""
    model = chainrule.load(family(name).to(torch.bfloat16), size=SIZE.get(name))
    x_T = model.noise([0]).requires_grad_()
    x_0 = sample(told(name, model), x_T, model.schedule.times(2), gradient=Checkpoint())
    (gradient,) = torch.autograd.grad(model.decode(x_0).sum(), x_T)
    assert x_0.dtype == gradient.dtype == torch.float32
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def pictured(name: str) -> Task:
    """Two pictures under another prompt, the upper left quarter of which may change."""
    model = load(name)
    _, height, width = model.codec.latent_shape
    side = (height * model.codec.factor, width * model.codec.factor)
    photos = torch.rand(2, 3, *side, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, *side)
    mask[:, :, : side[0] // 2, : side[1] // 2] = 1.0
    shown = model.denoiser(OTHER.get(name, "a blue square"), guidance_scale=SCALE.get(name, 3.0))
    photo = Photo(photos, shown, side, mask, prompts=("a blue square",))
    return Task(model, told(name, model), (0, 1), photo=photo, prompts=("a red circle",))


def through_noise(name: str) -> None:
    """SDEdit, ILVR, RePaint and Blended Diffusion keep what they are to keep."""
    job = pictured(name)
    photo = job.require_photo()
    bare, known = replace(job, photo=replace(photo, mask=None)), fill_in(photo.images, photo.mask)
    with torch.no_grad():
        z, known = job.model.encode(photo.images), job.model.encode(known)
    kept = 1 - mask_for_latents(photo.mask, z)
    assert torch.equal(SDEdit(strength=0.0, steps=3)(bare).latents, z)
    low = ILVR(factor=2, stop=1.0, steps=3)(bare).latents
    assert torch.allclose(low_pass(low, 2), low_pass(z, 2), rtol=1e-3, atol=1e-3 * z.abs().max())
    bright = replace(job, loss=Brightness(1.0))
    repainted = RePaint(jump=1, repeats=2, steps=3)(job)
    blended = BlendedDiffusion(scale=1.0, crops=2, steps=3)(bright)
    for made in (repainted, blended):
        assert torch.isfinite(made.latents).all()
        assert torch.equal(kept * made.latents, kept * known)


def by_difference(name: str) -> None:
    """DiffEdit keeps what it found no difference in."""
    job = pictured(name)
    job = replace(job, photo=replace(job.require_photo(), mask=None))
    with torch.no_grad():
        z = job.model.encode(job.require_photo().images)
    kept, made = 1 - find_difference(job, z, noises=2), DiffEdit(noises=2, steps=3)(job).latents
    assert torch.isfinite(made).all()
    assert torch.equal(kept * made, kept * z)


def by_attention(name: str) -> None:
    made = PromptToPrompt(steps=3)(pictured(name))
    assert torch.isfinite(made.latents).all()
    assert made.attention is not None


def by_bottleneck(name: str) -> None:
    assert torch.isfinite(Asyrp(steps=3)(pictured(name)).latents).all()


CAPABILITIES: dict[str, Callable[[str], None]] = {
    f"equals its own pipeline, to {TOLERANCE:g}": parity,
    "gradient of noise": partial(gradients, of="noise"),
    "of conditioning": partial(gradients, of="conditioning"),
    "of weights": partial(gradients, of="weights"),
    "EDICT's inversion": inversion,
    "DOODL": optimised,
    "one-step": one_step_guided,
    "text loss": by_text,
    "image loss": by_class,
    "bfloat16": in_half,
    "saving": saved,
    "photos": of_a_photo,
    "SDEdit, ILVR, RePaint, Blended": through_noise,
    "DiffEdit": by_difference,
    "Prompt-to-Prompt": by_attention,
    "Asyrp": by_bottleneck,
}


def outcome(name: str, capability: str) -> str:
    """What the table says."""
    try:
        CAPABILITIES[capability](name)
    except UserError as error:
        return f"no: {error}"
    return "yes"


def documented() -> dict[tuple[str, str], str]:
    """The table's cells."""
    rows = [
        line.strip("| ").split(" | ")
        for line in TABLE.read_text().splitlines()
        if line.startswith("|")
    ]
    header, _, *body = rows
    return {
        (row[0], column): cell
        for row in body
        for column, cell in zip(header[1:], row[1:], strict=True)
    }


EACH = (next(iter(CAPABILITIES)), "gradient of noise")
"""What is tried on each family even in a hurry: it is in these that families differ."""

ONE = "Stable Diffusion 1.x"
"""The family that everything is tried on even in a hurry."""


def cells() -> list:
    """The table's cells. What is refused is refused at once, but by the command line."""
    found, refused = [], {at for at, cell in documented().items() if cell.startswith("no: ")}
    for name in FAMILIES:
        for capability in CAPABILITIES:
            at_once = (name, capability) in refused and capability not in ("saving", "photos")
            quick = capability in EACH or name == ONE or at_once
            marks = () if quick else pytest.mark.slow
            found.append(pytest.param(name, capability, marks=marks))
    return found


@pytest.mark.parametrize(("name", "capability"), cells())
def test_the_table_is_true(name: str, capability: str) -> None:
    assert outcome(name, capability) == documented()[name, capability]


def write() -> None:
    """Try everything, and write the table under what the file says of it."""
    about = TABLE.read_text().partition("\n| ")[0]
    rows = [["family", *CAPABILITIES], ["---"] * (len(CAPABILITIES) + 1)]
    rows += [[name, *(outcome(name, each) for each in CAPABILITIES)] for name in FAMILIES]
    TABLE.write_text("\n".join([about, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n")


if __name__ == "__main__":
    write()
