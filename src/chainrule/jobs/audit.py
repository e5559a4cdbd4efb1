"""How a classifier fails: `chainrule audit PROMPT ...`.

report.md     for each class and radius how often it was misled, with intervals
grid.png      images before and after, with what the classifier and the judge see
curve.png     the success over the radius
report.json   the numbers
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from chainrule import bundled
from chainrule.errors import UserError
from chainrule.jobs.base import Job, Moment, Work, save_grid
from chainrule.losses import load_classifier
from chainrule.methods.audit import Audit, AuditState, AuditTask, audit, images, start
from chainrule.metrics import wilson
from chainrule.models import BUNDLED
from chainrule.pictures import chart, grid
from chainrule.run import atomic

SHOWN = 6
"""How many of the images that misled the classifier are shown."""


class AuditJob(Job):
    """`classifier` is audited (None: the bundled one) on what the model makes of `prompts` and `seeds`; `judge` says
    what is there (None: the bundled one, for the bundled model)."""

    kind: Literal["audit"] = "audit"
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    classifier: str | None = None
    judge: str | None = None
    audit: Audit = Audit()

    def work(self) -> Work:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise UserError("there is no prompt, or an empty one: say what the images should show")
        if self.judge is None and self.model != BUNDLED:
            raise UserError("name an independent judge: --judge, an image classifier that knows the same classes")
        if self.judge is not None and self.judge == self.classifier:
            raise UserError("the judge is the classifier itself: name another, or nothing is found out")
        model = self.load()
        model.schedule.times(self.audit.steps)
        model.text(self.prompts)  # one that is too long is refused now
        classifier = load_classifier(self.classifier, self.device)
        judge = load_classifier(self.judge or bundled.JUDGE, self.device)
        return _Work(self, AuditTask(model, self.prompts, self.seeds, classifier, judge))


@dataclass
class _Work(Work):
    job: AuditJob
    suspect: AuditTask

    @property
    def device(self) -> str:  # type: ignore[override]
        return self.job.device

    @property
    def total(self) -> int:  # type: ignore[override]
        return len(self.job.audit.radii) * self.job.audit.iterations + 1

    def moments(self, tensors: Mapping[str, Tensor] | None) -> Iterator[Moment]:
        settings = self.job.audit
        state = start(self.suspect, settings) if tensors is None else AuditState(**tensors)
        audited = int((state.label >= 0).sum())
        if not audited:
            raise UserError("classifier and judge agree on none of the images: name prompts of what both know")
        for now in audit(self.suspect, settings, state):
            misled = int((now.level < len(settings.radii)).sum())
            yield Moment(now._asdict(), int(now.done), f"misled by {misled} of {audited}")

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> Path:
        state, settings = AuditState(**tensors), self.job.audit
        labels = self.suspect.classifier.labels
        # what the last iteration of a search left behind is loss_and_gradient by the one after it
        radii = settings.radii[: max(0, (int(state.done) - 1) // settings.iterations)]
        audited = state.label >= 0
        groups = {labels[c]: state.label == c for c in state.label[audited].unique().tolist()} | {"all": audited}
        found = {
            name: [wilson(int((state.level[group] <= i).sum()), int(group.sum())) for i in range(len(radii))]
            for name, group in groups.items()
        }
        numbers = {
            "images": len(state.label),
            "radii": radii,
            "audited": {name: int(group.sum()) for name, group in groups.items()},
            "misled": {name: [interval._asdict() for interval in row] for name, row in found.items()},
        }
        with atomic(folder / "report.json") as path:
            path.write_text(json.dumps(numbers, indent=1))
        header = ["class", "images", *(f"tau {tau:g}" for tau in radii)]
        lines = [header, ["---"] * len(header)]
        lines += [[name, str(numbers["audited"][name]), *map(str, row)] for name, row in found.items()]  # type: ignore[index]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        with atomic(folder / "report.md") as path:
            path.write_text(
                f"# How often the classifier was misled\n\nOf {len(state.label)} images, classifier and judge saw the "
                f"same in {int(audited.sum())}; those were searched, in balls of the radius tau around their noise.\n"
                f"{'' if len(radii) == len(settings.radii) else 'It was stopped before the larger ones were done. '}"
                "A success: the classifier sees another class, the judge still the first. Shares with 95 % intervals."
                f"\n\n{table}\n\n![the share over the radius](curve.png)\n\n![examples](grid.png)\n"
            )
        curve = torch.tensor([[0.0, *(interval.value for interval in row)] for row in found.values()]).T
        radii_shown = ", ".join(f"{tau:g}" for tau in (0.0, *radii))
        ends = ("tau 0", f"tau {radii[-1] if radii else 0:g}")
        with atomic(folder / "curve.png") as path:
            chart(f"share misled, at tau = {radii_shown}", curve, list(found), ends).save(path, "PNG")
        return self._examples(folder, state)

    @torch.no_grad()
    def _examples(self, folder: Path, state: AuditState) -> Path:
        radii, suspect = self.job.audit.radii, self.suspect
        misled = torch.nonzero(state.level < len(radii)).squeeze(1)
        shown = (misled if len(misled) else torch.nonzero(state.label >= 0).squeeze(1))[:SHOWN]
        before, after = images(suspect, self.job.audit, state, shown)
        change = (0.5 + 4 * (after - before)).clamp(0, 1)
        columns = {"before": before, "after": after, "difference, 4 times": change}
        captions = {name: self._captions(columns[name]) for name in ("before", "after")}
        captions["difference, 4 times"] = [
            f"tau {radii[level]:g}" if level < len(radii) else "not misled" for level in state.level[shown].tolist()
        ]
        rows = [f"seed {suspect.seeds[i % len(suspect.seeds)]}" for i in shown.tolist()]
        sheet = grid(columns, rows, captions, title="what the classifier / the judge sees")
        return save_grid(sheet, folder, self.job)

    def _captions(self, images: Tensor) -> list[str]:
        seen = []
        for network in (self.suspect.classifier, self.suspect.judge):
            sure, index = network(images).softmax(dim=1).max(dim=1)
            seen.append([f"{network.labels[i]} {p:.0%}" for p, i in zip(sure.tolist(), index.tolist(), strict=True)])
        return [f"{one} / {two}" for one, two in zip(*seen, strict=True)]
