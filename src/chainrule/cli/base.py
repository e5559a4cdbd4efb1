"""What the commands share: their options, the progress display, and how errors end."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chainrule.errors import UserError
from chainrule.estimate import fitted
from chainrule.jobs import Job, Work, prepared
from chainrule.jobs import execute as do
from chainrule.memory import parse_bytes
from chainrule.methods import ADJOINT_DPM, DoodlState, Task
from chainrule.methods.presets import Preset, preset
from chainrule.models import BUNDLED
from chainrule.run import Report, Run, first_line
from chainrule.settings import Method, Settings

console = Console(stderr=True)

Prompt = Annotated[
    str,
    typer.Argument(
        help="What to draw, for example 'a red shape on a white background'; of a model of classes, a class; of one "
        "that is told nothing, leave it out."
    ),
]
Model = Annotated[str, typer.Option("-m", "--model", help="'scenes' (bundled), a diffusers folder, or owner/name.")]
Seeds = Annotated[str, typer.Option("--seed", help="A seed, a list (1,5,9) or a range (0-3).")]
Steps = Annotated[int, typer.Option(help="Sampling steps.")]
Negative = Annotated[str, typer.Option("--negative-prompt", help="What the image should not be.")]
Scale = Annotated[float | None, typer.Option("--guidance-scale", help="Classifier-free guidance; 1 is none.")]
Dtype = Annotated[str, typer.Option(help="The network's numbers: float32, bfloat16, float16 or float64.")]
Size = Annotated[str | None, typer.Option(help="The images' height and width in pixels, 512x512; the model's own.")]
Variant = Annotated[str | None, typer.Option(help="Which of a checkpoint's files, as in diffusers: fp16.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
Embeddings = Annotated[
    list[Path] | None,
    typer.Option(
        "--embedding", help="A word to be taught (a file): a textual inversion, as `chainrule effect` writes."
    ),
]
Loras = Annotated[
    list[Path] | None,
    typer.Option("--lora", help="A change of the weights: a LoRA (a file or folder), as `chainrule stylize` writes."),
]
Memory = Annotated[
    str | None,
    typer.Option(help="The most that the run may take, as in 8GB: the fastest way within it is found (`estimate`)."),
]
Parameterization = Annotated[Path | None, typer.Option("-o", "--output", help="The run folder; a new one in runs/ if not named.")]
Photo = Annotated[Path, typer.Argument(help="A picture of any size.")]

KINDS = {
    "classifier": "classifier=CLASS",
    "text": "text=WORDS",
    "image": "image=FILE,FILE",
    "aesthetic": "aesthetic=10",
    "symmetry": "symmetry",
    "brightness": "brightness=0.8",
    "picture": "picture=FILE",
    "histogram": "histogram=FILE",
    "perceptual": "perceptual=FILE",
    "style": "style=FILE",
}
"""Each kind of loss as one writes it."""

# what a loss is, and who judges it
Losses = Annotated[
    list[str] | None,
    typer.Option("--loss", help=f"Towards what: {', '.join(KINDS.values())}; with a weight, 0.5*...; several add up."),
]
Objective = Annotated[str, typer.Option(help="Of the classifier: bce (the paper's) or ce.")]
ClassifierName = Annotated[
    str | None, typer.Option("--classifier", help="Any transformers image classifier; the bundled one if not named.")
]
Clips = Annotated[
    list[str] | None,
    typer.Option(
        "--clip", help="Any transformers CLIP or SigLIP; several, with weights (0.5*NAME), add up. Bundled if none."
    ),
]
RaterName = Annotated[
    str | None,
    typer.Option("--rater", help="An aesthetic head (a file) for the CLIP; the bundled one if not named."),
]
FeaturesName = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="For perceptual and style: a VGG's weights, or a transformers vision network.",
    ),
]

# how it is optimised
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset", help="faithful (the paper's settings), tuned (the bundled world's, where it is used) or quick."
    ),
]
PresetSteps = Annotated[int | None, typer.Option("--steps", help="Sampling steps; the preset's if not named.")]
Iterations = Annotated[int | None, typer.Option(help="The optimisation's iterations; the preset's if not named.")]
Rate = Annotated[float | None, typer.Option(help="The learning rate; the preset's if not named.")]
Crops = Annotated[int | None, typer.Option(help="How many crops DOODL judges, 0 for the whole image; the preset's.")]
Mix = Annotated[
    float | None,
    typer.Option(help="EDICT's p: near 1, the pair of an inversion stays together. The preset's if not named."),
]
EditScale = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale", help="Classifier-free guidance where there is a prompt; the preset's if not named."
    ),
]
NoiseAwareScale = Annotated[float, typer.Option(help="The scale of noise-aware guidance.")]
OneStepScale = Annotated[float | None, typer.Option(help="The scale of one-step guidance; the preset's if not named.")]


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that an option names.

    >>> parse_seeds("3"), parse_seeds("1,5"), parse_seeds("0-3")
    ((3,), (1, 5), (0, 1, 2, 3))
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match:
            raise UserError(f"{text!r} names no seeds: write one (7), a list (1,5,9) or a range (0-3)")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 2**31:
            raise UserError(f"{part.strip()!r} is no range of seeds: they rise, and end below 2147483648")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{text!r} names a seed twice: name each once")
    return tuple(seeds)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width).

    >>> parse_size("512x768"), parse_size(None)
    ((512, 768), None)
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", text)
    if not match:
        raise UserError(f"{text!r} is no size: write height and width in pixels, as in 512x512")
    return int(match[1]), int(match[2])


def parse_weight(text: str) -> tuple[float, str]:
    """(weight, the rest) of `[WEIGHT*]REST`.

    >>> parse_weight("0.5*symmetry"), parse_weight("text=2 * 3")
    ((0.5, 'symmetry'), (1.0, 'text=2 * 3'))
    """
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*\*\s*(.+)", text)
    return (float(match[1]), match[2]) if match else (1.0, text.strip())


def parse_wish(text: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of the loss that `--loss [WEIGHT*]KIND[=TARGET]` names; `options` are those of its kind.

    >>> parse_wish("0.5*classifier=heart", {"classifier": {"objective": "ce"}})
    {'kind': 'classifier', 'weight': 0.5, 'target': 'heart', 'objective': 'ce'}
    """
    weight, rest = parse_weight(text)
    kind, equals, target = rest.partition("=")
    if kind not in KINDS or bool(target.strip()) != ("=" in KINDS[kind]) or bool(equals) != bool(target):
        raise UserError(
            f"{text!r} is no loss: write {', '.join(KINDS.values())}, if you like with a weight, as 0.5*..."
        )
    wish: dict[str, Any] = {"kind": kind, "weight": weight}
    if kind == "image":
        wish["target"] = [_absolute(path) for path in target.split(",")]
    elif target:
        wish["target"] = _absolute(target) if KINDS[kind].endswith("FILE") else target
    return wish | dict(options.get(kind, {}))


