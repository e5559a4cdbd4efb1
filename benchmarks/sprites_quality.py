"""How good the models of the world of sprites are: `python benchmarks/sprites_quality.py`.

Fresh scenes (seeds that training never drew), so the artwork is fetched if it is not there:
reconstruction; judges and guide on reconstructions; retrieval of the CLIPs; and plain generations
(50 DDIM steps, default guidance) of captions, judged. How many different species plain generations
of a genus show, as the judge sees them; and how near the nearest training picture is, in pixels and
in the judge's features, beside the same for fresh scenes: a memoriser's generations would be nearer
than those. Intervals are 95 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import chainrule
from base import Options, machine, publish, publish_picture, table
from chainrule.bundled import SPRITES
from chainrule.images import from_pil, to_pil
from chainrule.losses import Clip, ImageClassifier, load_classifier, load_clip
from chainrule.methods import Plain, Task
from chainrule.metrics import Interval, bootstrap, psnr
from chainrule.models import Model
from chainrule.scenes.base import article, contact_sheet
from chainrule.scenes.train.base import TRAIN_SEEDS
from chainrule.sprites.artwork import STYLES, Artwork, load_artwork
from chainrule.sprites.base import GROUNDS, HELD_OUT_KINDS, Scene, render, sample_scene
from chainrule.sprites.judge import Judges, check, load_judges
from chainrule.sprites.things import GENERA
from scenes_quality import count_true, reconstruct

Row = tuple[str, Interval, str]
"""A measure, its value, and what was wanted of it."""


def render_scenes(scenes: Sequence[Scene], artwork: Artwork) -> Tensor:
    return from_pil([render(scene, artwork) for scene in scenes])


@torch.no_grad()
def measure_retrieval(clip: Clip, images: Tensor, scenes: Sequence[Scene]) -> Interval:
    """How often a CLIP finds a picture's caption among all captions of the set."""
    captions = sorted({scene.caption for scene in scenes})
    best = (clip.embed_images(images) @ clip.embed_texts(captions).T).argmax(dim=1).tolist()
    return count_true([captions[i] == scene.caption for i, scene in zip(best, scenes, strict=True)])


@torch.no_grad()
def measure_guide(guide: ImageClassifier, images: Tensor, scenes: Sequence[Scene]) -> Interval:
    """How often the guide's first guess is the one thing; of things that it knows."""
    seen = guide(images).argmax(dim=1).tolist()
    known = [
        (i, scene.things[0].kind)
        for i, scene in zip(seen, scenes, strict=True)
        if scene.things[0].kind not in HELD_OUT_KINDS
    ]
    return count_true([i == guide.index(kind) for i, kind in known])


def measure_renders(
    model: Model, judges: Judges, singles: list[Scene], mixed: list[Scene], artwork: Artwork
) -> list[Row]:
    """What the networks see in renders."""
    fresh, pixels = render_scenes(singles, artwork), render_scenes(mixed, artwork)
    rebuilt = reconstruct(model, fresh)

    def judge(images: Tensor) -> Interval:
        pairs = zip(judges.name_things(images), singles, strict=True)
        return count_true([name == scene.things[0].kind for name, scene in pairs])

    styles = zip(judges.name_styles(rebuilt), singles, strict=True)
    guide = load_classifier(str(SPRITES.classifier))
    clips = [load_clip(str(path)) for path in (SPRITES.clip, SPRITES.judge_clip)]
    found = [measure_retrieval(clip, pixels, mixed) for clip in clips]
    return [
        ("reconstruction PSNR, dB", bootstrap(psnr(rebuilt, fresh).tolist()), "30"),
        ("judge right on fresh renders", judge(fresh), ""),
        ("judge right on reconstructions", judge(rebuilt), "0.95"),
        ("style judge right on reconstructions", count_true([a == s.style for a, s in styles]), ""),
        ("guide right on reconstructions", measure_guide(guide, rebuilt, singles), ""),
        ("CLIP finds the caption among all of the set", found[0], ""),
        ("judge CLIP finds the caption", found[1], ""),
    ]


def draw_captions(model: Model, captions: Sequence[str], steps: int) -> Tensor:
    """Plain images of captions, one each."""
    parts = []
    for start in range(0, len(captions), 32):
        part = list(captions[start : start + 32])
        task = Task(model, model.denoiser(part), tuple(range(start, start + len(part))))
        parts.append(Plain(steps=steps)(task).images)
        print(f"generated {start + len(part)} of {len(captions)}", flush=True)
    return torch.cat(parts)


def judge_captions(judges: Judges, scenes: list[Scene], images: Tensor, what: str) -> list[Row]:
    """How right the images of captions are."""
    verdicts = [check(judges, scene, image) for scene, image in zip(scenes, images, strict=True)]
    rows = []
    for name in ("things", "ground", "relation", "style", "right"):
        values = [value for v in verdicts if (value := getattr(v, name)) is not None]
        said = "all of the caption" if name == "right" else f"{name} as the caption says"
        rows.append((f"{what}: {said}", count_true(values), ""))
    return rows


def name_genus(genus: str, i: int) -> str:
    """One of the captions of a genus: all styles and grounds in turn."""
    style = list(STYLES.values())[i % len(STYLES)].words
    return f"{article(genus)} {genus} {style} on a {list(GROUNDS)[i % len(GROUNDS)]} background"


