"""What needs a GPU or a real checkpoint: skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch

import chainrule
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, sample
from chainrule.estimate import Optimisation
from chainrule.losses import Classifier, load_classifier
from chainrule.methods import Doodl, Task, doodl
from chainrule.models import installed
from chainrule.plan import Plan

PROMPT = "a red shape on a white background"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("solver", "way"), [(DDIM(), Checkpoint()), (EDICT(), Checkpoint()), (EDICT(), Reversible())])
def test_gradients_agree_on_a_gpu_and_with_the_cpu(solver, way) -> None:
    found = {}
    for device, gradient in (("cuda", way), ("cuda", Backprop()), ("cpu", Backprop())):
        model = chainrule.load(device=device, dtype=torch.float64)
        x_T = model.noise([0, 1]).double().requires_grad_()
        x_0 = sample(model.denoiser(PROMPT), x_T, model.schedule.times(6), solver=solver, gradient=gradient)
        (g,) = torch.autograd.grad(model.decode(x_0).square().sum(), x_T)
        found[device, type(gradient)] = g.cpu()
    expected = found.pop(("cpu", Backprop))
    for g in found.values():
        torch.testing.assert_close(g, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_plans_on_a_gpu_compute_the_same_in_the_memory_that_was_said() -> None:
    settings = Doodl(iterations=1, steps=4, mix=None, crops=2)
    histories = []
    for plan in (Plan(), Plan(keep=2), Plan(seen=1, together=1, rebuilt=True), Plan(aside=True)):
        model, loss = chainrule.load(device="cuda"), Classifier(load_classifier(device="cuda"), "heart")
        task = Task(model, model.denoiser(PROMPT), (0, 1), loss).under(plan)
        said = Optimisation.measure(task, settings).under().peak
        torch.cuda.reset_peak_memory_stats()
        histories.append(doodl(task, settings).history)
        assert abs(said / torch.cuda.max_memory_allocated() - 1) < 0.15
    for history in histories[1:]:
        torch.testing.assert_close(history, histories[0], rtol=1e-3, atol=1e-4)


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
