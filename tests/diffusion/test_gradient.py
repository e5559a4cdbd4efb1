"""Every exact gradient equals the others and finite differences; calls are counted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from chainrule import (
    DDIM,
    EDICT,
    RK4,
    AdamsBashforth,
    Adaptive,
    Adjoint,
    Backprop,
    Checkpoint,
    DPMSolver,
    Euler,
    Heun,
    Reversible,
    Truncated,
    UserError,
    invert,
    sample,
    sample_state,
)
from chainrule.diffusion.constraints import StepConstraint
from chainrule.diffusion.denoiser import Conditioned, Conditioning
from chainrule.diffusion.gradient import Gradient
from chainrule.diffusion.guidance import ClassifierFree
from chainrule.diffusion.solvers import DDPM, ODESolver, Solver
from chainrule.diffusion.time_grids import log_snr
from chainrule.noise import Noise
from conftest import TinyNetwork, conditioned, latents

TIMES = 5
pytestmark = pytest.mark.filterwarnings(
    "ignore::chainrule.diffusion.solvers.edict.DriftWarning"
)  # 5 steps are few
SOLVERS = [
    Euler(),
    Heun(),
    RK4(),
    AdamsBashforth(2),
    AdamsBashforth(3),
    AdamsBashforth(4),
    Adaptive(),
]
STEPS = [
    DDIM(),
    EDICT(),
    EDICT(turns="printed"),
    EDICT(0.8, "alternating"),
    EDICT(coupling="eps"),
    DPMSolver(),
    *SOLVERS,
]
PAIRS = [
    (solver, gradient)
    for solver in STEPS
    for gradient in (
        Checkpoint(),
        Checkpoint(keep=2),
        Checkpoint(keep=9),
        Reversible(),
        Reversible(every=2),
    )
    if solver.reversible or not isinstance(gradient, Reversible)
]


def objective(x_0: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, x_0.numel(), dtype=x_0.dtype).reshape(x_0.shape)
    return (weights * x_0).sum() + x_0.square().sum()


def gradients(network: TinyNetwork, solver: Solver, gradient: Gradient) -> list[Tensor]:
    """d objective / d (x_T, conditioning, negative conditioning, every weight)."""
    x_T = latents().requires_grad_()
    c = conditioned(network).conditioning[0].requires_grad_()
    negative = conditioned(network, seed=7).conditioning[0].requires_grad_()
    for weight in network.weights:
        weight.requires_grad_()
    denoiser = ClassifierFree(Conditioned(network, (c,)), (negative,), 1.7)
    x_0 = sample(denoiser, x_T, network.schedule.times(TIMES), solver=solver, gradient=gradient)
    return list(torch.autograd.grad(objective(x_0), [x_T, c, negative, *network.weights]))


@pytest.mark.parametrize(("solver", "gradient"), PAIRS, ids=str)
def test_equals_backprop(network: TinyNetwork, solver: Solver, gradient: Gradient) -> None:
    for found, expected in zip(
        gradients(network, solver, gradient), gradients(network, solver, Backprop()), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("solver", [*STEPS[:-1], Adaptive(1e-8, 1e-8)], ids=str)
def test_equals_finite_differences(network: TinyNetwork, solver: Solver) -> None:
    times = network.schedule.times(TIMES)
    weight = network.weights[0]
    original = weight.detach().clone()
    x_T, c = latents(), conditioned(network).conditioning[0]

    def loss(x: Tensor, text: Tensor, w: Tensor) -> Tensor:
        with torch.no_grad():
            weight.copy_(w)
            return objective(sample(Conditioned(network, (text,)), x, times, solver=solver))

    values = [x_T, c, original]
    generator = torch.Generator().manual_seed(3)
    directions = [
        torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values
    ]
    adaptive = isinstance(solver, Adaptive)
    h = 1e-4 if adaptive else 1e-6  # as its inner steps jump with the latents, so does its error
    expected = []
    for k in range(len(values)):
        shifts = [h * direction if i == k else 0.0 for i, direction in enumerate(directions)]
        plus = [value + shift for value, shift in zip(values, shifts, strict=True)]
        minus = [value - shift for value, shift in zip(values, shifts, strict=True)]
        expected.append((loss(*plus) - loss(*minus)) / (2 * h))
    with torch.no_grad():
        weight.copy_(original)
    weight.requires_grad_()
    x_T.requires_grad_()
    c.requires_grad_()
    x_0 = sample(Conditioned(network, (c,)), x_T, times, solver=solver, gradient=Checkpoint())
    found = torch.autograd.grad(objective(x_0), [x_T, c, weight])
    for gradient, direction, number in zip(found, directions, expected, strict=True):
        close = 1e-4 if adaptive else 1e-6
        torch.testing.assert_close((gradient * direction).sum(), number, rtol=close, atol=1e-8)


@pytest.mark.parametrize("gradient", [Checkpoint(), Reversible()], ids=str)
def test_inversion_is_differentiable_too(network: TinyNetwork, gradient: Gradient) -> None:
    times = network.schedule.times(TIMES)

    def found(way: Gradient) -> Tensor:
        x_0 = latents().requires_grad_()
        pair = invert(conditioned(network), x_0, times, solver=EDICT(), gradient=way)
        return torch.autograd.grad(objective(pair[0]) + 2 * objective(pair[1]), x_0)[0]

    torch.testing.assert_close(found(gradient), found(Backprop()), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("solver", "gradient"), [(DDIM(), Checkpoint()), (EDICT(), Reversible())], ids=str
)
def test_backward_accumulates_like_autograd(
    network: TinyNetwork, solver: Solver, gradient: Gradient
) -> None:
    """One graph, two losses of the pair's parts, retained and run again: `.backward()` adds up."""
    x_T = latents().requires_grad_()
    state = sample_state(
        conditioned(network),
        solver.init(x_T),
        network.schedule.times(TIMES),
        solver=solver,
        gradient=gradient,
    )
    first = torch.autograd.grad(objective(state[0]), x_T, retain_graph=True)[0]
    second = torch.autograd.grad(state[-1].sum(), x_T, retain_graph=True)[0]
    objective(state[0]).backward(retain_graph=True)
    state[-1].sum().backward()
    torch.testing.assert_close(x_T.grad, first + second)


