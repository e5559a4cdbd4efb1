"""What a job is: a training or an audit with a folder, which can be stopped and resumed like a run.

settings.json       what was asked, whole: enough to do it again
state.safetensors   all of it after the last iteration
grid.png            what there is so far; and what the job is for
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chainrule.errors import UserError
from chainrule.models import BUNDLED, Model, load
from chainrule.pictures import fitted, load_picture
from chainrule.run import atomic, check_folder, first_line, make_folder
from chainrule.settings import DTYPES

OnIteration = Callable[[int, int, str], None]
"""Told, after each iteration, how many are done, how many there are, and how it goes."""


class Moment(NamedTuple):
    """A job after an iteration: all of it as tensors, how many iterations are done, and how it goes in a few words."""

    tensors: Mapping[str, Tensor]
    done: int
    note: str


class Work(ABC):
    """A job with everything loaded."""

    device: str
    """Where its tensors are."""
    total: int
    """How many iterations it has."""

    @abstractmethod
    def moments(self, tensors: Mapping[str, Tensor] | None) -> Iterator[Moment]:
        """It after each iteration, from the moment with these `tensors` (None: the beginning)."""

    @abstractmethod
    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> Path:
        """Write what there is at that moment; returns the picture's path."""


class Job(BaseModel, ABC):
    """The settings of a job, by `kind`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    model: str = BUNDLED
    size: tuple[int, int] | None = None
    variant: str | None = None
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device: str = "cpu"

    @abstractmethod
    def work(self) -> Work:
        """Load all that it needs. Raises UserError for what is wrong, before anything is done."""

    def load(self) -> Model:
        """The model that it is about."""
        return load(self.model, dtype=DTYPES[self.dtype], device=self.device, variant=self.variant, size=self.size)

    def fitted(self, path: Path, model: Model) -> Tensor:
        """The picture in a file at the size of the model's images, (3, H, W)."""
        _, height, width = model.codec.latent_shape
        factor = model.codec.factor
        return fitted(load_picture(path), height * width * factor**2, model.codec.multiple).to(model.device)


def prepared(job: Job, folder: Path, *, resume: bool = False) -> Work:
    """The job's work, and its folder with the settings. A mistake in them leaves no folder behind."""
    if resume:
        return job.work()
    check_folder(folder)
    work = job.work()
    make_folder(folder, job)
    return work


def execute(work: Work, folder: Path, on_iteration: OnIteration) -> Path:
    """Do what is not yet done in a folder; returns the picture's path.

    If the work is interrupted, what there is so far is written before the exception goes on.
    """
    path = folder / "state.safetensors"
    tensors: Mapping[str, Tensor] | None = _state(path, work.device)
    on_iteration(0, work.total, "")
    try:
        for moment in work.moments(tensors):
            tensors = moment.tensors
            with atomic(path) as partial:
                save_file({name: value.contiguous().cpu().clone() for name, value in tensors.items()}, partial)
            on_iteration(moment.done, work.total, moment.note)
    except (KeyboardInterrupt, UserError):
        if tensors is not None:
            work.write(folder, tensors)
        raise
    if tensors is None:
        raise UserError(f"there was nothing to do in {work.total} iterations: ask for one or more")
    return work.write(folder, tensors)


def _state(path: Path, device: str) -> dict[str, Tensor] | None:
    """The tensors of a state file; None if there is none. Raises UserError if it is damaged."""
    try:
        return load_file(path, device=device) if path.exists() else None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and `chainrule resume` starts again") from error


CARRIED = "chainrule job"


def save_grid(sheet: Image.Image, folder: Path, job: Job) -> Path:
    """Write `grid.png`, which carries the job's settings; returns its path."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(CARRIED, job.model_dump_json())
    with atomic(folder / "grid.png") as path:
        sheet.save(path, format="PNG", pnginfo=info)
    return folder / "grid.png"


def shortened(text: str, letters: int = 27) -> str:
    """`text` as a caption.

    >>> shortened("a red shape on a white background")
    'a red shape on a white b...'
    """
    return text if len(text) <= letters else f"{text[: letters - 3]}..."


def parsed(kind: type[Job], settings: dict[str, Any]) -> Job:
    """The job with these settings; raises UserError for one that is out of range."""
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise UserError(first_line(error)) from error
