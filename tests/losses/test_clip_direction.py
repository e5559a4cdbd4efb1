"""The directional loss: its closed form, the photo itself, and where it gets its photo from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from chainrule import UserError
from chainrule.images import load_picture, to_pil
from chainrule.losses import Brightness, Call, ClipDirection, ClipDirectionSpec, Cutouts, parse_loss
from chainrule.losses.base import Checked, Loss
from chainrule.losses.clip import Clip
from chainrule.losses.clip_direction import NEAR, split_change
from chainrule.methods import Photo, Task
from chainrule.runs import RunSpec, execute, resume
from chainrule.runs.load import load_task
from conftest import tiny_model

PHOTO = torch.tensor([0.2, 0.3, 0.6])[None, :, None, None].expand(1, 3, 4, 4)
TEXTS = {"a dog": [1.0, 0.0, 0.0], "a cat": [0.0, 1.0, 0.0]}


@dataclass(frozen=True, eq=False)
class Plain(Clip):
    """Whose embedding of an image is its mean colour, and of a text what is written above."""

    name: str = "CLIP"
    network: Any = field(default_factory=lambda: SimpleNamespace(device="cpu"))
    tokenizer: Any = None
    preprocess: Any = None

    def embed_images(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([TEXTS.get(text, [0.0, 0.0, 1.0]) for text in texts])


def loss_of(photos: Tensor | None = PHOTO) -> ClipDirection:
    return ClipDirection(Plain(), photos, "a dog", "a cat")


def moved(change: Tensor) -> Tensor:
    """Images whose embeddings differ from the photo's by `change` (B, 3)."""
    return PHOTO.to(change) + change[:, :, None, None]


numbers = st.floats(-0.2, 0.2).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4))
def test_it_is_one_less_the_cosine_of_the_two_ways(changes: list[tuple[float, ...]]) -> None:
    change = torch.tensor(changes, dtype=torch.float64)
    found = loss_of()(moved(change))
    for one, value in zip(changes, found.tolist(), strict=True):
        length = max(math.hypot(*one), NEAR)
        assert value == pytest.approx(1 - (one[1] - one[0]) / math.sqrt(2) / length, abs=1e-6)
        assert -1e-6 <= value <= 2 + 1e-6


