"""A study as it is written down: what is asked of which pictures, and what each of them is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chainrule.specs import Spec
from chainrule.study.protocols import AnyProtocol

HEX = r"^[0-9a-f]{16}$"
Name = Annotated[str, Field(pattern=HEX)]
"""Of a picture or a question: it says nothing about what it names."""


class Source(Spec):
    """A run whose pictures are shown.

    Args:
        name: Its folder's name.
        digest: SHA-256 of its spec.
    """

    name: str
    digest: str


class Cluster(Spec):
    """What belongs together: all pictures of one prompt and seed, and of one original.

    Args:
        prompt: What they should show.
        seed: Theirs.
    """

    prompt: str
    seed: int


class Picture(Spec):
    """A picture of a study, a file `pictures/<name>.png`.

    Args:
        name: Random.
        digest: SHA-256 of the file.
        method: Whose it is; None: of nobody that is compared (an original, a thing, noise).
        run: Which of the study's runs it comes from; None: of none.
    """

    name: Name
    digest: str
    method: str | None = None
    run: int | None = None


class Question(Spec):
    """What a rater is asked once.

    Args:
        name: Random.
        cluster: Which of the study's clusters it is about.
        pictures: Names of those that are compared, in the order of the study's methods.
        beside: The name of the original, or of the thing, that is shown with them.
        check: Of which kind, if it is an attention check.
        right: Of a check, the outcomes of the first of `pictures` that are right.
    """

    name: Name
    cluster: int
    pictures: tuple[Name, ...]
    beside: Name | None = None
    check: str | None = None
    right: tuple[str, ...] = ()


class Study(Spec):
    """All that a study asks, and what is needed to replay who saw what.

    Args:
        protocol: The kind of question.
        methods: Those that are compared.
        against: The one that all others are compared with; None: each with each.
        seed: Of every random choice.
        raters: How many are foreseen.
        per_rater: How many questions each of them answers, the checks not counted.
        slips: How many checks a rater who counts may have answered wrongly.
        runs: Where the pictures come from.
        clusters: Prompts and seeds.
        pictures: All of them.
        questions: Those about the methods.
        checks: Attention checks; each rater gets all of them.
    """

    version: Literal[1] = 1
    protocol: AnyProtocol
    methods: tuple[str, ...]
    against: str | None = None
    seed: int = Field(ge=0, lt=2**31)
    raters: int = Field(ge=1)
    per_rater: int = Field(ge=1)
    slips: int = Field(ge=0)
    runs: tuple[Source, ...]
    clusters: tuple[Cluster, ...]
    pictures: tuple[Picture, ...]
    questions: tuple[Question, ...] = Field(min_length=1)
    checks: tuple[Question, ...]
