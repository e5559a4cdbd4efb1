"""How good the bundled world's models are: `python benchmarks/scenes_quality.py`.

Fresh scenes (seeds that training never drew): reconstruction, judge and guide on reconstructions, retrieval of the
CLIPs, and plain generations (50 DDIM steps, default guidance) of captions, loss_and_gradient. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

import chainrule
from base import RESULTS, machine, publish, table
from chainrule import bundled
from chainrule.losses import load_classifier, load_clip
from chainrule.losses.classifier import ImageClassifier
from chainrule.losses.clip import Clip
from chainrule.methods import Task, plain
from chainrule.metrics import Interval, bootstrap, psnr, wilson
from chainrule.models import Model
from chainrule.models.noise_aware import load_noise_aware_encoder
from chainrule.noise import Noise
from chainrule.pictures import from_pil, to_pil
from chainrule.scenes.base import HIDDEN_SHAPES, SHAPES, Scene, Thing, contact_sheet, render, sample_scene
from chainrule.scenes.judge import check, load_judge, probabilities


@torch.no_grad()
def reconstruct(model: Model, images: Tensor) -> Tensor:
    return torch.cat([model.decode(model.encode(part)) for part in images.split(64)])


def of(flags: list[bool]) -> Interval:
    return wilson(sum(flags), len(flags))


def accuracy(classifier: ImageClassifier, images: Tensor, scenes: list[Scene]) -> Interval:
    seen = probabilities(classifier, images).argmax(dim=1).tolist()
    return of([SHAPES[i] == scene.things[0].shape for i, scene in zip(seen, scenes, strict=True)])


@torch.no_grad()
def retrieval(clip: Clip, images: Tensor, scenes: list[Scene]) -> Interval:
    """How often a CLIP finds a picture's caption among all captions of the set."""
    captions = sorted({scene.caption for scene in scenes})
    best = (clip.embed_images(images) @ clip.embed_texts(captions).T).argmax(dim=1)
    return of([captions[i] == scene.caption for i, scene in zip(best.tolist(), scenes, strict=True)])


@torch.no_grad()
def same_thing(clip: Clip, count: int) -> Interval:
    """How often, of `count` red things without a word on black, the nearest of as many on white has the same shape."""
    rng, embeddings = random.Random(0), []
    shapes = [HIDDEN_SHAPES[i % len(HIDDEN_SHAPES)] for i in range(count)]
    for background in ("black", "white"):
        things = [
            Thing(shape, "red", x=rng.uniform(29, 35), y=rng.uniform(29, 35), radius=rng.uniform(17, 23))
            for shape in shapes
        ]
        images = from_pil([render(Scene((thing,), background)) for thing in things])
        embeddings.append(clip.embed_images(images))
    nearest = (embeddings[0] @ embeddings[1].T).argmax(dim=1).tolist()
    return of([shapes[i] == shape for i, shape in zip(nearest, shapes, strict=True)])


@torch.no_grad()
def through_noise(model: Model, clip: Clip, images: Tensor, scenes: list[Scene]) -> str:
    """How often the noise-aware encoder finds the caption at each noise level, and how near it is to CLIP itself."""
    encoder, z = load_noise_aware_encoder(), model.encode(images)
    eps = Noise(tuple(range(len(z)))).normal(0, z.shape[1:])
    captions = sorted({scene.caption for scene in scenes})
    texts, clean = clip.embed_texts(captions), clip.embed_images(images)
    rows = []
    for t in (0.0, 100.0, 300.0, 500.0, 700.0, 900.0):
        x = model.schedule.alpha(t) * z + model.schedule.sigma(t) * eps
        seen = normalize(encoder(x.float(), torch.full((len(x),), t)), dim=1)
        found = (seen @ texts.T).argmax(dim=1).tolist()
        right = of([captions[i] == scene.caption for i, scene in zip(found, scenes, strict=True)])
        rows.append([f"{t:g}", right, bootstrap((seen * clean).sum(dim=1).tolist())])
    return table(["t", "finds the caption", "cosine to CLIP of the picture"], rows)


