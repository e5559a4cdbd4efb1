"""What a run is asked for, whole: enough to do it again, and to write it down as JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    WrapValidator,
)

from chainrule.errors import UserError, find_reason
from chainrule.losses.base import LossSpec
from chainrule.losses.registry import AnyLoss, parse_loss
from chainrule.memory import parse_bytes
from chainrule.methods.base import Method
from chainrule.methods.registry import METHODS
from chainrule.models import BUNDLED, parse_embedding, parse_lora
from chainrule.noise import read_seeds
from chainrule.specs import (
    AS_WRITTEN,
    NETWORK,
    File,
    NetworkName,
    Spec,
    check_path,
    expand,
    explain_error,
    make_whole,
)

VERSION = 2
"""Of the format of specs."""
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
AnyMethod = Annotated[SerializeAsAny[Method], WrapValidator(METHODS.parse)]
"""A method of any kind, as the type of a pydantic field."""


def _require_distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise UserError("a seed is named twice", "name each once", "seed")
    return seeds


def parse_size(value: Any) -> Any:
    """The (height, width) that a text names. Anything else stays.

    >>> parse_size("512x768")
    (512, 768)
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", value)
    if not match:
        raise UserError(
            f"{value!r} is not a size", "write height and width in pixels, as in 512x512"
        )
    return int(match[1]), int(match[2])


def parse_memory(value: Any) -> Any:
    """The bytes that a text names ("8GB"). Anything else stays.

    Raises:
        UserError: For what is no amount, or so small a number that its unit was left out.
    """
    plain = str(value).strip()
    if not isinstance(value, bool) and re.fullmatch(r"\d{1,4}(\.\d+)?", plain) and float(plain):
        raise UserError(
            f"{plain} is so many bytes, in which nothing fits",
            f"did you mean {plain}GiB?",
            "memory",
        )
    return parse_bytes(value) if isinstance(value, str) and not value.isdecimal() else value


def _methods_or_one(value: Any) -> Any:
    return (value,) if isinstance(value, (Method, Mapping)) else value


def _losses_or_one(value: Any) -> Any:
    """Losses as settings, or as lines (`brightness=0.9`); one may stand alone."""
    several = (value,) if isinstance(value, (str, LossSpec, Mapping)) else value
    if not isinstance(several, (list, tuple)):
        return several
    return tuple(parse_loss(each) if isinstance(each, str) else each for each in several)


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, (str, Path)) else value


def _pairs_or_one(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, Mapping) else _one_or_more(value)


def _write_embedding(value: Any, info: ValidationInfo) -> Any:
    """An embedding as it is typed, its file by its whole path if it is here."""
    if info.context == AS_WRITTEN:
        return value
    word, file = parse_embedding(check_path(value))
    return f"{word}={_whole(file)}" if word else _whole(file)


def _write_lora(value: Any, info: ValidationInfo) -> Any:
    """A LoRA as it is typed, its file by its whole path if it is here."""
    if info.context == AS_WRITTEN:
        return value
    file, scale = parse_lora(check_path(value))
    return _whole(file) if scale == 1.0 else f"{_whole(file)}:{scale!r}"


def _whole(file: Path) -> str:
    return str(make_whole(file)) if os.path.exists(file) else str(file)


EmbeddingName = Annotated[str, NETWORK, BeforeValidator(_write_embedding)]
LoraName = Annotated[str, NETWORK, BeforeValidator(_write_lora)]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**31)], ...],
    BeforeValidator(read_seeds),
    AfterValidator(_require_distinct),
]
Prompts = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
Files = Annotated[tuple[File, ...], BeforeValidator(_one_or_more)]


class Checkpoint(Spec):
    """Which model, and how it is loaded."""

    model: NetworkName = Field(
        default=BUNDLED,
        description="'scenes' or 'sprites' (bundled), a diffusers folder, a file, or owner/name.",
    )
    size: Annotated[tuple[int, int] | None, BeforeValidator(parse_size)] = Field(
        default=None, description="The images' height and width in pixels, 512x512; the model's."
    )
    variant: str | None = Field(
        default=None, description="Which of a checkpoint's files, as in diffusers: fp16."
    )
    config: NetworkName | None = Field(
        default=None,
        description="Of a single file, the diffusers folder of its configuration and tokenizer.",
    )
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        default="float32", description="The network's numbers: float32, bfloat16 ..."
    )
    device: str = Field(default="cpu", min_length=1, description="cpu, cuda, cuda:1, mps ...")
    embedding: Annotated[tuple[EmbeddingName, ...], BeforeValidator(_pairs_or_one)] = Field(
        default=(), description="Words to be taught: textual inversions (FILE or WORD=FILE)."
    )
    lora: Annotated[tuple[LoraName, ...], BeforeValidator(_pairs_or_one)] = Field(
        default=(), description="Changes of the weights: LoRA (FILE or FILE:SCALE, as a.pt:0.5)."
    )


