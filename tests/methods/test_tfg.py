"""Each of TFG's family makes the update that its own paper prints, written out here by hand.

The network is the exact denoiser of a Gaussian, whose guess has a constant Jacobian G(t), and the
loss a square distance, so that every gradient is known without autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from chainrule import UserError
from chainrule.diffusion.constraints import fill_in
from chainrule.diffusion.schedule import END
from chainrule.diffusion.solvers.ddim import DDIM
from chainrule.diffusion.time_grids import last_steps, repeat_steps
from chainrule.losses import Call
from chainrule.methods import METHODS, TFG, OneStepGuidance, Photo, Task
from chainrule.methods.base import PRESETS, Situation
from chainrule.methods.chains import constrain_to_mask, generate
from chainrule.methods.tfg import FAMILY, Member
from chainrule.models import Codec, Model
from chainrule.noise import Noise
from conftest import Gaussian, TinyNetwork, TinyText, scaled_linear, tiny_model

SHAPE, SEEDS = (3, 2, 2), (4, 9)
SCHEDULE = scaled_linear(final=1.0)
TIMES = torch.tensor([801.0, 601.0, 301.0, 101.0, END], dtype=torch.float64)
MEAN, SPREAD = 0.3, 0.6
TARGET = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, *SHAPE)


class Identity(Codec):
    """Pixels."""

    latent_shape = SHAPE
    factor = 1

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        return latents

    def encode(self, images: Tensor) -> Tensor:
        return images


def square(images: Tensor) -> Tensor:
    return (images - TARGET).square().sum(dim=(1, 2, 3))


def task() -> Task:
    network = TinyNetwork()
    network.schedule = SCHEDULE
    model = Model("closed form", network, Identity(), TinyText(), 1.0, torch.device("cpu"))
    mean = torch.full((1, *SHAPE), MEAN, dtype=torch.float64)
    return Task(model, Gaussian(mean, SPREAD, SCHEDULE), SEEDS, Call(square))


def start() -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(len(SEEDS), *SHAPE, generator=draw, dtype=torch.float64)


def walk(method: TFG) -> Tensor:
    asked = task()
    drawn = generate(
        asked,
        start(),
        len(TIMES) - 1,
        solver=method.solver(asked, TIMES),
        grid=lambda schedule, steps: repeat_steps(TIMES, method.member.recurrences),
    )
    return drawn.latents


# --- the papers' updates, in the papers' notation: A is alpha-bar, a = A_t / A_s = 1 - b ----------


def bar(t: float) -> float:
    return SCHEDULE.alpha(t).item() ** 2


def jacobian(t: float) -> float:
    """d x0 / d x_t."""
    A = bar(t)
    return A**0.5 * SPREAD**2 / (A * SPREAD**2 + 1 - A)


def guess(x: Tensor, t: float) -> Tensor:
    return MEAN + jacobian(t) * (x - bar(t) ** 0.5 * MEAN)


def noise_in(x: Tensor, x0: Tensor, t: float) -> Tensor:
    return (x - bar(t) ** 0.5 * x0) / (1 - bar(t)) ** 0.5


def slope(x0: Tensor) -> Tensor:
    return 2 * (x0 - TARGET)


def ddim(x0: Tensor, eps: Tensor, s: float) -> Tensor:
    return bar(s) ** 0.5 * x0 + (1 - bar(s)) ** 0.5 * eps


def ddpm(x: Tensor, x0: Tensor, t: float, s: float, z: Tensor) -> Tensor:
    """The posterior of x_s given x_t and x0 (Ho et al. 2020, eq. 7), with its smaller variance."""
    A, B, a = bar(t), bar(s), bar(t) / bar(s)
    mean = a**0.5 * (1 - B) / (1 - A) * x + B**0.5 * (1 - a) / (1 - A) * x0
    return mean + ((1 - B) / (1 - A) * (1 - a)) ** 0.5 * z


def draw(k: int, name: str = "ddpm") -> Tensor:
    return Noise(SEEDS).stream(name).normal(k, SHAPE).double()


Step = Callable[[Tensor, float, float, int], Tensor]


def chain(step: Step, recurrences: int = 1) -> Tensor:
    """A step, and its repeats; each move of x_t, up or down, has a number of its own."""
    x, k = start(), 0
    for t, s in zip(TIMES[:-1].tolist(), TIMES[1:].tolist(), strict=True):
        for r in range(recurrences):
            down = step(x, t, s, k)
            k += 1
            if r < recurrences - 1:
                a = bar(t) / bar(s)
                x = a**0.5 * down + (1 - a) ** 0.5 * draw(k)
                k += 1
        x = down
    return x


def one_step(x: Tensor, t: float, s: float, k: int, scale: float = 0.4) -> Tensor:
    """Wallace et al. 2023, section 3.2."""
    sigma = (1 - bar(t)) ** 0.5
    eps = noise_in(x, guess(x, t), t)
    eps = eps + scale * sigma * jacobian(t) * slope(guess(x, t))
    return ddim((x - sigma * eps) / bar(t) ** 0.5, eps, s)


def dps(x: Tensor, t: float, s: float, k: int, zeta: float = 0.3) -> Tensor:
    """Chung et al. 2023, algorithm 1: zeta_i = zeta' / |y - A(x0)|."""
    x0 = guess(x, t)
    distance = (x0 - TARGET).flatten(1).norm(dim=1)[:, None, None, None]
    return ddpm(x, x0, t, s, draw(k)) - zeta / distance * jacobian(t) * slope(x0)


