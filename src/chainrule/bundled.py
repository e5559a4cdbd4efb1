"""The bundled worlds: where their weights are, what is told of each, and their networks by name.

A world is a small text-to-image model with all that its losses and methods ask: a classifier, a
CLIP, a rater, networks that see noise, and judges. By a world's name each of them is found, so that
"sprites" is that world's classifier where a classifier is named, and its CLIP where a CLIP is.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal

from chainrule.errors import UserError

Kind = Literal[
    "pipeline",
    "classifier",
    "judge",
    "clip",
    "judge_clip",
    "noise_aware",
    "noise_aware_encoder",
    "rater",
]
"""Which of a world's networks: the property of `World` that says where it is."""


@dataclass(frozen=True)
class World:
    """A bundled world.

    Args:
        name: What it is called, where a model or a network is named.
        folder: Where its weights are.
        example: A prompt that its model knows.
        noun: A word for whatever it draws; empty: it knows none.
        guidance_scale: The guidance scale of its model.
        photo_scale: The same, for editing a photo.
    """

    name: str
    folder: Path
    example: str
    noun: str = ""
    guidance_scale: float = 3.0
    photo_scale: float = 1.5

    @property
    def pipeline(self) -> Path:
        """Its model, as diffusers has it."""
        return self.folder / "pipeline"

    @property
    def classifier(self) -> Path:
        """What images are guided by."""
        return self.folder / "classifier"

    @property
    def judge(self) -> Path:
        """An independent classifier, by which they are judged."""
        return self.folder / "judge"

    @property
    def clip(self) -> Path:
        """The CLIP that images are guided by."""
        return self.folder / "clip"

    @property
    def judge_clip(self) -> Path:
        """An independent CLIP, by which they are judged."""
        return self.folder / "judge_clip"

    @property
    def noise_aware(self) -> Path:
        """The classifier of noisy latents."""
        return self.folder / "noise_aware_classifier"

    @property
    def noise_aware_encoder(self) -> Path:
        """The encoder of noisy latents, in the space of `clip`."""
        return self.folder / "noise_aware_encoder"

    @property
    def rater(self) -> Path:
        """The aesthetic head on `clip`: a file."""
        return self.folder / "rater" / "model.safetensors"

    @property
    def installed(self) -> bool:
        """Whether its model is here."""
        return (self.pipeline / "model_index.json").exists()

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What its captions say, those worth telling first: its networks know no other words.

        They are a list in `words.json`, beside the weights; without that file there are none.
        """
        file = self.folder / "words.json"
        return tuple(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else ()

    def find(self, kind: Kind) -> Path:
        """Where one of its networks is. Raises UserError if it is not installed."""
        path: Path = getattr(self, kind)
        if not path.exists():
            raise UserError(
                f"the world {self.name!r} has no {kind.replace('_', ' ')} here ({path} is missing)",
                f"make it, with python -m chainrule.{self.name}.train",
                "model" if kind == "pipeline" else None,
            )
        return path


HERE = Path(__file__).parent
SCENES = World("scenes", HERE / "scenes" / "weights", "a red shape on a white background", "shape")
"""Coloured shapes; meant where no world is named and no model says which."""
SPRITES = World("sprites", HERE / "sprites" / "weights", "a bird on a blue background")
"""Emoji."""
WORLDS = {world.name: world for world in (SCENES, SPRITES)}
"""Every world by its name. A folder of such a name is meant by a path: `./sprites`."""


MARK = "chainrule.json"
"""The file in a saved pipeline's folder that names the world whose model was trained further."""


def find_world(name: str | Path | None) -> World | None:
    """The world whose networks know a model's images; None if none do.

    Args:
        name: A world's name, the folder of its pipeline or of one that was tuned from it; None:
            `SCENES`.

    Raises:
        UserError: The folder says that it is of a world that is not known here.
    """
    if name is None:
        return SCENES
    if isinstance(name, str) and name in WORLDS:
        return WORLDS[name]
    path = Path(os.path.expanduser(name))
    own = next((world for world in WORLDS.values() if path == world.pipeline), None)
    return own or _read_mark(path / MARK)


def write_mark(folder: Path, world: str) -> None:
    """Say of a pipeline's folder which world it was tuned from.

    Args:
        folder: The folder.
        world: The world's name.
    """
    (folder / MARK).write_text(json.dumps({"world": world}) + "\n", encoding="utf-8")


def _read_mark(file: Path) -> World | None:
    """The world that a mark names; None if there is no mark."""
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = None
    name = said.get("world") if isinstance(said, dict) else None
    if not isinstance(name, str) or name not in WORLDS:
        raise UserError(
            f"{file} names no world that is known here ({', '.join(WORLDS)})",
            "delete it, and name the networks of losses and methods",
            "model",
        )
    return WORLDS[name]


def find_network(name: str | Path | None, kind: Kind) -> str | Path:
    """Where a network is: a world's own by the name of the world, anything else as it was named.

    Args:
        name: A world's name, a folder, a file, or owner/name; None or "": `SCENES`.
        kind: Which of the world's networks is meant.

    Raises:
        UserError: The world has none of that kind here.
    """
    if not name:
        return SCENES.find(kind)
    return WORLDS[str(name)].find(kind) if is_world(name) else name


def is_world(name: str | Path | None) -> bool:
    """Whether a network is named by a world; nothing stands for `SCENES`.

    Args:
        name: As in `find_network`.
    """
    return not name or (isinstance(name, str) and name in WORLDS)


# --- words that a world does not know ------------------------------------------------------------

MANY_WORDS = 40
"""How many of the words that it knows a model tells."""


def warn_unknown_words(
    prompts: Sequence[str],
    known: Sequence[str],
    taught: Sequence[str] = (),
    who: str = "the model",
) -> None:
    """Warn of words that a network has never seen.

    Args:
        prompts: The prompts.
        known: All words that it has seen, lower case, those worth telling first.
        taught: Words that it was taught since.
        who: What the network is called.
    """
    for prompt in prompts:
        # those with a hyphen among them, which would be read as two
        whole = (*taught, *(word for word in known if "-" in word))
        for word in sorted(whole, key=len, reverse=True):
            prompt = re.sub(re.escape(word), " ", prompt, flags=re.IGNORECASE)
        words = re.findall(r"[^\s.,;:!?'\"(){}-]+", prompt.lower())
        warn_words([word for word in words if word not in known], known, who)


def warn_words(words: Sequence[str], known: Sequence[str] = (), who: str = "the model") -> None:
    """Warn of words, if there are any, and tell some of those that are known instead."""
    if words:
        found = list(dict.fromkeys(word[:40] for word in words))
        unknown = ", ".join(found[:8]) + (" ..." if len(found) > 8 else "")
        rest = f"; it knows {_name_some(found, known)}" if known else ""
        warnings.warn(f"{who} does not know the words: {unknown}{rest}", stacklevel=4)


def _name_some(unknown: Sequence[str], known: Sequence[str]) -> str:
    """Words that are known; of many, those that are like the unknown ones first, and a few."""
    if len(known) <= MANY_WORDS:
        return ", ".join(known)
    near = [like for word in unknown for like in get_close_matches(word, known, n=2)]
    return f"{', '.join(list(dict.fromkeys([*near, *known]))[:MANY_WORDS])} ..."