class Inputs(Spec):
    """What the images are made of, and what they should show."""

    prompt: Prompts = Field(
        default=("",), description="What the images should show; a class, for models of classes."
    )
    negative_prompt: str = Field(default="", description="What the images should not show.")
    guidance_scale: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Classifier-free guidance; 1 is none; the model's own.",
    )
    seed: Seeds = Field(
        default=(0,), min_length=1, description="A seed, a list (1,5,9) or a range (0-3)."
    )
    photo: File | None = Field(default=None, description="A picture to edit, of any size.")
    source: str = Field(default="", description="What the picture shows; nothing: unconditional.")
    mask: File | None = Field(
        default=None, description="Where it may change: a picture as large (white)."
    )
    mask_text: str | None = Field(
        default=None, description="It may change where this prompt makes a difference (DiffEdit)."
    )
    mask_colour: str | None = Field(default=None, description="It may change where it is so.")
    exact: bool = Field(
        default=False, description="Keep the picture's own pixels outside the mask."
    )
    native: bool = Field(
        default=False, description="Write the model's own size, not the picture's."
    )
    pictures: Files = Field(default=(), description="Pictures to learn from.")

    @property
    def edits(self) -> bool:
        """Whether the images are made of a picture."""
        return self.photo is not None or bool(self.source.strip())

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask of any kind."""
        return any(each is not None for each in (self.mask, self.mask_text, self.mask_colour))


class RunSpec(Spec):
    """All that decides what a run makes."""

    version: Literal[2] = 2
    checkpoint: Checkpoint = Checkpoint()
    inputs: Inputs = Inputs()
    losses: Annotated[tuple[AnyLoss, ...], BeforeValidator(_losses_or_one)] = Field(
        default=(), description="What the images should be like."
    )
    methods: Annotated[tuple[AnyMethod, ...], BeforeValidator(_methods_or_one)] = Field(
        min_length=1, description="What is done, in turn."
    )
    memory: Annotated[int | None, BeforeValidator(parse_memory)] = Field(
        default=None,
        gt=0,
        description="A limit, as in 8GB: the fastest plan that fits is taken.",
    )
    stop_after: Mapping[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="Of a method that was stopped, how many iterations it is done again for, "
        "the draws of a search among them.",
    )

    def labelled(self) -> Iterator[tuple[str, Method]]:
        """Each method with its name in the run: its kind, and what tells it from its like."""
        for method in self.methods:
            yield (
                label_method(method, [each for each in self.methods if each.kind == method.kind]),
                method,
            )

    def keep(self, labels: Collection[str]) -> RunSpec:
        """The same run with some of its methods only, named as they are in it."""
        kept = [(label, method) for label, method in self.labelled() if label in labels]
        spec = self.model_copy(update={"methods": tuple(method for _, method in kept)})
        # fewer settings may be needed to tell them apart
        names = {old: new for (old, _), (new, _) in zip(kept, spec.labelled(), strict=True)}
        stops = {names[label]: n for label, n in self.stop_after.items() if label in names}
        return spec.model_copy(update={"stop_after": stops})

    def dump(self) -> str:
        """As JSON."""
        return self.model_dump_json(indent=2)


def label_method(method: Method, alike: list[Method]) -> str:
    """The name of a method among all of its kind in a run, which differ in some settings.

    Args:
        method: The method.
        alike: All of its kind in the run, itself among them.
    """
    mine = method.model_dump()
    every = [each.model_dump() for each in alike]
    telling = [name for name in mine if any(each[name] != mine[name] for each in every)]
    return " ".join([method.kind, *(f"{name}={_write(mine[name])}" for name in telling)])


def _write(value: Any) -> str:
    if isinstance(value, Mapping):
        return "+".join(f"{name}-{part}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def parse_spec(
    values: Mapping[str, Any], what: str = "this run", *, as_written: bool = False
) -> RunSpec:
    """A run's spec, checked.

    Args:
        values: As its JSON.
        what: What it is, for messages.
        as_written: Whether the networks that it names stay as they are named, and nothing is
            looked for; if not, what is here has its whole path.

    Raises:
        UserError: For what is out of range, unknown, or of another version.
    """
    version = values.get("version", VERSION)
    if version != VERSION:
        raise UserError(
            f"{what} is of another version of chainrule (format {version!r}, not {VERSION})",
            "make it anew",
        )
    try:
        spec = RunSpec.model_validate(values, context=AS_WRITTEN if as_written else None)
    except ValidationError as error:
        raise explain_error(error) from error
    labels = [label for label, _ in spec.labelled()]
    if len(set(labels)) < len(labels):
        raise UserError(
            "a method is named twice with the same settings", "name each once", "method"
        )
    for label in spec.stop_after:
        if label not in labels:
            raise UserError(f"there is no method {label!r} to stop", f"choose {', '.join(labels)}")
    try:
        spec.dump()
    except ValueError as error:  # half of a surrogate pair, from bytes of another encoding
        raise UserError(f"{what} has words that are not UTF-8", "write them anew") from error
    return spec


def read_spec(path: str | Path, *, as_written: bool = False) -> RunSpec:
    """The spec in a JSON file, or in YAML where PyYAML is installed.

    Args:
        path: The file.
        as_written: As in `parse_spec`.

    Raises:
        UserError: If there is no such file, or it is not a spec.
    """
    cure = "name the spec of a run"
    try:
        found = expand(path)
        if found.exists() and not found.is_file():  # a pipe would never end
            raise UserError(f"{path} is not a file", cure)
        text = found.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", cure) from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({find_reason(error)})", cure) from error
    return parse_text(text, found, as_written=as_written)


def parse_text(text: str, path: Path, *, as_written: bool = False) -> RunSpec:
    """The spec that a file holds.

    Args:
        text: What is in the file.
        path: The file; whether it is YAML is in its name.
        as_written: As in `parse_spec`.

    Raises:
        UserError: If it is not a spec.
    """
    try:
        values = _parse_yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (ValueError, RecursionError) as error:
        cause = f"{path} is not JSON ({find_reason(error)})"
        raise UserError(cause, "mend it, or make it anew") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not the spec of a run", "it is a mapping with methods")
    return parse_spec(values, str(path), as_written=as_written)


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise UserError("reading YAML needs PyYAML", "pip install pyyaml, or write JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(find_reason(error)) from error
