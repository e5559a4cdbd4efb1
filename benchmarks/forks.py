"""Many runs of the command line, each in a process of its own: a server imports once, and forks.

A fork runs `chainrule.cli.main` as the command does, with files for its streams, a limit of memory
and of time. An audit hook counts what it writes, so that it can be killed at a moment of its own
choice, tells which files it opens, and keeps it off the network.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

MORE_MEMORY = 3 << 30
"""The bytes of address space that a fork may take on top of what it begins with."""
LONGEST_FILE, MOST_SAID = 1 << 30, 1 << 20
WRITES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")


@dataclass(frozen=True)
class Ask:
    """A command to run.

    Args:
        argv: What stands after `chainrule`.
        cwd: Where.
        patience: After how many seconds of computing it hangs.
        kill_after: It is killed (-9) after so many seconds, if it is not done by then.
        kill_at: It kills itself (-9) before its so many-eth change of files in `folder`.
        folder: Where changes of files are counted.
        guarded: The folder whose files it should not open.
        gone: Whether `cwd` is removed before it begins.
    """

    argv: Sequence[str]
    cwd: str
    patience: float = 60.0
    kill_after: float | None = None
    kill_at: int | None = None
    folder: str = ""
    guarded: str = ""
    gone: bool = False


@dataclass(frozen=True)
class Ended:
    """How it ended.

    Args:
        code: Its exit code; None if a signal ended it.
        hung: Whether it was killed for taking too long.
        seconds: How long it took.
        out: Its standard output.
        err: Its standard error.
        writes: How often it changed a file in the folder.
        did: What it should not have done: files opened, programs run, names looked up.
    """

    code: int | None
    hung: bool
    seconds: float
    out: str
    err: str
    writes: int
    did: list[str] = field(default_factory=list)


class Forks:
    """The server, as seen from outside; a context.

    Args:
        work: A folder for what the forks print.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        self.server = subprocess.Popen(
            [sys.executable, __file__, str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        if self.server.stdin is not None:
            self.server.stdin.close()
        self.server.wait()

    def __call__(self, ask: Ask) -> Ended:
        """Run a command to its end."""
        if self.server.stdin is None or self.server.stdout is None:
            raise RuntimeError("the server has no streams")
        print(json.dumps(asdict(ask)), file=self.server.stdin, flush=True)
        answer = self.server.stdout.readline()
        if not answer:
            raise RuntimeError("the server of forks is gone")
        told: dict[str, Any] = json.loads(answer)
        seen = self._read("seen").splitlines()
        did = sorted(set(seen) - {"write"})
        out, err = self._read("out"), self._read("err")
        return Ended(**told, out=out, err=err, writes=seen.count("write"), did=did)

    def _read(self, name: str) -> str:
        with (self.work / name).open(errors="replace") as file:
            return file.read(MOST_SAID)


# --- the server ---------------------------------------------------------------------------------


def serve(work: Path) -> None:
    """Fork for each line of standard input; tell on standard output how the fork ended."""
    _import_all()
    for line in sys.stdin:
        ask = Ask(**json.loads(line))
        begun, child = time.monotonic(), os.fork()
        if child == 0:
            _become(ask, work)
        print(json.dumps(_wait(child, ask, begun)), flush=True)


def _import_all() -> None:
    """Import what loading a model imports."""
    import tqdm  # type: ignore[import-untyped]
    import transformers.utils.logging

    import chainrule.cli
    from chainrule.losses.aesthetic import load_rater
    from chainrule.losses.classifier import load_classifier

    tqdm.tqdm.monitor_interval = 0  # no other thread may be there at a fork
    transformers.utils.logging.disable_progress_bar()
    chainrule.load()
    load_rater()
    load_classifier()


def _wait(child: int, ask: Ask, begun: float) -> dict[str, Any]:
    """Wait for a fork, and kill it when its time has come.

    It hangs if it computes for longer than the patience, or does nothing for a third of that:
    whatever else the machine has to do does not count.
    """
    hung, killed, spent, moved, looked = False, False, 0.0, begun, begun
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        now = time.monotonic()
        if found:
            break
        if now - looked > 0.5:
            looked, before = now, spent
            spent = _count_seconds(child)
            moved = now if spent - before > 0.01 else moved
            hung = spent > ask.patience or now - moved > ask.patience / 3
        due = ask.kill_after is not None and now - begun > ask.kill_after
        if (hung or due) and not killed:
            killed = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    return {"code": None if code < 0 else code, "hung": hung, "seconds": now - begun}


def _count_seconds(process: int) -> float:
    """How long a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _become(ask: Ask, work: Path) -> NoReturn:
    """Be the command, in a fork."""
    code: object = 1
    try:
        os.setsid()
        _limit_memory()
        os.chdir(ask.cwd)
        seen = _redirect(work)
        if ask.gone:
            os.rmdir(ask.cwd)
        _watch(ask, seen)
        from chainrule.cli import main

        sys.argv = ["chainrule", *ask.argv]
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        code = 1
    os._exit(code if isinstance(code, int) else 1)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LONGEST_FILE, LONGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _redirect(work: Path) -> int:
    """Give the streams to files; standard input says yes to whatever is asked."""
    (work / "in").write_text("y\n" * 100)
    modes = {"in": os.O_RDONLY, **dict.fromkeys(("out", "err", "seen"), os.O_WRONLY)}
    files = {
        name: os.open(work / name, mode | os.O_CREAT | os.O_TRUNC * (name != "in"), 0o600)
        for name, mode in modes.items()
    }
    for number, name in enumerate(("in", "out", "err")):
        os.dup2(files[name], number)
    sys.stdin = os.fdopen(0, "r", errors="surrogateescape")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="strict")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
    return files["seen"]


def _watch(ask: Ask, seen: int) -> None:
    """Count changes of files, die at the one that is named, tell what is opened and run."""
    guarded = os.path.realpath(ask.guarded) + os.sep if ask.guarded else None
    count = 0

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        if event.startswith(("socket.getaddrinfo", "socket.connect")):
            os.write(seen, b"asked the network\n")
            raise OSError("there is no network")
        if event in PROGRAMS:
            os.write(seen, f"ran {values[0]!r}\n".encode(errors="replace"))
        opened = event == "open" and isinstance(values[0], (str, bytes))
        path = os.fsdecode(values[0]) if opened else ""
        if opened and guarded and os.path.realpath(path).startswith(guarded):
            os.write(seen, f"opened {path}\n".encode(errors="replace"))
        writes = opened and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        if not ask.folder or not (writes or event in WRITES):
            return
        named = [path] if opened else [str(value) for value in values]
        if any(name.startswith(ask.folder) for name in named):
            count += 1
            if count == ask.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(seen, b"write\n")

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