def parse_weights(texts: list[str] | None) -> dict[str, float]:
    """What `--weight WORD=NUMBER` says.

    >>> parse_weights(["blue=2", "square=0.5"])
    {'blue': 2.0, 'square': 0.5}
    """
    found = {}
    for text in texts or []:
        word, _, number = text.rpartition("=")
        try:
            found[word.strip()] = float(number)
        except ValueError:
            raise UserError(f"{text!r} is no weight of a word: write it as in blue=2") from None
        if not word.strip():
            raise UserError(f"{text!r} names no word: write it as in blue=2")
    return found


def parse_wishes(
    losses: list[str] | None,
    *,
    objective: str,
    classifier: str | None,
    clip: list[str] | None,
    rater: str | None,
    features: str | None,
) -> list[dict[str, Any]]:
    """The settings of all losses, with the networks that were named for their kinds."""
    clips = {named(name): weight for weight, name in map(parse_weight, clip or [])}
    options: dict[str, dict[str, Any]] = {
        "classifier": {"model": named(classifier), "objective": objective},
        "text": {"clips": clips} if clips else {},
        "image": {"clips": clips} if clips else {},
        "aesthetic": {"head": named(rater), "clip": next(iter(clips), None)},
        "perceptual": {"network": named(features)},
        "style": {"network": named(features)},
    }
    return [parse_wish(text, options) for text in losses or []]


def chosen_preset(name: str | None, wishes: list[dict[str, Any]], *, model: str, photo: bool = False) -> Preset:
    """The preset of that name (None: the model's) for the first loss."""
    kind = wishes[0]["kind"] if wishes else "classifier"
    return preset(name or ("tuned" if model == BUNDLED else "faithful"), kind, photo=photo)


def optimisation(
    found: Preset, *, rate: float | None = None, one_step_scale: float | None = None, **changes: Any
) -> dict[str, Any]:
    """The settings of a preset with what was named otherwise (None: was not)."""
    chosen = found.doodl.model_dump() | {key: value for key, value in changes.items() if value is not None}
    if rate is not None:
        chosen["optimiser"]["rate"] = rate
    scale = found.one_step_scale if one_step_scale is None else one_step_scale
    return {"steps": chosen["steps"], "doodl": chosen, "one_step_scale": scale}


