"""What keeps optimised noise like noise, ReNO's update, and the gradient to all the noise of a chain."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from chainrule import Backprop, Checkpoint, UserError, sample
from chainrule.diffusion.constraints.base import StepConstraint
from chainrule.diffusion.noise_priors import NoiseTerm, noise_statistics, norm_term, whiten
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.losses import Call
from chainrule.memory import Plan
from chainrule.methods import DNO, DOODL, Adam, Momentum, ReNO, Task
from chainrule.methods.doodl import SHUFFLES
from chainrule.noise import Noise
from conftest import TinyNetwork, conditioned, latents, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

FREE: dict[str, Any] = {"mix": None, "crops": 0, "perturbation": 0.0, "renormalise": False}
SHORT: dict[str, Any] = {"iterations": 4, "steps": 3, "optimiser": Adam(rate=0.3)}


def distance(images: Tensor) -> Tensor:
    return (images - 0.6).square().mean(dim=(1, 2, 3))


def task(seeds: tuple[int, ...] = (0, 1)) -> Task:
    model = tiny_model()
    return Task(model, model.denoiser("a prompt"), seeds, Call(distance, "distance"))


def states(method: Any, job: Task) -> list[Any]:
    return list(method.run(method.prepare(job)))


# --- terms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", get_args(NoiseTerm))
@pytest.mark.parametrize("mix", [None, 0.93], ids=["ddim", "edict"])
def test_a_term_is_a_part_of_the_loss_with_a_curve(name: str, mix: float | None) -> None:
    """Its value of the noise now, by its weight; a heavy one is lowered, and the image is no longer followed."""
    settings = {**SHORT, **FREE, "mix": mix, "optimiser": Adam(rate=0.05), "iterations": 12}
    job = task()
    spoilt = 0.5 * job.x_T + 0.7
    ends = {}
    for weight in (1e-9, 100.0):
        method = DOODL(**settings, noise_terms={name: weight})
        assert method.term_names(job) == ("distance", f"noise {name}")
        state = method.start(job, spoilt)
        assert state.terms.shape == (0, 2, 2)
        while not method.finished(state):
            state = method.advance(job, state)
        ends[weight] = state.terms[-1, 1] / weight
        assert (state.terms[:, 1] >= 0).all()
        torch.testing.assert_close(state.history, state.terms.sum(dim=1))
        torch.testing.assert_close(  # the best is the best image, whatever the noise
            state.best_losses, method.result(job, state).losses
        )
    assert (ends[100.0] < ends[1e-9]).all()


def test_the_gradient_is_that_of_the_sum() -> None:
    """Against autograd through the loss written out: EDICT's pair counts as one noise."""
    job = task()
    for mix in (None, 0.93):
        method = DOODL(iterations=1, steps=2, **{**FREE, "mix": mix}, noise_terms={"norm": 0.5},
                       optimiser=Momentum(rate=1.0, clip=None))  # fmt: skip
        plain = method.model_copy(update={"noise_terms": {}})
        one, other = (next(iter(states(each, job))).x_T for each in (method, plain))
        leaf = job.x_T.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(0.5 * norm_term(leaf).sum(), leaf)
        torch.testing.assert_close(other[0] - one[0], wanted, rtol=1e-4, atol=1e-5)


def test_bounds_are_replayed() -> None:
    """A resumed run looks at the noise in the same orders."""
    method = DOODL(**SHORT, **FREE, noise_terms={"bounds": 1.0})
    found = states(method, task())
    again = list(method.run(task(), found[1]))
    assert torch.equal(again[-1].terms, found[-1].terms)
    assert SHUFFLES.startswith("doodl/")


def test_a_term_that_there_is_not_is_refused() -> None:
    for wrong in ({"nrm": 1.0}, {"norm": 0.0}, {"norm": -1.0}):
        with pytest.raises(UserError, match="noise_terms"):
            DOODL(noise_terms=wrong)


# --- projections --------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [None, 0.93], ids=["ddim", "edict"])
def test_white_noise_stays_white(mix: float | None) -> None:
    settings = {**SHORT, **FREE, "mix": mix}
    job = task()
    free, white = (states(DOODL(**settings, whiten=on), job)[-1] for on in (False, True))
    for x_T in white.x_T:
        torch.testing.assert_close(whiten(x_T), x_T, rtol=1e-4, atol=1e-5)
    norms = [noise_statistics(each.x_T[0])["norm"] for each in (free, white)]
    assert (norms[0] - 1).abs().max() > 0.05
    torch.testing.assert_close(norms[1], torch.ones(2), rtol=1e-4, atol=1e-4)


