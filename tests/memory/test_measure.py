"""What is counted, and what a run is said to take before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import chainrule
from chainrule import UserError
from chainrule.cli import app
from chainrule.estimate import Optimisation, estimate, fitted, ladder
from chainrule.losses import Call, Classifier, load_classifier
from chainrule.memory import LiveBytes, bytes_of, modules, out_of_memory, parse_bytes
from chainrule.methods import Doodl, Task, doodl
from chainrule.plan import Plan
from chainrule.settings import Settings
from tiny import allocated, family, save_classifier, save_family

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")


def test_live_bytes_are_those_that_are_made() -> None:
    given = torch.zeros(1000)
    layer = nn.Linear(100, 200)
    with LiveBytes() as memory:
        one = given + 1.0
        assert memory.live == 4000
        view = one[:10]
        del one
        assert memory.live == 4000  # the view holds it
        del view
        assert memory.live == 0
        layer(torch.zeros(1, 100))  # its weights are given, though it makes views of them
    assert memory.peak == 4000
    assert memory.live == 0


def test_networks_are_found_wherever_they_are() -> None:
    model, loss = chainrule.load(), 0.5 * Classifier(load_classifier(), "heart")
    names = [type(module).__name__ for module in modules(model, loss)]
    assert names == ["UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel", "ResNetForImageClassification"]
    layer = nn.Linear(3, 3, bias=False)

    class Judge:
        def __init__(self) -> None:
            self.layers = {"first": [layer]}

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(1, 2, 3))

    for function in (lambda images: layer(images), layer.forward, Judge()):
        assert modules(2.0 * Call(function)) == [layer]
    assert bytes_of([layer, nn.Sequential(layer)]) == 36


@pytest.mark.parametrize("text", ["8 cows", "", "GB", "-1GB", "0GB", "1.2.3G"])
def test_amounts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="no amount of memory: write, for example, 8GB"):
        parse_bytes(text)


def test_what_is_out_of_memory() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("something else"))


def task(name: str, tmp_path: Path) -> Task:
    if name == "scenes":
        model, loss = chainrule.load(), Classifier(load_classifier(), "heart")
    else:
        save_classifier(tmp_path)
        model, loss = chainrule.load(family(name)), Classifier(load_classifier(tmp_path), "star")
    return Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1, 2), loss)


@pytest.mark.parametrize(
    "plan", [Plan(), Plan(keep=3), Plan(together=1), Plan(seen=1, together=2, rebuilt=True)], ids=str
)
@pytest.mark.parametrize(
    ("name", "mix"),
    [("scenes", None), ("Stable Diffusion 1.x", None), ("Stable Diffusion 1.x", 0.97), ("Stable Diffusion 3", 0.97)],
)
def test_the_estimate_is_what_the_allocator_gives(name: str, plan: Plan, mix: float | None, tmp_path: Path) -> None:
    job, settings = task(name, tmp_path).under(plan), Doodl(iterations=1, steps=6, mix=mix, crops=2)
    said = Optimisation.measure(job, settings).under()
    peak = allocated(lambda: doodl(job, settings)) + bytes_of(modules(job.model, job.loss))
    assert abs(said.peak / peak - 1) < 0.15


def test_it_grows_with_the_steps_by_a_latent_and_with_what_is_kept_by_a_graph(tmp_path: Path) -> None:
    job = task("scenes", tmp_path)

    def peak(steps: int, keep: int) -> int:
        return Optimisation.measure(job, Doodl(iterations=1, steps=steps, mix=None)).under(keep).peak

    latents = 3 * 4 * 16 * 16 * 4
    assert peak(50, 0) - peak(20, 0) == 30 * latents
    graph = peak(20, 12) - peak(20, 11)
    assert graph > 100 * latents
    assert peak(20, 20) - peak(20, 12) == 8 * graph


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline, with a classifier beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    save_classifier(folder / "judge")
    return save_family("Stable Diffusion 1.x", folder / "pipeline")


def settings(checkpoint: Path, **changes: object) -> Settings:
    values: dict[str, object] = {
        "prompt": "a red shape",
        "model": str(checkpoint),
        "seeds": (0, 1, 2),
        "methods": ("doodl",),
        "wishes": ({"kind": "classifier", "target": "star", "model": str(checkpoint.parent / "judge")},),
        "doodl": Doodl(iterations=1, steps=5, mix=None, crops=0),
    }
    return Settings.model_validate(values | changes)


@pytest.mark.filterwarnings("ignore:the weights are in bfloat16")
def test_the_fastest_plan_that_fits_is_taken(checkpoint: Path) -> None:
    free = settings(checkpoint)
    rungs = list(ladder(free, free.task()))
    peaks = [rung.peak for rung in rungs]
    assert peaks == sorted(peaks, reverse=True)
    for rung in rungs:
        fastest = next(each for each in rungs if each.peak <= rung.peak)
        chosen = fitted(settings(checkpoint, memory=rung.peak), free.task()).plan
        assert chosen.model_copy(update={"keep": 0}) == fastest.plan.model_copy(update={"keep": 0})
        assert chosen.keep >= fastest.plan.keep
    assert fitted(free, free.task()).plan == Plan()


@pytest.mark.filterwarnings("ignore:the weights are in bfloat16")
def test_what_is_missing_is_said(checkpoint: Path) -> None:
    free = settings(checkpoint)
    least = min(rung.peak for rung in ladder(free, free.task()))
    with pytest.raises(UserError, match=r"needs .* kB, 1\.0 kB more than the .* of memory: choose a smaller --size"):
        fitted(settings(checkpoint, memory=least - 1000), free.task())


def test_weights_in_bfloat16_are_the_last_resort_and_said(checkpoint: Path) -> None:
    free = settings(checkpoint)
    least = min(rung.peak for rung in ladder(free, free.task()))
    with pytest.warns(UserWarning, match="the weights are in bfloat16"):
        assert fitted(settings(checkpoint, memory=least), free.task()).plan.half


def test_every_method_is_estimated(checkpoint: Path) -> None:
    every = settings(checkpoint, methods=("plain", "one-step", "best-of", "doodl", "adjoint-dpm"))
    found = {each.method: each for each in estimate(every, every.task())}
    assert list(found) == list(every.methods)
    assert found["plain"].peak < found["one-step"].peak
    assert found["doodl"].passes == 3 * 5 * 3
    assert found["adjoint-dpm"].passes == 3 * 31 * 3


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


WISH = ("a red shape on a white background", "--loss", "classifier=heart", "--seed", "0-1")
GUIDE = ("guide", *WISH, "--method", "doodl")
SMALL = ("--steps", 2, "--iterations", 1)


def test_a_run_within_a_limit_makes_the_same(tmp_path: Path) -> None:
    run(*GUIDE, *SMALL, "-o", tmp_path / "free")
    run(*GUIDE, *SMALL, "--memory", "42MB", "-o", tmp_path / "tight")
    losses = [json.loads((tmp_path / name / "history.json").read_text())["doodl"] for name in ("free", "tight")]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-3, atol=1e-5)


def test_too_little_memory_leaves_no_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(a) for a in (*GUIDE, *SMALL, "--memory", "5MB", "-o", tmp_path / "run")])
    assert result.exit_code == 2
    assert "MB more than the 5.0 MB of memory" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_the_command_says_what_fits() -> None:
    asked = ("estimate", *WISH, "--steps", 2, "--memory", "50MB")
    said = run(*asked, "--method", "plain", "--method", "doodl")
    assert "within 50.0 MB, plain: plain" in said
    assert "within 50.0 MB, doodl: loss_and_gradient 1 at a time" in said
    result = CliRunner().invoke(app, [str(argument) for argument in (*asked[:-1], "1MB")])
    assert result.exit_code == 2
    assert "too little for doodl: choose a smaller --size" in " ".join(result.output.split())
