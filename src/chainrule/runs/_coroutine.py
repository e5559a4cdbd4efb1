"""Work that reports from deep inside, as an iterator: it runs only while its reader waits."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from threading import Semaphore, Thread
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Stopped(BaseException):
    """Raised inside the work at its next report, when its reader has closed the iterator."""


Emit = Callable[[T], None]


class Coroutine(Generic[T]):
    """Iterates over what `work` reports.

    A chain tells of its steps by a callback, from within autograd as well, where nothing can be
    yielded. So the work has a thread of its own, and the two take turns: never do both run.
    """

    def __init__(self, work: Callable[[Emit[T]], None]) -> None:
        self.work = work
        self.threads = torch.get_num_threads()  # which a new thread would not know
        self.mine, self.its = Semaphore(0), Semaphore(0)
        self.reported: list[T] = []
        self.error: BaseException | None = None
        self.done = self.stopping = self.told = False

    def iterate(self) -> Iterator[T]:
        """What is reported. Closing the iterator stops the work at its next report.

        What the work raises is raised here, also while it comes to its end.
        """
        context = contextvars.copy_context()
        Thread(target=lambda: context.run(self._work), daemon=True).start()
        try:
            while True:
                self.its.release()
                self.mine.acquire()
                if self.done:
                    break
                yield self.reported.pop()
        except (GeneratorExit, KeyboardInterrupt):
            self._stop()
            if self.error is not None:  # what there is could not be written
                raise self.error from None
            raise
        if self.error is not None:
            raise self.error

    def emit(self, report: T) -> None:
        """Hand a report over, and wait for the next turn."""
        if self.told:  # it is ending: nobody reads any more
            return
        self.reported.append(report)
        self.mine.release()
        self.its.acquire()
        if self.stopping:
            self.told = True
            raise Stopped

    def _work(self) -> None:
        self.its.acquire()
        try:
            if not self.stopping:
                torch.set_num_threads(self.threads)
                self.work(self.emit)
        except Stopped:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            self.mine.release()

    def _stop(self) -> None:
        """Let the work come to an end."""
        self.stopping = True
        while not self.done:
            self.its.release()
            self.mine.acquire()
