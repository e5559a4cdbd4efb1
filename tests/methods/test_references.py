"""What code of others does, under the name that it has here."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chainrule.methods import DiffEdit, Photo, Task
from chainrule.methods.diffedit import find_difference
from tiny import family, load_once

TINY = "Stable Diffusion 1.x"
SHOWN, WANTED, SCALE = "a red circle on a white background", "a blue square on black", 4.0


def theirs() -> StableDiffusionDiffEditPipeline:
    parts = family(TINY).components
    parts["scheduler"] = DDIMScheduler.from_config(parts["scheduler"].config)
    inverse = DDIMInverseScheduler.from_config(parts["scheduler"].config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return StableDiffusionDiffEditPipeline(
            **{name: part for name, part in parts.items() if name != "image_encoder"},
            inverse_scheduler=inverse,
            requires_safety_checker=False,
        )


def asked(seed: int) -> tuple[Task, Tensor]:
    """One photo, and its latents."""
    model = load_once(TINY)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    shown, told = (model.denoiser(prompt, guidance_scale=SCALE) for prompt in (SHOWN, WANTED))
    photo = Photo(images, shown, (16, 16), prompts=(SHOWN,))
    task = Task(model, told, (seed,), None, photo, prompts=(WANTED,))
    return task, model.encode(images)


@given(
    seed=st.integers(0, 100),
    noises=st.integers(1, 3),
    steps=st.sampled_from([4, 20, 50]),
    strength=st.sampled_from([0.25, 0.5, 0.8]),
    clip=st.floats(1.2, 4.0),
)
@settings(max_examples=8, deadline=None)
def test_the_mask_of_diffusers_is_theirs(
    seed: int, noises: int, steps: int, strength: float, clip: float
) -> None:
    """Their own code, on the same latents and noise."""
    task, z = asked(seed)
    stream = task.noise.stream("diffedit/mask")
    drawn = torch.cat([stream.normal(k, z.shape[1:]) for k in range(noises)])
    pipeline = theirs()
    module: Any = importlib.import_module(type(pipeline).__module__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda *_, **__: drawn)
        mask = pipeline.generate_mask(
            z,
            WANTED,
            source_prompt=SHOWN,
            num_maps_per_mask=noises,
            mask_encode_strength=strength,
            mask_thresholding_ratio=clip,
            num_inference_steps=steps,
            guidance_scale=SCALE,
        )
    found = find_difference(
        task, z, rule="diffusers", clip=clip, strength=strength, noises=noises, steps=steps
    )
    wanted = torch.from_numpy(mask)[:, None].to(found)
    assert (found != wanted).float().mean() <= 1 / 64  # a cell on the very threshold


def test_the_two_masks_are_not_one() -> None:
    one, other = (
        torch.cat([find_difference(*asked(seed), rule=rule) for seed in range(4)])
        for rule in ("paper", "diffusers")
    )
    assert not torch.equal(one, other)
    assert all(0 < mask.mean() < 1 for mask in (one, other))


@pytest.mark.parametrize("rule", ["paper", "diffusers"])
def test_a_mask_of_either_kind_is_each_photos_own(rule: Any) -> None:
    one, other = asked(1)[0], asked(2)[0]
    photo = replace(one.photo, images=torch.cat([one.photo.images, other.photo.images]))
    both = replace(one, seeds=(1, 2), photo=photo)
    z = both.model.encode(photo.images)
    together = find_difference(both, z, rule=rule, noises=2)
    for i, seed in enumerate((1, 2)):
        alone = find_difference(*asked(seed), rule=rule, noises=2)
        assert (together[i] != alone[0]).float().mean() <= 1 / 64


@pytest.mark.parametrize("rule", ["paper", "diffusers"])
def test_prompts_that_agree_leave_the_photo(rule: Any) -> None:
    task, z = asked(0)
    task = replace(task, denoiser=task.photo.denoiser)
    assert not find_difference(task, z, rule=rule, noises=2).any()
    assert torch.equal(DiffEdit(mask_rule=rule, noises=1, steps=4)(task).latents, z)
