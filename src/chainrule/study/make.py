"""A study made of runs: which pictures are compared, under names that say nothing."""

from __future__ import annotations

import hashlib
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from PIL import Image

from chainrule.errors import UserError
from chainrule.images import load_picture, to_pil
from chainrule.noise import Stream
from chainrule.runs.folder import (
    SPEC,
    Folder,
    digest_file,
    make_folder,
    write_atomically,
    write_text,
)
from chainrule.specs import list_files, suggest
from chainrule.study.answers import Answers
from chainrule.study.assignment import permute
from chainrule.study.folder import ANSWERS, PICTURES, STUDY, StudyFolder, digest_text
from chainrule.study.protocols import NOISE, Pairwise, Protocol
from chainrule.study.spec import Cluster, Picture, Question, Source, Study

LARGEST = 2048
"""The longest side of a picture that is shown, in pixels: an original may be a camera's."""
Key = tuple[str, int, str]
"""What belongs together: a prompt, a seed, and the digest of what is shown beside it."""


@dataclass(frozen=True)
class Asked:
    """What a study should be like.

    Args:
        protocol: The kind of question.
        methods: Those that are compared, by their names in the runs; empty: all.
        against: Of pairs, the method that is in all of them; None: each pair.
        raters: How many are foreseen, at least 1.
        per_rater: How many questions each answers; None: all.
        checks: How many attention checks each gets besides.
        slips: How many of them a rater who counts may answer wrongly.
        seed: Of every random choice; None: drawn, and written down.
    """

    protocol: Protocol = field(default_factory=Pairwise)
    methods: tuple[str, ...] = ()
    against: str | None = None
    raters: int = 3
    per_rater: int | None = None
    checks: int = 2
    slips: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class _Found:
    """Where the pictures of a prompt and a seed are: by method, each with its run."""

    beside: Path | None
    files: dict[str, tuple[Path, int]] = field(default_factory=dict)


def create_study(
    path: str | Path,
    runs: Sequence[str | Path] | Mapping[str, str | Path],
    asked: Asked | None = None,
) -> StudyFolder:
    """Make a study of the pictures of some runs.

    Args:
        path: Its folder: one that is not there, or is empty.
        runs: The folders of the runs. What they made of the same prompt and the same seed (and, if
            it is shown, of the same original or thing) is compared. By names, these stand before
            the methods' own, or alone if a run has one method: so the same method can be compared
            with itself, on two checkpoints for example.
        asked: What it should be like.

    Raises:
        UserError: A folder holds no run, or no pictures of a method that is compared; or there is
            nothing to compare.
    """
    path, asked = Path(path), asked or Asked()
    _check_numbers(asked)
    _require_free(path)
    named = runs.items() if isinstance(runs, Mapping) else [("", each) for each in runs]
    folders = [Folder.open(each) for _, each in named]
    found = _find_pictures([name for name, _ in named], folders, asked.protocol)
    methods = _choose_methods(asked, found)
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    writer = _Writer(path, seed)
    questions = _ask(asked, methods, found, writer)
    checks = _make_checks(asked, questions, writer)
    study = Study(
        protocol=asked.protocol,
        methods=methods,
        against=asked.against,
        seed=seed,
        raters=asked.raters,
        per_rater=min(asked.per_rater or len(questions), len(questions)),
        slips=asked.slips,
        runs=tuple(Source(name=each.path.name, digest=digest_file(each.path / SPEC))
                   for each in folders),
        clusters=tuple(Cluster(prompt=prompt, seed=seed) for prompt, seed, _ in found),
        pictures=tuple(sorted(writer.pictures.values(), key=lambda each: each.name)),
        questions=questions,
        checks=checks,
    )  # fmt: skip
    text = study.model_dump_json(indent=1)
    for left in path.glob(f"{ANSWERS}*"):  # of one that was stopped while it was made
        left.unlink()
    Answers.create(path / ANSWERS, digest_text(text))
    write_text(path / STUDY, text)
    return StudyFolder.open(path)