def lgd(x: Tensor, t: float, s: float, k: int) -> Tensor:
    """Song et al. 2023, LGD-MC: the score of the mean of exp(-loss) around the guess."""
    sigma, x0 = (1 - bar(t)) ** 0.5, guess(x, t)
    near = [x0 + 0.5 * sigma * draw(3 * k + i, "tfg/smoothing") for i in range(3)]
    weights = torch.softmax(torch.stack([-square(each) for each in near]), dim=0)
    pull = sum(w[:, None, None, None] * slope(each) for w, each in zip(weights, near, strict=True))
    eps = noise_in(x, x0, t) + 0.7 * sigma * jacobian(t) * pull
    return ddim((x - sigma * eps) / bar(t) ** 0.5, eps, s)


def mpgd(x: Tensor, t: float, s: float, k: int) -> Tensor:
    """He et al. 2024, algorithm 1: the guess alone moves, and the noise is what it was."""
    x0 = guess(x, t)
    return ddim(x0 - 0.2 * slope(x0), noise_in(x, x0, t), s)


def freedom(x: Tensor, t: float, s: float, k: int) -> Tensor:
    """Yu et al. 2023, algorithm 2."""
    x0 = guess(x, t)
    return ddpm(x, x0, t, s, draw(k)) - 0.1 * jacobian(t) * slope(x0)


def universal(x: Tensor, t: float, s: float, k: int) -> Tensor:
    """Bansal et al. 2023, algorithm 1: forward (eq. 6), backward (eq. 7 to 9)."""
    A, x0 = bar(t), guess(x, t)
    eps = noise_in(x, x0, t) + 0.3 * (1 - A) ** 0.5 * jacobian(t) * slope(x0)
    delta = torch.zeros_like(x0)
    for _ in range(3):
        delta = delta - 0.1 * slope(x0 + delta)
    eps = eps - (A / (1 - A)) ** 0.5 * delta
    return ddim((x - (1 - A) ** 0.5 * eps) / A**0.5, eps, s)


def tfg(x: Tensor, t: float, s: float, k: int) -> Tensor:
    """Ye et al. 2024, algorithm 1, with strengths that increase as in its code."""
    pairs = zip(TIMES[:-1].tolist(), TIMES[1:].tolist(), strict=True)
    ratios = [bar(one) / bar(next_) for one, next_ in pairs]
    a = bar(t) / bar(s)
    ramp = a * len(ratios) / sum(ratios)
    x0 = guess(x, t)
    shift = 0.2 * (1 - bar(t)) ** 0.5 * draw(k, "tfg/smoothing")
    delta_t = -0.3 * ramp * jacobian(t) * slope(x0 + shift)
    delta_0 = torch.zeros_like(x0)
    for _ in range(2):
        delta_0 = delta_0 - 0.1 * ramp * slope(x0 + delta_0 + shift)
    plain = ddim(x0, noise_in(x, x0, t), s)
    return plain + delta_t / a**0.5 + bar(s) ** 0.5 * delta_0


