"""The loss that networks are trained by."""

from __future__ import annotations

import pytest
import torch

from chainrule import UserError
from chainrule.diffusion.denoiser import Conditioned, Epsilon, Flow, Parameterization, Velocity
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.matching import matching_loss, training_times
from chainrule.diffusion.schedule import FlowMatching
from conftest import TinyNetwork, latents, scaled_linear

WAYS = [Epsilon(), Velocity(), Flow()]


@pytest.mark.parametrize("parameterization", WAYS, ids=lambda way: type(way).__name__)
def test_it_is_the_formula(parameterization: Parameterization) -> None:
    network, x_0, eps = TinyNetwork(parameterization), latents(3), latents(3, seed=5)
    c, times = torch.ones(3, 3, dtype=torch.float64), torch.tensor([3.0, 250.0, 999.0])
    found = matching_loss(Conditioned(network, (c,)), x_0, eps, times)
    for i, t in enumerate(times.tolist()):
        alpha, sigma = network.schedule.alpha(t), network.schedule.sigma(t)
        said = network(alpha * x_0[i : i + 1] + sigma * eps[i : i + 1], t, (c[i : i + 1],))
        wanted = {
            Epsilon: eps[i],
            Velocity: alpha * eps[i] - sigma * x_0[i],
            Flow: eps[i] - x_0[i],
        }[type(parameterization)]
        torch.testing.assert_close(found[i], (said[0] - wanted).square().mean())


def test_all_times_are_as_likely() -> None:
    uniform = torch.arange(0, 1, 1e-4)
    for schedule, last in ((scaled_linear(), 999), (FlowMatching(1000, None), 1000)):
        times = training_times(schedule, uniform)
        assert [times.min(), times.max()] == [0, last]
        assert (times == times.round()).all()
        counts = torch.bincount(times.int())
        assert counts.max() - counts.min() <= 2


def test_a_guided_network_is_refused() -> None:
    told = Conditioned(TinyNetwork(), (torch.ones(1, 3, dtype=torch.float64),))
    guided = ClassifierFree(told, told.conditioning, 2.0)
    with pytest.raises(UserError, match="cannot be trained: give the network unguided"):
        matching_loss(guided, latents(1), latents(1), torch.zeros(1))
