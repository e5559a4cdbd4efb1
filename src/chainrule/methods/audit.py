"""Robustness audit of a classifier: AdjointDPM (Pan et al. 2024), section 4.1.2, appendix C."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chainrule import bundled
from chainrule.brief import Brief
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient import Checkpoint
from chainrule.diffusion.gradient.base import OnStep
from chainrule.diffusion.sampling import sample
from chainrule.errors import UserError, tidy
from chainrule.images import chart
from chainrule.losses.classifier import (
    ImageClassifier,
    load_classifier,
    match_labels,
    split_label,
)
from chainrule.memory import Plan, begin_phase
from chainrule.methods.base import (
    PLAIN,
    Method,
    Needs,
    Sheet,
    State,
    Steps,
    Task,
    Writer,
    as_tuple,
)
from chainrule.metrics import wilson
from chainrule.models import BUNDLED
from chainrule.models.base import Model
from chainrule.noise import as_seeds
from chainrule.optimise import Adam
from chainrule.specs import NetworkName

SHOWN = 6
"""How many of the images that misled the classifier are shown."""
Tau = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, eq=False)
class AuditTask(Brief):
    """A classifier to be audited on what a model draws, and a judge of what is there.

    The two must call a class by the same name to mean the same: by one of several that a label
    gives with commas between them, in capitals or not. Images are numbered: prompts first, seeds
    within.

    Args:
        model: What draws.
        prompts: What is drawn.
        seeds: With which noise.
        classifier: What is audited.
        judge: An independent classifier.
        plan: What is kept and rebuilt.
    """

    model: Model
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    classifier: ImageClassifier
    judge: ImageClassifier
    plan: Plan = PLAIN
    loss: None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", as_seeds(self.seeds))
        object.__setattr__(self, "prompts", as_tuple(self.prompts, str, "prompts"))
        if self.judge.name == "classifier":  # which it is called by default
            object.__setattr__(self, "judge", replace(self.judge, name="judge"))
        for role, network in (("classifier", self.classifier), ("judge", self.judge)):
            if len(network.labels) < 2 or not all(label.strip() for label in network.labels):
                raise UserError(
                    f"the {network.name} has fewer than two classes, or one without a name",
                    "name one that tells several classes apart",
                    role,
                )
        if max(self.matches) < 0:
            mine, others = (_name_some(each.labels) for each in (self.classifier, self.judge))
            raise UserError(
                f"the classifier and the judge share no class (the classifier has {mine}; the "
                f"judge has {others})",
                "choose a judge that knows the classifier's labels",
                "judge",
            )

    @property
    def judges(self) -> tuple[nn.Module, ...]:
        """The networks that judge the images."""
        return (*self.classifier.networks, *self.judge.networks)

    @cached_property
    def matches(self) -> tuple[int, ...]:
        """For each of the judge's classes, the classifier's of that name; -1: none, or several."""
        return match_labels(self.judge.labels, self.classifier.labels)

    @cached_property
    def shared(self) -> float:
        """The share of the classifier's weights, from 0 to 1, that the judge has as well."""
        return shared_weights(self.classifier.networks, self.judge.networks)

    @cached_property
    def named(self) -> tuple[tuple[int, ...], ...]:
        """For each prompt, the classifier's classes whose names are among its words."""
        patterns = [_find_words(label) for label in self.classifier.labels]
        return tuple(
            tuple(i for i, pattern in enumerate(patterns) if pattern.search(prompt))
            for prompt in self.prompts
        )

    def under(self, plan: Plan) -> AuditTask:
        """This task with another plan."""
        return replace(self, plan=plan)

    def denoiser(self, rows: Tensor, guidance_scale: float | None) -> Denoiser:
        """The model told the prompts of the images numbered `rows`.

        Args:
            rows: (n,), the images' numbers.
            guidance_scale: Of classifier-free guidance; None: the model's own.
        """
        prompts = [self.prompts[i // len(self.seeds)] for i in rows.tolist()]
        return self.model.denoiser(prompts, guidance_scale=guidance_scale)

    def ask_judge(self, images: Tensor) -> Tensor:
        """What the judge sees (B,), as the classifier's number of it; -1: none of that name."""
        return self.translate(self.judge(images).argmax(dim=1))

    def translate(self, classes: Tensor) -> Tensor:
        """The judge's classes (B,) as the classifier's numbers of them; -1: none of that name."""
        return torch.tensor(self.matches, device=classes.device)[classes]


@dataclass(frozen=True, eq=False)
class AuditState(State):
    """All of an audit at one moment, for the N images of all prompts and seeds.

    Args:
        x_T: (N, C, h, w), the noise to try next.
        memory: (2, *x_T.shape), the optimiser's.
        start: As `x_T`, of the images before the audit.
        label: (N,), what classifier and judge saw there; -1: not the same, and so not audited.
        second: (N,), the class that came second.
        seen: (N,), what the classifier saw last.
        before: (N, 4), what was read before the audit: the classifier's class and its probability,
            the judge's class (by its own number) and its probability.
        after: As `before`, what was read last.
        level: (N,), the number of the first radius that misled it, or of radii.
        done: (), how many iterations are done.
    """

    x_T: Tensor
    memory: Tensor
    start: Tensor
    label: Tensor
    second: Tensor
    seen: Tensor
    before: Tensor
    after: Tensor
    level: Tensor
    done: Tensor

    @property
    def iteration(self) -> int:
        return int(self.done)

    @property
    def numbers(self) -> dict[str, float]:
        audited = self.label >= 0
        moved = (self.level[audited] < self.level.max()) if audited.any() else audited
        return {"audited": float(audited.sum()), "misled": float(moved.sum())}


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
    classifier: NetworkName | None = Field(
        default=None, description="Any transformers image classifier; the bundled one."
    )
    judge: NetworkName | None = Field(
        default=None, description="An independent one with the same labels; the bundled one."
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
            _check_independent(task)
            return task
        super().prepare(task)
        if not all(prompt.strip() for prompt in task.prompts):
            raise UserError("a prompt is empty", "say what the images should show", "prompt")
        if self.judge is None and task.model.name != BUNDLED:
            raise UserError(
                "there is no independent judge",
                "name an image classifier that knows the same classes",
                "judge",
            )
        if self.judge is not None and self.judge == self.classifier:
            raise UserError(
                "the judge is the classifier itself",
                "name another, or nothing is found out",
                "judge",
            )
        task.model.schedule.times(self.steps)
        task.model.text(task.prompts)  # one that is too long is refused now
        device = task.model.device
        classifier = load_classifier(self.classifier, device)
        judge = load_classifier(self.judge or bundled.JUDGE, device, role="judge")
        made = AuditTask(task.model, task.prompts, task.seeds, classifier, judge, task.plan)
        _check_independent(made)
        return made

    # --- the search -----------------------------------------------------------------------------

    def run(
        self, task: AuditTask, state: AuditState | None = None, on_step: OnStep | None = None
    ) -> Iterator[AuditState]:
        state = self.start(task) if state is None else state
        if not (state.label >= 0).any():
            raise UserError(
                "classifier and judge agree on none of the images "
                f"({_tell_readings(task, state.before)})",
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
        parts = [self.draw(task, x_T[part], part) for part in every.split(self.batch)]
        images = torch.cat(parts)
        _check_images(images)
        logits, by_judge = task.classifier(images), task.judge(images)
        first, second = logits.topk(2, dim=1).indices.T
        label = torch.where(task.translate(by_judge.argmax(dim=1)) == first, first, -1)
        read = torch.cat([_read(logits), _read(by_judge)], dim=1)
        level = torch.full_like(label, len(self.radii))
        memory, done = torch.stack([0 * x_T] * 2), torch.zeros((), dtype=torch.long)
        return AuditState(x_T, memory, x_T, label, second, first, read, read, level, done)

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
        return task.model.decode(x_0)

    def _advance(self, task: AuditTask, state: AuditState, on_step: OnStep | None) -> AuditState:
        """Draw the images, see who is misled, and move the noise of those that are not."""
        search, k = divmod(state.iteration, self.iterations)
        radii = self.radii
        open_ = (state.label >= 0) & (state.level == len(radii))
        running = torch.nonzero(open_).squeeze(1)
        if not len(running):
            return replace(state, done=state.done + 1)
        finished = search == len(radii)
        size = task.plan.batch_size or self.batch
        parts = [self._judge(task, state, part, finished, on_step) for part in running.split(size)]
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
        before, after = (self.draw(task, x[rows], rows) for x in (state.start, state.x_T))
        return before, after

    def report(self, task: AuditTask, state: AuditState) -> dict[str, Any]:
        """For each class, and for all, how many images there were and what share was misled.

        Args:
            task: What is audited.
            state: Where the audit is.
        """
        # what the last iteration of a search left behind is judged by the one after it
        radii = self.radii[: max(0, (state.iteration - 1) // self.iterations)]
        audited, labels = state.label >= 0, _tell_apart(task.classifier.labels)
        seen = state.label[audited].unique().tolist()
        groups = {labels[c]: state.label == c for c in seen} | {"all": audited}
        misled = {
            name: [
                wilson(int((state.level[group] <= i).sum()), int(group.sum()))._asdict()
                for i in range(len(radii))
            ]
            for name, group in groups.items()
        }
        return {
            "images": len(state.label),
            "radii": radii,
            "audited": {name: int(group.sum()) for name, group in groups.items()},
            "misled": misled,
            "shared_weights": task.shared,
            "prompts": [self._count(task, state, i) for i in range(len(task.prompts))],
        }

    def _count(self, task: AuditTask, state: AuditState, i: int) -> dict[str, Any]:
        """What became of the images of prompt `i`."""
        n, named = len(task.seeds), task.named[i]
        label, level, seen = (
            v[i * n : (i + 1) * n] for v in (state.label, state.level, state.seen)
        )
        known = torch.tensor(named, dtype=label.dtype, device=label.device)
        audited, misled = label >= 0, (label >= 0) & (level < len(self.radii))
        against = audited & ~torch.isin(label, known) & bool(named)
        return {
            "prompt": task.prompts[i],
            "names": [task.classifier.labels[c] for c in named],
            "images": n,
            "audited": int(audited.sum()),
            "disagreed": int((~audited).sum()),
            "misled": int(misled.sum()),
            "contradicted": int(against.sum()),
            "contradicted_misled": int((against & misled).sum()),
            "corrected": int((against & misled & torch.isin(seen, known)).sum()),
        }

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
        captions = {name: _captions(task, columns[name]) for name in ("before", "after")}
        captions["difference, 4 times"] = [self._found(i) for i in state.level[shown].tolist()]
        rows = [self._name_row(task, i) for i in shown.tolist()]
        title = "what the classifier / the judge sees"
        records = [self._record(task, state, i) for i in range(len(state.label))]
        return Sheet(columns, rows, captions, title, self.report(task, state), records)

    def _name_row(self, task: AuditTask, i: int) -> str:
        prompt, seed = divmod(i, len(task.seeds))
        which = f"{prompt + 1}. " if len(task.prompts) > 1 else ""
        return f"{which}seed {task.seeds[seed]}"

    def _found(self, level: int) -> str:
        return f"tau {self.radii[level]:g}" if level < len(self.radii) else "not misled"

    def _record(self, task: AuditTask, state: AuditState, i: int) -> dict[str, Any]:
        """What is known of image `i`."""
        labels, level = task.classifier.labels, int(state.level[i])
        label, prompt = int(state.label[i]), i // len(task.seeds)
        named = task.named[prompt]
        against = label >= 0 and bool(named) and label not in named
        return {
            "prompt": task.prompts[prompt],
            "seed": task.seeds[i % len(task.seeds)],
            "class": labels[label] if label >= 0 else "",
            "seen": labels[int(state.seen[i])],
            "tau": self.radii[level] if label >= 0 and level < len(self.radii) else "",
            "named": ", ".join(labels[c] for c in named),
            "contradicts": "yes" if against else "",
            **_tell_reading(task, state.before[i], "before"),
            **_tell_reading(task, state.after[i], "after"),
        }

    def artefacts(self, task: AuditTask, state: AuditState) -> Mapping[str, Writer]:
        """A report in words, with a table, and its curve."""
        found = self.report(task, state)

        def write_report(path: Path) -> None:
            said = _describe(found, stopped=len(found["radii"]) < len(self.radii))
            path.write_text(said, encoding="utf-8")

        def write_curve(path: Path) -> None:
            _draw_curve(found).save(path, "PNG")

        return {"report.md": write_report, "curve.png": write_curve}


class _WholeAudit(Audit):
    """An audit of every image, whatever the judge says: the most that it can take."""

    def start(self, task: AuditTask) -> AuditState:
        state = super().start(task)
        return replace(state, label=state.seen)


NEARLY = 0.9
"""The share of equal weights from which the judge is suspected of being the classifier."""


def _check_independent(task: AuditTask) -> None:
    """Refuse a judge that is the classifier, by its weights; warn of one that is nearly it."""
    own, other = task.classifier, task.judge
    share = task.shared
    if own.network is other.network or share == 1.0:
        raise UserError(
            "the judge is the classifier itself: their weights are the same",
            "name another, or nothing is found out",
            "judge",
        )
    if share >= NEARLY:
        warnings.warn(
            _warn_of_shared(share),
            stacklevel=2,
        )


def _warn_of_shared(share: float) -> str:
    return (
        f"{share:.1%} of the classifier's weights are the judge's as well, so that what "
        "misleads one misleads the other: an independent judge says more"
    )


def _find_words(label: str) -> re.Pattern[str]:
    """What finds one of a label's names in a prompt, as a word of its own, or several of it."""
    names = "|".join(map(re.escape, split_label(label)))
    return re.compile(rf"(?<!\w)(?:{names})(?:e?s)?(?!\w)", re.IGNORECASE)


def _tell_apart(labels: Sequence[str]) -> list[str]:
    """The labels, with their numbers where there are several of one name, or it is "all"."""
    count = Counter(labels) + Counter(["all"])
    return [f"{label} ({i})" if count[label] > 1 else label for i, label in enumerate(labels)]


def _name_some(labels: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(tidy, labels[:most])) + (", ..." if len(labels) > most else "")


def _check_images(images: Tensor) -> None:
    if not torch.isfinite(images).all():
        raise UserError("an image is not finite", "use float32")


def _read(logits: Tensor) -> Tensor:
    """The class that logits (n, K) see, and how probable they find it: (n, 2)."""
    index = logits.argmax(dim=1, keepdim=True)
    sure = logits.float().softmax(dim=1).gather(1, index)
    return torch.cat([index.float(), sure], dim=1)


def _tell_reading(task: AuditTask, read: Tensor, when: str) -> dict[str, Any]:
    """What classifier and judge read in one image, in columns of a table."""
    own, sure, other, surely = read.tolist()
    return {
        f"classifier_{when}": task.classifier.labels[int(own)],
        f"classifier_{when}_probability": round(sure, 4),
        f"judge_{when}": task.judge.labels[int(other)],
        f"judge_{when}_probability": round(surely, 4),
    }


def _tell_readings(task: AuditTask, read: Tensor) -> str:
    """What classifier and judge saw most often."""
    said = []
    for role, network, column in (("classifier", task.classifier, 0), ("judge", task.judge, 2)):
        often = Counter(int(i) for i in read[:, column].tolist()).most_common(3)
        some = ", ".join(f"{tidy(network.labels[i])} {n} of {len(read)}" for i, n in often)
        said.append(f"{role}: {some}")
    return "; ".join(said)


def shared_weights(networks: Sequence[nn.Module], others: Sequence[nn.Module]) -> float:
    """The share, from 0 to 1, of the weights of some networks that others have as well.

    Tensors are compared, whatever they are called, and in the coarser of their precisions: one that
    was saved in half is the same.

    Args:
        networks: Whose weights are counted.
        others: Where they are looked for.
    """
    candidates: dict[tuple[int, ...], list[Tensor]] = {}
    for value in _weights(others):
        candidates.setdefault(tuple(value.shape), []).append(value)
    mine = _weights(networks)
    equal = [any(_equal(a, b) for b in candidates.get(tuple(a.shape), ())) for a in mine]
    sizes = [value.numel() for value in mine]
    found = sum(size for size, same in zip(sizes, equal, strict=True) if same)
    return found / sum(sizes) if sum(sizes) else 0.0


def _weights(networks: Sequence[nn.Module]) -> list[Tensor]:
    return [weight.detach() for network in networks for weight in network.parameters()]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are the same, but for having been rounded to half precision."""
    a, b = one.float(), other.to(one.device).float()
    if not torch.allclose(a.flatten()[:8], b.flatten()[:8], rtol=2**-6, atol=1e-6):
        return False  # most are told apart so, without a look at the rest
    return any(torch.equal(a.to(kind).float(), b.to(kind).float()) for kind in PRECISIONS)


PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


def _captions(task: AuditTask, images: Tensor) -> list[str]:
    """What the classifier and the judge see, and how sure they are."""
    said = []
    for network in (task.classifier, task.judge):
        sure, index = network(images).softmax(dim=1).max(dim=1)
        pairs = zip(sure.tolist(), index.tolist(), strict=True)
        said.append([f"{network.labels[i]} {p:.0%}" for p, i in pairs])
    return [f"{one} / {two}" for one, two in zip(*said, strict=True)]


def _describe(found: Mapping[str, Any], *, stopped: bool) -> str:
    """A report as Markdown.

    Args:
        found: What `Audit.report` gives.
        stopped: Whether there were radii left.
    """
    header = ["class", "images", *(f"tau {tau:g}" for tau in found["radii"])]
    lines = []
    for name, row in found["misled"].items():
        cells = [f"{i['value']:.3f} [{i['low']:.3f}, {i['high']:.3f}]" for i in row]
        lines.append([name, str(found["audited"][name]), *cells])
    table = _write_rows(header, lines)
    counted = ("images", "disagreed", "misled", "contradicted")
    prompts = _write_rows(
        ["prompt", "classes it names", *counted],
        [
            [each["prompt"], ", ".join(each["names"]), *(str(each[key]) for key in counted)]
            for each in found["prompts"]
        ],
    )
    total = {
        key: sum(each[key] for each in found["prompts"])
        for key in ("disagreed", "contradicted", "contradicted_misled", "corrected")
    }
    share = found["shared_weights"]
    nearly = f"**{_warn_of_shared(share)}.**\n\n" if share >= NEARLY else ""
    early = "It was stopped before the larger ones were done. " if stopped else ""
    return (
        f"# How often the classifier was misled\n\nOf {found['images']} images, classifier and "
        f"judge saw the same in {found['audited']['all']}; those were searched, in balls of the "
        f"radius tau around their noise.\n{early}A success: the classifier sees another class, the "
        f"judge still the first. Shares with 95 % intervals.\n\n{nearly}{table}\n\n"
        f"In {total['contradicted']} of the images that were searched, the class that both saw "
        f"contradicts the prompt: it is none that the prompt names. {total['contradicted_misled']} "
        f"of these count as misled, and in {total['corrected']} of those the classifier went over "
        "to what the prompt names: it may have corrected itself. report.csv marks them.\n\n"
        f"In {total['disagreed']} images the two disagreed from the start; these were not "
        f"searched.\n\n{prompts}\n\n"
        "![the share over the radius](curve.png)\n\n![examples](contact-sheet.png)\n"
    )


def _write_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown, whatever stands in its cells."""
    lines = [header, ["---"] * len(header), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escape(cell: str) -> str:
    """A text of one line that Markdown shows as it is; intervals keep their brackets."""
    return re.sub(r"([\\|<>`]|!\[|\]\()", r"\\\1", tidy(cell))


def _draw_curve(found: Mapping[str, Any]) -> Any:
    """The share misled over the radius, a line a class."""
    radii, rows = found["radii"], found["misled"]
    curve = torch.tensor([[0.0, *(i["value"] for i in row)] for row in rows.values()]).T
    shown = ", ".join(f"{tau:g}" for tau in (0.0, *radii))
    ends = ("tau 0", f"tau {radii[-1] if radii else 0:g}")
    return chart(f"share misled, at tau = {shown}", curve, list(rows), ends)