PAPERS: Mapping[str, tuple[dict[str, Any], Step]] = {
    "one-step": ({"rho": 0.4}, one_step),
    "dps": ({"rho": 0.3}, dps),
    "lgd": ({"rho": 0.7, "gamma": 0.5, "samples": 3}, lgd),
    "mpgd": ({"mu": 0.2}, mpgd),
    "freedom": ({"rho": 0.1, "recurrences": 3}, freedom),
    "universal": ({"rho": 0.3, "mu": 0.1, "pushes": 3, "recurrences": 2}, universal),
    "tfg": ({"rho": 0.3, "mu": 0.1, "pushes": 2, "gamma": 0.2, "recurrences": 2}, tfg),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_named_member_is_its_papers_update(name: str) -> None:
    settings, step = PAPERS[name]
    method = TFG(like=name, **settings)
    expected = chain(step, method.member.recurrences)
    torch.testing.assert_close(walk(method), expected, rtol=1e-6, atol=1e-6)
    plain = generate(task(), start(), 4, solver=DDIM(), grid=lambda *_: TIMES).latents
    assert (expected - plain).abs().max() > 0.01


def test_every_member_but_our_own_has_a_paper() -> None:
    assert set(FAMILY) - set(PAPERS) == {"gentle", "strong"}


# --- the method -----------------------------------------------------------------------------------


def asked(seeds: tuple[int, ...] = (0, 1), loss: Any = None) -> Task:
    model = tiny_model()
    return Task(model, model.denoiser("a prompt"), seeds, loss or Call(bright), prompts=("a",))


def bright(images: Tensor) -> Tensor:
    return images.square().mean(dim=(1, 2, 3))


def test_one_step_guidance_is_one_of_the_family() -> None:
    for scale in (0.0, 30.0):
        one = OneStepGuidance(scale=scale, steps=4)(asked())
        other = TFG(like="one-step", rho=scale, steps=4)(asked())
        torch.testing.assert_close(one.latents, other.latents, rtol=1e-5, atol=1e-5)
    usual = OneStepGuidance().scale
    assert TFG(like="one-step").member == Member(usual, rho_schedule="variance", fixed="x_t")


@pytest.mark.parametrize("name", FAMILY)
def test_settings_that_are_given_replace_the_members_own(name: str) -> None:
    assert TFG(like=name).member == FAMILY[name]
    changed = TFG(like=name, eta=0.25, recurrences=7).member
    assert (changed.eta, changed.recurrences) == (0.25, 7)
    again = TFG.model_validate_json(TFG(like=name, mu=0.5).model_dump_json())
    assert again == TFG(like=name, mu=0.5)
    assert again.member.mu == 0.5


@pytest.mark.parametrize(
    ("settings", "name", "needed"),
    [
        ({"like": "mpgd", "rho_schedule": "step"}, "rho_schedule", "rho"),
        ({"like": "dps", "mu_schedule": "increasing"}, "mu_schedule", "mu"),
        ({"like": "freedom", "pushes": 3}, "pushes", "mu"),
        ({"like": "universal", "samples": 3}, "samples", "gamma"),
        ({"like": "lgd", "gamma": 0.0, "samples": 3}, "samples", "gamma"),
    ],
)
def test_a_setting_that_acts_through_one_that_is_off_is_refused(
    settings: dict[str, Any], name: str, needed: str
) -> None:
    cause = f"{name} has no effect on tfg without a {needed}: omit it, or give {needed} a value"
    with pytest.raises(UserError, match=cause) as caught:
        TFG(**settings)
    assert caught.value.field == name


@pytest.mark.parametrize("name", FAMILY)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    """Not through what is drawn for smoothing and for repeats, nor through what is normalised."""
    smoothed = {"gamma": 0.5, "samples": 2, "recurrences": 2, "eta": 0.5, "steps": 3}
    method = TFG(like=name, **smoothed)
    both, second = method(asked((5, 6))).latents, method(asked((6,))).latents
    torch.testing.assert_close(both[1:], second, rtol=1e-5, atol=1e-5)
    assert (method(asked((7,))).latents - second).abs().max() > 1e-2


@pytest.mark.parametrize("recurrences", [1, 3])
@pytest.mark.parametrize("name", FAMILY)
def test_the_network_is_asked_once_a_step_and_recurrence(name: str, recurrences: int) -> None:
    """And differentiated as often where rho is on: MPGD needs no backward pass."""
    one = asked((0,))
    network, backward = one.model.network, list[int]()

    def note(module: Any, given: Any, made: Tensor) -> None:
        if made.requires_grad:
            made.register_hook(lambda gradient: backward.append(len(gradient)))

    network.layers[1].register_forward_hook(note)
    network.calls = 0
    method = TFG(like=name, recurrences=recurrences, steps=4)
    with torch.no_grad():
        method(one)
    assert network.calls == 4 * recurrences
    assert len(backward) == (4 * recurrences if method.member.rho else 0)


@pytest.mark.parametrize("name", FAMILY)
def test_the_loss_is_asked_as_often_as_is_said(name: str) -> None:
    judged: list[int] = []

    def loss(images: Tensor) -> Tensor:
        judged.append(len(images))
        return bright(images)

    method = TFG(like=name, steps=4, recurrences=2, gamma=0.1, samples=3)
    one, member = asked((0,), Call(loss)), method.member
    with torch.no_grad():
        method.draw(one)
    each = bool(member.rho) + bool(member.mu) * member.pushes
    assert len(judged) == 4 * 2 * 3 * each


def test_a_photo_is_redone_from_its_noise() -> None:
    one = asked((0,))
    photo = Photo(torch.full((1, 3, 8, 8), 0.7), one.denoiser, (8, 8))
    one = replace(one, photo=photo)
    times = last_steps(one.model.schedule.times(8), 0.25)
    assert len(times) == 3
    near, far = (
        TFG(like="strong", strength=strength, mu=1e-6, steps=8)(one).latents
        for strength in (0.25, 1.0)
    )
    z = one.model.encode(photo.images)
    assert (near - z).norm() < 0.5 * (far - z).norm()
    plain = asked((0,))  # without a photo the whole chain is walked
    drawn = generate(plain, plain.x_T, 8, solver=DDIM()).latents
    torch.testing.assert_close(
        TFG(like="strong", mu=0.0, pushes=None, steps=8)(plain).latents, drawn
    )


@pytest.mark.parametrize("name", FAMILY)
def test_what_a_mask_keeps_is_kept(name: str) -> None:
    one, mask = asked((0,)), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    photo = Photo(torch.rand(1, 3, 8, 8), one.denoiser, (8, 8), mask)
    masked = constrain_to_mask(replace(one, photo=photo))
    made = TFG(like=name, recurrences=2, steps=4)(masked).latents
    z = one.model.encode(fill_in(photo.images, mask))
    torch.testing.assert_close(made[..., 2:], z[..., 2:])
    assert (made[..., :2] - z[..., :2]).abs().max() > 1e-2


def test_one_strength_serves_losses_of_any_scale() -> None:
    one, hundred = (
        TFG(like="strong", steps=3)(asked(loss=Call(lambda images, w=w: w * bright(images))))
        for w in (1.0, 100.0)
    )
    torch.testing.assert_close(one.latents, hundred.latents, rtol=1e-4, atol=1e-4)


def test_presets_name_a_member_and_nothing_that_another_would_keep() -> None:
    """`--preset tuned --method tfg:like=freedom` is FreeDoM, with none of another's strengths."""
    own = {each for each in TFG.model_fields if hasattr(Member(), each)}
    for name in PRESETS:
        assert not own & set(TFG.preset(Situation(name, "classifier")))
    assert METHODS["tfg"] is TFG


def test_no_choice_is_called_as_what_is_not_chosen() -> None:
    """On a command line "none" means the member's own: a choice of that name could not be typed."""
    for field in TFG.model_fields.values():
        choices = [each for part in get_args(field.annotation) for each in get_args(part)]
        assert "none" not in choices
