"""Methods that are DOODL's loop with other settings: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Method, Needs, Result, Situation, State, Task
from chainrule.methods.doodl import DOODL, DOODLState
from chainrule.optimise import require_whole


class NoiseOptimisation(Method):
    """A method that is DOODL's loop with other settings."""

    needs = Needs.NOISE | Needs.LOSS
    state: ClassVar[type[State]] = DOODLState
    judges_last = True
    iterations: int = Field(default=50, ge=0, description="How often the noise is improved.")

    @property
    @abstractmethod
    def loop(self) -> DOODL:
        """The optimisation that this is."""

    def prepare(self, task: Task) -> Task:
        require_whole(self.loop.optimiser)
        prepared: Task = super().prepare(task)
        return prepared

    def count_iterations(self, task: Any) -> int:
        return self.iterations + 1

    def term_names(self, task: Task) -> tuple[str, ...]:
        return self.loop.term_names(task)

    @classmethod
    def preset(cls, situation: Situation) -> dict[str, Any]:
        return {}

    def probe(self, steps: int) -> NoiseOptimisation:
        return self.model_copy(update={"steps": steps, "iterations": 1})

    def run(
        self, task: Task, state: DOODLState | None = None, on_step: OnStep | None = None
    ) -> Iterator[DOODLState]:
        return self.loop.run(task, state, on_step)

    def result(self, task: Task, state: DOODLState) -> Result:
        return self.loop.result(task, state)

    def __call__(self, task: Any, on_step: OnStep | None = None) -> Result:
        result: Result = super().__call__(task, on_step)
        return result
