"""A rebuilt step is the step that ran: same random numbers, same tensors; nothing is dropped silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chainrule import (
    DDIM,
    EDICT,
    Adaptive,
    Adjoint,
    Backprop,
    Checkpoint,
    Euler,
    Reversible,
    UserError,
    invert,
    sample,
)
from chainrule.diffusion.constraints import Inpaint, NoisedReference
from chainrule.diffusion.denoiser import Conditioned, Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.gradient import Gradient
from chainrule.diffusion.guidance import ClassifierFree, NoiseAware, OneStep, push
from chainrule.diffusion.held import find_tensors
from chainrule.diffusion.solvers import Solver
from chainrule.diffusion.solvers.registry import SOLVERS
from chainrule.noise import Noise
from conftest import TinyNetwork, conditioned, latents

TIMES = 4
pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
REBUILDING: list[Gradient] = [
    Checkpoint(),
    Checkpoint(keep=2),
    Reversible(),
    Reversible(every=2),
    Reversible(every=3),
]
"""Every exact gradient that computes steps again."""
ALL = [*REBUILDING, Adjoint(), Adjoint(reset=False)]


def solver_for(gradient: Gradient) -> Solver:
    return EDICT() if isinstance(gradient, Reversible) else Euler()


def solvers() -> list[Solver]:
    """One of each in the registry, and EDICT in each order."""
    found = [make() for name, make in SOLVERS.known.items() if name != "adaptive"]
    return [*found, Adaptive(30.0, 30.0), EDICT(turns="printed"), EDICT(0.8, "alternating")]


def pairs(gradients: list[Gradient]) -> list[Any]:
    return [
        pytest.param(solver, gradient, id=f"{solver}-{gradient}")
        for solver in solvers()
        for gradient in gradients
        if solver.reversible or not isinstance(gradient, Reversible)
    ]


def objective(x_0: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, x_0.numel(), dtype=x_0.dtype).reshape(x_0.shape)
    return (weights * x_0).sum() + x_0.square().sum()


class Dropping(TinyNetwork):
    """A network in training mode: it draws random numbers in each call, of the steps' states too."""

    def __init__(self, share: float = 0.3) -> None:
        super().__init__()
        self.layers.append(nn.Dropout(share))
        self.layers.append(nn.BatchNorm2d(2, dtype=torch.float64, affine=False))

    def __call__(self, x: Tensor, t: float, conditioning: tuple[Tensor, ...]) -> Tensor:
        self.calls += 1
        first, last, text, drop, norm = self.layers
        h = drop(torch.tanh(first(x) + text(conditioning[0])[:, :, None, None] + t / 1000))
        noise = 0.1 * torch.randn(x.shape, dtype=x.dtype, device=x.device)
        return 0.5 * x + norm(last(h)) + noise * x


