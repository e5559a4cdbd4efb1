"""Training-free guidance on any network and schedule; the papers' updates: methods/test_tfg.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import Checkpoint, UserError, sample
from chainrule.diffusion.batch import PerImage
from chainrule.diffusion.denoiser import Flow
from chainrule.diffusion.guidance import OneStep, Ramp, TrainingFree
from chainrule.diffusion.guidance.training_free import AVERAGED, SHAPES
from chainrule.diffusion.schedule import END, FlowMatching, Schedule
from chainrule.diffusion.solvers import DDIM, DDPM
from chainrule.diffusion.time_grids import linspace, repeat_steps
from chainrule.noise import Noise
from conftest import Gaussian, TinyNetwork, conditioned, latents, scaled_linear

SCHEDULES = {"vp": scaled_linear(), "flow": FlowMatching(1000, linspace)}


@dataclass(frozen=True, eq=False)
class Distance(PerImage):
    """A loss that holds something of each image."""

    target: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return (images - self.target).square().mean(dim=(1, 2, 3))


def guide(seeds: tuple[int, ...] = (0, 1), **settings: Any) -> TrainingFree:
    loss = Distance(latents(len(seeds), seed=5))
    eta = settings.pop("eta", 0.0)
    return TrainingFree(DDPM(Noise(seeds).stream("ddpm"), eta), torch.tanh, loss, **settings)


def network_of(schedule: Schedule) -> TinyNetwork:
    network = TinyNetwork(Flow() if isinstance(schedule, FlowMatching) else None)
    network.schedule = schedule
    return network


MOST: dict[str, Any] = {
    "rho": Ramp(0.5, "increasing"),
    "mu": Ramp(0.3, "decreasing"),
    "pushes": 2,
    "gamma": 0.4,
    "samples": 2,
    "eta": 0.7,
}
WAYS: dict[str, dict[str, Any]] = {
    "rho": {"rho": Ramp(0.5)},
    "mu": {"mu": Ramp(0.5), "pushes": 2},
    "x_t": {"rho": Ramp(2.0, "variance"), "mu": Ramp(0.5), "fixed": "x_t"},
    "all": MOST,
    "all, by the loss": MOST | {"normalise": "loss"},
    "all, by the gradient": MOST | {"normalise": "gradient"},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_one_step_guidance_where_rho_is_the_variance(schedule: str) -> None:
    network = network_of(SCHEDULES[schedule])
    denoiser, solver = conditioned(network), guide(rho=Ramp(3.0, "variance"), fixed="x_t")
    times = network.schedule.times(6)
    pushed = OneStep(denoiser, solver.decode, solver.loss, 3.0)
    expected = sample(pushed, latents(), times)
    torch.testing.assert_close(sample(denoiser, latents(), times, solver=solver), expected)
    assert (expected - sample(denoiser, latents(), times)).abs().max() > 1e-2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_lowers_the_loss_on_any_schedule(schedule: str, way: str) -> None:
    """To the last: flow matching's first x_t holds nothing of the image, its last one no noise."""
    denoiser = Gaussian(torch.zeros(1, 1, 1, 1), 0.5, SCHEDULES[schedule])
    solver, times = guide(**WAYS[way]), repeat_steps(SCHEDULES[schedule].times(6), 2)
    guided, plain = (
        sample(denoiser, latents(), times, solver=each) for each in (solver, solver.solver)
    )
    loss = [solver.loss(torch.tanh(made)) for made in (guided, plain)]
    assert (loss[0] < loss[1]).all()


