"""What the papers' rules and reference code's are worth: `python benchmarks/references.py`.

DiffEdit's mask, by the paper's rule and by diffusers': how much of the truly changed region each
finds (intersection over union with the pixels in which the pictures before and after differ), how
alike the two are, and what the edit is worth with each. Prompt-to-Prompt's words, matched globally
(the released code) and by the longest common run: on how many pairs of prompts the two differ, and
what the edit is worth with each. Pictures and judges are those of `editing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import chainrule
from base import AnyMethod, Options, machine, publish, shorten, table
from chainrule.diffusion.control import align
from chainrule.images import from_pil
from chainrule.losses import ImageClassifier
from chainrule.methods import DiffEdit, Method, PromptToPrompt, Task
from chainrule.methods.chunking import encode_photos
from chainrule.methods.diffedit import MaskRule, find_difference
from chainrule.metrics import Interval, bootstrap, wilson
from chainrule.models import Text
from chainrule.scenes.base import render
from chainrule.scenes.judge import load_judge
from editing import Edit, drop_mask, find_edits, judge_edits, make_cases, set_scale

KINDS = ("recolour", "reshape", "add", "restyle")
SCALE = 1.5
"""The guidance scale both ways, as `editing.py` chose it."""
RULES: tuple[MaskRule, ...] = ("paper", "diffusers")
THRESHOLDS = (0.5, 0.2)
"""The papers', and what `editing.py` chose."""


# --- masks --------------------------------------------------------------------------------------


def find_change(edit: Edit) -> Tensor:
    """Where the pictures before and after differ, (1, 64, 64)."""
    before, after = from_pil([render(edit.before), render(edit.after)])
    return ((before - after).abs().amax(dim=0, keepdim=True) > 0.02).float()


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of masks (B, 1, h, w) of 0 and 1; 1 where both are empty."""
    both, either = (pick(one, other).sum(dim=(1, 2, 3)) for pick in (torch.minimum, torch.maximum))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def find_masks(task: Task, method: DiffEdit) -> Tensor:
    """The masks of a task's pictures, in pixels, (B, 1, 64, 64)."""
    found = find_difference(
        task,
        encode_photos(task),
        rule=method.mask_rule,
        noises=method.noises,
        threshold=method.threshold,
        steps=method.steps,
    )
    return functional.interpolate(found, task.require_photo().images.shape[-2:])


# --- words --------------------------------------------------------------------------------------


def match_differs(text: Text, source: str, target: str) -> bool:
    """Whether the two ways to match the words of two prompts differ."""
    tokens = text.tokens(source), text.tokens(target)
    one, other = (align(*tokens, replaced=False, by=by) for by in ("global", "longest"))
    return not torch.equal(one.across, other.across)


def count_differing(text: Text, pairs: Sequence[tuple[str, str]]) -> Interval:
    return wilson(sum(match_differs(text, *pair) for pair in pairs), len(pairs))


# --- tables -------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """What methods are tried on.

    Args:
        tasks: The pictures, some at a time, without masks.
        edits: What is asked for, of all of them.
        judge: Who says whether a thing has the shape that was asked for.
        toy: Whether methods are shortened.
    """

    tasks: Sequence[Task]
    edits: Sequence[Edit]
    judge: ImageClassifier
    toy: bool

    def shorten(self, method: AnyMethod) -> AnyMethod:
        return shorten(method) if self.toy else method

    def judge_method(self, method: Method) -> Interval:
        """The share of pictures that are as asked, and otherwise as before."""
        images = torch.cat([method(task).images for task in self.tasks])
        return average(judge_edits(self.judge, self.edits, images)["both"])


def average(values: np.ndarray | Tensor) -> Interval:
    return bootstrap(torch.as_tensor(values).tolist())


def compare_masks(trial: Trial) -> str:
    """The table of DiffEdit's masks."""
    change, rows = torch.stack([find_change(edit) for edit in trial.edits]), []
    for threshold in THRESHOLDS:
        methods = {
            rule: trial.shorten(DiffEdit(strength=0.8, threshold=threshold, mask_rule=rule))
            for rule in RULES
        }
        masks = {
            rule: torch.cat([find_masks(task, method) for task in trial.tasks])
            for rule, method in methods.items()
        }
        alike = overlap(*masks.values())
        differ = f"{int((alike < 1).sum())} of {len(alike)}"
        for rule, mask in masks.items():
            found = average(overlap(mask, change))
            area = f"{100 * mask.mean():.0f} %"
            done = trial.judge_method(methods[rule])
            rows.append([rule, threshold, area, found, average(alike), differ, done])
    header = ["mask", "threshold", "area", "IoU with what changed", "IoU with the other rule's"]
    return table([*header, "masks that differ", "as asked, and the rest stayed"], rows)


def compare_words(trial: Trial, text: Text) -> str:
    """The tables of Prompt-to-Prompt's words."""
    pairs = [(edit.before.caption, edit.after.caption) for edit in trial.edits]
    some = {
        "of the edits": pairs,
        "of one picture and the next": list(pairwise(one for one, _ in pairs)),
    }
    counted = [[name, len(each), count_differing(text, each)] for name, each in some.items()]
    rows = []
    for replaced in (True, False):
        for by in ("global", "longest"):
            method = PromptToPrompt(
                cross=0.4, self_attention=0.2, steps=20, mix=None, replaced=replaced, align=by
            )
            others = "look where these did" if replaced else "look for themselves"
            rows.append([by, others, trial.judge_method(trial.shorten(method))])
    header = ["words matched", "words in the place of others", "as asked, and the rest stayed"]
    differing = ["pairs of prompts", "pairs", "share that the two ways match otherwise"]
    return f"{table(header, rows)}\n\n{table(differing, counted)}"


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--edits", type=int, default=12, toy=2, help="of each kind")
    options.add("--kinds", nargs="+", choices=KINDS, default=[*KINDS], toy=["recolour"])
    arguments = options.parse(argv)
    model, count = chainrule.load(), arguments.edits
    asked = {
        kind: list(find_edits(kind, count, 2000 * i))
        for i, kind in enumerate(KINDS)
        if kind in arguments.kinds
    }
    tasks = [set_scale(drop_mask(case.task()), SCALE) for case in make_cases(model, asked)]
    edits = [edit for some in asked.values() for edit in some]
    trial = Trial(tasks, edits, load_judge(), arguments.toy)
    text = (
        "## Reference code and papers\n\n"
        f"`python benchmarks/references.py --edits {count}` on {machine()}. {count} edits of each "
        f"of {len(asked)} kinds ({', '.join(asked)}), the pictures and judges of `editing.py`, "
        f"guidance {SCALE} both ways; 95 % intervals over pictures. DiffEdit (r = 0.8) with the "
        "mask of the paper's rule, and of diffusers':\n\n"
        f"{compare_masks(trial)}\n\n"
        "Prompt-to-Prompt by DDIM inversion, 20 steps, with the words of both prompts matched "
        "globally (as in the released code) and by the longest common run first:\n\n"
        f"{compare_words(trial, model.text)}"
    )
    publish("references", text, dry=arguments.dry)


if __name__ == "__main__":
    main()