def test_white_noise_may_keep_its_norm_too() -> None:
    job = task()
    settings = {**SHORT, **FREE, "renormalise": True, "whiten": True}
    last = states(DOODL(**settings), job)[-1]
    torch.testing.assert_close(last.x_T[0].flatten(1).norm(dim=1), job.x_T.flatten(1).norm(dim=1))


@pytest.mark.parametrize("kept", [{"renormalise": True}, {"whiten": True}], ids=str)
def test_reparameterised_the_gradient_goes_through_the_projection(kept: dict[str, bool]) -> None:
    """d loss(chain(P(v))) / dv, by autograd through all of it; what is judged and kept is P(v)."""
    job = task()
    method = DOODL(iterations=1, steps=2, reparameterise=True, **{**FREE, **kept},
                   optimiser=Momentum(rate=1.0, clip=None))  # fmt: skip
    start = method.start(job, 1.2 * job.x_T)
    start = replace(start, radius=start.radius / 1.2)
    leaf = start.x_T[0].clone().requires_grad_()
    kept_x_T = method._project(leaf[None], start.radius)[0]
    x_0 = sample(job.denoiser, kept_x_T, 2, gradient=Backprop())
    (wanted,) = torch.autograd.grad(distance(job.model.decode(x_0)).sum(), leaf)
    moved = method.advance(job, start)
    torch.testing.assert_close(start.x_T[0] - moved.x_T[0], wanted, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(moved.best_x_T[0], kept_x_T.detach())
    if "renormalise" in kept:  # on a sphere, nothing pulls outwards
        assert (wanted * leaf).sum().abs() < 1e-5
    last = states(method.model_copy(update={"iterations": 4}), job)[-1]
    drawn = sample(job.denoiser, last.best_x_T[0], 2)
    torch.testing.assert_close(drawn, last.best_latents)


def test_the_reports_numbers_are_the_noises() -> None:
    result = DOODL(**SHORT, **FREE)(task())
    assert result.numbers.keys() == {"norm", "flatness", "autocorrelation"}
    torch.testing.assert_close(result.numbers["norm"], noise_statistics(result.x_T)["norm"])


# --- ReNO ---------------------------------------------------------------------------------------


def test_renos_settings_are_the_papers() -> None:
    method = ReNO()
    assert (method.steps, method.iterations, method.clip_norm) == (1, 50, 0.1)
    assert method.noise_terms == {"norm": 0.01}
    assert (method.optimiser.rate, method.optimiser.momentum) == (5.0, 0.9)
    assert method.optimiser.nesterov
    loop = method.loop
    assert (loop.mix, loop.crops, loop.perturbation, loop.renormalise) == (None, 0, 0.0, False)


@pytest.mark.parametrize("weight", [1.0, 100.0], ids=["free", "clipped"])
def test_renos_update_is_torchs(weight: float) -> None:
    """SGD with Nesterov's momentum, and the gradient's norm clipped, of each image by itself."""
    job = replace(task(), loss=weight * Call(distance))
    method = ReNO(iterations=4, steps=2)
    found = states(method, job)
    for row, seed in enumerate(job.seeds):
        alone = task((seed,))
        x_T = alone.x_T.clone().requires_grad_()
        optimiser = torch.optim.SGD([x_T], lr=5.0, momentum=0.9, nesterov=True)
        clipped = []
        for state in found[:-1]:
            x_0 = sample(alone.denoiser, x_T, 2, gradient=Backprop())
            norm = torch.linalg.vector_norm(x_T)
            printed = 0.01 * (norm.square() / 2 - (x_T.numel() - 1) * norm.log())
            optimiser.zero_grad()
            (weight * distance(alone.model.decode(x_0)).sum() + printed).backward()
            clipped.append(torch.nn.utils.clip_grad_norm_([x_T], 0.1) > 0.1)
            optimiser.step()
            torch.testing.assert_close(state.x_T[0, row], x_T.detach()[0], rtol=1e-4, atol=1e-5)
        assert any(clipped) == (weight > 1)
    assert len(found) == 5


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_norm_of_an_images_gradient_is_bounded(scale: float) -> None:
    """A large gradient is cut to its bound, a small one is left as it is."""
    job = replace(task(), loss=scale * Call(distance))
    settings: dict[str, Any] = {"iterations": 1, "steps": 2, **FREE}
    still = Momentum(rate=1.0, clip=None, momentum=0.0)
    free, bound = (
        next(iter(states(DOODL(**settings, optimiser=still, clip_norm=clip), job))).x_T[0] - job.x_T
        for clip in (None, 0.1)
    )
    norm = free.flatten(1).norm(dim=1)
    wanted = free if scale < 1 else free * (0.1 / norm)[:, None, None, None]
    assert ((norm < 0.1) == (scale < 1)).all()
    torch.testing.assert_close(bound, wanted, rtol=1e-3, atol=1e-5)


def test_nesterovs_momentum_is_torchs() -> None:
    mine, theirs = torch.ones(3), torch.ones(3, requires_grad=True)
    optimiser = torch.optim.SGD([theirs], lr=0.3, momentum=0.8, nesterov=True)
    ours, memory = Momentum(rate=0.3, clip=None, momentum=0.8, nesterov=True), torch.zeros(2, 3)
    for k in range(5):
        theirs.grad = (theirs.detach() - torch.tensor([1.0, 2.0, -3.0])) * (k + 1)
        change, memory = ours.update(mine, theirs.grad, memory, k)
        mine = mine + change
        optimiser.step()
        torch.testing.assert_close(mine, theirs.detach())


def test_reno_may_draw_the_picture_in_many_steps() -> None:
    *_, before, after = states(ReNO(iterations=2, steps=1, final_steps=6), task())
    assert not before.redrawn
    assert after.redrawn
    assert (after.best_losses <= before.best_losses).all()


# --- all the noise ------------------------------------------------------------------------------


STREAM = Noise((3, 4)).stream("ddpm")


def ddpm(given: Any) -> DDPM:
    return DDPM(STREAM, given=tuple(given))


def injected(steps: int, *, seed: int = 5) -> tuple[Tensor, ...]:
    return tuple(latents(seed=seed + k) for k in range(steps))


@pytest.mark.parametrize("gradient", [Backprop(), Checkpoint(), Checkpoint(2)], ids=repr)
def test_the_gradient_reaches_every_noise(network: TinyNetwork, gradient: Any) -> None:
    """Exactly: against finite differences in float64, in a random direction of each noise."""
    denoiser, steps = conditioned(network), 4
    noises = [latents(seed=9), *injected(steps - 1)]
    weights = latents(seed=3)

    def value(*each: Tensor) -> Tensor:
        x_0 = sample(denoiser, each[0], steps, solver=ddpm(each[1:]), gradient=gradient)
        return (weights * x_0 + 0.1 * x_0.square()).sum()

    leaves = [noise.clone().requires_grad_() for noise in noises]
    found = torch.autograd.grad(value(*leaves), leaves)
    for i in range(steps):
        along, h = latents(seed=20 + i), 1e-5
        ends = [
            value(*(z + sign * h * along if k == i else z for k, z in enumerate(noises)))
            for sign in (1, -1)
        ]
        wanted = (ends[0] - ends[1]).item() / (2 * h)
        assert abs(wanted) > 1e-4
        assert math.isclose((found[i] * along).sum().item(), wanted, rel_tol=1e-6)


def test_given_noises_are_in_the_place_of_the_streams() -> None:
    """All of them, or those of the first steps alone."""
    denoiser, given = conditioned(TinyNetwork()), [STREAM.normal(k, (2, 4, 4)) for k in range(3)]
    plain = sample(denoiser, latents(), 4, solver=DDPM(STREAM))
    for some in (given, given[:1]):
        assert torch.equal(sample(denoiser, latents(), 4, solver=ddpm(some)), plain)
    others = sample(denoiser, latents(), 4, solver=ddpm(injected(1)))
    assert not torch.allclose(others, plain)
    alone = sample(denoiser.select([1]), latents()[1:], 4, solver=ddpm(given).select([1]))
    torch.testing.assert_close(alone, plain[1:])


@pytest.mark.parametrize("gradient", [Backprop(), Checkpoint()], ids=repr)
def test_a_noise_that_was_changed_in_place_is_refused(gradient: Any) -> None:
    noises = tuple(z.requires_grad_() for z in injected(3))
    x_0 = sample(conditioned(TinyNetwork()), latents(), 4, solver=ddpm(noises), gradient=gradient)
    if isinstance(gradient, Checkpoint):
        with torch.no_grad():
            noises[1].mul_(2)
        with pytest.raises(UserError, match="given 1 was changed in place"):
            x_0.sum().backward()
    else:
        x_0.sum().backward()
        assert all(z.grad is not None for z in noises)


def dno(**changes: Any) -> DNO:
    return DNO(**({"iterations": 3, "steps": 3, "optimiser": Adam(rate=0.1)} | changes))


def test_dno_optimises_every_noise_and_begins_with_ddpms_image() -> None:
    job = task()
    first, *rest = states(dno(noise_terms={}), job)
    solver = DDPM(job.noise.stream("ddpm"))
    plain = sample(job.denoiser, job.x_T, 3, solver=solver)
    torch.testing.assert_close(first.best_latents, plain)
    assert first.x_T.shape == (3, 2, 2, 4, 4)  # x_T, and a noise for each step but the last
    moved = (first.x_T - first.best_x_T).flatten(2).norm(dim=2)
    assert (moved > 0).all()
    assert (rest[-1].best_losses < first.best_losses).all()
    again = sample(job.denoiser, rest[-1].best_x_T[0], 3, solver=ddpm(rest[-1].best_x_T[1:]))
    torch.testing.assert_close(again, rest[-1].best_latents)


def test_without_noise_between_the_steps_it_is_doodl() -> None:
    job = task()
    shared: dict[str, Any] = {"optimiser": Adam(rate=0.1), "clip_norm": None, "iterations": 3}
    mine = states(DNO(eta=0.0, steps=3, noise_terms={}, **shared), job)
    theirs = states(DOODL(steps=3, **FREE, **shared), job)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.x_T[0], other.x_T[0])
        torch.testing.assert_close(one.best_latents, other.best_latents)
    assert torch.equal(mine[-1].x_T[1:], mine[0].x_T[1:])  # no gradient: they stay


