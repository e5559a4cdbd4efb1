"""Every denoiser names the networks that it asks, each once, and those of what it holds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from chainrule.diffusion.control import Bottleneck, PairedDenoiser, Shift, Towards
from chainrule.diffusion.control.attention import Alignment, AttentionEdit
from chainrule.diffusion.denoiser import find_networks
from chainrule.diffusion.guidance import ClassifierFree, NoiseAware, NoiseAwareMean, OneStep
from chainrule.diffusion.guidance.semantic import Layout, Likeness, Mixed, Text
from chainrule.diffusion.solvers import DDPM
from chainrule.noise import Noise
from conftest import TinyNetwork, conditioned, latents, scaled_linear


@dataclass
class Judge:
    """A loss, or an energy, that declares its networks."""

    networks: tuple[nn.Module, ...]

    def __call__(self, x: Tensor, t: float = 0.0) -> Tensor:
        return x.sum(dim=(1, 2, 3))


JUDGE, ENCODER = nn.Identity(), nn.Identity()


@pytest.fixture
def network() -> TinyNetwork:
    return TinyNetwork()


def test_networks_are_found_once(network: TinyNetwork) -> None:
    assert find_networks(JUDGE, Judge((JUDGE, ENCODER)), len, None) == (JUDGE, ENCODER)
    both = find_networks(conditioned(network), network, network.layers)
    assert both == (network.layers,)


def test_wrappers_have_those_of_what_they_wrap_and_hold(network: TinyNetwork) -> None:
    plain, judge, mine = conditioned(network), Judge((JUDGE,)), (network.layers,)
    likeness = Likeness(ENCODER, scaled_linear(), latents())
    energy = Mixed([(1.0, judge), (2.0, Layout(likeness)), (3.0, Text(ENCODER, torch.ones(1, 4)))])
    edit = AttentionEdit(
        Alignment(torch.ones(1, 1, 1), torch.ones(1, 1)), 0.0, 0.0, torch.ones(1, 1)
    )
    other = conditioned(TinyNetwork())
    expected = [
        (ClassifierFree(plain, plain.conditioning, 2.0), mine),
        (OneStep(plain, torch.tanh, judge, 1.0), (*mine, JUDGE)),
        (OneStep(plain, torch.tanh, lambda images: images, 1.0), mine),
        (NoiseAware(plain, energy, 1.0), (*mine, JUDGE, ENCODER)),
        (Bottleneck(plain, Shift(torch.zeros(1, 1, 1, 1))), mine),
        (Bottleneck(plain, Towards(other)), (*mine, *other.networks)),
        (PairedDenoiser(plain, other, edit), (*mine, *other.networks)),
        (PairedDenoiser(plain, plain, edit), mine),
    ]
    for denoiser, networks in expected:
        assert denoiser.networks == networks


def test_a_solver_names_what_it_asks_besides() -> None:
    solver = DDPM(Noise((0,)).stream("ddpm"))
    assert solver.networks == ()
    assert NoiseAwareMean(solver, Judge((JUDGE,)), 1.0).networks == (JUDGE,)
