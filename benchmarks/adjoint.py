"""AdjointDPM's continuous adjoint beside the exact gradient, on the bundled model: `python benchmarks/adjoint.py`.

For each solver and number of steps: the gradient of a classifier's loss of the finished image with respect to the
starting noise, the text and one weight of the network, by `Adjoint` and by `Checkpoint` over the same chain, which is
exact. The angle between the two, their relative difference, and what both cost. PairedDenoiser it torchdiffeq's own
`odeint_adjoint` on the same ODE and times, and the ODE with its linear part (eq. 4), the paper's own baseline.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import chainrule
from base import machine, publish, table
from chainrule import RK4, AdamsBashforth, Adjoint, Checkpoint, DPMSolver, Euler, Heun, sample
from chainrule.diffusion.denoiser import Conditioned
from chainrule.diffusion.gradient import Chain, Gradient
from chainrule.losses import Classifier, Loss, load_classifier
from chainrule.memory import LiveBytes
from chainrule.metrics import bootstrap
from chainrule.models import Model
from chainrule.diffusion.ode import Original, Rho, Straight
from chainrule.diffusion.solvers import ODESolver, Solver
from chainrule.diffusion.solvers.base import State

PROMPT = "a red shape on a white background"
STEPS = (5, 10, 20, 31, 50, 100)
BATCH = 4
WEIGHT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True)
class TorchDiffEq(Gradient):
    """`odeint_adjoint` along the chain's times; it too solves y backwards, from its last value alone."""

    solver: ODESolver
    method: str

    def integrate(self, chain: Chain, state: State) -> State:
        from torchdiffeq import odeint_adjoint

        flow, times = self.solver.flow(chain.denoiser), chain.times
        clocks = torch.tensor([flow.clock(t) for t in times], dtype=torch.float64)

        class Slope(nn.Module):
            def forward(self, u: Tensor, y: Tensor) -> Tensor:
                return flow.slope(y, flow.time(u.item()))

        options = {"grid_constructor": lambda func, y, ends: _signed(clocks, ends)}
        last = odeint_adjoint(
            Slope(),
            flow.enter(state[0], times[0]),
            clocks[[0, -1]],
            method=self.method,
            options=options,
            adjoint_params=chain.denoiser.inputs,
        )[-1]
        return (flow.leave(last, times[-1]),)


def _signed(clocks: Tensor, ends: Tensor) -> Tensor:
    """The grid between `ends`: torchdiffeq turns time around where it falls, by its sign."""
    grid = clocks if ends[0].abs() == clocks[0].abs() else clocks.flip(0)
    return grid * (1 if ends[0] == grid[0] else -1)


class Way(NamedTuple):
    """A chain's solver, and the approximate gradient to be compared with the exact one."""

    name: str
    solver: Solver
    gradient: Gradient


AB4 = AdamsBashforth(4, Rho())
WAYS = (
    Way("Euler = DDIM", Euler(Rho()), Adjoint()),
    Way("Heun", Heun(Rho()), Adjoint()),
    Way("RK4", RK4(Rho()), Adjoint()),
    Way("AB2", AdamsBashforth(2, Rho()), Adjoint()),
    Way("AB4", AB4, Adjoint()),
    Way("DPM-ODESolver++(2M), back by AB2", DPMSolver(), Adjoint(AdamsBashforth(2, Rho()))),
    Way("Euler, straight", Euler(Straight()), Adjoint()),
    Way("Heun, straight", Heun(Straight()), Adjoint()),
    Way("plain ODE (eq. 4), Euler", Euler(Original()), Adjoint()),
    Way("plain ODE (eq. 4), Heun", Heun(Original()), Adjoint()),
    Way("torchdiffeq, euler", Euler(Rho()), TorchDiffEq(Euler(Rho()), "euler")),
    Way("torchdiffeq, heun2", Heun(Rho()), TorchDiffEq(Heun(Rho()), "heun2")),
    Way(
        "torchdiffeq, explicit_adams", AdamsBashforth(4, Rho()), TorchDiffEq(AdamsBashforth(4, Rho()), "explicit_adams")
    ),
)


WHEN = (
    "When to choose it: for its gradient, never. `Checkpoint` over the same solver spends as many passes and is exact. "
    "What the adjoint saves is a latent for each step, the last table; it is there to reproduce the paper, and where a "
    "chain is so long, or a latent so large, that not even the latents can be kept. That a wrong gradient may optimise "
    "better is another matter: see 'Guided sampling at equal network calls'."
)


class Passes:
    """Counts the network's calls, forwards and backwards."""

    def __init__(self, model: Model) -> None:
        self.count = 0
        model.network.module.register_forward_hook(self._forwards)  # type: ignore[attr-defined]

    def _forwards(self, module: object, inputs: object, output: tuple[Tensor, ...]) -> None:
        self.count += 1
        if output[0].requires_grad:
            output[0].register_hook(self._backwards)

    def _backwards(self, gradient: Tensor) -> None:
        self.count += 1


class Found(NamedTuple):
    """The gradients of the noise and of the text (B, n) and of the weight (1, n), and the passes that they took."""

    x_T: Tensor
    text: Tensor
    weight: Tensor
    passes: int


