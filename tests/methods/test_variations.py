"""Variations: noises near another one, which is still noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chainrule import UserError
from chainrule.methods import Plain, Task, Variations
from tiny import load_once


def task(seeds: tuple[int, ...] = (0, 1)) -> Task:
    model = load_once("Stable Diffusion 1.x")
    return Task(model, model.denoiser("a red cube"), seeds, prompts=("a red cube",))


def test_at_no_distance_it_is_the_image_of_the_seed() -> None:
    found = Variations(near=7, apart=0, steps=2)(task())
    plain = Plain(steps=2)(task((7,)))
    assert torch.equal(found.x_T, plain.x_T.expand(2, -1, -1, -1))
    assert (found.latents - plain.latents).abs().max() < 1e-4  # in a batch of two


def test_at_any_distance_its_noise_is_noise() -> None:
    given = task(tuple(range(32)))
    start = given.model.noise((5,))
    for apart in (0.1, 0.5, 1.0):
        x = Variations(near=5, apart=apart, steps=1)(given).x_T
        assert x.std().item() == pytest.approx(1, abs=0.05)
        cosine = torch.cosine_similarity(x.flatten(1), start.flatten(1)).mean().item()
        assert cosine == pytest.approx((1 - apart**2) ** 0.5, abs=0.05)


@pytest.mark.parametrize("name", ["best_x_T", "x_T"])
def test_a_result_s_noise_is_read_from_its_state(tmp_path: Path, name: str) -> None:
    given = task()
    noise = given.model.noise((3, 4))
    tensors = {name: noise} if name == "x_T" else {name: noise[None], "x_T": 0 * noise}
    save_file(tensors, tmp_path / "state.safetensors")
    method = Variations(start=tmp_path / "state.safetensors", row=1, apart=0, steps=1)
    assert torch.equal(method(given).x_T[0], noise[1])


def test_an_image_does_not_depend_on_its_batch() -> None:
    method = Variations(apart=0.4, steps=1)
    both = method(task()).x_T
    assert torch.equal(method(task((1,))).x_T[0], both[1])


def test_what_holds_no_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    method = Variations(start=path, steps=1)
    with pytest.raises(UserError, match="cannot be read"):
        method(task())
    save_file({"weights": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="has no noise"):
        method(task())
    save_file({"x_T": torch.zeros(1, 4, 3, 3)}, path)
    with pytest.raises(UserError, match="and the model's"):
        method(task())
    save_file({"x_T": task().x_T}, path)
    with pytest.raises(UserError, match="has 2 images"):
        replace_row(method, 2)(task())


def replace_row(method: Variations, row: int) -> Variations:
    return method.model_copy(update={"row": row})


def test_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row has no effect"):
        Variations(row=1, steps=1)(task())
    save_file({"x_T": task().x_T}, tmp_path / "a")
    with pytest.raises(UserError, match="near has no effect"):
        Variations(start=tmp_path / "a", near=1, steps=1)(task())