def _check_numbers(asked: Asked) -> None:
    """Raise UserError for a number that cannot be."""
    least = {"raters": 1, "per_rater": 1, "checks": 0, "slips": 0, "seed": 0}
    for name, low in least.items():
        value = getattr(asked, name)
        if value is not None and value < low:
            raise UserError(f"{name} cannot be {value}", f"choose at least {low}", name)
    if asked.seed is not None and asked.seed >= 2**31:
        raise UserError(f"seed cannot be {asked.seed}", "choose one below 2147483648", "seed")
    if asked.against is not None and asked.protocol.compared != 2:
        raise UserError(
            f"{asked.protocol.kind} compares no pairs", "omit what all are compared with", "against"
        )


def _require_free(path: Path) -> None:
    """Raise UserError if a folder holds something; what a stopped beginning left is nothing."""
    begun = {PICTURES, ANSWERS, f"{ANSWERS}-wal", f"{ANSWERS}-shm"}
    if path.exists() and not (path.is_dir() and {each.name for each in path.iterdir()} <= begun):
        raise UserError(f"{path} is not empty", "choose another", "folder")


# --- what the runs have -------------------------------------------------------------------------


def _find_pictures(
    names: Sequence[str], folders: Sequence[Folder], protocol: Protocol
) -> dict[Key, _Found]:
    """The pictures of all runs, by what belongs together; methods by their names in the study."""
    found: dict[Key, _Found] = {}
    for number, (name, folder) in enumerate(zip(names, folders, strict=True)):
        inputs = folder.spec.inputs
        alike = len(inputs.prompt) != len(inputs.seed)
        for row, seed in enumerate(inputs.seed):
            beside = _find_beside(folder, protocol, seed)
            digest = "" if beside is None else digest_file(beside)
            key = (inputs.prompt[0 if alike else row], seed, digest)
            here = found.setdefault(key, _Found(beside))
            for label, _ in folder.spec.labelled():
                file = folder.image_path(label, seed)
                if file.is_file():
                    alone = len(folder.spec.methods) == 1
                    own = label if not name else name if alone else f"{name} {label}"
                    _add_picture(here, own, file, number)
    return found


def _add_picture(here: _Found, label: str, file: Path, run: int) -> None:
    """Add a method's picture; it may be in two runs if it is the same."""
    if label not in here.files:
        here.files[label] = (file, run)
    elif digest_file(here.files[label][0]) != digest_file(file):
        raise UserError(
            f"{here.files[label][0]} and {file} are two pictures of the same method, prompt "
            "and seed",
            "name one of these runs only, or give each run a name of its own",
        )


def _find_beside(folder: Folder, protocol: Protocol, seed: int) -> Path | None:
    """What is shown beside a picture: the original of an edit, the thing, or nothing."""
    inputs = folder.spec.inputs
    if protocol.beside is None:
        return None
    if protocol.beside == "original":
        drawn = folder.image_path("photo", seed)  # the model's own picture, if that was edited
        found = inputs.photo or (drawn if drawn.is_file() else None)
        wanted = "the run of an edit"
    else:
        targets = list_files(tuple(loss for loss in folder.spec.losses if loss.kind == "image"))
        found = next(iter((*inputs.pictures, *targets)), None)
        wanted = "a run that learnt pictures, or whose loss has one"
    if found is None:
        raise UserError(
            f"{folder.path} has no {protocol.beside} to show", f"name {wanted}", "protocol"
        )
    return found


def _choose_methods(asked: Asked, found: dict[Key, _Found]) -> tuple[str, ...]:
    """The methods that are compared. Raises UserError if there are too few."""
    there = list(dict.fromkeys(label for here in found.values() for label in here.files))
    if not there:
        raise UserError("these runs have no pictures", "name runs that are done")
    wanted = asked.methods or tuple(there)
    if asked.against is not None and asked.against not in wanted:
        wanted = (asked.against, *wanted)
    for label in wanted:
        if label not in there:
            field = "against" if label == asked.against else "methods"
            raise UserError(
                f"these runs have no pictures of {label!r}", suggest(label, there), field
            )
    if len(set(wanted)) < max(len(wanted), asked.protocol.compared):
        raise UserError(
            "a pair needs two methods" if len(wanted) < 2 else "a method is named twice",
            f"choose among {', '.join(there)}",
            "methods",
        )
    return wanted


# --- pictures and questions ---------------------------------------------------------------------


