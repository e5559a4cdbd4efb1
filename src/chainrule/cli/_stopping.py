"""What is said and done when the program is stopped: ready before anything heavy is imported.

Whatever is written is whole at any moment (`chainrule.runs.folder`). So while nothing was made that
would be lost, a stop ends the program at once; else the run is asked to write the best so far, and
a second stop does not wait for that.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing takes a moment to import, in which nobody would hear Ctrl-C
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

NOTHING_MADE = "stopped before anything was made"
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Those that stop a run; a system may lack some."""


class Stopping:
    """What is to be said, and waited for, if the program is stopped now.

    Args:
        message: One line.
        patient: Whether there is something to write first: a stop is then a KeyboardInterrupt.
        code: The exit code of a program that was stopped.
    """

    def __init__(self) -> None:
        self.message = NOTHING_MADE
        self.patient = False
        self.code = 128 + signal.SIGINT

    def listen(self) -> None:
        """From now on, heed the signals."""
        for name in SIGNALS:
            number = getattr(signal, name, None)
            # who started it may want it not to be stopped (nohup)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.code = 128 + number
        if self.patient:
            self.patient = False
            raise KeyboardInterrupt
        self.leave()

    def leave(self) -> NoReturn:
        """Say what there is, and end at once."""
        if sys.stderr is not None:
            shown = "\x1b[?25h\r\x1b[2K" if os.isatty(2) else ""  # the cursor, which bars hide
            try:  # noqa: SIM105 - without an import, in the midst of others
                os.write(2, f"{shown}{self.message}\n".encode(errors="surrogateescape"))
            except OSError:
                pass
        os._exit(self.code)


STOPPING = Stopping()
"""Of this program."""