def adjoint_dpm(adjoint: bool, rate: float | None, **changes: int | None) -> dict[str, Any]:
    """The settings of AdjointDPM's guided sampling with what was named otherwise (None: was not)."""
    chosen = ADJOINT_DPM.model_dump() | {key: value for key, value in changes.items() if value is not None}
    if rate is not None:
        chosen["optimiser"]["rate"] = rate
    return chosen | {"adjoint": adjoint}


def named(name: str | None) -> str | None:
    """A network's name as a run remembers it: a folder or file that is here, by its whole path."""
    return _absolute(name) if name and name != BUNDLED and Path(name).expanduser().exists() else name


def _absolute(path: str) -> str:
    """A path that still names the file when the run is made again from elsewhere."""
    return str(Path(path.strip()).expanduser().absolute())


def checkpoint(
    *,
    model: str,
    size: str | None,
    variant: str | None,
    dtype: str,
    device: str,
    embedding: list[Path] | None = None,
    lora: list[Path] | None = None,
    memory: str | None = None,
) -> dict[str, Any]:
    """The settings that say which checkpoint, and how."""
    found: dict[str, Any] = {"model": named(model), "size": parse_size(size), "variant": variant, "dtype": dtype}
    added = {"embeddings": embedding, "loras": lora}
    found |= {name: [path.expanduser().absolute() for path in paths] for name, paths in added.items() if paths}
    return found | {"device": device} | ({} if memory is None else {"memory": parse_bytes(memory)})


def new_folder(output: Path | None, prompt: str) -> Path:
    """The folder that was asked for, or a new one named after the time and the prompt."""
    slug = "-".join(re.findall(r"[a-z0-9]+", prompt.lower())[:6])
    return output or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}".rstrip("-")


def quiet() -> None:
    """Keep the libraries below from talking over the progress bars."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


@contextmanager
def plain_errors() -> Iterator[None]:
    """One sentence and exit code 2 for what the user can cure; 130 after Ctrl-C; warnings in one line."""
    warnings.showwarning = lambda message, *_, **__: console.print(f"[yellow]warning:[/] {message}", highlight=False)
    quiet()
    try:
        yield
    except UserError as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except ValidationError as error:
        console.print(f"[red]error:[/] {first_line(error)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def begin(settings: Settings, output: Path | None) -> Run:
    """Do a new run. The model and the loss are loaded first: a mistake leaves no folder behind."""
    task = fitted(settings, settings.task())
    run = Run.new(
        new_folder(output, settings.prompt or (settings.photo.stem if settings.photo else settings.source)), settings
    )
    execute(run, task)
    return run


def begin_job(job: Job, output: Path | None, name: str) -> Path:
    """Do a new job; returns its folder."""
    folder = new_folder(output, name)
    execute_job(prepared(job, folder), folder)
    return folder


def execute_job(work: Work, folder: Path) -> None:
    """Do a job with a progress bar, and say where its picture is."""
    with stoppable(folder, "what there is so far"), progress_bars() as progress:
        bar = progress.add_task(folder.name, total=work.total, note="")

        def on_iteration(done: int, total: int, note: str) -> None:
            progress.update(bar, completed=done, total=total, note=note)

        picture = do(work, folder, on_iteration)
    typer.echo(picture)


def progress_bars() -> Progress:
    """Bars with an estimate of the time left."""
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


@contextmanager
def stoppable(folder: Path, what: str = "the best so far") -> Iterator[None]:
    """Say, after Ctrl-C, where the best so far is."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"stopped; {what} is in {folder}, `chainrule resume {folder}` goes on")
        raise typer.Exit(130) from None


def execute(run: Run, task: Task) -> None:
    """Do a run with progress bars, and say where its pictures are."""
    with stoppable(run.folder), progress_bars() as progress:
        outer = progress.add_task("iteration", total=None, note="", visible=False)
        inner = progress.add_task("", total=run.settings.steps, note="")

        def on_method(method: Method) -> None:
            optimised = run.settings.optimised.get(method)
            progress.reset(outer, visible=optimised is not None)
            if optimised:
                progress.update(outer, total=optimised.iterations + 1)
            progress.reset(inner, description=method)

        def on_iteration(state: DoodlState) -> None:
            now, best = state.history[-1].mean().item(), state.best_losses.mean().item()
            progress.update(outer, completed=state.iteration, note=f"loss {now:.4f}, best {best:.4f}")

        def on_step(done: int, steps: int) -> None:
            progress.update(inner, completed=done, total=steps)

        picture = run.execute(task, Report(on_method, on_iteration, on_step))
    typer.echo(picture)


def settings(**values: Any) -> Settings:
    """The run's settings; what is out of range is a user's error."""
    return Settings.model_validate(values)
