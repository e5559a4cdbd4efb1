"""What several pages have in common, made of Gradio's components: rows of losses, methods' forms.

Importing this file imports Gradio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from chainrule.errors import UserError
from chainrule.losses.registry import LOSSES
from chainrule.memory import format_bytes
from chainrule.methods.base import PRESETS
from chainrule.methods.registry import METHODS
from chainrule.models import BUNDLED
from chainrule.runs import Estimate, RunSpec
from chainrule.runs.pace import parse_time
from chainrule.runs.spec import Checkpoint
from chainrule.runs.usual import BEST, choose_guidance
from chainrule.studio.again import Opened
from chainrule.studio.asking import (
    Asked,
    AskedLoss,
    list_method_fields,
    make_spec,
    name_run,
    takes_pictures,
    takes_target,
)
from chainrule.studio.desk import Desk, require_budget
from chainrule.studio.forms import Blank, gather
from chainrule.studio.learnt import Learnt

ROWS = 4
"""How many losses there may be."""
NO_LOSS = "none"
SHOW = "() => { if (innerWidth < 700) document.getElementById('watch-which').scrollIntoView(); }"
"""On a narrow page, what was begun is below what was filled in."""
PICTURE_TYPES = ["image"]
Finish = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes a run's inputs of what was filled in."""
Tokens = Mapping[str, str]
"""What a browser keeps: by the runs that it began, the token with which it may stop each."""


@dataclass
class Session:
    """What the pages share.

    Args:
        desk: The runs.
        tokens: What this browser keeps.
        chosen: The run that this browser looks at.
        states: What became of each run, which changes when that does.
        models: The checkpoints that can be chosen.
    """

    desk: Desk
    tokens: gr.BrowserState
    chosen: gr.State
    states: gr.State
    models: Sequence[str]


