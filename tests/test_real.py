"""What needs a GPU or a real checkpoint: skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch

import chainrule
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, sample
from chainrule.models import installed

PROMPT = "a red shape on a white background"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("step", "way"), [(DDIM(), Checkpoint()), (EDICT(), Checkpoint()), (EDICT(), Reversible())])
def test_gradients_agree_on_a_gpu_and_with_the_cpu(step, way) -> None:
    found = {}
    for device, gradient in (("cuda", way), ("cuda", Backprop()), ("cpu", Backprop())):
        model = chainrule.load(device=device, dtype=torch.float64)
        x_T = model.noise([0, 1]).double().requires_grad_()
        x_0 = sample(model.denoiser(PROMPT), x_T, model.schedule.times(6), step=step, gradient=gradient)
        (g,) = torch.autograd.grad(model.decode(x_0).square().sum(), x_T)
        found[device, type(gradient)] = g.cpu()
    expected = found.pop(("cpu", Backprop))
    for g in found.values():
        torch.testing.assert_close(g, expected, rtol=1e-5, atol=1e-7)


STABLE_DIFFUSION = installed()[1:]


@pytest.mark.checkpoint
@pytest.mark.skipif(not STABLE_DIFFUSION, reason="needs a Stable Diffusion checkpoint in the hub's cache")
def test_a_real_checkpoint_draws_and_differentiates() -> None:
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    model = chainrule.load(STABLE_DIFFUSION[0], device=device, dtype=dtype)
    x_T = model.noise([0]).requires_grad_()
    x_0 = sample(model.denoiser("a photo of a cat"), x_T, model.schedule.times(4), gradient=Checkpoint())
    model.decode(x_0).mean().backward()
    assert torch.isfinite(x_T.grad).all()
    assert x_T.grad.abs().max() > 0
