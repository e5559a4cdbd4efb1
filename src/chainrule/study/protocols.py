"""What raters are asked: which pictures a question shows, which answers there are, how they count.

An answer says something of each picture that is compared: its outcome. A bar is a set of outcomes
that count as a success, so that one set of answers can be read more or less strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, WrapValidator, model_validator

from chainrule.errors import UserError
from chainrule.specs import Registry, Spec

Bars = Mapping[str, frozenset[str]]
Beside = Literal["original", "thing"]
NOISE, ASKED = "noise", "asked"
"""The kinds of attention checks: a picture of noise, and a question that names its own answer."""


def _ask(default: Any = ...) -> Any:
    """The field of a protocol's question."""
    return Field(default, min_length=1, max_length=500, description="What is asked.")


class Choice(Spec):
    """An answer that can be chosen.

    Args:
        value: As it is kept.
        text: As raters read it.
    """

    value: str
    text: str


class Protocol(Spec):
    """A kind of question.

    Its class says how many pictures are compared (`compared`), what is shown beside them
    (`beside`), whether its answers have an order (`ordered`, for the raters' agreement), and which
    outcomes of the first picture are right if the last one is noise (`right_of_noise`; none: noise
    is no check of it).
    """

    compared: ClassVar[int] = 1
    beside: ClassVar[Beside | None] = None
    ordered: ClassVar[bool] = False
    right_of_noise: ClassVar[tuple[str, ...]] = ()

    kind: str
    question: str = _ask()
    show_prompt: bool = Field(default=True, description="Whether raters read the prompt.")

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The answers, in the order in which they are shown."""
        raise NotImplementedError

    @property
    def bars(self) -> Bars:
        """The outcomes that count as a success, by the bar's name; the first is the main one."""
        raise NotImplementedError

    def outcome(self, choice: str, position: int) -> str:
        """What an answer says of one of the pictures.

        Args:
            choice: The answer's value.
            position: Of the picture as it was shown, from 0.
        """
        return choice

    @property
    def checks(self) -> tuple[str, ...]:
        """The kinds of attention checks that it can have."""
        return (NOISE, ASKED) if self.right_of_noise else (ASKED,)

    @property
    def askable(self) -> tuple[Choice, ...]:
        """The answers that say the same of every picture, which a check may ask for."""
        positions = range(self.compared)
        return tuple(
            choice
            for choice in self.choices
            if len({self.outcome(choice.value, position) for position in positions}) == 1
        )


class Pairwise(Protocol):
    """Two methods' pictures of one prompt and seed: which is better, or both, or neither.

    A picture succeeds if it is the better one or both are good: DOODL's prompt alignment success
    rate (Figure 5), there by a majority of five raters. With another question it is the comparison
    of its appendix A ("which would most people prefer?").
    """

    compared = 2
    # the picture itself may miss the prompt: then neither is right
    right_of_noise = ("better", "neither")
    kind: Literal["pairwise"] = "pairwise"
    question: str = _ask("Which picture shows better what is described?")

    @property
    def choices(self) -> tuple[Choice, ...]:
        return (
            Choice(value="first", text="Picture 1"),
            Choice(value="second", text="Picture 2"),
            Choice(value="both", text="Both equally well"),
            Choice(value="neither", text="Neither"),
        )

    @property
    def bars(self) -> Bars:
        return {"better or both": frozenset({"better", "both"}), "better": frozenset({"better"})}

    def outcome(self, choice: str, position: int) -> str:
        if choice in ("first", "second"):
            return "better" if (choice == "first") == (position == 0) else "worse"
        return choice


class EditSuccess(Protocol):
    """An edit beside its original: did it succeed?

    DOODL's Figure 8: the rate at three levels of strictness, by how many of the raters approve (the
    majority, all but one, all), beside what raters would reach who answer by chance.
    """

    beside = "original"
    right_of_noise = ("no",)
    kind: Literal["edit"] = "edit"
    question: str = _ask("Does the picture keep what the original shows, and is it more appealing?")
    show_prompt: bool = Field(default=False, description="Whether raters read the prompt.")

    @property
    def choices(self) -> tuple[Choice, ...]:
        return Choice(value="yes", text="Yes"), Choice(value="no", text="No")

    @property
    def bars(self) -> Bars:
        return {"approved": frozenset({"yes"})}


class SameThing(Protocol):
    """A picture beside a thing: is it the same thing, in the right context?

    The four answers of DOODL's appendix B. "same" is its main count; "same or similar", which
    allows differences, that of its Table S3.
    """

    beside = "thing"
    ordered = True
    right_of_noise = ("mismatch", "other")
    kind: Literal["same-thing"] = "same-thing"
    question: str = _ask("Is what the picture shows the same thing, and as described?")

    @property
    def choices(self) -> tuple[Choice, ...]:
        return (
            Choice(value="mismatch", text="Not as described, or highly unrealistic"),
            Choice(value="other", text="As described, but another thing"),
            Choice(value="similar", text="A similar thing, with significant differences"),
            Choice(value="same", text="It appears to be the very same thing"),
        )

    @property
    def bars(self) -> Bars:
        return {"same": frozenset({"same"}), "same or similar": frozenset({"same", "similar"})}


class Free(Protocol):
    """A question of your own about one picture, with answers of your own."""

    kind: Literal["free"] = "free"
    answers: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=("Yes", "No"), min_length=2, description="What can be answered."
    )
    success: tuple[str, ...] = Field(default=(), description="The answers that count; the first.")

    @model_validator(mode="after")
    def _check_answers(self) -> Free:
        if len(set(self.answers)) < len(self.answers):
            raise UserError("an answer is there twice", "write each once", "answers")
        for text in self.success:
            if text not in self.answers:
                known = ", ".join(self.answers)
                raise UserError(f"{text!r} is no answer", f"choose among {known}", "success")
        if len(set(self.success)) == len(self.answers):
            raise UserError("every answer would be a success", "leave one out", "success")
        return self

    @property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(value=text, text=text) for text in self.answers)

    @property
    def bars(self) -> Bars:
        return {"success": frozenset(self.success or self.answers[:1])}


PROTOCOLS: Registry[type[Protocol]] = Registry(
    "chainrule.protocols",
    "protocol",
    {"pairwise": Pairwise, "edit": EditSuccess, "same-thing": SameThing, "free": Free},
)
AnyProtocol = Annotated[SerializeAsAny[Protocol], WrapValidator(PROTOCOLS.parse)]
"""A protocol of any kind, as the type of a pydantic field."""
