"""Photos: inverted, brought back, edited by words and by losses."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import EDICT, UserError
from chainrule.losses import Call, Loss
from chainrule.methods import (
    DOODL,
    Adam,
    EDICTEdit,
    Inversion,
    OneStepGuidance,
    Photo,
    Reconstruction,
    Task,
)
from chainrule.methods.inversion import DTYPES, FACTS, measure_round_trip
from conftest import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

MODEL = tiny_model()
PHOTO = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(5)) * 0.6 + 0.2
EDIT = DOODL(
    iterations=6,
    steps=5,
    mix=0.99,
    optimiser=Adam(rate=0.1),
    perturbation=0.0,
    renormalise=False,
    crops=0,
)


def bright() -> Loss:
    return Call(lambda images: (images - 0.9).square().mean(dim=(1, 2, 3)))


def task(prompt: str = "what it shows", loss: Loss | None = None) -> Task:
    photo = Photo(PHOTO, MODEL.denoiser("what it shows"), (8, 12), prompts=("what it shows",))
    return Task(MODEL, MODEL.denoiser(prompt), (0, 1), loss, photo, prompts=(prompt,))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("strength", [0.1, 0.8, 1.0])
@pytest.mark.parametrize("method", [EDICTEdit, Reconstruction])
def test_under_one_prompt_a_photo_returns_exactly(method: type[EDICTEdit], strength: float) -> None:
    found = method(strength=strength, steps=10, mix=0.99)(task())
    assert relative(found.latents, MODEL.encode(PHOTO)) < 1e-5


def test_under_another_prompt_it_changes_the_more_the_more_is_redone() -> None:
    z = MODEL.encode(PHOTO)
    other = task("quite something else")
    little, much = (
        relative(EDICTEdit(strength=s, steps=10, mix=0.99)(other).latents, z) for s in (0.2, 1.0)
    )
    assert 1e-3 < little < much
    back = Reconstruction(steps=10, mix=0.99)
    torch.testing.assert_close(back(other).latents, back(task()).latents)


def test_the_round_trip_measures_what_it_says() -> None:
    single, double = (
        measure_round_trip(task(), steps=10, solver=EDICT(mix=0.99), dtype=getattr(torch, name))
        for name in DTYPES
    )
    assert 1e-12 < single.error < 1e-5
    assert double.error < 1e-12
    assert (
        single.apart
        == pytest.approx(double.apart, rel=1e-3)
        == pytest.approx(relative(*double.state[::-1]))
    )
    torch.testing.assert_close(
        single.images, MODEL.decode(MODEL.encode(PHOTO)), rtol=1e-4, atol=1e-4
    )


def test_an_inversion_says_what_the_way_there_and_back_costs() -> None:
    sheet = Inversion(steps=4, mix=0.99)(task())
    single, double = (sheet.numbers[name] for name in DTYPES)
    assert set(single) == set(FACTS)
    assert double["drift"] < 1e-12 < single["drift"] < 1e-5
    alone = sheet.numbers["autoencoder"]["psnr"]
    assert single["psnr"] == pytest.approx(alone, abs=0.1)
    assert {tuple(column.shape) for column in sheet.columns.values()} == {(2, 3, 8, 12)}


def test_one_step_guidance_edits_half_the_chain() -> None:
    job = task(loss=bright())
    still, pushed = (OneStepGuidance(scale=scale, steps=10, mix=0.99)(job) for scale in (0.0, 30.0))
    assert relative(still.latents, MODEL.encode(PHOTO)) < 1e-5
    assert (pushed.losses < still.losses).all()


@pytest.mark.parametrize("average", [True, False])
def test_doodl_starts_at_the_photo_and_improves_it(average: bool) -> None:
    job, method = task(loss=bright()), EDIT.model_copy(update={"average": average})
    first = method.advance(job, method.start(job))
    assert relative(first.best_latents, MODEL.encode(PHOTO)) < 1e-5
    result = method(job)
    assert (result.losses < 0.9 * first.best_losses).all()
    assert result.images.shape == PHOTO.shape


def test_averaging_keeps_the_pairs_difference_and_without_it_the_two_part() -> None:
    job = task(loss=bright())
    before = EDIT.start(job).x_T
    moved = EDIT.advance(job, EDIT.start(job)).x_T
    torch.testing.assert_close(moved[0] - moved[1], before[0] - before[1], rtol=1e-4, atol=1e-5)
    alone = EDIT.model_copy(update={"average": False})
    moved = alone.advance(job, alone.start(job)).x_T
    assert relative(moved[0] - moved[1], before[0] - before[1]) > 1e-2


def test_photos_and_seeds_are_as_many() -> None:
    with pytest.raises(UserError, match="2 photos and 3 seeds"):
        Task(
            MODEL, MODEL.denoiser("x"), (0, 1, 2), None, Photo(PHOTO, MODEL.denoiser("x"), (8, 12))
        )


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        EDICTEdit(steps=3, strength=strength)


def test_a_part_of_a_task_is_its_images_with_all_that_is_theirs() -> None:
    job = task(loss=bright())
    photo = replace(
        job.require_photo(), mask=torch.rand(2, 1, 8, 12), x_T=job.x_T, prompts=("one", "two")
    )
    job = replace(job, photo=photo, prompts=("a", "b"))
    (rows, part), (_, other) = job.split(1)
    assert rows == [0]
    assert (part.seeds, other.seeds) == ((0,), (1,))
    assert (part.prompts, other.prompts) == (("a",), ("b",))
    assert part.require_photo().prompts == ("one",)
    for name in ("images", "mask", "x_T"):
        assert torch.equal(getattr(other.require_photo(), name), getattr(photo, name)[1:])
    ((everything, same),) = job.split()
    assert everything == [0, 1]
    assert same is job


def photo(**changes: Any) -> Photo:
    return Photo(**{"images": PHOTO, "denoiser": MODEL.denoiser("x"), "size": (16, 24), **changes})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "bytes": ({"images": (PHOTO * 255).byte()}, "the photos are of uint8"),
    "one": ({"images": PHOTO[0]}, "the photos are of shape"),
    "of 255": ({"images": PHOTO * 255}, "the photos have values"),
    "mask of 255": ({"mask": torch.full((2, 1, 8, 12), 255.0)}, "the mask is of float32"),
    "another's mask": ({"mask": torch.ones(1, 1, 8, 12)}, "the mask is"),
    "size": ({"size": (16,)}, r"the photos' size is \(16,\)"),
    "no size": ({"size": (0, 24)}, "the photos' size is"),
    "full": ({"full": torch.rand(3, 16, 16)}, r"the full photo is \(3, 16, 16\): make it \(3, 16"),
    "full mask": ({"full_mask": torch.ones(16, 24)}, r"the mask is \(16, 24\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_photo_is_said_in_one_sentence(what: str) -> None:
    changes, message = WRONG[what]
    with pytest.raises(UserError, match=message):
        photo(**changes)


def test_a_mask_may_be_true_and_false() -> None:
    mask = torch.rand(2, 1, 8, 12) > 0.5
    given = photo(mask=mask, exact=True)
    edit = torch.rand_like(PHOTO)
    assert torch.equal(given.composite(edit), torch.where(mask, edit, PHOTO))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("own", [False, True], ids=["one for all", "one for each"])
@pytest.mark.parametrize("mask", [None, "here", "exact", "in full"])
def test_edits_are_put_back_at_the_photos_own_size(
    channels: int, own: bool, mask: str | None
) -> None:
    full = torch.rand(2, channels, 16, 24) if own else torch.rand(channels, 16, 24)
    free, free_in_full = torch.zeros(2, 1, 8, 12), torch.zeros(1, 1, 16, 24)
    free[..., :4, :4], free_in_full[..., :7, :7] = 1, 1
    given = photo(
        full=full,
        mask=None if mask is None else free,
        exact=mask in ("exact", "in full"),
        full_mask=free_in_full if mask == "in full" else None,
    )
    same = given.put_back(PHOTO)
    assert torch.equal(same, full.expand(2, -1, -1, -1))
    edit = (PHOTO + 0.3).clamp(0, 1)
    found = given.put_back(edit)
    assert found.shape == (2, channels, 16, 24)
    changed = (found != same).any(dim=1).any(dim=0)
    assert changed[:7, :7].float().mean() > 0.9
    outside = {None: 1.0, "here": 0.0, "exact": 0.0, "in full": 0.0}[mask]
    assert changed[12:, 12:].float().mean().round() == outside
    if mask in ("exact", "in full"):
        side = 8 if mask == "exact" else 7
        assert not changed[side:].any()
        assert not changed[:, side:].any()
    rows = [given.select([row]).put_back(edit[row : row + 1]) for row in (0, 1)]
    torch.testing.assert_close(torch.cat(rows), found)


def test_without_the_full_photo_edits_keep_its_proportions_only() -> None:
    assert photo(size=(10, 24)).put_back(PHOTO).shape == (2, 3, 5, 12)
    assert torch.equal(photo().put_back(PHOTO), PHOTO)


def test_a_chain_that_loses_the_photo_says_so() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Reconstruction(steps=10, mix=0.99)(task())
    lossy = task()
    found = Reconstruction(steps=10, mix=0.99)
    state = found.draw(lossy)
    with pytest.warns(UserWarning, match=r"the photo comes back from its noise to \d+\.\d dB only"):
        found.result(lossy, replace(state, latents=torch.randn_like(state.latents)))