@dataclass(frozen=True, eq=False)
class Probe:
    """One loss of one prompt."""

    model: Model
    loss: Loss
    weight: Tensor
    passes: Passes

    def gradients(self, seeds: range, solver: Solver, steps: int, gradient: Gradient) -> Found:
        model, before = self.model, self.passes.count
        x_T = model.noise(seeds).requires_grad_()
        text = model.text([PROMPT])[0].expand(len(seeds), -1, -1).clone().requires_grad_()
        denoiser = Conditioned(model.network, (text,))
        x_0 = sample(denoiser, x_T, model.schedule.times(steps), solver=solver, gradient=gradient)
        total = self.loss(model.decode(x_0)).sum()
        of_x_T, of_text, of_weight = torch.autograd.grad(total, (x_T, text, self.weight))
        return Found(of_x_T.flatten(1), of_text.flatten(1), of_weight.flatten()[None], self.passes.count - before)


def cosine(found: Tensor, exact: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(found.double(), exact.double(), dim=1)


def relative(found: Tensor, exact: Tensor) -> Tensor:
    return (found - exact).norm(dim=1) / exact.norm(dim=1)


class Row(NamedTuple):
    """How far an approximation is from the exact gradient, over all seeds."""

    way: Way
    steps: int
    cosines: dict[str, list[float]]
    errors: list[float]
    passes: tuple[int, int]


def compare(probe: Probe, way: Way, steps: int, seeds: int) -> Row:
    cosines: dict[str, list[float]] = {"x_T": [], "text": [], "weight": []}
    errors: list[float] = []
    for first in range(0, seeds, BATCH):
        batch = range(first, first + BATCH)
        exact, found = (probe.gradients(batch, way.step, steps, one) for one in (Checkpoint(), way.gradient))
        for name, values in cosines.items():
            values += cosine(getattr(found, name), getattr(exact, name)).tolist()
        errors += relative(found.x_T, exact.x_T).tolist()
    return Row(way, steps, cosines, errors, (exact.passes, found.passes))


def median(values: list[float]) -> str:
    middle = torch.tensor(values).nanmedian().item()
    return "not finite" if math.isnan(middle) else f"{middle:.2g}"


def memory(probe: Probe, solver: Solver, steps: int, gradient: Gradient) -> str:
    with LiveBytes() as live:
        probe.gradients(range(1), solver, steps, gradient)
    return f"{live.peak / 2**20:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=16)
    arguments = parser.parse_args()
    model = chainrule.load()
    weight = dict(model.network.module.named_parameters())[WEIGHT].requires_grad_()  # type: ignore[attr-defined]
    probe = Probe(model, Classifier(load_classifier(), "heart"), weight, Passes(model))
    rows = []
    for way in WAYS:
        for steps in STEPS:
            rows.append(compare(probe, way, steps, arguments.seeds))
            print(way.name, steps, *(bootstrap(v) for v in rows[-1].cosines.values()), flush=True)

    def cell(pick: Callable[[Row], object]) -> list[list[object]]:
        found = {(row.way.name, row.steps): pick(row) for row in rows}
        return [[way.name, *(found[way.name, steps] for steps in STEPS)] for way in WAYS]

    header = ["solver", *(f"{steps} steps" for steps in STEPS)]
    kept = [
        [name, *(memory(probe, Euler(Rho()), steps, gradient) for steps in STEPS)]
        for name, gradient in (("Checkpoint", Checkpoint()), ("Adjoint", Adjoint()))
    ]
    text = [
        "## AdjointDPM's adjoint beside the exact gradient",
        f"`python benchmarks/adjoint.py --seeds {arguments.seeds}` on {machine()}. The classifier's loss towards a "
        f"heart, {PROMPT!r}, no guidance, the checkpoint's own times, float32, seeds from 0. Exact is `Checkpoint` "
        "over the same chain. Solvers are on eq. 19 (y = x / alpha, rho) unless they say otherwise. torchdiffeq's "
        "rows run its own chain forwards as well; its explicit_adams takes steps for equal that are not.",
        WHEN,
        "Cosine of the angle between the adjoint's gradient of x_T and the exact one, with 95 % intervals over seeds:",
        table(header, cell(lambda row: bootstrap(row.cosines["x_T"]))),
        "The same of the text's embeddings:",
        table(header, cell(lambda row: bootstrap(row.cosines["text"]))),
        f"The same of one weight of a cross-attention, over batches of {BATCH} images:",
        table(header, cell(lambda row: bootstrap(row.cosines["weight"]))),
        "Relative error of the gradient of x_T, |g - g*| / |g*|, median over seeds:",
        table(header, cell(lambda row: median(row.errors))),
        "Network passes (forwards and backwards), `Checkpoint` / adjoint:",
        table(header, cell(lambda row: " / ".join(map(str, row.passes)))),
        "Most MiB of tensors alive at once, Euler, one image:",
        table(header, kept),
    ]
    publish("adjoint", "\n\n".join(text))


if __name__ == "__main__":
    main()
