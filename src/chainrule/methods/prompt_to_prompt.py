"""Prompt-to-Prompt: Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", 2022, algorithm 1.

    M_t, M*_t = the maps of source and target;   x*_s = DM(x*_t, target) with Edit(M_t, M*_t, t)       eq. 3-6

Two chains from one noise; the target borrows where the source looked: its cross-attention for a share `cross` of the
steps (words that are swapped, words that are new, words that are weighted), its self-attention for a share `own`, and,
if words are named for a local blend, its latents where neither looks at these. A photo is invert_photos exactly by EDICT
instead of the null-text optimisation.
Limits: needs cross-attention (U-Nets, PixArt; not SD3, Flux); shapes change only as far as the shares let them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from chainrule.diffusion.control import Alignment, AttentionEdit, PairedDenoiser, Blend, Pairing, align
from chainrule.diffusion.control.attention import layers
from chainrule.errors import UserError
from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task, by_parts, generate, invert_photos
from chainrule.models.base import Model, Text
from chainrule.diffusion.schedule import during
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.edict import EDICT

_DDIM, _EDICT = DDIM(), EDICT()


@dataclass(frozen=True)
class Attention:
    """What of the source's attention the target takes.

    `cross` and `own` are shares of the steps; `replaced` says whether a word in another's place looks where that did
    (replacement) or for itself (refinement); `weights` scale the maps of the target's words in the first share;
    `blend` names words of either prompt outside of which the source is kept, from a share `blend_from` of the steps on.
    """

    cross: float = 0.8
    own: float = 0.4
    replaced: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)
    blend: Sequence[str] = ()
    blend_from: float = 0.2


Prompts = str | Sequence[str]
"""One for all images, or one for each."""


def side_by_side(
    task: Task, source: Prompts, target: Prompts, attention: Attention | None = None, *, steps: int = 50
) -> Task:
    """`task` with the photos' chain beside its own, for `sample`, `doodl` and whoever walks it.

    `source` and `target` are the prompts that the photo's denoiser and the task's were told. The chain must have
    `steps` and start where both do.
    """
    _ = layers(task.denoiser)
    edit, blend = _edit(task.model, source, target, attention or Attention(), steps)
    denoiser = PairedDenoiser(task.edited().denoiser, task.denoiser, edit)
    return replace(task, denoiser=denoiser, constraints=(Pairing(edit, blend), *task.constraints))


@torch.no_grad()
def prompt_to_prompt(
    task: Task,
    source: Prompts,
    target: Prompts,
    *,
    attention: Attention | None = None,
    steps: int = 50,
    solver: Solver = _EDICT,
    on_step: OnStep | None = None,
) -> Result:
    """The task's photos, shown by `source`, as `target` says (the prompts of the photos' denoiser and the task's).

    Photos are invert_photos by `solver`; pictures that the model made itself start at their own noise, by DDIM. The result
    holds the target's attention, the mean over the chain. Raises UserError if the network has no cross-attention.
    """
    pair = side_by_side(task, source, target, attention, steps=steps)

    def work(part: Task) -> Result:
        x_T = part.edited().x_T
        start = invert_photos(part, steps=steps, solver=solver, on_step=on_step) if x_T is None else x_T
        result = generate(part, part.denoiser, start, steps, solver=solver if x_T is None else _DDIM, on_step=on_step)
        seen = part.denoiser.edit.maps.mean() if isinstance(part.denoiser, PairedDenoiser) else None
        return result if seen is None else replace(result, attention=seen.chunk(2)[1])

    return by_parts(pair, work)


def _edit(
    model: Model, source: Prompts, target: Prompts, attention: Attention, steps: int
) -> tuple[AttentionEdit, Blend | None]:
    """The edit of the maps that `attention` asks for in a chain of `steps`, and the local blend if any."""
    times, text = model.schedule.times(steps), model.text
    said = [[each] if isinstance(each, str) else list(each) for each in (source, target)]
    most = max(map(len, said))
    shown, wanted = ([text.tokens(prompt) for prompt in (each if len(each) == most else each * most)] for each in said)
    pairs = [align(*pair, replaced=attention.replaced) for pair in zip(shown, wanted, strict=True)]
    alignment = Alignment(torch.cat([pair.across for pair in pairs]), torch.cat([pair.borrowed for pair in pairs]))
    weights = torch.ones(len(wanted), len(wanted[0]))
    for word, weight in attention.weights.items():
        where = places(text, word, wanted)
        if not where.any():
            raise UserError(f"the prompt has no word {word!r}: name one that it has")
        weights[where] = weight
    edit = AttentionEdit(alignment, during(times, attention.cross), during(times, attention.own), weights)
    if not attention.blend:
        return edit, None
    looking = [torch.zeros(len(prompts), len(prompts[0])) for prompts in (shown, wanted)]
    for word in attention.blend:
        found = [places(text, word, prompts) for prompts in (shown, wanted)]
        if not any(where.any() for where in found):
            raise UserError(f"neither prompt has the word {word!r}: blend where a word of one of them looks")
        for half, where in zip(looking, found, strict=True):
            half[where] = 1.0
    return edit, Blend(looking[0], looking[1], times[round(attention.blend_from * steps)].item())


def places(text: Text, word: str, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Where `word` stands among the tokens of each of some prompts, (len(prompts), K) of booleans."""
    marks = set(text.tokens(""))
    spelled = [token for token in text.tokens(word) if token not in marks]
    found = torch.zeros(len(prompts), len(prompts[0]), dtype=torch.bool)
    for row, tokens in zip(found, prompts, strict=True):
        for i in range(len(tokens)):
            if list(tokens[i : i + len(spelled)]) == spelled:
                row[i : i + len(spelled)] = True
    return found
