"""Trainings and audits with a folder, which can be stopped and resumed."""

from __future__ import annotations

import json
from pathlib import Path

from chainrule.jobs.audit import AuditJob
from chainrule.jobs.base import Job, execute, parsed
from chainrule.jobs.effect import EffectJob
from chainrule.jobs.stylize import StylizeJob

JOBS: dict[str, type[Job]] = {"effect": EffectJob, "stylize": StylizeJob, "audit": AuditJob}
"""Each kind of job."""

__all__ = ["JOBS", "AuditJob", "EffectJob", "Job", "StylizeJob", "execute", "opened", "parsed"]


def opened(folder: Path) -> Job | None:
    """The job of a folder; None if it is not a job's. Raises UserError if it is of another version."""
    try:
        settings = json.loads((folder / "settings.json").read_text())
        kind = JOBS[settings["kind"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return parsed(kind, settings)
