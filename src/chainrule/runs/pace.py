"""How many network passes a time pays for, here: what turns `--time 60s` into a budget."""

from __future__ import annotations

import math
import re
import time
import warnings

import torch

from chainrule.errors import UserError
from chainrule.memory import arrange
from chainrule.methods.base import Method, Task
from chainrule.methods.chunking import finish
from chainrule.methods.tfg import TFG
from chainrule.models import Model
from chainrule.runs.estimate import fit_plan
from chainrule.runs.load import load_task
from chainrule.runs.spec import RunSpec

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
WARM, TIMED = 1, 3
"""The steps of the guided chain that is thrown away, and of the one that is timed."""


def parse_time(text: str) -> float:
    """Seconds, from "60s", "2m", "1.5h" or "90".

    >>> parse_time("60s"), parse_time("1.5h"), parse_time("90")
    (60.0, 5400.0, 90.0)

    Args:
        text: As it was typed.

    Raises:
        UserError: It is no time, or none at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    seconds = 0.0 if found is None else float(found[1]) * UNITS.get(found[2], 0.0)
    if not seconds:
        raise UserError(f"{text!r} is no time", "write it as 60s, 2m or 1.5h", "time")
    return seconds


def pay_by_time(spec: RunSpec, seconds: float, model: Model) -> tuple[RunSpec, int]:
    """A run whose methods with a budget are given what a time pays for, and that budget.

    A short guided chain of all seeds is timed; the time of loading and writing is not counted. The
    budget is in passes, so that the run can be made again on another machine.

    Args:
        spec: The run.
        seconds: For each of its methods.
        model: Its model.

    Raises:
        UserError: No method of the run has a budget, one was told its own, or the time pays for no
            pass.
    """
    spending = [method for method in spec.methods if has_budget(method)]
    if not spending:
        raise UserError(
            "a time is for methods with a budget of passes, and none was chosen",
            "choose the preset best, or the method search",
            "time",
        )
    if any("budget" in method.model_fields_set for method in spending):
        raise UserError("there is a budget and a time", "give one of the two", "time")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run says them
        task = fit_plan(spec, load_task(spec, model))
    budget = math.floor(seconds / measure_pass(task))
    if budget < 1:
        raise UserError(
            f"{seconds:g} s pay for no pass here", "allow more time, or draw fewer seeds", "time"
        )
    paid = [
        method.model_copy(update={"budget": budget}) if method in spending else method
        for method in spec.methods
    ]
    return spec.model_copy(update={"methods": tuple(paid)}), budget


def has_budget(method: Method) -> bool:
    """Whether a method is told how many passes it may spend."""
    return "budget" in type(method).model_fields


def measure_pass(task: Task) -> float:
    """The seconds of a pass of all images of a task.

    Args:
        task: Whose images and loss.
    """
    _ = task.require_loss()
    with arrange(task.model, task.loss, task.plan), torch.no_grad():
        for steps in (WARM, TIMED):
            guide = TFG(like="gentle", steps=steps)
            began = time.perf_counter()
            losses = finish(task, guide.walk(task, task.x_T)).losses
            _ = None if losses is None else losses.tolist()  # waits for the device
            seconds = time.perf_counter() - began
    return seconds / guide.passes