@pytest.mark.parametrize(
    ("solver", "gradient", "forward", "total"),
    [
        (DDIM(), Backprop(), 1, 1),
        (DDIM(), Checkpoint(), 1, 2),
        (EDICT(), Backprop(), 2, 2),
        (EDICT(), Checkpoint(), 2, 4),
        (EDICT(), Reversible(), 2, 4),
    ],
    ids=str,
)
def test_network_calls_per_step(
    solver: Solver, gradient: Gradient, forward: int, total: int
) -> None:
    network = TinyNetwork()
    x_T = latents().requires_grad_()
    x_0 = sample(
        conditioned(network), x_T, network.schedule.times(TIMES), solver=solver, gradient=gradient
    )
    assert network.calls == forward * TIMES
    x_0.sum().backward()
    assert network.calls == total * TIMES


def test_kept_graphs_are_not_rebuilt() -> None:
    network = TinyNetwork()
    x_T = latents().requires_grad_()
    times = network.schedule.times(TIMES)
    sample(conditioned(network), x_T, times, gradient=Checkpoint(keep=3)).sum().backward()
    assert network.calls == TIMES + (TIMES - 3)


@pytest.mark.parametrize(
    ("solver", "gradient"), [(DDIM(), Checkpoint()), (EDICT(), Reversible())], ids=str
)
def test_one_input_only_backward_pass_for_each_graph(solver: Solver, gradient: Gradient) -> None:
    """Each rebuilt call is gone through backwards once; no frozen weight gets a gradient."""
    network = TinyNetwork()
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    network.layers[0].register_full_backward_hook(count)
    x_T = latents().requires_grad_()
    times = network.schedule.times(TIMES)
    with _ConvolutionBackward() as masks:
        sample(conditioned(network), x_T, times, solver=solver, gradient=gradient).sum().backward()
    assert passes == solver.calls * TIMES
    assert len(masks.seen) == 2 * passes  # two convolutions in each call
    assert all(mask == [True, False, False] for mask in masks.seen)


