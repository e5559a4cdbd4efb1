"""A study's folder: everything that raters are shown, and everything that they answer.

    study.json              what is asked of which pictures, and what each of them is
    pictures/               <name>.png, copies without metadata whose names say nothing
    answers.db              the answers (SQLite, with a write-ahead log beside it)
    report.json, report.html, what came of it

It can be moved. Whoever reads study.json is blind no more: raters see the page only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from chainrule.errors import UserError, find_reason
from chainrule.runs.folder import digest_file, require_own
from chainrule.specs import explain_error
from chainrule.study.answers import Answers
from chainrule.study.spec import Study

STUDY, PICTURES, ANSWERS = "study.json", "pictures", "answers.db"


class StudyFolder:
    """A folder with a study in it.

    Args:
        path: Where it is.
        study: What is asked.
        answers: What was answered.
    """

    def __init__(self, path: Path, study: Study, answers: Answers) -> None:
        self.path, self.study, self.answers = path, study, answers

    @classmethod
    def open(cls, path: str | Path) -> StudyFolder:
        """A study that is there.

        Args:
            path: Its folder.

        Raises:
            UserError: There is none, or it is damaged.
        """
        path = Path(path)
        cure = "name a folder that `chainrule study new` made"
        if not (path / STUDY).is_file():
            raise UserError(f"{path} holds no study (no {STUDY})", cure)
        require_own(path)
        require_own(path / PICTURES)
        try:
            text = (path / STUDY).read_text(encoding="utf-8")
            study = Study.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{path / STUDY} is damaged ({explain_error(error)})", cure) from error
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path / STUDY} cannot be read ({find_reason(error)})", cure
            ) from error
        answers = Answers(path / ANSWERS)
        if answers.digest != digest_text(text):
            raise UserError(
                f"{path / STUDY} is not what it was when the study was made",
                "put it back, or make the study anew",
            )
        return cls(path, study, answers)

    def find_picture(self, name: str) -> Path:
        """The file of a picture of the study."""
        return self.path / PICTURES / f"{name}.png"

    def check_pictures(self) -> None:
        """Raise UserError if a picture is missing, or not what it was."""
        for picture in self.study.pictures:
            file = self.find_picture(picture.name)
            if not file.is_file() or digest_file(file) != picture.digest:
                raise UserError(f"{file} is missing, or not what it was", "put it back")


def digest_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