def explained(work: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose UserErrors are told on the page, and nothing else of it is lost."""

    def explain(*arguments: Any) -> Any:
        try:
            return work(*arguments)
        except UserError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error

    return explain


# --- losses ---------------------------------------------------------------------------------------


@dataclass
class LossRow:
    """The fields of a row of losses."""

    kind: gr.Dropdown
    target: gr.Textbox
    pictures: gr.File
    weight: gr.Textbox

    @property
    def all(self) -> list[Any]:
        """All of them, in order."""
        return [self.kind, self.target, self.pictures, self.weight]


def make_losses(first: str = NO_LOSS, target: str = "") -> list[LossRow]:
    """Rows of losses, which add up; the second one is shown when the first one is filled in.

    Args:
        first: The kind of the first.
        target: Its target.
    """
    rows, groups = [], []
    for number in range(ROWS):
        kind = first if number == 0 else NO_LOSS
        shown = number == 0 or (number == 1 and first != NO_LOSS)
        with gr.Row(visible=shown) as group:
            row = _make_row(number, kind, target if number == 0 else "")
        rows.append(row)
        groups.append(group)
    for number, row in enumerate(rows):
        after = groups[number + 1 : number + 2]
        row.kind.change(
            _change_kind,
            [row.kind],
            [row.target, row.pictures, row.weight, *after],
            show_progress="hidden",
            api_visibility="private",
        )
    return rows


def _make_row(number: int, kind: str, target: str) -> LossRow:
    word = f"Loss {number + 1}"
    aim, pictures = _wants_text(kind), _wants_pictures(kind)
    choice = gr.Dropdown(
        [NO_LOSS, *LOSSES.known], value=kind, label=word, info="What it looks at.", min_width=120,
        scale=2,
    )  # fmt: skip
    text = gr.Textbox(
        target, label=f"Aim {number + 1}", info=_hint(kind), visible=aim, min_width=120, scale=3
    )
    weight = gr.Textbox(
        "1", label=f"Weight {number + 1}", info="How much.", visible=kind != NO_LOSS, min_width=80,
        scale=1,
    )  # fmt: skip
    files = gr.File(
        label=f"Pictures of loss {number + 1}", file_count="multiple", file_types=PICTURE_TYPES,
        visible=pictures, min_width=160, height=110, scale=3,
    )  # fmt: skip
    return LossRow(choice, text, files, weight)


def _hint(kind: str) -> str:
    spec = LOSSES.known.get(kind)
    return "" if spec is None else f"As in {spec.hint.partition('=')[2]}"


def _wants_text(kind: str) -> bool:
    spec = LOSSES.known.get(kind)
    return spec is not None and takes_target(spec) and not takes_pictures(spec)


def _wants_pictures(kind: str) -> bool:
    spec = LOSSES.known.get(kind)
    return spec is not None and takes_pictures(spec)


def _change_kind(kind: str) -> list[Any]:
    shown = kind != NO_LOSS
    changes: list[Any] = [
        gr.update(visible=_wants_text(kind), info=_hint(kind)),
        gr.update(visible=_wants_pictures(kind)),
        gr.update(visible=shown),
    ]
    return [*changes, gr.update(visible=True) if shown else gr.skip()][:4]


def read_losses(answers: Sequence[Any]) -> list[AskedLoss]:
    """What was filled in of all rows: four answers each."""
    found = []
    for start in range(0, len(answers), 4):
        kind, target, pictures, weight = answers[start : start + 4]
        if kind and kind != NO_LOSS:
            paths = tuple(Path(each) for each in pictures or ())
            found.append(AskedLoss(kind, target or "", paths, weight or "1"))
    return found


# --- checkpoint, memory, time ---------------------------------------------------------------------


@dataclass
class More:
    """The fields that are rarely needed: the checkpoint's, the time, the memory."""

    checkpoint: dict[str, Any]
    inputs: dict[str, Any]
    time: gr.Textbox
    memory: gr.Textbox

    @property
    def all(self) -> list[Any]:
        """All of them, in order."""
        return [*self.checkpoint.values(), *self.inputs.values(), self.time, self.memory]

    def read(self, answers: Sequence[Any]) -> tuple[dict, dict, str, str]:
        """Checkpoint, inputs, time and memory as they were filled in."""
        many = len(self.checkpoint)
        inner = len(self.inputs)
        checkpoint = dict(zip(self.checkpoint, answers, strict=False))
        inputs = dict(zip(self.inputs, answers[many:], strict=False))
        time, memory = answers[many + inner :]
        return checkpoint, inputs, time or "", memory or ""


def make_model_choice(models: Sequence[str]) -> gr.Dropdown:
    """The checkpoint: one of those that are here, or any folder or name."""
    info: str = Checkpoint.model_fields["model"].description or ""
    return gr.Dropdown(
        list(models), value=BUNDLED, label="Checkpoint", info=info, allow_custom_value=True,
        min_width=200,
    )  # fmt: skip


def make_more(seeds: str, *, guided: bool = True, timed: bool = True) -> More:
    """The fields that are rarely needed.

    Args:
        seeds: Those that are drawn, if none are named.
        guided: Whether guidance is the run's.
        timed: Whether a time can be given.
    """
    fields = Checkpoint.model_fields
    with gr.Row():
        inputs: dict[str, Any] = {
            "seed": gr.Textbox(
                seeds, label="Seeds", info="One image each: 7, a list 1,5,9 or a range 0-3.",
                min_width=140,
            )
        }  # fmt: skip
        time = gr.Textbox(
            "", label="Time", min_width=140, visible=timed,
            info="What a search may take: 60s, 2m, 1h. Empty: its budget of passes.",
        )  # fmt: skip
        memory = gr.Textbox(
            "",
            label="Memory limit",
            info="As in 8GB; the fastest way that fits is taken.",
            min_width=140,
        )
    with gr.Accordion("Checkpoint's details", open=False), gr.Row():
        if guided:
            inputs["negative_prompt"] = gr.Textbox("", label="What it should not show")
            inputs["guidance_scale"] = gr.Textbox(
                "", label="Guidance scale", info="1 is none; empty: the model's own."
            )
        checkpoint: dict[str, Any] = {
            "size": gr.Textbox("", label="Size", info="As in 512x512; empty: the model's own."),
            "dtype": gr.Dropdown(
                ["float32", "bfloat16", "float16"], value="float32", label="Numbers",
                info=fields["dtype"].description,
            ),
            "device": gr.Textbox("cpu", label="Device", info=fields["device"].description),
            "embedding": _choose_learnt(
                "Words to be taught", "Those that were learnt here, FILE or WORD=FILE."
            ),
            "lora": _choose_learnt("LoRAs", "Those that were learnt here, FILE or FILE:SCALE."),
        }  # fmt: skip
    return More(checkpoint, inputs, time, memory)


def _choose_learnt(label: str, info: str) -> gr.Dropdown:
    """A choice of what was learnt, of which there may be several, and of any other file."""
    return gr.Dropdown(
        [], value=[], label=label, info=info, multiselect=True, allow_custom_value=True,
        min_width=240,
    )  # fmt: skip


# --- methods --------------------------------------------------------------------------------------


def make_methods(kinds: Sequence[str], chosen: Sequence[str], *, several: bool = True) -> Any:
    """The choice of methods.

    Args:
        kinds: Those that there are.
        chosen: Those at first.
        several: Whether there may be more than one.
    """
    value: Any = list(chosen) if several else chosen[0]
    return gr.Dropdown(
        list(kinds),
        value=value,
        multiselect=several,
        label="Methods" if several else "Method",
        info="Several are done in turn, and shown side by side." if several else "How it learns.",
    )


def make_preset() -> gr.Dropdown:
    """The choice of a preset."""
    return gr.Dropdown(
        [BEST, *PRESETS], value=BEST, label="Preset", min_width=140,
        info="best: the model's own; faithful: the papers'; tuned: of the bundled models; quick.",
    )  # fmt: skip


def make_forms(
    kinds: Sequence[str], preset: str, model: str, loss: str, photo: bool, values: Mapping[str, Any]
) -> tuple[list[tuple[str, list[Blank]]], list[Any]]:
    """The forms of methods, each closed at first; their fields, and Gradio's.

    Args:
        kinds: The methods.
        preset: What fills them in.
        model: The checkpoint's name.
        loss: The kind of the first loss.
        photo: Whether a photo is edited.
        values: What stands there instead, by method.
    """
    forms, boxes = [], []
    for kind in kinds:
        fields = list_method_fields(
            kind, preset, model=model, loss="" if loss == NO_LOSS else loss, photo=photo,
            values=_validate(kind, values.get(kind)),
        )  # fmt: skip
        forms.append((kind, fields))
        first = (METHODS[kind].__doc__ or "").strip().partition("\n")[0]
        with gr.Accordion(f"Settings of {kind}", open=False, key=f"{kind}-form"):
            gr.Markdown(first)
            boxes += _make_boxes(fields)
    return forms, boxes


def _try_forms(*given: Any) -> tuple[list[Any], list[Any], UserError | None]:
    """The forms of `make_forms`, or what is wrong with what was chosen, said in their place."""
    try:
        return *make_forms(*given), None
    except UserError as error:  # a preset that a method has not
        gr.Markdown(str(error))
        return [], [], error


def _validate(kind: str, values: Any) -> dict[str, Any] | None:
    """A method's settings as its class holds them."""
    return None if not values else dict(METHODS[kind].model_validate({"kind": kind, **values}))


def _make_boxes(fields: Sequence[Blank]) -> list[Any]:
    """The components of a form, in its order; switches are below the others."""
    made: dict[tuple[str, ...], Any] = {}
    with gr.Row():
        for each in fields:
            if each.kind != "switch":
                made[each.path] = _make_box(each)
    with gr.Row():
        for each in fields:
            if each.kind == "switch":
                with gr.Column(min_width=200):
                    made[each.path] = _make_box(each)
    return [made[each.path] for each in fields]


def _make_box(field: Blank) -> Any:
    """The component of a field."""
    named: dict[str, Any] = {"label": field.label, "info": field.description, "interactive": True}
    if field.kind == "switch":
        return gr.Checkbox(bool(field.now), **named)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=str(field.now), min_width=200, **named)
    return gr.Textbox(str(field.now), min_width=200, **named)


