"""Prompt-to-Prompt: Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from chainrule.diffusion.control import (
    Alignment,
    AttentionEdit,
    Blend,
    PairedDenoiser,
    Pairing,
    align,
)
from chainrule.diffusion.control.attention import AlignmentName, layers
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.solvers.base import Solver
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.solvers.edict import EDICT
from chainrule.diffusion.time_grids import count_steps, time_at_share
from chainrule.errors import UserError
from chainrule.methods.base import (
    Coupling,
    Drawn,
    Mix,
    Needs,
    Steps,
    Task,
    Turns,
    require_heeded,
)
from chainrule.methods.chains import OneShot, generate, invert_photos
from chainrule.methods.chunking import draw_in_parts
from chainrule.models.base import Text


class PromptToPrompt(OneShot):
    """Draws two chains side by side; the target looks where the source looked.

        M_t, M*_t = the maps of source and target
        x*_s = DM(x*_t, target) with Edit(M_t, M*_t, t)                    eq. 3-6

    Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", 2022, algorithm 1.
    The target borrows the source's cross-attention for a share of the steps (words that are
    swapped, new, or weighted), its self-attention for another and, with words to blend, its
    latents where neither looks at these. A photo is inverted exactly by EDICT instead of the
    null-text optimisation; a picture that the model drew starts at its own noise, by DDIM.

    As in the released code, shares are of whole steps, rounded down, and the words of the prompts
    are matched by global alignment (`align`). It differs from it in that changed words are replaced
    and new ones refined in one edit, and that padding looks where the other prompt's padding does
    (the released code: the token of the same place).

    Limits: needs cross-attention (U-Nets, PixArt; not SD3, Flux); shapes change only as far as
    the shares let them.
    """

    kind: Literal["prompt-to-prompt"] = "prompt-to-prompt"
    needs = Needs.PHOTO | Needs.PROMPT | Needs.SOURCE
    to_change_more: ClassVar[str] = "lower its cross and self_attention"
    cross: float = Field(
        default=0.8, ge=0, le=1, description="The share of steps with the source's cross-attention."
    )
    self_attention: float = Field(
        default=0.4, ge=0, le=1, description="The share of steps with the source's self-attention."
    )
    replaced: bool = Field(
        default=True, description="Whether a word in another's place looks where that did."
    )
    align: AlignmentName = Field(
        default="global",
        description="How the words of both prompts are matched: global, as many as can be (the "
        "released code's way); longest, the longest common run first.",
    )
    weight: Mapping[str, float] = Field(
        default_factory=dict, description="How much a word counts while `cross` lasts: blue=2."
    )
    blend: tuple[str, ...] = Field(
        default=(), description="Words outside of which nothing is to change."
    )
    blend_from: float = Field(
        default=0.2, ge=0, lt=1, description="The share of the steps from which on that holds."
    )
    steps: Steps = 50
    mix: Mix | None = Field(
        default=0.93,
        description="EDICT's p for photos; none: DDIM's inversion, which is not exact.",
    )
    turns: Turns = "code"
    coupling: Coupling = "output"

    @model_validator(mode="after")
    def _check_heeded(self) -> PromptToPrompt:
        if not self.blend:
            require_heeded(self, ["blend_from"], "without words to blend")
        if self.mix is None:
            require_heeded(self, ["turns", "coupling"], "without a mix, whose pair they are about")
        return self

    def prepare(self, task: Task) -> Task:
        prepared: Task = super().prepare(task)
        self.pair(task)  # what a network, or a prompt, has not is said now
        return prepared

    def pair(self, task: Task) -> Task:
        """`task` with the photos' chain beside its own, for whoever walks it.

        The chain must have as many steps and start where both do. Raises UserError if the network
        has no cross-attention, or a prompt has not the words.
        """
        _ = layers(task.denoiser)
        photo = task.require_photo()
        edit, blend = self._edit(task, photo.prompts)
        denoiser = PairedDenoiser(photo.denoiser, task.denoiser, edit)
        return replace(
            task, denoiser=denoiser, constraints=(Pairing(edit, blend), *task.constraints)
        )

    @property
    def solver(self) -> Solver:
        """What inverts a photo and draws it again."""
        return (
            DDIM()
            if self.mix is None
            else EDICT(mix=self.mix, turns=self.turns, coupling=self.coupling)
        )

    def draw(self, task: Task, on_step: OnStep | None = None) -> Drawn:
        return draw_in_parts(self.pair(task), lambda part: self._draw(part, on_step))

    def _draw(self, task: Task, on_step: OnStep | None) -> Drawn:
        x_T, solver = task.require_photo().x_T, self.solver
        chain: dict[str, Any] = {"steps": self.steps, "on_step": on_step}
        if x_T is None:
            state = invert_photos(task, solver=solver, **chain)
            drawn = generate(task, state, solver=solver, **chain)
        else:
            drawn = generate(task, x_T, solver=DDIM(), **chain)
        if not isinstance(task.denoiser, PairedDenoiser):
            return drawn
        return replace(drawn, attention=task.denoiser.edit.maps.mean().chunk(2)[1])

    def _edit(self, task: Task, source: Sequence[str]) -> tuple[AttentionEdit, Blend | None]:
        """The edit of the maps that is asked for, and the local blend if any."""
        times, text = task.model.schedule.times(self.steps), task.model.text
        shown, wanted = _pad(source, task.prompts)
        shown_tokens, wanted_tokens = ([text.tokens(p) for p in each] for each in (shown, wanted))
        if len({len(tokens) for tokens in (*shown_tokens, *wanted_tokens)}) > 1:
            raise UserError(
                "some prompts fill more chunks of 75 tokens than others, and cannot be aligned",
                "shorten them",
                "prompt",
            )
        pairs = [
            align(*pair, replaced=self.replaced, by=self.align)
            for pair in zip(shown_tokens, wanted_tokens, strict=True)
        ]
        across, borrowed = (
            torch.cat([getattr(pair, part) for pair in pairs]) for part in ("across", "borrowed")
        )
        edit = AttentionEdit(
            Alignment(across, borrowed),
            time_at_share(times, self.cross),
            time_at_share(times, self.self_attention),
            self._weights(text, wanted_tokens),
        )
        if not self.blend:
            return edit, None
        first = times[count_steps(self.steps, self.blend_from)].item()
        return edit, Blend(*self._looks(text, shown_tokens, wanted_tokens), first)

    def _weights(self, text: Text, wanted: Sequence[Sequence[str]]) -> Tensor:
        """How much each token of the targets counts, (len(wanted), K)."""
        weights = torch.ones(len(wanted), len(wanted[0]))
        for word, weight in self.weight.items():
            where = find_word(text, word, wanted)
            if not where.any():
                raise UserError(
                    f"the prompt has no word {word!r}", "name one that it has", "weight"
                )
            weights[where] = weight
        return weights

    def _looks(
        self, text: Text, shown: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]
    ) -> tuple[Tensor, Tensor]:
        """Which tokens of the sources and of the targets are to be blended around."""
        looking = [torch.zeros(len(prompts), len(prompts[0])) for prompts in (shown, wanted)]
        for word in self.blend:
            found = [find_word(text, word, prompts) for prompts in (shown, wanted)]
            if not any(where.any() for where in found):
                raise UserError(
                    f"neither prompt has the word {word!r}",
                    "blend where one of theirs looks",
                    "blend",
                )
            for half, where in zip(looking, found, strict=True):
                half[where] = 1.0
        return looking[0], looking[1]


def _pad(source: Sequence[str], target: Sequence[str]) -> tuple[list[str], list[str]]:
    """Prompts of both, one for all or one for each, as many of one as of the other."""
    most = max(len(source), len(target))
    shown, wanted = (
        list(each) if len(each) == most else [*each] * most for each in (source, target)
    )
    return shown, wanted


def find_word(text: Text, word: str, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Where a word stands among the tokens of each of some prompts.

    Args:
        text: What spells it.
        word: The word.
        prompts: Each as its K tokens.

    Returns:
        (len(prompts), K) of booleans.
    """
    marks = set(text.tokens(""))
    spelled = [token for token in text.tokens(word) if token not in marks]
    found = torch.zeros(len(prompts), len(prompts[0]), dtype=torch.bool)
    for row, tokens in zip(found, prompts, strict=True):
        for i in range(len(tokens)):
            if list(tokens[i : i + len(spelled)]) == spelled:
                row[i : i + len(spelled)] = True
    return found
