"""What came of a run: in numbers, in a table, in pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import chainrule
from chainrule.images import contact_sheet, loss_curves, restore_proportions, to_pil
from chainrule.methods.base import Method, Result, Sheet, Stage, Task
from chainrule.methods.chunking import evaluate
from chainrule.runs.folder import (
    IMAGES,
    PREVIEWS,
    SHEET,
    Folder,
    delete,
    make_folder,
    name_file,
    read_digests,
    write_atomically,
    write_text,
)
from chainrule.runs.origin import Origin, describe_origin, save_picture
from chainrule.runs.scores import Score, find_score
from chainrule.runs.spec import RunSpec


@dataclass(frozen=True)
class Outcome:
    """What a method has made so far.

    Args:
        label: Its name in the run.
        method: Itself.
        result: What there is.
        done: How many iterations were done, of all parts of the method.
        finished: Whether that is all.
        seconds: How long it took.
        passes: How often the network was evaluated on one latent, both ways.
        stage: Where that is, for people.
    """

    label: str
    method: Method
    result: Result | Sheet
    done: int
    finished: bool
    seconds: float
    passes: int
    stage: Stage


@dataclass(frozen=True)
class Reporter:
    """Writes what came of a run into its folder.

    Args:
        folder: The run's.
        task: What its methods share.
        score: An independent judge, if there is one.
        digests: Of its inputs.
    """

    folder: Folder
    task: Task
    score: Score | None
    digests: dict[str, str]

    @classmethod
    def of(cls, folder: Folder, task: Task) -> Reporter:
        """The reporter of a run.

        Args:
            folder: The run's.
            task: What its methods share.
        """
        return cls(folder, task, find_score(folder.spec), read_digests(folder.path))

    @property
    def _seeds(self) -> tuple[int, ...]:
        return self.folder.spec.inputs.seed

    def write_images(self, outcome: Outcome) -> list[Path]:
        """Write the images of a method, each with what makes it again; their paths."""
        if isinstance(outcome.result, Sheet):
            return []
        spec = _stop_where(self.folder.written, outcome)
        paths = []
        for row, seed in enumerate(self._seeds):
            image = self._put_back(outcome.result.images, row)
            path = self._image_path(outcome.label, seed)
            origin = describe_origin(spec, self.digests, outcome.label, seed)
            save_picture(to_pil(image), path, origin)
            paths.append(path)
        return paths

    def write_preview(self, label: str, iteration: int, result: Result | Sheet) -> Path:
        """Write what a training has learnt so far, as a contact sheet; its path.

        Args:
            label: The method's name in the run.
            iteration: How many iterations are done.
            result: What there is.
        """
        if isinstance(result, Sheet):
            columns, rows, captions = result.columns, result.rows, result.captions
        else:
            columns, rows = {label: result.images}, [f"seed {seed}" for seed in self._seeds]
            captions = {label: [""] * len(rows)}
        sheet = contact_sheet(columns, rows, captions, title=f"{label}, iteration {iteration}")
        make_folder(self.folder.path / PREVIEWS)
        path = self.folder.path / PREVIEWS / f"{name_file(label)}-{iteration:06d}.png"
        save_picture(sheet, path, describe_origin(self.folder.written, self.digests))
        return path

    def write_all(self, outcomes: Sequence[Outcome]) -> Path:
        """Write the contact sheet, the curves, the reports; the sheet's path."""
        written = self.folder.written
        for outcome in outcomes:
            written = _stop_where(written, outcome)
        if outcomes:  # a run that was stopped has not all of its methods to show
            written = written.keep({outcome.label for outcome in outcomes})
        origin = describe_origin(written, self.digests)
        self._write_curves(outcomes, origin)
        self._write_attention(outcomes, origin)
        self._write_own_pictures(origin)
        scores = {each.label: self._ask(each.result) for each in outcomes}
        self._warn_of_holes(outcomes, scores)
        self._write_report(outcomes, scores)
        self._write_table(outcomes, scores)
        path = self.folder.path / SHEET
        save_picture(self._draw_sheet(outcomes, scores), path, origin)
        return path

    # --- pictures -------------------------------------------------------------------------------

    def _image_path(self, label: str, seed: int) -> Path:
        make_folder(self.folder.path / IMAGES)
        return self.folder.image_path(label, seed)

    def _restore(self, images: Tensor) -> Tensor:
        photo = self.task.photo
        return images if photo is None else restore_proportions(images, photo.size)

    def _put_back(self, images: Tensor, row: int) -> Tensor:
        """One of a method's images, (3 or 4, h, w): of a photo, at the photo's own size."""
        photo, one = self.task.photo, images[row : row + 1]
        if photo is None or self.folder.spec.inputs.native:
            return self._restore(one)[0]
        return photo.select([row]).put_back(one, self._unchanged)[0]

    @cached_property
    def _unchanged(self) -> Tensor | None:
        """What the model's autoencoder makes of the photo alone, (1, 3, H, W)."""
        photo, model = self.task.photo, self.task.model
        if photo is None or photo.full is None:
            return None
        with torch.no_grad():
            return model.decode(model.encode(photo.images[:1]))

    def _draw_sheet(
        self, outcomes: Sequence[Outcome], scores: Mapping[str, list[float]]
    ) -> Image.Image:
        """All images side by side; below, the sheets of methods that have their own."""
        columns: dict[str, Tensor] = {}
        captions: dict[str, Sequence[str]] = {}
        photo = self.task.photo
        drawn = [each for each in outcomes if isinstance(each.result, Result)]
        if photo is not None and (drawn or not outcomes):
            columns["photo"] = self._restore(photo.images)
            captions["photo"] = self._write_captions(self._ask_images(photo.images), photo.images)
        for each in outcomes:
            if isinstance(each.result, Result):
                columns[each.label] = self._restore(each.result.images)
                captions[each.label] = self._caption(each, scores[each.label])
        parts = []
        if columns or not outcomes:
            rows = [f"seed {seed}" for seed in self._seeds]
            parts.append(contact_sheet(columns, rows, captions, title=self._title()))
        for each in outcomes:
            if isinstance(each.result, Sheet):
                sheet = each.result
                own = sheet.title.startswith(self.folder.spec.inputs.prompt[0] or "\n")
                title = sheet.title if own else f"{self._title()}   {sheet.title}".strip()
                if len(outcomes) > 1:  # several may show the same
                    title = f"{each.label}   {title}"
                parts.append(contact_sheet(sheet.columns, sheet.rows, sheet.captions, title=title))
        return _stack(parts)

    def _title(self) -> str:
        spec = self.folder.spec
        wanted = ", ".join(loss.label for loss in spec.losses)
        shown = spec.inputs.photo.name if spec.inputs.photo else spec.inputs.source
        more = len(spec.inputs.prompt) - 1
        said = spec.inputs.prompt[0] + (f" (and {more} more)" if more else "")
        what = f"{shown}  {said}".strip()
        return what + (f"   ->   {wanted}" if wanted else "")

    def _write_curves(self, outcomes: Sequence[Outcome], origin: Origin) -> None:
        """The losses over the iterations, of each method that has some."""
        curved = [each for each in outcomes if _terms(each.result) is not None]
        if len(curved) > 1:  # of a run that was stopped when there was one
            delete(self.folder.path / "loss.png")
        for each in curved:
            terms = _terms(each.result)
            if terms is None:
                continue
            names = each.method.term_names(self.task)
            curves = {"loss": terms.sum(dim=1).cpu()}
            if len(names) > 1:
                curves |= {name: terms[:, i].cpu() for i, name in enumerate(names)}
            name = "loss.png" if len(curved) == 1 else f"{name_file(each.label)}-loss.png"
            save_picture(loss_curves(curves, self._seeds), self.folder.path / name, origin)

    def _write_attention(self, outcomes: Sequence[Outcome], origin: Origin) -> None:
        """Where each word of the prompt looks."""
        for each in outcomes:
            attention = getattr(each.result, "attention", None)
            if attention is None:
                continue
            text = self.task.model.text
            tokens, marks = text.tokens(self.task.prompts[0]), set(text.tokens(""))
            words = {f"{i} {token}": i for i, token in enumerate(tokens) if token not in marks}
            maps = {word: attention[:, i : i + 1] for word, i in words.items()}
            shown = {
                word: (m / m.amax(dim=(2, 3), keepdim=True)).expand(-1, 3, -1, -1)
                for word, m in maps.items()
            }
            rows = [f"seed {seed}" for seed in self._seeds]
            nothing = {word: [""] * len(rows) for word in words}
            sheet = contact_sheet(shown, rows, nothing, title=self._title())
            alone = each.label == each.method.kind
            name = "attention.png" if alone else f"{name_file(each.label)}-attention.png"
            save_picture(sheet, self.folder.path / name, origin)

    def _write_own_pictures(self, origin: Origin) -> None:
        """The model's own pictures that are edited, which are nowhere else."""
        photo = self.task.photo
        if photo is None or photo.x_T is None:
            return
        for seed, image in zip(self._seeds, self._restore(photo.images), strict=True):
            save_picture(to_pil(image), self._image_path("photo", seed), origin)

    # --- numbers --------------------------------------------------------------------------------

    def _ask(self, result: Result | Sheet) -> list[float]:
        return [] if isinstance(result, Sheet) else self._ask_images(result.images)

    def _ask_images(self, images: Tensor) -> list[float]:
        return [] if self.score is None else self.score.ask(images)

    def _caption(self, outcome: Outcome, scores: list[float]) -> list[str]:
        result = outcome.result
        if self.score is not None and scores:
            return [self.score.write(value) for value in scores]
        if isinstance(result, Sheet) or result.losses is None:
            return [""] * len(self._seeds)
        return [f"loss {value:.3f}" for value in result.losses.tolist()]

    def _write_captions(self, scores: list[float], images: Tensor) -> list[str]:
        """What stands under the photos."""
        if self.score is not None and scores:
            return [self.score.write(value) for value in scores]
        if self.task.loss is None:
            return [""] * len(images)
        return [f"loss {value:.3f}" for value in evaluate(self.task, images).tolist()]

    def _write_report(self, outcomes: Sequence[Outcome], scores: Mapping[str, list[float]]) -> None:
        name = self.score.name if self.score else "score"
        methods: dict[str, Any] = {}
        for each in outcomes:
            entry: dict[str, Any] = {
                "kind": each.method.kind,
                "iterations": each.stage.done,
                "finished": each.finished,
                "seconds": round(each.seconds, 3),
                "passes": each.passes,
            }
            if each.stage.part != Stage(0, None).part:
                entry["part"] = each.stage.part
            if isinstance(each.result, Sheet):
                entry["numbers"] = each.result.numbers
            else:
                entry |= self._measure(each.method, each.result)
                if scores[each.label]:
                    entry["scores"] = {name: scores[each.label]}
            methods[each.label] = entry
        photo = self.task.photo
        report: dict[str, Any] = {
            "seeds": self._seeds,
            "methods": methods,
            "plan": self.task.plan.model_dump(),
            "environment": describe_environment(self.folder.spec),
            "networks": self.folder.networks,
        }
        if photo is not None and self.score is not None:
            report["photo"] = {name: self._ask_images(photo.images)}
        write_text(self.folder.path / "report.json", dump_json(report))

    def _warn_of_holes(
        self, outcomes: Sequence[Outcome], scores: Mapping[str, list[float]]
    ) -> None:
        """Say it of each method with numbers that are none, which no JSON can hold."""
        for each in outcomes:
            if isinstance(each.result, Sheet):
                found = {**each.result.numbers, "table": each.result.records}
            else:
                found = {"scores": scores[each.label], **self._measure(each.method, each.result)}
            holes = [name for name, part in found.items() if has_holes(part)]
            if holes:
                warnings.warn(
                    f"{each.label} has numbers that are not finite ({', '.join(holes)}): the "
                    "report has null in their place, and the table nothing",
                    stacklevel=2,
                )

    def _measure(self, method: Method, result: Result) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if result.losses is not None:
            found["losses"] = result.losses.tolist()
        if result.terms is not None and self.task.loss is not None:
            found["history"] = result.terms.sum(dim=1).tolist()
            found["terms"] = {
                name: result.terms[:, i].tolist()
                for i, name in enumerate(method.term_names(self.task))
            }
        if result.numbers:
            found["numbers"] = {name: each.tolist() for name, each in result.numbers.items()}
        return found

    def _split_losses(self, result: Result) -> dict[str, list[float]]:
        """Each of several losses by its name, of the finished images."""
        loss = self.task.loss
        if loss is None or len(loss.names) < 2:
            return {}
        parts = self.task.split(self.task.plan.decoded_at_once)
        terms = [part.require_loss().terms(result.images[rows]) for rows, part in parts]
        return dict(zip(loss.names, torch.cat(terms, dim=1).tolist(), strict=True))

    def _write_table(self, outcomes: Sequence[Outcome], scores: Mapping[str, list[float]]) -> None:
        """A row an image."""
        rows: list[dict[str, Any]] = []
        for each in outcomes:
            common = {
                "method": each.method.kind,
                "label": each.label,
                "settings": each.method.model_dump_json(exclude={"kind"}),
                "seconds": round(each.seconds, 3),
                "passes": each.passes,
            }
            if isinstance(each.result, Sheet):
                rows += [{**common, **record} for record in each.result.records]
                continue
            losses, parts = each.result.losses, self._split_losses(each.result)
            for i, seed in enumerate(self._seeds):
                row: dict[str, Any] = {**common, "seed": seed}
                if losses is not None:
                    row["loss"] = losses[i].item()
                row |= {name: values[i] for name, values in parts.items()}
                if self.score and scores[each.label]:
                    row[self.score.name] = scores[each.label][i]
                rows.append(row)
        write_text(self.folder.path / "report.csv", dump_csv(rows))


