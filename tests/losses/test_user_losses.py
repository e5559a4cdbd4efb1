"""Losses that users write: every wrong one is said in a sentence, by every method that asks it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chainrule import UserError
from chainrule.diffusion.guidance import energy_gradient
from chainrule.diffusion.guidance.one_step import OneStep
from chainrule.losses import Brightness, Call, Loss, Symmetry, SymmetrySpec, Term, sum_losses
from chainrule.losses.base import Checked, Sum, as_loss
from chainrule.losses.cutouts import Cutouts
from chainrule.methods import METHODS, Needs, Plain, RewardTuning, Sheet, Task
from chainrule.models import Model
from conftest import tiny_model
from tiny import load_once

MODEL = tiny_model()
WEIGHT = nn.Parameter(torch.ones(1))
"""What some loss depends on, and images do not."""


def mean(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


@torch.no_grad()
def without_grad(images: Tensor) -> Tensor:
    return mean(images)


WRONG: dict[str, tuple[Any, str]] = {
    "a float": (lambda x: 1.0, "must return a tensor, .* returns float: give one number for each"),
    "None": (lambda x: None, "must return a tensor, .* returns None: give one number for each"),
    "a list": (lambda x: mean(x).tolist(), "must return a tensor, .* returns list"),
    "no dimension": (torch.mean, r"for each of the \d+ images or crops, .* shape \(\): average over"),
    "two dimensions": (lambda x: mean(x)[:, None], r"returns shape \(\d+, 1\): drop the last dimension, as .squeeze\(1\)"),
    "another batch": (lambda x: mean(x)[:1], r"returns shape \(1,\): average over"),
    "whole numbers": (lambda x: torch.ones(len(x), dtype=torch.long), r"whole numbers \(torch.int64\)"),
    "truths": (lambda x: mean(x) > 0.5, r"whole numbers \(torch.bool\): compute with floats"),
    "complex numbers": (lambda x: mean(x) * 1j, "complex numbers .*: take their absolute values"),
    "nan": (lambda x: mean(x) * torch.nan, r"loss( mine)? is nan (for|in iteration 0)"),
    "infinity": (lambda x: mean(x) * torch.inf, r"loss( mine)? is inf (for|in iteration 0)"),
    "in place": (lambda x: mean(x.mul_(0.5)), "changes the images that it is shown: compute new"),
}  # fmt: skip
UNCONNECTED: dict[str, Any] = {
    "a constant": lambda x: torch.ones(len(x)),
    "detached": lambda x: mean(x.detach()),
    "no grad": without_grad,
    "another parameter": lambda x: WEIGHT.expand(len(x)) * 1.0,
}
ASKING = [*[kind for kind in METHODS.known.values() if Needs.LOSS in kind.needs], Plain]
DIFFERENTIATING = [
    kind
    for kind in ASKING
    if kind.model_fields["kind"].default not in ("best-of", "search", "plain")
]


def task(loss: Any, seeds: tuple[int, ...] = (0, 1), model: Model = MODEL) -> Task:
    return Task(model, model.denoiser("a prompt"), seeds, loss, prompts=("a prompt",))


def draw(kind: Any, loss: Any) -> Any:
    short = {"steps": 2, "iterations": 1, "count": 2, "budget": 40}
    return kind(**{name: n for name, n in short.items() if name in kind.model_fields})(
        task(loss, model=load_once("Stable Diffusion 1.x") if kind is RewardTuning else MODEL)
    )


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("kind", ASKING, ids=lambda kind: kind.__name__)
def test_a_wrong_loss_is_said_by_every_method(kind: Any, case: str) -> None:
    function, message = WRONG[case]
    for loss in (function, Call(function), 0.5 * Symmetry() + Call(function, "mine")):
        with pytest.raises(UserError, match=message):
            draw(kind, loss)


@pytest.mark.parametrize("case", UNCONNECTED)
@pytest.mark.parametrize("kind", DIFFERENTIATING, ids=lambda kind: kind.__name__)
def test_a_loss_without_a_gradient_is_said(kind: Any, case: str) -> None:
    with pytest.raises(UserError, match="does not depend on the images in a way that can be diff"):
        draw(kind, UNCONNECTED[case])


@pytest.mark.parametrize("kind", ASKING, ids=lambda kind: kind.__name__)
def test_what_a_loss_raises_comes_through(kind: Any) -> None:
    def broken(images: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        draw(kind, broken)


@pytest.mark.parametrize("kind", ASKING, ids=lambda kind: kind.__name__)
def test_a_function_or_a_module_is_a_loss(kind: Any) -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return mean(images)

    expected = draw(kind, Call(mean))
    for function in (mean, Mean()):
        if isinstance(expected, Sheet):
            assert draw(kind, function).numbers == expected.numbers
            continue
        torch.testing.assert_close(draw(kind, function).losses, expected.losses)
        torch.testing.assert_close(draw(kind, function).images, expected.images)


class Rows(Loss):
    """Somebody's own loss that forgets what its terms are."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def names(self) -> tuple[str, ...]:
        return ("a", "b")

    def terms(self, images: Tensor) -> Tensor:
        return self.value(images)


