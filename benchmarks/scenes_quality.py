"""How good the bundled world's models are: `python benchmarks/scenes_quality.py`.

Fresh scenes (seeds that training never drew): reconstruction, judge and guide on reconstructions,
retrieval of the CLIPs, and plain generations (50 DDIM steps, default guidance) of captions, judged.
Intervals are 95 %.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import chainrule
from base import Options, machine, publish, publish_picture, table
from chainrule.bundled import SCENES
from chainrule.images import from_pil, to_pil
from chainrule.losses import Clip, ImageClassifier, load_classifier, load_clip
from chainrule.methods import Plain, Task
from chainrule.metrics import Interval, bootstrap, psnr, wilson
from chainrule.models import Model
from chainrule.models.noise_aware import load_noise_aware_encoder
from chainrule.noise import Noise
from chainrule.scenes.base import (
    HIDDEN_SHAPES,
    SHAPES,
    Scene,
    Thing,
    contact_sheet,
    render,
    sample_scene,
)
from chainrule.scenes.judge import check, load_judge, probabilities

Row = tuple[str, Interval, str]
"""A measure, its value, and what was wanted of it."""


@torch.no_grad()
def reconstruct(model: Model, images: Tensor) -> Tensor:
    return torch.cat([model.decode(model.encode(part)) for part in images.split(64)])


def count_true(flags: Sequence[bool]) -> Interval:
    return wilson(sum(flags), len(flags))


def measure_accuracy(classifier: ImageClassifier, images: Tensor, scenes: list[Scene]) -> Interval:
    seen = probabilities(classifier, images).argmax(dim=1).tolist()
    pairs = zip(seen, scenes, strict=True)
    return count_true([SHAPES[i] == scene.things[0].shape for i, scene in pairs])


@torch.no_grad()
def measure_retrieval(clip: Clip, images: Tensor, scenes: list[Scene]) -> Interval:
    """How often a CLIP finds a picture's caption among all captions of the set."""
    captions = sorted({scene.caption for scene in scenes})
    best = (clip.embed_images(images) @ clip.embed_texts(captions).T).argmax(dim=1)
    pairs = zip(best.tolist(), scenes, strict=True)
    return count_true([captions[i] == scene.caption for i, scene in pairs])


@torch.no_grad()
def measure_recognition(clip: Clip, count: int) -> Interval:
    """How often a CLIP finds a thing again on another background.

    Of `count` red things without a word on black, the nearest of as many on white is to have the
    same shape.
    """
    rng, embeddings = random.Random(0), []
    shapes = [HIDDEN_SHAPES[i % len(HIDDEN_SHAPES)] for i in range(count)]
    for background in ("black", "white"):
        things = [
            Thing(
                shape,
                "red",
                x=rng.uniform(29, 35),
                y=rng.uniform(29, 35),
                radius=rng.uniform(17, 23),
            )
            for shape in shapes
        ]
        images = from_pil([render(Scene((thing,), background)) for thing in things])
        embeddings.append(clip.embed_images(images))
    nearest = (embeddings[0] @ embeddings[1].T).argmax(dim=1).tolist()
    return count_true([shapes[i] == shape for i, shape in zip(nearest, shapes, strict=True)])


@torch.no_grad()
def see_through_noise(model: Model, clip: Clip, images: Tensor, scenes: list[Scene]) -> str:
    """How often the noise-aware encoder finds the caption at each noise level.

    And how near it is to CLIP itself.
    """
    encoder, z = load_noise_aware_encoder(), model.encode(images)
    eps = Noise(tuple(range(len(z)))).normal(0, z.shape[1:])
    captions = sorted({scene.caption for scene in scenes})
    texts, clean = clip.embed_texts(captions), clip.embed_images(images)
    rows = []
    for t in (0.0, 100.0, 300.0, 500.0, 700.0, 900.0):
        x = model.schedule.mix(z, eps, t)
        seen = normalize(encoder(x.float(), torch.full((len(x),), t)), dim=1)
        found = (seen @ texts.T).argmax(dim=1).tolist()
        pairs = zip(found, scenes, strict=True)
        right = count_true([captions[i] == scene.caption for i, scene in pairs])
        rows.append([f"{t:g}", right, bootstrap((seen * clean).sum(dim=1).tolist())])
    return table(["t", "finds the caption", "cosine to CLIP of the picture"], rows)


def draw_captions(model: Model, scenes: list[Scene], steps: int) -> Tensor:
    """Plain images of the scenes' captions."""
    parts = []
    for start in range(0, len(scenes), 64):
        part = scenes[start : start + 64]
        seeds = tuple(range(start, start + len(part)))
        task = Task(model, model.denoiser([scene.caption for scene in part]), seeds)
        parts.append(Plain(steps=steps)(task).images)
        print(f"generated {start + len(part)} of {len(scenes)}", flush=True)
    return torch.cat(parts)


