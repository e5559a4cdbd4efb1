"""The style of one picture, AdjointDPM's Table 4 on the bundled world: `python benchmarks/style.py`.

Learnt through the whole chain, and, from the same picture, by textual inversion and DreamBooth in their simplest form:
the similarity of images to their prompts and the distance of their style from the picture's, by a CLIP that nobody was
tuned with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import chainrule
from base import machine, publish, table
from chainrule import bundled, sample
from chainrule.diffusion.denoiser import Denoiser
from chainrule.losses import load_backbone, load_clip
from chainrule.losses.perceptual import Style
from chainrule.methods import StyleTask, Stylization, stylize
from chainrule.methods.stylize import adapted, draw
from chainrule.metrics import bootstrap
from chainrule.models import Model
from chainrule.noise import Noise
from chainrule.optimise import Adam, Training, train
from chainrule.pictures import from_pil, to_pil
from chainrule.scenes.base import Scene, Thing, article, contact_sheet, render
from chainrule.scenes.judge import load_judge, probabilities

FRESH = 1000
"""The first seed that nothing was learnt with."""

SEEN = (
    ("red", "square", "white"), ("blue", "circle", "gray"), ("green", "shape", "black"),
    ("yellow", "triangle", "white"), ("pink", "shape", "gray"), ("purple", "square", "black"),
    ("cyan", "circle", "white"), ("orange", "triangle", "gray"), ("red", "shape", "white"),
    ("blue", "square", "black"),
)  # fmt: skip
UNSEEN = (
    ("green", "circle", "white"), ("orange", "shape", "gray"), ("pink", "square", "white"),
    ("yellow", "square", "gray"), ("cyan", "triangle", "white"),
)  # fmt: skip
"""Prompts, as colour, shape and background."""


def prompt(colour: str, shape: str, background: str) -> str:
    return f"{article(colour)} {colour} {shape} on a {background} background"


def style_picture() -> Tensor:
    return from_pil([render(Scene((Thing("circle", "purple", 32, 32, 22, striped=True),), "black"))])[0]


Drawing = Callable[[list[tuple[str, int]]], Tensor]


def by_adjoint_dpm(settings: Stylization) -> Drawing:
    model = chainrule.load()
    studio = StyleTask(
        model,
        tuple(prompt(*words) for words in SEEN),
        tuple(range(10)),
        style_picture(),
        load_backbone(bundled.CLIP),
        load_backbone(),
    )
    for state in stylize(studio, settings):
        if state.iteration % 20 == 0:
            print("AdjointDPM", state.iteration, state.losses[-20:].mean(dim=0).tolist(), flush=True)
    return lambda samples: draw(model, settings, samples)


def denoising(model: Model, told: Callable[[], Denoiser], batch: int) -> Callable[[int], Tensor]:
    """What both were published with: the error of the predicted noise of the one picture, at random times."""
    latents = model.encode(style_picture()[None]).expand(batch, -1, -1, -1)
    noise = Noise(tuple(range(batch)))

    def objective(k: int) -> Tensor:
        t = noise.uniform(2 * k, (1,))[0].item() * model.schedule.last
        eps = noise.normal(2 * k + 1, latents.shape[1:])
        x_t = model.schedule.alpha(t) * latents + model.schedule.sigma(t) * eps
        return (told()(x_t.float(), t).eps - eps).square().mean()[None]

    return objective


def by_textual_inversion(iterations: int = 1000, rate: float = 5e-3) -> Drawing:
    model = chainrule.load()
    vectors = model.text.blank.float().repeat(4, 1).requires_grad_()

    def told(prompts: Sequence[str]) -> Denoiser:
        text = model.text.taught("<style>", vectors)
        return model.denoiser(text([f"{prompt} <style>".strip() for prompt in prompts]), guidance_scale=1.0)

    trained(vectors={"vectors": vectors}, objective=denoising(model, lambda: told([""]), 4), n=iterations, rate=rate)
    return lambda samples: _drawn_with(model, told([prompt for prompt, _ in samples]), samples)


def by_dreambooth(iterations: int = 400, rate: float = 1e-3) -> Drawing:
    model = chainrule.load()
    weights = adapted(model, Stylization().rank)

    def told(prompts: Sequence[str]) -> Denoiser:
        return model.denoiser([f"{prompt} sks".strip() for prompt in prompts], guidance_scale=1.0)

    trained(vectors=weights, objective=denoising(model, lambda: told([""]), 4), n=iterations, rate=rate)
    return lambda samples: _drawn_with(model, told([prompt for prompt, _ in samples]), samples)


def trained(vectors: dict[str, Tensor], objective: Callable[[int], Tensor], n: int, rate: float) -> None:
    for state in train(vectors, objective, Adam(rate=rate, beta2=0.999), n, Training.of(vectors, 1)):
        if state.iteration % 100 == 0:
            print(state.iteration, state.losses[-100:].mean().item(), flush=True)


def _drawn_with(model: Model, denoiser: Denoiser, samples: list[tuple[str, int]]) -> Tensor:
    x_T = model.noise([seed for _, seed in samples])
    return model.decode(sample(denoiser, x_T, model.schedule.times(Stylization().steps)))


@torch.no_grad()
def measure(count: int, sheet: Path) -> None:
    plain = chainrule.load()
    ways: dict[str, Callable[[], Drawing]] = {
        "untuned": lambda: lambda samples: draw(plain, Stylization(), samples),
        "DreamBooth, simplest": by_dreambooth,
        "textual inversion, simplest": by_textual_inversion,
        "AdjointDPM": lambda: by_adjoint_dpm(Stylization()),
    }
    clip, eye = load_clip(bundled.JUDGE_CLIP), load_backbone(bundled.JUDGE_CLIP)
    distance, judge, rows, shown = Style(eye, style_picture()), load_judge(), [], []
    per_prompt: dict[str, list[float]] = {}
    before: dict[str, Tensor] = {}
    for name, learn in ways.items():
        began = time.perf_counter()
        with torch.enable_grad():
            way = learn()
        seconds, row = time.perf_counter() - began, []
        for prompts in (SEEN, UNSEEN):
            samples = [(prompt(*words), seed) for words in prompts for seed in range(FRESH, FRESH + count)]
            styled = [prompt("purple", shape, "black") for _, shape, _ in prompts for _ in range(count)]
            images = torch.cat([way(samples[i : i + count]) for i in range(0, len(samples), count)])
            of_prompt, of_style = (
                100
                * (clip.embed_images(images) * clip.embed_texts(texts)).sum(dim=1).unflatten(0, (-1, count)).mean(dim=1)
                for texts in ([text for text, _ in samples], styled)
            )
            shapes = probabilities(judge, images).argmax(dim=1)
            same = (shapes == before.setdefault(str(prompts), shapes)).float()
            far, kept = (value.unflatten(0, (-1, count)).mean(dim=1) for value in (distance(images), same))
            row += [bootstrap(value.tolist()) for value in (of_prompt, of_style, far, kept)]
            per_prompt.setdefault(name, []).extend(of_prompt.tolist())
            shown.append(images[::count][:5])
        rows.append([name, *row, f"{seconds:.0f}"])
        print(*rows[-1], flush=True)
    pictures = [to_pil(image).resize((96, 96)) for images in shown for image in images]
    contact_sheet([*pictures], 10).save(sheet)
    header = ["method"]
    for name in ("seen prompts", "unseen prompts"):
        header += [f"{what}, {name}" for what in ("prompt", "its shape in the style", "style distance", "same shape")]
    short = [prompt(*words).removesuffix(" background") for words in (*SEEN, *UNSEEN)]
    publish(
        "style",
        "## The style of one picture\n\n"
        f"`python benchmarks/style.py --count {count}` on {machine()}. A striped purple circle on black; ten prompts "
        f"with ten seeds each to tune on, {count} other seeds (from {FRESH}) for each prompt to judge by. By the "
        "judge's CLIP: 100 times the cosine of the image and its prompt (the paper's measure), and of the image and "
        "what the prompt would be in the style ('a purple SHAPE on a black background'); the distance of the Gram "
        "matrices from the picture's. By the judge: whether the shape is the untuned model's. 95 % intervals over "
        "prompts. DreamBooth (a LoRA of the same rank, the prompt and 'sks', no prior "
        "preservation) and textual inversion (four vectors) are fitted to the picture by the noise's error.\n\n"
        + table([*header, "s to learn"], rows)
        + "\n\nCLIP similarity by prompt (the last five are unseen):\n\n"
        + table(
            ["prompt", *per_prompt],
            [[prompt, *(f"{values[i]:.1f}" for values in per_prompt.values())] for i, prompt in enumerate(short)],
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=16, help="seeds for each prompt")
    parser.add_argument("--sheet", type=Path, default=Path("runs") / "style.png")
    arguments = parser.parse_args()
    measure(arguments.count, arguments.sheet)


if __name__ == "__main__":
    main()
