"""AdjointDPM's continuous adjoint beside the exact gradient: `python benchmarks/adjoint.py`.

On the bundled model. For each solver and number of steps: the gradient of a classifier's loss of
the finished image with respect to the starting noise, the text and one weight of the network, by
`Adjoint` in its two forms (y taken anew at each time from what the chain visited, which is the
default and the paper's public code, or solved backwards from the last latent alone) and by
`Checkpoint` over the same chain, which is exact. The angle between the two, their relative
difference, and what both cost. Beside it torchdiffeq's own `odeint_adjoint` on the same ODE and
times, and the ODE with its linear part (eq. 4), the paper's own baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import chainrule
from base import Options, machine, publish, table
from chainrule import RK4, AdamsBashforth, Adjoint, Checkpoint, DPMSolver, Euler, Heun, sample
from chainrule.diffusion.denoiser import Conditioned
from chainrule.diffusion.gradient import Chain, Gradient
from chainrule.diffusion.ode import Original, Rho, Straight
from chainrule.diffusion.solvers import ODESolver, Solver, State
from chainrule.losses import Classifier, Loss, load_classifier
from chainrule.memory import LiveBytes
from chainrule.metrics import bootstrap
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.runs.passes import Passes

PROMPT = "a red shape on a white background"
STEPS = (5, 10, 20, 31, 50, 100)
BATCH = 4
WEIGHT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True)
class TorchDiffEq(Gradient):
    """`odeint_adjoint` along the chain's times.

    Args:
        solver: Whose ODE it is.
        method: torchdiffeq's name of a solver.
        reset: Give it all times, at each of which it takes y anew, as the paper's public code does;
            otherwise only the ends, and the times as its grid.
    """

    solver: ODESolver
    method: str
    reset: bool = True

    def integrate(self, chain: Chain, state: State) -> State:
        from torchdiffeq import odeint_adjoint

        flow, times = self.solver.flow(chain.denoiser), chain.times
        clocks = torch.tensor([flow.clock(t) for t in times], dtype=torch.float64)

        class Slope(nn.Module):
            def forward(self, u: Tensor, y: Tensor) -> Tensor:
                return flow.slope(y, flow.time(u.item()))

        grid = {"grid_constructor": lambda func, y, ends: _sign_grid(clocks, ends)}
        last = odeint_adjoint(
            Slope(),
            flow.enter(state[0], times[0]),
            clocks if self.reset else clocks[[0, -1]],
            method=self.method,
            options=None if self.reset else grid,
            adjoint_params=chain.denoiser.inputs,
        )[-1]
        return (flow.leave(last, times[-1]),)


def _sign_grid(clocks: Tensor, ends: Tensor) -> Tensor:
    """The grid between `ends`: torchdiffeq turns time around where it falls, by its sign."""
    grid = clocks if ends[0].abs() == clocks[0].abs() else clocks.flip(0)
    return grid * (1 if ends[0] == grid[0] else -1)


class Way(NamedTuple):
    """A chain's solver, and the approximate gradient to be compared with the exact one."""

    name: str
    solver: Solver
    gradient: Gradient


AB2, AB4 = AdamsBashforth(2, Rho()), AdamsBashforth(4, Rho())
EULER, HEUN = Euler(Rho()), Heun(Rho())
ALONE = Adjoint(reset=False)
WAYS = (
    Way("Euler = DDIM", EULER, Adjoint()),
    Way("Euler = DDIM, from the last latent alone", EULER, ALONE),
    Way("Heun", HEUN, Adjoint()),
    Way("Heun, from the last latent alone", HEUN, ALONE),
    Way("RK4", RK4(Rho()), Adjoint()),
    Way("AB2", AB2, Adjoint()),
    Way("AB2, from the last latent alone", AB2, ALONE),
    Way("AB4", AB4, Adjoint()),
    Way("DPM-Solver++(2M), back by AB2", DPMSolver(), Adjoint(AB2)),
    Way("Euler, straight", Euler(Straight()), Adjoint()),
    Way("Heun, straight", Heun(Straight()), Adjoint()),
    Way("plain ODE (eq. 4), Euler", Euler(Original()), Adjoint()),
    Way("plain ODE (eq. 4), Heun", Heun(Original()), Adjoint()),
    Way("torchdiffeq, euler", EULER, TorchDiffEq(EULER, "euler")),
    Way("torchdiffeq, euler, the ends alone", EULER, TorchDiffEq(EULER, "euler", reset=False)),
    Way("torchdiffeq, heun2", HEUN, TorchDiffEq(HEUN, "heun2")),
    Way("torchdiffeq, explicit_adams", AB4, TorchDiffEq(AB4, "explicit_adams")),
)


WHEN = (
    "When to choose it: for its gradient, never. `Checkpoint` over the same solver spends as many "
    "passes, keeps as many latents, and is exact. It is there to reproduce the paper; and "
    "`Adjoint(reset=False)`, which keeps the last latent alone (the last table), where a chain is "
    "so long, or a latent so large, that not even the latents can be kept. That a wrong gradient "
    "may optimise better is another matter: see 'Guided sampling at equal network calls'."
)


