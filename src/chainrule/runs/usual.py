"""What is done where nothing is named: the methods of guiding, editing and tuning, and the presets.

Every face of the library asks here, so that a page does what the same words do in a terminal.
"""

from __future__ import annotations

from chainrule.bundled import find_world
from chainrule.errors import UserError
from chainrule.methods.base import PRESETS, Situation

DRAWING = "plain"
"""The method that draws images of a prompt and does nothing else."""
BEST = "best"
BEST_METHOD = "hybrid"
"""The preset that is a method: what finds most within a budget, with the model's own settings."""
PAPER_PHOTO_SCALE = 3.0
"""The guidance scale of edits in EDICT's paper."""


def describe_situation(
    preset: str | None, *, model: str | None, loss: str | None, photo: bool
) -> Situation:
    """What a method's settings are chosen by.

    Args:
        preset: As it was typed; None: none was.
        model: The checkpoint's name; None: a bundled one.
        loss: The kind of the first loss; None: there is none.
        photo: Whether a photo is edited.

    Raises:
        UserError: There is no such preset.
    """
    world = find_world(model)
    name = _name_preset(preset, bundled=world is not None)
    return Situation(name, loss or "classifier", photo, noun=world.noun if world else "")


def choose_guidance(preset: str | None, *, model: str | None, photo: bool) -> float | None:
    """The guidance scale where none is named; None: the model's own.

    Args:
        preset: As it was typed; None: none was.
        model: The checkpoint's name; None: a bundled one.
        photo: Whether a photo is edited.
    """
    bundled = find_world(model) is not None
    faithful = _name_preset(preset, bundled=bundled) == PRESETS[0]
    return PAPER_PHOTO_SCALE if bundled and photo and faithful else None


def choose_guiding(preset: str | None) -> list[str]:
    """The methods that draw images of a prompt, guided by a loss.

    Args:
        preset: As it was typed; None: none was.
    """
    return [DRAWING, *([BEST_METHOD] if preset in (None, BEST) else ["one-step", "doodl"])]


def choose_editing(preset: str | None, *, losses: bool) -> list[str]:
    """The methods that edit a photo.

    Args:
        preset: As it was typed; None: none was.
        losses: Whether there is a loss.
    """
    if preset == BEST:
        return ["reconstruction", BEST_METHOD]
    return ["reconstruction", "one-step", "doodl"] if losses else ["reconstruction", "edict"]


def choose_tuning(model: str | None) -> list[str]:
    """The methods that learn from pictures, as one types them.

    Args:
        model: The checkpoint's name; None: a bundled one.
    """
    # the bundled models are small: all of their weights learn more than a LoRA, and fit anywhere
    return ["dreambooth" if find_world(model) is not None else "dreambooth:rank=8"]


def _name_preset(name: str | None, *, bundled: bool) -> str:
    """The preset that was named, or the model's own. Raises UserError if there is none such.

    Args:
        name: As it was typed; None: none was.
        bundled: Whether the model is a bundled one.
    """
    if name is None or name == BEST:
        return "tuned" if bundled else PRESETS[0]
    if name not in PRESETS:
        known = ", ".join((*PRESETS, BEST))
        raise UserError(f"there is no preset {name!r}", f"choose {known}", "preset")
    return name