def test_dno_clips_the_gradient_of_all_noises_together() -> None:
    """As the public code does, by torch's clip_grad_norm_ on one tensor of all noises; of one image here."""
    job = replace(task((0,)), loss=1e4 * Call(distance))
    still = Momentum(rate=1.0, clip=None, momentum=0.0)
    loop = dno(noise_terms={}, clip_norm=1.0).loop.model_copy(update={"optimiser": still})
    start = loop.start(job)
    moved = loop.advance(job, start).x_T - start.x_T
    torch.testing.assert_close(moved.norm(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)


def test_dnos_terms_see_all_noises_as_one() -> None:
    job = task()
    found = states(dno(noise_terms={"norm": 2.0}, iterations=0), job)[-1]
    flat = torch.cat(
        [job.x_T.flatten(1), *(job.noise.stream("ddpm").normal(k, (32,)) for k in (0, 1))], dim=1
    )
    torch.testing.assert_close(found.terms[0, 1], 2.0 * norm_term(flat), rtol=1e-4, atol=1e-4)


class Halved(StepConstraint):
    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        return 0.5 * x


def test_a_constrained_chain_has_the_gradient_too() -> None:
    from dataclasses import dataclass

    half = dataclass(frozen=True)(Halved)()
    job = replace(task(), constraints=(half,))
    first = next(iter(states(dno(noise_terms={}), job)))
    assert ((first.x_T - first.best_x_T).flatten(2).norm(dim=2) > 0).all()


@pytest.mark.parametrize("kind", [dno(), ReNO(iterations=2, steps=2)], ids=lambda each: each.kind)
def test_each_image_is_optimised_as_if_alone(kind: Any) -> None:
    together, alone = kind(task()), kind(task((1,)))
    torch.testing.assert_close(together.latents[1:], alone.latents, rtol=1e-4, atol=1e-5)
    apart = kind(task().under(Plan(batch_size=1)))
    torch.testing.assert_close(together.latents, apart.latents, rtol=1e-4, atol=1e-5)
