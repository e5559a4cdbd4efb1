"""Blind studies of the pictures of runs: made, served to raters, and counted."""

from chainrule.study.answers import Answer, Answers
from chainrule.study.assignment import Shown, assign
from chainrule.study.folder import StudyFolder
from chainrule.study.make import Asked, create_study
from chainrule.study.protocols import PROTOCOLS, Protocol
from chainrule.study.results import Results, compute_results
from chainrule.study.spec import Study

__all__ = [
    "PROTOCOLS",
    "Answer",
    "Answers",
    "Asked",
    "Protocol",
    "Results",
    "Shown",
    "Study",
    "StudyFolder",
    "assign",
    "compute_results",
    "create_study",
]
