"""The one way in which anything is done: a spec, a folder, and events on the way.

    for event in execute(spec, Path("runs/heart")):
        print(event)

Every state of every method goes through the same file, so that whatever stops a run (a closed
iterator, Ctrl-C, kill -9), it goes on from there as if nothing had been.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chainrule.errors import UserError, find_reason
from chainrule.memory import arrange
from chainrule.methods.base import Method, Stage, State
from chainrule.methods.chunking import run_within_memory
from chainrule.models import Model
from chainrule.runs._coroutine import Coroutine, Emit, Stopped
from chainrule.runs.estimate import fit_plan
from chainrule.runs.events import (
    Done,
    Event,
    Iteration,
    Loaded,
    MethodBegun,
    PictureReady,
    PlanChosen,
    Step,
    Warned,
)
from chainrule.runs.folder import (
    AGAIN,
    SPEC,
    DamagedStateError,
    Folder,
    Kept,
    StateError,
    delete_partial,
    require_empty,
)
from chainrule.runs.load import load_model, load_task, prepare_methods, warn_of_photo
from chainrule.runs.passes import Passes, count_passes
from chainrule.runs.report import Outcome, Reporter, write_artefacts
from chainrule.runs.spec import RunSpec

PREVIEWS = 4
"""In how many parts previews divide a training, if it has at least two iterations in each."""


def execute(spec: RunSpec, folder: str | Path, model: Model | None = None) -> Iterator[Event]:
    """Do a run, or what is not yet done of it, and tell of it on the way.

    Nothing happens before the first event is asked for, or between two. Closing the iterator stops
    the run; what there is by then, the best so far, is written.

    Args:
        spec: What is asked for.
        folder: Where it is done: a new folder, or the one of this very run.
        model: The model, if it is loaded already.

    Raises:
        UserError: For whatever a user can cure. A mistake in the spec leaves no folder behind.
    """

    def work(emit: Emit[Event]) -> None:
        _Run(spec, Path(folder), model, emit).do()

    return Coroutine(work).iterate()


def resume(folder: str | Path, model: Model | None = None) -> Iterator[Event]:
    """Go on with the run of a folder. It ends as if it had never been stopped.

    Args:
        folder: The run's.
        model: The model, if it is loaded already.
    """
    return execute(Folder.open(folder).written, folder, model)


@dataclass
class _Run:
    """A run under way.

    Args:
        spec: What is asked for.
        path: The folder's.
        model: The model, if it is loaded already.
        emit: Told what happens.
        outcomes: What each method has made so far.
        waiting: Warnings that wait until no mistake is in the way; None: they need not.
        begun: When it began, in seconds since 1970.
    """

    spec: RunSpec
    path: Path
    model: Model | None
    emit: Emit[Event]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    waiting: list[str] | None = field(default_factory=list)
    begun: float = field(default_factory=time.time)

    def do(self) -> None:
        """All of it."""
        with torch.no_grad(), _told_warnings(self._warn):
            folder = self._open()
            if folder is not None:
                folder.require_same_networks()
            spec = self.spec if folder is None else folder.spec
            model, passes = count_passes(self.model or load_model(spec.checkpoint))
            if model.notes:
                self.emit(Loaded(model.notes))
            task = fit_plan(spec, load_task(spec, model))
            if spec.memory is not None:
                self.emit(PlanChosen(str(task.plan)))
            methods = prepare_methods(spec, task)
            self._tell_waiting()
            warn_of_photo(spec, task)
            folder = folder or Folder.create(self.path, spec)
            reporter, refused = Reporter.of(folder, task), None
            try:
                for label, (method, own) in methods.items():
                    work = _Work(folder, label, method, own, passes, self.emit, self._keep)
                    try:
                        work.do(reporter)
                    except StateError as error:  # no reason for the others not to go on
                        refused = refused or error
            except UserError:
                with suppress(UserError):  # what came first is what is told
                    self._finish(reporter)
                raise
            except (Stopped, KeyboardInterrupt):
                self._finish(reporter)
                raise
            if refused is None or self.outcomes:
                picture = self._finish(reporter)
            if refused is not None:
                raise refused
            self.emit(Done(folder.path, picture))

    def _warn(self, message: str) -> None:
        if self.waiting is None:
            self.emit(Warned(message))
        else:
            self.waiting.append(message)

    def _tell_waiting(self) -> None:
        """Tell what was warned of: a mistake would have been told alone."""
        messages, self.waiting = self.waiting or [], None
        for message in messages:
            self.emit(Warned(message))

    def _open(self) -> Folder | None:
        """The folder, if it holds this very run; None if there is to be a new one."""
        if not os.path.isfile(self.path / SPEC):
            require_empty(self.path)
            return None
        folder = Folder.open(self.path)
        if not folder.holds(self.spec):
            require_empty(self.path)
        return folder

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes[outcome.label] = outcome

    def _finish(self, reporter: Reporter) -> Path:
        """Write what there is."""
        for outcome in self.outcomes.values():
            if not outcome.finished:
                reporter.write_images(outcome)
        picture = reporter.write_all(list(self.outcomes.values()))
        delete_partial(reporter.folder.path, self.begun)
        return picture


@dataclass
class _Work:
    """One method of a run.

    Args:
        folder: The run's.
        label: The method's name in it.
        method: The method.
        task: What it takes.
        passes: Counts the network's evaluations.
        emit: Told what happens.
        keep: Given what there is, at the end and at a stop.
    """

    folder: Folder
    label: str
    method: Method
    task: Any
    passes: Passes
    emit: Emit[Event]
    keep: Callable[[Outcome], None]

    def do(self, reporter: Reporter) -> None:
        """Do what is not yet done."""
        state, kept = self._read()
        begun = 0 if state is None else state.iteration
        try:
            stage = self._stage(begun)
            self.emit(MethodBegun(self.label, stage.total, stage.done, stage.part))
            if not kept.finished:
                state, kept = self._iterate(state, kept, reporter)
        except UserError:
            with suppress(UserError):  # what came first is what is told
                self._keep_last()
            raise
        except BaseException:
            self._keep_last()
            raise
        if state is None:
            raise UserError(f"{self.label} has nothing to do", "ask for one iteration or more")
        outcome = self._outcome(state, kept)
        self.keep(outcome)
        for path in reporter.write_images(outcome):
            self.emit(PictureReady(self.label, path))

    def _stage(self, iteration: int) -> Stage:
        """Where the method is, of what is done of it: one that was stopped is done in part."""
        limit = self.folder.spec.stop_after.get(self.label)
        stage = self.method.stage(self.task, iteration)
        if limit is None or stage.total is None:
            return stage
        last = self.method.stage(self.task, limit)
        return stage._replace(total=last.done) if last.part == stage.part else stage

    def _read(self) -> tuple[State | None, Kept]:
        """Where the file says that it is; at the beginning, if there is none or it is damaged.

        Raises:
            StateError: It is another's, or no state of this task.
        """
        try:
            kept = self.folder.read_state(self.label, self.folder.spec.checkpoint.device)
        except DamagedStateError as error:
            warnings.warn(f"{error.cause}: {self.label} begins again", stacklevel=2)
            kept = None
        kept = kept or Kept({})
        try:
            state = self._state(kept)
            if state is not None:
                self.method.require_own(self.task, state)
                _ = state.iteration, state.numbers
        except (UserError, RuntimeError, TypeError, ValueError, IndexError) as error:
            cause = error.cause if isinstance(error, UserError) else find_reason(error)
            path = self.folder.state_path(self.label)
            raise StateError(f"{path} cannot be gone on from ({cause})", AGAIN) from error
        return state, kept

    def _state(self, kept: Kept) -> State | None:
        if not kept.tensors:
            return None
        found: State = type(self.method).state.from_tensors(kept.tensors)
        return found

    def _iterate(
        self, state: State | None, before: Kept, reporter: Reporter
    ) -> tuple[State | None, Kept]:
        """Iterate to the end; each state is on disk before anybody is told."""
        limit = self.folder.spec.stop_after.get(self.label)
        clock, counted = time.monotonic(), self.passes.total
        on_step = partial(_tell_step, self.emit, self.label)
        states = run_within_memory(self.method, self.task, state, on_step)
        kept, done = before, 0 if state is None else state.iteration
        with ExitStack() as closing:
            closing.callback(states.close)
            for state, self.task in states:
                shown = None
                if self._is_due(done, state.iteration):  # before the state: a kill loses neither
                    began, asked = time.monotonic(), self.passes.total
                    result = self.method.result(self.task, state)
                    shown = reporter.write_preview(self.label, state.iteration, result)
                    # what is shown on the way is no part of the work
                    clock += time.monotonic() - began
                    counted += self.passes.total - asked
                seconds = before.seconds + time.monotonic() - clock
                passes = before.passes + self.passes.total - counted
                kept = Kept(_as_read(state.tensors()), False, seconds, passes)
                self.folder.write_state(self.label, kept)
                stage = self._stage(state.iteration)
                told = (self.label, stage.done, stage.total, state.numbers, stage.part)
                self.emit(Iteration(*told))
                if shown is not None:
                    self.emit(PictureReady(self.label, shown))
                done = state.iteration
                if limit is not None and state.iteration >= limit:
                    break
        if state is not None:
            kept = Kept(kept.tensors, True, kept.seconds, kept.passes)
            self.folder.write_state(self.label, kept)
        return self._state(kept) if kept.tensors else state, kept

    def _is_due(self, before: int, now: int) -> bool:
        """Whether a preview is due between two iterations, of a method that trains."""
        total = self.method.count_iterations(self.task)
        if not self.method.trains or total is None or total < 2 * PREVIEWS or now >= total:
            return False
        return before * PREVIEWS // total < now * PREVIEWS // total

    def _keep_last(self) -> None:
        """Give what the file holds: the best so far of what was stopped."""
        with warnings.catch_warnings(), suppress(StateError):  # it was said at the beginning
            warnings.simplefilter("ignore")
            state, kept = self._read()
            if state is None:
                return
            self.keep(self._outcome(state, kept))

    def _outcome(self, state: State, kept: Kept) -> Outcome:
        with ExitStack() as arranged:
            arranged.enter_context(arrange(self.task.model, self.task.loss, self.task.plan))
            result = self.method.result(self.task, state)
            write_artefacts(self.folder, self.label, self.method, self.task, state)
        return Outcome(
            self.label,
            self.method,
            result,
            state.iteration,
            kept.finished,
            kept.seconds,
            kept.passes,
            self.method.stage(self.task, state.iteration),
        )


def _as_read(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the layout in which a file gives them back.

    A convolution rounds otherwise in another one: a resumed run would end a level off.
    """
    plain = torch.contiguous_format
    return {name: tensor.detach().clone(memory_format=plain) for name, tensor in tensors.items()}


def _tell_step(emit: Emit[Event], label: str, done: int, total: int) -> None:
    emit(Step(label, done, total))


@contextmanager
def _told_warnings(tell: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, warnings of the work are told."""
    mine = threading.get_ident()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, *rest: Any, **named: Any) -> None:
            if threading.get_ident() == mine:
                tell(str(message))
            else:  # whoever follows the run warns of something else
                others(message, *rest, **named)

        warnings.showwarning = show
        yield