def render_scenes(scenes: list[Scene]) -> Tensor:
    return from_pil([render(scene) for scene in scenes])


def measure_renders(
    model: Model, judge: ImageClassifier, singles: list[Scene], mixed: list[Scene]
) -> list[Row]:
    """What the networks see in renders."""
    guide, clip, judge_clip = load_classifier(), load_clip(), load_clip(SCENES.judge_clip)
    fresh, pixels, n = render_scenes(singles), render_scenes(mixed), len(mixed)
    rebuilt = reconstruct(model, fresh)
    shape_again = "finds a hidden shape again"
    return [
        ("reconstruction PSNR, dB", bootstrap(psnr(rebuilt, fresh).tolist()), "30"),
        ("judge right on fresh renders", measure_accuracy(judge, fresh, singles), ""),
        ("judge right on reconstructions", measure_accuracy(judge, rebuilt, singles), "0.97"),
        ("guide right on reconstructions", measure_accuracy(guide, rebuilt, singles), ""),
        (
            "CLIP finds the caption among all of the set",
            measure_retrieval(clip, pixels, mixed),
            "",
        ),
        (f"CLIP {shape_again} on another background", measure_recognition(clip, n), ""),
        ("judge CLIP finds the caption", measure_retrieval(judge_clip, pixels, mixed), ""),
        (f"judge CLIP {shape_again}", measure_recognition(judge_clip, n), ""),
    ]


def judge_captions(judge: ImageClassifier, scenes: list[Scene], images: Tensor) -> list[Row]:
    """How right the images of captions are."""
    verdicts = [check(judge, scene, image) for scene, image in zip(scenes, images, strict=True)]
    colours = count_true([v.colours and v.background for v in verdicts])
    shapes = count_true([v.shapes for v in verdicts if v.shapes is not None])
    relations = count_true([v.relation for v in verdicts if v.relation is not None])
    return [
        ("colours and background as the caption says", colours, "0.95"),
        ("named shapes as the caption says", shapes, "0.9"),
        ("relation as the caption says", relations, ""),
    ]


def draw_sheet(images: Tensor, shapes: Tensor) -> Image.Image:
    """The first images of captions, and of shapes without a name."""
    shown = torch.cat([images[:32], shapes[:32]])
    return contact_sheet([to_pil(image) for image in shown], 16)


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--captions", type=int, default=512, toy=8)
    options.add("--steps", type=int, default=50, toy=2)
    help_ = "only the noise-aware encoder"
    options.add_argument("--noise-aware", action="store_true", help=help_)
    arguments = options.parse(argv)
    n, steps, model = arguments.captions, arguments.steps, chainrule.load()
    mixed = [sample_scene(seed) for seed in range(n)]
    if arguments.noise_aware:
        report_noise_aware(model, mixed, dry=arguments.dry)
        return
    judge = load_judge()
    singles = [sample_scene(seed, single=True) for seed in range(n)]
    rows = measure_renders(model, judge, singles, mixed)
    images = draw_captions(model, mixed, steps)
    rows += judge_captions(judge, mixed, images)
    hidden = [sample_scene(seed, shape=HIDDEN_SHAPES[seed % 8], single=True) for seed in range(n)]
    shapes = draw_captions(model, hidden, steps)
    sure = probabilities(judge, shapes)
    clear = count_true((sure.amax(dim=1) > 0.8).tolist())
    rows.append(('"a ... shape": judge sees some one shape with p > 0.8', clear, "0.85"))
    counts = torch.bincount(sure.argmax(dim=1), minlength=len(SHAPES)).tolist()
    publish_picture("scenes.png", partial(draw_sheet, images, shapes), dry=arguments.dry)
    drawn = ", ".join(f"{shape} {count}" for shape, count in zip(SHAPES, counts, strict=True))
    text = [
        "## The bundled world",
        f"`python benchmarks/scenes_quality.py --captions {n} --steps {steps}` on {machine()}; "
        f"{n} scenes with seeds from 0, which training never drew; noise seeds from 0; 95 % "
        "intervals.",
        table(["measure", "value", "wanted"], rows),
        f'What the judge sees in the generations of "a ... shape": {drawn}.',
    ]
    publish("scenes-quality", "\n\n".join(text), dry=arguments.dry)


def report_noise_aware(model: Model, scenes: list[Scene], *, dry: bool) -> None:
    """The section of the noise-aware encoder."""
    command = f"python benchmarks/scenes_quality.py --noise-aware --captions {len(scenes)}"
    text = [
        "## The noise-aware encoder",
        f"`{command}` on {machine()}; fresh scenes, 95 % intervals; the caption is sought among "
        "all of the set.",
        see_through_noise(model, load_clip(), render_scenes(scenes), scenes),
    ]
    publish("scenes-noise-aware", "\n\n".join(text), dry=dry)


if __name__ == "__main__":
    main()
