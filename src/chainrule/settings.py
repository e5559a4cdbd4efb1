"""What a run is asked for, as settings that can be written down: enough to do it again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field

from chainrule.diffusion.constraints.low_pass import low_pass
from chainrule.diffusion.control.bottleneck import deepest
from chainrule.diffusion.denoiser import Denoiser
from chainrule.errors import UserError
from chainrule.losses import (
    Aesthetic,
    Brightness,
    Classifier,
    ClipImage,
    ClipText,
    ColourHistogram,
    Loss,
    Perceptual,
    Style,
    Symmetry,
    Target,
    load_backbone,
    load_classifier,
    load_clip,
    load_rater,
    load_vgg,
)
from chainrule.losses.base import added
from chainrule.losses.classifier import binary_cross_entropy, cross_entropy
from chainrule.losses.perceptual import Features
from chainrule.methods import ADJOINT_DPM, Attention, Doodl, Photo, Task, masked, plain, side_by_side
from chainrule.methods.diffedit import difference
from chainrule.models import BUNDLED, Model, load
from chainrule.pictures import coloured, fitted, load_mask, load_picture, resized
from chainrule.diffusion.schedule import Grid, karras, log_snr, quadratic, uniform
from chainrule.diffusion.solvers import DDIM, RK4, AdamsBashforth, Adaptive, DPMSolver, Heun, Solver

Method = Literal[
    "plain",
    "one-step",
    "noise-aware",
    "best-of",
    "doodl",
    "adjoint-dpm",
    "reconstruction",
    "edict",
    "ddim",
    "sdedit",
    "ilvr",
    "repaint",
    "semantic",
    "blended",
    "diffedit",
    "prompt-to-prompt",
    "asyrp",
]
SOLVERS: dict[str, Solver] = {
    "ddim": DDIM(),
    "heun": Heun(),
    "rk4": RK4(),
    "ab2": AdamsBashforth(2),
    "ab4": AdamsBashforth(4),
    "dpm++": DPMSolver(),
    "adaptive": Adaptive(),
}
GRIDS: dict[str, Grid] = {"uniform": uniform, "quadratic": quadratic, "log-snr": log_snr, "karras": karras}
BY_WORDS = frozenset({"edict", "ddim", "diffedit", "prompt-to-prompt", "asyrp"})
"""Methods that need to know what the photo shows and what it should show."""
IN_A_MASK = frozenset({"repaint", "blended"})
TAKES: dict[str, frozenset[str]] = {
    "strength": frozenset(
        {"noise-aware", "one-step", "reconstruction", "edict", "ddim", "sdedit", "semantic", "blended", "diffedit"}
    ),
    "repeats": frozenset({"sdedit", "repaint"}),
    "factor": frozenset({"ilvr"}),
    "scale": frozenset({"semantic", "blended", "asyrp"}),
    "eta": frozenset({"noise-aware", "sdedit", "ilvr", "repaint", "semantic", "blended"}),
    **dict.fromkeys(("cross", "own", "weights", "blend"), frozenset({"prompt-to-prompt"})),
}
"""Which methods heed a setting of an edit."""
NOISE_AWARE = {"noise-aware": "a classifier", "semantic": "an image encoder"}
"""Methods that see the noisy latent itself, and by what."""
FROM_NOISE = frozenset({"plain", "one-step", "noise-aware", "best-of", "doodl", "adjoint-dpm", "semantic"})
FOR_PHOTOS = frozenset(get_args(Method)) - {"plain", "best-of", "adjoint-dpm"}
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wish(_Frozen, ABC):
    """A loss by name: `weight` times that of its `kind`."""

    kind: str
    weight: float = 1.0

    @property
    def label(self) -> str:
        """What is asked for, in short."""
        target = getattr(self, "target", None)
        names = [
            Path(t).name if isinstance(t, Path) else f"{t}" for t in (target if isinstance(target, tuple) else [target])
        ]
        text = self.kind if target is None else f"{self.kind}={','.join(names)}"
        return text if self.weight == 1.0 else f"{self.weight:g}*{text}"

    @abstractmethod
    def loss(self, device: str) -> Loss:
        """The loss itself, without its weight. Raises UserError for a file or a network that is not there."""

    def build(self, device: str) -> Loss:
        """The weighted loss."""
        return self.weight * self.loss(device)


class ClassifierWish(Wish):
    """That a classifier sees the class `target`; `model` None is the bundled classifier."""

    kind: Literal["classifier"]
    target: str
    model: str | None = None
    objective: Literal["bce", "ce"] = "bce"

    def loss(self, device: str) -> Loss:
        objective = binary_cross_entropy if self.objective == "bce" else cross_entropy
        return Classifier(load_classifier(self.model, device), self.target, objective)


Clips = dict[str, float]
"""CLIPs by folder or hub name ("" is the bundled one), each with its weight."""


class TextWish(Wish):
    """That the image is like the text `target`, to one CLIP or several with weights."""

    kind: Literal["text"]
    target: str
    clips: Clips = Field(default={"": 1.0}, min_length=1)

    def loss(self, device: str) -> Loss:
        return added([w * ClipText(load_clip(name or None, device), self.target) for name, w in self.clips.items()])


class ImageWish(Wish):
    """That the image shows what the pictures `target` (files) show, to one CLIP or several with weights."""

    kind: Literal["image"]
    target: tuple[Path, ...]
    clips: Clips = Field(default={"": 1.0}, min_length=1)

    def loss(self, device: str) -> Loss:
        pictures = [load_picture(path) for path in self.target]
        return added([w * ClipImage(load_clip(name or None, device), pictures) for name, w in self.clips.items()])


class AestheticWish(Wish):
    """That people would rate the image `target`; `head` and `clip` None are the bundled ones."""

    kind: Literal["aesthetic"]
    target: float
    head: str | None = None
    clip: str | None = None

    def loss(self, device: str) -> Loss:
        return Aesthetic(load_rater(self.head, self.clip, device), self.target)


class SymmetryWish(Wish):
    """That the image is its own mirror image."""

    kind: Literal["symmetry"]

    def loss(self, device: str) -> Loss:
        return Symmetry()


class BrightnessWish(Wish):
    """That the image's mean luminance is `target`."""

    kind: Literal["brightness"]
    target: float = Field(ge=0, le=1)

    def loss(self, device: str) -> Loss:
        return Brightness(self.target)


