"""The energies of semantic guidance are the formulas."""

from __future__ import annotations

import torch
from torch.nn import functional

from chainrule.diffusion.guidance import semantic as by
from chainrule.models.noise_aware import NoiseAwareEncoder
from conftest import scaled_linear


def test_the_energies_are_the_formulas() -> None:
    torch.manual_seed(0)
    encoder, schedule = NoiseAwareEncoder(width=8, dim=6).eval(), scaled_linear()
    x, x_0, t = torch.randn(2, 4, 16, 16), torch.randn(1, 4, 16, 16), 301.0
    reference = by.Likeness(encoder, schedule, x_0)
    u = functional.normalize(encoder(x, torch.full((2,), t)), dim=1)
    target = torch.randn(1, 6)
    torch.testing.assert_close(by.Text(encoder, target)(x, t), -u @ target[0] / target.norm())
    same = reference.at(t)
    for energy, least in (
        (by.Image(reference), -1.0),
        (by.Layout(reference), 0.0),
        (by.Style(reference), 0.0),
    ):
        torch.testing.assert_close(energy(same, t), torch.full((1,), least), rtol=1e-4, atol=1e-5)
        assert (energy(x, t) > least).all()
    both = by.Mixed([(2.0, by.Image(reference)), (0.5, by.Layout(reference))])
    torch.testing.assert_close(
        both(x, t), 2 * by.Image(reference)(x, t) + 0.5 * by.Layout(reference)(x, t)
    )
