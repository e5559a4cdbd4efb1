"""Networks in float16: gradients neither vanish nor overflow for the size of the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import chainrule
from chainrule import Checkpoint, sample
from chainrule.models.backbone import GradientScaling
from tiny import family

NAMES = ("Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3")


def gradients(name: str, scale: float, *, dtype: torch.dtype = torch.float16) -> list[Tensor]:
    """Of x_T and of the conditioning, for a loss times `scale`; divided by it again."""
    model = chainrule.load(family(name).to(dtype))
    told = tuple(value.float().requires_grad_() for value in model.text(["red"]))
    x_T = model.noise([0]).requires_grad_()
    denoiser = model.denoiser(told, guidance_scale=1.0)
    x_0 = sample(denoiser, x_T, model.schedule.times(3), gradient=Checkpoint())
    loss = scale * model.decode(x_0).square().sum()
    return [gradient / scale for gradient in torch.autograd.grad(loss, (x_T, *told))]


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_the_loss_does_not_matter(name: str) -> None:
    exact = gradients(name, 1.0, dtype=torch.float32)
    for scale in (2.0**-40, 1.0, 2.0**40):
        for found, true in zip(gradients(name, scale), exact, strict=True):
            assert (found - true).norm() < 0.03 * true.norm()


def test_without_scaling_they_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    monkeypatch.setattr(GradientScaling, "enter", lambda self, value: value)
    monkeypatch.setattr(GradientScaling, "leave", lambda self, value: value)
    assert not any(gradient.any() for gradient in gradients(NAMES[0], 2.0**-40))


def test_images_of_very_different_losses_share_a_batch() -> None:
    model = chainrule.load(family(NAMES[0]).to(torch.float16))
    x_T = model.noise([0, 1]).requires_grad_()
    x_0 = sample(model.denoiser("red"), x_T, model.schedule.times(3), gradient=Checkpoint())
    sizes = torch.tensor([2.0**-40, 2.0**20])
    losses = sizes * model.decode(x_0).square().sum(dim=(1, 2, 3))
    (found,) = torch.autograd.grad(losses.sum(), x_T)
    assert torch.isfinite(found).all()
    assert (found.flatten(1).norm(dim=1) / sizes > 1e-3).all()


def test_a_gradient_of_nothing_stays_nothing() -> None:
    model = chainrule.load(family(NAMES[0]).to(torch.float16))
    x_T = model.noise([0]).requires_grad_()
    x_0 = sample(model.denoiser("red"), x_T, model.schedule.times(2), gradient=Checkpoint())
    (found,) = torch.autograd.grad((0.0 * x_0).sum(), x_T)
    assert not found.any()