class Found(NamedTuple):
    """Gradients, and what they took.

    Args:
        x_T: (B, n), of the noise.
        text: (B, n), of the text.
        weight: (1, n), of the weight.
        passes: The network's calls on the whole batch, forwards and backwards.
    """

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

    def find_gradients(self, seeds: range, solver: Solver, steps: int, gradient: Gradient) -> Found:
        model, before = self.model, self.passes.total
        x_T = model.noise(seeds).requires_grad_()
        text = model.text([PROMPT])[0].expand(len(seeds), -1, -1).clone().requires_grad_()
        denoiser = Conditioned(model.network, (text,))
        times = model.schedule.times(steps)
        x_0 = sample(denoiser, x_T, times, solver=solver, gradient=gradient)
        total = self.loss(model.decode(x_0)).sum()
        found = torch.autograd.grad(total, (x_T, text, self.weight))
        passes = (self.passes.total - before) // len(seeds)
        return Found(found[0].flatten(1), found[1].flatten(1), found[2].flatten()[None], passes)


def find_cosine(found: Tensor, exact: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(found.double(), exact.double(), dim=1)


def find_error(found: Tensor, exact: Tensor) -> Tensor:
    return (found - exact).norm(dim=1) / exact.norm(dim=1)


class Row(NamedTuple):
    """How far an approximation is from the exact gradient, over all seeds."""

    way: Way
    steps: int
    cosines: dict[str, list[float]]
    errors: list[float]
    passes: tuple[int, int]


def compare(probe: Probe, way: Way, steps: int, seeds: int, batch: int) -> Row:
    """The exact and the approximate gradient, `batch` seeds at a time."""
    cosines: dict[str, list[float]] = {"x_T": [], "text": [], "weight": []}
    errors: list[float] = []
    for first in range(0, seeds, batch):
        exact, found = (
            probe.find_gradients(range(first, first + batch), way.solver, steps, one)
            for one in (Checkpoint(), way.gradient)
        )
        for name, values in cosines.items():
            values += find_cosine(getattr(found, name), getattr(exact, name)).tolist()
        errors += find_error(found.x_T, exact.x_T).tolist()
    return Row(way, steps, cosines, errors, (exact.passes, found.passes))


def write_median(values: list[float]) -> str:
    middle = torch.tensor(values).nanmedian().item()
    return "not finite" if math.isnan(middle) else f"{middle:.2g}"


def measure_mib(probe: Probe, solver: Solver, steps: int, gradient: Gradient) -> str:
    with LiveBytes() as live:
        probe.find_gradients(range(1), solver, steps, gradient)
    return f"{live.peak / 2**20:.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--seeds", type=int, default=16, toy=1)
    options.add("--steps", type=int, nargs="+", default=STEPS, toy=[2])
    help_ = "only solvers whose name begins so"
    options.add(
        "--only", nargs="+", default=[""], toy=["Euler =", "DPM", "torchdiffeq"], help=help_
    )
    arguments = options.parse(argv)
    lengths, seeds = arguments.steps, arguments.seeds
    ways = [way for way in WAYS if way.name.startswith(tuple(arguments.only))]
    model, passes = count_passes(chainrule.load())
    weight = dict(model.networks[0].named_parameters())[WEIGHT].requires_grad_()
    probe = Probe(model, Classifier(load_classifier(), "heart"), weight, passes)
    rows = []
    for way in ways:
        for steps in lengths:
            rows.append(compare(probe, way, steps, seeds, min(BATCH, seeds)))
            found = (bootstrap(v) for v in rows[-1].cosines.values())
            print(way.name, steps, *found, flush=True)
    kept = [
        [name, *(measure_mib(probe, EULER, steps, gradient) for steps in lengths)]
        for name, gradient in (
            ("Checkpoint", Checkpoint()),
            ("Adjoint", Adjoint()),
            ("Adjoint, from the last latent alone", ALONE),
        )
    ]
    publish("adjoint", report(rows, kept, lengths, seeds), dry=arguments.dry)


def report(rows: list[Row], kept: list[list[str]], lengths: Sequence[int], seeds: int) -> str:
    """The section's text.

    Args:
        rows: What was found.
        kept: The memory.
        lengths: The numbers of steps.
        seeds: How many there were.
    """
    header = ["solver", *(f"{steps} steps" for steps in lengths)]

    def tabulate(pick: Callable[[Row], object]) -> str:
        found = {(row.way.name, row.steps): pick(row) for row in rows}
        names = dict.fromkeys(row.way.name for row in rows)
        return table(header, [[name, *(found[name, n] for n in lengths)] for name in names])

    text = [
        "## AdjointDPM's adjoint beside the exact gradient",
        f"`python benchmarks/adjoint.py --seeds {seeds}` on {machine()}. The classifier's loss "
        f"towards a heart, {PROMPT!r}, no guidance, the checkpoint's own times, float32, seeds "
        "from 0. Exact is `Checkpoint` over the same chain. Solvers are on eq. 19 (y = x / alpha, "
        "rho) unless they say otherwise. torchdiffeq's rows run its own chain forwards as well; "
        "its explicit_adams takes steps for equal that are not.",
        WHEN,
        "Cosine of the angle between the adjoint's gradient of x_T and the exact one, with 95 % "
        "intervals over seeds:",
        tabulate(lambda row: bootstrap(row.cosines["x_T"])),
        "The same of the text's embeddings:",
        tabulate(lambda row: bootstrap(row.cosines["text"])),
        f"The same of one weight of a cross-attention, over batches of {BATCH} images:",
        tabulate(lambda row: bootstrap(row.cosines["weight"])),
        "Relative error of the gradient of x_T, |g - g*| / |g*|, median over seeds:",
        tabulate(lambda row: write_median(row.errors)),
        "Network passes (forwards and backwards), `Checkpoint` / adjoint:",
        tabulate(lambda row: " / ".join(map(str, row.passes))),
        "Most MiB of tensors alive at once, Euler, one image:",
        table(header, kept),
    ]
    return "\n\n".join(text)


if __name__ == "__main__":
    main()
