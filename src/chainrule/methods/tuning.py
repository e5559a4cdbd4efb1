"""What the methods share that train something: a word's embedding, an embedding, weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Method, Situation, State, Writer
from chainrule.methods.training import Training, train
from chainrule.models import trained
from chainrule.models.trained import Part
from chainrule.optimise import Adam, Optimiser

Objective = Callable[[int], Tensor | Iterable[Tensor]]
"""The loss of iteration k, as `training.train` takes it."""

Rank = Annotated[int | None, Field(ge=1, description="Of a LoRA; none: all weights.")]
OwnScale = Annotated[
    float | None,
    Field(description="Guidance of the images that are drawn; the model's own, if not given."),
]


class Learning(Method):
    """A method that trains something, in so many `iterations`.

    What does not change from one iteration to the next, as the latents of pictures, is made once
    (`gather`), and is on disk with the state.
    """

    state: ClassVar[type[State]] = Training
    trains: ClassVar[bool] = True
    bundled_world: ClassVar[Mapping[str, Any]] = {}
    """The settings that differ from the paper's in the bundled worlds."""
    if TYPE_CHECKING:  # each says its own, among its other settings
        iterations: int = 1
        optimiser: Adam | None

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        """The paper's settings, or those of the bundled worlds."""
        return {} if situation.name == "faithful" else dict(cls.bundled_world)

    def prepare(self, task: Any) -> Any:
        prepared = super().prepare(task)
        for value in dict(self).values():
            if isinstance(value, Optimiser):
                value.check()
        return prepared

    @property
    def moved_by(self) -> Adam:
        """How what is learnt moves."""
        return self.optimiser or Adam()

    def count_iterations(self, task: Any) -> int:
        return self.iterations

    def probe(self, steps: int) -> Method:
        return super().probe(steps).model_copy(update={"iterations": 1})

    @abstractmethod
    def begin(self, task: Any, given: Mapping[str, Tensor] | None = None) -> Training:
        """The state before the first iteration.

        Args:
            task: What is learnt.
            given: What was made once; None: it is made now.
        """

    def gather(self, task: Any) -> dict[str, Tensor]:
        """What is made once, before the first iteration, by name: latents of pictures."""
        return {}

    def outline(self, task: Any) -> Mapping[str, Tensor]:
        """Tensors of the shapes of what is made once, by which a state from a file is known."""
        return self.gather(task)

    def require_own(self, task: Any, state: Training) -> None:
        state.require_like(self.begin(task, self.outline(task)), self.count_iterations(task))


class Tuning(Learning):
    """A method that trains weights of the network: all of them, or a LoRA of a `rank`."""

    every: ClassVar[int] = 20
    """After how many iterations there is a state."""
    if TYPE_CHECKING:
        rank: int | None = None

    @property
    def part(self) -> Part:
        """What is tuned."""
        return Part(self.rank, "attention")

    def prepare(self, task: Any) -> Any:
        prepared = super().prepare(task)
        trained.require(task.model, self.part)
        return prepared

    @abstractmethod
    def objective(
        self, task: Any, given: Mapping[str, Tensor], on_step: OnStep | None = None
    ) -> Objective:
        """The loss of each iteration, as `training.train` takes it.

        Args:
            task: What is tuned.
            given: What was made once (`gather`).
            on_step: Told after each step of a chain.
        """

    def count_terms(self, task: Any) -> int:
        """How many terms the loss has."""
        return 1

    def begin(self, task: Any, given: Mapping[str, Tensor] | None = None) -> Training:
        given = self.gather(task) if given is None else given
        with trained.train(task.model, self.part) as weights:
            return Training.begin(weights, self.count_terms(task), self.moved_by, **given)

    def run(
        self, task: Any, state: Training | None = None, on_step: OnStep | None = None
    ) -> Iterator[Training]:
        state, count = self.begin(task) if state is None else state, self.count_iterations(task)
        if not count:
            yield state
        objective = self.objective(task, state.given, on_step)
        with trained.train(task.model, self.part) as weights:
            yield from train(weights, objective, self.moved_by, count, state, every=self.every)

    def artefacts(self, task: Any, state: Training) -> Mapping[str, Writer]:
        """A LoRA as diffusers' `load_lora_weights` reads it, or the folder of a whole pipeline."""
        name = "pipeline" if self.rank is None else "pytorch_lora_weights.safetensors"
        write = partial(trained.save, model=task.model, part=self.part, values=state.values)
        return {name: write}


def outline_latents(task: Any, count: int) -> Tensor:
    """Zeros of the shape of so many pictures' latents, (count, C, h, w).

    Args:
        task: Whose model.
        count: How many.
    """
    return torch.zeros(count, *task.model.codec.latent_shape)
