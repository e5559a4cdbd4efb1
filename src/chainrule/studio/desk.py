"""The runs of a folder, done one after another: who waits, who is at work, and how it goes.

Each run is a folder of its own (`chainrule.runs.folder`), made whole when it is asked for, so that
nothing is lost whatever stops the program: a run that was at work then waits again, and goes on
from its last state. Only the order and what became of each are kept beside them, in `queue.sqlite`,
and what pages show of them (`SIDE`), which may be deleted.

A run that was asked for with a time is timed when its turn comes, as nothing else is at work then;
its folder is then made again with the budget that the time pays for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import shutil
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chainrule.errors import UserError, find_reason
from chainrule.models import Model
from chainrule.runs import Estimate, RunSpec, Warned, count_passes, estimate, execute, fit_plan
from chainrule.runs.folder import SPEC, Folder
from chainrule.runs.load import load_model, load_task
from chainrule.runs.pace import has_budget, pay_by_time
from chainrule.runs.spec import Checkpoint
from chainrule.specs import AS_WRITTEN
from chainrule.studio.live import Live
from chainrule.studio.strip import Strip

Status = Literal["waiting", "running", "stopped", "done", "failed"]
QUEUE = "queue.sqlite"
SIDE = ".studio"
"""The folder of what pages show and were given, beside the runs: strips, thumbnails, uploads."""
STRIPS, THUMBS, UPLOADS, ANEW = "strips", "thumbs", "uploads", "anew"
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._=+-]{0,119}")
"""What a run's name is like: no path, no hidden file."""
TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY,
    place REAL NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    token TEXT NOT NULL DEFAULT '',
    seconds REAL
)
"""


@dataclass(frozen=True)
class Entry:
    """A run of the queue.

    Args:
        name: Of its folder.
        status: What becomes of it.
        reason: Why it failed, in a sentence; else nothing.
    """

    name: str
    status: Status
    reason: str = ""


class Desk:
    """The runs of a folder, and the one thread that does them.

    Args:
        folder: Where the runs' folders are, and new ones are made.
        guarded: Whether a run is stopped and gone on with only by who has its token.
    """

    def __init__(self, folder: str | Path, *, guarded: bool = False) -> None:
        self.folder, self.guarded = Path(folder), guarded
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lives: dict[str, Live] = {}
        self._asked_to_stop: set[str] = set()
        self._wake, self._closed = threading.Event(), False
        self._model: tuple[Checkpoint, Model] | None = None
        self._device, self._adding = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        with self._open() as store:
            store.execute("PRAGMA journal_mode=WAL")
            store.execute(TABLE)
            store.execute("UPDATE runs SET status='waiting' WHERE status='running'")

    # --- what is asked of it ----------------------------------------------------------------------

    def add(
        self, spec: RunSpec, name: str = "run", seconds: float | None = None
    ) -> tuple[str, str]:
        """Make a run's folder, and let it wait for its turn.

        Args:
            spec: What is asked for.
            name: What its name begins with.
            seconds: What each of its methods with a budget may take, in the place of its budget.

        Returns:
            Its name, and the token with which it may be stopped.

        Raises:
            UserError: Its folder cannot be made, or a time has nothing to pay for.
        """
        if seconds is not None:
            require_budget(spec)
        token = secrets.token_urlsafe(16)
        with self._adding:  # two at once would choose one name
            own = self._choose_name(name)
            for what in (STRIPS, ANEW):  # of a run of that name whose folder was deleted
                shutil.rmtree(self.side(what) / own, ignore_errors=True)
            Folder.create(self.folder / own, spec)
        with self._open() as store:
            row = (own, time.time(), "waiting", "", _digest(token), seconds)
            store.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", row)
        self._wake.set()
        return own, token

    def stop(self, name: str, token: str = "") -> None:
        """Let a run end with the best so far; one that waits does not begin.

        Args:
            name: The run's.
            token: What `add` returned; it is asked for by a guarded desk only.

        Raises:
            UserError: There is no such run, or the token is another's.
        """
        self._require_allowed(name, token)
        with self._open() as store:
            found = store.execute(
                "UPDATE runs SET status='stopped' WHERE name=? AND status='waiting'", (name,)
            )
        if not found.rowcount:
            self._asked_to_stop.add(name)

    def go_on(self, name: str, token: str = "") -> None:
        """Let a run that was stopped, or failed, wait for its turn again.

        Args:
            name: The run's.
            token: As of `stop`.

        Raises:
            UserError: As `stop`.
        """
        self._require_allowed(name, token)
        self._asked_to_stop.discard(name)
        with self._open() as store:
            store.execute(
                "UPDATE runs SET status='waiting', reason='', place=? "
                "WHERE name=? AND status IN ('stopped', 'failed')",
                (time.time(), name),
            )
        self._wake.set()

    def entries(self) -> list[Entry]:
        """All runs that were asked for here and are still there, in their order."""
        with self._open() as store:
            rows = store.execute("SELECT name, status, reason FROM runs ORDER BY place").fetchall()
        return [Entry(*row) for row in rows if (self.folder / row[0]).is_dir()]

    def find(self, name: str) -> Entry:
        """A run of the queue. Raises UserError if there is none of that name."""
        for entry in self.entries():
            if entry.name == name:
                return entry
        raise UserError(f"there is no run {name!r}", "choose one of the list", "run")

    def path(self, name: str) -> Path:
        """The folder of a run, of the queue or of the terminal.

        Raises:
            UserError: It is no name of a run here.
        """
        path = self.folder / name
        inside = SAFE.fullmatch(name) is not None and not path.is_symlink()
        if not inside or not (path / SPEC).is_file():
            raise UserError(f"there is no run {name[:80]!r}", "choose one of the list", "run")
        return path

    def side(self, what: str) -> Path:
        """A folder of what pages show and were given.

        Args:
            what: Which one: `STRIPS`, `THUMBS`, `UPLOADS` or `ANEW`.
        """
        return self.folder / SIDE / what

    def watch(self, name: str) -> Live:
        """How a run goes; of one that has not begun here, nothing yet."""
        return self._lives.setdefault(name, Live())

    # --- the work ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to do what waits, in a thread of its own."""
        self._thread = threading.Thread(target=self._work, name="chainrule-desk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop what is at work, which waits again, and end the thread."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._closed:
            name = self._take()
            if name is None:
                self._wake.wait(timeout=1.0)
                self._wake.clear()
                continue
            self._set(name, *self._do(name))

    def _take(self) -> str | None:
        """The next run, which is now at work."""
        with self._open() as store:
            row = store.execute(
                "SELECT name FROM runs WHERE status='waiting' ORDER BY place LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        self._set(row[0], "running")
        return str(row[0])

    def _do(self, name: str) -> tuple[Status, str]:
        """Do a run; what became of it, and why it failed."""
        live = self._lives[name] = Live()
        try:
            with self._device:
                done = self._execute(name, live)
        except Exception as error:  # whatever it is, the next one has its turn
            self._model = None
            self._asked_to_stop.discard(name)
            return "failed", str(error) if isinstance(error, UserError) else find_reason(error)
        if done:
            self._asked_to_stop.discard(name)
            return "done", ""
        if name in self._asked_to_stop:
            self._asked_to_stop.discard(name)
            return "stopped", ""
        return "waiting", ""

    def _execute(self, name: str, live: Live) -> bool:
        """Do a run, until it is asked to stop; whether all is done."""
        model = self._pay(name, live)
        folder = Folder.open(self.folder / name)
        model = model or self._load(folder.written.checkpoint)
        strip = Strip(self.side(STRIPS) / name, folder, model)
        run: Any = execute(folder.written, folder.path, model)
        with closing(run) as events:
            for event in events:
                live.tell(event)
                strip.tell(event)
                if name in self._asked_to_stop or self._closed:
                    return False
        return True

    def _pay(self, name: str, live: Live) -> Model | None:
        """Give a run that was asked for with a time its budget; its model, if it was loaded."""
        path, anew = self.folder / name, self.side(ANEW) / name
        if (anew / SPEC).is_file():  # whole: only its move was not made
            shutil.rmtree(path, ignore_errors=True)
            anew.rename(path)
        with self._open() as store:
            (seconds,) = store.execute("SELECT seconds FROM runs WHERE name=?", (name,)).fetchone()
        if seconds is None:
            return None
        spec = drop_budgets(Folder.open(path).spec)
        model = self._load(spec.checkpoint)
        paid, budget = pay_by_time(spec, seconds, model)
        shutil.rmtree(anew, ignore_errors=True)
        anew.parent.mkdir(parents=True, exist_ok=True)
        Folder.create(anew, paid)
        with self._open() as store:
            store.execute("UPDATE runs SET seconds=NULL WHERE name=?", (name,))
        shutil.rmtree(path)
        anew.rename(path)
        live.tell(Warned(f"{seconds:g} s pay for {budget} passes of the network here"))
        return model

    def estimate(self, spec: RunSpec) -> list[Estimate]:
        """What each method of a run would take. A few steps of each are run.

        Args:
            spec: The run.

        Raises:
            UserError: It cannot be, or a run is at work, whose memory would be counted too.
        """
        if not self._device.acquire(blocking=False):
            raise UserError(
                "a run is at work, and the estimate would be of both",
                "ask again when it is done, or begin: this one waits for its turn",
            )
        try:
            counted, _ = count_passes(self._load(spec.checkpoint))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the run says them
                return estimate(spec, fit_plan(spec, load_task(spec, counted)))
        finally:
            self._device.release()

    def _load(self, checkpoint: Checkpoint) -> Model:
        """A checkpoint's model: the last one is kept."""
        if self._model is None or self._model[0] != checkpoint:
            self._model = None  # two at once may be too much
            self._model = checkpoint, load_model(checkpoint)
        return self._model[1]

    # --- what is kept -----------------------------------------------------------------------------

    def _open(self) -> Any:
        """The store, for a moment: committed at the end."""
        return _Store(self.folder / QUEUE)

    def _set(self, name: str, status: Status, reason: str = "") -> None:
        with self._open() as store:
            store.execute("UPDATE runs SET status=?, reason=? WHERE name=?", (status, reason, name))

    def _choose_name(self, name: str) -> str:
        """A name that no folder has yet."""
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "run"
        return next(own for own in _number(plain) if not (self.folder / own).exists())

    def _require_allowed(self, name: str, token: str) -> None:
        """Raise UserError for a run that is not there, or of whom somebody else has the token."""
        self.find(name)
        with self._open() as store:
            (kept,) = store.execute("SELECT token FROM runs WHERE name=?", (name,)).fetchone()
        if self.guarded and not hmac.compare_digest(kept, _digest(token)):
            raise UserError(
                f"{name} was begun by somebody else", "stop it from the page that began it", "run"
            )


def require_budget(spec: RunSpec) -> None:
    """Raise UserError for a run that a time pays for nothing in."""
    if not any(has_budget(method) for method in spec.methods):
        raise UserError(
            "a time is for methods with a budget, and none was chosen",
            "choose hybrid or search, or leave the time empty",
            "time",
        )


def drop_budgets(spec: RunSpec) -> RunSpec:
    """A run whose methods' budgets are not said, as `pay_by_time` takes it."""
    methods = tuple(
        type(each).model_validate(each.model_dump(exclude={"budget"}), context=AS_WRITTEN)
        if has_budget(each)
        else each
        for each in spec.methods
    )
    return spec.model_copy(update={"methods": methods})


class _Store:
    """A connection that is committed and closed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> sqlite3.Connection:
        self.store = sqlite3.connect(self.path, timeout=30)
        return self.store

    def __exit__(self, kind: object, *_: object) -> None:
        with suppress(sqlite3.Error):
            if kind is None:
                self.store.commit()
        self.store.close()


def _number(plain: str) -> Iterator[str]:
    """run, run-2, run-3, ..."""
    yield plain
    count = 2
    while True:
        yield f"{plain}-{count}"
        count += 1


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
