"""Trainings and audits with a folder, which can be stopped and resumed."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from chainrule.jobs.audit import AuditJob
from chainrule.jobs.base import CARRIED, Job, Work, execute, parsed, prepared
from chainrule.jobs.effect import EffectJob
from chainrule.jobs.stylize import StylizeJob

JOBS: dict[str, type[Job]] = {"effect": EffectJob, "stylize": StylizeJob, "audit": AuditJob}
"""Each kind of job."""

__all__ = [
    "JOBS",
    "AuditJob",
    "EffectJob",
    "Job",
    "StylizeJob",
    "Work",
    "carried",
    "execute",
    "opened",
    "parsed",
    "prepared",
]


def opened(folder: Path) -> Job | None:
    """The job of a folder; None if it is not a job's. Raises UserError if it is of another version."""
    try:
        settings = json.loads((folder / "settings.json").read_text())
        kind = JOBS[settings["kind"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return parsed(kind, settings)


def carried(picture: Path) -> Job | None:
    """The job whose settings a picture carries; None if it carries none."""
    try:
        with Image.open(picture) as image:
            settings = json.loads(getattr(image, "text", {})[CARRIED])
        kind = JOBS[settings["kind"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return parsed(kind, settings)
