"""What is delivered is the best that was found, in the form in which it is delivered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from chainrule import UserError
from chainrule.losses import LOSSES, Call, Loss, parse_loss
from chainrule.losses.cutouts import Cutouts
from chainrule.losses.registry import AnyLoss
from chainrule.methods import (
    DOODL,
    Adam,
    AdjointDPM,
    BestOf,
    Effect,
    Photo,
    Plain,
    Result,
    Situation,
    Task,
    chunking,
    doodl,
)
from chainrule.methods.base import PRESETS
from chainrule.methods.best_of import choose_best
from chainrule.methods.training import Training, train
from chainrule.optimise import Momentum
from conftest import tiny_model
from tiny import load_once

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

SHORT = {"steps": 2, "iterations": 2, "start_of": 3, "count": 3, "final_steps": 5, "crops": 2}
"""The most that a setting is here."""
TARGETS = {
    "classifier": "heart",
    "text": "a red heart",
    "aesthetic": "10",
    "brightness": "0.7",
    "clip-direction": "a red shape > a blue shape",
}
KINDS = [kind for kind in LOSSES.own if "FILE" not in LOSSES.own[kind].hint]
"""The losses that need no file."""


def shorten(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: min(value, SHORT[name]) if name in SHORT and value is not None else value
        for name, value in settings.items()
    }


def preset(kind: type, name: str, loss: str = "symmetry", *, photo: bool = False) -> Any:
    made = kind(**kind.preset(Situation(name, loss, photo)))
    return kind(**shorten(dict(made)))


FAST = Adam(rate=0.5)
"""It overshoots: what is found last is not the best."""
CASES: dict[str, Any] = {
    f"{kind.__name__} {name}": preset(kind, name)
    for kind in (DOODL, AdjointDPM, BestOf)
    for name in PRESETS
    if kind is DOODL or name == "faithful"
} | {
    "EDICT from the best of DDIM's draws": DOODL(**shorten({"start_of": 3}), **shorten(
        {"iterations": 1, "steps": 2, "crops": 0, "mix": 0.7, "optimiser": FAST})),
    "fast": DOODL(iterations=3, steps=2, crops=0, mix=None, perturbation=0.0, optimiser=FAST),
    "fast, redrawn": DOODL(
        iterations=2, steps=2, crops=1, mix=None, optimiser=FAST, start_of=2, final_steps=5),
    "good enough": DOODL(
        iterations=3, steps=2, crops=0, mix=0.7, optimiser=FAST, start_of=2, target=0.0),
    "adjoint": AdjointDPM(iterations=2, steps=3, adjoint=True, optimiser=FAST),
}  # fmt: skip


def project(seed: int, *, features: int = 0) -> Loss:
    """A random linear functional of the image, or of random features of it."""

    def judge(images: Tensor) -> Tensor:
        flat = images.flatten(1)
        draw = torch.Generator().manual_seed(seed)
        if features:
            mixed = torch.randn(flat.shape[1], features, generator=draw) / flat.shape[1] ** 0.5
            flat = torch.sin(6 * flat @ mixed)
        return flat @ torch.randn(flat.shape[1], generator=draw)

    return Call(judge)


Judged = list[tuple[tuple[int, ...], Tensor]]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """The seeds and the losses of every whole image that a method judges."""
    return watch(monkeypatch)


def watch(monkeypatch: pytest.MonkeyPatch) -> Judged:
    seen: Judged = []
    evaluate = chunking.evaluate

    def noted(task: Task, images: Tensor) -> Tensor:
        losses = evaluate(task, images)
        seen.append((task.seeds, losses.detach()))
        return losses

    for module in (chunking, doodl):
        monkeypatch.setattr(module, "evaluate", noted)
    return seen


def best(seen: Judged, seeds: tuple[int, ...]) -> Tensor:
    """The lowest loss of each seed."""
    each = [
        [losses[group.index(seed)] for group, losses in seen if seed in group] for seed in seeds
    ]
    return torch.stack([torch.stack(found).min() for found in each])


def hold(method: Any, task: Task, seen: Judged) -> Result:
    """Assert that the best is delivered, and that it is no worse than what the start gives."""
    seen.clear()
    result = method(task)
    assert seen
    delivered, found = task.require_loss()(result.images), best(seen, task.seeds)
    torch.testing.assert_close(delivered, result.losses, rtol=1e-4, atol=1e-5)
    slack = 1e-5 * (1 + found.abs())
    assert (delivered <= found + slack).all()
    if task.photo is None and getattr(method, "mix", None) is None:
        whole = getattr(method, "final_steps", None) or method.steps
        plain = Plain(steps=whole)(task).losses
        assert plain is not None
        assert (delivered <= plain + slack).all()
    return result


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 10_000), features=st.sampled_from([0, 4]))
@settings(max_examples=4, deadline=None)
def test_the_best_of_all_that_was_judged_is_delivered(case: str, seed: int, features: int) -> None:
    """On losses that nothing was tuned on."""
    model = tiny_model()
    task = Task(
        model, model.denoiser("a prompt"), (seed, seed + 1), project(seed, features=features)
    )
    with pytest.MonkeyPatch.context() as patch:
        hold(CASES[case], task, watch(patch))


def build(kind: str) -> Loss:
    line = f"{kind}={TARGETS[kind]}" if "=" in LOSSES.own[kind].hint else kind
    found: Any = TypeAdapter(AnyLoss).validate_python(parse_loss(line))
    loss: Loss = found.build()
    return loss.given(torch.full((1, 3, 64, 64), 0.5))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_for_every_loss_and_preset_of_the_bundled_world(
    kind: str, name: str, judged: Judged
) -> None:
    model = load_once()
    task = Task(model, model.denoiser("a red shape"), (0,), build(kind), prompts=("a red shape",))
    method = preset(DOODL, name, kind)
    hold(method.model_copy(update={"iterations": 1, "crops": min(method.crops, 1)}), task, judged)


@pytest.mark.parametrize("name", ["faithful", "tuned"])
def test_photos_are_judged_with_their_own_pixels_around(name: str, judged: Judged) -> None:
    model = load_once()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., :40] = 1.0
    told = model.denoiser("a red shape")
    photo = Photo(images, told, (64, 64), mask, exact=True)
    task = Task(model, told, (0, 1), project(3), photo)
    result = hold(preset(DOODL, name, photo=True), task, judged)
    assert torch.equal(result.images * (1 - mask), images * (1 - mask))


@pytest.mark.parametrize(
    "method", [DOODL(iterations=1, steps=2, mix=None, crops=0), BestOf(steps=2)]
)
def test_a_loss_of_crops_means_the_same_to_every_method(method: Any) -> None:
    """A loss that crops by itself crops what is compared as it does what plain draws."""
    model = tiny_model()
    loss = Cutouts(project(1), 2)
    task = Task(model, model.denoiser("a prompt"), (0, 1), loss)
    result = method(task)
    torch.testing.assert_close(result.losses, loss(result.images))


def test_of_several_one_that_cannot_be_judged_is_not_the_best() -> None:
    model = tiny_model()
    results = [
        Plain(steps=steps)(Task(model, model.denoiser("a prompt"), (0, 1))) for steps in (2, 3)
    ]

    def judge(images: Tensor) -> Tensor:
        unknown = torch.equal(images, results[1].images)
        return images.mean(dim=(1, 2, 3)) * (torch.nan if unknown else 1.0)

    assert torch.equal(choose_best(results, Call(judge)).images, results[0].images)


def test_a_whole_image_that_cannot_be_judged_is_said_though_its_crops_can() -> None:
    model = tiny_model()

    class Crops(Call):
        def terms(self, images: Tensor) -> Tensor:
            values = super().terms(images)
            return values if len(images) == 6 else values * torch.nan

    loss = Crops(lambda images: images.mean(dim=(1, 2, 3)))
    task = Task(model, model.denoiser("a prompt"), (0, 1), loss)
    with pytest.raises(UserError, match="the loss is nan"):
        DOODL(iterations=1, steps=2, crops=3, mix=None)(task)


# --- methods that train -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_the_word_that_is_delivered_is_the_best_that_was_found(seed: int) -> None:
    model, said = load_once("Stable Diffusion 1.x"), "a red square"
    pair = tuple(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    method = Effect(iterations=3, steps=2, vectors=1)
    task = method.prepare(Task(model, model.denoiser(said), (0,), prompts=(said,), pictures=pair))
    states = list(method.run(task))
    assert len(states) == method.count_iterations(task) == 4
    tried = [method.begin(task).values, *(state.values for state in states[:-1])]
    x_T, after = method.find_noise(task), task.pictures[1]

    def error(vectors: Tensor) -> float:
        drawn = method.draw(task, vectors, f"{said} {method.word}", x_T)
        return (drawn - after).square().mean().item()

    errors = [error(values["vectors"]) for values in tried]
    for k, state in enumerate(states):
        assert error(state.best["vectors"]) == pytest.approx(min(errors[: k + 1]), rel=1e-4)
        assert method.result(task, state).numbers["error"] == pytest.approx(min(errors[: k + 1]))


def test_a_word_that_became_worse_is_not_delivered(tmp_path: Path) -> None:
    model, said = load_once("Stable Diffusion 1.x"), "a red square"
    pair = tuple(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    method = Effect(iterations=1, steps=2, vectors=1)
    task = method.prepare(Task(model, model.denoiser(said), (0,), prompts=(said,), pictures=pair))
    *_, last = method.run(task)
    worse = replace(last, values={"vectors": 9 + 0 * last.values["vectors"]})
    one, other = (method.result(task, state).columns["its noise"] for state in (last, worse))
    assert torch.equal(one, other)
    method.artefacts(task, worse)["embedding.safetensors"](tmp_path / "word.safetensors")
    assert torch.equal(load_file(tmp_path / "word.safetensors")[method.word], last.best["vectors"])


@given(rate=st.floats(0.01, 3.0), start=st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_a_training_of_one_loss_keeps_its_best(rate: float, start: float) -> None:
    """Whatever the rate: most of these overshoot."""
    value = torch.tensor([start], requires_grad=True)
    tried = []

    def objective(k: int) -> list[Tensor]:
        tried.append((value.detach().clone() - 1).square().item())
        return [(value - 1).square()]

    state = Training.begin({"v": value}, 1)
    *_, last = train(
        {"v": value}, objective, Momentum(rate=rate, clip=None), 4, state, keep_best=True
    )
    assert len(tried) == last.iteration == 5
    assert (last.best["v"] - 1).square().item() == min(tried)
    assert last.numbers["best"] == min(tried)
