"""Robustness audit of a classifier: AdjointDPM (Pan et al. 2024), section 4.1.2, appendix C."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from chainrule.bundled import find_network
from chainrule.diffusion.gradient import Checkpoint
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import sample
from chainrule.errors import UserError
from chainrule.losses.classifier import load_classifier
from chainrule.memory import begin_phase
from chainrule.methods.audit_report import (
    caption_images,
    describe_image,
    draw_curve,
    make_report,
    name_image,
    tell_readings,
    write_markdown,
)
from chainrule.methods.audited import AuditState, AuditTask, require_independent
from chainrule.methods.base import Method, Needs, Sheet, State, Steps, Task, Writer
from chainrule.methods.fitting import not_its_own, require_layout
from chainrule.optimise import Adam
from chainrule.specs import NetworkName

SHOWN = 6
"""How many of the images that misled the classifier are shown."""
Tau = Annotated[float, Field(gt=0)]


class Audit(Method):
    """Finds images that a classifier misreads after a small change of their noise.

        min over |x_T - x_T(0)|_inf <= tau  of  cross-entropy(classifier(x_0(x_T)), second class)

    Pan et al., "AdjointDPM", 2024, section 4.1.2 and appendix C. From images that the classifier
    reads as an independent judge does, the noise is searched within a ball around where it started.
    A success is an image that the classifier gives another class, while the judge still sees the
    first one; the judge takes no part in the search. Whether that first one is what the prompt
    names is reported: if not, the classifier may have corrected itself. Balls are searched from the
    smallest to the largest, each from where the last search ended. A report has the share misled
    for each class and radius, with 95 % intervals.

    Limits: what the judge misreads counts as the classifier's fault.
    """

    kind: Literal["audit"] = "audit"
    needs = Needs.NOISE | Needs.PROMPT | Needs.PROMPTS
    state: ClassVar[type[State]] = AuditState
    judges_last = True
    classifier: NetworkName | None = Field(
        default=None, description="Any transformers image classifier; that of the model's world."
    )
    judge: NetworkName | None = Field(
        default=None,
        description="An independent one with the same labels; that of the model's world.",
    )
    tau: Annotated[tuple[Tau, ...], Field(min_length=1)] = Field(
        default=(0.03, 0.1, 0.3),
        description="How far an element of the noise (of variance 1) may move: a list.",
    )
    iterations: int = Field(default=6, ge=1, description="The iterations of each search.")
    steps: Steps = 10
    guidance_scale: float | None = Field(
        default=None, description="Classifier-free guidance; the model's own."
    )
    reach: float = Field(default=0.4, gt=0, description="The optimiser's rate, in radii.")
    batch: int = Field(default=16, ge=1, description="How many images are searched at a time.")

    @property
    def radii(self) -> list[float]:
        """The taus from the smallest to the largest."""
        return sorted(set(self.tau))

    def count_iterations(self, task: Any) -> int:
        return len(self.radii) * self.iterations + 1

    def probe(self, steps: int) -> Audit:
        short = {"steps": steps, "iterations": 1, "tau": self.tau[:1]}
        return _WholeAudit(**(self.model_dump() | short))

    def prepare(self, task: Task | AuditTask) -> AuditTask:
        if isinstance(task, AuditTask):
            require_independent(task)
            return task
        super().prepare(task)
        if not all(prompt.strip() for prompt in task.prompts):
            raise UserError("a prompt is empty", "say what the images should show", "prompt")
        world, device = task.model.world, task.model.device
        if self.judge is None and world is None:
            raise UserError(
                "there is no independent judge",
                "name an image classifier that knows the same classes",
                "judge",
            )
        named, judged = self.classifier or world, self.judge or world
        if str(find_network(named, "classifier")) == str(find_network(judged, "judge")):
            raise UserError(
                "the judge is the classifier itself",
                "name another, or nothing is found out",
                "judge",
            )
        task.model.schedule.times(self.steps)
        task.model.text(task.prompts)  # one that is too long is refused now
        classifier = load_classifier(named, device)
        judge = load_classifier(judged, device, role="judge")
        made = AuditTask(task.model, task.prompts, task.seeds, classifier, judge, task.plan)
        require_independent(made)
        return made

    def require_own(self, task: AuditTask, state: AuditState) -> None:
        shape = dict(zip("Chw", task.model.codec.latent_shape, strict=True))
        require_layout(
            state.tensors(), state.layout, {"N": len(task.prompts) * len(task.seeds), **shape}
        )
        own, other = (len(network.labels) for network in (task.classifier, task.judge))
        limits = [
            (state.label, -1, own),
            (state.second, 0, own),
            (state.seen, 0, own),
            (state.level, 0, len(self.radii) + 1),
            (state.done, 0, self.count_iterations(task) + 1),
            *((read[:, 0], 0, own) for read in (state.before, state.after)),
            *((read[:, 2], 0, other) for read in (state.before, state.after)),
        ]
        if not all(((low <= value) & (value < high)).all() for value, low, high in limits):
            raise not_its_own("it has numbers of classes or searches that there are not")

    # --- the search -----------------------------------------------------------------------------

    def run(
        self, task: AuditTask, state: AuditState | None = None, on_step: OnStep | None = None
    ) -> Iterator[AuditState]:
        state = self.start(task) if state is None else state
        if not (state.label >= 0).any():
            raise UserError(
                "classifier and judge agree on none of the images "
                f"({tell_readings(task, state.before)})",
                "name prompts of what both know",
            )
        while state.iteration < self.count_iterations(task):
            state = self._advance(task, state, on_step)
            yield state

    @torch.no_grad()
    def start(self, task: AuditTask) -> AuditState:
        """The state before the search: what classifier and judge make of the images."""
        every = torch.arange(len(task.prompts) * len(task.seeds))
        x_T = task.model.noise(task.seeds).repeat(len(task.prompts), 1, 1, 1)
        parts = [self._look(task, x_T[part], part) for part in every.split(self._at_once(task))]
        logits, by_judge = (torch.cat(each) for each in zip(*parts, strict=True))
        first, second = logits.topk(2, dim=1).indices.T
        label = torch.where(task.translate(by_judge.argmax(dim=1)) == first, first, -1)
        read = torch.cat([_read(logits), _read(by_judge)], dim=1)
        level = torch.full_like(label, len(self.radii))
        memory, done = torch.stack([0 * x_T] * 2), torch.zeros((), dtype=torch.long)
        return AuditState(x_T, memory, x_T, label, second, first, read, read, level, done)

    def _at_once(self, task: AuditTask) -> int:
        """How many images are drawn and judged at once."""
        return min(self.batch, task.plan.batch_size or self.batch)

    def _look(self, task: AuditTask, x_T: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What classifier (n, K) and judge (n, K') make of the images numbered `rows`."""
        images = self.draw(task, x_T, rows)
        _check_images(images)
        return task.classifier(images), task.judge(images)

    def draw(
        self, task: AuditTask, x_T: Tensor, rows: Tensor, on_step: OnStep | None = None
    ) -> Tensor:
        """The images numbered `rows` (n,), from the noise `x_T` (n, C, h, w).

        Args:
            task: What is audited.
            x_T: (n, C, h, w).
            rows: (n,), the images' numbers.
            on_step: Told after each step.

        Returns:
            (n, 3, H, W) in [0, 1].
        """
        denoiser = task.denoiser(rows, self.guidance_scale)
        times, gradient = task.model.schedule.times(self.steps), Checkpoint(task.plan.keep)
        x_0 = sample(denoiser, x_T, times, gradient=gradient, on_step=on_step)
        parts = x_0.split(task.plan.decoded_at_once or len(x_0))
        return torch.cat([task.model.decode(part) for part in parts])

    def _advance(self, task: AuditTask, state: AuditState, on_step: OnStep | None) -> AuditState:
        """Draw the images, see who is misled, and move the noise of those that are not."""
        search, k = divmod(state.iteration, self.iterations)
        radii = self.radii
        open_ = (state.label >= 0) & (state.level == len(radii))
        running = torch.nonzero(open_).squeeze(1)
        if not len(running):
            return replace(state, done=state.done + 1)
        finished = search == len(radii)
        groups = running.split(self._at_once(task))
        parts = [self._judge(task, state, part, finished, on_step) for part in groups]
        read, gradient = (torch.cat(values) for values in zip(*parts, strict=True))
        seen, by_judge = read[:, 0].long(), task.translate(read[:, 2].long())
        if not torch.isfinite(gradient).all():
            raise UserError(
                f"the gradient is not finite in iteration {state.iteration}", "use float32"
            )
        label = state.label[running]
        misled = (seen != label) & (by_judge == label)
        # what the last search left behind is judged in the next one
        level, now, after = state.level.clone(), state.seen.clone(), state.after.clone()
        level[running[misled]] = max(search - 1 if k == 0 else search, 0)
        now[running], after[running] = seen, read
        state = replace(state, seen=now, after=after, level=level, done=state.done + 1)
        if finished:
            return state
        return self._move(state, running[~misled], gradient[~misled], radii[search], k)

    @torch.no_grad()
    def _move(
        self, state: AuditState, rows: Tensor, gradient: Tensor, tau: float, k: int
    ) -> AuditState:
        """The state with the noise of the images numbered `rows` moved, and kept in its ball."""
        x, memory = state.x_T.clone(), state.memory.clone()
        kept = 0 * state.memory[:, rows] if k == 0 else state.memory[:, rows]
        adam = Adam(rate=self.reach * tau)
        change, memory[:, rows] = adam.update(x[rows], gradient, kept, k)
        start = state.start[rows]
        x[rows] = torch.clamp(x[rows] + change, start - tau, start + tau)
        return replace(state, x_T=x, memory=memory)

    def _judge(
        self,
        task: AuditTask,
        state: AuditState,
        rows: Tensor,
        finished: bool,
        on_step: OnStep | None,
    ) -> tuple[Tensor, Tensor]:
        """What classifier and judge read in some images (n, 4), and the gradient of their noise."""
        begin_phase("walk")
        with torch.set_grad_enabled(not finished):
            x_T = state.x_T[rows].requires_grad_(not finished)
            images = self.draw(task, x_T, rows, on_step)
            _check_images(images)
            logits = task.classifier(images)
            loss = functional.cross_entropy(logits, state.second[rows], reduction="sum")
            begin_phase("back")
            gradient = torch.zeros_like(x_T)
            if not finished:
                (gradient,) = torch.autograd.grad(loss, x_T)
        with torch.no_grad():
            by_judge = task.judge(images.detach())
            return torch.cat([_read(logits.detach()), _read(by_judge)], dim=1), gradient

    # --- what was found -------------------------------------------------------------------------

    @torch.no_grad()
    def compare(self, task: AuditTask, state: AuditState, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The images numbered `rows` before the audit and at its end.

        Args:
            task: What is audited.
            state: Where the audit is.
            rows: (n,), the images' numbers.

        Returns:
            Two times (n, 3, H, W) in [0, 1].
        """
        groups = rows.split(self._at_once(task))
        before, after = (
            torch.cat([self.draw(task, x[part], part) for part in groups])
            for x in (state.start, state.x_T)
        )
        return before, after

    def report(self, task: AuditTask, state: AuditState) -> dict[str, Any]:
        """For each class, and for all, how many images there were and what share was misled.

        Args:
            task: What is audited.
            state: Where the audit is.
        """
        # what the last iteration of a search left behind is judged by the one after it
        searched = max(0, (state.iteration - 1) // self.iterations)
        return make_report(task, state, self.radii, searched)

    @torch.no_grad()
    def result(self, task: AuditTask, state: AuditState) -> Sheet:
        """Images before and after, with what the classifier and the judge see."""
        misled = torch.nonzero(state.level < len(self.radii)).squeeze(1)
        audited = torch.nonzero(state.label >= 0).squeeze(1)
        shown = (misled if len(misled) else audited)[:SHOWN]
        before, after = self.compare(task, state, shown)
        change = (0.5 + 4 * (after - before)).clamp(0, 1)
        columns = {"before": before, "after": after, "difference, 4 times": change}
        captions: dict[str, Sequence[str]]
        captions = {
            name: caption_images(task, columns[name], self._at_once(task))
            for name in ("before", "after")
        }
        captions["difference, 4 times"] = [self._tell_level(i) for i in state.level[shown].tolist()]
        rows = [name_image(task, i) for i in shown.tolist()]
        title = "what the classifier / the judge sees"
        records = [describe_image(task, state, self.radii, i) for i in range(len(state.label))]
        return Sheet(columns, rows, captions, title, self.report(task, state), records)

    def _tell_level(self, level: int) -> str:
        return f"tau {self.radii[level]:g}" if level < len(self.radii) else "not misled"

    def artefacts(self, task: AuditTask, state: AuditState) -> Mapping[str, Writer]:
        """A report in words, with a table, and its curve."""
        found = self.report(task, state)

        def write_report(path: Path) -> None:
            said = write_markdown(found, stopped=len(found["radii"]) < len(self.radii))
            path.write_text(said, encoding="utf-8")

        def write_curve(path: Path) -> None:
            draw_curve(found).save(path, "PNG")

        return {"report.md": write_report, "curve.png": write_curve}


class _WholeAudit(Audit):
    """An audit of every image, whatever the judge says: the most that it can take."""

    def start(self, task: AuditTask) -> AuditState:
        state = super().start(task)
        return replace(state, label=state.seen)


def _check_images(images: Tensor) -> None:
    if not torch.isfinite(images).all():
        raise UserError("an image is not finite", "use float32")


def _read(logits: Tensor) -> Tensor:
    """The class that logits (n, K) see, and how probable they find it: (n, 2)."""
    index = logits.argmax(dim=1, keepdim=True)
    sure = logits.float().softmax(dim=1).gather(1, index)
    return torch.cat([index.float(), sure], dim=1)
