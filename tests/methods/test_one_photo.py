"""Methods that learn one photo, to edit it: what each is at its ends, and that a stop costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import chainrule
from chainrule import UserError
from chainrule.diffusion.denoiser import Conditioning
from chainrule.images import from_pil
from chainrule.losses import Call
from chainrule.methods import Adam, Method, Photo, Plain, SDEdit, Task
from chainrule.methods.imagic import EMBEDDING, ETAS, Imagic, mix
from chainrule.methods.one_photo import read_told, retell
from chainrule.methods.training import Training
from chainrule.methods.unitune import UniTune
from chainrule.metrics import psnr
from chainrule.models import Text, trained
from chainrule.scenes.base import Scene, Thing, render
from conftest import tiny_model
from tiny import FAMILIES, load_once

SD1 = "Stable Diffusion 1.x"
FAST = Adam(rate=0.003)
SHOWN, WANTED = "a red circle on a white background", "a blue circle on a white background"
METHODS: dict[str, Method] = {
    "imagic": Imagic(
        embedding_iterations=21, iterations=22, steps=2, embedding_optimiser=FAST, optimiser=FAST
    ),
    "imagic, LoRA": Imagic(embedding_iterations=21, iterations=22, steps=2, rank=2, optimiser=FAST),
    "unitune": UniTune(iterations=19, steps=4, strength=0.5, batch=1, optimiser=FAST),
    "unitune, LoRA": UniTune(iterations=19, steps=4, batch=2, rank=2, optimiser=FAST),
}
over_methods = pytest.mark.parametrize("name", METHODS)
LEARNABLE = [
    name
    for name in FAMILIES
    if name not in ("DiT (classes)", "Pixels, told nothing", "Pixels, told a class")
]


def task(name: str = SD1, scale: float | None = 3.0, prompts: tuple[str, ...] = (WANTED,)) -> Task:
    """The one photo at two seeds, and what it should become."""
    model = load_once(name)
    height = width = 64 if name == "scenes" else 16
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    if name == "scenes":
        (picture,) = from_pil([render(Scene((Thing("circle", "red", 22, 26, 15),), "white"))])
    scale = scale if model.guidance.negative or scale == 1 else None
    told = model.denoiser(prompts[0] if len(prompts) == 1 else list(prompts), guidance_scale=scale)
    photo = Photo(picture.expand(2, -1, -1, -1), told, (height, width), prompts=(SHOWN,))
    return Task(model, told, (0, 1), None, photo, prompts=prompts)


def weights_of(asked: Task) -> list[Tensor]:
    return [weight for network in asked.model.networks for weight in network.parameters()]


def same(one: Training, other: Training) -> bool:
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)


def finished(method: Method, asked: Task) -> Training:
    *_, last = method.run(method.prepare(asked))
    return last


@cache
def trained_states(name: str) -> tuple[Any, Task, list[Training]]:
    """A method, what it takes, and its states to the end."""
    method = METHODS[name]
    asked = method.prepare(task())
    return method, asked, list(method.run(asked))


# --- what holds for both --------------------------------------------------------------------------


@over_methods
def test_a_stop_after_any_state_costs_nothing(name: str) -> None:
    method, asked, states = trained_states(name)
    assert states[-1].iteration == method.count_iterations(asked) > states[0].iteration > 0
    for state in states[:-1]:
        read = Training.from_tensors({n: t.clone() for n, t in state.tensors().items()})
        method.require_own(asked, read)
        assert same(list(method.run(asked, read))[-1], states[-1])


@over_methods
def test_it_learns_and_leaves_the_model_as_it_was(name: str) -> None:
    method: Any = METHODS[name]
    asked = task()
    before = [weight.clone() for weight in weights_of(asked)]
    state = finished(method, asked)
    found = method.result(asked, state)
    assert found.images.shape == (2, 3, 16, 16)
    assert torch.isfinite(found.images).all()
    assert all(map(torch.equal, weights_of(asked), before))
    assert not any(weight.requires_grad for weight in weights_of(asked))
    begun = next(iter(method.model_copy(update={"iterations": 0}).run(asked))).values
    last = state.values
    assert not any(torch.equal(last[name], value) for name, value in begun.items() if name in last)


@over_methods
def test_another_training_is_refused(name: str) -> None:
    method, asked, states = trained_states(name)
    for changes in ({"iterations": 3}, {"rank": 5}):
        with pytest.raises(UserError, match="not a state of this task"):
            method.model_copy(update=changes).require_own(asked, states[-1])


@over_methods
def test_photos_that_differ_are_refused(name: str) -> None:
    asked = task()
    images = asked.require_photo().images.clone()
    images[1, 0, 0, 0] += 0.25
    with pytest.raises(UserError, match="learns one photo, and these differ") as caught:
        METHODS[name].prepare(replace(asked, photo=replace(asked.require_photo(), images=images)))
    assert caught.value.field == "photo"


@over_methods
def test_the_loss_judges_the_image_that_is_given(name: str) -> None:
    method, asked, states = trained_states(name)
    asked = replace(asked, loss=Call(lambda images: images.mean(dim=(1, 2, 3))))
    found = method.result(asked, states[-1])
    torch.testing.assert_close(found.losses, found.images.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("name", LEARNABLE)
def test_a_denoiser_that_is_told_the_same_is_the_same(name: str) -> None:
    """In every family, guided or not: what is not words stays where it was."""
    asked = task(name, 1.0 if "turbo" in name else 3.0)
    told = read_told(asked)
    assert all(len(value) == 1 for value in told)
    again = retell(asked.model, asked.denoiser, told)
    x, t = asked.x_T, asked.model.schedule.times(4)[2].item()
    assert torch.equal(again.output(x, t), asked.denoiser.output(x, t))
    other = retell(asked.model, asked.denoiser, asked.model.text("a square"))
    assert not torch.equal(other.output(x, t), asked.denoiser.output(x, t))


class LongText(Text):
    """As many tokens as letters; the shorter of two prompts is filled up with ones."""

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        return (torch.full((len(prompts), len(prompts[0]) + 1, 3), 2.0),)

    def match(self, *conditionings: Conditioning) -> tuple[Conditioning, ...]:
        most = max(text.shape[1] for text, *_ in conditionings)
        return tuple(
            (functional.pad(text, (0, 0, 0, most - text.shape[1]), value=1.0), *rest)
            for text, *rest in conditionings
        )


@pytest.mark.parametrize(("said", "now"), [("a", "a long one"), ("a long one", "a")])
@pytest.mark.parametrize("negative", ["", "no words"])
def test_a_negative_prompt_of_another_length_is_matched(said: str, now: str, negative: str) -> None:
    model = replace(tiny_model(), text=LongText())

    def tell(words: Any) -> Any:
        return model.denoiser(words, negative_prompt=negative, guidance_scale=3.0)

    found = retell(model, tell(said), model.text(now))
    assert found.denoiser.conditioning[0].shape == found.negative[0].shape
    assert found.guidance_scale == 3.0
    longest = max(len(said), len(now), len(negative)) + 1
    assert found.negative[0].shape[1] <= longest


# --- Imagic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNABLE)
def test_untrained_imagic_at_eta_1_draws_the_prompt(name: str) -> None:
    asked = task(name)
    method = Imagic(embedding_iterations=0, iterations=0, eta=1, steps=2)
    found = method(asked)
    with torch.no_grad():
        plain = Plain(steps=2).draw(asked)
    assert torch.equal(found.latents, plain.latents)
    assert torch.equal(found.x_T, plain.x_T)


@pytest.mark.parametrize(
    "name", ["Stable Diffusion XL", "Stable Diffusion 3", "PixArt-Sigma", "Flux.1 dev"]
)
def test_all_that_is_words_is_learnt(name: str) -> None:
    asked = task(name)
    last = finished(Imagic(embedding_iterations=2, iterations=0, steps=2), asked)
    told = read_told(asked)
    assert len(last.values) == sum(value.is_floating_point() for value in told) > 0
    for i, target in enumerate(told):
        if target.is_floating_point():
            assert not torch.equal(last.values[f"{EMBEDDING}{i}"], target)


def test_each_phase_trains_its_own_alone() -> None:
    _, asked, states = trained_states("imagic")
    first = [state for state in states if state.iteration <= 21]
    assert all(name.startswith(EMBEDDING) for state in first for name in state.values)
    learnt = first[-1].values
    for state in states[len(first) :]:
        assert all(torch.equal(state.values[name], learnt[name]) for name in learnt)
        assert len(state.values) > len(learnt)
    one = Imagic(embedding_iterations=0, iterations=1, steps=2, optimiser=Adam(rate=0.01))
    (moved,) = one.run(one.prepare(asked))  # Adam's first step is the rate, whatever the gradient
    with trained.train(asked.model, one.part) as weights:
        for name, weight in weights.items():
            change = (moved.values[name] - weight).abs().max().item()
            assert change == pytest.approx(0.01, rel=1e-3) or change == 0


def test_adams_count_begins_again_with_the_weights() -> None:
    """So their first step is as long as the rate, after any number of steps of the embedding."""
    asked, rate = task(), 0.01
    for before in (0, 1, 7):
        method = Imagic(embedding_iterations=before, iterations=1, optimiser=Adam(rate=rate))
        last = finished(method, asked)
        with trained.train(asked.model, method.part) as weights:
            moved = [(last.values[n] - w).abs().max().item() for n, w in weights.items()]
        assert max(moved) == pytest.approx(rate, rel=1e-3)


def test_a_mix_is_exact_at_its_ends() -> None:
    told = tuple(torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    learnt = {f"{EMBEDDING}0": told[1]}
    assert torch.equal(mix(told, learnt, 0)[0], told[1])
    assert torch.equal(mix(told, learnt, 1)[0], told[0])
    torch.testing.assert_close(mix(told, learnt, 0.3)[0], 0.3 * told[0] + 0.7 * told[1])
    assert mix(told, learnt, 0.3)[1] is told[1]


def test_at_eta_0_imagic_is_the_photo() -> None:
    """As exact as the training: the network has one picture left for this embedding, at any noise."""
    asked, fast = task("scenes", 1.0), Adam(rate=3e-4, beta2=0.999)
    method = Imagic(embedding_iterations=8, iterations=45, batch=4, optimiser=fast, steps=10)
    state = finished(method, asked)
    photo = asked.require_photo().images
    with torch.no_grad():
        there, before = (
            psnr(asked.decode(method.draw(asked, some, 0.0).latents), photo)
            for some in (state, method.begin(asked))
        )
        assert (there > before + 8).all(), (there, before)


def test_its_grid_is_a_picture_of_all_etas(tmp_path: Path) -> None:
    method, asked, states = trained_states("imagic")
    ((name, write),) = method.artefacts(asked, states[-1]).items()
    write(tmp_path / name)
    with Image.open(tmp_path / "etas.png") as sheet:
        assert sheet.width > (len(ETAS) + 1) * 192


def test_imagic_refuses_what_it_cannot_do() -> None:
    method = METHODS["imagic"]
    with pytest.raises(UserError, match="one photo for one prompt, and these differ"):
        method.prepare(task(prompts=(WANTED, SHOWN)))
    model = load_once("DiT (classes)")
    picture = torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1)
    told = model.denoiser("goldfish")
    photo = Photo(picture, told, (16, 16))
    with pytest.raises(UserError, match="this model knows classes only"):
        method.prepare(Task(model, told, (0, 1), None, photo, prompts=("goldfish",)))


# --- UniTune --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_untuned_unitune_without_a_word_is_sdedit(strength: float, eta: float) -> None:
    asked = task()
    settings: dict[str, Any] = {"strength": strength, "eta": eta, "steps": 4}
    found, expected = UniTune(token="", iterations=0, **settings)(asked), SDEdit(**settings)(asked)
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.images, expected.images)


def test_unitune_draws_the_rare_word_and_the_prompts() -> None:
    """Which may differ from seed to seed: the training is of the word alone."""
    asked = task(prompts=(WANTED, SHOWN))
    told = [f"beikkpic {WANTED}", f"beikkpic {SHOWN}"]
    spelt = replace(asked, denoiser=asked.model.denoiser(told, guidance_scale=3.0))
    expected = SDEdit(strength=0.5, steps=4)(spelt)
    found = UniTune(iterations=0, strength=0.5, steps=4, eta=0)(asked)
    assert torch.equal(found.latents, expected.latents)


@pytest.mark.filterwarnings("ignore:unitune hardly changed")
def test_the_share_goes_from_what_was_drawn_to_the_photo() -> None:
    method, asked, states = trained_states("unitune")
    state = states[-1]
    none, half, all_of_it = (
        method.model_copy(update={"share": share}).result(asked, state).images
        for share in (0.0, 0.5, 1.0)
    )
    photo = asked.require_photo().images
    with torch.no_grad():
        assert torch.equal(none, asked.decode(method.draw(asked, state).latents))
    assert torch.equal(all_of_it, photo)
    torch.testing.assert_close(half, (none + photo) / 2)


def test_tuning_brings_the_drawing_nearer_to_the_photo() -> None:
    asked = task("scenes", 1.0)
    method = UniTune(
        iterations=20, batch=2, strength=0.8, steps=8, optimiser=Adam(rate=3e-4, beta2=0.999)
    )
    prepared = method.prepare(asked)
    *_, last = method.run(prepared)
    photo = asked.require_photo().images
    with torch.no_grad():
        near, far = (
            psnr(asked.decode(method.draw(prepared, some).latents), photo).mean()
            for some in (last, method.begin(prepared))
        )
    assert near > far + 2, (near, far)


def test_nobody_warns_of_the_rare_word(recwarn: pytest.WarningsRecorder) -> None:
    asked = task("scenes", prompts=("a blue circle on a white background",))
    method = UniTune(iterations=1, steps=4, token="beikkpic sks", strength=0.5)
    method.result(asked, finished(method, asked))
    assert not [w for w in recwarn if "does not know the words" in str(w.message)]
    with pytest.warns(UserWarning, match="does not know the words: elephant;"):
        asked.model.text.knowing("beikkpic sks")("a beikkpic SKS elephant")
    with pytest.warns(UserWarning, match="does not know the words: sks;"):
        asked.model.text("a sks circle")  # which is another one


@pytest.mark.parametrize("name", LEARNABLE)
def test_a_text_that_warns_of_nothing_knows_any_word(name: str) -> None:
    text = load_once(name).text
    assert text.knowing("sks") is text


def test_both_are_in_the_package() -> None:
    assert {"Imagic", "UniTune"} <= set(chainrule.methods.__all__)