class _Writer:
    """Writes a study's pictures, and knows what they are.

    Args:
        path: The study's folder.
        seed: The study's.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path / PICTURES, seed
        self.pictures: dict[str, Picture] = {}
        self.sizes: dict[str, set[tuple[int, int]]] = {}
        path.mkdir(parents=True, exist_ok=True)
        make_folder(self.path)

    def name(self, *what: object) -> str:
        """A name that says nothing, and is the same whenever the study is made again."""
        whole = "/".join(map(str, (self.seed, "study/names", *what)))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def copy(
        self, file: Path, key: object, method: str | None = None, run: int | None = None
    ) -> str:
        """Write a copy of a picture, without anything that it carries; its name.

        Args:
            file: The picture.
            key: What tells it from the others.
            method: Whose it is.
            run: Which run's.
        """
        picture = to_pil(load_picture(file))
        picture.thumbnail((LARGEST, LARGEST))
        if method is not None:
            self.sizes.setdefault(method, set()).add(picture.size)
        return self.write(picture, key, method, run)

    def write(
        self, picture: Image.Image, key: object, method: str | None = None, run: int | None = None
    ) -> str:
        """Write a picture; its name. Otherwise as `copy`."""
        name = self.name("picture", key, method)
        if name not in self.pictures:
            file = self.path / f"{name}.png"
            with write_atomically(file) as partial:
                picture.save(partial, format="PNG")
            self.pictures[name] = Picture(
                name=name, digest=digest_file(file), method=method, run=run
            )
        return name

    def load(self, name: str) -> Image.Image:
        """A picture that was written."""
        return to_pil(load_picture(self.path / f"{name}.png"))


def _ask(
    asked: Asked, methods: Sequence[str], found: dict[Key, _Found], writer: _Writer
) -> tuple[Question, ...]:
    """The questions about the methods. Raises UserError if there is none about one of them."""
    groups = [(label,) for label in methods] if asked.protocol.compared == 1 else [
        pair for pair in combinations(methods, 2) if asked.against in (None, *pair)
    ]  # fmt: skip
    questions: list[Question] = []
    seen: set[str] = set()
    for index, (key, here) in enumerate(found.items()):
        beside = None
        for group in groups:
            if not all(label in here.files for label in group):
                continue
            if here.beside is not None:
                beside = writer.copy(here.beside, key[2])
            names = [writer.copy(file, key, label, run)
                     for label in group for file, run in [here.files[label]]]  # fmt: skip
            name = writer.name("question", len(questions))
            seen |= set(group)
            questions.append(
                Question(name=name, cluster=index, pictures=tuple(names), beside=beside)
            )
    for label in methods:
        if label not in seen:
            raise UserError(
                f"{label} has no picture of a prompt and seed that another method has too",
                "name runs of the same prompts and seeds, or omit it",
                "methods",
            )
    if len(set(map(frozenset, writer.sizes.values()))) > 1:
        warnings.warn(
            "the methods' pictures differ in size, by which raters may tell them apart",
            stacklevel=3,
        )
    return tuple(questions)


def _make_checks(
    asked: Asked, questions: Sequence[Question], writer: _Writer
) -> tuple[Question, ...]:
    """Attention checks about some of the questions' pictures, of one kind after the other."""
    kinds = asked.protocol.checks
    order = permute(writer.seed, "study/checks", 0, len(questions))
    checks = []
    for k in range(asked.checks):
        question, kind = questions[order[k % len(order)]], kinds[k % len(kinds)]
        pictures, right = question.pictures, asked.protocol.right_of_noise
        if kind == NOISE:
            noise = writer.write(_draw_noise(writer, k, pictures[0]), ("noise", k))
            pictures = (*pictures[:-1], noise)
        else:
            askable = asked.protocol.askable
            (pick,) = permute(writer.seed, "study/asked", k, len(askable))[:1]
            right = (askable[pick].value,)
        changes = {"name": writer.name("check", k), "pictures": pictures, "check": kind}
        checks.append(question.model_copy(update={**changes, "right": right}))
    return tuple(checks)


def _draw_noise(writer: _Writer, k: int, like: str) -> Image.Image:
    """A picture of noise, as large as another."""
    width, height = writer.load(like).size
    return to_pil(Stream((writer.seed,), "study/noise").uniform(k, (3, height, width))[0])