# --- random numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "gradient"), pairs(REBUILDING))
def test_a_rebuilt_step_draws_the_random_numbers_of_the_step_that_ran(
    solver: Solver, gradient: Gradient
) -> None:
    def found(way: Gradient) -> tuple[Tensor, ...]:
        network = Dropping()
        weight = network.weights[0].requires_grad_()
        c = conditioned(network).conditioning[0].requires_grad_()
        x_T = latents().requires_grad_()
        torch.manual_seed(3)
        denoiser, times = Conditioned(network, (c,)), network.schedule.times(TIMES)
        x_0 = sample(denoiser, x_T, times, solver=solver, gradient=way)
        torch.rand(17)  # others draw in between
        before = torch.get_rng_state()
        first = torch.autograd.grad(objective(x_0), [x_T, c, weight], retain_graph=True)
        assert torch.equal(torch.get_rng_state(), before)
        again = torch.autograd.grad(objective(x_0), [x_T, c, weight])
        torch.testing.assert_close(again, first, rtol=0, atol=0)
        return x_0.detach(), *first

    for one, other in zip(found(gradient), found(Backprop()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("gradient", REBUILDING, ids=str)
def test_a_device_has_random_numbers_of_its_own(gradient: Gradient) -> None:
    def found(way: Gradient) -> Tensor:
        network = Dropping()
        network.layers.cuda()
        c = conditioned(network).conditioning[0].cuda()
        x_T = latents().cuda().requires_grad_()
        torch.manual_seed(3)
        x_0 = walk(Conditioned(network, (c,)), solver_for(gradient), way, x_T)
        before = torch.cuda.get_rng_state()
        slope = torch.autograd.grad(objective(x_0), x_T)[0]
        assert torch.equal(torch.cuda.get_rng_state(), before)
        return slope

    torch.testing.assert_close(found(gradient), found(Backprop()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", REBUILDING, ids=str)
def test_an_inversion_draws_them_again_too(gradient: Gradient) -> None:
    def found(way: Gradient) -> Tensor:
        network, x_0 = Dropping(), latents().requires_grad_()
        torch.manual_seed(3)
        pair = invert(
            conditioned(network), x_0, network.schedule.times(TIMES), solver=EDICT(), gradient=way
        )
        return torch.autograd.grad(objective(pair[0]) + 2 * objective(pair[1]), x_0)[0]

    torch.testing.assert_close(found(gradient), found(Backprop()), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("reset", [True, False])
def test_the_adjoint_leaves_the_generator_alone_and_repeats_itself(reset: bool) -> None:
    network, x_T = Dropping(), latents().requires_grad_()
    times = network.schedule.times(TIMES)
    x_0 = sample(conditioned(network), x_T, times, gradient=Adjoint(reset=reset))
    before = torch.get_rng_state()
    first, second = (
        torch.autograd.grad(objective(x_0), x_T, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)


def test_the_walk_that_looks_for_the_broken_step_draws_what_was_drawn() -> None:
    """A network that breaks by chance breaks in the same step again, and leaves the generator alone."""

    class Fragile(TinyNetwork):
        broke: int | None = None

        def __call__(self, x: Tensor, t: float, conditioning: tuple[Tensor, ...]) -> Tensor:
            output = super().__call__(x, t, conditioning)
            return output / 0.0 if torch.rand(()) < 0.3 else output

    network = Fragile()
    times = network.schedule.times(9)
    torch.manual_seed(0)
    breaks = next(i for i in range(9) if torch.rand(()) < 0.3) + 1
    assert breaks > 1
    torch.manual_seed(0)
    with pytest.raises(UserError, match=f"after step {breaks} of 9"):
        sample(conditioned(network), latents(), times)
    found = torch.get_rng_state()
    torch.manual_seed(0)
    torch.stack([torch.rand(()) for _ in range(9)])
    assert torch.equal(found, torch.get_rng_state())


# --- tensors -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shifted(WrappedDenoiser):
    """A wrapper with a tensor of its own, that it does not name."""

    denoiser: Denoiser
    shift: Tensor

    def __call__(self, x: Tensor, t: float) -> Prediction:
        prediction = self.denoiser(x, t)
        return Prediction(prediction.x0 + self.shift, prediction.eps + self.shift.sin() * x)


class Closed(WrappedDenoiser):
    """A wrapper whose tensor is hidden where attributes do not lead."""

    hidden: ClassVar[list[Tensor]] = []

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, x: Tensor, t: float) -> Prediction:
        prediction = self.denoiser(x, t)
        return Prediction(prediction.x0, prediction.eps * self.hidden[0])


class Telling(Closed):
    """It says what it reads."""

    @property
    def reads(self) -> dict[str, Tensor]:
        return {**super().reads, "the hidden one": self.hidden[0]}


class BatchNormed(TinyNetwork):
    """Its walk changes buffers in place, and it has one that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.append(nn.BatchNorm2d(2, dtype=torch.float64))
        self.layers.register_buffer("gain", torch.ones((), dtype=torch.float64))

    def __call__(self, x: Tensor, t: float, conditioning: tuple[Tensor, ...]) -> Tensor:
        first, last, text, norm = self.layers
        h = torch.tanh(first(x) + text(conditioning[0])[:, :, None, None])
        return 0.5 * x + self.layers.gain * norm(last(h))


def vector() -> Tensor:
    return torch.tensor([0.3, -0.2], dtype=torch.float64)[:, None, None]


def _network() -> tuple[Denoiser, Solver | None, dict[str, Tensor]]:
    denoiser = conditioned(TinyNetwork())
    named = dict(denoiser.networks[0].named_parameters())
    return denoiser, None, {**named, "conditioning 0": denoiser.conditioning[0]}


def _guided() -> tuple[Denoiser, Solver | None, dict[str, Tensor]]:
    inner = conditioned(TinyNetwork())
    negative = conditioned(TinyNetwork(), seed=7).conditioning
    denoiser = Shifted(ClassifierFree(inner, negative, 1.7), vector())
    return (
        denoiser,
        None,
        {
            "shift": denoiser.shift,
            "negative 0": negative[0],
            "conditioning 0": inner.conditioning[0],
        },
    )


def _constrained() -> tuple[Denoiser, Solver | None, dict[str, Tensor]]:
    denoiser = conditioned(TinyNetwork())
    mask, x_0 = torch.ones(2, 1, 4, 4, dtype=torch.float64), latents(seed=9)
    known = NoisedReference(denoiser.schedule, x_0, Noise((0, 1)).stream("known"))
    solver = Inpaint(mask, known).on(DDIM())
    return denoiser, solver, {"constraint.mask": mask, "constraint.known.x_0": x_0}


def _judged() -> tuple[Denoiser, Solver | None, dict[str, Tensor]]:
    """A loss and a decoder made of a function with a closure, a partial, and a network."""
    target, gain = torch.rand(2, 3, 4, 4, dtype=torch.float64), vector()
    judge = nn.Conv2d(2, 3, 1, dtype=torch.float64).requires_grad_(False)

    def decode(gain: Tensor, x: Tensor) -> Tensor:
        return judge(gain * x)

    def loss(images: Tensor) -> Tensor:
        return (images - target).square().mean(dim=(1, 2, 3))

    denoiser = OneStep(conditioned(TinyNetwork()), partial(decode, gain), loss, 0.1)
    return denoiser, None, {"target": target, "decode 0": gain, "weight": judge.weight}


def _normed() -> tuple[Denoiser, Solver | None, dict[str, Tensor]]:
    network = BatchNormed()
    return (
        conditioned(network),
        None,
        {"gain": network.layers.gain, "3.weight": network.layers[3].weight},
    )


READ = {
    "a network's weights": _network,
    "guidance": _guided,
    "a constraint": _constrained,
    "a loss": _judged,
    "buffers": _normed,
}


def possible(case: str, gradient: Gradient) -> bool:
    """A constrained solver is not reversible, and none for any ODE."""
    return case != "a constraint" or isinstance(gradient, Checkpoint)


def walk(denoiser: Denoiser, solver: Solver | None, gradient: Gradient, x_T: Tensor) -> Tensor:
    times = denoiser.schedule.times(TIMES)
    solver = solver or solver_for(gradient)
    return sample(denoiser, x_T, times, solver=solver, gradient=gradient)


@pytest.mark.parametrize(
    ("case", "gradient"),
    [(case, way) for case in READ for way in ALL if possible(case, way)],
    ids=str,
)
def test_whatever_a_step_reads_must_not_change_before_the_backward_pass(
    case: str, gradient: Gradient
) -> None:
    """Frozen or not, wherever it is held; the message names it."""
    for name in READ[case]()[2]:
        denoiser, solver, held = READ[case]()
        x_T = latents().requires_grad_()
        x_0 = walk(denoiser, solver, gradient, x_T)
        with torch.no_grad():
            held[name].mul_(1.5)
        with pytest.raises(
            UserError, match=r"was changed in place.*after the backward pass"
        ) as error:
            objective(x_0).backward()
        assert str(error.value).startswith(f"{name} "), (name, str(error.value))


@pytest.mark.parametrize(
    ("case", "gradient"),
    [(case, way) for case in READ for way in ALL if possible(case, way)],
    ids=str,
)
def test_what_does_not_change_what_a_step_reads_is_no_matter(case: str, gradient: Gradient) -> None:
    """Two chains in flight, two backward passes, weights that move away and come back."""
    denoiser, solver, _ = READ[case]()
    x_T = latents().requires_grad_()
    first, second = (walk(denoiser, solver, gradient, x_T) for _ in range(2))
    for network in denoiser.networks:
        for weight in network.parameters():
            weight.data = weight.data.clone()  # as a memory plan moves it
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.clone())
    one = torch.autograd.grad(objective(first), x_T, retain_graph=True)[0]
    objective(second).backward()
    other = torch.autograd.grad(objective(first), x_T)[0]
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("gradient", ALL, ids=str)
def test_an_optimiser_may_step_after_the_backward_pass_only(gradient: Gradient) -> None:
    def steps(optimise_first: bool) -> None:
        network = TinyNetwork()
        weights = [weight.requires_grad_() for weight in network.weights]
        optimiser = torch.optim.AdamW(weights)
        for _ in range(2):
            loss = objective(walk(conditioned(network), None, gradient, latents()))
            for weight in weights:
                weight.grad = torch.ones_like(weight) if optimise_first else None
            if optimise_first:
                optimiser.step()
            loss.backward()
            optimiser.step()

    steps(optimise_first=False)
    with pytest.raises(UserError, match=r"0\.weight was changed in place"):
        steps(optimise_first=True)


@pytest.mark.parametrize("gradient", ALL, ids=str)
def test_a_replaced_weight_and_another_mode_are_noticed(gradient: Gradient) -> None:
    def replace(layers: nn.ModuleList) -> None:
        layers[0].weight = nn.Parameter(layers[0].weight.detach() + 1.0, requires_grad=False)

    changes: list[tuple[Callable[[nn.ModuleList], object], str]] = [
        (replace, r"0\.weight was replaced"),
        (lambda layers: layers.eval(), r"a ModuleList was switched by train\(\) or eval\(\)"),
        (lambda layers: layers.to(torch.float32), "was changed in place"),
    ]
    for change, message in changes:
        network = TinyNetwork()
        x_0 = walk(conditioned(network), None, gradient, latents().requires_grad_())
        change(network.layers)
        with pytest.raises(UserError, match=message):
            objective(x_0).backward()


@pytest.mark.parametrize("gradient", ALL, ids=str)
def test_the_starting_latents_must_not_change_either(gradient: Gradient) -> None:
    x_T = latents().requires_grad_()
    x_0 = walk(conditioned(TinyNetwork()), None, gradient, x_T)
    with torch.no_grad():
        x_T.add_(1.0)
    with pytest.raises(UserError, match="starting latent 0 was changed in place"):
        objective(x_0).backward()


@pytest.mark.parametrize("gradient", ALL, ids=str)
def test_a_denoiser_may_declare_what_cannot_be_found(gradient: Gradient) -> None:
    Closed.hidden[:] = [torch.tensor(0.9, dtype=torch.float64)]
    denoiser = Shifted(Telling(conditioned(TinyNetwork())), vector())
    assert "the hidden one" in denoiser.reads
    x_0 = walk(denoiser, None, gradient, latents().requires_grad_())
    Closed.hidden[0].mul_(2.0)
    with pytest.raises(UserError, match="the hidden one was changed in place"):
        objective(x_0).backward()


@given(st.recursive(
    st.sampled_from(["tensor", "number", "word", "network"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    | st.tuples(st.sampled_from(["closure", "partial", "method", "object"]), inner),
    max_leaves=8,
))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_tensor_that_can_be_reached_is_found_once(shape: Any) -> None:
    made: list[Tensor] = []

    class Holder:
        def __init__(self, value: object) -> None:
            self.value = value
            self.me = self  # a circle is no matter

        def call(self) -> object:
            return self.value

    def build(shape: Any) -> Any:
        if shape == "tensor":
            made.append(torch.rand(2))
            return made[-1]
        if shape == "network":
            layer = nn.Linear(2, 2)
            layer.register_buffer("extra", torch.rand(2))
            layer.plain = torch.rand(2)
            made.extend([*layer.parameters(), layer.extra, layer.plain])
            return nn.Sequential(layer, layer)
        if isinstance(shape, tuple):
            inside = build(shape[1])
            if shape[0] == "closure":
                return lambda: inside
            if shape[0] == "partial":
                return partial(print, inside, key=inside)
            return Holder(inside).call if shape[0] == "method" else Holder(inside)
        if isinstance(shape, list):
            return [build(each) for each in shape]
        if isinstance(shape, dict):
            return {key: build(each) for key, each in shape.items()}
        return 1.0 if shape == "number" else "word"

    holder = Holder(build(shape))
    found = list(find_tensors(holder).values())
    assert sorted(map(id, found)) == sorted(map(id, made))


# --- gradients that nobody asks for --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Late(Shifted):
    """It reads its tensor in the middle of the chain only."""

    seen: list[float] = field(default_factory=list)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        return super().__call__(x, t) if 300.0 < t < 700.0 else self.denoiser(x, t)


class Naming(Shifted):
    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (*self.denoiser.inputs, self.shift)


def trainable(kind: str) -> tuple[Denoiser, str]:
    """A denoiser with a trainable tensor that its `inputs` do not name, and the tensor's name."""
    inner, shift = conditioned(TinyNetwork()), nn.Parameter(vector())
    if kind == "wrapper":
        return Shifted(inner, shift), "shift"
    if kind == "middle of the chain":
        return Late(inner, shift), "shift"
    if kind == "closure":
        Closed.hidden[:] = [nn.Parameter(torch.tensor(0.9, dtype=torch.float64))]
        return Closed(inner), r"a tensor of shape \(\)"
    if kind == "computed":
        return Shifted(inner, 2.0 * shift), r"a tensor of shape \(2, 1, 1\)"
    judge = nn.Conv2d(2, 1, 1, dtype=torch.float64)

    def energy(x: Tensor, t: float) -> Tensor:
        return judge(x).square().flatten(1).sum(dim=1)

    return NoiseAware(inner, energy, 0.1), "weight"


KINDS = ("wrapper", "middle of the chain", "closure", "computed", "energy's network")


@pytest.mark.parametrize("gradient", [Checkpoint(), Reversible(), Adjoint()], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trainable_tensor_that_is_not_named_is_an_error(kind: str, gradient: Gradient) -> None:
    denoiser, name = trainable(kind)
    x_0 = walk(denoiser, None, gradient, latents().requires_grad_())
    with pytest.raises(UserError, match=f"{name} requires a gradient and.*return it in `inputs`"):
        objective(x_0).backward()


@pytest.mark.parametrize("kind", KINDS)
def test_backprop_finds_it_by_itself(kind: str) -> None:
    denoiser, _ = trainable(kind)
    objective(walk(denoiser, None, Backprop(), latents().requires_grad_())).backward()


@pytest.mark.parametrize("gradient", REBUILDING, ids=str)
def test_a_named_one_has_its_gradient(gradient: Gradient) -> None:
    """A leaf, and one that is computed."""

    def found(way: Gradient) -> list[Tensor]:
        leaf = nn.Parameter(vector())
        results = []
        for shift in (leaf, leaf.exp()):
            x_0 = walk(
                Naming(conditioned(TinyNetwork()), shift), solver_for(gradient), way, latents()
            )
            results += torch.autograd.grad(objective(x_0), leaf)
        return results

    torch.testing.assert_close(found(gradient), found(Backprop()))


class OwnLeaf(WrappedDenoiser):
    """Guidance that differentiates on its own, from a leaf of its own: nobody misses its gradient."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, x: Tensor, t: float) -> Prediction:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            prediction = self.denoiser(leaf, t)
            (slope,) = torch.autograd.grad(prediction.x0.square().sum(), leaf, retain_graph=True)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return push(self.denoiser(x, t), 0.1 * slope + 0.1 * prediction.eps, alpha, sigma)


@pytest.mark.parametrize("gradient", REBUILDING, ids=str)
def test_a_leaf_that_a_step_makes_for_itself_is_none(gradient: Gradient) -> None:
    def found(way: Gradient) -> Tensor:
        x_T = latents().requires_grad_()
        x_0 = walk(OwnLeaf(conditioned(TinyNetwork())), solver_for(gradient), way, x_T)
        return torch.autograd.grad(objective(x_0), x_T)[0]

    torch.testing.assert_close(found(gradient), found(Backprop()), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("gradient", ALL, ids=str)
def test_what_is_unfrozen_later_is_none(gradient: Gradient) -> None:
    """As with autograd's own graph: at the time of the walk it wanted no gradient."""
    network, x_T = TinyNetwork(), latents().requires_grad_()
    x_0 = walk(conditioned(network), None, gradient, x_T)
    network.layers.requires_grad_()
    objective(x_0).backward()
    assert x_T.grad is not None
    assert all(weight.grad is None for weight in network.weights)


@pytest.mark.parametrize("gradient", ALL, ids=str)
def test_saved_tensors_may_be_moved(gradient: Gradient) -> None:
    """Under `save_on_cpu` autograd hands out copies of what it saved: the gradients are not lost."""

    def found(saving: Any) -> list[Tensor]:
        network = TinyNetwork()
        x_T, weight = latents().requires_grad_(), network.weights[0].requires_grad_()
        with saving:
            x_0 = walk(conditioned(network), None, gradient, x_T)
        return list(torch.autograd.grad(objective(x_0), [x_T, weight]))

    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x.clone())
    torch.testing.assert_close(found(hooks), found(torch.enable_grad()))


# --- second derivatives --------------------------------------------------------------------------

Loss = Callable[[Tensor], Tensor]


def linear(x_0: Tensor) -> Tensor:
    """A loss whose own gradient is constant: what is dropped would not be missed."""
    return (torch.linspace(-1, 1, x_0.numel(), dtype=x_0.dtype).reshape(x_0.shape) * x_0).sum()


def _grad(f: Loss, x: Tensor) -> None:
    torch.autograd.grad(f(x), x, create_graph=True)


def _backward(f: Loss, x: Tensor) -> None:
    f(x).backward(create_graph=True)


def _forward_mode(f: Loss, x: Tensor) -> None:
    with torch.autograd.forward_ad.dual_level():
        f(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


ROUTES: dict[str, Callable[[Loss, Tensor], object]] = {
    "grad(create_graph)": _grad,
    "backward(create_graph)": _backward,
    "forward mode": _forward_mode,
    "func.grad": lambda f, x: torch.func.grad(f)(x),
    "func.vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones((), dtype=x.dtype)),
    "func.jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "func.hessian": lambda f, x: torch.func.hessian(f)(x),
    "hvp": lambda f, x: torch.autograd.functional.hvp(f, x, x.detach()),
    "vhp": lambda f, x: torch.autograd.functional.vhp(f, x, x.detach()),
    "hessian": lambda f, x: torch.autograd.functional.hessian(f, x),
    "functional.jvp": lambda f, x: torch.autograd.functional.jvp(f, x, x.detach()),
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "batched": lambda f, x: torch.autograd.grad(
        f(x), x, torch.ones(2, dtype=x.dtype), is_grads_batched=True
    ),
    "gradgradcheck": lambda f, x: torch.autograd.gradgradcheck(f, x),
}


@pytest.mark.parametrize("loss", [linear, objective])
@pytest.mark.parametrize("gradient", ALL, ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_second_derivatives_and_transforms_are_refused(
    route: str, gradient: Gradient, loss: Loss
) -> None:
    denoiser = conditioned(TinyNetwork())
    with pytest.raises(UserError, match=r"gives first derivatives only.*use gradient=Backprop\(\)"):
        ROUTES[route](lambda x: loss(walk(denoiser, None, gradient, x)), latents().requires_grad_())


@pytest.mark.parametrize("loss", [linear, objective])
@pytest.mark.parametrize("solver", solvers(), ids=str)
def test_backprop_has_second_derivatives(solver: Solver, loss: Loss) -> None:
    """H v against finite differences of the gradient; linear losses too."""
    denoiser = conditioned(TinyNetwork())

    def gradient(x: Tensor, *, again: bool = False) -> Tensor:
        value = loss(walk(denoiser, solver, Backprop(), x))
        return torch.autograd.grad(value, x, create_graph=again)[0]

    x, v = latents().requires_grad_(), latents(seed=4)
    found = torch.autograd.grad((gradient(x, again=True) * v).sum(), x)[0]
    plus, minus = ((x.detach() + h * v).requires_grad_() for h in (1e-5, -1e-5))
    expected = (gradient(plus) - gradient(minus)) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", [Backprop(), *ALL], ids=str)
def test_where_nothing_wants_a_gradient_the_bare_walk_can_be_transformed(
    gradient: Gradient,
) -> None:
    denoiser, x, v = conditioned(TinyNetwork()), latents(), latents(seed=4)
    walked = partial(walk, denoiser, None, gradient)
    _, found = torch.func.jvp(walked, (x.requires_grad_(),), (v,))  # under which x wants none
    x.requires_grad_(False)
    expected = (walked(x + 1e-5 * v) - walked(x - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    starts = torch.stack([x, v]).requires_grad_()
    both = torch.func.vmap(walked)(starts)  # under which neither wants any: an ordinary graph
    each = torch.stack([walked(start) for start in starts])
    torch.testing.assert_close(both, each)
    slopes = (torch.autograd.grad(objective(found), starts)[0] for found in (both, each))
    if not isinstance(gradient, Adjoint):
        torch.testing.assert_close(*slopes)


# --- steps that are other ones when they are computed again --------------------------------------


@dataclass(eq=False)
class Remembering(WrappedDenoiser):
    """It counts its calls, so that a step computed again is another one."""

    denoiser: Denoiser
    calls: int = 0

    def __call__(self, x: Tensor, t: float) -> Prediction:
        self.calls += 1
        found = self.denoiser(x, t)
        return Prediction(found.x0, found.eps * (1 + 0.1 * self.calls))


@dataclass(frozen=True)
class Lying(EDICT):
    """It says that it can be inverted, and cannot."""

    def inverse(self, denoiser: Denoiser, state: Any, k: int, t: float, s: float) -> Any:
        return tuple(1.5 * tensor for tensor in super().inverse(denoiser, state, k, t, s))


def change_by_hook(network: TinyNetwork, x_0: Tensor) -> None:
    network.layers[0].register_forward_hook(lambda module, given, made: -3 * made)


def change_behind(network: TinyNetwork, x_0: Tensor) -> None:
    network.layers[0].weight.data.add_(0.1)


@pytest.mark.parametrize("gradient", REBUILDING, ids=str)
@pytest.mark.parametrize("change", [change_by_hook, change_behind])
def test_what_no_counter_sees_is_seen_in_the_step_computed_again(
    change: Callable[[TinyNetwork, Tensor], None], gradient: Gradient
) -> None:
    network = TinyNetwork()
    x_T = latents().requires_grad_()
    x_0 = walk(conditioned(network), solver_for(gradient), gradient, x_T)
    change(network, x_0)
    with pytest.raises(UserError, match="computed again, is off by"):
        objective(x_0).backward()


@pytest.mark.parametrize("gradient", [Checkpoint(), Reversible()], ids=str)
def test_memory_in_self_is_seen_too(gradient: Gradient) -> None:
    x_T = latents().requires_grad_()
    x_0 = walk(Remembering(conditioned(TinyNetwork())), solver_for(gradient), gradient, x_T)
    with pytest.raises(UserError, match="nothing remembered in `self`"):
        objective(x_0).backward()


@dataclass
class Rounding(WrappedDenoiser):
    """As a kernel of half precision that rounds otherwise where there is a graph."""

    denoiser: Denoiser

    def __call__(self, x: Tensor, t: float) -> Prediction:
        found = self.denoiser(x, t)
        return Prediction(found.x0, found.eps * (1 + 0.02 * torch.is_grad_enabled()))


def convert(denoiser: Conditioned, dtype: torch.dtype) -> Conditioned:
    return Conditioned(denoiser.network, tuple(each.to(dtype) for each in denoiser.conditioning))


@pytest.mark.parametrize("half", ["autocast", "weights", "conditioning", "latents", None], ids=str)
def test_half_precision_may_round_otherwise(half: str | None) -> None:
    """Also where it is the caller's autocast, which is no longer on in the backward pass."""
    low = torch.bfloat16
    network = TinyNetwork(dtype=low if half == "weights" else torch.float32)
    told = convert(conditioned(network), low if half == "conditioning" else torch.float32)
    x_T = latents(dtype=low if half == "latents" else torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=low, enabled=half == "autocast"):
        x_0 = walk(Rounding(told), solver_for(Checkpoint()), Checkpoint(), x_T)
    if half is None:
        with pytest.raises(UserError, match="computed again, is off by"):
            objective(x_0).backward()
    else:
        objective(x_0).backward()
        assert x_T.grad is not None
        assert x_T.grad.isfinite().all()


def test_an_inverse_that_is_none_is_seen() -> None:
    x_T = latents().requires_grad_()
    x_0 = walk(conditioned(TinyNetwork()), Lying(), Reversible(), x_T)
    with pytest.raises(UserError, match="computed again, is off by"):
        objective(x_0).backward()


def test_a_step_without_a_graph_is_said() -> None:
    @dataclass(frozen=True)
    class Cut(Euler):
        def step(self, *rest: Any) -> Any:
            return tuple(tensor.detach() for tensor in super().step(*rest))

    x_T = latents().requires_grad_()
    x_0 = walk(conditioned(TinyNetwork()), Cut(), Checkpoint(), x_T)
    with pytest.raises(UserError, match="has no graph"):
        objective(x_0).backward()
