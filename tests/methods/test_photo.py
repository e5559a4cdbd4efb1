"""Photos: invert_photos, brought back, edited by words and by losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chainrule import EDICT, UserError
from chainrule.losses import Call, Loss
from chainrule.methods import Adam, Doodl, Photo, Task, doodl, edict, one_step_edit, reconstruction
from chainrule.methods.doodl import advance, start
from chainrule.methods.edict import round_trip
from conftest import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

MODEL = tiny_model()
PHOTO = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(5)) * 0.6 + 0.2
STEP = EDICT(mix=0.99)
EDIT = Doodl(iterations=6, steps=5, mix=0.99, optimiser=Adam(rate=0.1), perturbation=0.0, renormalise=False, crops=0)


def bright() -> Loss:
    return Call(lambda images: (images - 0.9).square().mean(dim=(1, 2, 3)))


def task(prompt: str = "what it shows", loss: Loss | None = None) -> Task:
    photo = Photo(PHOTO, MODEL.denoiser("what it shows"), (8, 12))
    return Task(MODEL, MODEL.denoiser(prompt), (0, 1), loss, photo)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("strength", [0.1, 0.8, 1.0])
def test_under_one_prompt_a_photo_returns_exactly(strength: float) -> None:
    z = MODEL.encode(PHOTO)
    for method in (edict, reconstruction):
        assert relative(method(task(), strength=strength, steps=10, solver=STEP).latents, z) < 1e-5


def test_under_another_prompt_it_changes_the_more_the_more_is_redone() -> None:
    z = MODEL.encode(PHOTO)
    other = task("quite something else")
    little, much = (relative(edict(other, strength=s, steps=10, solver=STEP).latents, z) for s in (0.2, 1.0))
    assert 1e-3 < little < much
    torch.testing.assert_close(
        reconstruction(other, steps=10, solver=STEP).latents, reconstruction(task(), steps=10, solver=STEP).latents
    )


def test_the_round_trip_measures_what_it_says() -> None:
    single, double = (round_trip(task(), steps=10, solver=STEP, dtype=d) for d in (torch.float32, torch.float64))
    assert 1e-12 < single.error < 1e-5
    assert double.error < 1e-12
    assert single.apart == pytest.approx(double.apart, rel=1e-3) == pytest.approx(relative(*double.state[::-1]))
    torch.testing.assert_close(single.images, MODEL.decode(MODEL.encode(PHOTO)), rtol=1e-4, atol=1e-4)


def test_one_step_guidance_edits_half_the_chain() -> None:
    job = task(loss=bright())
    z = MODEL.encode(PHOTO)
    still, pushed = (one_step_edit(job, scale=scale, steps=10, solver=STEP) for scale in (0.0, 30.0))
    assert relative(still.latents, z) < 1e-5
    assert (pushed.losses < still.losses).all()


@pytest.mark.parametrize("average", [True, False])
def test_doodl_starts_at_the_photo_and_improves_it(average: bool) -> None:
    job, settings = task(loss=bright()), EDIT.model_copy(update={"average": average})
    first = advance(job, settings, start(job, settings))
    assert relative(first.best_latents, MODEL.encode(PHOTO)) < 1e-5
    result = doodl(job, settings)
    assert (result.losses < 0.9 * first.best_losses).all()
    assert result.images.shape == PHOTO.shape


def test_averaging_keeps_the_pairs_difference_and_without_it_the_two_part() -> None:
    job = task(loss=bright())
    before = start(job, EDIT).x_T
    moved = advance(job, EDIT, start(job, EDIT)).x_T
    torch.testing.assert_close(moved[0] - moved[1], before[0] - before[1], rtol=1e-4, atol=1e-5)
    alone = EDIT.model_copy(update={"average": False})
    moved = advance(job, alone, start(job, alone)).x_T
    assert relative(moved[0] - moved[1], before[0] - before[1]) > 1e-2


def test_a_task_without_a_photo_is_refused() -> None:
    with pytest.raises(UserError, match="edits a picture: name one"):
        edict(Task(MODEL, MODEL.denoiser("x"), (0,)), steps=3)


def test_photos_and_seeds_are_as_many() -> None:
    with pytest.raises(UserError, match="2 photos and 3 seeds"):
        Task(MODEL, MODEL.denoiser("x"), (0, 1, 2), None, Photo(PHOTO, MODEL.denoiser("x"), (8, 12)))


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(UserError, match="above 0 and at most 1"):
        edict(task(), steps=3, strength=strength)