def generations(model: Model, scenes: list[Scene], steps: int) -> Tensor:
    parts = []
    for start in range(0, len(scenes), 64):
        part = scenes[start : start + 64]
        denoiser = model.denoiser([scene.caption for scene in part])
        parts.append(plain(Task(model, denoiser, tuple(range(start, start + len(part)))), steps=steps).images)
        print(f"generated {start + len(part)} of {len(scenes)}", flush=True)
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--sheet", type=Path, default=RESULTS.parent / "images" / "scenes.png")
    parser.add_argument("--noise-aware", action="store_true", help="only the noise-aware encoder")
    arguments = parser.parse_args()
    if arguments.noise_aware:
        scenes = [sample_scene(seed) for seed in range(arguments.captions)]
        pixels = from_pil([render(scene) for scene in scenes])
        publish(
            "scenes-noise-aware",
            "## The noise-aware encoder\n\n"
            f"`python benchmarks/scenes_quality.py --noise-aware --captions {len(scenes)}` on {machine()}; fresh "
            "scenes, 95 % intervals; the caption is sought among all of the set.\n\n"
            + through_noise(chainrule.load(), load_clip(), pixels, scenes),
        )
        return
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    clip, judge_clip = load_clip(), load_clip(bundled.JUDGE_CLIP)
    n = arguments.captions

    singles = [sample_scene(seed, single=True) for seed in range(n)]
    fresh = from_pil([render(scene) for scene in singles])
    rebuilt = reconstruct(model, fresh)
    mixed = [sample_scene(seed) for seed in range(n)]
    mixed_pixels = from_pil([render(scene) for scene in mixed])
    rows: list[tuple[str, Interval, str]] = [
        ("reconstruction PSNR, dB", bootstrap(psnr(rebuilt, fresh).tolist()), "30"),
        ("judge right on fresh renders", accuracy(judge, fresh, singles), ""),
        ("judge right on reconstructions", accuracy(judge, rebuilt, singles), "0.97"),
        ("guide right on reconstructions", accuracy(guide, rebuilt, singles), ""),
        ("CLIP finds the caption among all of the set", retrieval(clip, mixed_pixels, mixed), ""),
        ("CLIP finds a fill_in shape again on another background", same_thing(clip, n), ""),
        ("judge CLIP finds the caption", retrieval(judge_clip, mixed_pixels, mixed), ""),
        ("judge CLIP finds a fill_in shape again", same_thing(judge_clip, n), ""),
    ]

    images = generations(model, mixed, arguments.steps)
    verdicts = [check(judge, scene, image) for scene, image in zip(mixed, images, strict=True)]
    rows += [
        ("colours and background as the caption says", of([v.colours and v.background for v in verdicts]), "0.95"),
        ("named shapes as the caption says", of([v.shapes for v in verdicts if v.shapes is not None]), "0.9"),
        ("relation as the caption says", of([v.relation for v in verdicts if v.relation is not None]), ""),
    ]
    fill_in = [sample_scene(seed, shape=HIDDEN_SHAPES[seed % 8], single=True) for seed in range(n)]
    shapes = generations(model, fill_in, arguments.steps)
    sure = probabilities(judge, shapes)
    clear = of((sure.amax(dim=1) > 0.8).tolist())
    rows.append(('"a ... shape": judge sees some one shape with p > 0.8', clear, "0.85"))
    counts = torch.bincount(sure.argmax(dim=1), minlength=len(SHAPES)).tolist()

    arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([to_pil(image) for image in torch.cat([images[:32], shapes[:32]])], 16).save(arguments.sheet)
    drawn = ", ".join(f"{shape} {count}" for shape, count in zip(SHAPES, counts, strict=True))
    publish(
        "scenes-quality",
        "## The bundled world\n\n"
        f"`python benchmarks/scenes_quality.py --captions {n} --steps {arguments.steps}` on {machine()}; {n} scenes "
        "with seeds from 0, which training never drew; noise seeds from 0; 95 % intervals.\n\n"
        + table(["measure", "value", "wanted"], rows)
        + f'\n\nWhat the judge sees in the generations of "a ... shape": {drawn}.',
    )


if __name__ == "__main__":
    main()