@pytest.mark.parametrize("far", [NEAR, 0.05, 0.3])
def test_along_the_texts_it_is_0_against_them_2_and_across_1(far: float) -> None:
    along = normalize(torch.tensor([[-1.0, 1.0, 0.0]]), dim=1)
    changes = far * torch.cat([along, -along, torch.tensor([[0.0, 0.0, 1.0]])])
    torch.testing.assert_close(
        loss_of()(moved(changes)), torch.tensor([0.0, 2.0, 1.0]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("far", [0.0, 1e-9, 1e-4, 0.99 * NEAR, 1.01 * NEAR, 0.2])
def test_at_the_photo_its_gradient_is_finite_and_points_along_the_texts(far: float) -> None:
    """0/0 there: descent goes where the texts go, and a step of it has a lower loss."""
    across = torch.tensor([[0.0, 0.0, far]], dtype=torch.float64)
    x = moved(across).requires_grad_()
    value = loss_of()(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert value.item() == pytest.approx(1, abs=1e-6)
    down = -gradient.sum(dim=(2, 3))[0]
    assert down.norm() > 1e-3
    assert (down[1] - down[0]).item() / math.sqrt(2) / down.norm() > 0.99
    assert loss_of()(x - 1e-4 * gradient).item() < value.item()


def test_what_is_given_a_photo_has_it_however_deep_and_keeps_its_own() -> None:
    waiting, images = loss_of(None), torch.rand(2, 3, 4, 4)
    mine, other = torch.rand(2, 2, 3, 4, 4)
    with pytest.raises(UserError, match=r"compares an image with a photo, and there is none: edit"):
        waiting(images)
    wrappers = [
        lambda loss: loss,
        lambda loss: 2.0 * loss,
        lambda loss: Brightness(0.2) + loss,
        lambda loss: Checked(loss),
        lambda loss: Cutouts(loss, 2),
        lambda loss: 0.5 * (Cutouts(Checked(3.0 * (loss + Brightness(0.1))), 1)),
    ]
    for wrap in wrappers:
        torch.testing.assert_close(
            wrap(waiting).given(mine)(images), wrap(loss_of(mine))(images), atol=0, rtol=0
        )
        kept = wrap(loss_of(mine)).given(other)(images)
        assert torch.equal(kept, wrap(loss_of(mine))(images))
    plain = Call(lambda x: x.mean(dim=(1, 2, 3)))
    assert plain.given(mine) is plain


def test_every_loss_that_wraps_losses_hands_the_photo_on() -> None:
    """Whatever hands on which rows it judges hands on the photo."""

    def find(kind: type[Loss]) -> list[type[Loss]]:
        return [kind, *(each for sub in kind.__subclasses__() for each in find(sub))]

    wrapping = [
        kind
        for kind in find(Loss)
        if kind.__module__.startswith("chainrule.")
        and {"loss", "part", "parts"} & set(getattr(kind, "__dataclass_fields__", {}))
    ]
    assert len(wrapping) >= 4
    assert all("given" in vars(kind) for kind in wrapping)


def test_photos_that_are_too_few_are_refused() -> None:
    with pytest.raises(UserError, match="there are 2 photos for 3 images"):
        loss_of(torch.rand(2, 3, 4, 4))(torch.rand(3, 3, 4, 4))
    with pytest.raises(UserError, match="'a bird' and 'a fish' are the same: name two"):
        ClipDirection(Plain(), PHOTO, "a bird", "a fish")


@pytest.mark.parametrize("text", ["a dog", "a dog > ", " > a cat", "a > b > c", "a>b", ""])
def test_what_is_not_two_texts_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"becomes of what: write two texts with ' > ' between"):
        split_change(text)
    with pytest.raises(UserError, match=r"does not say what becomes of what") as caught:
        ClipDirectionSpec(target=text)
    assert "\n" not in str(caught.value)


def test_a_line_is_both_texts() -> None:
    values = parse_loss("0.5*clip-direction=a photo of a dog > a photo of a cat")
    spec = ClipDirectionSpec.model_validate(values)
    assert split_change(spec.target) == ("a photo of a dog", "a photo of a cat")
    assert spec.label == "0.5*clip-direction=a photo of a dog > a photo of a cat"
    with pytest.raises(ValidationError, match="becomes of what"):
        ClipDirectionSpec.model_validate(parse_loss("clip-direction=a photo of a dog"))


def test_a_task_gives_its_loss_its_photos() -> None:
    model, images = tiny_model(), torch.rand(2, 3, 8, 8)
    photo = Photo(images, model.denoiser(""), (8, 8))
    task = Task(model, model.denoiser(""), (0, 1), 2.0 * loss_of(None), photo)
    assert task.loss is not None
    assert task.loss(images).tolist() == [2.0, 2.0]
    (_, first), (_, second) = task.split(1)
    assert first.loss is not None
    assert second.loss is not None
    wanted = torch.rand(2, 3, 8, 8)
    apart = torch.cat([first.loss(wanted[:1]), second.loss(wanted[1:])])
    assert torch.equal(apart, task.loss(wanted))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("direction") / "photo.png"
    to_pil(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))).save(path)
    return path


LINE = "clip-direction=a red circle > a blue circle"


def run(picture: Path | None, source: Path | None, method: dict[str, Any]) -> RunSpec:
    loss = {**parse_loss(LINE), "source": source}
    return RunSpec.model_validate(
        {
            "inputs": {"photo": picture, "prompt": "a red circle on a white background"},
            "losses": [loss],
            "methods": [method],
        }
    )


def test_without_a_photo_a_picture_is_named_or_it_is_refused_when_loaded(picture: Path) -> None:
    plain = {"kind": "plain", "steps": 1}
    with pytest.raises(UserError, match=r"compares an image with a photo.*name a picture"):
        load_task(run(None, None, plain))
    named, images = load_task(run(None, picture, plain)), torch.rand(1, 3, 64, 64)
    assert named.loss is not None
    edited = load_task(run(picture, None, {"kind": "sdedit", "steps": 2})).loss
    assert edited is not None
    torch.testing.assert_close(named.loss(images), edited(images), atol=1e-4, rtol=0)
    assert edited(load_picture(picture)[None]).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("photo", [True, False])
def test_a_run_is_guided_by_it_and_goes_on_as_if_nothing_had_been(
    picture: Path, tmp_path: Path, *, photo: bool
) -> None:
    doodl = {"kind": "doodl", "iterations": 2, "steps": 2, "mix": None, "crops": 1}
    spec = run(picture if photo else None, None if photo else picture, doodl)
    for _ in execute(spec, tmp_path / "whole"):
        pass
    stopped = execute(spec, tmp_path / "stopped")
    for event in stopped:
        if type(event).__name__ == "Iteration":
            break
    stopped.close()
    for _ in resume(tmp_path / "stopped"):
        pass
    reports = [
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "stopped")
    ]
    found = [report["methods"]["doodl"]["losses"] for report in reports]
    assert found[0] == found[1]
    assert all(0 <= value <= 2 for value in found[0])