class PictureWish(Wish):
    """That the image has the pixels (`picture`) or the colours (`histogram`) of the picture `target`."""

    kind: Literal["picture", "histogram"]
    target: Path

    def loss(self, device: str) -> Loss:
        picture = load_picture(self.target)
        return Target(picture) if self.kind == "picture" else ColourHistogram(picture)


class FeaturesWish(Wish):
    """That a network sees the content (`perceptual`) or the style of the picture `target`.

    `network` is a VGG's state dict (a file) or a `transformers` vision network; None is the bundled classifier.
    """

    kind: Literal["perceptual", "style"]
    target: Path
    network: str | None = None

    def loss(self, device: str) -> Loss:
        weights = self.network and Path(self.network).expanduser()
        features: Features = (
            load_vgg(weights, device) if weights and weights.is_file() else load_backbone(self.network, device)
        )
        picture = load_picture(self.target).to(device)
        return Perceptual(features, picture) if self.kind == "perceptual" else Style(features, picture)


AnyWish = Annotated[
    ClassifierWish | TextWish | ImageWish | AestheticWish | SymmetryWish | BrightnessWish | PictureWish | FeaturesWish,
    Field(discriminator="kind"),
]


class Editing(_Frozen):
    """What the editing methods are asked for besides the prompts; None is a method's own default.

    `repeats` is SDEdit's and RePaint's, `factor` ILVR's N, `scale` that of whatever pushes or moves (semantic guidance,
    Blended Diffusion, Asyrp), `eta` the noise between steps; the rest is `chainrule.methods.Attention`.
    """

    repeats: int | None = Field(default=None, ge=1)
    factor: int | None = Field(default=None, ge=1)
    scale: float | None = None
    eta: float | None = Field(default=None, ge=0, le=1)
    cross: float | None = Field(default=None, ge=0, le=1)
    own: float | None = Field(default=None, ge=0, le=1)
    weights: dict[str, float] = Field(default_factory=dict)
    blend: tuple[str, ...] = ()

    @property
    def attention(self) -> Attention:
        """What Prompt-to-Prompt takes of the source's attention."""
        return Attention(**self.named("cross", "own", "weights", "blend"))

    def named(self, *names: str) -> dict[str, Any]:
        """Of these settings, those that were asked for."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Settings(_Frozen):
    """All that decides what a run makes.

    `size` is the images' (height, width) in pixels (None: the model's); `solver` and `grid` (None: the checkpoint's
    times) are those of plain images from noise. With a `photo`, the images are made of it, invert_photos under `source`
    (what it shows; empty: no prompt); with a `source` alone, of the model's own pictures of that. `strength` is how
    much of the chain is redone (None: as the method's paper does), `photo_scale` the classifier-free guidance where
    none is named, and DOODL's solver is everyone's. `mask` says where a picture may change: a file (white), `text=...`
    (where DiffEdit finds that it differs) or `colour=...`; `exact` keeps its pixels elsewhere. `embeddings` are words
    that the model is taught, `loras` what is added to its weights (files). `memory` is how many bytes the run may take
    (None: no limit is known, and graphs are rebuilt).
    """

    prompt: str
    negative_prompt: str = ""
    model: str = "scenes"
    guidance_scale: float | None = None
    photo_scale: float = 3.0
    seeds: tuple[int, ...] = (0,)
    steps: int = Field(default=50, ge=1)
    solver: Literal["ddim", "heun", "rk4", "ab2", "ab4", "dpm++", "adaptive"] = "ddim"
    grid: Literal["uniform", "quadratic", "log-snr", "karras"] | None = None
    methods: tuple[Method, ...] = ("plain",)
    wishes: tuple[AnyWish, ...] = ()
    photo: Path | None = None
    source: str = ""
    mask: str | None = None
    exact: bool = False
    strength: float | None = Field(default=None, ge=0, le=1)
    editing: Editing = Editing()
    one_step_scale: float = 5.0
    noise_aware_scale: float = 300.0
    best_of: int = Field(default=8, ge=1)
    doodl: Doodl = Doodl()
    adjoint_dpm: Doodl = ADJOINT_DPM
    embeddings: tuple[Path, ...] = ()
    loras: tuple[Path, ...] = ()
    size: tuple[int, int] | None = None
    variant: str | None = None
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    memory: int | None = Field(default=None, gt=0)

    def task(self) -> Task:
        """Load the model, the losses and the photo."""
        self._check()
        model = load(
            self.model,
            dtype=DTYPES[self.dtype],
            device=self.device,
            variant=self.variant,
            size=self.size,
            embeddings=self.embeddings,
            loras=self.loras,
        )
        if not self.edits and not self.prompt.strip() and model.text.example is not None:
            raise UserError(f'the prompt is empty: say what to draw, for example "{model.text.example}"')
        for steps in {self.steps, *(settings.steps for settings in self.optimised.values())}:
            grid = GRIDS[self.grid] if self.grid else None
            _ = grid(model.schedule, steps) if grid else model.schedule.times(steps)  # an impossible number is said now
        loss = added([wish.build(self.device) for wish in self.wishes]) if self.wishes else None
        task = Task(model, self._denoiser(model, self.prompt), self.seeds, loss)
        if not self.edits:
            return task
        photo = self._drawn(model) if self.photo is None else self._photo(self.photo, model)
        task = replace(task, photo=photo)
        # what a network, or a prompt, has not, or a picture is too small for, is said now
        if "prompt-to-prompt" in self.methods:
            _ = side_by_side(task, self.source, self.prompt, self.editing.attention, steps=self.steps)
        if "asyrp" in self.methods:
            _ = deepest(task.denoiser)
        if "ilvr" in self.methods and self.editing.factor:
            _ = low_pass(task.x_T, self.editing.factor)
        return task if self.mask is None else masked(replace(task, photo=self._masked(self.mask, task, photo)))

    @property
    def edits(self) -> bool:
        """Whether the images are made of a picture."""
        return self.photo is not None or bool(self.source.strip())

    @property
    def optimised(self) -> dict[Method, Doodl]:
        """The settings of each method that optimises noise."""
        every: dict[Method, Doodl] = {"doodl": self.doodl, "adjoint-dpm": self.adjoint_dpm}
        return {method: settings for method, settings in every.items() if method in self.methods}

    def _check(self) -> None:
        """Raise UserError for what no setting alone is to blame for."""
        if self.solver == "adaptive" and find_spec("torchdiffeq") is None:
            raise UserError("the adaptive solver needs torchdiffeq: pip install 'chainrule[ode]'")
        possible = FOR_PHOTOS if self.edits else FROM_NOISE
        for method in self.methods:
            if method not in possible:
                what = "draws from noise" if self.edits else "edits a photo"
                raise UserError(f"{method} {what}: choose among {', '.join(sorted(possible))}")
            if method in BY_WORDS and not self.prompt.strip():
                raise UserError(f"{method} needs to know what the photo should show: say it with --prompt")
            if method in BY_WORDS - {"edict", "ddim", "diffedit"} and not self.source.strip():
                raise UserError(f"{method} needs to know what the photo shows: say it with --from")
            if method in IN_A_MASK and self.mask is None:
                raise UserError(f"{method} fills a part of the picture: say which with --mask (a file, white = change)")
            if method in ("doodl", "one-step") and not self.wishes:
                raise UserError(f"{method} needs a loss: name one, for example --loss classifier=heart")
        for name, takers in TAKES.items():
            asked = getattr(self.editing, name) if name != "strength" else self.strength if self.edits else None
            if asked not in (None, {}, ()) and not takers & set(self.methods):
                raise UserError(f"none of these methods heeds {name}: {', '.join(sorted(takers))} would")
        if self.strength == 0.0 and self.edits and set(self.methods) & TAKES["strength"] != {"sdedit"}:
            raise UserError("a strength of 0 redoes nothing, which only sdedit can: choose more")
        for seeing, trained in NOISE_AWARE.items():
            if seeing in self.methods and self.model != BUNDLED:
                raise UserError(
                    f"{seeing} guidance needs {trained} that was trained on the model's noisy latents, and the bundled "
                    "model alone has one: leave the method away, or guide by your own in Python"
                )
        if self.exact and self.mask is None:
            raise UserError("what is outside of a mask is kept exactly: name one with --mask")

    def _denoiser(self, model: Model, prompt: str) -> Denoiser:
        """The model told `prompt`; of a photo that nothing is said about, unconditionally."""
        scale = self.guidance_scale
        if self.edits and not prompt.strip():
            scale = 1.0
        elif self.edits and scale is None and model.guidance.negative:
            scale = self.photo_scale
        return model.denoiser(prompt, negative_prompt=self.negative_prompt, guidance_scale=scale)

    def _photo(self, path: Path, model: Model) -> Photo:
        picture, codec = load_picture(path), model.codec
        _, height, width = codec.latent_shape
        image = fitted(picture, height * width * codec.factor**2, codec.multiple).to(model.device)
        images = image.expand(len(self.seeds), *image.shape)
        return Photo(images, self._denoiser(model, self.source), (picture.shape[-2], picture.shape[-1]))

    def _drawn(self, model: Model) -> Photo:
        """The model's own pictures of `source`."""
        task = Task(model, self._denoiser(model, self.source), self.seeds)
        images = plain(task, steps=self.steps).images
        return Photo(images, task.denoiser, (images.shape[-2], images.shape[-1]), x_T=task.x_T)

    def _masked(self, mask: str, task: Task, photo: Photo) -> Photo:
        """The photo with its mask; raises UserError if that is no mask, or leaves nothing free."""
        kind, _, said = mask.partition("=")
        if kind == "text":
            asked = replace(task, denoiser=self._denoiser(task.model, said))
            found = resized(difference(asked, task.model.encode(photo.images)), tuple(photo.images.shape[-2:]))
        elif kind == "colour":
            found = coloured(photo.images, said)
        else:
            found = load_mask(Path(mask), photo.size, tuple(photo.images.shape[-2:])).to(photo.images)
        if not found.flatten(1).any(dim=1).all():
            raise UserError(f"the mask {mask} is empty: nothing of the picture would change")
        return replace(photo, mask=found.expand(len(photo.images), -1, -1, -1), exact=self.exact)
