"""What is imposed between two steps: low frequencies, what a mask keeps, and where that comes from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from chainrule import DDIM
from chainrule.diffusion.constraints import (
    Inpaint,
    NoisedReference,
    VisitedReference,
    constrain,
    fill_in,
    mask_for_latents,
)
from chainrule.diffusion.constraints.base import Constraint
from chainrule.diffusion.constraints.low_pass import low_pass
from chainrule.diffusion.gradient.base import Chain
from chainrule.diffusion.sampling import trajectory
from chainrule.noise import Noise
from conftest import TinyNetwork, conditioned, latents, scaled_linear

STEPS = 4


def test_the_low_pass_filter_is_a_projection() -> None:
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    low = low_pass(x, 4)
    torch.testing.assert_close(low_pass(low, 4), low)
    torch.testing.assert_close(low_pass(x, 1), x)
    flat = torch.ones(1, 1, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(low_pass(flat, 4), flat)


def test_a_mask_of_latents_is_free_wherever_a_pixel_is() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 3, 4] = 1.0
    assert mask_for_latents(mask, torch.zeros(1, 4, 4, 4)).nonzero().tolist() == [[0, 0, 1, 2]]


def test_what_is_to_go_is_hidden_by_what_is_around() -> None:
    images = torch.rand(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:6, 2:6] = 1.0
    found = fill_in(images, mask)
    assert torch.equal(found * (1 - mask), images * (1 - mask))
    other = torch.where(mask > 0, torch.rand_like(images), images)
    assert torch.equal(fill_in(other, mask), found)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(fill_in(torch.where(mask[:1] > 0, 1.0, flat), mask[:1]), flat)
    assert torch.equal(fill_in(images, torch.ones_like(mask)), images)


def test_the_hiding_of_one_mask_is_not_anothers() -> None:
    images = torch.rand(2, 3, 8, 8)
    mask = torch.ones(2, 1, 8, 8)
    mask[0, :, 4:] = 0.0
    found = fill_in(images, mask)
    assert torch.equal(found[:1], fill_in(images[:1], mask[:1]))
    assert torch.equal(found[1], images[1])
    assert not torch.equal(found[0], images[0])


def test_what_is_known_has_the_noise_of_its_time_anew_at_each_step() -> None:
    schedule, stream = scaled_linear(), Noise((3, 4)).stream("repaint/known")
    z = torch.randn(2, 4, 8, 8)
    known = NoisedReference(schedule, z, stream)
    for s, k in ((501.0, 0), (501.0, 1), (1.0, 7)):
        wanted = schedule.alpha(s) * z + schedule.sigma(s) * stream.normal(k, z.shape[1:])
        torch.testing.assert_close(known.at(s, k), wanted, check_dtype=False)
        torch.testing.assert_close(known.select([1]).at(s, k), wanted[1:], check_dtype=False)
    assert torch.equal(known.at(-1.0, 9), z)


def test_inpainting_is_the_formula() -> None:
    x, known = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [0.25, 1.0]]]])
    found = Inpaint(mask, VisitedReference({3.0: known}))(x, 3.0, 0)
    torch.testing.assert_close(found, mask * x + (1 - mask) * known)


def walked(network: TinyNetwork, x_T: Tensor, constraint: Constraint) -> list[tuple[float, Tensor]]:
    """The latents after each step of a chain, with their times."""
    solver = constrain(DDIM(), (constraint,))
    times = network.schedule.times(STEPS).tolist()
    states = Chain(conditioned(network), tuple(times), solver).walk(solver.init(x_T))
    return [(t, state[0]) for t, state in zip(times, states, strict=True)][1:]


LEFT = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).expand(2, 1, 4, 4)


@torch.no_grad()
def test_the_known_region_is_imposed_after_every_step(network: TinyNetwork) -> None:
    z = latents(seed=9)
    known = NoisedReference(network.schedule, z, Noise((0, 1)).stream("repaint/known"))
    for k, (t, x) in enumerate(walked(network, latents(), Inpaint(LEFT, known))):
        assert torch.equal((1 - LEFT) * x, (1 - LEFT) * known.at(t, k))
        assert not torch.equal(x, known.at(t, k))


@torch.no_grad()
def test_an_encoding_can_be_kept_all_the_way(network: TinyNetwork) -> None:
    z, times, told = latents(seed=9), network.schedule.times(STEPS), conditioned(network)
    trail = trajectory(told, z, times)
    assert torch.equal(trail[-1.0], z)
    assert len({value.sum().item() for value in trail.values()}) == STEPS + 1
    before = times[-2].item()
    assert torch.equal(trail[before], DDIM().inverse(told, (z,), STEPS - 1, before, -1.0)[0])
    kept = Inpaint(LEFT, VisitedReference(trail))
    for t, x in walked(network, latents(), kept):
        assert torch.equal((1 - LEFT) * x, (1 - LEFT) * trail[t])
    one = replace(kept, mask=LEFT[:1]).select([1])
    assert torch.equal(one.known.at(before, 0), trail[before][1:])