class _ConvolutionBackward(torch.utils._python_dispatch.TorchDispatchMode):
    """Which gradients (input, weight, bias) each convolution's backward pass was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append(list(args[-1]))
        return func(*args, **(kwargs or {}))


def test_nothing_is_stored_or_rebuilt_without_need() -> None:
    network = TinyNetwork()
    times = network.schedule.times(TIMES)
    assert not sample(conditioned(network), latents(), times, gradient=Checkpoint()).requires_grad
    with torch.no_grad():
        x_0 = sample(conditioned(network), latents().requires_grad_(), times, gradient=Checkpoint())
    assert not x_0.requires_grad


def test_weights_alone() -> None:
    """x_T needs no gradient: it gets none, and the weights' is right."""
    network = TinyNetwork()
    weight = network.weights[0].requires_grad_()
    times = network.schedule.times(TIMES)
    found, expected = (
        torch.autograd.grad(
            sample(conditioned(network), latents(), times, gradient=way).sum(), weight
        )[0]
        for way in (Checkpoint(), Backprop())
    )
    torch.testing.assert_close(found, expected)


def test_a_chain_that_cannot_be_inverted_is_refused() -> None:
    network = TinyNetwork()
    with pytest.raises(
        UserError, match=r"Reversible cannot differentiate DDIM.*use EDICT\(\), or Checkpoint"
    ):
        sample(
            conditioned(network), latents(), network.schedule.times(TIMES), gradient=Reversible()
        )


def test_reversible_stays_exact_in_a_long_chain_in_float32() -> None:
    """Undone in one go, 150 steps of EDICT multiply rounding by p^-300, a number of ten digits."""
    network = TinyNetwork(dtype=torch.float32)

    def found(way: Gradient) -> Tensor:
        x_T = latents(dtype=torch.float32).requires_grad_()
        denoiser = Conditioned(network, (conditioned(network).conditioning[0].float(),))
        x_0 = sample(denoiser, x_T, network.schedule.times(150), solver=EDICT(), gradient=way)
        return torch.autograd.grad(objective(x_0), x_T)[0]

    exact = found(Backprop())
    torch.testing.assert_close(
        found(Reversible()), exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item()
    )
    with pytest.raises(
        UserError, match=r"step 1 of 150, computed again, is off by .* keep more states"
    ):
        found(Reversible(every=150))


def test_reversible_with_no_step_between_states_is_refused() -> None:
    with pytest.raises(UserError, match="every 0 steps: choose 1 or more"):
        Reversible(every=0)


def test_inputs_are_not_mutated() -> None:
    network = TinyNetwork()
    x_T = latents().requires_grad_()
    before = x_T.detach().clone()
    sample(
        conditioned(network),
        x_T,
        network.schedule.times(TIMES),
        solver=EDICT(),
        gradient=Reversible(),
    ).sum().backward()
    assert torch.equal(x_T, before)


WAYS = pytest.mark.parametrize(
    ("solver", "gradient"),
    [(DDIM(), Checkpoint()), (EDICT(), Checkpoint()), (EDICT(), Reversible())],
    ids=str,
)


@WAYS
def test_one_tensor_conditioned_on_twice_counts_twice_not_four_times(
    solver: Solver, gradient: Gradient
) -> None:
    network = TinyNetwork()
    c = conditioned(network).conditioning[0].requires_grad_()

    def found(way: Gradient) -> Tensor:
        denoiser = ClassifierFree(Conditioned(network, (c,)), (c,), 1.7)
        x_0 = sample(
            denoiser, latents(), network.schedule.times(TIMES), solver=solver, gradient=way
        )
        return torch.autograd.grad(objective(x_0), c)[0]

    torch.testing.assert_close(found(gradient), found(Backprop()), rtol=1e-8, atol=1e-10)


@WAYS
def test_conditioning_computed_from_conditioning(solver: Solver, gradient: Gradient) -> None:
    """Refused where the way through it would be counted twice; exact from a copy."""
    network = TinyNetwork()
    c = conditioned(network).conditioning[0].requires_grad_()

    def found(positive: Tensor, way: Gradient) -> Tensor:
        denoiser = ClassifierFree(Conditioned(network, (positive,)), (0.5 * positive,), 1.7)
        x_0 = sample(
            denoiser, latents(), network.schedule.times(TIMES), solver=solver, gradient=way
        )
        return torch.autograd.grad(objective(x_0), c)[0]

    with pytest.raises(UserError, match="condition on a copy"):
        found(c, gradient)
    copied = ClassifierFree(Conditioned(network, (c.clone(),)), (0.5 * c,), 1.7)
    x_0 = sample(copied, latents(), network.schedule.times(TIMES), solver=solver, gradient=gradient)
    expected = found(c, Backprop())
    torch.testing.assert_close(
        torch.autograd.grad(objective(x_0), c)[0], expected, rtol=1e-8, atol=1e-10
    )


