"""Prompt-to-Prompt: Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", 2022, algorithm 1.

    M_t, M*_t = the maps of source and target;   x*_s = DM(x*_t, target) with Edit(M_t, M*_t, t)       eq. 3-6

Two chains from one noise; the target borrows where the source looked: its cross-attention for a share `cross` of the
steps (words that are swapped, words that are new, words that are weighted), its self-attention for a share `own`, and,
if words are named for a local blend, its latents where neither looks at these. A photo is inverted exactly by EDICT
instead of the null-text optimisation.
Limits: needs cross-attention (U-Nets, PixArt; not SD3, Flux); shapes change only as far as the shares let them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from chainrule.control import Alignment, AttentionEdit, Beside, Blend, Pairing, align
from chainrule.errors import UserError
from chainrule.gradient.base import OnStep
from chainrule.methods.base import Result, Task, by_parts, generate, inverted
from chainrule.models.base import Text
from chainrule.step.base import Step
from chainrule.step.ddim import DDIM
from chainrule.step.edict import EDICT

_DDIM, _EDICT = DDIM(), EDICT()


@dataclass(frozen=True)
class Attention:
    """What of the source's attention the target takes.

    `cross` and `own` are shares of the steps; `replaced` says whether a word in another's place looks where that did
    (replacement) or for itself (refinement); `weights` scale the maps of the target's words, `blend` names words of
    either prompt outside of which the source is kept, from a share `blend_from` of the steps on.
    """

    cross: float = 0.8
    own: float = 0.4
    replaced: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)
    blend: Sequence[str] = ()
    blend_from: float = 0.2


def side_by_side(task: Task, source: str, target: str, attention: Attention | None = None, *, steps: int = 50) -> Task:
    """`task` with the photos' chain beside its own, for `sample`, `doodl` and whoever walks it.

    `source` and `target` are the prompts that the photo's denoiser and the task's were told. The chain must have
    `steps` and start where both do.
    """
    times = task.model.schedule.times(steps)
    edit, blend = _edit(task.model.text, times, source, target, attention or Attention())
    denoiser = Beside(task.edited().denoiser, task.denoiser, edit)
    return replace(task, denoiser=denoiser, constraints=(Pairing(edit, blend), *task.constraints))


def prompt_to_prompt(
    task: Task,
    source: str,
    target: str,
    *,
    attention: Attention | None = None,
    steps: int = 50,
    step: Step = _EDICT,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos, shown by `source`, as `target` says (the prompts of the photos' denoiser and the task's).

    Photos are inverted by `step`; pictures that the model made itself start at their own noise, by DDIM. The result
    holds the target's attention, the mean over the chain. Raises UserError if the network has no cross-attention.
    """

    def work(part: Task) -> Result:
        x_T = part.edited().x_T
        start = inverted(part, steps=steps, step=step, on_step=on_step) if x_T is None else x_T
        pair = side_by_side(part, source, target, attention, steps=steps)
        solver = step if x_T is None else _DDIM
        result = generate(pair, pair.denoiser, start, steps, step=solver, on_step=on_step)
        seen = pair.denoiser.edit.maps.mean() if isinstance(pair.denoiser, Beside) else None
        return result if seen is None else replace(result, attention=seen.chunk(2)[1])

    return by_parts(task, work)


def _edit(
    text: Text, times: Tensor, source: str, target: str, attention: Attention
) -> tuple[AttentionEdit, Blend | None]:
    """The edit of the maps that `attention` asks for, at the times of a chain, and the local blend if any."""
    steps = len(times) - 1

    def until(share: float) -> float:
        """The last time of the first `share` of the steps."""
        return times[max(round(share * steps) - 1, 0)].item() if share > 0 else float("inf")

    shown, wanted = text.tokens(source), text.tokens(target)
    weights = torch.ones(1, len(wanted))
    for word, weight in attention.weights.items():
        weights[0, places(text, word, wanted)] = weight
    alignment: Alignment = align(shown, wanted, replaced=attention.replaced)
    edit = AttentionEdit(alignment, until(attention.cross), until(attention.own), weights)
    if not attention.blend:
        return edit, None
    chosen = torch.zeros(2, 1, len(wanted))
    for word in attention.blend:
        found = [places(text, word, tokens, missing_ok=True) for tokens in (shown, wanted)]
        if not any(found):
            raise UserError(f"neither prompt has the word {word!r}: blend where a word of one of them looks")
        for half, where in zip(chosen, found, strict=True):
            half[0, where] = 1.0
    return edit, Blend(chosen[0], chosen[1], times[round(attention.blend_from * steps)].item())


def places(text: Text, word: str, tokens: Sequence[str], *, missing_ok: bool = False) -> list[int]:
    """Where `word` stands among a prompt's `tokens`. Raises UserError if it does not, unless that is `missing_ok`."""
    marks = set(text.tokens(""))
    spelled = [token for token in text.tokens(word) if token not in marks]
    starts = [i for i in range(len(tokens)) if list(tokens[i : i + len(spelled)]) == spelled]
    if not starts and not missing_ok:
        raise UserError(f"the prompt has no word {word!r}: name one that it has")
    return [i + k for i in starts for k in range(len(spelled))]
