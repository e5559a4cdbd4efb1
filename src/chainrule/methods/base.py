"""What a method is, what it is given, and what it gives back.

A method is one object: frozen settings that can be written down, called on a task.

    result = SDEdit(strength=0.6)(task)

What happens inside is an iterator of states, tensors in and tensors out, so that whoever executes
a run can save each one, stop after any, and go on from it as if nothing had been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Flag, auto
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor, nn

from chainrule.brief import Brief
from chainrule.diffusion.arguments import resolve_gradient
from chainrule.diffusion.batch import select
from chainrule.diffusion.constraints import Constraint
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient import Backprop, Gradient
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.guidance.base import Energy
from chainrule.diffusion.solvers import edict
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.registry import SOLVERS
from chainrule.diffusion.time_grids import GRIDS, last_steps
from chainrule.errors import UserError
from chainrule.images import on_white, put_back, resize, restore_alpha, restore_proportions
from chainrule.images.checking import require_images, require_mask
from chainrule.losses.base import Loss, as_loss
from chainrule.memory.plan import Plan
from chainrule.methods.fitting import not_its_own, require_layout
from chainrule.models.base import Model
from chainrule.noise import Noise, as_seeds
from chainrule.specs import Spec, suggest

PLAIN = Plan()
BACKPROP = Backprop()


class Needs(Flag):
    """What a method cannot do without."""

    NOTHING = 0
    NOISE = auto()
    """It starts at noise: a photo would be ignored, so it is refused."""
    PROMPT = auto()
    PROMPTS = auto()
    """It draws each of several prompts with each of the seeds."""
    PHOTO = auto()
    SOURCE = auto()
    """What the photo shows, in words."""
    MASK = auto()
    LOSS = auto()
    PICTURES = auto()
    """Pictures to learn from."""


# --- what it is given ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Photo(Brief):
    """Pictures to be edited, one for each seed.

    Args:
        images: (B, 3, H, W) in [0, 1], of sides that the model can make (`Codec.multiple`).
        denoiser: What they are inverted under: told what they show, or nothing at all.
        size: The (height, width) of the original, whose proportions a result should have.
        mask: (B, 1, H, W) in [0, 1], 1 where they may change; None: everywhere.
        exact: Whether the photo's own pixels are put back outside the mask at the end.
        x_T: The noise (B, C, h, w) of pictures that the model itself drew by DDIM.
        prompts: What they show: a prompt for all, or one for each; empty: nothing was said.
        full: The original at its own size, (3, *size) in [0, 1], or (4, *size) with its alpha
            (`chainrule.images.read_picture`); or one for each, (B, 3 or 4, *size).
        full_mask: The mask at that size, (1, 1, *size) or (B, 1, *size); None: `mask`, enlarged.
    """

    images: Tensor
    denoiser: Denoiser
    size: tuple[int, int]
    mask: Tensor | None = None
    exact: bool = False
    x_T: Tensor | None = None
    prompts: tuple[str, ...] = ()
    full: Tensor | None = None
    full_mask: Tensor | None = None

    def __post_init__(self) -> None:
        require_images(self.images)
        count, _, *sides = self.images.shape
        if self.mask is not None:
            require_mask(self.mask, [(count, 1, *sides)])
            object.__setattr__(self, "mask", self.mask.to(self.images.dtype))  # of a bool
        size = tuple(self.size)
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise UserError(f"the photos' size is {self.size}", "give a height and a width")
        if self.full is not None:
            shape = tuple(self.full.shape)
            if shape not in [(*lead, c, *size) for lead in ((), (count,)) for c in (3, 4)]:
                raise UserError(f"the full photo is {shape}", f"make it {(3, *size)}", "photo")
        if self.full_mask is not None:
            require_mask(self.full_mask, [(count, 1, *size), (1, 1, *size)])

    def select(self, rows: Sequence[int]) -> Photo:
        """Some of the photos."""
        return replace(
            self,
            images=select(self.images, rows),
            denoiser=self.denoiser.select(rows),
            mask=select(self.mask, rows),
            x_T=select(self.x_T, rows),
            prompts=select_words(self.prompts, rows),
            full=self._select_own(self.full, rows),
            full_mask=self._select_own(self.full_mask, rows),
        )

    def _select_own(self, value: Tensor | None, rows: Sequence[int]) -> Tensor | None:
        """Some of what each photo has one of; what is common to all stays."""
        common = value is None or value.ndim == 3 or len(value) != len(self.images)
        return value if common else select(value, rows)

    def composite(self, images: Tensor) -> Tensor:
        """`images` (B, 3, H, W), with the photos' own pixels outside the mask if asked for."""
        if self.mask is None or not self.exact:
            return images
        return self.mask * images + (1 - self.mask) * self.images

    def put_back(self, images: Tensor, unchanged: Tensor | None = None) -> Tensor:
        """Edits of the photos, at the photos' own size.

        Outside the mask it is the photo, bit for bit if it is to be exact; otherwise the seam is
        as soft as the model's pixels are large. A photo's transparency is given back.

        Args:
            images: What was made of the photos, (B, 3, H, W) in [0, 1].
            unchanged: What the model makes of them when nothing is changed, (B or 1, 3, H, W): its
                autoencoder moves colours a little, which is no edit. None: the photos.

        Returns:
            (B, 3 or 4, *size) in [0, 1]; without `full`, the images in the photos' proportions.
        """
        if self.full is None:
            return restore_proportions(images, self.size)
        full = self.full if self.full.ndim == 4 else self.full[None]
        white = torch.stack([on_white(each) for each in full])
        before = self.images if unchanged is None else unchanged
        made = put_back(images, before, white, self._mask_in_full(white))
        return made if full.shape[1] == 3 else restore_alpha(made, full)

    def _mask_in_full(self, full: Tensor) -> Tensor | None:
        """The mask at the photos' own size, (B or 1, 1, *size)."""
        if self.mask is None or self.images.shape[2:] == full.shape[2:]:
            return None  # the images are as they should be
        soft = resize(self.mask.to(full), tuple(full.shape[2:]))
        if not self.exact:
            return soft
        hard = soft if self.full_mask is None else self.full_mask.to(full)
        return (hard > 0.5).to(full)


