"""An answer that was acknowledged is kept, whatever happens; tokens cannot be read again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chainrule.errors import UserError
from chainrule.study import Answers

WRITER = """
import sys
from pathlib import Path
from chainrule.study import Answers

answers = Answers(Path(sys.argv[1]))
for k in range(10**6):
    answers.add(1, f"{k:016x}", "first", ("a", "b"))
    print(k, flush=True)
"""


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers.create(tmp_path / "answers.db", "digest")


def test_kill_9_loses_no_answer_that_was_acknowledged(answers: Answers) -> None:
    for _ in range(2):  # also of one who goes on where another was killed
        before = len(answers.read_all())
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(answers.path)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(25)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines()]
        assert process.wait() == -signal.SIGKILL
        kept = [int(each.question, 16) for each in answers.read_all()[before:]]
        assert kept[: len(acknowledged)] == acknowledged
        assert len(kept) - len(acknowledged) in (0, 1)  # the one that it was about to tell


def test_every_commit_is_flushed(answers: Answers) -> None:
    with answers._open() as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_the_last_answer_counts_and_all_are_kept(answers: Answers) -> None:
    for rater, choice in ((1, "first"), (2, "both"), (1, "second")):
        answers.add(rater, "q", choice, ("a", "b"))
    answers.add(1, "r", "neither", ("b", "a"))
    assert [(a.rater, a.choice) for a in answers.read_all()] == (
        [(1, "first"), (2, "both"), (1, "second"), (1, "neither")]
    )
    assert {(a.rater, a.question): a.choice for a in answers.read_last()} == (
        {(1, "q"): "second", (2, "q"): "both", (1, "r"): "neither"}
    )
    assert [a.shown for a in answers.read_last(1)] == [("a", "b"), ("b", "a")]
    assert answers.read_last(3) == []


def test_many_may_answer_at_once(answers: Answers) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: answers.add(k % 4, f"{k}", "yes", ("a",)), range(40)))
    assert {each.question for each in answers.read_all()} == {str(k) for k in range(40)}


def test_of_tokens_only_digests_are_kept(answers: Answers) -> None:
    tokens = answers.make_tokens(3)
    assert len(set(tokens)) == 3
    assert all(len(token) >= 22 for token in tokens)  # 128 bits
    assert [answers.find_rater(token) for token in tokens] == [1, 2, 3]
    for wrong in ("", tokens[0][:-1], tokens[0] + "x", "' OR 1=1 --", "\ud800", "0"):
        assert answers.find_rater(wrong) is None
    for file in answers.path.parent.iterdir():
        assert not any(token.encode() in file.read_bytes() for token in tokens)
    others = answers.make_tokens(2)
    assert answers.count_tokens() == 2
    assert [answers.find_rater(token) for token in tokens] == [None] * 3
    assert [answers.find_rater(token) for token in others] == [1, 2]


def test_a_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    missing = Answers(tmp_path / "no.db")
    with pytest.raises(UserError, match=r"no\.db is missing: put it back"):
        missing.read_all()
    assert not missing.path.exists()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"cannot be used .*not a database"):
        Answers(damaged).read_all()
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    empty.touch()
    with pytest.raises(UserError, match="cannot be used"):
        Answers(empty).digest  # noqa: B018


def test_texts_are_not_commands(answers: Answers) -> None:
    text = "x'); DROP TABLE answers; --"
    answers.add(1, text, text, ("a",))
    assert [(a.question, a.choice) for a in answers.read_all()] == [(text, text)]