def read_methods(
    forms: Sequence[tuple[str, Sequence[Blank]]], answers: Sequence[Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Each method with what was filled in."""
    found, rest = [], list(answers)
    for kind, fields in forms:
        mine, rest = rest[: len(fields)], rest[len(fields) :]
        found.append((kind, gather(fields, mine)))
    return found


# --- a whole form ---------------------------------------------------------------------------------


@dataclass
class Form:
    """All of a page's fields.

    Args:
        inputs: The page's own, by the names of `Inputs`.
        model: The checkpoint.
        rows: The losses.
        methods: The methods.
        preset: What fills in their settings.
        more: What is rarely needed.
        base: What fills them in instead, by method: the settings of an earlier run.
    """

    inputs: Mapping[str, Any]
    model: gr.Dropdown
    rows: Sequence[LossRow]
    methods: gr.Dropdown
    preset: gr.Dropdown
    more: More
    base: gr.State

    @property
    def learners(self) -> list[gr.Dropdown]:
        """Those fields that choose among what was learnt, too."""
        return [self.model, self.more.checkpoint["embedding"], self.more.checkpoint["lora"]]

    @property
    def opened(self) -> list[Any]:
        """Those that a run fills in, in the order of `fill`."""
        losses = [each for row in self.rows for each in row.all]
        more = [*self.more.checkpoint.values(), *self.more.inputs.values(), self.more.memory]
        return [*self.inputs.values(), self.model, self.methods, self.base, *losses, *more]

    def fill(self, found: Opened) -> list[Any]:
        """What a run fills in. Raises UserError if it has more losses than there are rows."""
        if len(found.losses) > len(self.rows):
            cause = f"the form has {len(self.rows)} losses, and the run more"
            raise UserError(cause, "make it again")
        losses: list[Any] = []
        for kind, target, pictures, weight in found.losses:
            losses += [kind, target, pictures or None, weight]
        losses += [NO_LOSS, "", None, "1"] * (len(self.rows) - len(found.losses))
        methods: Any = list(found.methods) if self.methods.multiselect else found.methods[0]
        names = [*self.more.checkpoint, *self.more.inputs, "memory"]
        return [
            *(found.inputs.get(name, gr.skip()) for name in self.inputs),
            found.model,
            methods,
            dict(found.values),
            *losses,
            *(found.more.get(name, "") for name in names),
        ]

    @property
    def fields(self) -> list[Any]:
        """All but the methods' settings, in order."""
        losses = [each for row in self.rows for each in row.all]
        return [*self.inputs.values(), self.model, *losses, *self.more.all]

    def ask(
        self, forms: Sequence[tuple[str, Sequence[Blank]]], answers: Sequence[Any], finish: Finish
    ) -> tuple[Asked, str]:
        """What was filled in, and the time."""
        inner, losses, more = len(self.inputs), 4 * len(self.rows), len(self.more.all)
        own = finish(dict(zip(self.inputs, answers, strict=False)))
        named, *others = answers[inner:]
        checkpoint, inputs, time, memory = self.more.read(others[losses : losses + more])
        asked = Asked(
            {**own, **inputs},
            {"model": named, **checkpoint},
            read_losses(others[:losses]),
            read_methods(forms, others[losses + more :]),
            memory,
            bool(time.strip()),
        )
        return asked, time


@dataclass(frozen=True)
class Page:
    """What tells a page's form from another's.

    Args:
        name: Of the page, for the names of its buttons.
        kinds: The methods that there are.
        chosen: Those at first.
        seeds: Likewise.
        loss: The first loss and its aim.
        photo: Whether a photo is edited.
        learns: Whether a method learns, one alone.
    """

    name: str
    kinds: Sequence[str]
    chosen: Sequence[str]
    seeds: str = "0-3"
    loss: tuple[str, str] = (NO_LOSS, "")
    photo: bool = False
    learns: bool = False


def make_form(session: Session, page: Page, inputs: Mapping[str, Any], finish: Finish) -> Form:
    """All fields of a page but its own inputs, and its buttons.

    Args:
        session: What the pages share.
        page: Which one it is.
        inputs: The page's own fields, which are there already, by the names of `Inputs`.
        finish: What makes inputs of what was filled into them.
    """
    with gr.Row():
        methods = make_methods(page.kinds, page.chosen, several=not page.learns)
        preset, model = make_preset(), make_model_choice(session.models)
    rows = make_losses(*page.loss)
    more = make_more(page.seeds, guided=not page.learns, timed=not page.learns)
    form = Form(inputs, model, rows, methods, preset, more, gr.State({}))
    for each in (*form.fields, methods, preset):  # what is also filled in would only be shown
        each.interactive = True

    @gr.render(inputs=[methods, preset, model, rows[0].kind, form.base], show_progress="hidden")
    def show_forms(
        kinds: list[str] | str, chosen: str, name: str, loss: str, values: Mapping[str, Any]
    ) -> None:
        several = [kinds] if isinstance(kinds, str) else kinds
        forms, boxes, problem = _try_forms(several, chosen, name, loss, page.photo, values)
        usual = choose_guidance(chosen or None, model=name.strip() or None, photo=page.photo)

        def ask(answers: Sequence[Any]) -> tuple[Asked, str]:
            if problem is not None:
                raise problem
            asked, time = form.ask(forms, answers, finish)
            return asked.with_guidance(usual), time

        def run(tokens: Any, *answers: Any) -> tuple[Any, ...]:
            return begin(session, *ask(answers), tokens)

        def tell(*answers: Any) -> str:
            return foretell(session, *ask(answers))

        every = [*form.fields, *boxes]
        shown = [session.tokens, session.chosen, said]
        begun = start.click(
            explained(run), [session.tokens, *every], shown, api_visibility="private"
        )
        begun.success(None, js=SHOW, api_visibility="private")
        guess.click(explained(tell), every, [said], api_visibility="private")

    with gr.Row():
        start = gr.Button("Start", variant="primary", elem_id=f"{page.name}-start")
        guess = gr.Button("Estimate", elem_id=f"{page.name}-estimate")
    said = gr.Markdown(elem_id=f"{page.name}-said")
    return form


def offer_learnt(forms: Sequence[Form], models: Sequence[str], learnt: Learnt) -> list[Any]:
    """The choices of what was learnt, for all forms: of each its `learners`."""
    checkpoints = [*models, *((f"that of {run}", path) for run, path in learnt.checkpoints)]
    choices = (checkpoints, learnt.words, learnt.loras)
    return [gr.update(choices=list(each)) for _ in forms for each in choices]


# --- beginning ------------------------------------------------------------------------------------


def begin(
    session: Session, asked: Asked, time: str, tokens: Tokens | None
) -> tuple[dict[str, str], str, str]:
    """Put a run into the queue; what the browser keeps then, the run's name, a sentence."""
    spec = make_spec(asked, session.desk)
    seconds = parse_time(time) if time.strip() else None
    name, token = session.desk.add(spec, name_run(spec), seconds)
    return {**(tokens or {}), name: token}, name, f"{name} waits for its turn."


def foretell(session: Session, asked: Asked, time: str) -> str:
    """What a run would take, as Markdown."""
    spec = make_spec(asked, session.desk)
    if time.strip():
        parse_time(time)
        require_budget(spec)
    return _write_estimate(spec, session.desk.estimate(spec))


def _write_estimate(spec: RunSpec, found: Sequence[Estimate]) -> str:
    lines = [
        f"- **{each.label}**: {format_bytes(each.peak)} of memory at its most ({each.plan})"
        + (f", {each.passes} passes of the network an iteration" if each.passes else "")
        for each in found
    ]
    limit = "no limit" if spec.memory is None else f"within {format_bytes(spec.memory)}"
    return f"What it would take, with {limit}:\n" + "\n".join(lines)