@dataclass(frozen=True, eq=False)
class Task(Brief):
    """One prompt for a batch of seeds, and what the images should be like.

    Args:
        model: The checkpoint.
        denoiser: Its network told the prompt, guided.
        seeds: One for each image; a single one may stand alone.
        loss: What the images should be like, a loss or a function from images to (B,); None for
            methods that need none.
        photo: What the images are made of, where they are not made of noise.
        plan: What is computed at once, kept and rebuilt (`chainrule.memory.arrange` does the rest).
        constraints: What holds between the steps of any way from noise to image.
        prompts: What the denoiser was told: a prompt for all images, or one for each.
        pictures: Pictures to learn from, each (3, h, w) in [0, 1] of any size.
        energy: What guides noisy latents, (x_t, t) -> (B,), for methods that see these.
        gradient: How the chain of a method that draws once is differentiated: a gradient, its class
            or its name.

    Raises:
        UserError: One of them is something else, or there are not as many photos as seeds.
    """

    model: Model
    denoiser: Denoiser
    seeds: tuple[int, ...]
    loss: Loss | None = None
    photo: Photo | None = None
    plan: Plan = PLAIN
    constraints: tuple[Constraint, ...] = ()
    prompts: tuple[str, ...] = ()
    pictures: tuple[Tensor, ...] = ()
    energy: Energy | None = None
    gradient: Gradient = BACKPROP

    def __post_init__(self) -> None:
        _check_type(self.model, Model, "model", "give what chainrule.load() returns")
        _check_type(self.denoiser, Denoiser, "denoiser", 'give one, as model.denoiser("a cat")')
        object.__setattr__(self, "seeds", as_seeds(self.seeds))
        if self.loss is not None:
            object.__setattr__(self, "loss", as_loss(self.loss))
        for name, single in (("prompts", str), ("pictures", Tensor), ("constraints", Constraint)):
            object.__setattr__(self, name, as_tuple(getattr(self, name), single, name))
        if self.photo is not None:
            cure = 'wrap it: Photo(images, model.denoiser(""), size=(H, W))'
            _check_type(self.photo, Photo, "photo", cure)
        object.__setattr__(self, "gradient", resolve_gradient(self.gradient))
        if self.photo is not None and len(self.photo.images) != len(self.seeds):
            raise UserError(
                f"there are {len(self.photo.images)} photos and {len(self.seeds)} seeds",
                "give one seed for each photo",
            )
        if self.photo is not None and self.loss is not None:
            object.__setattr__(self, "loss", self.loss.given(self.photo.images))

    @property
    def noise(self) -> Noise:
        """The random numbers of the batch."""
        return Noise(self.seeds)

    @property
    def x_T(self) -> Tensor:  # noqa: N802 - the field's name
        """The starting noise (B, C, h, w), of the photos' proportions if there are any."""
        codec = self.model.codec
        if self.photo is None:
            return self.model.noise(self.seeds)
        height, width = (side // codec.factor for side in self.photo.images.shape[-2:])
        shape = (codec.latent_shape[0], height, width)
        return self.noise.normal(0, shape).to(self.model.device)

    @property
    def judges(self) -> tuple[nn.Module, ...]:
        """The networks that judge the images, or guide the latents."""
        return (*getattr(self.loss, "networks", ()), *getattr(self.energy, "networks", ()))

    def select(self, rows: Sequence[int]) -> Task:
        """The same for some of the images: loss, photo and constraints are theirs."""
        return replace(
            self,
            denoiser=self.denoiser.select(rows),
            seeds=tuple(self.seeds[row] for row in rows),
            loss=select(self.loss, rows),
            photo=select(self.photo, rows),
            constraints=select(self.constraints, rows),
            prompts=select_words(self.prompts, rows),
            energy=select(self.energy, rows),
        )

    def split(self, size: int | None = None) -> list[tuple[list[int], Task]]:
        """The images in groups of `size` (None: all in one): their numbers, and their task."""
        rows = list(range(len(self.seeds)))
        if size is None or size >= len(rows):
            return [(rows, self)]
        groups = [rows[start : start + size] for start in rows[::size]]
        return [(group, self.select(group)) for group in groups]

    def decode(self, latents: Tensor) -> Tensor:
        """The images of `latents`; the photos' own pixels where these are kept exactly."""
        images = self.model.decode(latents)
        return images if self.photo is None else self.photo.composite(images)

    def under(self, plan: Plan) -> Task:
        """This task with another plan. Networks are not touched (`chainrule.memory.arrange`)."""
        return replace(self, plan=plan)

    def require_loss(self) -> Loss:
        """The loss. Raises UserError if there is none."""
        if self.loss is None:
            raise UserError(
                "this method needs a loss", "name one, for example classifier=heart", "loss"
            )
        return self.loss

    def require_photo(self) -> Photo:
        """The photos. Raises UserError if there are none."""
        if self.photo is None:
            raise UserError("this method edits a picture", "name one", "photo")
        return self.photo

    @property
    def has_words(self) -> bool:
        """Whether there is a prompt that says something."""
        return any(prompt.strip() for prompt in self.prompts)


def as_tuple(value: Any, kind: Any, name: str) -> tuple[Any, ...]:
    """Several things of one kind; a single one may stand alone.

    Args:
        value: What was given.
        kind: The class of one of them.
        name: What they are called.

    Raises:
        UserError: It is something else.
    """
    several = (value,) if isinstance(value, kind) else value
    if not isinstance(several, (tuple, list)):
        raise UserError(f"{value!r:.60} is not a tuple of {name}", f"write ({name}, ...)", name)
    for each in several:
        _check_type(each, kind, name, f"write {name} as a tuple")
    return tuple(several)


def _check_type(value: Any, kind: Any, name: str, cure: str) -> None:
    if not isinstance(value, kind):
        wrong = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise UserError(f"{name} is {wrong}, not {kind.__name__}", cure, name)


def select_words(words: tuple[str, ...], rows: Sequence[int]) -> tuple[str, ...]:
    """Some images' prompts; one that is common to all stays.

    Args:
        words: A prompt for all images, or one for each.
        rows: The images' numbers.
    """
    return words if len(words) < 2 else tuple(words[row] for row in rows)


# --- what it gives back -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class State(Brief):
    """All of a method's work at one moment, as tensors: what a file holds, where it goes on."""

    layout: ClassVar[Mapping[str, str]] = {}
    """The dimensions of each tensor, as in "B C h w" (`require_layout`); those without are free."""

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return 1

    @property
    def numbers(self) -> dict[str, float]:
        """How it goes, by name: means over the images."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        named = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Any:
        """The state that `tensors` made these of. Raises UserError if they are another's."""
        try:
            return cls(**tensors)
        except TypeError as error:
            raise UserError(
                f"this is not a state of {cls.__name__} (it holds {', '.join(sorted(tensors))})",
                "delete it, and the method begins again",
            ) from error


@dataclass(frozen=True, eq=False)
class Drawn(State):
    """What a method that draws once has drawn.

    Args:
        latents: (B, C, h, w), of the finished images.
        x_T: (B, C, h, w), the noise that they started at.
        attention: (B, K, h', w'), how much each of K tokens is looked at, and where.
        losses: (B,), of the finished images, where the method had to judge them already.
    """

    latents: Tensor
    x_T: Tensor
    attention: Tensor | None = None
    losses: Tensor | None = None
    layout: ClassVar[Mapping[str, str]] = {
        "latents": "B C h w",
        "x_T": "B C h w",
        "attention": "B K u v",
        "losses": "B",
    }


@dataclass(frozen=True, eq=False)
class Result(Brief):
    """Images, and what is known of them.

    Args:
        images: (B, 3, H, W) in [0, 1].
        latents: (B, C, h, w).
        x_T: (B, C, h, w), the noise that they started at.
        losses: (B,), of whole images.
        terms: (k, n, B), what the optimised loss was the sum of, at each iteration.
        attention: (B, K, h', w'), how much each of K tokens is looked at, and where.
        numbers: What else was found, by name, each (B,).
    """

    images: Tensor
    latents: Tensor
    x_T: Tensor
    losses: Tensor | None = None
    terms: Tensor | None = None
    attention: Tensor | None = None
    numbers: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def history(self) -> Tensor | None:
        """The optimised loss of each image at each iteration, (k, B)."""
        return None if self.terms is None else self.terms.sum(dim=1)


@dataclass(frozen=True, eq=False)
class Sheet(Brief):
    """What a method that trains or audits has to show.

    Args:
        columns: (N, 3, H, W) in [0, 1] by name: a row for each of the N.
        rows: The rows' names.
        captions: What stands under each image, by column.
        title: What it is.
        numbers: What was found, in numbers, for the report.
        records: A row for each image of the report's table, if there is one.
    """

    columns: Mapping[str, Tensor]
    rows: Sequence[str]
    captions: Mapping[str, Sequence[str]]
    title: str
    numbers: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]] = ()


