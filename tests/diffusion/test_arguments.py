"""What `sample` and its siblings are given: the obvious works, anything else is refused in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chainrule import (
    DDIM,
    DDPM,
    EDICT,
    AdamsBashforth,
    Adjoint,
    Backprop,
    Checkpoint,
    Denoiser,
    DPMSolver,
    Heun,
    Prediction,
    Reversible,
    Solver,
    Truncated,
    UserError,
    WrappedDenoiser,
    invert,
    sample,
    sample_state,
)
from chainrule.diffusion.gradient import Gradient
from chainrule.diffusion.gradient.registry import GRADIENTS
from chainrule.diffusion.sampling import trajectory
from chainrule.diffusion.solvers import State
from chainrule.diffusion.solvers.registry import SOLVERS
from conftest import TinyNetwork, conditioned, latents

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
NETWORK = TinyNetwork()
DENOISER = conditioned(NETWORK)
TIMES = NETWORK.schedule.times(3)
CALLS: dict[str, Callable[..., Any]] = {
    "sample": sample,
    "invert": invert,
    "sample_state": sample_state,
    "trajectory": trajectory,
}


# --- what is accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        3,
        np.int64(3),
        TIMES.tolist(),
        tuple(TIMES.tolist()),
        TIMES.numpy(),
        TIMES.float(),
        list(TIMES),
    ],
    ids=lambda times: type(times).__name__,
)
@pytest.mark.parametrize("name", CALLS)
def test_times_in_any_form(name: str, times: Any) -> None:
    found, expected = (CALLS[name](DENOISER, latents(), each) for each in (times, TIMES))
    if isinstance(found, dict):
        assert list(found) == list(expected) == TIMES.tolist()[::-1]
        found, expected = tuple(found.values()), tuple(expected.values())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in SOLVERS.own if name != "adaptive"])
def test_a_solver_by_its_name(name: str) -> None:
    found = sample(DENOISER, latents(), 3, solver=name)
    assert torch.equal(found, sample(DENOISER, latents(), 3, solver=SOLVERS[name]()))


@pytest.mark.parametrize(
    "name", ["DDIM", "Ddim", "DPMSolver", "dpmsolver", "RK4", "AB2", "Heun", "EDICT"]
)
def test_a_solver_by_its_class_s_name_in_any_case(name: str) -> None:
    short = {"dpmsolver": "dpm++"}.get(name.lower(), name.lower())
    found = sample(DENOISER, latents(), 3, solver=name)
    assert torch.equal(found, sample(DENOISER, latents(), 3, solver=short))


@pytest.mark.parametrize("name", GRADIENTS.own)
def test_a_gradient_by_its_name_its_class_or_itself(name: str) -> None:
    kind = GRADIENTS[name]
    solver = EDICT if name == "reversible" else Heun

    def found(gradient: Any) -> Tensor:
        x_T = latents().requires_grad_()
        x_0 = sample(DENOISER, x_T, 3, solver=solver, gradient=gradient)
        return torch.autograd.grad(x_0.square().sum(), x_T)[0]

    expected = found(kind())
    assert torch.equal(found(name), expected)
    assert torch.equal(found(kind), expected)


def test_every_gradient_has_a_name() -> None:
    assert set(GRADIENTS.own.values()) == {Adjoint, Backprop, Checkpoint, Reversible, Truncated}


def test_a_latent_stands_for_the_state_that_starts_there() -> None:
    for solver in (DDIM(), EDICT(), DPMSolver()):
        found = sample_state(DENOISER, latents(), 3, solver=solver)
        expected = sample_state(DENOISER, solver.init(latents()), 3, solver=solver)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("solver", [DDIM(), EDICT(), DPMSolver(), AdamsBashforth(3)], ids=str)
def test_what_invert_returns_leads_back(solver: Solver) -> None:
    state = invert(DENOISER, latents(), 4, solver=solver)
    assert sample_state(DENOISER, state, 4, solver=solver)[0].isfinite().all()
    assert sample_state(DENOISER, list(state), 4, solver=solver)[0].isfinite().all()


# --- what is refused -----------------------------------------------------------------------------

X = latents()
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "swapped": (lambda: sample(X, DENOISER, 3), "a Tensor is not a denoiser: it comes first"),
    "no denoiser": (lambda: sample(None, X, 3), r'not a denoiser: model.denoiser\("a prompt"\) makes one'),
    "a seed for noise": (lambda: sample(DENOISER, 0, 3), r"a int is not latents.*model.noise\(\[0\]\)"),
    "integer noise": (lambda: sample(DENOISER, X.int(), 3), "latents of type int32"),
    "complex noise": (lambda: sample(DENOISER, X.cfloat(), 3), "latents of type complex64"),
    "3-D noise": (lambda: sample(DENOISER, X[0], 3), r"latents of shape \(2, 4, 4\).*give \(B, C, h, w\)"),
    "5-D noise": (lambda: sample(DENOISER, X[None], 3), "latents of shape"),
    "empty noise": (lambda: sample(DENOISER, X[:0], 3), "none of them 0"),
    "sparse noise": (lambda: sample(DENOISER, X.to_sparse(), 3), "an ordinary tensor"),
    "noise elsewhere": (lambda: sample(DENOISER, X.to("meta"), 3), "with numbers"),
    "no steps": (lambda: sample(DENOISER, X, 0), "0 sampling steps are not possible"),
    "too many steps": (lambda: sample(DENOISER, X, 5000), "choose between 1 and 1000"),
    "yes for times": (lambda: sample(DENOISER, X, True), "a bool is not the times of a chain"),
    "a word for times": (lambda: sample(DENOISER, X, "50"), "a str is not the times of a chain"),
    "words": (lambda: sample(DENOISER, X, ["a", "b"]), "a row of finite numbers"),
    "2-D times": (lambda: sample(DENOISER, X, TIMES[None]), r"a tensor of shape \(1, 4\)"),
    "NaN": (lambda: sample(DENOISER, X, [500.0, float("nan"), -1.0]), "finite numbers"),
    "infinity": (lambda: sample(DENOISER, X, [float("inf"), 5.0, -1.0]), "finite numbers"),
    "too late": (lambda: sample(DENOISER, X, [5000.0, 5.0, -1.0]), "the time 5000 is not one of this model.*999"),
    "too early": (lambda: sample(DENOISER, X, [500.0, -3.0]), "the time -3 is not one of this model"),
    "an unknown solver": (lambda: sample(DENOISER, X, 3, solver="huen"), "no solver 'huen': did you mean heun"),
    "a solver with an order": (lambda: sample(DENOISER, X, 3, solver="AdamsBashforth"), "ab2, ab3 or ab4"),
    "a solver with noise": (lambda: sample(DENOISER, X, 3, solver="ddpm"), "DDPM needs the noise .*: give an object"),
    "no solver": (lambda: sample(DENOISER, X, 3, solver=None), r"not a solver: give DDIM\(\), or a name: ddim"),
    "a bare solver": (lambda: sample(DENOISER, X, 3, solver=DDPM), r"DDPM needs settings: make one: DDPM\("),
    "no kind of solver": (lambda: sample(DENOISER, X, 3, solver=Solver), "Solver needs settings"),
    "a gradient for a solver": (lambda: sample(DENOISER, X, 3, solver=Checkpoint()), "a Checkpoint is not a solver"),
    "an unknown gradient": (lambda: sample(DENOISER, X, 3, gradient="chekpoint"), "did you mean checkpoint"),
    "no gradient": (lambda: sample(DENOISER, X, 3, gradient=None), r"not a gradient: give Checkpoint\(\), or a name"),
    "no kind of gradient": (lambda: sample(DENOISER, X, 3, gradient=Gradient), "Gradient needs settings"),
    "Reversible, bare": (lambda: sample(DENOISER, X, 3, gradient=Reversible), r"Reversible cannot.*use EDICT\(\)"),
    "reversible, by name": (lambda: sample(DENOISER, X, 3, gradient="reversible"), "cannot differentiate DDIM"),
    "on_step": (lambda: sample(DENOISER, X, 3, on_step=3), "a int cannot be told of progress"),
    "a state of none": (lambda: sample_state(DENOISER, (), 3), "a state of 0 tensors"),
    "half a pair": (lambda: sample_state(DENOISER, (X,), 3, solver="edict"), "not one of EDICT: start from"),
    "three of a pair": (lambda: sample_state(DENOISER, (X, X, X), 3, solver="edict"), "not one of EDICT"),
    "an odd pair": (lambda: sample_state(DENOISER, (X, X[:1]), 3, solver="edict"), "not one of EDICT"),
    "a pair for one": (lambda: sample_state(DENOISER, (X, X), 3, solver="dpm++"), "not one of DPMSolver"),
    "a state of words": (lambda: sample_state(DENOISER, ("x",), 3), "not a solver's state"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_in_a_sentence(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        call()
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_on_another_device_is_refused() -> None:
    with pytest.raises(UserError, match="the latents are on cuda:0 and the network is on cpu"):
        sample(DENOISER, X.cuda(), 3)


def test_the_network_on_another_device_is_refused() -> None:
    """As above, where there is one device only: a weight that says it is elsewhere."""

    class Elsewhere(torch.nn.Module):
        def parameters(self, recurse: bool = True) -> Any:
            yield type("Weight", (), {"device": torch.device("cuda:0"), "is_meta": False})()

    class Away(TinyNetwork):
        @property
        def networks(self) -> tuple[torch.nn.Module, ...]:
            return (Elsewhere(),)

    for call in CALLS.values():
        with pytest.raises(UserError, match="latents are on cpu and the network is on cuda:0"):
            call(conditioned(Away()), X, 3)


ODD = [
    None, True, 0, 3, -1, 10**30, 2.5, float("nan"), float("inf"), 1j, "", "ddim", "adjoint", "magic", b"x",
    [], [3], [999.0, 1.0], [999.0, float("nan")], ["a"], [None, None], [[1.0]], [10**400, 1], (), (X,), (X, X),
    (X, X.int()), (X, torch.ones(1), X), {}, {"a": 1}, set(), object(), object, int, print, len, range(3), iter([1]),
    lambda *_: None, np.arange(3.0), np.array(3), np.array(["a"]), np.array([1j, 2j]), torch.tensor(3),
    torch.tensor([]), torch.tensor([1j, 0]), torch.tensor([True, False]), torch.ones(2, 2), X, X.int(), X.bool(),
    X.cfloat(), X[0], X[None], X[:0], X * float("nan"), X.to("meta"), X.to_sparse(), X.half(), DENOISER, NETWORK,
    TIMES, TIMES.flip(0), TIMES[None], TIMES.to(torch.int64), TIMES.to("meta"), DDIM(), EDICT, Solver, DDPM, Checkpoint(),
    Reversible(), Gradient, Adjoint, torch.device("cpu"), torch.float32, UserError, UserError("x"),
]  # fmt: skip
"""What somebody may give for something."""


@given(
    name=st.sampled_from(sorted(CALLS)),
    wrong=st.dictionaries(
        st.sampled_from(["denoiser", "latents", "times", "solver", "gradient", "on_step"]),
        st.integers(0, len(ODD) - 1),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=400, deadline=None)
def test_random_arguments_work_or_are_refused(name: str, wrong: dict[str, int]) -> None:
    given_ = {
        "denoiser": DENOISER, "latents": X, "times": 2, "solver": "ddim", "gradient": "checkpoint", "on_step": None,
    }  # fmt: skip
    given_ |= {key: ODD[i] for key, i in wrong.items()}
    denoiser, x, times = (given_.pop(key) for key in ("denoiser", "latents", "times"))
    if name == "trajectory":
        given_.pop("gradient")
    if callable(given_["on_step"]):
        given_["on_step"] = None  # what it does when it is called is its own affair
    with suppress(UserError):
        CALLS[name](denoiser, x, times, **given_)


# --- what others write ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Wrong(WrappedDenoiser):
    denoiser: Denoiser
    change: Callable[[Prediction], Any]

    def __call__(self, x: Tensor, t: float) -> Prediction:
        return self.change(self.denoiser(x, t))  # type: ignore[no-any-return]


WRONG: dict[str, Callable[[Prediction], Any]] = {
    "one image": lambda p: Prediction(p.x0[:1], p.eps),
    "means": lambda p: Prediction(p.x0, p.eps.mean((2, 3), keepdim=True)),
    "a tensor": lambda p: p.eps,
    "nothing": lambda p: None,
    "numbers": lambda p: Prediction(1.0, p.eps),  # type: ignore[arg-type]
    "a pair": lambda p: (p.x0, p.eps),
}
CURE = r"return Prediction\(x0, eps\), both of the latents' shape"


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", SOLVERS.own)
def test_a_denoiser_that_returns_something_else_is_named(name: str, wrong: str) -> None:
    with pytest.raises(UserError, match=rf"Wrong returned .* for latents \(2, 2, 4, 4\): {CURE}"):
        sample(Wrong(DENOISER, WRONG[wrong]), latents(), 3, solver=name)


@dataclass(frozen=True)
class Broken(DDIM):
    change: Callable[[Tensor], Any] = lambda x: (x,)

    def step(self, denoiser: Denoiser, state: State, k: int, t: float, s: float) -> State:
        return self.change(super().step(denoiser, state, k, t, s)[0])  # type: ignore[no-any-return]


BROKEN: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda x: x,
    "nothing": lambda x: None,
    "an empty state": lambda x: (),
    "a mean": lambda x: (x.mean(0, keepdim=True),),
    "numbers": lambda x: (x, 1),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("call", CALLS)
def test_a_solver_that_returns_something_else_is_named(
    call: str, gradient: str, broken: str
) -> None:
    named = {} if call == "trajectory" else {"gradient": gradient}
    with pytest.raises(
        UserError, match=r"a step of Broken returned .*: return a tuple of tensors"
    ) as at:
        CALLS[call](
            DENOISER, latents().requires_grad_(), 3, solver=Broken(change=BROKEN[broken]), **named
        )
    assert at.value.field == "solver"


def test_a_solver_may_remember_what_it_likes() -> None:
    def remember(x: Tensor) -> Any:
        return (x, torch.ones(3), x[:1])

    found = sample(DENOISER, latents(), 3, solver=Broken(change=remember))
    assert torch.equal(found, sample(DENOISER, latents(), 3))


def test_times_that_end_before_the_image_are_said() -> None:
    for part in ([999.0, 500.0, 0.0], TIMES[:-1], TIMES[:-1].tolist()):
        with pytest.warns(UserWarning, match=r"the times end at .*, before the image \(-1\)"):
            sample(DENOISER, latents(), part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for whole in (3, TIMES, [999.0, 0.0, -1.0]):
            sample(DENOISER, latents(), whole)
        sample_state(DENOISER, latents(), TIMES[:-1])
