"""The voices of the libraries that read checkpoints, switched off for a while."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chainrule.errors import UserError, find_reason

SILENT = 60
"""Above logging.CRITICAL."""


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines of diffusers and transformers; afterwards as before."""
    # which import it if it is there, and it tells of kernels that nobody asks for
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import diffusers
    import transformers

    logs: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity(SILENT)
            log.disable_progress_bar()
        yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


@contextmanager
def reading(what: str, cure: str = "fetch the checkpoint again") -> Iterator[None]:
    """While a library reads something: its warnings are dropped, its errors are one sentence.

    Args:
        what: What is read, for messages.
        cure: What to do if it cannot be.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # they raise many kinds
        raise UserError(f"{what} cannot be loaded ({first_line(error)})", cure, "model") from error


def first_line(reason: object) -> str:
    """The first line of a message, without its full stop.

    >>> first_line(ValueError("no beta.\\nTry another."))
    'no beta'
    """
    known = reason if isinstance(reason, BaseException) else ValueError(reason)
    return find_reason(known).strip().rstrip(".:")
