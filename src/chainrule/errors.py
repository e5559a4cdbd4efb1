"""The one error that a user can cause and cure."""

from __future__ import annotations

import re

LONGEST = 290
"""How many letters of a cause or a cure are shown: what is quoted in it may be of any length."""
PYTHONS_OWN = r"NoneType|' object |has no attribute|unexpected keyword|positional argument"
"""What Python says of the wrong kind of thing, and libraries pass on."""


class UserError(ValueError):
    """Bad input: one sentence that names the cause and the cure; the command line exits with 2.

    It is one line of printable letters, whatever it quotes: what is longer is cut in its middle.

    Args:
        cause: What is wrong.
        cure: What to do about it; the sentence is "cause: cure".
        field: The setting that is to blame, by its name in Python, if it is one. Only a face of
            the library (the command line, a page) knows how its users write it.
    """

    def __init__(self, cause: str, cure: str | None = None, field: str | None = None) -> None:
        cause, cure = tidy(cause), None if cure is None else tidy(cure)
        super().__init__(cause if cure is None else f"{cause}: {cure}")
        self.cause, self.cure, self.field = cause, cure, field

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None, str | None]]:
        return type(self), (self.cause, self.cure, self.field)


def tidy(text: str, longest: int = LONGEST) -> str:
    """A text as one line of printable letters, cut in its middle if it is longer than `longest`.

    >>> tidy("two" + chr(10) + "lines, and a bell" + chr(7))
    'two lines, and a bell\\\\x07'
    """
    line = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", " ".join(text.splitlines()))
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) <= longest:
        return line
    half = (longest - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def find_reason(error: BaseException) -> str:
    """What a library's error says, in its first line; never advice to load what can run code."""
    if isinstance(error, OSError) and error.strerror:
        return tidy(error.strerror.lower())
    text = str(error).strip() or type(error).__name__
    pythons = isinstance(error, (AttributeError, TypeError, KeyError, IndexError))
    if pythons or re.search(PYTHONS_OWN, text):
        return "it is not of the kind that is expected"  # what Python says helps nobody
    if "weights_only" in text:
        return "it holds more than tensors"
    return tidy(text.splitlines()[0])
