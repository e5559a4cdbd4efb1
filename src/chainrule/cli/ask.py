"""The commands that begin a run: generate, guide, edit, invert, tune, audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from chainrule.cli._ask import make_spec, name_folder, read_lines
from chainrule.cli._options import (
    CHECKPOINT,
    JSON,
    MEMORY,
    OUTPUT,
    QUIET,
    Option,
    SettingsCommand,
    argument,
    from_field,
    make_command,
    pick_inputs,
)
from chainrule.cli._settings import Typed, require_known
from chainrule.cli._terminal import console, follow, plain_errors
from chainrule.errors import UserError
from chainrule.losses.registry import LOSSES
from chainrule.methods.base import PRESETS, Needs
from chainrule.methods.registry import METHODS
from chainrule.models import Model
from chainrule.runs import execute, load_model
from chainrule.runs.pace import parse_time, pay_by_time
from chainrule.runs.spec import Inputs, RunSpec
from chainrule.runs.usual import BEST, DRAWING, choose_editing, choose_guiding, choose_tuning

HINTS = ", ".join(spec.hint for spec in LOSSES.own.values())
LOSS = Option(
    "loss",
    list[str] | None,
    typer.Option(
        "--loss",
        metavar="LOSS",
        help=f"Towards what: {HINTS}; with a weight, 0.5*...; they add up.",
    ),
)
METHOD = Option(
    "method",
    list[str] | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="KIND or KIND:NAME=VALUE,...; several make a grid. See `chainrule methods`.",
    ),
)
PRESET = Option(
    "preset",
    str | None,
    typer.Option(
        "--preset",
        metavar="PRESET",
        help=f"{', '.join(PRESETS)}: the paper's, the bundled worlds', little work; {BEST}: "
        "--budget.",
    ),
)
TIME = Option(
    "time",
    str | None,
    typer.Option(
        "--time",
        metavar="TIME",
        help="What 60s, 2m or 1h pay for.",
    ),
)
MASK_HELP = "Where it may change: a picture as large (white), text=WORDS or colour=red."
EPILOG = (
    "Any setting of the chosen methods and losses is an option too, as in --steps 20 or "
    "--classifier NAME: `chainrule methods METHOD` lists those of a method."
)
COMMON = pick_inputs("negative_prompt", "guidance_scale")
PROMPTS_FILE = Option(
    "prompts",
    Path | None,
    typer.Option("--prompts", metavar="FILE", help="A text file with prompts, one in each line."),
)


@dataclass(frozen=True)
class Command:
    """A command that begins a run.

    Args:
        name: The command's.
        doc: What it does, in a sentence.
        options: What it takes besides the checkpoint, the memory and the output.
        methods: What is done, given the values, if no method is named.
        preset: Whether settings come from a preset.
        seeds: The seeds, if none are named.
        guided: Whether guidance is the run's; if not, it is a setting of the method's own.
        check: Raises UserError for what was not said.
        after: Called with the folder when all is done.
    """

    name: str
    doc: str
    options: Sequence[Option]
    methods: Callable[[dict[str, Any]], Sequence[str]]
    preset: bool = False
    seeds: str = "0-3"
    guided: bool = True
    check: Callable[[dict[str, Any]], None] = lambda values: None
    after: Callable[[Path], None] = field(default=lambda folder: None)

    def add_to(self, app: typer.Typer) -> None:
        """Add the command to an app."""
        function = make_command(self.name, self.doc, self._every_option(), self.run)
        app.command(cls=SettingsCommand, epilog=EPILOG)(function)

    def _every_option(self) -> list[Option]:
        common = COMMON if self.guided else []
        return [*self.options, *common, *CHECKPOINT, MEMORY, OUTPUT, QUIET, JSON]

    def spec(self, typed: Sequence[Typed], values: dict[str, Any]) -> RunSpec:
        """The run that was asked for."""
        require_known(typed, [option.name for option in self._every_option()])
        self.check(values)
        values = {**values, "seed": self.seeds if values.get("seed") is None else values["seed"]}
        methods = values.get("method") or self.methods(values)
        return make_spec(values, typed, methods, preset=self.preset)

    def run(self, typed: Sequence[Typed], values: dict[str, Any]) -> None:
        """Do it."""
        with plain_errors():
            spec = self.spec(typed, values)
            model = None
            if values.get("time") is not None:
                spec, model = self._pay(spec, values)
            folder = name_folder(values["output"], spec)
            events = execute(spec, folder, model)
            follow(events, folder, quiet=values["quiet"], json=values["json"])
            self.after(folder)

    def _pay(self, spec: RunSpec, values: dict[str, Any]) -> tuple[RunSpec, Model]:
        """The run with the budget that a time pays for, and its model."""
        seconds = parse_time(values["time"])
        model = load_model(spec.checkpoint)
        spec, budget = pay_by_time(spec, seconds, model)
        if not values["quiet"] and not values["json"]:
            console.print(f"{values['time']} pay for {budget} passes here (--budget {budget})")
        return spec, model


def _require_loss(values: dict[str, Any]) -> None:
    if not values.get("loss"):
        raise UserError("there is no loss to guide", f"name one, {HINTS}", "loss")


def _require_edit(values: dict[str, Any]) -> None:
    photo, source = values.get("photo"), values.get("source") or ""
    if photo is None and not source.strip():
        raise UserError(
            "there is no picture", "name one, or say what the model should draw first", "source"
        )
    asked = values.get("loss") or values.get("prompt") is not None
    if not asked and not values.get("method"):
        raise UserError(
            "there is nothing to edit",
            "say what the picture should show, or name a loss (--loss aesthetic=10)",
            "prompt",
        )
    if values.get("prompt") is None:
        values["prompt"] = source


def _require_tuning(values: dict[str, Any]) -> None:
    values["prompt"] = [*(values.get("prompt") or ()), *read_lines(values.pop("prompts", None))]
    named = [text.partition(":")[0].strip() for text in values.get("method") or ()]
    if set(named) == {"stylize"} and values.get("seed") is None:
        values["seed"] = STYLE_SEEDS
    chosen = [METHODS.known.get(name) for name in named]
    if chosen and not any(kind is None or Needs.PROMPT in kind.needs for kind in chosen):
        values["prompt"] = values["prompt"] or None  # what is learnt is not a thing
    elif not values["prompt"]:
        raise UserError(
            "there is no prompt to show it in",
            "say what to draw; {} is the thing that is learnt, as in 'a {}'",
            "prompt",
        )


def _report_inversion(folder: Path) -> None:
    """Print how the way there and back went."""
    import json

    report = json.loads((folder / "report.json").read_text())
    (method,) = report["methods"].values()
    table = Table("latents", "drift", "pair apart", "spread", "PSNR to the photo")
    for name, row in method["numbers"].items():
        cells = [f"{row[key]:{form}}" if key in row else "" for key, form in FACTS.items()]
        table.add_row(name, *cells, f"{row['psnr']:.2f} dB")
    console.print(table)


STYLE_SEEDS = "0-9"
"""The seeds on which a style is learnt, if none are named: others are only shown on theirs."""
FACTS = {"drift": ".1e", "apart": ".3f", "spread": ".2f"}


def _guided(values: dict[str, Any]) -> Sequence[str]:
    return choose_guiding(values.get("preset"))


def _edited(values: dict[str, Any]) -> Sequence[str]:
    return choose_editing(values.get("preset"), losses=bool(values.get("loss")))


def _taught(values: dict[str, Any]) -> Sequence[str]:
    return choose_tuning(values.get("model"))


PROMPT = argument(Inputs, "prompt", optional=True)
SEED = from_field(Inputs, "seed")
COMMANDS = (
    Command(
        "generate", "Draw images of a prompt.", [PROMPT, METHOD, SEED], lambda values: [DRAWING]
    ),
    Command(
        "guide",
        "Draw images of a prompt, guided by a loss.",
        [PROMPT, LOSS, METHOD, PRESET, TIME, SEED],
        _guided,
        preset=True,
        check=_require_loss,
    ),
    Command(
        "edit",
        "Edit a picture: from one description to another, inside a mask, or towards a loss.",
        [
            argument(Inputs, "photo", optional=True),
            *pick_inputs("source", "prompt"),
            LOSS,
            METHOD,
            PRESET,
            TIME,
            from_field(Inputs, "mask", help=MASK_HELP),
            *pick_inputs("exact", "native"),
            SEED,
        ],
        _edited,
        preset=True,
        seeds="0",
        check=_require_edit,
    ),
    Command(
        "invert",
        "Find the noise that a photo would come from (EDICT), and measure the way there and back.",
        [argument(Inputs, "photo"), *pick_inputs("source")],
        lambda values: ["inversion"],
        preset=True,
        seeds="0",
        after=_report_inversion,
    ),
    Command(
        "tune",
        "Teach the model what pictures show, or a loss asks for; {} in a prompt is the thing.",
        [
            argument(Inputs, "pictures", several=True, optional=True),
            *pick_inputs("prompt"),
            PROMPTS_FILE,
            LOSS,
            METHOD,
            PRESET,
            SEED,
        ],
        _taught,
        preset=True,
        guided=False,
        check=_require_tuning,
    ),
    Command(
        "audit",
        "Find out how a classifier fails: images that it misreads after a small change of noise.",
        [argument(Inputs, "prompt", several=True), SEED],
        lambda values: ["audit"],
        guided=False,
        seeds="0-15",
    ),
)
"""Each command: what it takes and what it does."""