Writer = Callable[[Path], None]
"""Writes one file."""


# --- what it is ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """What a preset depends on.

    Args:
        name: The preset: "faithful" (the paper's settings), "tuned" or "quick".
        loss: The kind of the first loss.
        photo: Whether a photo is edited.
        said: What was typed for the method's settings, as text.
        noun: The model's word for whatever it draws; empty: none is known.
    """

    name: str = "faithful"
    loss: str = "classifier"
    photo: bool = False
    said: Mapping[str, str | None] = field(default_factory=dict)
    noun: str = ""

    @property
    def low_rank(self) -> bool:
        """Whether a LoRA is tuned, and not the weights themselves."""
        return self.said.get("rank") not in (None, "none")


PRESETS = ("faithful", "tuned", "quick")
TUNED_STEPS, TUNED_MIX = 20, 0.99
"""What the bundled world samples in, and EDICT's p for photos there: with the paper's 0.93 the pair
of an inversion comes apart."""


SEARCH = "search of draws"
"""The part of a method in which the best of several draws of the noise is found."""


class Stage(NamedTuple):
    """Where a method is, for people.

    Args:
        done: How much of this part of it is done.
        total: How much there is; None if that is not known.
        part: What is counted: "iteration", or `SEARCH`.
    """

    done: int
    total: int | None
    part: str = "iteration"


class Method(Spec, ABC):
    """Settings by name, and what is done with them. The docstring is what users read."""

    kind: str
    needs: ClassVar[Needs] = Needs.NOTHING
    state: ClassVar[type[State]] = Drawn
    judges_last: ClassVar[bool] = False
    """Whether its last iteration is not asked for: it only judges what the one before left."""
    trains: ClassVar[bool] = False
    """Whether it trains something, so that pictures on the way say how it goes."""
    differentiates: ClassVar[bool] = True
    """Whether its iterations, if it has some, follow a gradient: then graphs can be kept."""
    with_photo: ClassVar[tuple[str, ...]] = ()
    """The settings that have a meaning only where a photo is edited."""
    from_noise: ClassVar[tuple[str, ...]] = ()
    """The settings that have a meaning only where no photo is edited."""
    to_change_more: ClassVar[str] = "name a prompt that differs more"
    """What to do if an edit is like its photo; empty: that is as it should be."""

    @abstractmethod
    def run(self, task: Any, state: Any = None, on_step: OnStep | None = None) -> Iterator[State]:
        """The states from `state` on, each after one iteration; a method that draws once has one.

        Args:
            task: What `prepare` made.
            state: Where to go on; None: at the beginning.
            on_step: Told, after each step of a chain, how many are done and how many there are.
        """

    @abstractmethod
    def result(self, task: Any, state: Any) -> Any:
        """What there is at a state: a Result, or the Sheet of a method that trains or audits.

        Args:
            task: What `prepare` made.
            state: Any state of `run`.
        """

    def prepare(self, task: Task) -> Any:
        """What `run` takes, made of a task. Raises UserError for what this method lacks."""
        require(self, task)
        return task

    def require_own(self, task: Any, state: Any) -> None:
        """Raise UserError for a state, from a file, that is none of this method and task.

        Args:
            task: What `prepare` made.
            state: What was read.
        """
        sizes = {}
        if isinstance(task, Task):
            sizes = dict(zip("BChw", task.x_T.shape, strict=True))
            sizes |= {} if task.loss is None else {"n": len(self.term_names(task))}
        require_layout(state.tensors(), state.layout, sizes)
        most = self.count_iterations(task)
        if most is not None and state.iteration > most:
            raise not_its_own(f"it has {state.iteration} iterations of {most}")

    def term_names(self, task: Task) -> tuple[str, ...]:
        """What the terms of its states and results are called, whose curves a report draws.

        Args:
            task: What has the loss.
        """
        return task.require_loss().names

    def artefacts(self, task: Any, state: Any) -> Mapping[str, Writer]:
        """The files that a method that trains makes, by name.

        Args:
            task: What `prepare` made.
            state: Any state of `run`.
        """
        return {}

    def count_iterations(self, task: Any) -> int | None:
        """How many iterations there are for a task; None of a method that draws once."""
        return None

    def stage(self, task: Any, iteration: int) -> Stage:
        """Where a method is after so many iterations, counted as its settings count them.

        Args:
            task: What `prepare` made.
            iteration: How many are done (`State.iteration`).
        """
        count = self.count_iterations(task)
        if count is None:
            return Stage(iteration, None)
        asked = count - self.judges_last
        return Stage(min(iteration, asked), asked)

    @property
    def truncated(self) -> int | None:
        """In how many of its last steps the network is differentiated; None: in all of them."""
        return None

    def probe(self, steps: int) -> Method:
        """This method in a chain of so many steps, and as short as it can be: to measure it.

        All of these steps are differentiated, if some are.
        """
        whole = {"strength": 1.0} if "strength" in type(self).model_fields else {}
        return self.model_copy(update={"steps": steps, **whole})

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """The settings of a preset that differ from the defaults."""
        tuned = {"steps": TUNED_STEPS, "mix": TUNED_MIX} if situation.name == "tuned" else {}
        idle = cls.from_noise if situation.photo else cls.with_photo
        known = [name for name in cls.model_fields if name not in idle]
        return {name: value for name, value in tuned.items() if name in known}

    def __call__(self, task: Any, on_step: OnStep | None = None) -> Any:
        """What this method makes of a task, from the beginning to the end."""
        task, state = self.prepare(task), None
        for state in self.run(task, on_step=on_step):  # noqa: B007 - the last one is wanted
            pass
        if state is None:
            raise UserError(f"{self.kind} has nothing to do", "ask for one iteration or more")
        return self.result(task, state)


def require(method: Method, task: Task) -> None:
    """Raise UserError for the first thing that a method needs and a task has not.

    Args:
        method: The method.
        task: What it is to be done with.
    """
    needs, kind, photo = type(method).needs, method.kind, task.photo
    if Needs.NOISE in needs and photo is not None:
        raise UserError(f"{kind} draws from noise", "choose a method that edits photos", "method")
    if Needs.PHOTO in needs and photo is None:
        raise UserError(f"{kind} edits a photo", "name one", "photo")
    settings = dict(method)
    strength, steps = (settings.get(name) for name in ("strength", "steps"))
    if photo is not None and strength and steps:
        last_steps(torch.arange(steps + 1), strength)  # less than one step is refused now
    if Needs.PROMPT in needs and not task.has_words:
        raise UserError(f"{kind} needs to know what the images should show", "say it", "prompt")
    if Needs.SOURCE in needs and not (photo and any(each.strip() for each in photo.prompts)):
        raise UserError(f"{kind} needs to know what the photo shows", "say it", "source")
    if Needs.MASK in needs and (photo is None or photo.mask is None):
        raise UserError(
            f"{kind} fills a part of the picture", "say which with a mask, white = change", "mask"
        )
    if Needs.LOSS in needs and task.loss is None:
        raise UserError(f"{kind} needs a loss", "name one, for example classifier=heart", "loss")
    if Needs.PICTURES in needs and not task.pictures:
        raise UserError(f"{kind} learns from pictures", "name some", "pictures")
    if photo is None:
        require_heeded(method, method.with_photo, "without a photo")
    else:
        require_heeded(method, method.from_noise, "where a photo is edited")


def require_heeded(method: Method, names: Iterable[str], where: str) -> None:
    """Raise UserError for the first of some settings that was changed, where none has an effect.

    Args:
        method: The method.
        names: The settings.
        where: Where they have no effect, in words.
    """
    for name in names:
        if getattr(method, name) != type(method).model_fields[name].default:
            raise UserError(f"{name} has no effect on {method.kind} {where}", "omit it", name)


# --- settings that several methods have, each typed once ----------------------------------------

Steps = Annotated[int, Field(ge=1, description="Sampling steps.")]
Strength = Annotated[
    float, Field(gt=0, le=1, description="How much of the chain is redone: more changes more.")
]
Eta = Annotated[
    float, Field(ge=0, le=1, description="The noise between steps: 0 is DDIM, 1 is DDPM.")
]
Mix = Annotated[
    float,
    Field(
        gt=0, le=1, description="EDICT's p: near 1, the pair of an inverted photo stays together."
    ),
]
Turns = Annotated[
    edict.Turns,
    Field(
        description="Who of EDICT's pair goes first: code (as the papers' public code has it), "
        "printed (as their equations have it), alternating (both rules change at each step)."
    ),
]
Coupling = Annotated[
    edict.Coupling,
    Field(
        description="What EDICT's pair exchanges: output (the network's own) or eps (the noise); "
        "the same for networks that predict noise."
    ),
]
GuidanceScale = Annotated[float, Field(description="Classifier-free guidance; 1 is none.")]


def _name_solver(value: Any) -> Any:
    """The name of a solver that stands for one: an object or a class with its usual settings.

    Settings are written down, as text: an object of anybody's own could not be.

    Raises:
        UserError: It is a solver that has no name.
    """
    solver = isinstance(value, Solver) or (isinstance(value, type) and issubclass(value, Solver))
    if not solver:
        return value
    for name, make in SOLVERS.known.items():
        if value is make:
            return name
        own = None if isinstance(value, type) else make()
        if own is not None and type(own) is type(value) and own == value:
            return name
    shown = value.__name__ if isinstance(value, type) else type(value).__name__
    known = ", ".join(SOLVERS.known)
    raise UserError(
        f"a method is written down, and this {shown} has no name there",
        f"name a solver ({known}), register yours (the entry points chainrule.solvers), or give "
        "the object to chainrule.sample(..., solver=...)",
        "solver",
    )


SolverName = Annotated[
    str,
    BeforeValidator(_name_solver),
    AfterValidator(lambda name: _known(name, SOLVERS.known, "solver")),
    Field(description=f"The solver: {', '.join(SOLVERS.own)}."),
]
GRIDS_KNOWN = f"The times to visit: {', '.join(GRIDS)}; the checkpoint's own."
GridName = Annotated[
    str,
    AfterValidator(lambda name: _known(name, GRIDS, "time grid")),
    Field(description=GRIDS_KNOWN),
]


def _known(name: str, names: Mapping[str, Any], what: str) -> str:
    if name not in names:
        raise UserError(f"there is no {what} {name!r}", suggest(name, names))
    return name