def fill_holes(value: Any) -> Any:
    """A value of which JSON is made, with None for each number that is not finite.

    >>> fill_holes({"loss": [0.5, float("nan")], "word": "inf"})
    {'loss': [0.5, None], 'word': 'inf'}

    Args:
        value: Numbers, texts, lists and mappings of them.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: fill_holes(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill_holes(part) for part in value]
    return value


def has_holes(value: Any) -> bool:
    """Whether a number in a value is not finite.

    Args:
        value: Numbers, texts, lists and mappings of them.
    """
    if isinstance(value, Mapping):
        return any(map(has_holes, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_holes, value))
    return isinstance(value, float) and not math.isfinite(value)


def dump_json(value: Any) -> str:
    """A value as JSON that every program reads: null for a number that is not finite.

    Args:
        value: Numbers, texts, lists and mappings of them.
    """
    return json.dumps(fill_holes(value), indent=1, allow_nan=False)


def describe_environment(spec: RunSpec) -> dict[str, Any]:
    """What the numbers were made with."""
    import diffusers
    import transformers

    return {
        "chainrule": chainrule.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": spec.checkpoint.device,
        "dtype": spec.checkpoint.dtype,
        "threads": torch.get_num_threads(),
    }


def write_artefacts(
    folder: Folder, label: str, method: Method, task: Any, state: Any
) -> list[Path]:
    """Write the files that a method that trains makes; their paths.

    Args:
        folder: The run's.
        label: The method's name in it.
        method: The method.
        task: What its `prepare` made.
        state: Where it is.
    """
    making = [each for each in folder.spec.methods if type(each).artefacts != Method.artefacts]
    paths, alone = [], len(making) == 1  # two methods may make files of one name
    for name, write in method.artefacts(task, state).items():
        path = folder.path / (name if alone else f"{name_file(label)}-{name}")
        with write_atomically(path) as partial:
            write(partial)
        paths.append(path)
    return paths


def _stop_where(spec: RunSpec, outcome: Outcome) -> RunSpec:
    """What makes an unfinished method again: as many iterations as were done."""
    if outcome.finished:
        return spec
    return spec.model_copy(update={"stop_after": {**spec.stop_after, outcome.label: outcome.done}})


def _terms(result: Result | Sheet) -> Tensor | None:
    return None if isinstance(result, Sheet) else result.terms


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another."""
    if len(parts) == 1:
        return parts[0]
    width, height = max(part.width for part in parts), sum(part.height for part in parts)
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def dump_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table for any spreadsheet, in which no cell is taken for a formula.

    Args:
        rows: Cells by the names of their columns; what a row has not is empty.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_defuse, names))
    writer.writerows([_defuse(row.get(name, "")) for name in names] for row in rows)
    return out.getvalue()


def _defuse(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, or for a word where it is no number."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    formula = isinstance(cell, str) and cell.lstrip().startswith(("=", "+", "-", "@"))
    return f"'{cell}" if formula else cell
