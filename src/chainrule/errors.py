"""The one error that a user can cause and cure."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: one sentence that names the cause and the cure; the command line exits with 2.

    Args:
        cause: What is wrong.
        cure: What to do about it; the sentence is "cause: cure".
        field: The setting that is to blame, by its name in Python, if it is one. Only a face of
            the library (the command line, a page) knows how its users write it.
    """

    def __init__(self, cause: str, cure: str | None = None, field: str | None = None) -> None:
        super().__init__(cause if cure is None else f"{cause}: {cure}")
        self.cause, self.cure, self.field = cause, cure, field

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None, str | None]]:
        return type(self), (self.cause, self.cure, self.field)
