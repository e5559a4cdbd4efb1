"""Every family of checkpoints, on tiny pipelines of their formats: what works, and what is refused and why.

`python tests/test_families.py` writes the table of what was found to docs/families.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor

import chainrule
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, UserError, invert, sample, sample_state
from chainrule.diffusion.constraints.inpaint import fill_in, mask_for_latents
from chainrule.diffusion.constraints.low_pass import low_pass
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient import Gradient
from chainrule.losses import Classifier, ClipText, load_classifier, load_clip
from chainrule.methods import (
    Adam,
    Doodl,
    Photo,
    Task,
    asyrp,
    blended,
    diffedit,
    doodl,
    ilvr,
    one_step,
    prompt_to_prompt,
    repaint,
    sdedit,
)
from chainrule.methods.diffedit import difference
from chainrule.models import Model
from chainrule.models.families.base import ddim
from chainrule.models.families.flux import pack
from chainrule.diffusion.solvers import Solver
from test_cli import call, images
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

TABLE = Path(__file__).parents[1] / "docs" / "families.md"
ABOUT = """# Families of checkpoints

What works on each family, and what is refused and why. `python tests/test_families.py` writes this table by trying it
on a tiny pipeline of each family with random weights; the tests hold it.

- "Equals its own pipeline": the image of the same starting latent, steps and guidance differs from that of diffusers'
  own pipeline by less than that anywhere, values being in [0, 1]. chainrule's chains are deterministic, of first order
  (DDIM, which is Euler's method) and never clip x0, so that they can be undone and differentiated: where the pipeline's
  scheduler is another, its pipeline was given DDIM (Stable Diffusion's PNDM; DDPM) or its own solver's first order
  (PixArt). Turbo's starting noise was scaled as Euler's. PixArt's cleaning of captions and its bins of sizes were off.
  diffusers has no pipeline that tells a network on pixels a class: that is compared with its scheduler's steps.
- What differs from the pipelines as they come: latent consistency models and turbo with ancestral Euler add noise
  between steps there and none here (with one step they agree); DDPM is clipped there.
- Gradients: all ways agree with each other, to 1e-6, and with finite differences, for DDIM and EDICT.
- Inversion: there and back to 1e-8 in float64. bfloat16: of the weights; latents stay in float32.
- Saving: a run from the command line, made again from its picture. Photos: the same for one in portrait.
- The editing methods keep what each is to keep: the rest of a mask, low frequencies, where prompts do not differ.

"""


def load(name: str, **options) -> Model:
    return chainrule.load(family(name), size=SIZE.get(name), **options)


def told(name: str, model: Model, **options) -> Denoiser:
    return model.denoiser(TOLD.get(name, "a red circle"), guidance_scale=SCALE.get(name, 3.0), **options)


def theirs(name: str, x_T: Tensor, steps: int) -> Tensor:
    """The image (1, 3, H, W) of the family's own pipeline, of the noise of seed 0."""
    pipeline = family(name)
    if name.startswith("PixArt"):
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, solver_order=1)
    elif not type(pipeline.scheduler).__name__.startswith(("Euler", "Flow", "LCM")):
        pipeline.scheduler = DDIMScheduler.from_config(ddim(pipeline.scheduler).config, clip_sample=False)
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
    if name in SIZE:
        common |= {"height": SIZE[name][0], "width": SIZE[name][1]}
    return pipeline("a red circle", latents=pack(x_T) if name.startswith("Flux") else x_T, **common).images


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
    if name == "Stable Diffusion turbo":  # Euler starts at the noise of its first step, which is not quite 1
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
            raise UserError("there is no text: a class is a whole number" if conditioning else "it is told nothing")
    for value in wanted:
        value.requires_grad_()

    def loss(solver: Solver, way: Gradient) -> Tensor:
        denoiser = model.denoiser(conditioning, guidance_scale=SCALE.get(name, 2.0))
        return sample(denoiser, x_T, times, solver=solver, gradient=way).square().mean()

    def found(solver: Solver, way: Gradient) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(solver, way), wanted)

    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in wanted]
    for solver, ways in ((DDIM(), (Checkpoint(),)), (EDICT(), (Checkpoint(), Reversible()))):
        expected = found(solver, Backprop())
        assert all(gradient.abs().max() > 0 for gradient in expected)
        for way in ways:
            for ours, other in zip(found(solver, way), expected, strict=True):
                torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-8 * other.abs().max().item())
        slope = sum((g * d).sum() for g, d in zip(expected, directions, strict=True)).item()
        # some chains bend within 1e-4; Flux turns its tokens in float32, which 1e-6 cannot see through
        slopes = [_slope(partial(loss, solver, Backprop()), wanted, directions, size) for size in (1e-4, 1e-6)]
        assert any(slope == pytest.approx(other, rel=1e-2) for other in slopes), (slope, slopes)


