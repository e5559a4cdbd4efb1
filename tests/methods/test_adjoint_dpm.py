"""AdjointDPM's guided sampling: the paper's settings, and what its own gradient changes."""

from __future__ import annotations

import pytest
import torch

from chainrule.losses import Call
from chainrule.methods import Adam, AdjointDPM, Plain, Task
from conftest import tiny_model

QUICK = AdjointDPM(iterations=6, steps=8, optimiser=Adam(rate=0.1, beta2=0.999))
OTHER = QUICK.model_copy(update={"adjoint": True})


def task() -> Task:
    model = tiny_model()
    loss = Call(lambda images: (images - 0.6).square().mean(dim=(1, 2, 3)), "distance")
    return Task(model, model.denoiser("a prompt"), (0, 1), loss)


def test_the_settings_are_the_papers() -> None:
    method = AdjointDPM()
    assert (method.steps, method.iterations) == (31, 30)
    assert method.optimiser.decay > 0  # AdamW
    loop = method.loop
    assert (loop.mix, loop.perturbation, loop.renormalise, loop.crops) == (None, 0.0, False, 0)
    assert (loop.steps, loop.iterations, loop.optimiser) == (31, 30, method.optimiser)


@pytest.mark.parametrize("method", [QUICK, OTHER], ids=["exact", "adjoint"])
def test_both_gradients_lower_the_loss(method: AdjointDPM) -> None:
    found = method(task())
    assert (found.losses < 0.9 * Plain(steps=8)(task()).losses).all()
    assert len(found.history) == 7


@pytest.mark.parametrize("method", [QUICK, OTHER], ids=["exact", "adjoint"])
def test_network_calls(method: AdjointDPM) -> None:
    """A forward pass and a rebuilt one for each step and epoch, with either gradient; the last image is made once."""
    job = task()
    method(job)
    assert job.model.network.calls == 6 * 2 * 8 + 8


def test_the_papers_gradient_is_another() -> None:
    assert not torch.allclose(QUICK(task()).x_T, OTHER(task()).x_T, atol=1e-4)
