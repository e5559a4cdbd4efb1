"""The style of one picture, AdjointDPM's Table 4: `python benchmarks/style.py`.

On the bundled world. Learnt through the whole chain, and, from the same picture, by textual
inversion and DreamBooth in their simplest form: the similarity of images to their prompts and the
distance of their style from the picture's, by a CLIP that nobody was tuned with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import chainrule
from base import Options, machine, publish, shorten, table
from chainrule import sample
from chainrule.bundled import SCENES
from chainrule.diffusion.denoiser import Denoiser
from chainrule.images import from_pil, to_pil
from chainrule.losses import Clip, ImageClassifier, Style, load_backbone, load_clip
from chainrule.methods import Adam, StyleTask, Stylize
from chainrule.methods.training import Training, train
from chainrule.metrics import Interval, bootstrap
from chainrule.models import Model
from chainrule.models.lora import add_lora
from chainrule.noise import Noise
from chainrule.scenes.base import Scene, Thing, article, contact_sheet, render
from chainrule.scenes.judge import load_judge, probabilities

FRESH = 1000
"""The first seed that nothing was learnt with."""

Words = tuple[str, str, str]
"""A prompt as colour, shape and background."""

SEEN: tuple[Words, ...] = (
    ("red", "square", "white"),
    ("blue", "circle", "gray"),
    ("green", "shape", "black"),
    ("yellow", "triangle", "white"),
    ("pink", "shape", "gray"),
    ("purple", "square", "black"),
    ("cyan", "circle", "white"),
    ("orange", "triangle", "gray"),
    ("red", "shape", "white"),
    ("blue", "square", "black"),
)
UNSEEN: tuple[Words, ...] = (
    ("green", "circle", "white"),
    ("orange", "shape", "gray"),
    ("pink", "square", "white"),
    ("yellow", "square", "gray"),
    ("cyan", "triangle", "white"),
)


def write_prompt(colour: str, shape: str, background: str) -> str:
    return f"{article(colour)} {colour} {shape} on a {background} background"


def draw_picture() -> Tensor:
    """The picture whose style is learnt, (3, 64, 64)."""
    thing = Thing("circle", "purple", 32, 32, 22, striped=True)
    return from_pil([render(Scene((thing,), "black"))])[0]


Samples = list[tuple[str, int]]
"""Prompts and seeds."""
Drawing = Callable[[Samples], Tensor]
"""Draws the images of prompts and seeds."""


USUAL = Stylize()


@dataclass(frozen=True)
class Size:
    """How much is learnt.

    Args:
        method: AdjointDPM's settings.
        seeds: How many each prompt is tuned with.
        inversion: The iterations of textual inversion.
        dreambooth: The iterations of DreamBooth.
        seen: The prompts that are tuned with.
        unseen: Others.
    """

    method: Stylize = USUAL
    seeds: int = 10
    inversion: int = 1000
    dreambooth: int = 400
    seen: tuple[Words, ...] = SEEN
    unseen: tuple[Words, ...] = UNSEEN

    def shorten(self) -> Size:
        """The same at toy size."""
        return Size(shorten(self.method), 1, 1, 1, self.seen[:2], self.unseen[:1])


def learn_nothing(size: Size) -> Drawing:
    model = chainrule.load()
    return lambda samples: size.method.draw(model, samples)


def learn_by_adjoint_dpm(size: Size) -> Drawing:
    model, method = chainrule.load(), size.method
    task = StyleTask(
        model,
        tuple(write_prompt(*words) for words in size.seen),
        tuple(range(size.seeds)),
        draw_picture(),
        load_backbone(SCENES.clip),
        load_backbone(),
    )
    for state in method.run(task):
        if state.iteration % 20 == 0:
            losses = state.losses[-20:].mean(dim=0).tolist()
            print("AdjointDPM", state.iteration, losses, flush=True)
    weights = add_lora(model, method.rank)
    with torch.no_grad():
        for name, value in state.values.items():
            weights[name].copy_(value)
    return lambda samples: method.draw(model, samples)


def denoise(model: Model, tell: Callable[[], Denoiser], batch: int) -> Callable[[int], Tensor]:
    """What both were published with: the error of the predicted noise, at random times.

    Args:
        model: The model.
        tell: The model told what is learnt.
        batch: How many noises the one picture is seen under in an iteration.
    """
    latents = model.encode(draw_picture()[None]).expand(batch, -1, -1, -1)
    noise = Noise(tuple(range(batch)))

    def objective(k: int) -> Tensor:
        t = noise.uniform(2 * k, (1,))[0].item() * model.schedule.last
        eps = noise.normal(2 * k + 1, latents.shape[1:])
        x_t = model.schedule.mix(latents, eps, t)
        return (tell()(x_t.float(), t).eps - eps).square().mean()[None]

    return objective


def learn_by_inversion(size: Size, rate: float = 5e-3) -> Drawing:
    model = chainrule.load()
    vectors = model.text.pad_embedding.float().repeat(4, 1).requires_grad_()

    def tell(prompts: Sequence[str]) -> Denoiser:
        text = model.text.with_token("<style>", vectors)
        told = text([f"{prompt} <style>".strip() for prompt in prompts])
        return model.denoiser(told, guidance_scale=1.0)

    objective = denoise(model, lambda: tell([""]), 4)
    learn({"vectors": vectors}, objective, size.inversion, rate)
    return lambda samples: _draw_told(model, tell, samples, size.method.steps)


def learn_by_dreambooth(size: Size, rate: float = 1e-3) -> Drawing:
    model = chainrule.load()
    weights = add_lora(model, size.method.rank)

    def tell(prompts: Sequence[str]) -> Denoiser:
        return model.denoiser([f"{prompt} sks".strip() for prompt in prompts], guidance_scale=1.0)

    learn(weights, denoise(model, lambda: tell([""]), 4), size.dreambooth, rate)
    return lambda samples: _draw_told(model, tell, samples, size.method.steps)


def learn(
    weights: dict[str, Tensor], objective: Callable[[int], Tensor], n: int, rate: float
) -> None:
    """Tune weights in place for `n` iterations."""
    adam, begun = Adam(rate=rate, beta2=0.999), Training.begin(weights, 1)
    for state in train(weights, objective, adam, n, begun):
        if state.iteration % 100 == 0:
            print(state.iteration, state.losses[-100:].mean().item(), flush=True)


def _draw_told(
    model: Model, tell: Callable[[Sequence[str]], Denoiser], samples: Samples, steps: int
) -> Tensor:
    x_T = model.noise([seed for _, seed in samples])
    denoiser = tell([prompt for prompt, _ in samples])
    return model.decode(sample(denoiser, x_T, model.schedule.times(steps)))


WAYS: dict[str, Callable[[Size], Drawing]] = {
    "untuned": learn_nothing,
    "DreamBooth, simplest": learn_by_dreambooth,
    "textual inversion, simplest": learn_by_inversion,
    "AdjointDPM": learn_by_adjoint_dpm,
}


@dataclass
class Judges:
    """What sees prompt, style and shape.

    Args:
        count: How many seeds each prompt is judged by.
        clip: The judge's CLIP.
        distance: The style's.
        judge: The judge.
        before: The shapes of the first images that were judged, by prompt.
    """

    count: int
    clip: Clip
    distance: Style
    judge: ImageClassifier
    before: dict[tuple[Words, ...], Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def draw(self, way: Drawing, prompts: tuple[Words, ...]) -> Tensor:
        """The images of prompts and fresh seeds."""
        seeds = range(FRESH, FRESH + self.count)
        parts = [[(write_prompt(*words), seed) for seed in seeds] for words in prompts]
        return torch.cat([way(part) for part in parts])

    @torch.no_grad()
    def ask(self, images: Tensor, prompts: tuple[Words, ...]) -> tuple[Tensor, ...]:
        """Of each prompt: the prompt, its shape in the style, the style, whether shapes stayed."""
        said = [write_prompt(*words) for words in prompts]
        styled = [write_prompt("purple", shape, "black") for _, shape, _ in prompts]
        of_prompt, of_style = (100 * self._compare(images, texts) for texts in (said, styled))
        shapes = probabilities(self.judge, images).argmax(dim=1)
        same = (shapes == self.before.setdefault(prompts, shapes)).float()
        each = (of_prompt, of_style, self.distance(images), same)
        return tuple(value.unflatten(0, (-1, self.count)).mean(dim=1) for value in each)

    def _compare(self, images: Tensor, texts: list[str]) -> Tensor:
        """The cosine of each image and its prompt's text."""
        wanted = self.clip.embed_texts([text for text in texts for _ in range(self.count)])
        return (self.clip.embed_images(images) * wanted).sum(dim=1)


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--count", type=int, default=16, toy=2, help="seeds for each prompt")
    options.add("--sheet", type=Path, default=Path("runs") / "style.png", toy=None)
    arguments = options.parse(argv)
    size, count = Size(), arguments.count
    size = size.shorten() if arguments.toy else size
    eye = load_backbone(SCENES.judge_clip)
    style = Style(eye, draw_picture())
    judges = Judges(count, load_clip(SCENES.judge_clip), style, load_judge())
    rows: list[list[object]] = []
    shown: list[Tensor] = []
    per_prompt: dict[str, list[float]] = {}
    for name, learn_way in WAYS.items():
        began = time.perf_counter()
        way = learn_way(size)
        seconds, row = time.perf_counter() - began, list[Interval]()
        for prompts in (size.seen, size.unseen):
            images = judges.draw(way, prompts)
            found = judges.ask(images, prompts)
            row += [bootstrap(value.tolist()) for value in found]
            per_prompt.setdefault(name, []).extend(found[0].tolist())
            shown.append(images[::count][:5])
        rows.append([name, *row, f"{seconds:.0f}"])
        print(*rows[-1], flush=True)
    if arguments.sheet:
        pictures = [to_pil(image).resize((96, 96)) for images in shown for image in images]
        contact_sheet(pictures, 10).save(arguments.sheet)
    publish("style", report(rows, per_prompt, size, count), dry=arguments.dry)