@WAYS
def test_autocast_is_entered_again_for_the_backward_pass(
    solver: Solver, gradient: Gradient
) -> None:
    network = TinyNetwork(dtype=torch.float32)
    weight = network.weights[0].requires_grad_()
    c = conditioned(network).conditioning[0].float()

    def found(way: Gradient) -> tuple[Tensor, ...]:
        x_T = latents(dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x_0 = sample(
                Conditioned(network, (c,)),
                x_T,
                network.schedule.times(TIMES),
                solver=solver,
                gradient=way,
            )
        return torch.autograd.grad(objective(x_0), [x_T, weight])

    (of_x_T, of_weight), (x_T_expected, weight_expected) = found(gradient), found(Backprop())
    close = (
        2e-2 if isinstance(gradient, Reversible) else 1e-5
    )  # going back rounds again in a bfloat16 network
    assert (of_x_T - x_T_expected).norm() <= close * x_T_expected.norm()
    # Backprop sums the steps' gradients of the weight in bfloat16, the others in float32
    assert (of_weight - weight_expected).norm() <= 2e-2 * weight_expected.norm()


# --- truncated, which is approximate ------------------------------------------------------------


class Replayed(TinyNetwork):
    """Answers the first calls as it did once, whatever it is asked."""

    def __init__(self, said: list[Tensor], kept: int) -> None:
        super().__init__()
        self.said, self.kept = said, kept

    def __call__(self, x: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        found = super().__call__(x, t, conditioning)
        if self.kept and self.calls <= self.kept:
            return self.said[self.calls - 1]
        self.said.append(found.detach())
        return found


@pytest.mark.parametrize("keep", [0, 1, 9])
@pytest.mark.parametrize("solver", STEPS[:-1], ids=str)
def test_the_truncated_gradient_is_that_of_a_chain_whose_early_answers_are_held(
    solver: Solver, keep: int
) -> None:
    """By finite differences of x_T and of the conditioning."""
    last, said, at = 2, list[Tensor](), list[int]()
    first = Replayed(said, 0)
    times, c = first.schedule.times(TIMES), conditioned(first).conditioning[0]

    def on_step(done: int, _: int) -> None:
        at.append(first.calls if done == TIMES - last else 0)

    before = sample(Conditioned(first, (c,)), latents(), times, solver=solver, on_step=on_step)

    def loss(x: Tensor, text: Tensor) -> Tensor:
        network = Replayed(said, max(at))
        return objective(sample(Conditioned(network, (text,)), x, times, solver=solver))

    x_T, text = latents().requires_grad_(), c.clone().requires_grad_()
    way = Truncated(last, keep)
    x_0 = sample(Conditioned(TinyNetwork(), (text,)), x_T, times, solver=solver, gradient=way)
    assert torch.equal(x_0, before)  # the picture is that of the whole chain
    found = torch.autograd.grad(objective(x_0), [x_T, text])
    generator = torch.Generator().manual_seed(3)
    for i, value in enumerate((latents(), c)):
        d = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        shifted = [[latents(), c], [latents(), c]]
        for side, sign in zip(shifted, (1, -1), strict=True):
            side[i] = value + sign * 1e-6 * d
        expected = (loss(*shifted[0]) - loss(*shifted[1])) / 2e-6
        torch.testing.assert_close((found[i] * d).sum(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", STEPS, ids=str)
def test_with_all_steps_it_is_exact(network: TinyNetwork, solver: Solver) -> None:
    exact = gradients(network, solver, Checkpoint())
    for last in (TIMES, 99):
        torch.testing.assert_close(gradients(network, solver, Truncated(last)), exact)
    fewer = gradients(network, solver, Truncated(TIMES - 1))
    assert not torch.allclose(fewer[0], exact[0])


def test_a_truncated_gradient_through_an_inversion(network: TinyNetwork) -> None:
    """Whose last steps are those at the noise."""
    times, x_0 = network.schedule.times(TIMES), latents().requires_grad_()

    def found(way: Gradient) -> Tensor:
        (x_T,) = invert(conditioned(network), x_0, times, gradient=way)
        return torch.autograd.grad(objective(x_T), x_0)[0]

    torch.testing.assert_close(found(Truncated(TIMES)), found(Backprop()))
    assert not torch.allclose(found(Truncated(2)), found(Backprop()))


def test_early_steps_of_a_truncated_gradient_are_asked_once_and_every_step_is_told() -> None:
    network, told = TinyNetwork(), list[tuple[int, int]]()
    x_T, times = latents().requires_grad_(), network.schedule.times(TIMES)
    x_0 = sample(
        conditioned(network),
        x_T,
        times,
        gradient=Truncated(2),
        on_step=lambda *step: told.append(step),
    )
    assert told == [(i + 1, TIMES) for i in range(TIMES)]
    x_0.sum().backward()
    assert network.calls == TIMES + 2


def test_steps_after_the_first_know_their_number() -> None:
    """The injected noise of a step is the same whether or not the walk is cut before it."""
    network = TinyNetwork()
    times = network.schedule.times(TIMES)

    def walk(way: Gradient) -> Tensor:
        solver = DDPM(Noise((0, 1)).stream("ddpm"), eta=1.0)
        x_T = latents().requires_grad_()
        return sample(conditioned(network), x_T, times, solver=solver, gradient=way)

    assert torch.equal(walk(Truncated(2)), walk(Backprop()))


@pytest.mark.parametrize("last", [0, -1])
def test_no_steps_to_differentiate_are_refused(last: int) -> None:
    with pytest.raises(UserError, match=rf"the last {last} steps: choose 1 or more"):
        Truncated(last)


# --- AdjointDPM's, which is approximate ---------------------------------------------------------


def errors(solver: Solver, gradient: Gradient, steps: int) -> list[float]:
    """|g - exact| / |exact| of an `Adjoint`: of x_T, the conditioning and the weights."""
    network = TinyNetwork()
    times = log_snr(network.schedule, steps)

    def found(way: Gradient) -> list[Tensor]:
        x_T, c = latents().requires_grad_(), conditioned(network).conditioning[0].requires_grad_()
        for weight in network.weights:
            weight.requires_grad_()
        x_0 = sample(Conditioned(network, (c,)), x_T, times, solver=solver, gradient=way)
        return list(torch.autograd.grad(objective(x_0), [x_T, c, *network.weights]))

    pairs = zip(found(gradient), found(Checkpoint()), strict=True)
    return [((one - other).norm() / other.norm()).item() for one, other in pairs]


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("solver", [*SOLVERS, DDIM(), DPMSolver()], ids=str)
def test_the_adjoint_is_near_the_gradient_of_x_T_conditioning_and_weights(  # noqa: N802
    solver: Solver, reset: bool
) -> None:
    way = Adjoint(reset=reset)
    if isinstance(solver, Adaptive):  # which takes as many steps as it likes
        assert max(errors(solver, way, 10)) < 0.1
        return
    few, many = errors(solver, way, 10), errors(solver, way, 80)
    assert max(many) < min(0.1, 0.3 * max(few))


def test_the_adjoint_of_few_steps_is_declared_inexact() -> None:
    """Euler's, at 10 steps, is wrong by some percent, as `Checkpoint` never is."""
    assert min(errors(Euler(), Adjoint(), 10)) > 1e-3


@pytest.mark.parametrize("solver", [Euler(), DDIM()], ids=str)
def test_the_adjoint_that_keeps_the_latents_is_nearer(solver: Solver) -> None:
    """Of this network's first-order chains of few steps; both come near with many steps."""
    for steps in (5, 10):
        kept, solved = errors(solver, Adjoint(), steps), errors(solver, Adjoint(reset=False), steps)
        assert all(one < other for one, other in zip(kept, solved, strict=True))
    assert max(errors(solver, Adjoint(reset=False), 80)) < 0.1


def test_the_adjoint_keeps_what_it_says() -> None:
    """A latent for each time, or the last one."""
    network = TinyNetwork()
    for reset, count in ((True, TIMES + 1), (False, 1)):
        x_0 = sample(
            conditioned(network),
            latents().requires_grad_(),
            network.schedule.times(TIMES),
            gradient=Adjoint(reset=reset),
        )
        assert len(x_0.grad_fn.visited) == count


def test_the_adjoint_may_go_back_with_another_solver() -> None:
    assert max(errors(Euler(), Adjoint(RK4()), 10)) != max(errors(Euler(), Adjoint(), 10))
    assert max(errors(RK4(), Adjoint(RK4()), 40)) < 1e-3


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    ("solver", "method"), [(Euler(), "euler"), (Heun(), "heun2")], ids=["euler", "heun"]
)
def test_the_adjoint_equals_torchdiffeq(solver: ODESolver, method: str, reset: bool) -> None:
    """On the same ODE, times and method: given all times, or the ends alone."""
    from torchdiffeq import odeint_adjoint

    network = TinyNetwork()
    c = conditioned(network).conditioning[0].requires_grad_()
    weight, times = network.weights[0].requires_grad_(), log_snr(network.schedule, 7)
    flow = solver.flow(Conditioned(network, (c,)))
    clocks = torch.tensor([flow.clock(t) for t in times.tolist()], dtype=torch.float64)

    class Slope(torch.nn.Module):
        def forward(self, u: Tensor, y: Tensor) -> Tensor:
            return flow.slope(y, flow.time(u.item()))

    def grid(func: object, y: object, ends: Tensor) -> Tensor:
        """torchdiffeq counts a falling clock by its negative."""
        along = clocks if ends[0].abs() == clocks[0].abs() else clocks.flip(0)
        return along * (1 if ends[0] == along[0] else -1)

    def found(way: str) -> tuple[Tensor, ...]:
        x_T = latents().requires_grad_()
        if way == "ours":
            x_0 = sample(flow.denoiser, x_T, times, solver=solver, gradient=Adjoint(reset=reset))
        else:
            asked = (
                {"t": clocks}
                if reset
                else {"t": clocks[[0, -1]], "options": {"grid_constructor": grid}}
            )
            y = odeint_adjoint(
                Slope(), flow.enter(x_T, times[0].item()), method=method, adjoint_params=(c, weight), **asked
            )[-1]  # fmt: skip
            x_0 = flow.leave(y, times[-1].item())
        return (x_0, *torch.autograd.grad(objective(x_0), (x_T, c, weight)))

    for one, other in zip(found("ours"), found("theirs"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_the_adjoint_of_an_inversion() -> None:
    network = TinyNetwork()
    times = log_snr(network.schedule, 80)

    def found(way: Gradient) -> Tensor:
        x_0 = latents().requires_grad_()
        (x_T,) = invert(conditioned(network), x_0, times, solver=Heun(), gradient=way)
        return torch.autograd.grad(objective(x_T), x_0)[0]

    exact = found(Checkpoint())
    assert (found(Adjoint()) - exact).norm() < 0.02 * exact.norm()


def test_the_adjoint_calls_the_network_as_often_as_checkpoint() -> None:
    for gradient in (Adjoint(), Checkpoint()):
        network = TinyNetwork()
        x_T = latents().requires_grad_()
        x_0 = sample(
            conditioned(network),
            x_T,
            network.schedule.times(TIMES),
            solver=Euler(),
            gradient=gradient,
        )
        assert network.calls == TIMES
        x_0.sum().backward()
        assert network.calls == 2 * TIMES


def test_the_adjoint_needs_a_single_latent() -> None:
    network = TinyNetwork()
    with pytest.raises(
        UserError, match=r"Adjoint cannot differentiate EDICT.*use Checkpoint\(\), which is exact"
    ):
        sample(
            conditioned(network),
            latents(),
            network.schedule.times(3),
            solver=EDICT(),
            gradient=Adjoint(),
        )


@dataclass(frozen=True)
class Halved(StepConstraint):
    def __call__(self, x: Tensor, s: float, k: int) -> Tensor:
        return x / 2


@pytest.mark.parametrize(
    "solver", [DDPM(Noise((0, 1)).stream("ddpm")), Halved().on(DDIM())], ids=str
)
def test_the_adjoint_refuses_chains_that_are_more_than_an_ode(solver: Solver) -> None:
    """Their state is one latent, but what they do to it is in no ODE."""
    network = TinyNetwork()
    with pytest.raises(UserError, match="is not that of an ODE"):
        sample(
            conditioned(network),
            latents(),
            network.schedule.times(3),
            solver=solver,
            gradient=Adjoint(),
        )


def test_the_adjoint_builds_no_graph_without_need() -> None:
    network = TinyNetwork()
    times = network.schedule.times(TIMES)
    assert not sample(conditioned(network), latents(), times, gradient=Adjoint()).requires_grad
    weight = network.weights[0].requires_grad_()
    x_0 = sample(conditioned(network), latents(), times, gradient=Adjoint())
    (found,) = torch.autograd.grad(x_0.sum(), weight)
    assert found.shape == weight.shape
