"""A run: what is asked for, its folder, and what happens on the way."""

from chainrule.runs.estimate import Estimate, Measured, estimate, fit_plan, ladder, measure
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
from chainrule.runs.execute import execute, resume
from chainrule.runs.folder import Folder
from chainrule.runs.load import load_model, load_task, prepare_methods
from chainrule.runs.origin import find_run, list_strange, read_origin
from chainrule.runs.passes import count_passes
from chainrule.runs.spec import Checkpoint, Inputs, RunSpec, parse_spec, read_spec

__all__ = [
    "Checkpoint",
    "Done",
    "Estimate",
    "Event",
    "Folder",
    "Inputs",
    "Iteration",
    "Loaded",
    "Measured",
    "MethodBegun",
    "PictureReady",
    "PlanChosen",
    "RunSpec",
    "Step",
    "Warned",
    "count_passes",
    "estimate",
    "execute",
    "find_run",
    "fit_plan",
    "ladder",
    "list_strange",
    "load_model",
    "load_task",
    "measure",
    "parse_spec",
    "prepare_methods",
    "read_origin",
    "read_spec",
    "resume",
]
