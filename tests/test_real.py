"""What needs a GPU or a real checkpoint: skipped, with the reason, where there is none."""

from __future__ import annotations

import gc

import pytest
import torch

import chainrule
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, sample
from chainrule.bundled import WORLDS
from chainrule.losses import Classifier, load_classifier
from chainrule.memory import Plan, arrange, count_bytes
from chainrule.methods import DOODL, Task
from chainrule.methods.chunking import run_within_memory
from chainrule.models import installed
from chainrule.runs import measure
from chainrule.runs.estimate import count_resident

PROMPT = "a red shape on a white background"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("solver", "way"), [(DDIM(), Checkpoint()), (EDICT(), Checkpoint()), (EDICT(), Reversible())]
)
def test_gradients_agree_on_a_gpu_and_with_the_cpu(solver, way) -> None:
    found = {}
    for device, gradient in (("cuda", way), ("cuda", Backprop()), ("cpu", Backprop())):
        model = chainrule.load(device=device, dtype=torch.float64)
        x_T = model.noise([0, 1]).double().requires_grad_()
        x_0 = sample(
            model.denoiser(PROMPT), x_T, model.schedule.times(6), solver=solver, gradient=gradient
        )
        (g,) = torch.autograd.grad(model.decode(x_0).square().sum(), x_T)
        found[device, type(gradient)] = g.cpu()
    on_cpu = found.pop(("cpu", Backprop))
    torch.testing.assert_close(*found.values(), rtol=1e-8, atol=1e-10)
    # diffusers embeds the time in float32, whose sines differ between the two
    for g in found.values():
        assert (g - on_cpu).norm() < 1e-3 * on_cpu.norm()


def on_a_gpu() -> Task:
    model, loss = chainrule.load(device="cuda"), Classifier(load_classifier(device="cuda"), "heart")
    return Task(model, model.denoiser(PROMPT), (0, 1), loss)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_plans_on_a_gpu_compute_the_same_in_the_memory_that_was_said() -> None:
    method = DOODL(iterations=1, steps=4, mix=None, crops=2)
    histories = []
    for plan in (
        Plan(),
        Plan(keep=2),
        Plan(decode_batch=1, batch_size=1, gradient_checkpointing=True),
        Plan(offload=True),
    ):
        task = on_a_gpu()
        method(task)  # what libraries allocate once is there from now on
        weights = count_resident(task)
        said = measure("doodl", method, task.under(plan)).under().peak
        gc.collect()
        others = torch.cuda.memory_allocated() - weights  # of other tests, and of the libraries
        torch.cuda.reset_peak_memory_stats()
        *_, (last, _) = run_within_memory(method, task.under(plan))
        histories.append(last.history)
        assert abs(said / (torch.cuda.max_memory_allocated() - others) - 1) < 0.15, str(plan)
        del task, last
    for history in histories[1:]:
        torch.testing.assert_close(history, histories[0], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_a_plan_moves_and_halves_is_back_afterwards() -> None:
    task = on_a_gpu()
    networks = (*task.model.networks, *task.judges)
    before = [value.clone() for network in networks for value in network.state_dict().values()]
    method = DOODL(iterations=1, steps=2, mix=None, crops=0)
    for outer in (Plan(), Plan(offload=True), TIGHT):
        with arrange(task.model, task.loss, outer), arrange(task.model, task.loss, TIGHT):
            method(task)
        after = [value for network in networks for value in network.state_dict().values()]
        for one, other in zip(before, after, strict=True):
            assert one.device == other.device
            assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_while_a_plan_lasts_there_is_less_on_the_device() -> None:
    task = on_a_gpu()
    DOODL(iterations=1, steps=2, mix=None, crops=0)(task)  # what libraries allocate once is there
    gc.collect()
    whole = torch.cuda.memory_allocated()
    with arrange(task.model, task.loss, TIGHT):
        away = count_bytes(task.model.text.networks)
        assert torch.cuda.memory_allocated() < whole - away


TIGHT = Plan(offload=True, half=True, gradient_checkpointing=True)


STABLE_DIFFUSION = [name for name in installed() if name not in WORLDS]


@pytest.mark.checkpoint
@pytest.mark.skipif(
    not STABLE_DIFFUSION, reason="needs a Stable Diffusion checkpoint in the hub's cache"
)
def test_a_real_checkpoint_draws_and_differentiates() -> None:
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    model = chainrule.load(STABLE_DIFFUSION[0], device=device, dtype=dtype)
    x_T = model.noise([0]).requires_grad_()
    x_0 = sample(
        model.denoiser("a photo of a cat"), x_T, model.schedule.times(4), gradient=Checkpoint()
    )
    model.decode(x_0).mean().backward()
    assert torch.isfinite(x_T.grad).all()
    assert x_T.grad.abs().max() > 0
