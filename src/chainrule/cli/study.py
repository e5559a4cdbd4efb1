"""The commands of blind studies: `study new`, `study serve`, `study results`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from chainrule.cli._options import JSON, Command, Group
from chainrule.cli._serving import find_names, give_links, listen, run_server
from chainrule.cli._stopping import STOPPING
from chainrule.cli._terminal import console, plain_errors, print_table
from chainrule.errors import UserError
from chainrule.runs.report import fill_holes
from chainrule.specs import expand
from chainrule.study import PROTOCOLS, Asked, Results, StudyFolder, create_study
from chainrule.study.protocols import Protocol
from chainrule.study.report import (
    describe_agreement,
    list_remarks,
    tabulate_comparisons,
    tabulate_differences,
    tabulate_rates,
    write_answers,
    write_report,
)
from chainrule.study.serve import make_app

NAMES = ("method", "difference", "pair", "what counts")
"""The columns of words."""
Json = Annotated[bool, JSON.info]
StudyArgument = Annotated[Path, typer.Argument(help="The study's folder.", metavar="STUDY")]

study_app = typer.Typer(
    cls=Group,
    help="Ask people which pictures are better, blind: make a study, serve it, count the answers.",
    no_args_is_help=True,
    add_completion=False,
)


Runs = Annotated[
    list[str],
    typer.Argument(
        help="The folders of the runs. NAME=RUN names one: so may two have the same methods.",
        metavar="RUN...",
    ),
]
Kind = Annotated[str, typer.Option(help="What is asked: pairwise, edit, same-thing or free.")]
Methods = Annotated[
    str | None, typer.Option(help="Those that are compared, as in the runs: A,B,C; all.")
]
Against = Annotated[
    str | None, typer.Option(help="Of pairs, the method that all others are compared with.")
]
Question = Annotated[
    str | None, typer.Option(help="Ask this, in the place of the protocol's own question.")
]
AnswerTexts = Annotated[
    list[str] | None,
    typer.Option(help="Of free: what can be answered; several. The first is a success."),
]
Success = Annotated[
    list[str] | None, typer.Option(help="Of free: an answer that is a success; several.")
]
Prompt = Annotated[
    bool | None,
    typer.Option("--prompt/--no-prompt", help="Whether raters read it; the protocol's own."),
]
Raters = Annotated[int, typer.Option(help="How many are foreseen.")]
PerRater = Annotated[int | None, typer.Option(help="How many questions each rater answers; all.")]
Checks = Annotated[int, typer.Option(help="How many attention checks each rater gets.")]
Slips = Annotated[int, typer.Option(help="How many of them a rater who counts may fail.")]
Seed = Annotated[int | None, typer.Option(help="Of all random choices; a new one, which is kept.")]
NewFolder = Annotated[
    Path | None, typer.Option("-o", "--folder", help="The study's folder; a new one in studies/.")
]


def new(
    runs: Runs,
    protocol: Kind = "pairwise",
    methods: Methods = None,
    against: Against = None,
    question: Question = None,
    answer: AnswerTexts = None,
    success: Success = None,
    prompt: Prompt = None,
    raters: Raters = 3,
    per_rater: PerRater = None,
    checks: Checks = 2,
    slips: Slips = 0,
    seed: Seed = None,
    folder: NewFolder = None,
) -> None:
    """Make a blind study of the pictures of some runs, and print its folder.

    What they made of the same prompt and the same seed is compared, two pictures at a time, or one.
    """
    with plain_errors():
        settings = {
            "question": question,
            "answers": tuple(answer) if answer else None,
            "success": tuple(success) if success else None,
            "show_prompt": prompt,
        }
        asked = Asked(
            protocol=_choose_protocol(protocol, settings),
            methods=_split(methods),
            against=against,
            raters=raters,
            per_rater=per_rater,
            checks=checks,
            slips=slips,
            seed=seed,
        )
        path = expand(folder) if folder else Path("studies") / time.strftime("%Y%m%d-%H%M%S")
        made = create_study(path, _name_runs(runs), asked)
        study = made.study
        console.print(
            f"{len(study.questions)} questions about {', '.join(study.methods)}; each of "
            f"{study.raters} raters answers {study.per_rater}, and {len(study.checks)} checks; "
            f"`chainrule study serve {path}` asks them",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        typer.echo(path)


def _choose_protocol(name: str, settings: dict[str, Any]) -> Protocol:
    """The protocol with the settings that were typed."""
    return PROTOCOLS[name](**{key: value for key, value in settings.items() if value is not None})


def _name_runs(typed: Sequence[str]) -> Sequence[Path] | Mapping[str, Path]:
    """The runs, by their names if these were typed. Raises UserError if some have none."""
    pairs = [_parse_run(text) for text in typed]
    names = [name for name, _ in pairs]
    if not any(names):
        return [folder for _, folder in pairs]
    if not all(names) or len(set(names)) < len(names):
        raise UserError("some runs have names, and not each its own", "name all of them")
    return dict(pairs)


def _parse_run(text: str) -> tuple[str, Path]:
    """The name and the folder of a run; a folder that is there by the whole text goes first."""
    name, equals, folder = text.partition("=")
    if not equals or expand(text).exists():
        return "", expand(text)
    return name.strip(), expand(folder)


def _split(text: str | None) -> tuple[str, ...]:
    """Methods as one writes them, with commas between."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def serve(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0: any that is free.")] = 7870,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A host name by which raters reach it besides this machine's own for itself; "
            "several. The links have the first.",
        ),
    ] = None,
    new_links: Annotated[
        bool, typer.Option("--new-links", help="Make new links; the old ones lead nowhere then.")
    ] = False,
) -> None:
    """Ask the raters: print a link for each, and serve their pages until Ctrl-C.

    The links are printed once, when they are made: only digests of them are kept.
    """
    with plain_errors():
        opened = StudyFolder.open(expand(study))
        opened.check_pictures()
        names = find_names(host, list(allow or ()))
        app = make_app(opened, names)
        with listen(host, port) as listening:
            chosen = listening.getsockname()[1]
            shown = names[0] if names else "127.0.0.1"
            give_links(opened, f"http://{shown}:{chosen}", anew=new_links)
            STOPPING.message = f"stopped; all answers are in {study}"
            run_server(app, listening)


def results(
    study: StudyArgument,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write all answers to a table.")
    ] = None,
    json: Json = False,
) -> None:
    """Count the answers: print success rates, and write report.json and report.html."""
    with plain_errors():
        opened = StudyFolder.open(expand(study))
        found = write_report(opened)
        if csv is not None:
            write_answers(opened, expand(csv))
        if json:
            typer.echo(json_module.dumps(fill_holes(found.as_json())))
        else:
            _show(found)
            typer.echo(opened.path / "report.html")


def _show(found: Results) -> None:
    """The results as tables."""
    if not found.rates:
        typer.echo("There are no answers that count yet.")
    for columns, rows in (
        tabulate_rates(found), tabulate_differences(found), tabulate_comparisons(found)
    ):  # fmt: skip
        if rows:
            table = Table(box=None, pad_edge=False)
            for name in columns:
                table.add_column(name, justify="left" if name in NAMES else "right")
            for row in rows:
                table.add_row(*map(escape, row))
            print_table(table)
            typer.echo()
    if found.rates:
        typer.echo(describe_agreement(found))
    for remark in list_remarks(found):
        typer.echo(remark)


study_app.command("new", cls=Command)(new)
study_app.command("serve", cls=Command)(serve)
study_app.command("results", cls=Command)(results)