def tabulate_genera(judges: Judges, images: dict[str, Tensor]) -> str:
    """How many different species the images of each genus show, and how evenly."""
    rows = []
    for genus, drawn in images.items():
        names = judges.name_things(drawn)
        own = Counter(name for name in names if name in GENERA[genus])
        total = sum(own.values())
        entropy = -sum(n / total * math.log(n / total) for n in own.values()) if total else 0.0
        known = sum(name not in HELD_OUT_KINDS for name in GENERA[genus])
        often = ", ".join(f"{name} {n}" for name, n in own.most_common(4))
        inside = count_true([name in GENERA[genus] for name in names])
        rows.append([genus, inside, f"{len(own)} of {known}", f"{math.exp(entropy):.1f}", often])
    header = ["genus", "one of its species", "species seen", "effective number", "most often"]
    return table(header, rows)


@torch.no_grad()
def find_nearest(judges: Judges, images: Tensor, others: Tensor) -> list[tuple[float, float]]:
    """How far the nearest of the others is from each image: in pixels (RMS), and in features."""
    network = judges.things.network.network.convnext  # type: ignore[attr-defined]

    def describe(part: Tensor) -> Tensor:
        features = [network(some * 2 - 1).pooler_output for some in part.split(256)]
        return torch.nn.functional.normalize(torch.cat(features), dim=1)

    pixels = torch.cdist(images.flatten(1), others.flatten(1)) / images[0].numel() ** 0.5
    alike = 1 - describe(images) @ describe(others).T
    return list(zip(pixels.amin(dim=1).tolist(), alike.amin(dim=1).tolist(), strict=True))


def compare_with_training(
    judges: Judges, drawn: Tensor, fresh: Tensor, artwork: Artwork, count: int
) -> str:
    """Whether generations are nearer to training pictures than fresh scenes are."""
    trained = render_scenes([sample_scene(TRAIN_SEEDS + i) for i in range(count)], artwork)
    rows = []
    for name, images in (("plain generations", drawn), ("fresh scenes", fresh)):
        pixels, features = zip(*find_nearest(judges, images, trained), strict=True)
        rows.append([name, bootstrap(list(pixels)), bootstrap(list(features))])
    return table(
        ["", "nearest in pixels, RMS", "nearest in the judge's features, 1 - cosine"], rows
    )


def draw_sheet(images: dict[str, Tensor]) -> Image.Image:
    """The first images of every genus, a row each."""
    shown = [to_pil(image) for drawn in images.values() for image in drawn[:12]]
    return contact_sheet(shown, 12)


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--captions", type=int, default=384, toy=8)
    options.add("--genus", type=int, default=96, toy=12, help="images of each hidden genus")
    options.add("--trained", type=int, default=20_000, toy=50, help="training pictures to compare")
    options.add("--steps", type=int, default=50, toy=2)
    options.add_argument("--artwork", type=Path, default=Path("runs/sprites/artwork"))
    arguments = options.parse(argv)
    n, steps = arguments.captions, arguments.steps
    artwork, model = load_artwork(arguments.artwork), chainrule.load("sprites")
    judges = load_judges(SPRITES.folder)
    mixed = [sample_scene(seed) for seed in range(n)]
    singles = [sample_scene(seed, single=True, held_out=True) for seed in range(n)]
    unseen = [sample_scene(seed, held_out=True) for seed in range(8 * n)]
    unseen = [
        scene
        for scene in unseen
        if scene.held_out and not {thing.kind for thing in scene.things} & HELD_OUT_KINDS
    ][: n // 2]
    rows = measure_renders(model, judges, singles, mixed, artwork)
    drawn = draw_captions(model, [scene.caption for scene in mixed], steps)
    rows += judge_captions(judges, mixed, drawn, "captions")
    composed = draw_captions(model, [scene.caption for scene in unseen], steps)
    rows += judge_captions(judges, unseen, composed, "held-out combinations")
    genera = {
        genus: draw_captions(model, [name_genus(genus, i) for i in range(arguments.genus)], steps)
        for genus in GENERA
    }
    nearest = compare_with_training(
        judges, drawn, render_scenes(mixed, artwork), artwork, arguments.trained
    )
    publish_picture("sprites.png", partial(draw_sheet, genera), dry=arguments.dry)
    publish_picture(
        "sprites-captions.png",
        lambda: contact_sheet([to_pil(image) for image in drawn[:48]], 12),
        dry=arguments.dry,
    )
    text = [
        "## The world of sprites",
        f"`python benchmarks/sprites_quality.py --captions {n} --genus {arguments.genus}` on "
        f"{machine()}; {n} scenes with seeds from 0, which training never drew, single things of "
        f"all kinds for judges and guide; noise seeds from 0; {steps} DDIM steps; 95 % intervals.",
        table(["measure", "value", "wanted"], rows),
        f"What the judge sees in {arguments.genus} generations of each genus (held-out species "
        "were never shown):",
        tabulate_genera(judges, genera),
        f"The nearest of {arguments.trained} training pictures:",
        nearest,
    ]
    publish("sprites-quality", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