def report(
    rows: list[list[object]], per_prompt: dict[str, list[float]], size: Size, count: int
) -> str:
    """The section's text."""
    header, what = ["method"], ("prompt", "its shape in the style", "style distance", "same shape")
    for name in ("seen prompts", "unseen prompts"):
        header += [f"{each}, {name}" for each in what]
    said = [write_prompt(*words) for words in (*size.seen, *size.unseen)]
    short = [prompt.removesuffix(" background") for prompt in said]
    by_prompt = [
        [prompt, *(f"{values[i]:.1f}" for values in per_prompt.values())]
        for i, prompt in enumerate(short)
    ]
    text = [
        "## The style of one picture",
        f"`python benchmarks/style.py --count {count}` on {machine()}. A striped purple circle on "
        f"black; ten prompts with ten seeds each to tune on, {count} other seeds (from {FRESH}) "
        "for each prompt to judge by. By the judge's CLIP: 100 times the cosine of the image and "
        "its prompt (the paper's measure), and of the image and what the prompt would be in the "
        "style ('a purple SHAPE on a black background'); the distance of the Gram matrices from "
        "the picture's. By the judge: whether the shape is the untuned model's. 95 % intervals "
        "over prompts. DreamBooth (a LoRA of the same rank, the prompt and 'sks', no prior "
        "preservation) and textual inversion (four vectors) are fitted to the picture by the "
        "noise's error.",
        table([*header, "s to learn"], rows),
        "CLIP similarity by prompt (the last five are unseen):",
        table(["prompt", *per_prompt], by_prompt),
    ]
    return "\n\n".join(text)


if __name__ == "__main__":
    main()
