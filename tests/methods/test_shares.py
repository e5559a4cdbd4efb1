"""A share of a chain is counted in whole steps, as diffusers does, and one of none is refused."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chainrule import UserError
from chainrule.diffusion.time_grids import count_steps, last_steps, time_at_share
from chainrule.losses import Call
from chainrule.methods import ILVR, METHODS, Photo, RePaint, SDEdit, Task
from conftest import tiny_model
from tiny import SCHEDULERS, load_once, required

STRONG = [kind for kind, method in METHODS.own.items() if "strength" in method.model_fields]
steps = st.integers(1, 60)
shares = st.one_of(st.integers(1, 100).map(lambda n: n / 100), st.floats(0.001, 1.0))
FAMILY = {"Stable Diffusion 1.x": "sd1", "Stable Diffusion 2.x (v, zero SNR)": "zero"}


@pytest.mark.parametrize("family", FAMILY)
@given(steps=steps, strength=shares)
@settings(max_examples=100, deadline=None)
def test_the_last_steps_are_those_of_diffusers(family: str, steps: int, strength: float) -> None:
    scheduler = DDIMScheduler.from_config(SCHEDULERS[FAMILY[family]].config)
    scheduler.set_timesteps(steps)
    theirs, count = StableDiffusionImg2ImgPipeline.get_timesteps(
        SimpleNamespace(scheduler=scheduler), steps, strength, "cpu"
    )
    times = load_once(family).schedule.times(steps)
    if count == 0:
        with pytest.raises(UserError, match="less than one") as caught:
            last_steps(times, strength)
        assert caught.value.field == "strength"
        least = float(caught.value.cure.split("at least ")[1].split(",")[0])
        assert len(last_steps(times, least)) >= 2  # the cure helps
    else:
        assert last_steps(times, strength)[:-1].tolist() == theirs.tolist()


@given(steps=steps, share=st.one_of(st.just(0.0), shares))
def test_the_first_steps_are_counted_likewise(steps: int, share: float) -> None:
    """As Prompt-to-Prompt's released code does: `range(0, int(steps * share))`."""
    times = torch.arange(float(steps), -1.0, -1.0)
    asked = [t for t in times[:-1].tolist() if t >= time_at_share(times, share)]
    assert len(asked) == int(steps * share) == count_steps(steps, share)


def task(kind: str, photo: float = 0.5) -> Task:
    model = tiny_model()
    told = model.denoiser("a prompt")
    images, mask = torch.full((1, 3, 8, 8), photo), torch.ones(1, 1, 8, 8)
    loss = Call(lambda images: images.mean(dim=(1, 2, 3)))
    photos = Photo(images, told, (8, 8), mask, prompts=("what it shows",))
    return Task(
        model,
        told,
        (0,),
        loss,
        photos,
        prompts=("a prompt",),
        energy=lambda x, t: x.square().mean(dim=(1, 2, 3)),
    )


@pytest.mark.parametrize("kind", STRONG)
def test_a_strength_of_less_than_one_step_is_refused_before_anything_is_done(kind: str) -> None:
    asked = task(kind)
    method: Any = METHODS.own[kind](strength=0.2, steps=4, **required(kind, asked.model))
    with pytest.raises(UserError, match=r"strength of 0\.2 is less than one of 4 steps") as caught:
        method.prepare(asked)
    assert caught.value.field == "strength"
    assert "at least 0.25" in caught.value.cure
    method.model_copy(update={"strength": 0.25}).prepare(asked)


def test_no_strength_is_the_photo_itself() -> None:
    SDEdit(strength=0.0, steps=1).prepare(task("sdedit"))


@pytest.mark.parametrize("kind", STRONG)
def test_what_is_measured_in_short_chains_walks_all_of_them(kind: str) -> None:
    asked = task(kind)
    method: Any = METHODS.own[kind](strength=0.1, steps=50, **required(kind, asked.model))
    assert getattr(method.probe(2), "strength", 1.0) == 1.0
    method.probe(2).prepare(asked)


@given(steps=st.integers(1, 8), start=shares, stop=shares)
@settings(max_examples=40, deadline=None)
def test_ilvr_keeps_something_of_the_photo_or_says_that_it_does_not(
    steps: int, start: float, stop: float
) -> None:
    assume(start <= stop)
    if math.floor(steps * stop) == 0:
        with pytest.raises(UserError, match="nothing would be kept: choose a later stop"):
            ILVR(start=start, stop=stop, steps=steps, factor=2)
        return
    method = ILVR(start=start, stop=stop, steps=steps, factor=2)
    one, other = (method(task("ilvr", photo)).latents for photo in (0.2, 0.8))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize(("jump", "fits"), [(3, True), (4, False), (10, False)])
def test_repaint_says_when_it_cannot_jump(jump: int, fits: bool) -> None:
    method = RePaint(jump=jump, repeats=2, steps=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.prepare(task("repaint"))
    assert any("does not fit into a chain of 4" in str(each.message) for each in caught) != fits
    walked = len(method._times(tiny_model().schedule, 4)) - 1
    assert (walked > 4) == fits
