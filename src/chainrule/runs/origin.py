"""What a picture carries: the run that made it, so that it can be made again."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pydantic import ValidationError

import chainrule
from chainrule.errors import UserError
from chainrule.runs.folder import SPEC, digest_file, write_atomically
from chainrule.runs.spec import RunSpec, explain_error, parse_spec
from chainrule.specs import Spec, list_files, map_files

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
        return parse_spec(self.run, "this picture's run")


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


def read_origin(picture: Path) -> Origin:
    """What a picture carries. Raises UserError if it is missing or carries nothing."""
    cure = "name a picture that chainrule wrote"
    try:
        with Image.open(picture) as image:
            text = getattr(image, "text", {}).get(CARRIED)
    except FileNotFoundError:
        raise UserError(f"there is no file {picture}", cure) from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"{picture} is not an image", cure) from error
    if text is None:
        raise UserError(f"{picture} carries no settings", cure)
    if len(text) > LONGEST:
        raise UserError(f"{picture} carries {len(text)} letters, too many for settings", cure)
    try:
        return Origin.model_validate_json(text)
    except ValidationError as error:
        raise UserError(
            f"{picture} is not of this version of chainrule ({explain_error(error)})", cure
        ) from error


def find_run(picture: Path) -> RunSpec:
    """The run that makes a picture again, its method alone if it is one image.

    The files that it was made of are looked for in the picture's own run folder, and nowhere else.

    Raises:
        UserError: If they are not there, or are not what they were.
    """
    origin = read_origin(picture)
    spec = origin.spec
    if origin.label is not None:
        spec = _pick_method(spec, origin.label)
    if not {file.as_posix() for file in list_files(spec)} <= set(origin.digests):
        raise UserError(f"{picture} names files without their digests", "name another picture")
    if not origin.digests:
        return spec
    for folder in (picture.resolve().parent, picture.resolve().parent.parent):
        if (folder / SPEC).is_file():
            break
    else:
        raise UserError(
            f"{picture} was made of {', '.join(origin.digests)}, which a picture does not carry",
            "name the picture in its run's own folder",
        )
    for name, digest in origin.digests.items():
        if not (folder / name).is_file() or digest_file(folder / name) != digest:
            raise UserError(f"{folder / name} is missing, or not what it was", "put it back")
    files = {Path(name): folder / name for name in origin.digests}
    return map_files(spec, lambda file: files[file])


def _pick_method(spec: RunSpec, label: str) -> RunSpec:
    """A run with one of its methods alone."""
    if label not in dict(spec.labelled()):
        raise UserError(f"this picture's run has no method {label!r}", "name another picture")
    return spec.keep({label})
