"""The answers of a study, in SQLite: one that was acknowledged is on the disk.

Every answer is a row of its own that is committed before anyone is told, with a write-ahead log
that is flushed at each commit (`synchronous=FULL`). Nothing is ever changed: of several answers of
one rater to one question the last counts. Of the raters' tokens only digests are kept.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from chainrule.errors import UserError, find_reason

PATIENCE = 30.0
"""How many seconds are waited for another who writes."""
TABLES = """
CREATE TABLE study (digest TEXT NOT NULL);
CREATE TABLE raters (number INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rater INTEGER NOT NULL,
    question TEXT NOT NULL,
    choice TEXT NOT NULL,
    shown TEXT NOT NULL,
    at TEXT NOT NULL
);
CREATE INDEX of_rater ON answers (rater);
"""


@dataclass(frozen=True)
class Answer:
    """What a rater answered.

    Args:
        rater: The rater, by number, from 1.
        question: The question's name.
        choice: The answer's value, which may be about the place of a picture.
        shown: The names of the pictures, from left to right as they were shown.
        at: When, in UTC, as ISO 8601 writes it.
    """

    rater: int
    question: str
    choice: str
    shown: tuple[str, ...]
    at: str


class Answers:
    """The file with the answers, which is opened anew for each thing that is done with it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, digest: str) -> Answers:
        """A new file.

        Args:
            path: Where; there is none yet.
            digest: SHA-256 of the study as it is written down.
        """
        made = cls(path)
        with made._open(new=True) as database:
            database.executescript(f"BEGIN; {TABLES}")
            database.execute("INSERT INTO study VALUES (?)", (digest,))
            database.execute("COMMIT")
        return made

    @property
    def digest(self) -> str:
        """That of the study that they belong to. Raises UserError if the file is damaged."""
        with self._open() as database:
            rows = database.execute("SELECT digest FROM study").fetchall()
        if len(rows) != 1:
            raise UserError(f"{self.path} is damaged", "put it back")
        return str(rows[0][0])

    def make_tokens(self, raters: int) -> list[str]:
        """New tokens for raters 1, 2, ..., in the place of those that there were.

        Args:
            raters: How many.

        Returns:
            The tokens, which nobody can read again.
        """
        tokens = [secrets.token_urlsafe(16) for _ in range(raters)]
        rows = [(number, _digest(token)) for number, token in enumerate(tokens, 1)]
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM raters")
            database.executemany("INSERT INTO raters VALUES (?, ?)", rows)
            database.execute("COMMIT")
        return tokens

    def count_tokens(self) -> int:
        """How many raters have a token."""
        with self._open() as database:
            return int(database.execute("SELECT COUNT(*) FROM raters").fetchone()[0])

    def find_rater(self, token: str) -> int | None:
        """The number of the rater with a token; None if there is no such token."""
        with self._open() as database:
            found = database.execute(
                "SELECT number FROM raters WHERE token = ?", (_digest(token),)
            ).fetchone()
        return None if found is None else int(found[0])

    def add(self, rater: int, question: str, choice: str, shown: Sequence[str]) -> None:
        """Keep an answer; when this returns, it is on the disk.

        Args:
            rater: Whose.
            question: The question's name.
            choice: The answer's value.
            shown: The names of the pictures, from left to right.
        """
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        row = (rater, question, choice, " ".join(shown), at)
        with self._open() as database:  # without a transaction of its own: it commits at once
            database.execute(
                "INSERT INTO answers (rater, question, choice, shown, at) VALUES (?, ?, ?, ?, ?)",
                row,
            )

    def read_all(self, rater: int | None = None) -> list[Answer]:
        """All answers, in their order, those that do not count any more among them.

        Args:
            rater: Whose; None: everybody's.
        """
        asked = "SELECT rater, question, choice, shown, at FROM answers"
        with self._open() as database:
            if rater is None:
                rows = database.execute(f"{asked} ORDER BY id").fetchall()
            else:
                rows = database.execute(f"{asked} WHERE rater = ? ORDER BY id", (rater,)).fetchall()
        return [Answer(r, question, choice, tuple(shown.split()), at)
                for r, question, choice, shown, at in rows]  # fmt: skip

    def read_last(self, rater: int | None = None) -> list[Answer]:
        """The answers that count: of each rater the last to each question.

        Args:
            rater: Whose; None: everybody's.
        """
        last = {(each.rater, each.question): each for each in self.read_all(rater)}
        return list(last.values())

    @contextmanager
    def _open(self, *, new: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection; what SQLite refuses is said in one sentence."""
        if not new and not self.path.is_file():  # it would be made
            raise UserError(f"{self.path} is missing", "put it back, or make the study anew")
        database: sqlite3.Connection | None = None
        try:
            database = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            yield database
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path} cannot be used ({find_reason(error)})",
                "see that it is whole, that there is room, and that it may be written",
            ) from error
        finally:
            if database is not None:
                database.close()


def _digest(token: str) -> str:
    """SHA-256 of a token."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