@pytest.mark.parametrize("way", WAYS)
def test_gradients_pass_through_it(network: TinyNetwork, way: str) -> None:
    """Of noise and conditioning, by finite differences; a chain that is rebuilt has the same."""
    denoiser, solver = conditioned(network), guide(**WAYS[way])
    times = repeat_steps(torch.tensor([601.0, 201.0, END], dtype=torch.float64), 2)

    def walk(x: Tensor, c: Tensor, gradient: Any = "backprop") -> Tensor:
        told = replace(denoiser, conditioning=(c,))
        return sample(told, x, times, solver=solver, gradient=gradient)

    x, c = latents().requires_grad_(), denoiser.conditioning[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(walk, (x, c), fast_mode=True)
    plain, kept = (
        torch.autograd.grad(walk(x, c, each).square().sum(), [x, c])
        for each in ("backprop", Checkpoint())
    )
    torch.testing.assert_close(plain, kept)
    with torch.no_grad():
        torch.testing.assert_close(walk(x, c), walk(x.detach(), c.detach()))


@pytest.mark.parametrize("way", WAYS)
def test_what_belongs_to_an_image_goes_with_it(network: TinyNetwork, way: str) -> None:
    denoiser, solver = conditioned(network), guide((3, 8), **WAYS[way])
    times = repeat_steps(network.schedule.times(3), 2)
    both = sample(denoiser, latents(), times, solver=solver)
    second = sample(denoiser.select([1]), latents()[1:], times, solver=solver.select([1]))
    torch.testing.assert_close(both[1:], second)


def test_its_random_numbers_are_of_the_step_and_the_repeat() -> None:
    """Stopped anywhere and gone on, it is the same: nothing counts but the number of the step."""
    network = TinyNetwork()
    denoiser, solver = conditioned(network), guide(**MOST)
    draws = [solver.draw(k, latents()) for k in range(4)]
    different = {round(delta.sum().item(), 9) for some in draws for delta in some}
    assert len(different) == 4 * solver.samples
    state, times = solver.init(latents()), repeat_steps(network.schedule.times(2), 2).tolist()
    one = solver.step(denoiser, state, 2, times[2], times[3])[0]
    assert torch.equal(one, solver.step(denoiser, state, 2, times[2], times[3])[0])
    assert not torch.equal(one, solver.step(denoiser, state, 0, times[2], times[3])[0])
    assert guide(rho=Ramp(1.0)).draw(0, latents()) == []


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_strength_is_the_mean_over_the_chain_and_goes_where_it_says(
    schedule: str, shape: Any
) -> None:
    known = SCHEDULES[schedule]
    times = known.times(9)
    ramp = Ramp(0.7, shape).over(known, times)
    pairs = list(zip(times[:-1].tolist(), times[1:].tolist(), strict=True))
    values = torch.stack([ramp.at(known, t, s) for t, s in pairs])
    if shape in AVERAGED:
        torch.testing.assert_close(values.mean().item(), 0.7)
    else:
        assert ramp == Ramp(0.7, shape)
    rises = {"constant": False, "increasing": True, "step": True}.get(shape, False)
    assert (values[-1] > values[0]) == rises
    assert (values[-1] < values[0]) == (shape in ("decreasing", "variance"))


def test_a_gradient_is_divided_as_is_said() -> None:
    x = latents().requires_grad_()
    told = {name: guide(normalise=name) for name in ("plain", "loss", "gradient")}
    losses = told["plain"].energy(x, [])
    plain, loss, unit = (
        each.gradient(each.energy(x, []), x, create_graph=False) for each in told.values()
    )
    torch.testing.assert_close(loss, plain / losses.detach().sqrt()[:, None, None, None])
    torch.testing.assert_close(
        unit.square().mean(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64)
    )
    for one, other in zip(plain, unit, strict=True):
        torch.testing.assert_close(one / one.norm(), other / other.norm())


@pytest.mark.parametrize("normalise", ["loss", "gradient"])
def test_where_the_loss_is_met_nothing_moves(normalise: Any) -> None:
    solver = guide(mu=Ramp(0.5), rho=Ramp(0.5), normalise=normalise)
    met = replace(solver, loss=lambda images: 0 * images.sum(dim=(1, 2, 3)))
    denoiser, times = conditioned(TinyNetwork()), scaled_linear().times(3)
    found = sample(denoiser, latents(), times, solver=met)
    torch.testing.assert_close(found, sample(denoiser, latents(), times, solver=DDIM()))


@pytest.mark.parametrize("way", WAYS)
def test_it_moves_nothing_where_there_is_no_image_or_no_noise(way: str) -> None:
    """At alpha 0 x_t says nothing of the image; at sigma 0 it is the image, and if it stays, so does the guess."""
    schedule = FlowMatching(1000, linspace)
    denoiser, solver = conditioned(network_of(schedule)), guide(**WAYS[way])
    (first,) = solver.step(denoiser, (latents(),), 0, 1000.0, 700.0)
    assert torch.isfinite(first).all()
    (last,) = solver.step(denoiser, (latents(),), 9, 0.0, END)
    assert torch.isfinite(last).all()
    plain = solver.solver
    if not solver.mu.value:
        assert torch.equal(first, plain.step(denoiser, (latents(),), 0, 1000.0, 700.0)[0])
    if solver.fixed == "x_t":
        assert torch.equal(last, plain.step(denoiser, (latents(),), 9, 0.0, END)[0])


def test_without_rho_no_graph_of_the_network_is_built(network: TinyNetwork) -> None:
    """Whatever in it wants a gradient of something else."""
    made: list[bool] = []
    network.layers[1].register_forward_hook(lambda *seen: made.append(seen[2].requires_grad))
    for weight in network.weights:
        weight.requires_grad_()
    for way in ({"mu": Ramp(0.5)}, {"rho": Ramp(0.5)}):
        with torch.no_grad():
            sample(conditioned(network), latents(), 2, solver=guide(**way))
    assert made == [False, False, True, True]


def test_a_loss_below_0_has_no_root() -> None:
    solver = replace(
        guide(mu=Ramp(1.0), normalise="loss"), loss=lambda images: -images.sum(dim=(1, 2, 3)) - 99
    )
    with pytest.raises(UserError, match="below 0 has no root") as caught:
        sample(conditioned(TinyNetwork()), latents(), 2, solver=solver)
    assert caught.value.field == "normalise"


def test_repeated_steps_visit_each_time_as_often() -> None:
    times = torch.tensor([9.0, 5.0, END])
    assert repeat_steps(times, 1).tolist() == times.tolist()
    assert repeat_steps(times, 3).tolist() == [9, 5, 9, 5, 9, 5, END, 5, END, 5, END]
    with pytest.raises(UserError, match="steps made 0 times are no chain: choose 1 or more"):
        repeat_steps(times, 0)