@pytest.mark.parametrize("value", [mean, lambda x: None, lambda x: torch.stack([mean(x)] * 3)])
@pytest.mark.parametrize("kind", ASKING, ids=lambda kind: kind.__name__)
def test_terms_of_the_wrong_shape_are_said(kind: Any, value: Any) -> None:
    with pytest.raises(
        UserError, match=r"terms of the loss a \+ b .* shape \(2, \d+\): a row a name"
    ):
        draw(kind, Rows(value))


class Wrong(Term):
    """Somebody's own term of the wrong shape."""

    name = "wrong"

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean()


def test_somebodys_own_term_is_checked_wherever_it_is_asked() -> None:
    images = torch.rand(2, 3, 8, 8)
    for loss in (Wrong(), Symmetry() + Wrong(), 2.0 * Wrong(), Cutouts(Wrong(), 2)):
        with pytest.raises(UserError, match=r"the loss wrong returns shape \(\)"):
            Checked(loss)(images)


NO_LOSS: dict[str, tuple[Any, str]] = {
    "a class": (Brightness, r"Brightness is a class: give a loss, or .*: Brightness\(\.\.\.\)"),
    "a spec": (SymmetrySpec(), r"symmetry is only written down: load it, with \.build\(\)"),
    "words": ("classifier=heart", "'classifier=heart' is a loss in words"),
    "a number": (3.0, "the loss is of type float: give a loss, or a function"),
}


@pytest.mark.parametrize("case", NO_LOSS)
def test_what_is_no_loss_is_said(case: str) -> None:
    value, message = NO_LOSS[case]
    for use in (task, as_loss, lambda loss: Symmetry() + loss, lambda loss: loss + Symmetry(), lambda loss: sum_losses([loss])):  # fmt: skip
        with pytest.raises(UserError, match=message):
            use(value)


def test_losses_are_added_to_functions_and_by_sum() -> None:
    images = torch.rand(2, 3, 8, 8)
    expected = Symmetry()(images) + mean(images)
    for loss in (Symmetry() + mean, mean + Symmetry(), sum([Symmetry(), Call(mean)])):
        torch.testing.assert_close(loss(images), expected)
    assert (Symmetry() + mean).names == ("symmetry", "mean")
    assert isinstance(sum_losses([mean, mean]), Sum)
    with pytest.raises(UserError, match="there are no losses to add"):
        sum_losses([])


@pytest.mark.parametrize("weight", [torch.tensor(2.0), "2", None, float("nan"), float("inf"), True])
def test_a_loss_is_multiplied_by_numbers_alone(weight: Any) -> None:
    with pytest.raises(UserError, match=r"cannot be multiplied by .*: use a finite number"):
        Symmetry() * weight
    with pytest.raises(UserError, match="cannot be multiplied by"):
        weight * Symmetry()


def test_what_is_judged_is_not_what_is_changed() -> None:
    """The images that come back are those that were judged: no loss can have drawn on them."""
    assert torch.equal(draw(Plain, mean).images, draw(Plain, None).images)


@pytest.mark.parametrize(
    "value", [lambda x, t: 1.0, lambda x, t: x.mean(), lambda x, t: mean(x)[:, None]]
)
def test_an_energy_is_checked_as_well(value: Any) -> None:
    with pytest.raises(UserError, match="what guides must give one number for each image"):
        energy_gradient(value, torch.rand(2, 3, 4, 4), 1.0)
    with pytest.raises(UserError, match="what guides does not depend on the images"):
        energy_gradient(lambda x, t: mean(x.detach()), torch.rand(2, 3, 4, 4), 1.0)


def test_a_bare_function_that_guides_is_checked() -> None:
    denoiser = MODEL.denoiser("a prompt", guidance_scale=1.0)
    for function in (lambda x: x.mean(), lambda x: 1.0, lambda x: mean(x.detach())):
        with pytest.raises(UserError, match="what guides"):
            OneStep(denoiser, MODEL.decode, function, 1.0)(MODEL.noise([0, 1]), 500.0)
