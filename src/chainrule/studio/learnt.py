"""What runs have learnt, for the pages to choose from: words, LoRAs, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chainrule.methods.registry import METHODS
from chainrule.models import embedding_files
from chainrule.studio.listing import Listing

WORD, LORA, PIPELINE = "embedding.safetensors", "pytorch_lora_weights.safetensors", "pipeline"
"""What a method that trains calls its files; those of two methods have something before it."""
Choice = tuple[str, str]
"""As it is called, and its path."""


@dataclass(frozen=True)
class Learnt:
    """What was learnt, the newest first.

    Args:
        words: Files of embeddings.
        loras: Files of LoRAs.
        checkpoints: Folders of whole pipelines.
    """

    words: tuple[Choice, ...] = ()
    loras: tuple[Choice, ...] = ()
    checkpoints: tuple[Choice, ...] = ()


def find_learnt(listing: Listing) -> Learnt:
    """What all runs have learnt.

    Args:
        listing: The runs.
    """
    found: dict[str, list[Choice]] = {WORD: [], LORA: [], PIPELINE: []}
    for run, path in _list_places(listing):
        for kind, choices in found.items():
            if path.name.endswith(kind):
                said = f"{_read_word(path)} of {run}" if kind == WORD else run
                choices.append((said, str(path)))
    return Learnt(tuple(found[WORD]), tuple(found[LORA]), tuple(found[PIPELINE]))


def _list_places(listing: Listing) -> Iterator[tuple[str, Path]]:
    """The files and folders of all runs in which something was trained, by the runs' names."""
    known = METHODS.known
    for card in listing.list_cards():
        if any(kind in known and known[kind].trains for kind in card.methods):
            for path in sorted(listing.desk.path(card.name).iterdir()):
                if not path.is_symlink():
                    yield card.name, path


def _read_word(path: Path) -> str:
    """The word that a file teaches, as it is typed; of one that cannot be read, the file's name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            named = (file.metadata() or {}).get(embedding_files.WORD)
            keys = sorted(set(file.keys()) - set(embedding_files.ENCODERS))
    except (OSError, SafetensorError):
        return path.stem
    return named or ", ".join(keys) or path.stem
