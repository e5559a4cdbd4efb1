"""AdjointDPM's guided sampling: the paper's settings, and what its own gradient changes."""

from __future__ import annotations

import torch

from chainrule.losses.base import Call
from chainrule.methods import ADJOINT_DPM, Task, adjoint_dpm, plain
from chainrule.optimise import Adam
from conftest import tiny_model

QUICK = ADJOINT_DPM.model_copy(update={"iterations": 6, "steps": 8, "optimiser": Adam(rate=0.1, beta2=0.999)})


def task() -> Task:
    model = tiny_model()
    loss = Call(lambda images: (images - 0.6).square().mean(dim=(1, 2, 3)), "distance")
    return Task(model, model.denoiser("a prompt"), (0, 1), loss)


def test_the_settings_are_the_paper_s() -> None:
    assert (ADJOINT_DPM.steps, ADJOINT_DPM.iterations) == (31, 30)
    assert ADJOINT_DPM.optimiser.decay > 0  # AdamW
    assert (ADJOINT_DPM.mix, ADJOINT_DPM.perturbation, ADJOINT_DPM.renormalise) == (None, 0.0, False)


def test_both_gradients_lower_the_loss() -> None:
    before = plain(task(), steps=8).losses
    for adjoint in (False, True):
        found = adjoint_dpm(task(), QUICK.model_copy(update={"adjoint": adjoint}))
        assert (found.losses < 0.9 * before).all()
        assert len(found.history) == 7


def test_network_calls() -> None:
    """A forward pass and a rebuilt one for each step and epoch, with either gradient; the last image is made once."""
    for adjoint in (False, True):
        case = task()
        adjoint_dpm(case, QUICK.model_copy(update={"adjoint": adjoint}))
        assert case.model.network.calls == 6 * 2 * 8 + 8


def test_the_paper_s_gradient_is_another() -> None:
    exact, approximate = (adjoint_dpm(task(), QUICK.model_copy(update={"adjoint": a})).x_T for a in (False, True))
    assert not torch.allclose(exact, approximate, atol=1e-4)
