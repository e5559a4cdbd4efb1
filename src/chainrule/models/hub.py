"""Checkpoints by their names on the hub: in its cache, or fetched after one question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chainrule.errors import UserError
from chainrule.models.folders import Folder, open_folder
from chainrule.models.quiet import reading
from chainrule.vision import ask_hub

INDEX = "model_index.json"


def find_cached(name: str) -> Path | None:
    """The folder of a checkpoint in the hub's cache, if its index is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, INDEX)
    except HFValidationError as error:
        raise UserError(
            f"{name!r} is not a name on the hub", "write owner/name", "model"
        ) from error
    return Path(found).parent if isinstance(found, str) else None


def fetch(name: str, variant: str | None, find_class: Any) -> Folder:
    """A checkpoint's folder in the hub's cache, where it is put if it is not there.

    Args:
        name: owner/name.
        variant: Which of its files of weights.
        find_class: From an index's family to the pipeline's class.

    Raises:
        UserError: The hub has none, cannot be asked, or the family is not supported.
    """
    cached = find_cached(name)
    if cached is not None:
        folder = open_folder(cached, name)
        find_class(folder.family)
        try:
            folder.check(variant)
        except UserError as error:
            ask_hub(name, f"{error.cause} in the hub's cache", "model")
        else:
            return folder
    else:
        ask_hub(name, f"there is no folder {name!r}", "model")
    from huggingface_hub import hf_hub_download

    with reading(name, "check the name and the connection"):
        index = Path(hf_hub_download(name, INDEX))
    kind = find_class(open_folder(index.parent, name).family)
    with reading(name, "check the name and the connection"):
        found = kind.download(name, variant=variant, trust_remote_code=False)
    return open_folder(Path(found), name)
