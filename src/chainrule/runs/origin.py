"""What a picture carries: the run that made it, so that it can be made again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin
from pydantic import ValidationError

import chainrule
from chainrule.bundled import WORLDS
from chainrule.errors import UserError
from chainrule.images import open_picture
from chainrule.models import BUNDLED
from chainrule.runs.folder import SPEC, digest_file, require_input, require_own, write_atomically
from chainrule.runs.spec import RunSpec, parse_spec
from chainrule.specs import (
    Spec,
    check_path,
    explain_error,
    list_files,
    list_networks,
    locate,
    make_whole,
    map_files,
)

CARRIED = "chainrule"
"""The name of the text in the picture."""
LONGEST = 1 << 20
"""How many letters that may have."""


class Origin(Spec):
    """The run of a picture, and which of its images this is.

    Args:
        program: The version that made it.
        run: What was asked for; files are named as in the run's folder.
        digests: Of these files.
        label: Whose image it is, by the method's name in the run; None: a picture of all.
        seed: The image's; None: a picture of all.
    """

    program: str
    run: dict[str, object]
    digests: dict[str, str]
    label: str | None = None
    seed: int | None = None

    @property
    def spec(self) -> RunSpec:
        """What was asked for. Raises UserError if it is of another version."""
        return parse_spec(self.run, "this picture's run", as_written=True)


def save_picture(image: Image.Image, path: Path, origin: Origin) -> None:
    """Write a PNG that carries its origin.

    Args:
        image: The picture.
        path: The file.
        origin: What it carries.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt(CARRIED, origin.model_dump_json())
    with write_atomically(path) as partial:
        image.save(partial, format="PNG", pnginfo=info)


def describe_origin(
    spec: RunSpec,
    digests: dict[str, str],
    label: str | None = None,
    seed: int | None = None,
) -> Origin:
    """What a picture of a run should carry.

    Args:
        spec: The run; its files are named as in its folder.
        digests: Of these files.
        label: Whose image it is; None: a picture of all.
        seed: The image's.
    """
    return Origin(
        program=chainrule.__version__,
        run=json.loads(spec.model_dump_json()),
        digests=digests,
        label=label,
        seed=seed,
    )


def read_origin(picture: str | Path) -> Origin:
    """What a picture carries. Raises UserError if it is missing or carries nothing."""
    picture = Path(picture)
    cure = "name a picture that chainrule wrote"
    text = _read_text(picture, cure)
    if text is None:
        raise UserError(f"{picture} carries no settings", cure)
    if len(text) > LONGEST:
        raise UserError(f"{picture} carries {len(text)} letters, too many for settings", cure)
    try:
        return Origin.model_validate_json(text)
    except ValidationError as error:
        if re.match(r'\s*\{\s*"version":\s*"0\.1\.', text):
            raise UserError(
                f"{picture} was made by chainrule 0.1, whose settings this version cannot read",
                "make it again with that version, or make it anew",
            ) from error
        raise UserError(
            f"{picture} is not of this version of chainrule ({explain_error(error)})", cure
        ) from error


def _read_text(picture: Path, cure: str) -> str | None:
    """The text in a picture; None if there is none."""
    try:
        with open_picture(picture) as image:
            if CARRIED in image.info:  # before the pixels, which need not be read
                return str(image.info[CARRIED])
            return getattr(image, "text", {}).get(CARRIED)
    except UserError as error:
        raise UserError(error.cause, cure) from error


def find_run(
    picture: str | Path,
    *,
    trust: bool = False,
    model: str | None = None,
    inputs: Sequence[str | Path] = (),
) -> RunSpec:
    """The run that makes a picture again, its method alone if it is one image.

    The files that it was made of are looked for among those that are named, and in the picture's
    own run folder; nowhere else. They are known by their digests.
    A picture may be a stranger's: of the networks that it names, those that chainrule does not
    bring are neither loaded nor looked for unless they are trusted.

    Args:
        picture: The picture.
        trust: Whether the networks that it names may be loaded.
        model: The model, named by whoever asks, in the place of the picture's.
        inputs: Files that it was made of, in any order, wherever they are and whatever their names.

    Raises:
        UserError: If files are not there or are not what they were, or if networks are named that
            are not trusted.
    """
    picture = Path(picture)
    origin = read_origin(picture)
    spec = origin.spec
    if origin.label is not None:
        spec = _pick_method(spec, origin.label)
    strange = list_strange(spec, named=model is not None)
    if strange and not trust:
        raise UserError(
            f"{picture} names networks that chainrule does not bring: {', '.join(strange)}",
            "say that you trust them if you do, or name the model yourself",
            "trust",
        )
    if model is not None:
        named = spec.checkpoint.model_copy(update={"model": locate(model)})
        spec = spec.model_copy(update={"checkpoint": named})
    return _find_inputs(picture, spec, origin.digests, _digest_given(inputs))


def list_strange(spec: RunSpec, *, named: bool = False) -> list[str]:
    """The networks and weights that a run names, but for those that chainrule brings.

    Args:
        spec: The run.
        named: Whether its model is left out.
    """
    if named:
        own = spec.checkpoint.model_copy(update={"model": BUNDLED})
        spec = spec.model_copy(update={"checkpoint": own})
    return [name for name in list_networks(spec) if name and name not in WORLDS]


def _digest_given(files: Sequence[str | Path]) -> dict[str, Path]:
    """Files by their digests. Raises UserError for what is no file."""
    found: dict[str, Path] = {}
    for file in files:
        whole = make_whole(check_path(file))
        if not os.path.isfile(whole):
            raise UserError(f"there is no file {file}", "name one", "input")
        found[digest_file(whole)] = whole
    return found


def _find_inputs(
    picture: Path, spec: RunSpec, digests: Mapping[str, str], given: Mapping[str, Path]
) -> RunSpec:
    """`spec` with its files as they are given, or in the folder of the picture's run."""
    names = list(dict.fromkeys(list_files(spec)))
    for name in names:
        require_input(name, picture)
        if name.as_posix() not in digests:
            raise UserError(f"{picture} names files without their digests", "name another picture")
    wanted = {name: digests[name.as_posix()] for name in names}
    for digest, file in given.items():
        if digest not in wanted.values():
            raise UserError(f"{picture} was not made of {file}", "name the very file", "input")
    places = {name: given[digest] for name, digest in wanted.items() if digest in given}
    missing = [name for name in names if name not in places]
    if missing:
        folder = _find_folder(picture, missing)
        for name in missing:
            here = folder / name
            if not here.is_file() or digest_file(here) != wanted[name]:
                cure = "put it back, or say where the same file is"
                raise UserError(f"{here} is missing, or not what it was", cure, "input")
            places[name] = here
    return map_files(spec, lambda file: places[file])


def _find_folder(picture: Path, names: Sequence[Path]) -> Path:
    """The folder of a picture's run, which holds `names`. Raises UserError if there is none."""
    for folder in (picture.resolve().parent, picture.resolve().parent.parent):
        if (folder / SPEC).is_file():
            require_own(folder)
            return folder
    made_of = ", ".join(name.as_posix() for name in names)
    raise UserError(
        f"{picture} was made of {made_of}, which a picture does not carry",
        "name the picture in its run's own folder, or say where the same files are",
        "input",
    )


def _pick_method(spec: RunSpec, label: str) -> RunSpec:
    """A run with one of its methods alone."""
    if label not in dict(spec.labelled()):
        raise UserError(f"this picture's run has no method {label!r}", "name another picture")
    return spec.keep({label})