@torch.no_grad()
def _slope(loss: Callable[[], Tensor], values: tuple[Tensor, ...], directions: list[Tensor], size: float) -> float:
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
    images = torch.rand(1, 3, *(side * model.codec.factor for side in model.codec.latent_shape[1:]),
                        generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # fmt: skip
    with torch.no_grad():
        z = model.encode(images)
        pair = invert(denoiser, z, times, solver=EDICT())
        back = sample_state(denoiser, pair, times, solver=EDICT())[0]
    assert (back - z).norm() < 1e-8 * z.norm()


def task(name: str, loss) -> Task:
    model = load(name)
    return Task(model, told(name, model), (0, 1), loss)


def optimised(name: str) -> None:
    """DOODL, as in the paper, moves the noise and remembers the best."""
    loss = chainrule.losses.Brightness(1.0)
    settings = Doodl(iterations=2, steps=2, optimiser=Adam(rate=0.05), crops=0, perturbation=0.0)
    result = doodl(task(name, loss), settings)
    assert result.history.shape == (3, 2)
    assert torch.isfinite(result.history).all()
    assert (result.losses <= result.history[0] + 1e-6).all()
    assert not torch.equal(result.x_T, load(name).noise([0, 1]))


def one_step_guided(name: str) -> None:
    job = task(name, chainrule.losses.Brightness(1.0))
    guided, plain = (one_step(job, scale=scale, steps=3).images for scale in (5.0, 0.0))
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


def _run(name: str, command: str, *arguments: object) -> None:
    """A run from the command line and a folder, made again from its picture."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_family(name, folder / "model")
        Image.linear_gradient("L").resize((24, 32)).save(folder / "photo.png")
        size = ["--size", "x".join(map(str, SIZE[name]))] if name in SIZE else []
        options = ["-m", folder / "model", "--steps", "2", *size, "--iterations", "2", "--crops", "0"]
        wanted = ["--loss", "brightness=1", "--method", "doodl"]
        named = [folder / argument if argument == "photo.png" else argument for argument in arguments]
        code, parameterization = call(command, *named, *options, *wanted, "-o", folder / "run")
        if code == 2:
            raise UserError(parameterization.partition("error:")[2].strip())
        assert code == 0, parameterization
        made = images(folder / "run")
        code, parameterization = call("rerun", folder / "run" / "images" / next(iter(made)), "-o", folder / "again")
        assert code == 0, parameterization
        assert images(folder / "again") == made


def saved(name: str) -> None:
    scale = ["--guidance-scale", str(SCALE[name])] if name in SCALE else []
    _run(name, "guide", *([TOLD[name]] if name in TOLD else ["a red circle"]), *scale, "--seed", "0,3")


def of_a_photo(name: str) -> None:
    told_nothing = name == "Pixels, told nothing"
    _run(name, "edit", "photo.png", *([] if told_nothing else ["--from", TOLD.get(name, "a red circle")]))


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
    return Task(model, told(name, model), (0, 1), None, Photo(photos, shown, side, mask))


def through_noise(name: str) -> None:
    """SDEdit, ILVR, RePaint and Blended Diffusion keep what they are to keep."""
    job = pictured(name)
    photo = job.edited()
    bare, known = replace(job, photo=replace(photo, mask=None)), fill_in(photo.images, photo.mask)
    with torch.no_grad():
        z, known = job.model.encode(photo.images), job.model.encode(known)
    kept = 1 - mask_for_latents(photo.mask, z)
    assert torch.equal(sdedit(bare, strength=0.0, steps=3).latents, z)
    low = ilvr(bare, factor=2, stop=1.0, steps=3).latents
    assert torch.allclose(low_pass(low, 2), low_pass(z, 2), rtol=1e-3, atol=1e-3 * z.abs().max())
    bright = replace(job, loss=chainrule.losses.Brightness(1.0))
    for made in (repaint(job, jump=1, repeats=2, steps=3), blended(bright, scale=1.0, crops=2, steps=3)):
        assert torch.isfinite(made.latents).all()
        assert torch.equal(kept * made.latents, kept * known)


def by_difference(name: str) -> None:
    """DiffEdit keeps what it found no difference in."""
    job = pictured(name)
    job = replace(job, photo=replace(job.edited(), mask=None))
    with torch.no_grad():
        z = job.model.encode(job.edited().images)
    kept, made = 1 - difference(job, z, noises=2), diffedit(job, noises=2, steps=3).latents
    assert torch.isfinite(made).all()
    assert torch.equal(kept * made, kept * z)


def by_attention(name: str) -> None:
    made = prompt_to_prompt(pictured(name), "a blue square", "a red circle", steps=3, solver=DDIM())
    assert torch.isfinite(made.latents).all()
    assert made.attention is not None


def by_bottleneck(name: str) -> None:
    assert torch.isfinite(asyrp(pictured(name), steps=3).latents).all()


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
    rows = [line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("|")]
    header, _, *body = rows
    return {(row[0], column): cell for row in body for column, cell in zip(header[1:], row[1:], strict=True)}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_is_true(name: str, capability: str) -> None:
    assert outcome(name, capability) == documented()[name, capability]


def write() -> None:
    """Try everything, and write the table."""
    cells = {(name, capability): outcome(name, capability) for name in FAMILIES for capability in CAPABILITIES}
    rows = [[name, *(cells[name, capability] for capability in CAPABILITIES)] for name in FAMILIES]
    lines = ["| family | " + " | ".join(CAPABILITIES) + " |", "| --- " * (len(CAPABILITIES) + 1) + "|"]
    TABLE.write_text(ABOUT + "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n")


if __name__ == "__main__":
    write()
