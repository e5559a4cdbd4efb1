"""Checkpoints by their names on the hub: in its cache, or fetched after one question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chainrule.errors import UserError
from chainrule.models.folders import Folder, open_folder
from chainrule.models.quiet import first_line, reading

PATIENCE = 10.0
"""Seconds to wait for an answer."""
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
            _ask(name, f"{error.cause} in the hub's cache")
        else:
            return folder
    else:
        _ask(name, f"there is no folder {name!r}")
    from huggingface_hub import hf_hub_download

    with reading(name, "check the name and the connection"):
        index = Path(hf_hub_download(name, INDEX))
    kind = find_class(open_folder(index.parent, name).family)
    with reading(name, "check the name and the connection"):
        found = kind.download(name, variant=variant, trust_remote_code=False)
    return open_folder(Path(found), name)


def _ask(name: str, otherwise: str) -> None:
    """Raise UserError if the hub cannot be asked for a checkpoint. One question, no second."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except GatedRepoError as error:
        raise UserError(
            f"{name} asks to be agreed to on the hub",
            "agree on its page, and log in (hf auth login)",
            "model",
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{otherwise} and the hub does not give a model of that name",
            "check the name; of a private one, log in (hf auth login)",
            "model",
        ) from error
    except Exception as error:  # the connection's, of many kinds
        raise UserError(
            f"{otherwise} and the hub cannot be asked ({first_line(error)})",
            "check the name and the connection",
            "model",
        ) from error
